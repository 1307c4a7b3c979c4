//! The states of threads: of the pool's, and of those that run closures inline.

use std::any::Any;
use std::cell::RefCell;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Weak;

use super::error::OffloadError;
use super::queue::Make;

/// The state of a thread, as a closure gets it: used like the `S` itself.
#[derive(Debug)]
pub struct State<S> {
    value: S,
    discarded: bool,
}

impl<S> State<S> {
    /// Drops the state when the closure returns: the next closure of this thread gets a new one.
    ///
    /// For a session that the token has closed. A closure that panics discards its state in any case.
    pub fn discard(&mut self) {
        self.discarded = true;
    }
}

impl<S> Deref for State<S> {
    type Target = S;
    fn deref(&self) -> &S {
        &self.value
    }
}

impl<S> DerefMut for State<S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.value
    }
}

/// Where a thread's state is, when there is one.
pub(super) struct Seat<S> {
    pub(super) state: Option<State<S>>,
}

impl<S> Seat<S> {
    /// Runs `f` on the state, which is made if there is none and gone if something panics.
    pub(super) fn serve<T>(&mut self, make: &Make<S>, f: impl FnOnce(&mut State<S>) -> T) -> Result<T, OffloadError> {
        let served = catch_unwind(AssertUnwindSafe(|| {
            let mut state = match self.state.take() {
                Some(state) => state,
                None => State {
                    value: make().map_err(OffloadError::NoState)?,
                    discarded: false,
                },
            };
            let value = f(&mut state);
            if !state.discarded {
                self.state = Some(state);
            }
            Ok(value)
        }));
        served.unwrap_or_else(|panic| Err(OffloadError::Panicked(panic)))
    }
}

/// The states that a thread's inline closures use, one for each pool.
pub(super) mod inline_seat {
    use super::*;

    struct Kept {
        pool: u64,
        alive: Weak<()>,
        seat: Box<dyn Any>,
    }

    thread_local! {
        static SEATS: RefCell<Vec<Kept>> = const { RefCell::new(Vec::new()) };
    }

    /// Takes the state out, so that an inline closure that calls inline itself gets another.
    pub(in super::super) fn take<S: 'static>(pool: u64) -> Seat<S> {
        let kept = SEATS.try_with(|seats| {
            let mut seats = seats.borrow_mut();
            let at = seats.iter().position(|kept| kept.pool == pool)?;
            Some(seats.swap_remove(at))
        });
        let seat = kept
            .ok()
            .flatten()
            .and_then(|kept| kept.seat.downcast::<Seat<S>>().ok());
        seat.map_or(Seat { state: None }, |seat| *seat)
    }

    /// Keeps the state, and drops those whose pool is gone.
    pub(in super::super) fn put<S: 'static>(pool: u64, alive: Weak<()>, seat: Seat<S>) {
        let mut new = Some(Kept {
            pool,
            alive,
            seat: Box::new(seat),
        });
        // Dropped after the borrow ends, as a state's drop may run inline closures too. A thread that is ending drops the
        // state at once.
        let _unused = SEATS.try_with(|seats| {
            let mut seats = seats.borrow_mut();
            if seats.iter().all(|kept| kept.pool != pool) {
                seats.extend(new.take());
            }
            let (gone, here) = mem::take(&mut *seats)
                .into_iter()
                .partition(|kept| kept.alive.strong_count() == 0);
            *seats = here;
            let gone: Vec<Kept> = gone;
            gone
        });
    }
}
