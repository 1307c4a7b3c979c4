//! The result of work on a worker, and the way to cancel the work.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Weak;
use std::task::{Context, Poll};

use asyncjob::job_future::JobError;
use asyncjob::{FORKED, Panic, Process, debug_with_sentence, guide_page};
use tokio::sync::{Notify, oneshot};

/// The result of work on [`Workers`](crate::Workers), when it is there: a future, for any runtime.
///
/// **Dropping the handle cancels the work**, as [`request_cancel`](Self::request_cancel) does. [`detach`](Self::detach)
/// lets the work go on by itself.
#[must_use = "dropping the handle cancels the work: await it, or `detach` it"]
pub struct JoinHandle<T> {
    result: oneshot::Receiver<Result<T, JoinError>>,
    /// Cancels the work. The work holds the other reference, from its spawn to its end.
    cancel: Weak<Notify>,
    process: Process,
    detached: bool,
}

/// Why work on [`Workers`](crate::Workers) has no result.
#[non_exhaustive]
pub enum JoinError {
    /// The job had no result.
    Job(JobError),
    /// The work panicked.
    Panicked(Panic),
    /// The work was cancelled by [`JoinHandle::request_cancel`].
    Cancelled,
    /// The workers ended before the work did.
    WorkersEnded,
    /// The workers belong to the parent process, which has forked since it made them.
    Forked,
}

impl<T> JoinHandle<T> {
    pub(crate) fn new(result: oneshot::Receiver<Result<T, JoinError>>, cancel: Weak<Notify>, process: Process) -> Self {
        JoinHandle {
            result,
            cancel,
            process,
            detached: false,
        }
    }

    /// Whether awaiting the handle would return at once.
    pub fn is_finished(&self) -> bool {
        self.cancel.strong_count() == 0
    }

    /// Asks the work to end. A job's pause fails with [`PauseError::Cancelled`](asyncjob::PauseError::Cancelled), and
    /// the job returns through its own code. A future is dropped. Work that has not started never does. This call
    /// returns at once. In a child of the process it does nothing.
    pub fn request_cancel(&self) {
        if self.process.is_inherited() {
            return; // another thread may have held a lock of the notification when the process was forked
        }
        if let Some(cancel) = self.cancel.upgrade() {
            cancel.notify_one(); // kept until the work looks, if it does not wait yet
        }
    }

    /// Lets the work go on by itself. Its result is dropped, and a panic of it is reported by the panic hook only. The
    /// end of the workers cancels it all the same.
    pub fn detach(mut self) {
        self.detached = true;
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if !self.detached {
            self.request_cancel();
        }
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    /// # Panics
    ///
    /// When polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        if self.process.is_inherited() {
            return Poll::Ready(Err(JoinError::Forked));
        }
        let result = Pin::new(&mut self.result).poll(task);
        result.map(|received| received.unwrap_or(Err(JoinError::WorkersEnded)))
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("finished", &self.is_finished())
            .finish()
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinError::Job(error) => error.fmt(f),
            JoinError::Panicked(panic) => write!(f, "the work panicked: {panic}"),
            JoinError::Cancelled => f.write_str("the work was cancelled"),
            JoinError::WorkersEnded => f.write_str(concat!(
                "the workers ended before the work: keep `Workers` until it is done",
                guide_page!("tokio")
            )),
            JoinError::Forked => f.write_str(FORKED),
        }
    }
}

debug_with_sentence!(JoinError: Job, Panicked, Cancelled, WorkersEnded, Forked);

impl std::error::Error for JoinError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            JoinError::Job(error) => error.source(),
            _ => None,
        }
    }
}

impl From<JoinError> for io::Error {
    fn from(error: JoinError) -> Self {
        match error {
            JoinError::Job(error) => error.into(),
            forked @ JoinError::Forked => io::Error::new(io::ErrorKind::Unsupported, forked),
            other => io::Error::other(other),
        }
    }
}

const _: () = {
    const fn is_portable<T: Send + Sync + 'static>() {}
    is_portable::<JoinError>();
    is_portable::<JoinHandle<u8>>();
};
