//! The locks of this module and `fork(2)`.
//!
//! A child of a process has one thread. A lock that another thread held at the moment of the fork would stay locked in
//! the child for ever, and its first dump, or the first job of it that has a tag, would wait for it. So the thread that
//! forks takes all of them before, and parent and child let go of them after. They are locks of `std`, which consist of
//! one word: `parking_lot` keeps the threads that wait in a table with locks of its own.
//!
//! The lock of the walks stands for those of the libraries that walk stacks and name frames, that of the readings for
//! those of all records and gauges, and that of the looks for a thread that another one stops.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{recorder, registry, tags};
use crate::job::{Walking, walking};
use crate::sys::{Looking, hold_while_forking, looking};

/// The locks, in the order in which they are let go. Code that takes two of them takes [`reading`] first.
#[allow(dead_code, reason = "what is held is not looked at")]
struct Held(recorder::Held, registry::Held, tags::Held, Walking, Reading, Looking);

hold_while_forking!(Held, {
    let (looking, reading, walking) = (looking(), reading(), walking());
    Held(
        recorder::hold(),
        registry::hold(),
        tags::hold(),
        walking,
        reading,
        looking,
    )
});

/// Held by a thread that reads what other threads write: records and gauges.
static READINGS: Mutex<()> = Mutex::new(());

/// See [`reading`].
pub(super) type Reading = MutexGuard<'static, ()>;

/// Lets this thread read the records and gauges of other threads. These have locks of their own, which are taken by the
/// one thread that writes and by readers. Who holds this while the process forks knows that no thread reads, and it
/// does not write: so what the forking thread writes to is free in the child. What other threads wrote to may be locked
/// for ever. The child does not look at it.
pub(super) fn reading() -> Reading {
    lock(&READINGS)
}

/// Takes a lock of this module.
pub(super) fn lock<T>(mutex: &'static Mutex<T>) -> MutexGuard<'static, T> {
    prepare_for_forks();
    lock_own(mutex)
}

/// Takes a lock of one object: see [`reading`].
pub(super) fn lock_own<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner) // no code of the user runs under it
}
