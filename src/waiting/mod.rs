//! How code waits: inside a job by pausing it, elsewhere by blocking the thread.
//!
//! [`pause_until`] is the one primitive. An engine gives the [waker](WakeSource::waker) of a [`WakeSource`] to the device
//! that will complete its request, and waits until the result is there. [`io`](crate::io), [`time`](crate::time),
//! [`offload`](crate::offload) and [`await_future`] wait in the same way.
//!
//! ```text
//!   in a job: remember the ctx's status, armed key and deadline; set those of this wait
//!      |
//!      +-> ready() ---- Some ----> put back what was there, return the value
//!      |     None
//!      |   deadline passed? -----> put back, Interrupted::TimedOut
//!      |     no
//!      +-- pause_job() -- cancelled --> put back, Interrupted::Cancelled
//!            outside a job, and under block_pause: block the thread instead
//! ```
//!
//! What was there is put back because the ctx is shared with engines that rely on it: a status stays until it is set again
//! ([S65](crate::docs::openssl_behaviour#s65)). A resume without a reason is legal, so the loop asks `ready` each time.

mod future;
mod wake_source;

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Interrupted, PauseError};
use crate::job::{pause_job, with_current_ctx};
use crate::sys::{self, EventFd};
use crate::wait_ctx::{Interest, LONGEST_INTERVAL, Status, WaitCtx, WaitKey, Wants};

pub use crate::error::AwaitError;
pub use future::{await_future, await_or_block};
pub use wake_source::WakeSource;

/// What a wait waits for, and until when: see [`pause_until`].
///
/// | spec | in a job the driver resumes when | elsewhere the thread |
/// |---|---|---|
/// | [`woken_by`](Self::woken_by) | the source's waker is called | parks until the waker is called |
/// | [`fd`](Self::fd) | the wait fd under the key is ready | polls the fd |
/// | [`retry`](Self::retry) | the other ready jobs have run | yields, then sleeps for growing intervals |
/// | [`time`](Self::time) | the deadline has passed | sleeps |
///
/// A driver may resume the job earlier, and resumes it at the deadline at the latest.
#[derive(Clone, Copy, Debug)]
#[must_use = "a spec does nothing until it is waited for"]
pub struct WaitSpec<'a> {
    /// What the driver reads.
    status: Status,
    /// The only-when-armed entry that counts.
    armed: Option<WaitKey>,
    /// The ctx's own deadline, where it is earlier, stays in force.
    deadline: Option<Instant>,
    /// How the thread waits where the job cannot pause.
    blocking: Blocking<'a>,
}

/// How a thread waits.
#[derive(Clone, Copy, Debug)]
enum Blocking<'a> {
    /// It does not: the wait fails.
    Refused,
    /// Until the thread is unparked.
    Park,
    /// Until the fd is ready.
    Poll(BorrowedFd<'a>, Interest),
    /// Until the eventfd of a wake source is written to. The eventfd is drained before each look at what is ready.
    Drain(&'a EventFd),
    /// For a while.
    Retry,
    /// Until the deadline.
    Sleep,
}

impl<'a> WaitSpec<'a> {
    /// Waits for a call of the source's waker.
    pub fn woken_by(source: &'a WakeSource) -> Self {
        source.spec()
    }

    /// Waits for the wait fd under `key`, which the code that waits has added to its job's ctx, to be ready. Where the job
    /// cannot pause, the thread polls `fd` for `interest`.
    pub fn fd<F: AsFd>(key: WaitKey, fd: &'a F, interest: Interest) -> Self {
        Self::polling(Some(key), fd.as_fd(), interest)
    }

    /// Waits for a chance to try again: a queue was full, and nothing will tell when it has room.
    pub fn retry() -> Self {
        Self::by(Status::Eagain, Blocking::Retry)
    }

    /// Waits for the deadline only.
    pub fn time() -> Self {
        Self::by(Status::Unsupported, Blocking::Sleep)
    }

    /// Gives up at `deadline`.
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Waits for `fd`, by the wait fd under `key` if there is a job to have one.
    pub(crate) fn polling(key: Option<WaitKey>, fd: BorrowedFd<'a>, interest: Interest) -> Self {
        WaitSpec {
            armed: key,
            ..Self::by(Status::Unsupported, Blocking::Poll(fd, interest))
        }
    }

    fn by(status: Status, blocking: Blocking<'a>) -> Self {
        WaitSpec {
            status,
            armed: None,
            deadline: None,
            blocking,
        }
    }

    pub(crate) fn until(mut self, deadline: Option<Instant>) -> Self {
        self.deadline = deadline;
        self
    }
}

/// Waits until `ready` gives a value: inside a job by pausing it, where it cannot pause by blocking the thread.
///
/// `ready` is called before the first wait, and after each. It must not pause.
///
/// # Errors
///
/// [`Interrupted::Cancelled`] when the job is to end, and [`Interrupted::TimedOut`] when the deadline of the spec, or one
/// around the call ([`time::with_deadline`](crate::time::with_deadline)), has passed and `ready` still gives nothing.
///
/// ```
/// use asyncjob::waiting::{WaitSpec, WakeSource, pause_until};
/// use std::sync::mpsc;
///
/// // Synchronous code, in a job or not: a thread does the work, and the caller waits.
/// fn slowly_doubled(number: u64) -> std::io::Result<u64> {
///     let wake = WakeSource::new()?;
///     let (waker, (reply, result)) = (wake.waker().clone(), mpsc::channel());
///     std::thread::spawn(move || {
///         reply.send(2 * number).unwrap();
///         waker.wake();
///     });
///     Ok(pause_until(WaitSpec::woken_by(&wake), || result.try_recv().ok())?)
/// }
///
/// assert_eq!(slowly_doubled(4)?, 8); // blocks this thread
///
/// let scheduler = asyncjob::scheduler::Scheduler::new()?;
/// let job = scheduler.spawn(|| slowly_doubled(21))?; // pauses its job
/// assert_eq!(scheduler.run_until(job)??, 42);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
pub fn pause_until<T>(spec: WaitSpec<'_>, ready: impl FnMut() -> Option<T>) -> Result<T, Interrupted> {
    match wait(spec, ready) {
        Ok(value) => Ok(value),
        Err(Stop::Interrupted(interrupted)) => Err(interrupted),
        Err(Stop::CannotPause) => unreachable!("the specs that a caller can make say how to block"),
    }
}

/// Why a wait has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Interrupted(Interrupted),
    /// The job cannot pause, and the spec does not say how to block.
    CannotPause,
}

