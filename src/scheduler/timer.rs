//! Deadlines, to the jobs to resume.
//!
//! A job that waits with a timeout again and again (a server's connection) mostly moves its deadline back. So a timer is
//! not moved: it stays at the earliest time asked for, and when it fires the task says whether it is time, or when to ask
//! again. Setting a later deadline costs nothing, and a heap entry is touched once for each time it fires.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use super::wake::TaskId;

#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, TaskId)>>,
}

impl Timers {
    /// Fires for `ticket` at `at`. Timers cannot be taken back: whoever is fired at decides whether it counts.
    pub(super) fn add(&mut self, at: Instant, id: TaskId) {
        self.heap.push(Reverse((at, id)));
    }

    /// The next timer that is due at `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Instant, TaskId)> {
        let Reverse((at, _)) = self.heap.peek()?;
        if *at > now {
            return None;
        }
        self.heap.pop().map(|Reverse(timer)| timer)
    }

    /// When the next timer fires.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }
}
