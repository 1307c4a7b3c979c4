//! What threads share in this library, under locks that are held while the process forks.
//!
//! A child of a process has one thread. A lock that another thread held at the moment of the fork would stay locked in
//! the child for ever. So the thread that forks takes each [`Shared`] before, and parent and child let go of them
//! after. Code that has one of them must not ask for another: their order is that of their first uses.
//!
//! The locks are those of `std`, which consist of one word: `parking_lot` has a table for the whole process, with locks
//! of its own. The lock of a single wait ctx is not held: in a child nothing uses the ctxs of the threads that are not
//! there.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use asyncjob::c_interface::{WhileForking, lock};

/// A value of the process.
pub(crate) struct Shared<T> {
    value: Mutex<T>,
    /// Whether it is in [`ALL`].
    is_known: AtomicBool,
}

/// A [`Shared`], whatever its value is.
trait Hold: Sync {
    /// Takes the lock. Dropping what this returns lets go of it.
    fn hold(&'static self) -> Box<dyn Any>;
}

/// What the thread that forks takes.
static ALL: Mutex<Vec<&'static dyn Hold>> = Mutex::new(Vec::new());

static HELD: WhileForking<Vec<Box<dyn Any>>> = WhileForking::new();

impl<T: Send + 'static> Shared<T> {
    pub(crate) const fn new(value: T) -> Self {
        Shared {
            value: Mutex::new(value),
            is_known: AtomicBool::new(false),
        }
    }

    pub(crate) fn lock(&'static self) -> MutexGuard<'static, T> {
        if !self.is_known.load(Ordering::Acquire) {
            self.hold_from_now_on();
        }
        lock(&self.value)
    }

    #[cold]
    fn hold_from_now_on(&'static self) {
        let mut all = lock(&ALL);
        if all.is_empty() {
            // A failure has no effect but the danger that this averts.
            // SAFETY: the handlers take and release locks. The loader never unloads this object (build.rs).
            unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(after_fork)) };
        }
        if !self.is_known.swap(true, Ordering::Release) {
            all.push(self);
        }
    }
}

impl<T: Send + 'static> Hold for Shared<T> {
    fn hold(&'static self) -> Box<dyn Any> {
        Box::new(lock(&self.value))
    }
}

extern "C" fn before_fork() {
    let all = lock(&ALL);
    let mut held: Vec<_> = all.iter().map(|shared| shared.hold()).collect();
    held.push(Box::new(all));
    HELD.keep(held);
}

extern "C" fn after_fork() {
    HELD.let_go();
}
