//! The result of a spawned job, and the way to cancel the job.
//!
//! The result travels in a [`OneshotSlot`]. Beside it a job has a [`CancelState`]:
//!
//! ```text
//!   No ---- request_cancel, before the start ------> Requested      the job never starts
//!    |                                                   ^
//!    |  request_cancel after the start goes to the       | postponed: there was no stack for the start,
//!    |  job's waker, which the scheduler reads           | and the waker had a request
//!    |
//!    '----- cancelling: the scheduler is about to cancel the job ---> Final(reason)
//! ```
//!
//! After `Final` the reason is the result of the job, whatever the job returns. A panic of the job counts all the same.

use std::fmt;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::{self, ThreadId};

use parking_lot::Mutex;

use super::wake::JobWaker;
use crate::error::{Interrupted, NO_WAKER, Panic, Quarantined};
use crate::job::can_pause;
use crate::sync::{Closed, OneshotSlot};
use crate::sys::{Process, forked};

/// Why a job has no result.
#[derive(Debug)]
#[non_exhaustive]
pub enum JoinError {
    /// The job panicked, or one of its hooks did.
    Panicked(Panic),
    /// The job was cancelled, before it started or while it was paused. What it returned is dropped.
    Cancelled,
    /// An engine set [`Status::Err`](crate::Status::Err), so the job was cancelled. The session of the engine is
    /// broken.
    EngineFailed,
    /// The job was cancelled and did not end. Its stack is quarantined: see [`Job::cancel`](crate::Job::cancel).
    Quarantined,
    /// There was no stack to start the job on, and no other job of the scheduler whose end could free one.
    NoStack(io::Error),
    /// The wait for the job was interrupted: the job that waits was cancelled, or a deadline around the wait has
    /// passed.
    ///
    /// The handle is dropped then, which cancels the job that was waited for. To keep the handle, await it by
    /// reference: `await_future(&mut handle)`.
    Interrupted(Interrupted),
    /// The driver of the job that waits has set no callback, and the process has no fd left for an eventfd to wake the
    /// job with.
    NoWaker(io::Error),
    /// The scheduler could not wait for events ([`Scheduler::run_until`](super::Scheduler::run_until)). The job goes
    /// on. In a child of the process that spawned the job, the source says so: see
    /// [`docs::fork`](crate::docs::fork).
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
            JoinError::Interrupted(interrupted) => write!(f, "the wait for a job was interrupted: {interrupted}"),
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

/// The handle of a spawned job, which gives the job's result.
///
/// **Dropping the handle cancels the job**, as [`request_cancel`](Self::request_cancel) does. [`detach`](Self::detach)
/// lets the job go on by itself. [`join`](Self::join) waits for the result. A handle is also a future, for every
/// runtime.
///
/// `JoinHandle<T>` is `Send` and `Sync` if `T` is `Send`, whatever the closure of the job is.
#[must_use = "dropping the handle cancels the job: `join` it, or `detach` it"]
pub struct JoinHandle<T> {
    pub(super) state: Arc<JoinState<T>>,
    detached: bool,
}

impl<T> JoinHandle<T> {
    pub(super) fn new(state: Arc<JoinState<T>>) -> Self {
        JoinHandle { state, detached: false }
    }

    /// Whether the job has ended, so that [`join`](Self::join) returns at once.
    pub fn is_finished(&self) -> bool {
        self.state.result.is_finished()
    }

    /// Asks the job to end, and returns at once.
    ///
    /// The pause of the job fails with [`PauseError::Cancelled`](crate::PauseError::Cancelled), and the job returns
    /// through its own code. A job that has not started never starts.
    pub fn request_cancel(&self) {
        self.state.request_cancel();
    }

    /// Lets the job go on by itself. Its result is dropped. Only the panic hook reports a panic of the job.
    pub fn detach(mut self) {
        self.detached = true;
    }

    /// The result, if the job has ended.
    pub(super) fn take(&mut self) -> Option<Result<T, JoinError>> {
        match self.state.result.try_take()? {
            Ok(result) => Some(result),
            Err(Closed) => panic!("a JoinHandle was used after it had given its result"),
        }
    }

