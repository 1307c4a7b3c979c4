//! The result of a spawned job, and the way to cancel the job.
//!
//! One block of memory has everything that a job, its scheduler and its handle share ([`SharedClosure`]): the closure
//! until the job starts, the result once it has ended, and between the two what a [`Cancel`] needs.
//!
//! Once there is a reason for a cancel, it is the result of the job, whatever the job returns. A panic of the job
//! counts all the same.

use std::fmt;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::thread::{self, ThreadId};

use super::cancel::{Cancel, CancelReason};
use super::wake::{Inbox, TaskId};
use crate::error::{Interrupted, NO_STACK, NO_WAKER, Panic, Quarantined};
use crate::job::{ErasedClosure, RunsClosure, SharedClosure, can_pause};
use crate::sync::{Closed, OneshotSlot};
use crate::sys::{Process, forked};

/// Why a job has no result.
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
            JoinError::NoStack(_) => f.write_str(NO_STACK),
            JoinError::Interrupted(interrupted) => write!(f, "the wait for a job was interrupted: {interrupted}"),
            JoinError::NoWaker(_) => f.write_str(NO_WAKER),
            JoinError::Scheduler(_) => f.write_str("the scheduler could not wait for events"),
        }
    }
}

debug_with_sentence!(
    JoinError: Panicked, Cancelled, EngineFailed, Quarantined, NoStack, Interrupted, NoWaker, Scheduler
);

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
    block: Arc<SharedClosure<JoinState<T>>>,
    detached: bool,
}

impl<T> JoinHandle<T> {
    pub(super) fn new(block: Arc<SharedClosure<JoinState<T>>>) -> Self {
        JoinHandle { block, detached: false }
    }

    fn state(&self) -> &JoinState<T> {
        &self.block.shared
    }

    /// Whether the job has ended, so that [`join`](Self::join) returns at once.
    pub fn is_finished(&self) -> bool {
        self.state().result.is_finished()
    }

    /// Asks the job to end, and returns at once.
    ///
    /// The pause of the job fails with [`PauseError::Cancelled`](crate::PauseError::Cancelled), and the job returns
    /// through its own code. A job that has not started never starts.
    pub fn request_cancel(&self) {
        self.state().request_cancel();
    }

    /// Lets the job go on by itself. Its result is dropped. Only the panic hook reports a panic of the job.
    pub fn detach(mut self) {
        self.detached = true;
    }

    /// The result, if the job has ended.
    pub(super) fn take(&mut self) -> Option<Result<T, JoinError>> {
        match self.state().result.try_take()? {
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
            !self.state().process.is_inherited()
                && !self.is_finished()
                && self.state().thread() == Some(thread::current().id())
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
        if !self.detached && !self.state().process.is_inherited() && !self.is_finished() {
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
        if self.state().process.is_inherited() {
            return Poll::Ready(Err(JoinError::Scheduler(forked())));
        }
        self.state().result.poll_take(task).map(|taken| match taken {
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

/// Makes the block of a spawned job, with `$new` of [`SharedClosure`], from its state `$state` and its closure `$f` of
/// type `$F`. (A function could not say that the owner of the closure is `Send` if `$f` is.)
///
/// A large closure has a box of its own, and is called in it. Otherwise the job would copy it to its stack.
macro_rules! block_of {
    ($new:ident, $F:ty, $state:expr, $f:expr) => {{
        if const { size_of::<$F>() > LARGEST_CLOSURE_ON_STACK } {
            let f = Wiped::boxed($f);
            let (block, owned) = SharedClosure::$new($state, move || f.call(), |block| block as _);
            (JoinHandle::new(block), owned)
        } else {
            let (block, owned) = SharedClosure::$new($state, $f, |block| block as _);
            (JoinHandle::new(block), owned)
        }
    }};
}
pub(super) use block_of;

/// What a job, its scheduler and its handle share.
pub(super) struct JoinState<T> {
    /// The first result that is stored counts.
    result: OneshotSlot<Result<T, JoinError>>,
    cancel: Cancel,
    home: Home,
    /// The process of the scheduler. In a child of it the job neither runs nor ends.
    process: Process,
}

/// The thread that runs the job.
enum Home {
    /// The only thread of the scheduler.
    Thread(ThreadId),
    /// One of several workers, once it has started the job.
    Worker(OnceLock<ThreadId>),
}

/// A [`JoinState`] as the scheduler sees it, whatever the type of the result is.
pub(super) trait Completion {
    /// Stores an error as the result.
    fn fail(&self, error: JoinError);
    /// The scheduler is about to cancel the job.
    fn cancelling(&self, reason: CancelReason);
    /// The job is about to start on this thread. Returns `false` if the job was cancelled before.
    fn starting(&self, thread: ThreadId) -> bool;
    /// The job has paused for the first time. Returns `false` if it was cancelled before: no cancel is posted then.
    fn paused(&self, inbox: &Arc<Inbox>, id: TaskId) -> bool;
}

/// The block of a spawned job as its scheduler sees it, whatever the types of the closure and the result are.
pub(super) trait SpawnedJob: Completion + ErasedClosure {}

impl<B: Completion + ErasedClosure + ?Sized> SpawnedJob for B {}

impl<T> JoinState<T> {
    pub(super) fn new(process: Process, thread: Option<ThreadId>) -> Self {
        JoinState {
            result: OneshotSlot::new(),
            cancel: Cancel::new(),
            home: thread.map_or_else(|| Home::Worker(OnceLock::new()), Home::Thread),
            process,
        }
    }

    fn thread(&self) -> Option<ThreadId> {
        match &self.home {
            Home::Thread(thread) => Some(*thread),
            Home::Worker(worker) => worker.get().copied(),
        }
    }

    /// Stores the result of a job that has returned or panicked.
    fn complete(&self, result: thread::Result<T>) {
        self.store(match (result, self.cancel.reason()) {
            (Err(payload), _) => Err(JoinError::Panicked(Panic::new(payload))),
            (Ok(_), Some(CancelReason::EngineFailed)) => Err(JoinError::EngineFailed),
            (Ok(_), Some(CancelReason::Asked)) => Err(JoinError::Cancelled),
            (Ok(value), None) => Ok(value),
        });
    }

    /// Stores the result, and lets go of the scheduler.
    fn store(&self, result: Result<T, JoinError>) {
        self.cancel.end();
        drop(self.result.put(result));
    }

    fn request_cancel(&self) {
        if self.process.is_inherited() {
            return; // also because a thread of the parent may have held the lock
        }
        self.cancel.request();
    }
}

impl<T, F: FnOnce() -> T> RunsClosure<F> for JoinState<T> {
    /// Calls the closure of the job, and stores its result. A panic of the closure is a result, too.
    #[inline]
    fn run(&self, f: F) {
        self.complete(catch_unwind(AssertUnwindSafe(f)));
    }
}

impl<T, C: ?Sized> Completion for SharedClosure<JoinState<T>, C> {
    fn fail(&self, error: JoinError) {
        self.shared.store(Err(error));
    }

    fn cancelling(&self, reason: CancelReason) {
        self.shared.cancel.set_reason(reason);
    }

    fn starting(&self, thread: ThreadId) -> bool {
        if self.shared.cancel.is_requested() {
            return false;
        }
        if let Home::Worker(worker) = &self.shared.home {
            let _is_new = worker.set(thread);
        }
        true
    }

    fn paused(&self, inbox: &Arc<Inbox>, id: TaskId) -> bool {
        !self.shared.cancel.first_pause(inbox, id)
    }
}
