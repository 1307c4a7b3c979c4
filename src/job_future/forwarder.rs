//! The waker that a job sees, which goes on to the task that polls the job.
//!
//! | a wake | sets | wakes the task |
//! |---|---|---|
//! | on the thread of the future, while its job runs | `called_here` | no: the poll looks at the flag when the job has paused |
//! | on that thread, at another time | `called_here` | if the flag was not set |
//! | on another thread | `called`, by an exchange | if the flag was not set |
//!
//! The next poll resumes the job if a flag is set, and clears both. So a task that was woken for a flag need not be
//! woken for it again. A wake on the thread of the future costs no atomic read-modify-write while the job runs, and at
//! other times those that find the task.

use std::sync::Arc;
#[cfg(not(asyncjob_loom))]
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

#[cfg(asyncjob_loom)]
use loom::sync::atomic::{AtomicBool, Ordering};
use parking_lot::Mutex;

#[cfg(feature = "insight")]
use super::parked;
use crate::sys::thread_address;

/// The waker that a job sees. It wakes the task that polled the job last.
pub(super) struct ForwardingWaker {
    /// The address of the thread of the future, which stays there. A later thread may have the same address when that
    /// one has ended, and then the future is never polled again.
    owner: usize,
    /// Whether the waker was called on the owner's thread since the last resume. That thread alone uses the flag.
    called_here: AtomicBool,
    /// Whether the job runs. The owner's thread alone uses the flag.
    running: AtomicBool,
    /// Whether the waker was called on another thread since the last resume. A wake may come before the job has paused
    /// (S64).
    called: AtomicBool,
    /// The waker is in an `Arc` of its own, so that it is neither cloned nor dropped under the lock: both may run any
    /// code.
    task: Mutex<Option<Arc<Waker>>>,
    #[cfg(feature = "insight")]
    pub(super) asked: parked::Requests,
}

/// A job that is being run by a poll. The drop says that it runs no more.
pub(super) struct RunningJob<'a>(&'a ForwardingWaker);

impl Drop for RunningJob<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.running.store(false, Ordering::Relaxed);
    }
}

impl ForwardingWaker {
    /// The waker of a future of this thread.
    pub(super) fn new() -> Self {
        ForwardingWaker {
            owner: thread_address(),
            called_here: AtomicBool::new(false),
            running: AtomicBool::new(false),
            called: AtomicBool::new(false),
            task: Mutex::new(None),
            #[cfg(feature = "insight")]
            asked: parked::Requests::default(),
        }
    }

    /// The task that polls now is the one to wake. Returns its waker.
    pub(super) fn set_task(&self, waker: &Waker) -> Arc<Waker> {
        let new = Arc::new(waker.clone());
        let old = self.task.lock().replace(Arc::clone(&new));
        drop(old);
        new
    }

    /// Whether the waker was called since the last resume.
    #[inline]
    pub(super) fn was_called(&self) -> bool {
        self.called_here.load(Ordering::Relaxed) || self.called.load(Ordering::Acquire)
    }

    /// The job is about to be started. The caller asks [`was_called`](Self::was_called) after it has dropped what this
    /// returns.
    #[inline]
    pub(super) fn start(&self) -> RunningJob<'_> {
        self.running.store(true, Ordering::Relaxed);
        RunningJob(self)
    }

    /// As [`start`](Self::start), for a job that is about to be resumed. A wake from now on is about its next pause.
    #[inline]
    pub(super) fn start_resume(&self) -> RunningJob<'_> {
        self.called_here.store(false, Ordering::Relaxed);
        // This is a swap and not a store. A wake that came since the check is acted on as well, so what its thread did
        // before the wake must be visible to the job. Otherwise the wake is lost.
        if self.called.load(Ordering::Relaxed) {
            self.called.swap(false, Ordering::AcqRel);
        }
        self.start()
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
        // The flag is set before the wake, because the poll that follows the wake must see it.
        let was_called = if self.owner == thread_address() {
            let was_called = self.called_here.load(Ordering::Relaxed);
            self.called_here.store(true, Ordering::Relaxed);
            was_called || self.running.load(Ordering::Relaxed)
        } else {
            // This is a swap also if the flag is set: if two threads wake at the same time, what both did before must
            // be visible to the resume.
            self.called.swap(true, Ordering::AcqRel)
        };
        if !was_called {
            self.wake_task();
        }
    }
}
