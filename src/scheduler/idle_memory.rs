//! Memory that goes back to the kernel with time: below the pauses of jobs that are paused for long, and idle stacks.
//! With the stacks, the blocks of a burst of jobs go back to the heap.
//!
//! ```text
//!   a job has run ----> both clocks run ----> `trim_after`:  each job that has been paused for as long is trimmed
//!                                       '---> `idle_time`:   the stacks that have been idle for as long are given back
//!
//!   nothing is left to trim, or to give back ----> the clock stops, until a job has run
//! ```
//!
//! Nothing is written at a pause or a resume. A look goes through the tasks a piece at a time, a piece in each turn, so
//! that a million of them do not hold up the others. The kernel's clock ticks every few milliseconds, which is exact
//! enough here and costs less than a deadline.

use std::time::Duration;

use super::JobState;
use super::tasks::Core;
use crate::job::decay_blocks;
use crate::pool;
use crate::stack::depot::{LEAVE_AFTER, has_surplus};
use crate::stack::idle_time;
use crate::sys::clock_tick;

/// How many tasks one turn looks at.
const LOOKS: usize = 1024;
/// How many jobs one turn trims.
const TRIMS: usize = 32;
/// A look begins when the first job is due, but this part of the time after the last look at the earliest.
const PRECISION: u64 = 8;

/// When to give memory back. Times are those of [`clock_tick`], in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct IdleMemory {
    /// How long a job is paused before it is trimmed, if the user has set a time.
    trim_after: Option<u64>,
    /// When the next piece of the tasks is looked at. `None` if every paused job is trimmed.
    trim_at: Option<u64>,
    look: Look,
    /// When the idle stacks are looked at. `None` if there are none.
    decay_at: Option<u64>,
    /// The count of resumes when the clocks were last set.
    resumes: u64,
}

/// A look at all tasks.
#[derive(Debug, Default)]
struct Look {
    /// The index of the next task to look at. 0 between two looks.
    next: usize,
    /// The count of resumes when the look began.
    resumes: u64,
    /// Since when the first job is paused that is to be trimmed later.
    earliest: Option<u64>,
}

impl IdleMemory {
    pub(super) fn new(trim_after: Option<Duration>) -> Self {
        IdleMemory {
            trim_after: trim_after.map(nanoseconds),
            ..IdleMemory::default()
        }
    }

    /// When there is something to do.
    #[inline]
    pub(super) fn next(&self) -> Option<u64> {
        match (self.trim_at, self.decay_at) {
            (Some(trim), Some(decay)) => Some(trim.min(decay)),
            (trim, decay) => trim.or(decay),
        }
    }

    /// How long it is until then.
    pub(super) fn left(&self) -> Option<Duration> {
        let at = self.next()?;
        Some(Duration::from_nanos(at.saturating_sub(clock_tick())))
    }

    /// Sets the clocks that stand still, if a job has run since they were set. The scheduler calls this around each
    /// question to the kernel.
    #[inline]
    pub(super) fn job_may_have_run(&mut self, resumes: u64) {
        if resumes != self.resumes {
            self.resumes = resumes;
            if self.decay_at.is_none() || self.trim_at.is_none() && self.trim_after.is_some() {
                self.set_clocks();
            }
        }
    }

    #[cold]
    fn set_clocks(&mut self) {
        let now = clock_tick();
        // A time that the clock does not reach is never.
        let after = |time: u64| now.checked_add(time);
        let idle_time = idle_time();
        if self.decay_at.is_none() && (idle_time != u64::MAX || has_surplus()) {
            self.decay_at = after(idle_time.min(LEAVE_AFTER));
        }
        self.trim_at = self.trim_at.or_else(|| after(self.trim_after?));
    }
}

impl Core {
    /// Gives memory back if it is time to.
    #[inline]
    pub(super) fn give_memory_back(&mut self, now: u64) {
        if self.idle_memory.decay_at.is_some_and(|at| at <= now) {
            decay_blocks();
            // A crowd may end before the idle time is over.
            let again = pool::decay().map(|again| again.min(Duration::from_nanos(LEAVE_AFTER)));
            self.idle_memory.decay_at = again.and_then(|again| now.checked_add(nanoseconds(again)));
        }
        if self.idle_memory.trim_at.is_some_and(|at| at <= now) {
            self.trim_paused(now);
        }
    }

    /// Looks at a piece of the tasks, and trims those jobs that have been paused for long.
    #[cold]
    fn trim_paused(&mut self, now: u64) {
        let resumes = self.stats.resumes;
        let Core { tasks, idle_memory, .. } = self;
        let after = idle_memory.trim_after.unwrap_or(u64::MAX);
        let look = &mut idle_memory.look;
        if look.next == 0 {
            *look = Look {
                resumes,
                ..Look::default()
            };
        }
        let mut trims = 0;
        let piece = look.next..(look.next + LOOKS).min(tasks.capacity());
        for index in piece {
            if trims == TRIMS {
                return; // the rest comes in the next turn, which is due at once
            }
            look.next = index + 1;
            let Some(task) = tasks.get_mut(index) else { continue };
            // A task is trimmed at a later tick than that of its pause, so no two pauses around it have one tick.
            if task.state() != JobState::Paused || task.trimmed == task.since {
                continue;
            }
            if now.saturating_sub(task.since) <= after {
                let earliest = look.earliest.get_or_insert(task.since);
                *earliest = task.since.min(*earliest);
            } else if let Some(job) = &mut task.job {
                job.trim();
                task.trimmed = task.since;
                trims += 1;
            }
        }
        if look.next < tasks.capacity() {
            return;
        }
        // A job that paused meanwhile, at an index that was looked at already, is not known.
        let has_paused = look.resumes != resumes;
        let earliest = look.earliest.into_iter().chain(has_paused.then_some(now)).min();
        look.next = 0;
        idle_memory.trim_at = earliest.map(|since| {
            let due = since.saturating_add(after).saturating_add(1);
            due.max(now.saturating_add(after / PRECISION))
        });
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
