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

/// A place for one value, to be shared as its owner likes: [`oneshot`] puts it into an `Arc` of its own.
pub(crate) struct Slot<T> {
    state: Mutex<State<T>>,
}

enum State<T> {
    Empty(Option<Waker>),
    Full(T),
    Closed,
}

impl<T> Slot<T> {
    pub(crate) const fn new() -> Self {
        Slot {
            state: Mutex::new(State::Empty(None)),
        }
    }

    /// Stores the value and wakes the task that waits for it. The first value counts: a later one comes back.
    pub(crate) fn put(&self, value: T) -> Result<(), T> {
        let mut state = self.state.lock();
        let State::Empty(waiting) = &mut *state else {
            drop(state);
            return Err(value);
        };
        let waiting = waiting.take();
        *state = State::Full(value);
        drop(state);
        waiting.map(wake);
        Ok(())
    }

    /// Says that no value will come, unless there is one already, and wakes the task that waits for it.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        let State::Empty(waiting) = &mut *state else { return };
        let waiting = waiting.take();
        *state = State::Closed;
        drop(state);
        waiting.map(wake);
    }

    /// Whether a take would return at once.
    pub(crate) fn is_finished(&self) -> bool {
        !matches!(*self.state.lock(), State::Empty(_))
    }

    /// Takes the value if it is there. `None`: it may still come.
    pub(crate) fn try_take(&self) -> Option<Result<T, Closed>> {
        self.state.lock().take()
    }

    /// As [`try_take`](Self::try_take). If the value may still come, `task` is woken then.
    pub(crate) fn poll_take(&self, task: &mut Context<'_>) -> Poll<Result<T, Closed>> {
        let mut state = self.state.lock();
        if let Some(result) = state.take() {
            return Poll::Ready(result);
        }
        if matches!(&*state, State::Empty(Some(waiting)) if waiting.will_wake(task.waker())) {
            return Poll::Pending;
        }
        drop(state);
        let waker = task.waker().clone();
        let mut state = self.state.lock();
        if let Some(result) = state.take() {
            drop(state); // before the waker
            return Poll::Ready(result);
        }
        let replaced = mem::replace(&mut *state, State::Empty(Some(waker)));
        drop(state);
        drop(replaced);
        Poll::Pending
    }

    /// The task that waited does not wait any more.
    pub(crate) fn forget_waker(&self) {
        let mut state = self.state.lock();
        let State::Empty(waiting) = &mut *state else { return };
        let waiting = waiting.take();
        drop(state);
        drop(waiting);
    }
}

impl<T> State<T> {
    fn take(&mut self) -> Option<Result<T, Closed>> {
        match self {
            State::Empty(_) => return None,
            State::Closed => return Some(Err(Closed)),
            State::Full(_) => {}
        }
        match mem::replace(self, State::Closed) {
            State::Full(value) => Some(Ok(value)),
            State::Empty(_) | State::Closed => unreachable!("it was full"),
        }
    }
}

/// Makes the two sides of a [`Slot`].
pub(crate) fn oneshot<T>() -> (Sender<T>, Receiver<T>) {
    let slot = Arc::new(Slot::new());
    (Sender(Arc::clone(&slot)), Receiver(slot))
}

/// The side that makes the value. Dropping the sender without a value closes the slot.
pub(crate) struct Sender<T>(Arc<Slot<T>>);

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
pub(crate) struct Receiver<T>(Arc<Slot<T>>);

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