    /// Refuses a [`join`](Self::join) that would not end.
    ///
    /// # Panics
    ///
    /// If the wait for the job would block the only thread that can run the job.
    pub(crate) fn check_join(&self) {
        let blocks_its_thread = || {
            !self.state.process.is_inherited()
                && !self.is_finished()
                && self.state.control.lock().thread == Some(thread::current().id())
        };
        assert!(
            can_pause() || !blocks_its_thread(),
            "JoinHandle::join on the job's own thread would wait for ever: outside a job call Scheduler::run_until, or \
             join after Scheduler::run; inside a job drop the block_pause guard first"
        );
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if !self.detached && !self.state.process.is_inherited() && !self.is_finished() {
            self.request_cancel();
        }
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    /// # Panics
    ///
    /// When the handle is polled after it was ready.
    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        if self.state.process.is_inherited() {
            return Poll::Ready(Err(JoinError::Scheduler(forked())));
        }
        self.state.result.poll_take(task).map(|taken| match taken {
            Ok(result) => result,
            Err(Closed) => panic!("a JoinHandle was polled after it was ready"),
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

/// What a spawned job runs: the closure `$f` of type `$F`, whose result goes to `$state`. The box is `Send` if `$f` is,
/// which a function could not say.
///
/// A large closure has a box of its own, and is called in it. Otherwise the job would copy it to its stack.
macro_rules! spawned_main {
    ($F:ty, $state:expr, $f:expr) => {{
        let (state, f) = ($state, $f);
        if const { size_of::<$F>() > LARGEST_CLOSURE_ON_STACK } {
            let f = Wiped::boxed(f);
            Wiped::boxed(move || state.run(move || f.call()))
        } else {
            Wiped::boxed(move || state.run(f))
        }
    }};
}
pub(super) use spawned_main;

/// What a job, its scheduler and its handle share.
pub(super) struct JoinState<T> {
    /// The first result that is stored counts.
    result: OneshotSlot<Result<T, JoinError>>,
    control: Mutex<Control>,
    /// The process of the scheduler. In a child of it the job neither runs nor ends.
    process: Process,
}

/// What is needed to cancel the job.
struct Control {
    /// The waker of the job, once the job has started.
    job: Option<Arc<JobWaker>>,
    /// The thread that runs the job, once it is known.
    thread: Option<ThreadId>,
    cancel: CancelState,
}

/// Whether the job is to end without a result, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CancelState {
    /// The job has not been cancelled, or the request is in its waker.
    No,
    /// The handle has asked for it before the job started.
    Requested,
    /// The scheduler cancels the job, or has done so.
    Final(CancelReason),
}

/// What cancelled a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CancelReason {
    /// The handle of the job, or a shutdown.
    Asked,
    /// The status [`Status::Err`](crate::Status::Err) of its ctx.
    EngineFailed,
}

/// A [`JoinState`] as the scheduler sees it, whatever the type of the result is.
pub(super) trait Completion {
    /// Stores an error as the result.
    fn fail(&self, error: JoinError);
    /// The scheduler is about to cancel the job.
    fn cancelling(&self, reason: CancelReason);
    /// The job is about to start on this thread, and has this waker. Returns `false` if the job was cancelled before.
    fn starting(&self, job: &Arc<JobWaker>, thread: ThreadId) -> bool;
    /// The job did not start after all, and will be started another time.
    fn postponed(&self);
}

impl<T> JoinState<T> {
    pub(super) fn new(process: Process, thread: Option<ThreadId>) -> Arc<Self> {
        Arc::new(JoinState {
            result: OneshotSlot::new(),
            control: Mutex::new(Control {
                job: None,
                thread,
                cancel: CancelState::No,
            }),
            process,
        })
    }

    /// Calls the closure of a job, and stores its result. A panic of the closure is a result, too.
    pub(super) fn run(&self, f: impl FnOnce() -> T) {
        self.complete(catch_unwind(AssertUnwindSafe(f)));
    }

    /// Stores the result of a job that has returned or panicked.
    fn complete(&self, result: thread::Result<T>) {
        let cancel = self.control.lock().cancel;
        self.store(match (result, cancel) {
            (Err(payload), _) => Err(JoinError::Panicked(Panic::new(payload))),
            (Ok(_), CancelState::Final(CancelReason::Asked)) => Err(JoinError::Cancelled),
            (Ok(_), CancelState::Final(CancelReason::EngineFailed)) => Err(JoinError::EngineFailed),
            (Ok(value), _) => Ok(value),
        });
    }

    /// Stores the result, and lets go of the waker.
    fn store(&self, result: Result<T, JoinError>) {
        let job = self.control.lock().job.take();
        drop(job);
        drop(self.result.put(result));
    }

    fn request_cancel(&self) {
        if self.process.is_inherited() {
            return; // also because a thread of the parent may have held the lock
        }
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
        self.store(Err(error));
    }

    fn cancelling(&self, reason: CancelReason) {
        self.control.lock().cancel = CancelState::Final(reason);
    }

    fn starting(&self, job: &Arc<JobWaker>, thread: ThreadId) -> bool {
        let mut control = self.control.lock();
        if control.cancel != CancelState::No {
            return false;
        }
        control.job = Some(Arc::clone(job));
        control.thread = Some(thread);
        true
    }

    fn postponed(&self) {
        let mut control = self.control.lock();
        if control.job.take().is_some_and(|job| job.is_cancelled()) {
            control.cancel = CancelState::Requested;
        }
    }
}
