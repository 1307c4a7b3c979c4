//! Inside a job: time.
//!
//! ```text
//!   with_deadline(at, || {               the ctx's deadline is `at`, or stays what it was if that is earlier
//!       read ... write ... sleep ...     each fails with "timed out" where it would pause after `at`
//!   })                                   the ctx's deadline is what it was
//! ```
//!
//! A deadline stands in the [wait ctx](crate::WaitCtx::set_deadline), so that every pause is under it, those of code that
//! has never heard of it included, and the driver resumes the job when it passes. Outside a job it stands in the thread.

use std::error::Error;
use std::fmt;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::Cancelled;
use crate::job::with_current_ctx;
use crate::wait_ctx::{Status, WaitCtx};
use crate::waiting::{Interrupted, WaitSpec, current_deadline, earlier, pause_until, set_thread_deadline};

/// Why a [`sleep`] or a [`yield_now`] was cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The job is to end.
    Cancelled,
    /// A deadline around the call passed.
    TimedOut,
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stopped::Cancelled => Cancelled.fmt(f),
            Stopped::TimedOut => f.write_str("the deadline around this call passed"),
        }
    }
}

impl Error for Stopped {}

impl From<Stopped> for io::Error {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Cancelled => Cancelled.into(),
            Stopped::TimedOut => io::Error::new(io::ErrorKind::TimedOut, stopped),
        }
    }
}

/// Pauses the job for `duration` or a little longer. Outside a job it blocks the thread.
///
/// # Errors
///
/// [`Stopped`], when the job is cancelled or a deadline around the call passes first.
///
/// ```
/// use asyncjob::time::sleep;
/// use asyncjob::{Step, WaitCtx, start_job};
/// use std::time::Duration;
///
/// let ctx = WaitCtx::new();
/// let step = start_job(&ctx, || sleep(Duration::from_secs(3600)));
/// let Ok(Step::Paused(job)) = step else { panic!("an hour is long") };
/// assert!(ctx.deadline().is_some()); // when the driver resumes it
/// assert_eq!(job.cancel(), Some(Err(asyncjob::time::Stopped::Cancelled)));
/// ```
pub fn sleep(duration: Duration) -> Result<(), Stopped> {
    let end = Instant::now().checked_add(duration); // none: so far away that it is never
    sleep_until_end(end)
}

/// Pauses the job until `end` or a little later. Outside a job it blocks the thread.
///
/// # Errors
///
/// As [`sleep`].
pub fn sleep_until(end: Instant) -> Result<(), Stopped> {
    sleep_until_end(Some(end))
}

/// Lets every other job that is ready run first. Outside a job it is [`thread::yield_now`].
///
/// # Errors
///
/// [`Stopped`], when the job is cancelled or a deadline around the call has passed.
///
/// ```
/// asyncjob::time::yield_now()?;
/// # Ok::<(), asyncjob::time::Stopped>(())
/// ```
pub fn yield_now() -> Result<(), Stopped> {
    let spec = WaitSpec {
        status: Status::Eagain,
        armed: None,
        deadline: None,
    };
    let mut resumed = false;
    let outcome =
        with_current_ctx(|ctx| pause_until(ctx, spec, || std::mem::replace(&mut resumed, true).then_some(())));
    match outcome {
        Some(Ok(())) => Ok(()),
        Some(Err(Interrupted::Cancelled)) => Err(Stopped::Cancelled),
        Some(Err(Interrupted::TimedOut)) => Err(Stopped::TimedOut),
        Some(Err(Interrupted::MustBlock)) | None => {
            thread::yield_now();
            if has_passed(current_deadline()) {
                Err(Stopped::TimedOut)
            } else {
                Ok(())
            }
        }
    }
}

/// Runs `f` with a deadline for everything in it that pauses: each such call fails once `deadline` has passed.
///
/// The closure itself goes on: it sees the errors of the calls. What need not wait succeeds still. Of nested deadlines
/// the earlier one counts. Outside a job this holds for [`io`](crate::io), [`sleep`] and
/// [`await_or_block`](crate::waiting::await_or_block).
///
/// ```
/// use asyncjob::time::{Stopped, sleep, with_deadline};
/// use std::time::{Duration, Instant};
///
/// let nap = with_deadline(Instant::now(), || sleep(Duration::from_secs(3600)));
/// assert_eq!(nap, Err(Stopped::TimedOut));
/// ```
pub fn with_deadline<R>(deadline: Instant, f: impl FnOnce() -> R) -> R {
    let _in_force = match with_current_ctx(WaitCtx::clone) {
        Some(ctx) => DeadlineGuard::in_ctx(ctx, deadline),
        None => DeadlineGuard::in_thread(deadline),
    };
    f()
}

/// As [`with_deadline`], `timeout` from now.
///
/// ```
/// use asyncjob::io::Pausing;
/// use asyncjob::time::with_timeout;
/// use std::io::{ErrorKind, Read};
/// use std::time::Duration;
///
/// let (mut quiet, _peer) = std::os::unix::net::UnixStream::pair().map(|(a, b)| (Pausing::new(a).unwrap(), b))?;
/// let read = with_timeout(Duration::from_millis(1), || quiet.read(&mut [0]));
/// assert_eq!(read.unwrap_err().kind(), ErrorKind::TimedOut);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn with_timeout<R>(timeout: Duration, f: impl FnOnce() -> R) -> R {
    match Instant::now().checked_add(timeout) {
        Some(deadline) => with_deadline(deadline, f),
        None => f(), // so far away that it is never
    }
}

/// The deadline that is in force here, if any: for code of yours that waits by other means.
pub fn deadline() -> Option<Instant> {
    current_deadline()
}

fn sleep_until_end(end: Option<Instant>) -> Result<(), Stopped> {
    let around = current_deadline();
    let spec = WaitSpec {
        status: Status::Unsupported,
        armed: None,
        deadline: end,
    };
    match with_current_ctx(|ctx| pause_until(ctx, spec, || None::<()>)) {
        Some(Err(Interrupted::Cancelled)) => return Err(Stopped::Cancelled),
        Some(Err(Interrupted::MustBlock)) | None => block_until(earlier(end, around)),
        Some(Ok(()) | Err(Interrupted::TimedOut)) => {}
    }
    // Whose time is over: the one that was first.
    match (end, around) {
        (Some(end), Some(around)) if around < end => Err(Stopped::TimedOut),
        (None, Some(_)) => Err(Stopped::TimedOut),
        _ => Ok(()),
    }
}

fn block_until(end: Option<Instant>) {
    match end {
        Some(end) => thread::sleep(end.saturating_duration_since(Instant::now())),
        None => thread::sleep(Duration::MAX),
    }
}

fn has_passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|at| at <= Instant::now())
}

/// A deadline in force until this is dropped.
struct DeadlineGuard {
    /// `None`: the thread's.
    ctx: Option<WaitCtx>,
    before: Option<Instant>,
}

impl DeadlineGuard {
    fn in_ctx(ctx: WaitCtx, deadline: Instant) -> Self {
        let before = ctx.deadline();
        ctx.set_deadline(earlier(before, Some(deadline)));
        DeadlineGuard { ctx: Some(ctx), before }
    }

    fn in_thread(deadline: Instant) -> Self {
        let before = current_deadline();
        set_thread_deadline(earlier(before, Some(deadline)));
        DeadlineGuard { ctx: None, before }
    }
}

impl Drop for DeadlineGuard {
    fn drop(&mut self) {
        match &self.ctx {
            Some(ctx) => ctx.set_deadline(self.before),
            None => set_thread_deadline(self.before),
        }
    }
}
