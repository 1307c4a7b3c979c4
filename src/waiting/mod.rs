//! How code waits: inside a job by pausing it, elsewhere by blocking the thread.
//!
//! [`pause_until`] is the one primitive. An engine gives the [waker](WakeSource::waker) of a [`WakeSource`] to the
//! device that will complete its request, and waits until the result is there. [`io`](crate::io),
//! [`time`](crate::time), [`offload`](crate::offload) and [`await_future`] wait in the same way.
//!
//! ```text
//!   pause_until(spec, ready)
//!      |
//!      |  in a job: keep the ctx's status, armed key and deadline, and set those of the spec
//!      |
//!      +-> ready() ------------ Some(value) --->  Ok(value)
//!      |     | None
//!      |   deadline passed? --- yes ----------->  Err(Interrupted::TimedOut)
//!      |     | no
//!      |   pause_job() -------- cancelled ----->  Err(Interrupted::Cancelled)
//!      |     |        '-------- cannot pause -->  block the thread once, as the spec says
//!      |     | resumed                              |
//!      '-----+--------------------------------------'
//!
//!   at every way out: give the ctx back what was kept
//! ```
//!
//! The status, the armed key and the deadline of the ctx are put back because engines share the ctx and rely on it: a
//! status stays until it is set again ([S65](crate::docs::openssl_behaviour#s65)). A driver may resume a job without a
//! reason, so the loop calls `ready` after every pause.

mod future;
mod unpark;
mod wake_source;

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Interrupted, PauseError};
use crate::job::{
    ThisJob, budget, can_pause, is_cancelled, pause_job, pauses_in, report_forbidden_pause, with_current_ctx,
    with_this_job,
};
use crate::sys::{self, Notifier};
use crate::wait_ctx::{BeforeWait, Interest, LONGEST_INTERVAL, Status, WaitCtx, WaitKey, Wants};

pub use crate::error::AwaitError;
pub use future::{await_future, await_or_block};
use unpark::Unpark;
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
/// A driver may resume the job earlier. It resumes the job at the deadline at the latest.
#[derive(Clone, Copy, Debug)]
#[must_use = "a spec does nothing until it is waited for"]
pub struct WaitSpec<'a> {
    /// The status that the ctx has during the wait.
    status: Status,
    /// The only-when-armed entry that counts during the wait.
    armed: Option<WaitKey>,
    /// The deadline of the wait. If the ctx has an earlier one, that stays in force.
    deadline: Option<Instant>,
    /// How the thread waits where the job cannot pause.
    blocking: Blocking<'a>,
}

