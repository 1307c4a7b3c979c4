//! Every job: its name, its state, what it waits for, since when, and where it is.

use std::backtrace::Backtrace;
use std::time::{Duration, Instant};

use super::Scheduler;
use super::current::Turning;
use crate::job::{Job, JobId};
use crate::sys::clock_tick;
use crate::wait_ctx::{Status, WaitFd};

/// What a scheduler knows of one job: see [`Scheduler::jobs`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JobInfo {
    /// Its id.
    pub id: JobId,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// What the job does.
    pub state: JobState,
    /// For how long it has been in this state, to a few milliseconds.
    pub in_state: Duration,
    /// The wait fds that it waits for.
    pub fds: Vec<WaitFd>,
    /// What the engine that it waits for says.
    pub status: Status,
    /// When it is resumed at the latest.
    pub deadline: Option<Instant>,
    /// How many bytes of its stack it has used at most: see [`Job::high_water`].
    pub high_water: usize,
}

/// What a started job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Will be resumed by one of the next turns.
    Ready,
    /// Runs, and looks at this list itself.
    Running,
    /// Waits for a callback, an fd or a deadline.
    Paused,
}

impl Scheduler {
    /// Every job that has started and not ended, in no order; but for the one that calls this, if a job does.
    ///
    /// ```
    /// use asyncjob::scheduler::{JobState, Scheduler};
    /// use asyncjob::{JobBuilder, Status, WaitCtx, pause_job};
    /// use std::time::Duration;
    ///
    /// let scheduler = Scheduler::new()?;
    /// let ctx = WaitCtx::new();
    /// ctx.set_status(Status::Ok); // as an engine that will call back
    /// let stuck = JobBuilder::new().name("stuck").wait_ctx(&ctx).spawn_on(&scheduler, pause_job)?;
    /// scheduler.turn(Some(Duration::ZERO))?;
    ///
    /// let jobs = scheduler.jobs();
    /// assert_eq!(jobs[0].name.as_deref(), Some("stuck"));
    /// assert_eq!(jobs[0].state, JobState::Paused);
    /// let at = scheduler.backtrace(jobs[0].id).unwrap().to_string();
    /// assert!(at.contains("pause_job"), "{at}");
    /// # drop(stuck);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn jobs(&self) -> Vec<JobInfo> {
        let now = clock_tick();
        let core = self.inner.core.borrow();
        let started = core.tasks.iter().filter_map(|(_, task)| {
            let job = task.job.as_ref()?;
            Some(JobInfo {
                id: job.id(),
                name: job.name().map(str::to_owned),
                state: task.state,
                in_state: Duration::from_nanos(now.saturating_sub(task.since)),
                fds: task.ctx.fds(),
                status: task.ctx.status(),
                deadline: task.ctx.deadline(),
                high_water: job.high_water(),
            })
        });
        started.collect()
    }

    /// Where a paused job is: the frames on its stack, captured by itself.
    ///
    /// `None` if there is no such job here, or it is not paused.
    ///
    /// # Panics
    ///
    /// Inside a job of this scheduler.
    pub fn backtrace(&self, id: JobId) -> Option<Backtrace> {
        let _turning = Turning::enter(&self.inner);
        let (index, mut job) = {
            let mut core = self.inner.core.borrow_mut();
            let is_it = |job: &Job<()>| job.id() == id;
            let (index, task) = core.tasks.iter_mut().find(|(_, t)| t.job.as_ref().is_some_and(is_it))?;
            (index, task.job.take()?)
        };
        // Outside the borrow: the job runs for a moment, and its hooks with it.
        let backtrace = job.backtrace();
        if let Some(task) = self.inner.core.borrow_mut().tasks.get_mut(index) {
            task.job = Some(job);
        }
        Some(backtrace)
    }
}
