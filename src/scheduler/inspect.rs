//! What a scheduler knows of its jobs: names, states, what they wait for, and backtraces.

use std::backtrace::Backtrace;
#[cfg(feature = "insight")]
use std::collections::HashMap;
#[cfg(feature = "insight")]
use std::rc::Rc;
#[cfg(feature = "insight")]
use std::sync::Arc;
use std::time::Duration;

use super::current::Turning;
#[cfg(feature = "insight")]
use super::wake::TaskId;
use super::{Inner, JobInfo, Scheduler};
#[cfg(feature = "insight")]
use crate::insight::{Asked, DriverKind, Queues, Registration, Request};
use crate::job::{Job, JobId, running_jobs};
use crate::sys::clock_tick;

impl Scheduler {
    /// Every job that has started, in no particular order. If a job calls this, that job is in the list as
    /// [`Running`](super::JobState::Running).
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
        self.inner.list()
    }

    /// The backtrace of the pause in which a job is, captured by the job itself: see [`Job::backtrace`].
    ///
    /// `None` if this scheduler has no such job that has started, or if the job runs.
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
        let backtrace = job.backtrace(); // without a borrow, because the job runs for a moment
        if let Some(task) = self.inner.core.borrow_mut().tasks.get_mut(index) {
            task.job = Some(job);
        }
        Some(backtrace)
    }
}

impl Inner {
    fn list(&self) -> Vec<JobInfo> {
        let now = clock_tick();
        let core = self.core.borrow();
        let mut running = running_jobs();
        let started = core.tasks.iter().filter_map(|(_, task)| {
            let in_state = Duration::from_nanos(now.saturating_sub(task.since));
            match &task.job {
                Some(job) => Some(job.info(task.state(), in_state)),
                None => {
                    // The task of a job that runs has no handle. The chain of the running jobs of this thread has it.
                    let index = running.iter().position(|(_, ctx)| ctx.ptr_eq(&task.bound.ctx))?;
                    let (info, _) = running.swap_remove(index);
                    Some(JobInfo { in_state, ..info })
                }
            }
        });
        let mut jobs: Vec<_> = started.collect();
        // A job that runs for the first time has no task.
        if let Some(index) = running.iter().position(|(_, ctx)| ctx.address() == self.starting.get()) {
            let (info, _) = running.swap_remove(index);
            let in_state = Duration::from_nanos(now.saturating_sub(core.turn_began));
            jobs.push(JobInfo { in_state, ..info });
        }
        jobs
    }
}

/// Lets `insight` ask this scheduler for its jobs.
#[cfg(feature = "insight")]
pub(super) fn register(inner: &Rc<Inner>) -> Registration {
    let inbox = Arc::clone(&inner.inbox);
    let ask = move |request: Request| {
        inbox.send(Box::new(move |scheduler| {
            let _ = request.send(scheduler.inner.look());
        }));
    };
    let this = Rc::downgrade(inner);
    let look = move || this.upgrade().map_or_else(Vec::new, |inner| inner.look());
    Registration::new(
        DriverKind::Scheduler,
        ask,
        Some((Rc::new(look), Arc::clone(&inner.gauges))),
    )
}

#[cfg(feature = "insight")]
impl Inner {
    /// Every job with its frames.
    fn look(&self) -> Vec<Asked> {
        let unseen = |info| Asked {
            info,
            frames: Vec::new(),
        };
        let mut jobs: Vec<_> = self.list().into_iter().map(unseen).collect();
        let ids = self.core.borrow().ids();
        let mut frames: HashMap<_, _> = ids.into_iter().filter_map(|id| self.frames(id)).collect();
        for job in &mut jobs {
            job.frames = frames.remove(&job.info.id).unwrap_or_default();
        }
        jobs
    }

    pub(super) fn queues(&self) -> Queues {
        let (ready, unstarted, paused) = self.core.borrow().queues();
        Queues {
            ready,
            unstarted,
            paused,
            submitted: self.shared.submitted(),
        }
    }

    fn frames(&self, id: TaskId) -> Option<(JobId, Vec<usize>)> {
        let mut job = self.core.borrow_mut().take_job(id)?;
        let frames = job.frames(); // without a borrow, because the job runs for a moment
        let id_of_job = job.id();
        self.core.borrow_mut().put_job(id, job);
        Some((id_of_job, frames))
    }
}