/// How a thread waits where the code cannot pause.
#[derive(Clone, Copy, Debug)]
enum Blocking<'a> {
    /// The thread does not wait: the wait fails.
    Refused,
    /// The thread parks until it is woken. The code does not pause, even if it could: the wake reaches the thread only.
    Park(&'a Unpark),
    /// The thread polls the fd.
    Poll(BorrowedFd<'a>, Interest),
    /// The thread polls the notifier of a wake source. The notifier is drained before each call of `ready`.
    Drain(&'a Notifier),
    /// The thread yields a few times, and then sleeps for growing intervals.
    Retry,
    /// The thread sleeps until the deadline.
    Sleep,
}

impl<'a> WaitSpec<'a> {
    /// Waits until the source's waker is called.
    ///
    /// # Panics
    ///
    /// In another job than the one that made the source, and in a job if the source was made outside. The wakes go
    /// where the source was made, so the wait would not end.
    pub fn woken_by(source: &'a WakeSource) -> Self {
        source.spec()
    }

    /// Waits until the wait fd under `key` is ready.
    ///
    /// The code that waits must have added `fd` to its job's ctx under `key` before. Where the job cannot pause, the
    /// thread polls `fd` for `interest`.
    pub fn fd<F: AsFd>(key: WaitKey, fd: &'a F, interest: Interest) -> Self {
        Self::polling(Some(key), fd.as_fd(), interest)
    }

    /// Waits for a chance to try again, when a queue was full and nothing announces that it has capacity.
    pub fn retry() -> Self {
        Self::by(Status::Eagain, Blocking::Retry)
    }

    /// Waits for the deadline only. Without a deadline, the wait ends when `ready` gives a value after a resume, or
    /// when the job is cancelled.
    pub fn time() -> Self {
        Self::by(Status::Unsupported, Blocking::Sleep)
    }

    /// Lets the wait fail with [`Interrupted::TimedOut`] at `deadline`. The default is no deadline.
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Waits for `fd`. In a job, `key` names the wait fd for it; outside there is no key.
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

/// Waits until `ready` gives a value, and returns the value. Inside a job the wait pauses the job. Where the code
/// cannot pause, the wait blocks the thread.
///
/// `ready` is called before the first pause, and after each pause. If `ready` itself pauses the job, it is called once
/// more before the next pause, because a wake may have come meanwhile.
///
/// # Errors
///
/// * [`Interrupted::Cancelled`]: the job is to end.
/// * [`Interrupted::TimedOut`]: a deadline has passed, and `ready` still gives nothing. The deadline is that of the
///   spec, or that of a [`with_deadline`](crate::time::with_deadline) around the call, whichever is earlier.
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
        Err(Stop::CannotPause) => unreachable!("each spec that a caller can make says how to block"),
    }
}

/// Lets the other jobs run if this one has used up its [budget](budget). What need not wait succeeds in a cancelled job
/// and after a deadline as well, so this reports neither.
#[inline]
pub(crate) fn give_way() {
    with_this_job(give_way_of);
}

/// As [`give_way`], of the job that runs this code.
#[inline]
fn give_way_of(job: ThisJob<'_>) {
    if budget::spend(job) {
        pause_for_others();
    }
}

#[cold]
fn pause_for_others() {
    if can_pause() && !is_cancelled() {
        with_current_ctx(|ctx| {
            let (_, _scope) = WaitScope::new(ctx, &WaitSpec::retry());
            let _ = pause_job();
        });
    }
}

/// Why a wait ended without a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Interrupted(Interrupted),
    /// The code cannot pause here, and the spec does not say how to block.
    CannotPause,
}

/// Waits as [`pause_until`] does, also for the specs that fail where the code cannot pause.
fn wait<T>(spec: WaitSpec<'_>, mut ready: impl FnMut() -> Option<T>) -> Result<T, Stop> {
    let in_job = with_this_job(|job| wait_in(job, &spec, &mut ready));
    in_job.unwrap_or_else(|| {
        let deadline = earlier(THREAD_DEADLINE.get(), spec.deadline);
        wait_until(None, deadline, &spec, ready)
    })
}

/// Waits inside the job that runs this code.
#[inline(always)] // the wait for a future has one spec, which says what the loop need not ask
fn wait_in<T>(job: ThisJob<'_>, spec: &WaitSpec<'_>, ready: impl FnMut() -> Option<T>) -> Result<T, Stop> {
    give_way_of(job);
    let (deadline, _scope) = WaitScope::new(job.wait_ctx(), spec);
    wait_until(Some(job), deadline, spec, ready)
}

/// The loop of a wait, which is drawn in the documentation of the module.
///
/// `job` is the one that runs this code, if there is one.
#[inline(always)] // as `wait_in`
fn wait_until<T>(
    job: Option<ThisJob<'_>>,
    deadline: Option<Instant>,
    spec: &WaitSpec<'_>,
    mut ready: impl FnMut() -> Option<T>,
) -> Result<T, Stop> {
    let blocking = spec.blocking;
    let mut blocks = 0;
    loop {
        if let Blocking::Drain(notifier) = blocking {
            notifier.drain(); // before `ready`: a wake that comes after the drain is kept
        }
        // A pause takes every wake of the callback that came before its end. If `ready` itself pauses, as the poll of a
        // handshake does in which a key signs, the wake for this wait may be among them.
        let (value, may_have_taken_wake) = match (spec.status, job) {
            (Status::Ok, Some(job)) => pauses_in(job, &mut ready),
            _ => (ready(), false),
        };
        if let Some(value) = value {
            return Ok(value);
        }
        if deadline.is_some_and(|at| at <= Instant::now()) {
            return Err(Stop::Interrupted(Interrupted::TimedOut));
        }
        if may_have_taken_wake {
            continue;
        }
        let pause = match blocking {
            Blocking::Park(_) if is_cancelled() => Err(PauseError::Cancelled),
            Blocking::Park(_) => {
                report_forbidden_pause();
                Err(PauseError::Blocked)
            }
            _ => pause_job(),
        };
        match pause {
            Ok(()) => budget::refill(),
            Err(PauseError::Cancelled) => return Err(Stop::Interrupted(Interrupted::Cancelled)),
            Err(_) => {
                block(blocking, deadline, blocks)?;
                blocks = blocks.saturating_add(1);
            }
        }
    }
}

