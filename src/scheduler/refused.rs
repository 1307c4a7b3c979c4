//! The jobs that were refused a stack because there was no memory for it.
//!
//! ```text
//!   pending ---- no memory for a stack of this size ----> the line of this size ---- there is memory ----> Running
//! ```
//!
//! Each size of a stack has a line of its own, and the jobs of one line start in the order in which they came. One size
//! that there is no memory for therefore holds up no other size. The first job of each line is tried again when a job
//! has ended, and after an interval at the latest, before the jobs that have never been refused. A job of a large size
//! may wait for as long as jobs of other sizes take what becomes free.

use std::collections::VecDeque;

use super::tasks::Pending;
use crate::stack::StackSize;

/// The lines of the jobs that were refused.
#[derive(Default)]
pub(super) struct RefusedJobs {
    /// The lines that are to be tried come first. The line that was refused last is the last one.
    lines: VecDeque<Line>,
    /// How many lines are to be tried.
    untried: usize,
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

    /// How many jobs are to be tried.
    pub(super) fn ready(&self) -> usize {
        let untried = self.lines.iter().take(self.untried);
        untried.map(|line| line.jobs.len()).sum()
    }

    /// There may be memory: each line is to be tried.
    pub(super) fn retry(&mut self) {
        self.untried = self.lines.len();
    }

    /// The next job to try.
    pub(super) fn next(&mut self) -> Option<Pending> {
        while self.untried > 0 {
            if let Some(job) = self.lines.front_mut()?.jobs.pop_front() {
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
