//! The jobs that were refused a stack because there was no memory for it.
//!
//! ```text
//!   pending ---- no memory for a stack of this size ----> the line of this size ---- there is memory ----> Running
//! ```
//!
//! Each size of a stack has a line of its own, and the jobs of one line start in the order in which they came. One size
//! that there is no memory for therefore holds up no other size. The first job of each line is tried again when a job
//! has ended, and after an interval at the latest, before the jobs that have never been refused.
//!
//! # Places that stay empty
//!
//! A job of a large size would wait for ever if jobs of small sizes took everything that becomes free. So each eighth
//! place that a task leaves stays empty: the others go on, ever fewer of them at a time, until there is memory for one
//! of the refused jobs.
//!
//! ```text
//!              eight tasks have ended                          a refused job has started
//!   Watching -------------------------> Withholding(most) ----------------------------------> Watching
//!                                        | each eighth end: one task less
//!                                        '-- no task ends for long ---> Watching, for twice as many ends
//! ```
//!
//! Tasks that stay for ever may hold what a refused job needs, and the others must not wait for them. So this is given
//! up when no task has ended for as long as it has gone on. Each time that it is given up, it begins later.

use std::collections::VecDeque;

use super::tasks::Pending;
use crate::stack::StackSize;

/// Of how many places that tasks leave one stays empty while a job is refused.
const ENDS_PER_PLACE: usize = 8;
/// For how long no task must end before the places are given up, at least, in nanoseconds.
const SHORTEST_PATIENCE: u64 = 100_000_000;
/// How often the number of ends is doubled after which it begins anew.
const MOST_DOUBLINGS: u32 = 16;

/// The lines of the jobs that were refused.
#[derive(Default)]
pub(super) struct RefusedJobs {
    /// The lines that are to be tried come first. The line that was refused last is the last one.
    lines: VecDeque<Line>,
    /// How many lines are to be tried.
    untried: usize,
    /// A job is being tried: if it is not put back, it has started.
    is_trying: bool,
    places: Places,
    /// How often empty places were given up since a refused job has started.
    given_up: u32,
}

/// Which places stay empty for the jobs that were refused. Times are those of [`clock_tick`](crate::sys::clock_tick).
#[derive(Debug)]
enum Places {
    /// None.
    Watching { ended: usize },
    /// Those above so many tasks.
    Withholding {
        most: usize,
        ended: usize,
        since: u64,
        last_end: u64,
    },
}

impl Default for Places {
    fn default() -> Self {
        Places::Watching { ended: 0 }
    }
}

/// The jobs with stacks of one size. It is empty only between [`RefusedJobs::next`] and the next call.
struct Line {
    size: Option<StackSize>,
    jobs: VecDeque<Pending>,
}

impl RefusedJobs {
    /// Whether no job was refused, as almost always.
    #[inline]
    pub(super) fn has_no_lines(&self) -> bool {
        self.lines.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.iter().all(|line| line.jobs.is_empty())
    }

    /// How many jobs there are.
    #[cfg(feature = "insight")]
    pub(super) fn len(&self) -> usize {
        self.lines.iter().map(|line| line.jobs.len()).sum()
    }

    /// Whether the job that was taken last is from a line.
    pub(super) fn is_trying(&self) -> bool {
        self.is_trying
    }

    /// How many jobs are to be tried.
    pub(super) fn ready(&self) -> usize {
        let untried = self.lines.iter().take(self.untried);
        untried.map(|line| line.jobs.len()).sum()
    }

    /// There may be memory: each line is to be tried.
    pub(super) fn retry(&mut self) {
        self.untried = self.lines.len();
    }

    /// A task has ended at `now`, and `tasks` are left.
    #[cold]
    pub(super) fn task_ended(&mut self, tasks: usize, now: u64) {
        match &mut self.places {
            Places::Watching { ended } => {
                *ended += 1;
                if *ended >= ENDS_PER_PLACE << self.given_up {
                    self.places = Places::Withholding {
                        most: tasks,
                        ended: 0,
                        since: now,
                        last_end: now,
                    };
                }
            }
            Places::Withholding {
                most, ended, last_end, ..
            } => {
                *last_end = now;
                *ended += 1;
                if ended.is_multiple_of(ENDS_PER_PLACE) {
                    *most = most.saturating_sub(1);
                }
            }
        }
    }

    /// Gives the empty places up if no task has ended for long.
    pub(super) fn give_up_places(&mut self, now: u64) {
        if let Places::Withholding { since, last_end, .. } = self.places
            && now.saturating_sub(last_end) > SHORTEST_PATIENCE.max(last_end - since)
        {
            self.given_up = MOST_DOUBLINGS.min(self.given_up + 1);
            self.places = Places::default();
        }
    }

    /// Whether a job that was not refused may start beside so many tasks.
    pub(super) fn may_others_start(&self, tasks: usize) -> bool {
        match self.places {
            Places::Withholding { most, .. } => tasks < most,
            Places::Watching { .. } => true,
        }
    }

    /// The next job to try.
    pub(super) fn next(&mut self) -> Option<Pending> {
        if std::mem::take(&mut self.is_trying) {
            // It has started, and the others may have what is left.
            self.given_up = 0;
            self.places = Places::default();
        }
        while self.untried > 0 {
            if let Some(job) = self.lines.front_mut()?.jobs.pop_front() {
                self.is_trying = true;
                return Some(job);
            }
            self.lines.pop_front(); // its last job has started
            self.untried -= 1;
        }
        None
    }

    /// Takes a job, whether it is to be tried or not. A shutdown uses this.
    pub(super) fn pop(&mut self) -> Option<Pending> {
        self.retry();
        self.next()
    }

    /// Gives back a job that may start before those in the lines. If there is a line of its size, the job goes there
    /// instead: the jobs of that line came before it.
    pub(super) fn line_up(&mut self, job: Pending) -> Option<Pending> {
        let size = job.plan.stack_size();
        match self.lines.iter_mut().find(|line| line.size == size) {
            Some(line) if !line.jobs.is_empty() => {
                line.jobs.push_back(job);
                None
            }
            _ => Some(job),
        }
    }

    /// Puts a job that was refused into the line of its size, as the first. The line is tried another time.
    pub(super) fn put_back(&mut self, job: Pending) {
        self.is_trying = false;
        let size = job.plan.stack_size();
        let Some(at) = self.lines.iter().position(|line| line.size == size) else {
            let jobs = VecDeque::from([job]);
            return self.lines.push_back(Line { size, jobs });
        };
        let Some(mut line) = self.lines.remove(at) else { return };
        if at < self.untried {
            self.untried -= 1;
        }
        line.jobs.push_front(job);
        self.lines.push_back(line);
    }
}
