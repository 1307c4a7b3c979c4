//! Which idle stacks have not been used for a while.
//!
//! ```text
//!   the list of idle stacks, last in, first out:   | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 |  <--- take, give
//!   marks, each with the stack and its last job:         ^       ^       ^       ^       ^
//! ```
//!
//! A stack that is taken is the last of its list, so those that are not needed are the first ones. A take and a give
//! therefore record nothing. A mark remembers which stack was at a place, and which job had used it last. When both are
//! the same at the end of the idle time, neither that stack nor those before it were needed meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::depot;

/// Marks of a list, at equal distances. Stacks between a mark that was needed and one that was not count as needed.
const MARKS: usize = 8;

/// How long a stack may be idle, in nanoseconds.
static IDLE_TIME: AtomicU64 = AtomicU64::new(10_000_000_000);

/// Sets how long a stack stays in memory without being used: 10 seconds unless you set it. `Duration::MAX` is for ever.
///
/// The memory of a stack goes back to the kernel after it has been idle for once to twice as long. Each
/// [`Scheduler`](crate::scheduler::Scheduler) sees to that, for the stacks of its thread and for those that threads
/// share. A program without a scheduler calls [`pool::decay`](crate::pool::decay). With a time of zero, a stack that
/// exceeds [`set_max_cached`](super::set_max_cached) gives its memory back when its job ends.
pub fn set_idle_time(time: Duration) {
    let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    IDLE_TIME.store(nanoseconds, Ordering::Relaxed);
}

/// In nanoseconds. `u64::MAX` is for ever.
pub(crate) fn idle_time() -> u64 {
    IDLE_TIME.load(Ordering::Relaxed)
}

/// Gives the memory of the stacks back that threads share and that have been idle for the idle time, by the time `now`.
/// Returns how long it is until there may be more.
pub(crate) fn decay(now: u64) -> Option<Duration> {
    depot::all().filter_map(|depot| depot.decay(now)).min()
}

/// An idle stack, of a list.
pub(crate) trait Idle {
    /// Which stack it is, and which job has used it last.
    fn last_use(&self) -> (usize, u64);
}

/// When a list of idle stacks was last marked, and the marks.
#[derive(Clone, Copy)]
pub(crate) struct IdleMarks {
    /// In nanoseconds of the kernel's clock.
    marked_at: Option<u64>,
    marks: [Option<Mark>; MARKS],
}

#[derive(Clone, Copy)]
struct Mark {
    place: usize,
    last_use: (usize, u64),
}

impl IdleMarks {
    pub(crate) const NONE: IdleMarks = IdleMarks {
        marked_at: None,
        marks: [None; MARKS],
    };

    /// Takes the stacks out of the list that have not been used for the idle time, but leaves `keep` stacks. Also
    /// returns how long it is until there may be more: `None` if there will be none.
    pub(crate) fn take_unused<T: Idle>(
        &mut self,
        now: u64,
        stacks: &mut Vec<T>,
        keep: usize,
    ) -> (Vec<T>, Option<Duration>) {
        let idle_time = idle_time();
        let mut unused = Vec::new();
        if self.age(now).is_none_or(|age| age >= idle_time) {
            let spare = stacks.len().saturating_sub(keep);
            unused = stacks.drain(..self.unused(stacks).min(spare)).collect();
            self.mark(now, stacks);
        }
        let left = idle_time.saturating_sub(self.age(now).unwrap_or(0));
        let has_more = stacks.len() > keep && idle_time != u64::MAX;
        (unused, has_more.then_some(Duration::from_nanos(left)))
    }

    fn age(&self, now: u64) -> Option<u64> {
        self.marked_at.map(|at| now.saturating_sub(at))
    }

    /// How many stacks have not been used since the list was marked. They are the first ones.
    fn unused<T: Idle>(&self, stacks: &[T]) -> usize {
        let is_unused = |mark: &&Mark| {
            let there = stacks.get(mark.place);
            there.is_some_and(|stack| stack.last_use() == mark.last_use)
        };
        let highest = self
            .marks
            .iter()
            .flatten()
            .filter(is_unused)
            .map(|mark| mark.place + 1)
            .max();
        highest.unwrap_or(0)
    }

    fn mark<T: Idle>(&mut self, now: u64, stacks: &[T]) {
        self.marked_at = Some(now);
        for (at, mark) in self.marks.iter_mut().enumerate() {
            let place = (stacks.len() * (at + 1)).div_ceil(MARKS).checked_sub(1);
            *mark = place.map(|place| Mark {
                place,
                last_use: stacks[place].last_use(),
            });
        }
    }
}
