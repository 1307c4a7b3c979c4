//! Futures and jobs, each awaited from the other.
//!
//! ```text
//!   inside a job:    await_future(f)   poll f; pending? pause; resumed? poll again      (the thread does other things)
//!   outside:         JobFuture         polled? resume the job; paused? pending          (the runtime does other things)
//!   both:            in_job(f)         a JobFuture whose job awaits f: synchronous callbacks deep in f can pause
//! ```
//!
//! A future needs a [`Waker`] that resumes the job. Which one depends on the driver, which the job does not know: if it
//! has set a callback in the wait ctx, that is the waker, and the status says that it will be called; if not, the waker
//! makes an eventfd readable, which is a wait fd of the ctx. So a future can be awaited under every driver: our
//! scheduler, a runtime, or a C program with `select`.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

use super::{Interrupted, WaitSpec, current_deadline, pause_until};
use crate::error::Cancelled;
use crate::job::with_current_ctx;
use crate::sys::EventFd;
use crate::wait_ctx::{Status, WaitCtx, WaitFd, WaitKey};

/// Why [`await_future`] has no output. The future is dropped.
#[derive(Debug)]
#[non_exhaustive]
pub enum AwaitError {
    /// The code runs outside any job.
    NotInJob,
    /// The job runs under [`block_pause`](crate::block_pause), or while its thread panics, so it cannot pause.
    CannotPause,
    /// The job is to end.
    Cancelled,
    /// A deadline around the call passed.
    TimedOut,
    /// The driver takes no callback, and there is no fd left to wake the job with.
    NoWaker(io::Error),
}

impl fmt::Display for AwaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AwaitError::NotInJob => f.write_str(
                "a future was awaited outside a job: run this code in one (Scheduler::spawn, start_job), or use \
                 await_or_block to block the thread instead",
            ),
            AwaitError::CannotPause => f.write_str(
                "a future was awaited where the job cannot pause: drop the block_pause guard first, or use \
                 await_or_block to block the thread instead",
            ),
            AwaitError::Cancelled => Cancelled.fmt(f),
            AwaitError::TimedOut => f.write_str("the deadline passed before the future was ready"),
            AwaitError::NoWaker(source) => write!(f, "no eventfd to wake the job with: {source}"),
        }
    }
}

impl std::error::Error for AwaitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            AwaitError::NoWaker(source) => Some(source),
            _ => None,
        }
    }
}

impl From<AwaitError> for io::Error {
    fn from(error: AwaitError) -> Self {
        match error {
            AwaitError::TimedOut => io::Error::new(io::ErrorKind::TimedOut, error),
            AwaitError::Cancelled => Cancelled.into(),
            other => io::Error::other(other),
        }
    }
}

/// Inside a job: waits for `future` by pausing the job, while the thread does other things.
///
/// Not named `block_on`, because the thread is not blocked.
///
/// # Errors
///
/// [`AwaitError`]: outside a job, where the job cannot pause, when it is cancelled, and when a deadline passes.
///
/// ```
/// use asyncjob::waiting::await_future;
/// use asyncjob::{Step, WaitCtx, start_job};
///
/// let step = start_job(&WaitCtx::new(), || await_future(async { 6 * 7 }).unwrap());
/// let Ok(Step::Finished(answer)) = step else { panic!("a future that is ready does not pause") };
/// assert_eq!(answer, 42);
/// ```
pub fn await_future<F: Future>(future: F) -> Result<F::Output, AwaitError> {
    await_by(WakeVia::Driver, future)
}

/// What a job asks to be woken with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WakeVia {
    /// The driver's callback if it has set one, else a wait fd.
    Driver,
    /// A wait fd.
    Fd,
}

fn await_by<F: Future>(wake_via: WakeVia, future: F) -> Result<F::Output, AwaitError> {
    let ctx = with_current_ctx(WaitCtx::clone).ok_or(AwaitError::NotInJob)?;
    let mut source = WakeSource::new(&ctx, wake_via).map_err(AwaitError::NoWaker)?;
    let mut future = pin!(future);
    let spec = WaitSpec {
        status: source.status,
        armed: source.key,
        deadline: None,
    };
    let output = pause_until(&ctx, spec, || {
        source.reset();
        match future.as_mut().poll(&mut Context::from_waker(&source.waker)) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    });
    output.map_err(|interrupted| match interrupted {
        Interrupted::Cancelled => AwaitError::Cancelled,
        Interrupted::TimedOut => AwaitError::TimedOut,
        Interrupted::MustBlock => AwaitError::CannotPause,
    })
}

/// Waits for `future`: inside a job by pausing it, where that cannot be by blocking the thread.
///
/// # Errors
///
/// [`AwaitError`], but never [`AwaitError::NotInJob`] or [`AwaitError::CannotPause`].
///
/// ```
/// use asyncjob::waiting::await_or_block;
/// assert_eq!(await_or_block(async { 1 }).unwrap(), 1);
/// ```
pub fn await_or_block<F: Future>(future: F) -> Result<F::Output, AwaitError> {
    await_or_block_by(WakeVia::Driver, future)
}

pub(crate) fn await_or_block_by<F: Future>(wake_via: WakeVia, future: F) -> Result<F::Output, AwaitError> {
    let mut future = pin!(future);
    match await_by(wake_via, future.as_mut()) {
        Err(AwaitError::NotInJob | AwaitError::CannotPause) => {}
        other => return other,
    }
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut task = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut task) {
            Poll::Ready(output) => return Ok(output),
            Poll::Pending => park(current_deadline())?,
        }
    }
}

/// Blocks the thread until it is unparked, or for no reason.
fn park(deadline: Option<Instant>) -> Result<(), AwaitError> {
    let Some(at) = deadline else {
        thread::park();
        return Ok(());
    };
    let left = at.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(AwaitError::TimedOut);
    }
    thread::park_timeout(left);
    Ok(())
}

/// What wakes the current job, whatever its driver is.
struct WakeSource<'a> {
    ctx: &'a WaitCtx,
    waker: Waker,
    status: Status,
    /// With a driver that takes no callback: the wait fd, and its key.
    fd: Option<Arc<EventFd>>,
    key: Option<WaitKey>,
}

impl<'a> WakeSource<'a> {
    fn new(ctx: &'a WaitCtx, wake_via: WakeVia) -> io::Result<Self> {
        if wake_via == WakeVia::Driver
            && let Some(waker) = ctx.callback()
        {
            return Ok(WakeSource {
                ctx,
                waker,
                status: Status::Ok,
                fd: None,
                key: None,
            });
        }
        let fd = Arc::new(EventFd::new()?);
        let key = WaitKey::unique();
        let entry = WaitFd {
            on_call: true,
            ..WaitFd::new(key, fd.raw())
        };
        ctx.set_wait_fd_with(entry, Box::new(Arc::clone(&fd)));
        Ok(WakeSource {
            ctx,
            waker: Waker::from(Arc::new(EventFdWaker(Arc::clone(&fd)))),
            status: Status::Unsupported,
            fd: Some(fd),
            key: Some(key),
        })
    }

    /// Before each poll: what rings from now on is about that poll. A driver that is a task itself may have another waker
    /// than at the last poll.
    fn reset(&mut self) {
        if let Some(fd) = &self.fd {
            fd.drain();
        } else if !self.ctx.callback_will_wake(&self.waker)
            && let Some(waker) = self.ctx.callback()
        {
            self.waker = waker;
        }
    }
}

impl Drop for WakeSource<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.ctx.clear_fd(key);
        }
    }
}

struct EventFdWaker(Arc<EventFd>);

impl Wake for EventFdWaker {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify();
    }
}
