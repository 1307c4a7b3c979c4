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

use std::time::{Duration, Instant};

use crate::error::Interrupted;
use crate::job::with_current_ctx;
use crate::wait_ctx::WaitCtx;
use crate::waiting::{WaitSpec, current_deadline, earlier, pause_until, set_thread_deadline};

/// Pauses the job for `duration` or a little longer. Outside a job it blocks the thread.
///
/// # Errors
///
/// [`Interrupted`], when the job is cancelled or a deadline around the call passes first.
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
/// assert_eq!(job.cancel(), Ok(Err(asyncjob::Interrupted::Cancelled)));
/// ```
pub fn sleep(duration: Duration) -> Result<(), Interrupted> {
    let end = Instant::now().checked_add(duration); // none: so far away that it is never
    sleep_until_end(end)
}

/// Pauses the job until `end` or a little later. Outside a job it blocks the thread.
///
/// # Errors
///
/// As [`sleep`].
pub fn sleep_until(end: Instant) -> Result<(), Interrupted> {
    sleep_until_end(Some(end))
}

/// Lets every other job that is ready run first. Outside a job it is [`std::thread::yield_now`].
///
/// # Errors
///
/// [`Interrupted`], when the job is cancelled or a deadline around the call has passed.
///
/// ```
/// asyncjob::time::yield_now()?;
/// # Ok::<(), asyncjob::Interrupted>(())
/// ```
pub fn yield_now() -> Result<(), Interrupted> {
    let mut waited = false;
    pause_until(WaitSpec::retry(), || std::mem::replace(&mut waited, true).then_some(()))
}

/// Runs `f` with a deadline for everything in it that pauses: each such call fails once `deadline` has passed.
///
/// The closure itself goes on: it sees the errors of the calls. What need not wait succeeds still. Of nested deadlines
/// the earlier one counts. Outside a job this holds for [`io`](crate::io), [`sleep`] and
/// [`await_or_block`](crate::waiting::await_or_block).
///
/// ```
/// use asyncjob::Interrupted;
/// use asyncjob::time::{sleep, with_deadline};
/// use std::time::{Duration, Instant};
///
/// let nap = with_deadline(Instant::now(), || sleep(Duration::from_secs(3600)));
/// assert_eq!(nap, Err(Interrupted::TimedOut));
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

fn sleep_until_end(end: Option<Instant>) -> Result<(), Interrupted> {
    let around = current_deadline();
    let spec = WaitSpec::time().until(end);
    match pause_until(spec, || None::<()>) {
        // The deadline that passed is the sleep's own, unless one around it was earlier.
        Err(Interrupted::TimedOut) if end.is_some() && earlier(end, around) == end => Ok(()),
        other => other,
    }
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
