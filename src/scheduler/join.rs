//! The result of a spawned job, and the way to cancel the job.
//!
//! One block of memory has everything that a job, its scheduler and its handle share
//! ([`job::share`](crate::job::share)): the closure until the job starts, the result once it has ended, and between the
//! two what a [`Cancel`] needs.
//!
//! Once there is a reason for a cancel, it is the result of the job, whatever the job returns. A panic of the job
//! counts all the same.

use std::fmt;
use std::future::Future;
use std::io;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::thread::{self, ThreadId};

use super::cancel::{Cancel, CancelReason};
use super::wake::{Inbox, TaskId};
use crate::error::{Interrupted, NO_STACK, NO_WAKER, Panic, Quarantined, waits_for_itself_in_a_panic};
use crate::job::{HandleSide, JobSide, Shared, can_pause};
use crate::sync::contain;
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
    /// on. In a child of the process that spawned the job, the source says so: see [`docs::fork`](crate::docs::fork).
    /// So it does of a [`join`](super::JoinHandle::join) that would wait for ever while its thread panics:
    /// [`Deadlock`](io::ErrorKind::Deadlock).
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

/// The panic of a handle that is used once more.
const GIVEN: &str = concat!(
    "a JoinHandle was used after it had given its result",
    guide_page!("tokio")
);

/// The handle of a spawned job, which gives the job's result.
///
/// **Dropping the handle cancels the job**, as [`request_cancel`](Self::request_cancel) does. [`detach`](Self::detach)
/// lets the job go on by itself. [`join`](Self::join) waits for the result. A handle is also a future, for every
/// runtime.
///
/// `JoinHandle<T>` is `Send` and `Sync` if `T` is `Send`, whatever the closure of the job is.
#[must_use = "dropping the handle cancels the job: `join` it, or `detach` it"]
pub struct JoinHandle<T> {
    block: HandleSide<JoinState, T>,
    detached: bool,
}

impl<T> JoinHandle<T> {
    pub(super) fn new(block: HandleSide<JoinState, T>) -> Self {
        JoinHandle { block, detached: false }
    }

    fn state(&self) -> &JoinState {
        self.block.shared()
    }

    /// Whether the job has ended, so that [`join`](Self::join) returns at once.
    pub fn is_finished(&self) -> bool {
        self.block.is_finished()
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
        let taken = self.block.try_take()?;
        Some(taken.expect(GIVEN))
    }

    /// Refuses a [`join`](Self::join) that would not end.
    ///
    /// # Errors
    ///
    /// While the thread panics, where another panic would abort the process.
    ///
    /// # Panics
    ///
    /// Otherwise.
    pub(crate) fn check_join(&self) -> Result<(), JoinError> {
        let blocks_its_thread = || {
            !self.state().process.is_inherited()
                && !self.is_finished()
                && self.state().thread() == Some(thread::current().id())
        };
        if can_pause() || !blocks_its_thread() {
            return Ok(());
        }
        if thread::panicking() {
            return Err(JoinError::Scheduler(waits_for_itself_in_a_panic()));
        }
        panic!(concat!(
            "JoinHandle::join on the job's own thread would wait for ever: outside a job call Scheduler::run_until, or \
             join after Scheduler::run; inside a job drop the block_pause guard first, and leave the stack of another \
             library",
            guide_page!("jobs")
        ))
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        // Most handles are dropped after the job has ended.
        if !self.is_finished() && !self.detached && !self.state().process.is_inherited() {
            self.request_cancel();
        }
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    /// # Panics
    ///
    /// When the handle is polled after it was ready.
    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        if self.state().process.is_inherited() {
            return Poll::Ready(Err(JoinError::Scheduler(forked())));
        }
        let taken = self.block.poll_take(task);
        taken.map(|taken| taken.expect(GIVEN))
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("finished", &self.is_finished())
            .finish()
    }
}

/// What a job, its scheduler and its handle share beside the result.
pub(super) struct JoinState {
    cancel: Cancel,
    home: Home,
    /// The process of the scheduler. In a child of it the job neither runs nor ends.
    process: Process,
}

/// The thread that runs the job.
enum Home {
    /// The only thread of the scheduler.
    Thread(ThreadId),
    /// One of several workers, once it has started the job. An id needs no drop, and so the lock none that asks whether
    /// there is one.
    Worker(ManuallyDrop<OnceLock<ThreadId>>),
}

/// The block of a spawned job as its scheduler sees it.
pub(super) type SpawnedJob = JobSide<JoinState>;

impl JoinState {
    #[inline]
    pub(super) fn new(process: Process, thread: Option<ThreadId>) -> Self {
        JoinState {
            cancel: Cancel::new(),
            home: thread.map_or_else(|| Home::Worker(ManuallyDrop::new(OnceLock::new())), Home::Thread),
            process,
        }
    }

    fn thread(&self) -> Option<ThreadId> {
        match &self.home {
            Home::Thread(thread) => Some(*thread),
            Home::Worker(worker) => worker.get().copied(),
        }
    }

    fn request_cancel(&self) {
        if self.process.is_inherited() {
            return; // also because a thread of the parent may have held the lock
        }
        self.cancel.request();
    }

    /// The scheduler is about to cancel the job.
    pub(super) fn cancelling(&self, reason: CancelReason) {
        self.cancel.set_reason(reason);
    }

    /// The job is about to start on this thread. Returns `false` if the job was cancelled before.
    pub(super) fn starting(&self, thread: ThreadId) -> bool {
        if self.cancel.is_requested() {
            return false;
        }
        if let Home::Worker(worker) = &self.home {
            let _is_new = worker.set(thread);
        }
        true
    }

    /// The job has paused for the first time. Returns `false` if it was cancelled before: no cancel is posted then.
    pub(super) fn paused(&self, inbox: &Arc<Inbox>, id: TaskId) -> bool {
        !self.cancel.first_pause(inbox, id)
    }
}

impl Shared for JoinState {
    type Error = JoinError;

    #[inline]
    fn run<T>(&self, f: impl FnOnce() -> T, keep: impl FnOnce(Result<T, JoinError>)) {
        match catch_unwind(AssertUnwindSafe(f)) {
            Ok(value) if self.cancel.is_untouched() => keep(Ok(value)),
            returned => keep(self.result(returned)),
        }
    }

    /// Lets go of the scheduler.
    fn failing(&self) {
        self.cancel.end();
    }
}

impl JoinState {
    /// The result of a job that has paused, was cancelled or has panicked.
    #[inline(never)] // its frame would be that of every job
    fn result<T>(&self, returned: thread::Result<T>) -> Result<T, JoinError> {
        self.cancel.end();
        let value = returned.map_err(|payload| JoinError::Panicked(Panic::new(payload)))?;
        let Some(reason) = self.cancel.reason() else {
            return Ok(value);
        };
        contain(|| drop(value)); // the drop may panic, and is no part of the job
        Err(match reason {
            CancelReason::EngineFailed => JoinError::EngineFailed,
            CancelReason::Asked => JoinError::Cancelled,
        })
    }
}
