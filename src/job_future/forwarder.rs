//! The waker that a job sees, which goes on to the task that polls the job.
//!
//! | a wake | sets `CALLED` in | wakes the task |
//! |---|---|---|
//! | on the thread of the future, while its job runs | `here` | no: the poll looks at the flag when the job has paused |
//! | on that thread, at another time | `here` | if the flag was not set |
//! | on another thread | `elsewhere`, by an exchange | if the flag was not set |
//!
//! There is no task before the first pause of the job. The poll that starts the job looks at both flags after it has
//! set the task, so a wake that has found none is seen there.
//!
//! The next poll resumes the job if a flag is set, and clears both. So a task that was woken for a flag need not be
//! woken for it again. A wake on the thread of the future costs no atomic read-modify-write while the job runs, and at
//! other times those that find the task.
//!
//! Both words are 0 while the job waits for nothing but a call of the waker, and none has come. A poll of the same task
//! then has nothing to do, and reads no more than that. It may not see a wake that comes at the same time. That wake
//! wakes the task after it has set its flag, and the poll that follows sees the flag.

use std::sync::Arc;
#[cfg(not(asyncjob_loom))]
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Wake, Waker};

#[cfg(asyncjob_loom)]
use loom::sync::atomic::{AtomicU8, Ordering};
use parking_lot::Mutex;

#[cfg(feature = "insight")]
use super::parked;
#[cfg(feature = "insight")]
use crate::insight::Request;
use crate::sys::thread_address;

/// The waker that a job sees. It wakes the task that polled the job last.
pub(super) struct ForwardingWaker {
    /// The address of the thread of the future, which stays there. A later thread may have the same address when that
    /// one has ended, and then the future is never polled again.
    owner: usize,
    /// Flags that the owner's thread alone uses.
    here: AtomicU8,
    /// Flags that other threads set. A wake may come before the job has paused (S64).
    elsewhere: AtomicU8,
    /// The waker is in an `Arc` of its own, so that it is neither cloned nor dropped under the lock: both may run any
    /// code.
    task: Mutex<Option<Arc<Waker>>>,
    #[cfg(feature = "insight")]
    pub(super) asked: parked::Requests,
}

/// The waker was called since the last resume.
const CALLED: u8 = 1;
/// In `here`: the job runs.
const RUNNING: u8 = 2;
/// In `here`: the job is not paused, or a poll has more to look at than whether the waker was called.
const LOOK: u8 = 4;
/// In `elsewhere`: a dump has left a request.
#[cfg(feature = "insight")]
const ASKED: u8 = 2;

/// A job that is being run by a poll. The drop says that it runs no more.
pub(super) struct RunningJob<'a>(&'a ForwardingWaker);

impl Drop for RunningJob<'_> {
    #[inline]
    fn drop(&mut self) {
        let here = &self.0.here;
        here.store(here.load(Ordering::Relaxed) & !RUNNING, Ordering::Relaxed);
    }
}

impl ForwardingWaker {
    /// The waker of a future of this thread.
    pub(super) fn new() -> Self {
        ForwardingWaker {
            owner: thread_address(),
            here: AtomicU8::new(LOOK),
            elsewhere: AtomicU8::new(0),
            task: Mutex::new(None),
            #[cfg(feature = "insight")]
            asked: parked::Requests::default(),
        }
    }

    /// Makes the waker as good as new. There is no task, and nobody else has the waker.
    pub(super) fn renew(&self) {
        self.here.store(LOOK, Ordering::Relaxed);
        self.elsewhere.store(0, Ordering::Relaxed);
        #[cfg(feature = "insight")]
        self.asked.open();
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
        (self.here.load(Ordering::Relaxed) | self.elsewhere.load(Ordering::Acquire)) & CALLED != 0
    }

    /// The job has paused, and the waker was not called: until it is, a poll of the same task has nothing to look at.
    #[inline]
    pub(super) fn wait_for_call(&self) {
        let here = self.here.load(Ordering::Relaxed);
        self.here.store(here & !LOOK, Ordering::Relaxed);
    }

