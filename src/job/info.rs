//! What a driver knows of its jobs: of each, and of all together.

use std::ptr;
use std::time::{Duration, Instant};

use super::control_block::ControlBlock;
use super::current::CURRENT;
use super::{Job, JobId};
use crate::wait_ctx::{Status, WaitCtx, WaitFd};

/// What a driver knows of one job: see [`Scheduler::jobs`](crate::scheduler::Scheduler::jobs).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JobInfo {
    /// The id of the job.
    pub id: JobId,
    /// The name of the job, if it has one.
    pub name: Option<String>,
    /// What the job does.
    pub state: JobState,
    /// How long ago the job paused, or was resumed if it runs.
    ///
    /// The figure is good to a few milliseconds with the feature `insight`, where a scheduler reads the clock at each
    /// pause. Without the feature it reads the clock once a turn, and the figure is measured from the start of the turn
    /// in which that happened: a job that paused after it had run for a second counts as paused for that second, too.
    pub in_state: Duration,
    /// The wait fds that count at the pause of the job.
    pub fds: Vec<WaitFd>,
    /// What the engine that the job waits for says.
    pub status: Status,
    /// The time at which the job is resumed at the latest, if it has a deadline.
    pub deadline: Option<Instant>,
    /// How many bytes of its stack the job has used so far: see [`Job::high_water`].
    pub high_water: usize,
    /// How many bytes of stack the job has, the guard included.
    pub stack_size: usize,
}

/// What a job that has started does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// One of the next turns resumes the job.
    Ready,
    /// The job runs. It is the job that asks, or one that has started or resumed that job.
    Running,
    /// The job waits for a callback, an fd or a deadline.
    Paused,
}

/// Counts since the scheduler was made: see [`Scheduler::stats`](crate::scheduler::Scheduler::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// How many jobs have ended in any way. A job that failed with
    /// [`JoinError::NoStack`](crate::scheduler::JoinError::NoStack) did not start and does not count.
    pub ended: u64,
    /// How many of these were cancelled, by their handle, by a shutdown or because their engine failed. The quarantined
    /// ones are included.
    pub cancelled: u64,
    /// How many of these did not end when they were cancelled, and were quarantined.
    pub quarantined: u64,
    /// How many spawns were refused, because the scheduler was full or shutting down. In a scheduler of
    /// [`Workers`](crate::scheduler::Workers) this counts the refusals of all workers.
    pub refused: u64,
    /// How often a job was started or resumed.
    pub resumes: u64,
    /// How often the scheduler asked the kernel for ready fds (`epoll_wait`).
    pub kernel_waits: u64,
}

impl<T> Job<T> {
    /// What there is to say of this job, which is in `state` since `in_state`. One system call.
    pub(crate) fn info(&self, state: JobState, in_state: Duration) -> JobInfo {
        self.control().info(state, in_state)
    }
}

impl ControlBlock {
    fn info(&self, state: JobState, in_state: Duration) -> JobInfo {
        let ctx = self.wait_ctx();
        JobInfo {
            id: self.id,
            // SAFETY: the name is written only at the start and at the end of the job, and the job is paused or runs.
            name: unsafe { &*self.name.get() }.as_deref().map(str::to_owned),
            state,
            in_state,
            fds: ctx.fds(),
            status: ctx.status(),
            deadline: ctx.deadline(),
            high_water: self.stack.high_water(),
            stack_size: ptr::from_ref(self).addr() - self.stack.limit().addr().get(),
        }
    }
}

/// The jobs that run on this thread, with their wait ctxs. The innermost comes first: the other ones have started or
/// resumed it.
pub(crate) fn running_jobs() -> Vec<(JobInfo, WaitCtx)> {
    let mut jobs = Vec::new();
    let mut running = CURRENT.get();
    while let Some(at) = running {
        // SAFETY: every control block in the chain belongs to a job that is running, and so exists.
        let control = unsafe { at.as_ref() };
        jobs.push((
            control.info(JobState::Running, Duration::ZERO),
            control.wait_ctx().clone(),
        ));
        running = control.parent.get();
    }
    jobs
}
