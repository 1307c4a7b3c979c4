//! The locks of this module and `fork(2)`.
//!
//! A child of a process has one thread. A lock that another thread held at the moment of the fork stays locked in the
//! child for ever, and the first job of the child that needs a stack would wait for it. So the thread that forks takes
//! all locks before, and parent and child let go of them after:
//!
//! ```text
//!   before   INSTALLED, MAKING, the states of all depots, the source of foreign stacks, the count of mappings
//!   fork
//!   after    in the parent and in the child: lets go of them
//!            in the child: locks the memory of the stacks again, if the parent had locked it
//! ```
//!
//! This is the order in which other code takes two of them. The locks are those of `std`, which consist of one word.
//! `parking_lot` keeps the threads that wait in a table for the whole process, which has locks of its own.

use std::sync::{Mutex, MutexGuard, TryLockError};

use super::{depot, foreign, guard, overflow};
use crate::sys::hold_while_forking;

/// Locks a mutex. A panic of a thread that held it has left its data whole: this module does not panic in the middle of
/// a change.
///
/// The lock is always taken by `try_lock`, which is compiled into this crate. `lock` only waits here. A contended
/// `lock` acquires inside `std`, which is not compiled for ThreadSanitizer: the tool would miss that step, and would
/// report all that the lock guards as races.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    loop {
        match mutex.try_lock() {
            Ok(guard) => return guard,
            Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => drop(mutex.lock()),
        }
    }
}

/// The locks, in the order in which they are let go.
#[allow(dead_code, reason = "what is held is not looked at")]
struct Held(guard::Held, foreign::Held, depot::Held, overflow::Held);

hold_while_forking!(Held, {
    let (installing, depots) = (overflow::hold(), depot::hold());
    let source = foreign::hold();
    Held(guard::hold(), source, depots, installing)
}, in_child: depot::lock_again);
