//! Requests to cancel a job, from the thread that has the handle to the thread that runs the job.
//!
//! ```text
//!   handle, any thread                         scheduler
//!
//!   request:  sets REQUESTED                   is_requested, before the start: the job never starts
//!             `task` is there?                 first_pause: sets `task`, then PAUSED; REQUESTED? cancels the job now
//!               posts a cancel to its inbox    a posted cancel: the job is cancelled when it would be resumed next
//!                                              set_reason: it is cancelled
//! ```
//!
//! A request and the first pause both change the flags: whichever comes second sees the other. A job that never pauses
//! takes no lock for it.

use std::sync::Arc;
#[cfg(not(asyncjob_loom))]
use std::sync::atomic::{AtomicU8, Ordering};

#[cfg(asyncjob_loom)]
use loom::sync::atomic::{AtomicU8, Ordering};
use parking_lot::Mutex;

use super::wake::{Inbox, TaskId};

/// What cancelled a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CancelReason {
    /// The handle of the job, or a shutdown.
    Asked,
    /// The status [`Status::Err`](crate::Status::Err) of its ctx.
    EngineFailed,
}

/// Whether a job is to be cancelled, or was.
pub(super) struct Cancel {
    flags: AtomicU8,
    /// The task of the job, once the job has paused.
    task: Mutex<Option<(Arc<Inbox>, TaskId)>>,
}

/// The handle has asked the job to end.
const REQUESTED: u8 = 1;
/// The scheduler cancels the job because the handle or a shutdown has asked for it.
const ASKED: u8 = 2;
/// The scheduler cancels the job because its engine has failed.
const ENGINE_FAILED: u8 = 4;
/// The job has paused, so `task` is set.
const PAUSED: u8 = 8;

impl Cancel {
    #[inline]
    pub(super) fn new() -> Self {
        Cancel {
            flags: AtomicU8::new(0),
            task: Mutex::new(None),
        }
    }

    /// Asks the job to end, from any thread.
    pub(super) fn request(&self) {
        // AcqRel: the job sees what this thread did before the request. If the first pause has changed the flags
        // before, this thread sees what it has put into `task`. Otherwise the pause sees the request.
        if self.flags.fetch_or(REQUESTED, Ordering::AcqRel) & REQUESTED != 0 {
            return;
        }
        let task = self.task.lock();
        if let Some((inbox, id)) = &*task {
            inbox.post_cancel(*id);
        }
    }

    /// Whether the job was asked to end.
    #[inline]
    pub(super) fn is_requested(&self) -> bool {
        self.flags.load(Ordering::Acquire) & REQUESTED != 0
    }

    /// The job has paused for the first time: from now on a request is posted. Returns whether there was one before.
    pub(super) fn first_pause(&self, inbox: &Arc<Inbox>, id: TaskId) -> bool {
        *self.task.lock() = Some((Arc::clone(inbox), id));
        self.flags.fetch_or(PAUSED, Ordering::AcqRel) & REQUESTED != 0
    }

    /// The job is cancelled, for this reason. The thread that runs the job calls this.
    pub(super) fn set_reason(&self, reason: CancelReason) {
        let flag = match reason {
            CancelReason::Asked => ASKED,
            CancelReason::EngineFailed => ENGINE_FAILED,
        };
        self.flags.fetch_or(flag, Ordering::Relaxed);
    }

    /// Why the job was cancelled. The thread that runs the job asks.
    #[inline]
    pub(super) fn reason(&self) -> Option<CancelReason> {
        // Relaxed: this thread has set the reason.
        let flags = self.flags.load(Ordering::Relaxed);
        if flags & ENGINE_FAILED != 0 {
            return Some(CancelReason::EngineFailed);
        }
        (flags & ASKED != 0).then_some(CancelReason::Asked)
    }

    /// Whether the job has neither paused nor been cancelled, so that there is nothing to let go and no reason. The
    /// thread that runs the job asks.
    #[inline]
    pub(super) fn is_untouched(&self) -> bool {
        // Relaxed: this thread has set these flags.
        self.flags.load(Ordering::Relaxed) & (PAUSED | ASKED | ENGINE_FAILED) == 0
    }

    /// The job has ended: lets go of the scheduler.
    pub(super) fn end(&self) {
        if self.flags.load(Ordering::Relaxed) & PAUSED != 0 {
            self.let_go();
        }
    }

    #[inline(never)]
    fn let_go(&self) {
        let task = self.task.lock().take();
        drop(task);
    }
}
