//! Why an offloaded closure has no value.

use std::error::Error;
use std::fmt;
use std::io;

use crate::error::{AwaitError, Interrupted, NO_WAKER, Panic};
use crate::returned::Returned;
use crate::sys::{FORKED, forked};

/// Why [`Offload::run`](super::Offload::run) has no value.
#[non_exhaustive]
pub enum OffloadError {
    /// The closure panicked. [`Panic::resume`] goes on panicking here. The thread of the pool lives on.
    Panicked(Panic),
    /// The code runs outside any job. The closure was not run.
    NotInJob,
    /// The job runs under [`block_pause`](crate::block_pause), or while its thread panics, so it cannot pause. The
    /// closure was not run.
    CannotPause,
    /// The job was cancelled, or a deadline around the call passed. A closure that had begun is finished by its thread,
    /// and its value is dropped.
    Interrupted(Interrupted),
    /// [`Offload::shutdown`](super::Offload::shutdown) was called before the closure ran.
    ShutDown,
    /// The pool belongs to the parent of this process: see [`docs::fork`](crate::docs::fork). The closure was not run.
    Forked,
    /// The driver takes no callback, and the process has no fd left to wake the job with. The closure was not run.
    NoWaker(io::Error),
}

impl fmt::Display for OffloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OffloadError::Panicked(panic) => write!(f, "the offloaded closure panicked: {panic}"),
            OffloadError::NotInJob => f.write_str(concat!(
                "Offload::run was called outside a job: run this code in one (Scheduler::spawn, start_job), or use \
                 run_or_block, which blocks the thread there",
                guide_page!("jobs")
            )),
            OffloadError::CannotPause => f.write_str(concat!(
                "Offload::run was called where the job cannot pause: drop the block_pause guard first, or use \
                 run_or_block, which blocks the thread there",
                guide_page!("across-a-pause")
            )),
            OffloadError::Interrupted(interrupted) => interrupted.fmt(f),
            OffloadError::ShutDown => f.write_str(concat!(
                "the Offload was shut down before the closure ran: call Offload::shutdown when its jobs have ended",
                guide_page!("bound")
            )),
            OffloadError::Forked => f.write_str(FORKED),
            OffloadError::NoWaker(_) => f.write_str(NO_WAKER),
        }
    }
}

debug_with_sentence!(OffloadError: Panicked, NotInJob, CannotPause, Interrupted, ShutDown, Forked, NoWaker);

impl Error for OffloadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            OffloadError::NoWaker(source) => Some(source),
            _ => None,
        }
    }
}

impl From<AwaitError> for OffloadError {
    fn from(error: AwaitError) -> Self {
        match error {
            AwaitError::NotInJob => OffloadError::NotInJob,
            AwaitError::CannotPause => OffloadError::CannotPause,
            AwaitError::Interrupted(interrupted) => OffloadError::Interrupted(interrupted),
            AwaitError::NoWaker(source) => OffloadError::NoWaker(source),
        }
    }
}

impl From<OffloadError> for io::Error {
    fn from(error: OffloadError) -> Self {
        match error {
            OffloadError::Interrupted(interrupted) => interrupted.into(),
            OffloadError::Forked => forked(),
            other => io::Error::other(other),
        }
    }
}

/// Why [`Offload::try_run`](super::Offload::try_run) has no value.
#[non_exhaustive]
pub enum TryRunError<F> {
    /// The queue is full. The closure was not run and comes back.
    Full(Returned<F>),
    /// As with [`Offload::run`](super::Offload::run).
    Failed(OffloadError),
}

impl<F> TryRunError<F> {
    /// The error of a call that waits when the queue is full.
    pub(super) fn without_closure(self) -> OffloadError {
        match self {
            TryRunError::Failed(error) => error,
            TryRunError::Full(_) => unreachable!("the call waits when the queue is full"),
        }
    }
}

impl<F> From<OffloadError> for TryRunError<F> {
    fn from(error: OffloadError) -> Self {
        TryRunError::Failed(error)
    }
}

impl<F> fmt::Display for TryRunError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TryRunError::Full(_) => f.write_str(concat!(
                "the queue of the Offload is full: try again later, or use run, which waits",
                guide_page!("bound")
            )),
            TryRunError::Failed(error) => error.fmt(f),
        }
    }
}

debug_with_sentence!(TryRunError<F>: Full, Failed);

impl<F> Error for TryRunError<F> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            TryRunError::Full(_) => None,
            TryRunError::Failed(error) => error.source(),
        }
    }
}

impl<F> From<TryRunError<F>> for io::Error {
    /// Drops a closure that came back.
    fn from(error: TryRunError<F>) -> Self {
        match error {
            TryRunError::Full(_) => io::Error::new(io::ErrorKind::ResourceBusy, error.to_string()),
            TryRunError::Failed(error) => error.into(),
        }
    }
}

const _: () = {
    const fn is_portable<T: Send + Sync + 'static>() {}
    is_portable::<OffloadError>();
    is_portable::<TryRunError<*mut ()>>();
};
