//! Inside a job: sleeping, and deadlines for everything that waits.
//!
//! ```text
//!   with_deadline(at, || {               the ctx's deadline is `at`, or what it was before if that is earlier
//!       read ... write ... sleep ...     each of these fails with "timed out" where it would pause after `at`
//!   })                                   the ctx's deadline is what it was before
//! ```
//!
//! A job's deadline is stored in its [wait ctx](crate::WaitCtx::set_deadline). Every pause of the job is under it, also
//! in code that does not know this crate's deadlines, because the driver resumes the job when the deadline passes.
//! Outside a job the deadline belongs to the thread.

use std::time::{Duration, Instant};

use crate::error::Interrupted;
use crate::job::with_current_ctx;
use crate::wait_ctx::WaitCtx;
use crate::waiting::{WaitSpec, current_deadline, earlier, pause_until, set_thread_deadline};

/// Pauses the job for `duration` or a little longer. Where the code cannot pause, the thread sleeps.
///
/// An idle scheduler ends its wait when the time comes: some 50 microseconds later on Linux, which is what the kernel
/// allows itself (`prctl(2)`, `PR_SET_TIMERSLACK`). Before Linux 5.11 it is up to a millisecond later, and under
/// another driver it is as that one's timers are: tokio's are whole milliseconds.
///
/// # Errors
///
/// [`Interrupted`]: the job is cancelled, or a deadline around the call passes first.
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
    let end = Instant::now().checked_add(duration); // `None` is so far away that it is never
    sleep_until_end(end)
}

/// Pauses the job until `end` or a little later. Where the code cannot pause, the thread sleeps.
///
/// # Errors
///
/// As [`sleep`].
pub fn sleep_until(end: Instant) -> Result<(), Interrupted> {
    sleep_until_end(Some(end))
}

/// Pauses the job until the other jobs that are ready have run. Where the code cannot pause, it is
/// [`std::thread::yield_now`].
///
/// # Errors
///
/// [`Interrupted`]: the job is cancelled, or a deadline around the call has passed.
///
/// ```
/// asyncjob::time::yield_now()?;
/// # Ok::<(), asyncjob::Interrupted>(())
/// ```
pub fn yield_now() -> Result<(), Interrupted> {
    let mut waited = false;
    pause_until(WaitSpec::retry(), || std::mem::replace(&mut waited, true).then_some(()))
}

/// Runs `f` with a deadline: each call in `f` that has to wait fails once `deadline` has passed.
///
/// The closure itself goes on, and sees the errors of these calls. A call that need not wait succeeds after the
/// deadline, too. Of nested deadlines the earliest counts. Outside a job the deadline holds for everything in this
/// crate that waits by [`pause_until`]: [`io`](crate::io), [`sleep`],
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
    let _guard = match with_current_ctx(WaitCtx::clone) {
        Some(ctx) => DeadlineGuard::in_ctx(ctx, deadline),
        None => DeadlineGuard::in_thread(deadline),
    };
    f()
}

/// Runs `f` with a deadline that is `timeout` from now: see [`with_deadline`].
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

/// The deadline that is in force for the caller, if there is one. Code of yours that waits by other means needs it.
pub fn deadline() -> Option<Instant> {
    current_deadline()
}

fn sleep_until_end(end: Option<Instant>) -> Result<(), Interrupted> {
    let around = current_deadline();
    let spec = WaitSpec::time().until(end);
    match pause_until(spec, || None::<()>) {
        // The deadline that has passed is the sleep's own, unless a deadline around the call was earlier.
        Err(Interrupted::TimedOut) if end.is_some() && earlier(end, around) == end => Ok(()),
        other => other,
    }
}

/// Keeps a deadline in force until it is dropped.
struct DeadlineGuard {
    /// The ctx whose deadline was changed. `None` stands for the thread.
    ctx: Option<WaitCtx>,
    /// The deadline to put back.
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