/// Blocks the thread once, until something may have happened or the deadline has passed.
#[cold]
fn block(blocking: Blocking<'_>, deadline: Option<Instant>, times_before: u32) -> Result<(), Stop> {
    let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
    match blocking {
        Blocking::Refused => return Err(Stop::CannotPause),
        Blocking::Park(unpark) => unpark.park(left),
        Blocking::Poll(fd, interest) => poll(fd, interest, left),
        Blocking::Drain(notifier) => poll(notifier.as_fd(), Interest::Readable, left),
        Blocking::Retry => match Wants::poll_interval(times_before) {
            None => thread::yield_now(),
            Some(interval) => thread::sleep(interval.min(left.unwrap_or(interval))),
        },
        Blocking::Sleep => thread::sleep(left.unwrap_or(Duration::MAX)),
    }
    Ok(())
}

/// Blocks the thread in `poll(2)`.
fn poll(fd: BorrowedFd<'_>, interest: Interest, left: Option<Duration>) {
    if sys::poll_one(fd, interest.is_readable(), interest.is_writable(), left).is_err() {
        // The system has no memory for the call. The caller tries its operation again after a while.
        thread::sleep(LONGEST_INTERVAL.min(left.unwrap_or(LONGEST_INTERVAL)));
    }
}

/// Puts a spec into force in a ctx. The drop puts back what the ctx had before.
struct WaitScope<'a> {
    ctx: &'a WaitCtx,
    before: BeforeWait,
    /// What the ctx had, if the wait has an earlier one.
    deadline_before: Option<Option<Instant>>,
}

impl<'a> WaitScope<'a> {
    /// Also returns the deadline of the wait: the earlier one of the spec's and the ctx's.
    #[inline(always)] // most of it depends on the spec, which nearly every caller knows
    fn new(ctx: &'a WaitCtx, spec: &WaitSpec<'_>) -> (Option<Instant>, Self) {
        let deadline_before = ctx.deadline();
        let deadline = earlier(deadline_before, spec.deadline);
        // A wait for time without a deadline ends by a cancel only. A driver would poll a job that waits for nothing,
        // so the status says that the callback will be called.
        let is_endless = matches!(spec.blocking, Blocking::Sleep) && deadline.is_none();
        let before = ctx.begin_wait(if is_endless { Status::Ok } else { spec.status }, spec.armed);
        let is_other = deadline != deadline_before;
        if is_other {
            ctx.set_deadline(deadline);
        }
        let scope = WaitScope {
            ctx,
            before,
            deadline_before: is_other.then_some(deadline_before),
        };
        (deadline, scope)
    }
}

impl Drop for WaitScope<'_> {
    #[inline]
    fn drop(&mut self) {
        self.ctx.end_wait(&self.before);
        if let Some(before) = self.deadline_before {
            self.ctx.set_deadline(before);
        }
    }
}

/// The earlier one of two deadlines. `None` stands for never.
#[inline]
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

thread_local! {
    /// The deadline of the code outside jobs. A job's deadline is in its ctx, where the other jobs of the thread do not
    /// see it.
    static THREAD_DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The deadline that is in force for the caller: that of its job, or outside a job that of its thread.
pub(crate) fn current_deadline() -> Option<Instant> {
    with_current_ctx(WaitCtx::deadline).unwrap_or_else(|| THREAD_DEADLINE.get())
}

/// Sets the deadline of this thread's code outside jobs.
pub(crate) fn set_thread_deadline(deadline: Option<Instant>) {
    THREAD_DEADLINE.set(deadline);
}
