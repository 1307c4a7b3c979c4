//! The queue of ready tasks: first in, first out.
//!
//! ```text
//!   push, append ---> back [ .. ] ----- front is used up: the two change places -----> front [ .. ] ---> pop
//! ```
//!
//! Two lists stand in place of a ring, because a push and a pop of a list are fewer instructions, and because a list of
//! woken tasks is copied to a list as a whole.
//!
//! A task may be there twice: for a wake, and because its fd is ready, say.
//! [`next_ready`](super::tasks::Core::next_ready) passes over the second place.

use std::mem;

use super::wake::TaskId;

#[derive(Default)]
pub(super) struct ReadyQueue {
    front: Vec<TaskId>,
    /// How many of the front were popped.
    popped: usize,
    back: Vec<TaskId>,
}

impl ReadyQueue {
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.front.len() - self.popped + self.back.len()
    }

    #[inline]
    pub(super) fn push(&mut self, id: TaskId) {
        self.back.push(id);
    }

    /// The end of the queue, for a list of woken tasks.
    #[inline]
    pub(super) fn back(&mut self) -> &mut Vec<TaskId> {
        &mut self.back
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Option<TaskId> {
        let id = match self.front.get(self.popped) {
            Some(id) => *id,
            None => self.turn_over()?,
        };
        self.popped += 1;
        Some(id)
    }

    /// The back becomes the front. Returns the first one of it.
    fn turn_over(&mut self) -> Option<TaskId> {
        self.front.clear();
        self.popped = 0;
        mem::swap(&mut self.front, &mut self.back);
        self.front.first().copied()
    }

    /// The one that `n` more will be popped before, if it is in the front.
    #[inline]
    pub(super) fn peek(&self, n: usize) -> Option<TaskId> {
        self.front.get(self.popped + n).copied()
    }
}