    /// A poll of the same task has more to look at, until [`wait_for_call`](Self::wait_for_call).
    #[inline]
    pub(super) fn look(&self) {
        let here = self.here.load(Ordering::Relaxed);
        self.here.store(here | LOOK, Ordering::Relaxed);
    }

    /// Whether nothing has happened since [`wait_for_call`](Self::wait_for_call), as far as this thread knows.
    #[inline]
    pub(super) fn waits_for_call(&self) -> bool {
        // Relaxed: nothing is done for what is seen here. Who goes on looks again, by a load that acquires.
        self.here.load(Ordering::Relaxed) | self.elsewhere.load(Ordering::Relaxed) == 0
    }

    /// The job is about to be started. The caller asks [`was_called`](Self::was_called) after it has dropped what this
    /// returns.
    #[inline]
    pub(super) fn start(&self) -> RunningJob<'_> {
        let called = self.here.load(Ordering::Relaxed) & CALLED;
        self.here.store(called | RUNNING | LOOK, Ordering::Relaxed);
        RunningJob(self)
    }

    /// As [`start`](Self::start), for a job that is about to be resumed. A wake from now on is about its next pause.
    #[inline]
    pub(super) fn start_resume(&self) -> RunningJob<'_> {
        self.here.store(RUNNING | LOOK, Ordering::Relaxed);
        // This is an exchange and not a store. A wake that came since the check is acted on as well, so what its thread
        // did before the wake must be visible to the job. Otherwise the wake is lost.
        if self.elsewhere.load(Ordering::Relaxed) & CALLED != 0 {
            self.elsewhere.fetch_and(!CALLED, Ordering::AcqRel);
        }
        RunningJob(self)
    }

    /// Leaves the request of a dump for the next poll.
    #[cfg(feature = "insight")]
    pub(super) fn ask(&self, request: Request) {
        self.asked.put(request);
        // Release: who sees the flag finds the request. A poll that does not see it yet is followed by another one,
        // because the caller wakes the task next.
        self.elsewhere.fetch_or(ASKED, Ordering::Release);
    }

    /// Whether a dump has left a request that was not taken.
    #[cfg(feature = "insight")]
    pub(super) fn is_asked(&self) -> bool {
        // Relaxed: the poll that takes the request looks again.
        self.elsewhere.load(Ordering::Relaxed) & ASKED != 0
    }

    /// Takes the requests of dumps.
    #[cfg(feature = "insight")]
    pub(super) fn take_asked(&self) -> Vec<Request> {
        if self.elsewhere.load(Ordering::Relaxed) & ASKED == 0 {
            return Vec::new();
        }
        // Before the requests are taken: one that comes after that sets the flag again. AcqRel: as in `start_resume`,
        // for the wakes whose flag is in the same word.
        self.elsewhere.fetch_and(!ASKED, Ordering::AcqRel);
        self.asked.take()
    }

    /// The call of the waker on another thread than that of the future.
    #[inline(never)]
    fn call_elsewhere(&self) {
        // This is an exchange also if the flag is set: if two threads wake at the same time, what both did before must
        // be visible to the resume.
        if self.elsewhere.fetch_or(CALLED, Ordering::AcqRel) & CALLED == 0 {
            self.wake_task();
        }
    }

    /// Wakes the task that polled last, so that the runtime polls the future, whether its job was woken or not.
    #[inline(never)]
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

    #[inline] // the callback of the wait ctx is this
    fn wake_by_ref(self: &Arc<Self>) {
        // The flag is set before the wake, because the poll that follows the wake must see it.
        if self.owner != thread_address() {
            return self.call_elsewhere();
        }
        let here = self.here.load(Ordering::Relaxed);
        self.here.store(here | CALLED, Ordering::Relaxed);
        if here & (CALLED | RUNNING) == 0 {
            self.wake_task();
        }
    }
}
