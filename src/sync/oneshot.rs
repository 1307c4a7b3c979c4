//! One value, from the side that makes it to the side that waits for it.
//!
//! ```text
//!            put                   take
//!   Empty ---------->  Full  --------------->  Closed
//!     |                                          ^
//!     +-------------------- close ---------------+
//! ```
//!
//! | state | means | left by |
//! |---|---|---|
//! | `Empty` | The value may still come. A waiting task has left its waker. | `put`, `close` |
//! | `Full` | The value waits to be taken. A second `put` gives its value back, and `close` changes nothing. | a take |
//! | `Closed` | No value will come: it was taken, or the sender was dropped without a value. | nothing |
//!
//! The waker is called after the state has changed and the lock is released. When the waker panics the value is there
//! all the same, and the panic ends in [`wake`].

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::wake;

/// No value will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed;

/// A place for one value. [`oneshot`] puts it into an `Arc`.
pub(crate) struct OneshotSlot<T> {
    state: Mutex<SlotState<T>>,
}

enum SlotState<T> {
    Empty(Option<Waker>),
    Full(T),
    Closed,
}

impl<T> OneshotSlot<T> {
    pub(crate) fn new() -> Self {
        OneshotSlot {
            state: Mutex::new(SlotState::Empty(None)),
        }
    }

    /// Stores the value and wakes the task that waits for it. The first value counts: a later one comes back.
    pub(crate) fn put(&self, value: T) -> Result<(), T> {
        let mut state = self.state.lock();
        let SlotState::Empty(waiting) = &mut *state else {
            drop(state);
            return Err(value);
        };
        let waiting = waiting.take();
        *state = SlotState::Full(value);
        drop(state);
        waiting.map(wake);
        Ok(())
    }

    /// Says that no value will come, unless there is one already, and wakes the task that waits for it.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        let SlotState::Empty(waiting) = &mut *state else { return };
        let waiting = waiting.take();
        *state = SlotState::Closed;
        drop(state);
        waiting.map(wake);
    }

    /// Whether a take would return at once.
    #[cfg(test)]
    pub(super) fn is_finished(&self) -> bool {
        !matches!(&*self.state.lock(), SlotState::Empty(_))
    }

    /// Takes the value if it is there. If it may still come, `task` is woken then.
    pub(crate) fn poll_take(&self, task: &mut Context<'_>) -> Poll<Result<T, Closed>> {
        let mut state = self.state.lock();
        if let Some(result) = state.take() {
            return Poll::Ready(result);
        }
        if matches!(&*state, SlotState::Empty(Some(waiting)) if waiting.will_wake(task.waker())) {
            return Poll::Pending;
        }
        drop(state);
        let waker = task.waker().clone();
        let mut state = self.state.lock();
        if let Some(result) = state.take() {
            drop(state); // before the waker
            return Poll::Ready(result);
        }
        let replaced = mem::replace(&mut *state, SlotState::Empty(Some(waker)));
        drop(state);
        drop(replaced);
        Poll::Pending
    }

    /// The task that waited does not wait any more.
    pub(crate) fn forget_waker(&self) {
        let mut state = self.state.lock();
        let SlotState::Empty(waiting) = &mut *state else { return };
        let waiting = waiting.take();
        drop(state);
        drop(waiting);
    }
}

impl<T> SlotState<T> {
    fn take(&mut self) -> Option<Result<T, Closed>> {
        match self {
            SlotState::Empty(_) => return None,
            SlotState::Closed => return Some(Err(Closed)),
            SlotState::Full(_) => {}
        }
        match mem::replace(self, SlotState::Closed) {
            SlotState::Full(value) => Some(Ok(value)),
            SlotState::Empty(_) | SlotState::Closed => unreachable!("it was full"),
        }
    }
}

/// Makes the two sides of a [`OneshotSlot`].
pub(crate) fn oneshot<T>() -> (Sender<T>, Receiver<T>) {
    let slot = Arc::new(OneshotSlot::new());
    (Sender(Arc::clone(&slot)), Receiver(slot))
}

/// The side that makes the value. Dropping the sender without a value closes the slot.
pub(crate) struct Sender<T>(Arc<OneshotSlot<T>>);

impl<T> Sender<T> {
    /// Hands the value over. If the receiver is gone, the value is dropped here, and a panic of that drop goes to the
    /// caller.
    pub(crate) fn send(self, value: T) {
        let sent = self.0.put(value);
        debug_assert!(sent.is_ok(), "a sender sends once");
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The side that waits. Dropping the receiver drops a value that is there.
pub(crate) struct Receiver<T>(Arc<OneshotSlot<T>>);

impl<T> Future for Receiver<T> {
    type Output = Result<T, Closed>;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_take(task)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.forget_waker();
    }
}
