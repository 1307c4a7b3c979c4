//! Timers: from deadlines to the jobs to resume.
//!
//! ```text
//!   set_timer(id, at):    the task has no timer?          add one at `at`
//!                         it has a later one?             remove that one, and add one at `at`
//!                         it has an earlier one?          only remember `at` in the task
//!
//!   a timer is due:       the task's time has come?       resume its job
//!                         its time is later?              add a timer at that time
//!
//!   the task is removed:                                  remove its timer
//! ```
//!
//! A job that waits with a timeout again and again, such as that of a server's connection, mostly moves its deadline to
//! a later time. A timer is therefore not moved to a later time: the later deadline costs nothing until the earlier
//! timer is due.
//!
//! A task has one timer at most, and a task that has ended has none. The timers are in a tree and not in a heap,
//! because a timer leaves a heap only when it is due: jobs that end early under a deadline of an hour would fill the
//! heap.

use std::collections::BTreeSet;
use std::time::Instant;

use super::wake::TaskId;

/// The timers of all tasks of one scheduler.
#[derive(Debug, Default)]
pub(super) struct Timers {
    by_time: BTreeSet<(Instant, TaskId)>,
}

impl Timers {
    /// Adds the timer of a task.
    pub(super) fn add(&mut self, at: Instant, id: TaskId) {
        self.by_time.insert((at, id));
    }

    /// Removes the timer of a task.
    pub(super) fn remove(&mut self, at: Instant, id: TaskId) {
        self.by_time.remove(&(at, id));
    }

    /// Takes the next timer that is due at `now`, and returns its task.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<TaskId> {
        let (at, _) = self.by_time.first()?;
        if *at > now {
            return None;
        }
        self.by_time.pop_first().map(|(_, id)| id)
    }

    /// The time of the next timer.
    pub(super) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }
}
