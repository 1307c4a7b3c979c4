//! The waker that a job sees, which goes on to the task that polls the job.

use std::sync::Arc;
#[cfg(not(asyncjob_loom))]
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

#[cfg(asyncjob_loom)]
use loom::sync::atomic::{AtomicBool, Ordering};
use parking_lot::Mutex;

#[cfg(feature = "insight")]
use super::parked;

/// The waker that a job sees. It wakes the task that polled the job last.
#[derive(Default)]
pub(super) struct ForwardingWaker {
    /// Whether the waker was called since the last resume. A wake may come before the job has paused (S64).
    called: AtomicBool,
    /// The waker is in an `Arc` of its own, so that it is neither cloned nor dropped under the lock: both may run any
    /// code.
    task: Mutex<Option<Arc<Waker>>>,
    #[cfg(feature = "insight")]
    pub(super) asked: parked::Requests,
}

impl ForwardingWaker {
    /// The task that polls now is the one to wake. Returns its waker.
    pub(super) fn set_task(&self, waker: &Waker) -> Arc<Waker> {
        let new = Arc::new(waker.clone());
        let old = self.task.lock().replace(Arc::clone(&new));
        drop(old);
        new
    }

    /// Whether the waker was called since the last resume.
    pub(super) fn was_called(&self) -> bool {
        self.called.load(Ordering::Acquire)
    }

    /// The job is about to be resumed. A wake from now on is about its next pause.
    pub(super) fn start_resume(&self) {
        // This is a swap and not a store. A wake that came since the check is acted on as well, so what its thread did
        // before the wake must be visible to the job. Otherwise the wake is lost.
        if self.called.load(Ordering::Relaxed) {
            self.called.swap(false, Ordering::AcqRel);
        }
    }

    /// Wakes the task that polled last, so that the runtime polls the future, whether its job was woken or not.
    pub(super) fn wake_task(&self) {
        let task = self.task.lock().clone();
        if let Some(task) = task {
            task.wake_by_ref();
        }
    }

    /// There is no task to wake any more.
    pub(super) fn clear_task(&self) {
        let old = self.task.lock().take();
        drop(old);
    }
}

impl Wake for ForwardingWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // The flag is set before the wake, because the poll that follows the wake must see it. This is a swap again: if
        // two threads wake at the same time, what both did before must be visible to the resume.
        self.called.swap(true, Ordering::AcqRel);
        self.wake_task();
    }
}
