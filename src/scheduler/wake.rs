//! Callbacks from any thread, to the jobs to resume.
//!
//! ```text
//!   any thread                                       the scheduler's thread
//!
//!   JobWaker::wake                                   Inbox::take: one lock for all
//!     latched already? nothing to do   messages        start_resume: unlatch
//!     post(id)  ----------------------> [t][t][t] ->   nothing left to run?
//!     was the inbox parked? notify ---> eventfd    ->    park, epoll_wait
//! ```
//!
//! The latch is set by the first wake and cleared just before the job is resumed. So a callback that fires before the pause
//! (S64) is kept, one that fires twice costs one resume, and one that fires after the job has ended finds an id that no task
//! has.
//!
//! `parked` is only changed under the lock of the messages, together with the check that there are none. So a wake is seen by
//! that check, or sees `parked` and notifies. While the scheduler is awake a wake costs no system call.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::Wake;

use parking_lot::Mutex;

use super::Scheduler;
use crate::sync::contain;
use crate::sys::EventFd;

/// Names a task of one scheduler: its index, and which of the tasks that have had the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TaskId {
    pub(super) index: u32,
    pub(super) serial: u32,
}

/// Something for a scheduler to do itself, on its own thread.
pub(super) type RemoteCall = Box<dyn FnOnce(&Scheduler) + Send>;

/// What other threads have for one scheduler.
pub(super) struct Inbox {
    messages: Mutex<Messages>,
    /// There may be messages. Without any, this saves the lock. A message that is not seen yet is seen at the next turn.
    has_messages: AtomicBool,
    notifier: EventFd,
}

#[derive(Default)]
pub(super) struct Messages {
    pub(super) woken: Vec<TaskId>,
    pub(super) calls: Vec<RemoteCall>,
    /// The scheduler waits in the kernel, or its host does: a message must notify it.
    parked: bool,
    /// The scheduler is gone: it takes no more calls.
    closed: bool,
}

impl Inbox {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Inbox {
            messages: Mutex::default(),
            has_messages: AtomicBool::new(false),
            notifier: EventFd::new()?,
        })
    }

    /// Has a task resumed.
    fn post(&self, id: TaskId) {
        self.put(|messages| messages.woken.push(id));
    }

    /// Has the scheduler make a call. The call is dropped if the scheduler is gone.
    pub(super) fn send(&self, call: RemoteCall) {
        let mut call = Some(call);
        self.put(|messages| {
            if !messages.closed {
                messages.calls.extend(call.take());
            }
        });
        drop(call); // after the lock: what it owns may run anything
    }

    /// The scheduler is gone. Calls that it has not made are dropped, so that nothing waits for their results.
    pub(super) fn close(&self) {
        let mut messages = self.messages.lock();
        messages.closed = true;
        let unmade = std::mem::take(&mut messages.calls);
        drop(messages);
        contain(|| drop(unmade));
    }

    fn put(&self, put: impl FnOnce(&mut Messages)) {
        let mut messages = self.messages.lock();
        put(&mut messages);
        self.has_messages.store(true, Ordering::Release);
        let was_parked = std::mem::take(&mut messages.parked);
        drop(messages);
        if was_parked {
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
        self.has_messages.load(Ordering::Acquire)
    }

    /// Takes everything: the woken into `woken`, which is empty, so that its memory serves again.
    pub(super) fn take(&self, woken: &mut Vec<TaskId>) -> Vec<RemoteCall> {
        debug_assert!(woken.is_empty());
        let mut messages = self.messages.lock();
        std::mem::swap(&mut messages.woken, woken);
        self.has_messages.store(false, Ordering::Relaxed);
        std::mem::take(&mut messages.calls)
    }

    /// From now on a message notifies. `false`: there is a message already.
    pub(super) fn park(&self) -> bool {
        let mut messages = self.messages.lock();
        messages.parked = messages.woken.is_empty() && messages.calls.is_empty();
        messages.parked
    }

    /// From now on a message need not notify.
    pub(super) fn unpark(&self) {
        self.messages.lock().parked = false;
    }

    /// The scheduler has seen the notification.
    pub(super) fn clear_notifier(&self) {
        self.notifier.drain();
    }

    pub(super) fn raw_notifier(&self) -> RawFd {
        self.notifier.raw()
    }
}

/// The callback of one task: what completes the task's wait calls it.
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
