//! The result of a spawned job, and the way to cancel it.
//!
//! ```text
//!                 the job returns, panics, or is given up
//!   Running  --------------------------------------------->  Done(result)  -- join -->  Taken
//!      |                                                          ^
//!      +-- cancel(): noted, job woken --> its pauses fail --------+  Err(JoinError::Cancelled)
//! ```

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread::{self, ThreadId};

use parking_lot::Mutex;

use super::wake::JobWaker;
use crate::job::is_in_job;
use crate::waiting::{AwaitError, await_or_block};

/// Why a job has no result.
pub enum JoinError {
    /// It panicked, with this payload.
    Panicked(Box<dyn Any + Send>),
    /// It was cancelled: before it started, or its pauses failed and it returned. What it returned is dropped.
    Cancelled,
    /// An engine set [`Status::Err`](crate::Status::Err), so the job was cancelled: its session is broken.
    EngineFailed,
    /// It was cancelled and went on pausing. Its stack is quarantined: see [`Job::cancel`](crate::Job::cancel).
    Quarantined,
    /// There was no stack to start it on, and no other job whose end could free one.
    NoStack(io::Error),
    /// The waiting was interrupted, because the job that waits was cancelled or a deadline around the wait passed. The job
    /// that was waited for goes on. To keep its handle, await it by reference: `await_future(&mut handle)`.
    Interrupted(AwaitError),
}

impl JoinError {
    /// The payload of the panic, for `std::panic::resume_unwind`.
    pub fn into_panic(self) -> Option<Box<dyn Any + Send>> {
        match self {
            JoinError::Panicked(payload) => Some(payload),
            _ => None,
        }
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinError::Panicked(payload) => write!(f, "the job panicked: {}", panic_message(payload.as_ref())),
            JoinError::Cancelled => f.write_str("the job was cancelled"),
            JoinError::EngineFailed => f.write_str("the engine that the job waited for failed: end its session"),
            JoinError::Quarantined => f.write_str("the job was cancelled and did not end: its stack is quarantined"),
            JoinError::NoStack(source) => write!(f, "there is no stack to start the job on: {source}"),
            JoinError::Interrupted(source) => write!(f, "the wait for the job was interrupted: {source}"),
        }
    }
}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinError({self})")
    }
}

impl std::error::Error for JoinError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            JoinError::NoStack(source) => Some(source),
            JoinError::Interrupted(source) => Some(source),
            _ => None,
        }
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("with a value that is no text")
}

/// The result of a spawned job, when it is there. Dropping the handle lets the job go on.
///
/// It is also a future, for any runtime.
#[must_use = "the job goes on without its handle, but its panic is not seen"]
pub struct JoinHandle<T> {
    pub(super) state: Arc<JoinState<T>>,
}

impl<T> JoinHandle<T> {
    /// Waits for the result: inside a job by pausing it, outside by blocking the thread.
    ///
    /// # Errors
    ///
    /// [`JoinError`] when the job has no result, or [`JoinError::Interrupted`] when the wait for it was.
    ///
    /// # Panics
    ///
    /// On the scheduler's own thread outside a job, when the result is not there yet: nobody would run the job. Call
    /// [`Scheduler::run_until`](super::Scheduler::run_until) instead.
    pub fn join(mut self) -> Result<T, JoinError> {
        assert!(
            is_in_job() || self.state.home != Some(thread::current().id()) || self.is_finished(),
            "join on the scheduler's own thread would wait for ever: use Scheduler::run_until, or join after run"
        );
        await_or_block(&mut self).unwrap_or_else(|interrupted| Err(JoinError::Interrupted(interrupted)))
    }

    /// Whether [`join`](Self::join) would return at once.
    pub fn is_finished(&self) -> bool {
        !matches!(self.state.state.lock().progress, Progress::Running)
    }

