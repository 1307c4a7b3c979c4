//! What a thread holds while it forks.

use std::cell::UnsafeCell;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::thread_address;

/// What the thread that forks holds meanwhile: locks, so that there is one such thread at a time.
///
/// It is no thread-local. So it works on a thread whose thread-locals are gone, too, and takes no place in a shared
/// object, which has little for them (`thread_words`).
pub struct WhileForking<T> {
    /// The [address](thread_address) of the thread; 0 without one.
    thread: AtomicUsize,
    held: UnsafeCell<Option<T>>,
}

// SAFETY: only the thread whose address is in `thread` touches the value, from `keep`, which puts the address there, to
// `let_go`, which takes it away. A thread makes both calls during one fork, so that it cannot end between them, and no
// other thread gets its address.
unsafe impl<T> Sync for WhileForking<T> {}

impl<T> WhileForking<T> {
    /// Nothing is held.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "for statics")]
    pub const fn new() -> Self {
        WhileForking {
            thread: AtomicUsize::new(0),
            held: UnsafeCell::new(None),
        }
    }

    /// Keeps `held`, which no two threads can have at the same time. Only the handler before a fork may call this.
    pub fn keep(&self, held: T) {
        let free = self
            .thread
            .compare_exchange(0, thread_address(), Ordering::Acquire, Ordering::Relaxed);
        if free.is_ok() {
            // SAFETY: the address of this thread is there, so the value is this thread's.
            unsafe { *self.held.get() = Some(held) };
        }
    }

    /// Drops what this thread has kept. Only the handlers after a fork may call this.
    pub fn let_go(&self) {
        // The thread of the child has the address of the one that forked.
        if self.thread.load(Ordering::Relaxed) == thread_address() {
            // SAFETY: as in `keep`.
            let held = unsafe { (*self.held.get()).take() };
            self.thread.store(0, Ordering::Release);
            drop(held); // the next thread that forks has to wait for this
        }
    }
}

impl<T> fmt::Debug for WhileForking<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WhileForking").finish_non_exhaustive()
    }
}
