//! The rules by which a driver reads a wait ctx after a pause, in one place.

use std::time::{Duration, Instant};

use super::Status;

/// What the job of a wait ctx waits for, and so what its driver is to do: see [`WaitCtx::wants`](super::WaitCtx::wants).
///
/// A driver is whatever resumes the job: a [`Scheduler`](crate::scheduler::Scheduler), a
/// [`JobFuture`](crate::job_future::JobFuture), a loop of yours. Under every one of these a call of the ctx's callback resumes
/// the job, and a deadline of the ctx that has passed does, too. Resuming without a reason is legal: jobs pause in loops.
///
/// | status | wait fds that count, or a deadline | the job wants |
/// |---|---|---|
/// | [`Err`](Status::Err) | any | [`Cancel`](Wants::Cancel) |
/// | [`Eagain`](Status::Eagain) | any | [`Again`](Wants::Again) |
/// | any other | yes | [`Watch`](Wants::Watch) |
/// | [`Ok`](Status::Ok) | no | [`Callback`](Wants::Callback) |
/// | any other | no | [`Poll`](Wants::Poll) |
///
/// The table restates the manual page of `ASYNC_WAIT_CTX_set_status(3)`
/// ([S29](crate::docs::openssl_behaviour#s29), [S66](crate::docs::openssl_behaviour#s66)).
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wants {
    /// The engine is broken for this session: cancel the job.
    Cancel,
    /// The engine could not submit its request: resume the job after the jobs that are ready now. No callback will come.
    Again,
    /// The callback will be called, and there is nothing else to watch.
    Callback,
    /// Watch the wait fds that count, and the deadline. The callback may be called, too.
    Watch,
    /// Nothing tells when the job can go on: resume it from time to time, at growing intervals.
    Poll,
}

impl Wants {
    /// The table, for a driver that knows already whether wait fds count.
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

    /// How long a driver leaves a job alone that wants to be [polled](Wants::Poll), after it was polled `polls` times in vain.
    ///
    /// `None` is at once, for the first four polls. Then the time doubles from 20 microseconds up to 10 milliseconds.
    pub fn poll_interval(polls: u32) -> Option<Duration> {
        let doublings = polls.checked_sub(EAGER_POLLS)?;
        let interval = FIRST_INTERVAL.saturating_mul(1 << doublings.min(20));
        Some(interval.min(LONGEST_INTERVAL))
    }
}

const EAGER_POLLS: u32 = 4;
const FIRST_INTERVAL: Duration = Duration::from_micros(20);
/// The longest time between two tries of something that nothing announces.
pub(crate) const LONGEST_INTERVAL: Duration = Duration::from_millis(10);