    /// Asks the job to end: its pause returns [`Cancelled`](crate::Cancelled), and it returns through its own code. A job
    /// that has not started never does. Returns at once.
    pub fn cancel(&self) {
        self.state.request_cancel();
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    /// # Panics
    ///
    /// When polled again after it was ready.
    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let waker = task.waker().clone(); // before the lock: cloning a waker may run anything
        let mut state = self.state.state.lock();
        match std::mem::replace(&mut state.progress, Progress::Taken) {
            Progress::Done(result) => Poll::Ready(result),
            Progress::Taken => panic!("a JoinHandle was polled after it gave its result"),
            Progress::Running => {
                state.progress = Progress::Running;
                let old = state.joiner.replace(waker);
                drop(state);
                drop(old);
                Poll::Pending
            }
        }
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
    /// The thread that runs the job, where it is known.
    home: Option<ThreadId>,
    state: Mutex<State<T>>,
}

struct State<T> {
    progress: Progress<T>,
    /// Who waits for the result.
    joiner: Option<Waker>,
    /// The way to the job, once it has started.
    job: Option<Arc<JobWaker>>,
    cancel: CancelState,
}

enum Progress<T> {
    Running,
    Done(Result<T, JoinError>),
    Taken,
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

/// Who cancelled a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CancelReason {
    /// Its handle, or a shutdown.
    Asked,
    /// The status rule for `Status::Err`.
    EngineFailed,
}

/// The scheduler's view of an outcome, whatever its type.
pub(super) trait Completion {
    /// The job has no value.
    fn fail(&self, error: JoinError);
    /// The job is about to be told to end.
    fn telling(&self, reason: CancelReason);
    /// The job is about to start, and can be reached like this; `false` if it was cancelled already.
    fn starting(&self, job: &Arc<JobWaker>) -> bool;
    /// It did not start after all, and will another time.
    fn postponed(&self);
}

impl<T> JoinState<T> {
    pub(super) fn new(home: Option<ThreadId>) -> Arc<Self> {
        Arc::new(JoinState {
            home,
            state: Mutex::new(State {
                progress: Progress::Running,
                joiner: None,
                job: None,
                cancel: CancelState::No,
            }),
        })
    }

    /// The job returned or panicked.
    pub(super) fn complete(&self, result: thread::Result<T>) {
        let told = self.state.lock().cancel;
        match (result, told) {
            (Err(payload), _) => self.settle(Err(JoinError::Panicked(payload))),
            (Ok(_), CancelState::Told(CancelReason::Asked)) => self.settle(Err(JoinError::Cancelled)),
            (Ok(_), CancelState::Told(CancelReason::EngineFailed)) => self.settle(Err(JoinError::EngineFailed)),
            (Ok(value), _) => self.settle(Ok(value)),
        }
    }

    /// The first result counts.
    fn settle(&self, result: Result<T, JoinError>) {
        let mut state = self.state.lock();
        if !matches!(state.progress, Progress::Running) {
            return;
        }
        state.progress = Progress::Done(result);
        let (joiner, job) = (state.joiner.take(), state.job.take());
        drop(state);
        drop(job);
        if let Some(joiner) = joiner {
            joiner.wake();
        }
    }

    fn request_cancel(&self) {
        let mut state = self.state.lock();
        match (&state.job, state.cancel) {
            (Some(job), _) => job.cancel(), // under the lock, so that `postponed` sees it
            (None, CancelState::No) => state.cancel = CancelState::Requested,
            (None, _) => {}
        }
    }
}

impl<T> Completion for JoinState<T> {
    fn fail(&self, error: JoinError) {
        self.settle(Err(error));
    }

    fn telling(&self, reason: CancelReason) {
        self.state.lock().cancel = CancelState::Told(reason);
    }

    fn starting(&self, job: &Arc<JobWaker>) -> bool {
        let mut state = self.state.lock();
        if state.cancel != CancelState::No {
            return false;
        }
        state.job = Some(Arc::clone(job));
        true
    }

    fn postponed(&self) {
        let mut state = self.state.lock();
        if state.job.take().is_some_and(|job| job.is_cancelled()) {
            state.cancel = CancelState::Requested;
        }
    }
}
