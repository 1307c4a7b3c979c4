//! The result of a spawned job, and the way to cancel it.
//!
//! The result travels in a [`Slot`]. Beside it a job has a [`CancelState`]:
//!
//! ```text
//!   No ---- request_cancel, before the start ------> Requested      the job never starts
//!    |                                                   ^
//!    |  request_cancel after the start goes to the       | the start was postponed for want of a stack, and the
//!    |  job's waker, which the scheduler reads           | waker had a request
//!    |
//!    '----- the scheduler is about to cancel the job ---> Told(reason)
//! ```
//!
//! `Told` is final: the reason is the job's result, whatever the job returns.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::{self, ThreadId};

use parking_lot::Mutex;

use super::wake::JobWaker;
use crate::error::{Interrupted, NO_WAKER, Panic, Quarantined};
use crate::job::can_pause;
use crate::sync::{Closed, Slot};

/// Why a job has no result.
#[derive(Debug)]
#[non_exhaustive]
pub enum JoinError {
    /// The job panicked.
    Panicked(Panic),
    /// The job was cancelled: before it started, or its pauses failed and it returned. What it returned is dropped.
    Cancelled,
    /// An engine set [`Status::Err`](crate::Status::Err), so the job was cancelled: its session is broken.
    EngineFailed,
    /// The job was cancelled and went on pausing. Its stack is quarantined: see [`Job::cancel`](crate::Job::cancel).
    Quarantined,
    /// There was no stack to start the job on, and no other job whose end could free one.
    NoStack(io::Error),
    /// The wait for the job was cut short: the job that waits was cancelled, or a deadline around the wait passed. The
    /// handle is dropped, which cancels the job that was waited for. To keep the handle, await it by reference:
    /// `await_future(&mut handle)`.
    Interrupted(Interrupted),
    /// The job that waits has a driver that takes no callback, and the process has no fd left to wake the job with.
    NoWaker(io::Error),
    /// The scheduler could not wait for events ([`Scheduler::run_until`](super::Scheduler::run_until)). The job goes on.
    Scheduler(io::Error),
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinError::Panicked(panic) => write!(f, "the job panicked: {panic}"),
            JoinError::Cancelled => f.write_str("the job was cancelled"),
            JoinError::EngineFailed => f.write_str("the engine that the job waited for failed: end its session"),
            JoinError::Quarantined => Quarantined.fmt(f),
            JoinError::NoStack(_) => f.write_str("there is no stack to start the job on"),
            JoinError::Interrupted(interrupted) => write!(f, "the wait for a job was cut short: {interrupted}"),
            JoinError::NoWaker(_) => f.write_str(NO_WAKER),
            JoinError::Scheduler(_) => f.write_str("the scheduler could not wait for events"),
        }
    }
}

impl std::error::Error for JoinError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            JoinError::NoStack(source) | JoinError::NoWaker(source) | JoinError::Scheduler(source) => Some(source),
            _ => None,
        }
    }
}

impl From<JoinError> for io::Error {
    fn from(error: JoinError) -> Self {
        match error {
            JoinError::Interrupted(interrupted) => interrupted.into(),
            other => io::Error::other(other),
        }
    }
}

/// The result of a spawned job, when it is there.
///
/// **Dropping the handle cancels the job**, as [`request_cancel`](Self::request_cancel) does.
/// [`detach`](Self::detach) lets the job go on by itself. [`join`](Self::join) waits for the result. A handle is also a
/// future, for any runtime.
#[must_use = "dropping the handle cancels the job: `join` it, or `detach` it"]
pub struct JoinHandle<T> {
    pub(super) state: Arc<JoinState<T>>,
    detached: bool,
}

impl<T> JoinHandle<T> {
    pub(super) fn new(state: Arc<JoinState<T>>) -> Self {
        JoinHandle { state, detached: false }
    }

    /// Whether [`join`](Self::join) would return at once.
    pub fn is_finished(&self) -> bool {
        self.state.result.is_finished()
    }

    /// Asks the job to end: its pause fails with [`PauseError::Cancelled`](crate::PauseError::Cancelled), and it returns
    /// through its own code. A job that has not started never does. This call returns at once.
    pub fn request_cancel(&self) {
        self.state.request_cancel();
    }

    /// Lets the job go on by itself. Its result is dropped, and a panic of it is reported by the panic hook only.
    pub fn detach(mut self) {
        self.detached = true;
    }