fn wait<T>(spec: WaitSpec<'_>, mut ready: impl FnMut() -> Option<T>) -> Result<T, Stop> {
    let in_job = with_current_ctx(|ctx| {
        let scope = WaitScope::new(ctx, &spec);
        wait_until(scope.deadline, spec.blocking, &mut ready)
    });
    in_job.unwrap_or_else(|| {
        let deadline = earlier(THREAD_DEADLINE.get(), spec.deadline);
        wait_until(deadline, spec.blocking, &mut ready)
    })
}

fn wait_until<T>(
    deadline: Option<Instant>,
    blocking: Blocking<'_>,
    ready: &mut impl FnMut() -> Option<T>,
) -> Result<T, Stop> {
    let mut waits = 0;
    loop {
        if let Blocking::Drain(eventfd) = blocking {
            eventfd.drain(); // before the look: a wake that comes after it is kept
        }
        if let Some(value) = ready() {
            return Ok(value);
        }
        if deadline.is_some_and(|at| at <= Instant::now()) {
            return Err(Stop::Interrupted(Interrupted::TimedOut));
        }
        match pause_job() {
            Ok(()) => {}
            Err(PauseError::Cancelled) => return Err(Stop::Interrupted(Interrupted::Cancelled)),
            Err(_) => block(blocking, deadline, waits)?,
        }
        waits = waits.saturating_add(1);
    }
}

/// Blocks the thread once, until something may have happened or the deadline has passed.
#[cold]
fn block(blocking: Blocking<'_>, deadline: Option<Instant>, times_before: u32) -> Result<(), Stop> {
    let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
    match blocking {
        Blocking::Refused => return Err(Stop::CannotPause),
        Blocking::Park => match left {
            Some(left) => thread::park_timeout(left),
            None => thread::park(),
        },
        Blocking::Poll(fd, interest) => poll(fd, interest, left),
        Blocking::Drain(eventfd) => poll(eventfd.as_fd(), Interest::Readable, left),
        Blocking::Retry => match Wants::poll_interval(times_before) {
            None => thread::yield_now(),
            Some(interval) => thread::sleep(interval.min(left.unwrap_or(interval))),
        },
        Blocking::Sleep => thread::sleep(left.unwrap_or(Duration::MAX)),
    }
    Ok(())
}

/// Blocks in `poll(2)`.
fn poll(fd: BorrowedFd<'_>, interest: Interest, left: Option<Duration>) {
    if sys::poll_one(fd, interest.is_readable(), interest.is_writable(), left).is_err() {
        // The system is out of memory for the call. The operation itself is tried again, after a while.
        thread::sleep(LONGEST_INTERVAL.min(left.unwrap_or(LONGEST_INTERVAL)));
    }
}

/// A spec, in force in a ctx until this is dropped.
struct WaitScope<'a> {
    ctx: &'a WaitCtx,
    /// The earlier one of the spec and the ctx.
    deadline: Option<Instant>,
    status_before: Status,
    armed_before: Option<WaitKey>,
    deadline_before: Option<Instant>,
}

impl<'a> WaitScope<'a> {
    fn new(ctx: &'a WaitCtx, spec: &WaitSpec<'_>) -> Self {
        let (status_before, deadline_before) = (ctx.status(), ctx.deadline());
        let armed_before = ctx.arm(spec.armed);
        let deadline = earlier(deadline_before, spec.deadline);
        // A wait for time without a deadline is a wait for a cancel. A driver would poll a job that waits for nothing, so this
        // one says that a callback will come.
        let is_endless = matches!(spec.blocking, Blocking::Sleep) && deadline.is_none();
        ctx.set_status(if is_endless { Status::Ok } else { spec.status });
        if deadline != deadline_before {
            ctx.set_deadline(deadline);
        }
        WaitScope {
            ctx,
            deadline,
            status_before,
            armed_before,
            deadline_before,
        }
    }
}

impl Drop for WaitScope<'_> {
    fn drop(&mut self) {
        self.ctx.set_status(self.status_before);
        self.ctx.arm(self.armed_before);
        if self.deadline != self.deadline_before {
            self.ctx.set_deadline(self.deadline_before);
        }
    }
}

/// The earlier of two deadlines, where `None` is never.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

thread_local! {
    /// The deadline of code outside any job. A job's deadline stands in its ctx, where the other jobs of the thread do not
    /// see it.
    static THREAD_DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The deadline in force for the code that asks: of its job, or outside a job of its thread.
pub(crate) fn current_deadline() -> Option<Instant> {
    with_current_ctx(WaitCtx::deadline).unwrap_or_else(|| THREAD_DEADLINE.get())
}

/// Sets the deadline of this thread's code outside any job.
pub(crate) fn set_thread_deadline(deadline: Option<Instant>) {
    THREAD_DEADLINE.set(deadline);
}
