//! The rules by which a driver reads a wait ctx after a pause.

use std::time::{Duration, Instant};

use super::Status;

/// What the job of a wait ctx waits for, and so what its driver does next: see
/// [`WaitCtx::wants`](super::WaitCtx::wants).
///
/// | status | wait fds that count, or a deadline | the job wants |
/// |---|---|---|
/// | [`Err`](Status::Err) | any | [`Cancel`](Wants::Cancel) |
/// | [`Eagain`](Status::Eagain) | any | [`Again`](Wants::Again) |
/// | any other | yes | [`Watch`](Wants::Watch) |
/// | [`Ok`](Status::Ok) | no | [`Callback`](Wants::Callback) |
/// | any other | no | [`Poll`](Wants::Poll) |
///
/// A driver is the code that resumes the job: a [`Scheduler`](crate::scheduler::Scheduler), a
/// [`JobFuture`](crate::job_future::JobFuture), or a loop of yours. Unless the job wants to be cancelled, a call of the
/// ctx's callback resumes it, and so does a deadline of the ctx that has passed. A driver may also resume a job without
/// a reason, because jobs pause in loops.
///
/// ```
/// use asyncjob::{Status, WaitCtx, WaitKey, Wants};
///
/// let ctx = WaitCtx::new();
/// assert_eq!(ctx.wants(), Wants::Poll); // the ctx says nothing
/// ctx.set_status(Status::Ok);
/// assert_eq!(ctx.wants(), Wants::Callback);
/// ctx.add_wait_fd(WaitKey::unique(), std::io::pipe()?.0);
/// assert_eq!(ctx.wants(), Wants::Watch);
/// ctx.set_status(Status::Err);
/// assert_eq!(ctx.wants(), Wants::Cancel);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// The table restates the manual page of `ASYNC_WAIT_CTX_set_status(3)` ([S29](crate::docs::openssl_behaviour#s29),
/// [S66](crate::docs::openssl_behaviour#s66)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wants {
    /// The engine is broken for this session: cancel the job.
    Cancel,
    /// The engine could not submit its request. Resume the job after the jobs that are ready now. The callback will not
    /// be called.
    Again,
    /// The engine will call the callback. There is nothing else to watch.
    Callback,
    /// Watch the wait fds that count, and the deadline. The callback may be called, too.
    Watch,
    /// Nothing announces when the job can go on. Resume it from time to time, at [growing
    /// intervals](Wants::poll_interval).
    Poll,
}

impl Wants {
    /// Applies the table, for a driver that already knows whether wait fds count.
    #[inline]
    pub fn of(status: Status, has_wait_fds: bool, deadline: Option<Instant>) -> Wants {
        match status {
            Status::Err => Wants::Cancel,
            Status::Eagain => Wants::Again,
            _ if has_wait_fds || deadline.is_some() => Wants::Watch,
            Status::Ok => Wants::Callback,
            Status::Unsupported | Status::Other(_) => Wants::Poll,
        }
    }

    /// How long a driver waits before it resumes a job that wants to be [polled](Wants::Poll) and was polled `polls`
    /// times in vain.
    ///
    /// `None` stands for at once, which is the answer for the first four polls. After these the interval doubles each
    /// time, from 20 microseconds to 10 milliseconds.
    pub fn poll_interval(polls: u32) -> Option<Duration> {
        let doublings = polls.checked_sub(EAGER_POLLS)?;
        let interval = FIRST_INTERVAL.saturating_mul(1 << doublings.min(20));
        Some(interval.min(LONGEST_INTERVAL))
    }
}

/// How many polls follow each other at once.
const EAGER_POLLS: u32 = 4;
/// The first interval that is not zero.
const FIRST_INTERVAL: Duration = Duration::from_micros(20);
/// The longest time between two attempts at something that nothing announces.
pub(crate) const LONGEST_INTERVAL: Duration = Duration::from_millis(10);