    /// The result, if it is there.
    pub(super) fn take(&mut self) -> Option<Result<T, JoinError>> {
        match self.state.result.try_take()? {
            Ok(result) => Some(result),
            Err(Closed) => panic!("a JoinHandle was asked again after it gave its result"),
        }
    }

    /// # Panics
    ///
    /// If a wait for the job would block the one thread that can run it.
    pub(crate) fn check_join(&self) {
        let blocks_its_thread =
            || !self.is_finished() && self.state.control.lock().home == Some(thread::current().id());
        assert!(
            can_pause() || !blocks_its_thread(),
            "join on the job's own thread would wait for ever: outside a job use Scheduler::run_until, or join after run; \
             inside a job drop the block_pause guard first"
        );
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if !self.detached && !self.is_finished() {
            self.request_cancel();
        }
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    /// # Panics
    ///
    /// When polled again after it was ready.
    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        self.state.result.poll_take(task).map(|taken| match taken {
            Ok(result) => result,
            Err(Closed) => panic!("a JoinHandle was polled after it gave its result"),
        })
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("finished", &self.is_finished())
            .finish()
    }
}

/// What a job, its scheduler and its handle share.
pub(super) struct JoinState<T> {
    /// The first result counts.
    result: Slot<Result<T, JoinError>>,
    control: Mutex<Control>,
}

struct Control {
    /// The way to the job, once it has started.
    job: Option<Arc<JobWaker>>,
    /// The thread that runs the job, once that is known.
    home: Option<ThreadId>,
    cancel: CancelState,
}

/// Why the job is to end without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CancelState {
    No,
    /// Asked for, before the job started.
    Requested,
    /// The job has been told: this is its result, whatever it returns.
    Told(CancelReason),
}

/// What cancelled a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CancelReason {
    /// Its handle, or a shutdown.
    Asked,
    /// The status rule for `Status::Err`.
    EngineFailed,
}

/// A [`JoinState`] as the scheduler sees it, whatever the type of the result.
pub(super) trait Completion {
    /// The job has no value.
    fn fail(&self, error: JoinError);
    /// The job is about to be told to end.
    fn telling(&self, reason: CancelReason);
    /// The job is about to start on this thread, and can be reached by this waker. `false`: it was cancelled already.
    fn starting(&self, job: &Arc<JobWaker>, home: ThreadId) -> bool;
    /// The job did not start after all, and will another time.
    fn postponed(&self);
}

impl<T> JoinState<T> {
    pub(super) fn new(home: Option<ThreadId>) -> Arc<Self> {
        Arc::new(JoinState {
            result: Slot::new(),
            control: Mutex::new(Control {
                job: None,
                home,
                cancel: CancelState::No,
            }),
        })
    }

    /// The job returned or panicked.
    pub(super) fn complete(&self, result: thread::Result<T>) {
        let told = self.control.lock().cancel;
        self.settle(match (result, told) {
            (Err(payload), _) => Err(JoinError::Panicked(Panic::new(payload))),
            (Ok(_), CancelState::Told(CancelReason::Asked)) => Err(JoinError::Cancelled),
            (Ok(_), CancelState::Told(CancelReason::EngineFailed)) => Err(JoinError::EngineFailed),
            (Ok(value), _) => Ok(value),
        });
    }

    fn settle(&self, result: Result<T, JoinError>) {
        let job = self.control.lock().job.take();
        drop(job);
        drop(self.result.put(result));
    }

    fn request_cancel(&self) {
        let mut control = self.control.lock();
        match (&control.job, control.cancel) {
            (Some(job), _) => job.cancel(), // under the lock, so that `postponed` sees it
            (None, CancelState::No) => control.cancel = CancelState::Requested,
            (None, _) => {}
        }
    }
}

impl<T> Completion for JoinState<T> {
    fn fail(&self, error: JoinError) {
        self.settle(Err(error));
    }

    fn telling(&self, reason: CancelReason) {
        self.control.lock().cancel = CancelState::Told(reason);
    }

    fn starting(&self, job: &Arc<JobWaker>, home: ThreadId) -> bool {
        let mut control = self.control.lock();
        if control.cancel != CancelState::No {
            return false;
        }
        control.job = Some(Arc::clone(job));
        control.home = Some(home);
        true
    }

    fn postponed(&self) {
        let mut control = self.control.lock();
        if control.job.take().is_some_and(|job| job.is_cancelled()) {
            control.cancel = CancelState::Requested;
        }
    }
}
