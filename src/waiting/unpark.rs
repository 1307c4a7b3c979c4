//! The wake of a thread that blocks.

use std::sync::Arc;
#[cfg(not(asyncjob_loom))]
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;
#[cfg(not(asyncjob_loom))]
use std::thread::{self, Thread};
use std::time::Duration;

#[cfg(asyncjob_loom)]
use loom::sync::atomic::{AtomicBool, Ordering};
#[cfg(asyncjob_loom)]
use loom::thread::{self, Thread};

/// Wakes by unparking a thread.
///
/// The flag keeps a wake for the wait that it is for. Other code on the thread may park, too, in the middle of a poll,
/// say, and take the token of [`Thread::unpark`].
#[derive(Debug)]
pub(super) struct Unpark {
    thread: Thread,
    woken: AtomicBool,
}

impl Unpark {
    pub(super) fn of_this_thread() -> Self {
        Unpark {
            thread: thread::current(),
            woken: AtomicBool::new(false),
        }
    }

    /// Parks this thread, which is that of the source, unless a wake has come since the last call.
    pub(super) fn park(&self, at_most: Option<Duration>) {
        if self.woken.load(Ordering::Relaxed) {
            self.woken.swap(false, Ordering::Acquire);
            return;
        }
        match at_most {
            #[cfg(not(asyncjob_loom))] // loom has no time
            Some(at_most) => thread::park_timeout(at_most),
            _ => thread::park(),
        }
        self.woken.swap(false, Ordering::Acquire);
    }
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}
