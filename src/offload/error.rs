//! Why an offloaded closure has no value.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::io;

use crate::error::Cancelled;

/// Why [`Offload::run`](super::Offload::run) has no value.
#[derive(Debug)]
#[non_exhaustive]
pub enum OffloadError {
    /// The closure panicked, with this payload: [`std::panic::resume_unwind`] carries it on. Its thread lives on with a
    /// new state.
    Panicked(Box<dyn Any + Send>),
    /// The thread's state could not be made. The next closure tries again.
    NoState(Box<dyn Error + Send + Sync>),
    /// The job is to end.
    Cancelled,
    /// A deadline around the call passed.
    TimedOut,
    /// [`Offload::shutdown`](super::Offload::shutdown) was called before the closure ran.
    ShutDown,
    /// The driver takes no callback, and there is no fd left to wake the job with.
    NoWaker(io::Error),
}

impl fmt::Display for OffloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OffloadError::Panicked(payload) => {
                write!(f, "the offloaded closure panicked: {}", message(payload.as_ref()))
            }
            OffloadError::NoState(source) => write!(f, "no state for the offload thread: {source}"),
            OffloadError::Cancelled => Cancelled.fmt(f),
            OffloadError::TimedOut => f.write_str("the deadline passed before the offloaded closure was done"),
            OffloadError::ShutDown => f.write_str("the Offload was shut down before the closure ran"),
            OffloadError::NoWaker(source) => write!(f, "no eventfd to wake the job with: {source}"),
        }
    }
}

impl Error for OffloadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            OffloadError::NoState(source) => Some(source.as_ref()),
            OffloadError::NoWaker(source) => Some(source),
            _ => None,
        }
    }
}

impl From<OffloadError> for io::Error {
    fn from(error: OffloadError) -> Self {
        match error {
            OffloadError::Cancelled => Cancelled.into(),
            OffloadError::TimedOut => io::Error::new(io::ErrorKind::TimedOut, error.to_string()),
            OffloadError::NoState(source) => io::Error::other(source),
            other => io::Error::other(other.to_string()), // a payload is not Sync, so it cannot come along
        }
    }
}

/// Why [`Offload::try_run`](super::Offload::try_run) has no value.
pub enum TryRunError<F> {
    /// Every place in the queue is taken. The closure was not run: here it is.
    Full(F),
    /// As with [`Offload::run`](super::Offload::run).
    Failed(OffloadError),
}

impl<F> fmt::Display for TryRunError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TryRunError::Full(_) => {
                f.write_str("the queue of the Offload is full: try again later, or use run to wait")
            }
            TryRunError::Failed(error) => error.fmt(f),
        }
    }
}

impl<F> fmt::Debug for TryRunError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TryRunError({self})")
    }
}

impl<F> Error for TryRunError<F> {}

fn message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(a payload that is no text)")
}
