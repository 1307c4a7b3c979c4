//! What threads and tasks pass to each other: a value, a place in a line, a wake.
//!
//! | item | is | used by |
//! |---|---|---|
//! | [`oneshot`] | one value, on its way from one thread to another | `offload`, `io`, the workers of `scheduler` |
//! | [`WaitQueue`] | a line of tasks that wait for capacity | `pool`, `scheduler` |
//! | [`contain`], [`wake`], [`wake_all`] | calls of a user's code that must not harm the caller | all that wake |
//!
//! Two rules hold for the whole module:
//!
//! 1. No user code runs under a lock. The clone, the wake and the drop of a [`Waker`] may run any code, so each of them
//!    happens before the lock is taken or after it is released.
//! 2. What a wake announces is stored before the waker is called. A waker that panics costs its own task a wake, and
//!    costs other tasks nothing.

mod oneshot;
#[cfg(all(test, not(asyncjob_loom)))]
mod tests;
mod wait_queue;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

pub(crate) use oneshot::{Closed, Receiver, oneshot};
pub(crate) use wait_queue::{WaitQueue, Waiter};

/// Calls `f` and stops its panic, which the panic hook has reported. Returns whether `f` returned.
///
/// For a user's code that is called by a thread that works for others, or in the middle of a list of wakers.
pub(crate) fn contain(f: impl FnOnce()) -> bool {
    let Err(payload) = catch_unwind(AssertUnwindSafe(f)) else {
        return true;
    };
    // The payload is the user's, too: its drop may panic, and the payload of that panic is not dropped at all.
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
    false
}

/// Wakes a task whose waker may panic. Returns whether the waker returned.
pub(crate) fn wake(waker: Waker) -> bool {
    contain(|| waker.wake())
}

/// Wakes all of them, also those after a waker that panics. Returns whether one of the wakers returned.
pub(crate) fn wake_all(wakers: impl IntoIterator<Item = Waker>) -> bool {
    wakers.into_iter().fold(false, |woken, waker| wake(waker) | woken)
}

thread_local! {
    static BLOCKING: Cell<bool> = const { Cell::new(false) };
}

/// Polls a future for a caller that blocks its thread until the future is ready.
///
/// A [`WaitQueue`] must know that: another task of this thread cannot take what the queue has announced to it.
pub(crate) fn poll_blocking<R>(poll: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            BLOCKING.set(self.0);
        }
    }
    let _restore = Restore(BLOCKING.replace(true));
    poll()
}

/// Whether this code runs in [`poll_blocking`].
fn is_polled_blocking() -> bool {
    BLOCKING.get()
}
