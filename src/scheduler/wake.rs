//! Callbacks from any thread, to the jobs to resume.
//!
//! ```text
//!   any thread                                       the scheduler's thread
//!
//!   JobWaker::wake                                   take_woken: one lock for all
//!     latched already? nothing to do      messages        start_resume: unlatch
//!     post(ticket)  ------------------> [t][t][t] ->   nothing left to run?
//!     was it parked? ring the bell ----> eventfd  ->     park, epoll_wait
//! ```
//!
//! The latch is set by the first wake and cleared just before the job is resumed. So a callback that fires before the
//! pause (S64) is kept, one that fires twice costs one resume, and one that fires after the job ended finds a ticket that
//! nobody has.
//!
//! `parked` is only changed under the messages's lock, together with the check that the messages is empty: a wake either is
//! seen by that check or sees `parked` and rings. While the scheduler is awake a wake costs no system call.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::Wake;

use parking_lot::Mutex;

use super::Scheduler;
use crate::sys::EventFd;

/// Names a task of one scheduler: its place, and which of those that have had the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TaskId {
    pub(super) index: u32,
    pub(super) serial: u32,
}

/// Something for a scheduler to do itself, on its own thread.
pub(super) type RemoteCall = Box<dyn FnOnce(&Scheduler) + Send>;

/// Where other threads leave what concerns one scheduler.
pub(super) struct Inbox {
    messages: Mutex<Messages>,
    /// The messages may hold something. Saves the lock when not; a wake that is not seen yet is seen at the next turn.
    full: AtomicBool,
    notifier: EventFd,
}

#[derive(Default)]
pub(super) struct Messages {
    pub(super) woken: Vec<TaskId>,
    pub(super) calls: Vec<RemoteCall>,
    /// The scheduler waits in the kernel, or its host does: whoever brings something must ring.
    parked: bool,
}

impl Inbox {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Inbox {
            messages: Mutex::default(),
            full: AtomicBool::new(false),
            notifier: EventFd::new()?,
        })
    }

    /// Leaves word that a task is to be resumed.
    fn post(&self, id: TaskId) {
        self.put(|messages| messages.woken.push(id));
    }

    /// Leaves something to do.
    pub(super) fn send(&self, call: RemoteCall) {
        self.put(|messages| messages.calls.push(call));
    }

    fn put(&self, put: impl FnOnce(&mut Messages)) {
        let mut messages = self.messages.lock();
        put(&mut messages);
        self.full.store(true, Ordering::Release);
        let ring = std::mem::take(&mut messages.parked);
        drop(messages);
        if ring {
            self.notifier.notify();
        }
    }

    /// Wakes the scheduler if it is parked, and says whether it was.
    pub(super) fn notify_if_parked(&self) -> bool {
        let parked = std::mem::take(&mut self.messages.lock().parked);
        if parked {
            self.notifier.notify();
        }
        parked
    }

    /// Whether there is something to take.
    pub(super) fn has_messages(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Takes everything: the woken into `woken`, which is empty, so that its memory serves again.
    pub(super) fn take(&self, woken: &mut Vec<TaskId>) -> Vec<RemoteCall> {
        debug_assert!(woken.is_empty());
        let mut messages = self.messages.lock();
        std::mem::swap(&mut messages.woken, woken);
        self.full.store(false, Ordering::Relaxed);
        std::mem::take(&mut messages.calls)
    }

    /// From now on whoever posts rings; `false` if somebody has posted already.
    pub(super) fn park(&self) -> bool {
        let mut messages = self.messages.lock();
        messages.parked = messages.woken.is_empty() && messages.calls.is_empty();
        messages.parked
    }

    /// Nobody needs to ring any more.
    pub(super) fn unpark(&self) {
        self.messages.lock().parked = false;
    }

    /// The bell has been heard.
    pub(super) fn clear_notifier(&self) {
        self.notifier.drain();
    }

    pub(super) fn raw_notifier(&self) -> RawFd {
        self.notifier.raw()
    }
}

/// The callback of one task: the waker of whoever completes what it waits for.
pub(super) struct JobWaker {
    inbox: Arc<Inbox>,
    id: TaskId,
    flags: AtomicU8,
}

/// A wake has been posted and not been acted on.
const LATCHED: u8 = 1;
/// The job is to be cancelled at its next turn.
const CANCEL: u8 = 2;

impl JobWaker {
    pub(super) fn new(inbox: Arc<Inbox>, id: TaskId) -> Self {
        JobWaker {
            inbox,
            id,
            flags: AtomicU8::new(0),
        }
    }

    /// The job is about to run: a wake from now on is about its next pause. Whether it is to be cancelled instead.
    pub(super) fn start_resume(&self) -> bool {
        if self.flags.load(Ordering::Relaxed) == 0 {
            return false;
        }
        // A swap and not a store: it makes what the waker's thread did before its wake visible to the job.
        self.flags.swap(0, Ordering::AcqRel) & CANCEL != 0
    }

    /// Whether [`cancel`](Self::cancel) was called since the last resume.
    pub(super) fn is_cancelled(&self) -> bool {
        self.flags.load(Ordering::Acquire) & CANCEL != 0
    }

    /// Has the scheduler cancel the job.
    pub(super) fn cancel(&self) {
        if self.flags.fetch_or(LATCHED | CANCEL, Ordering::AcqRel) & LATCHED == 0 {
            self.inbox.post(self.id);
        }
    }
}

impl Wake for JobWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.flags.fetch_or(LATCHED, Ordering::AcqRel) & LATCHED == 0 {
            self.inbox.post(self.id);
        }
    }
}
