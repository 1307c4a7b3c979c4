//! What a scheduler knows of its jobs: names, states, what they wait for, and backtraces.

use std::backtrace::Backtrace;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
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
    /// The id of the job.
    pub id: JobId,
    /// The name of the job, if it has one.
    pub name: Option<String>,
    /// What the job does.
    pub state: JobState,
    /// How long ago the job paused, to a few milliseconds.
    pub in_state: Duration,
    /// The wait fds that count at the pause of the job.
    pub fds: Vec<WaitFd>,
    /// What the engine that the job waits for says.
    pub status: Status,
    /// The time at which the job is resumed at the latest, if it has a deadline.
    pub deadline: Option<Instant>,
    /// How many bytes of its stack the job has used so far: see [`Job::high_water`].
    pub high_water: usize,
}

/// What a job that has started does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// One of the next turns resumes the job.
    Ready,
    /// The job runs. [`Scheduler::jobs`] does not list a job that runs.
    Running,
    /// The job waits for a callback, an fd or a deadline.
    Paused,
}

impl Scheduler {
    /// Every job that has started and is paused now, in no particular order. If a job calls this, that job is missing
    /// in the list.
    ///
    /// The call makes one system call for each job.
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

    /// The backtrace of the pause in which a job is, captured by the job itself: see [`Job::backtrace`].
    ///
    /// `None` if this scheduler has no such job that has started, or if the job runs.
    ///
    /// # Panics
    ///
    /// Inside a job of this scheduler, and when a hook of the job panics.
    pub fn backtrace(&self, id: JobId) -> Option<Backtrace> {
        let _turning = Turning::enter(&self.inner);
        let (index, mut job) = {
            let mut core = self.inner.core.borrow_mut();
            let is_it = |job: &Job<()>| job.id() == id;
            let (index, task) = core.tasks.iter_mut().find(|(_, t)| t.job.as_ref().is_some_and(is_it))?;
            (index, task.job.take()?)
        };
        // The core is not borrowed here, because the job runs for a moment, and its hooks run, too.
        // If one of them panics, the job is still paused, and the scheduler goes on with it.
        let backtrace = catch_unwind(AssertUnwindSafe(|| job.backtrace()));
        if let Some(task) = self.inner.core.borrow_mut().tasks.get_mut(index) {
            task.job = Some(job);
        }
        Some(backtrace.unwrap_or_else(|payload| resume_unwind(payload)))
    }
}
