//! Timers: from deadlines to the jobs to resume.
//!
//! ```text
//!   set_timer(id, at):    no timer of the task in the heap, or a later one?   add one at `at`
//!                         an earlier one?                                     only remember `at` in the task
//!
//!   a timer is due:       the task's time has come?                           resume its job
//!                         its time is later?                                  add a timer at that time
//!                         it has an earlier timer, or has ended?              nothing
//! ```
//!
//! A job that waits with a timeout again and again, such as that of a server's connection, mostly moves its deadline to
//! a later time. So a timer is never moved. A later deadline costs nothing until the earlier timer is due, and each
//! entry of the heap is touched once for each time that it is due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use super::wake::TaskId;

/// The timers of all tasks of one scheduler.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, TaskId)>>,
}

impl Timers {
    /// Adds a timer for a task. A timer cannot be removed: when it is due, the task decides whether it counts.
    pub(super) fn add(&mut self, at: Instant, id: TaskId) {
        self.heap.push(Reverse((at, id)));
    }

    /// Takes the next timer that is due at `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Instant, TaskId)> {
        let Reverse((at, _)) = self.heap.peek()?;
        if *at > now {
            return None;
        }
        self.heap.pop().map(|Reverse(timer)| timer)
    }

    /// The time of the next timer.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }
}
