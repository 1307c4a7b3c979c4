//! The locks of this module and `fork(2)`.
//!
//! A child of a process has one thread. A lock that another thread held at the moment of the fork would stay locked in
//! the child for ever, and its first dump, or the first job of it that has a tag, would wait for it. So the thread that
//! forks takes all of them before, and parent and child let go of them after. They are locks of `std`, which consist of
//! one word: `parking_lot` keeps the threads that wait in a table with locks of its own.
//!
//! The lock of the walks stands for those of the libraries that walk stacks and name frames.

use std::cell::RefCell;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{registry, tags};
use crate::job::{Walking, walking};
use crate::sys::ForkHandlers;

/// The locks, in the order in which they are let go. No code takes two of them.
#[allow(dead_code, reason = "what is held is not looked at")]
struct Held(registry::Held, tags::Held, Walking);

thread_local! {
    /// What this thread holds while it forks.
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
}

extern "C" fn before_fork() {
    let held = Held(registry::hold(), tags::hold(), walking());
    // A thread whose locals are gone forks without the locks.
    let _ = HELD.try_with(|kept| *kept.borrow_mut() = Some(held));
}

extern "C" fn after_fork() {
    let held = HELD.try_with(RefCell::take);
    drop(held);
}

/// Makes forks safe that begin from now on. A failure has no effect but the old danger.
pub(crate) fn prepare_for_forks() {
    static HANDLERS: ForkHandlers = ForkHandlers::new();
    HANDLERS.register(before_fork, after_fork);
}

/// Takes a lock of this module.
pub(super) fn lock<T>(mutex: &'static Mutex<T>) -> MutexGuard<'static, T> {
    prepare_for_forks();
    mutex.lock().unwrap_or_else(PoisonError::into_inner) // no code of the user runs under it
}
