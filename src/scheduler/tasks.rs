//! The jobs of one scheduler: which are ready, and what the others wait for.
//!
//! ```text
//!    reserve ---> Running ---- park ---> Paused ---- make_ready (mail, fd, timer) ---> Ready
//!                    ^                     |  '------- at once: EAGAIN, the first polls --^ |
//!                    |                     '------------------------------- retire          |
//!                    '------------------------------- next_ready ---------------------------'
//! ```
//!
//! A ready job is in the queue once: only [`make_ready`](Core::make_ready) and its siblings put it there, from Paused. A task
//! is found by its [`TaskId`], whose serial tells it from earlier ones at the same index.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use super::join::{CancelReason, Completion};
use super::reactor::Reactor;
use super::timer::Timers;
use super::wake::{Inbox, JobWaker, TaskId};
use super::{JobState, Stats};
use crate::job::{Job, JobPlan};
use crate::sys::clock_tick;
use crate::wait_ctx::{ClaimedCtx, LONGEST_INTERVAL, WaitFd, Wants};

/// How many jobs run between two looks at what has happened meanwhile.
pub(super) const BATCH: usize = 64;
/// How many jobs ahead memory is fetched: far enough for it to arrive, near enough for it to stay.
const AHEAD: usize = 4;

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndKind {
    Finished,
    Cancelled,
    Quarantined,
}

/// A job that has not started.
pub(super) struct Pending {
    pub(super) main: Box<dyn FnOnce()>,
    pub(super) completion: Arc<dyn Completion>,
    pub(super) plan: JobPlan,
    pub(super) ctx: ClaimedCtx,
}

/// A started job.
pub(super) struct Task {
    pub(super) serial: u32,
    pub(super) state: JobState,
    /// Empty while it runs.
    pub(super) job: Option<Job<()>>,
    pub(super) ctx: ClaimedCtx,
    pub(super) waker: Arc<JobWaker>,
    pub(super) completion: Arc<dyn Completion>,
    /// The entries of the ctx that the reactor knows, as of this version of the ctx.
    fds: Vec<WaitFd>,
    version: u32,
    /// The earliest timer in the heap.
    timer: Option<Instant>,
    /// When to resume it if nothing else happens.
    wake_at: Option<Instant>,
    /// How often it has polled without an event.
    polls: u32,
    /// The kernel's clock when the state changed last.
    pub(super) since: u64,
}

/// Everything that changes. Borrowed between the runs of user code, never during one.
pub(super) struct Core {
    pub(super) tasks: Slab<Task>,
    next_serial: u32,
    ready: VecDeque<TaskId>,
    pub(super) pending: VecDeque<Pending>,
    /// There was no stack for the first of them: try again when a job has ended, or then.
    retry_at: Option<Instant>,
    reactor: Reactor,
    pub(super) timers: Timers,
    /// Empty. It keeps the memory of the last list of woken tasks.
    pub(super) woken: Vec<TaskId>,
    /// The kernel's clock, and the resumes since, when the kernel was last asked.
    asked_at: u64,
    resumed_since: usize,
    pub(super) stats: Stats,
}

impl Core {
    pub(super) fn new(reactor: Reactor) -> Self {
        Core {
            tasks: Slab::new(),
            next_serial: 0,
            ready: VecDeque::new(),
            pending: VecDeque::new(),
            retry_at: None,
            reactor,
            timers: Timers::default(),
            woken: Vec::new(),
            asked_at: clock_tick(),
            resumed_since: 0,
            stats: Stats::default(),
        }
    }

    /// How many jobs a turn resumes: those that are ready now, up to a batch.
    pub(super) fn batch(&self) -> usize {
        self.ready.len().min(BATCH)
    }

    pub(super) fn runnable(&self) -> usize {
        let startable = if self.retry_at.is_none() { self.pending.len() } else { 0 };
        self.ready.len() + startable
    }

    /// The next job to start, if there may be a stack for it.
    pub(super) fn next_pending(&mut self) -> Option<Pending> {
        if self.retry_at.is_some() {
            return None;
        }
        self.pending.pop_front()
    }

    /// There is no stack for a job. The one that frees a stack is most likely one of ours; if not, time tells.
    pub(super) fn wait_for_stack(&mut self, pending: Pending) {
        self.pending.push_front(pending);
        self.retry_at = Some(Instant::now() + LONGEST_INTERVAL);
    }

    fn task(&mut self, id: TaskId) -> Option<&mut Task> {
        let task = self.tasks.get_mut(id.index as usize)?;
        (task.serial == id.serial).then_some(task)
    }

    /// Where the result of a started job goes.
    pub(super) fn completion(&mut self, id: TaskId) -> Option<Arc<dyn Completion>> {
        self.task(id).map(|task| Arc::clone(&task.completion))
    }

    pub(super) fn ids(&self) -> Vec<TaskId> {
        let id = |(index, task): (usize, &Task)| TaskId {
            index: index as u32,
            serial: task.serial,
        };
        self.tasks.iter().map(id).collect()
    }

    /// Makes a task of a job that is about to start.
    pub(super) fn reserve(
        &mut self,
        inbox: &Arc<Inbox>,
        ctx: ClaimedCtx,
        completion: &Arc<dyn Completion>,
    ) -> (TaskId, Arc<JobWaker>) {
        self.next_serial = self.next_serial.wrapping_add(1);
        let serial = self.next_serial;
        let entry = self.tasks.vacant_entry();
        let index = u32::try_from(entry.key()).expect("fewer than 2^32 jobs");
        let id = TaskId { index, serial };
        let waker = Arc::new(JobWaker::new(Arc::clone(inbox), id));
        entry.insert(Task {
            serial,
            state: JobState::Running,
            job: None,
            waker: Arc::clone(&waker),
            completion: Arc::clone(completion),
            fds: Vec::new(),
            version: ctx.version().wrapping_sub(1), // so that the first pause looks at what is in the ctx already
            ctx,
            timer: None,
            wake_at: None,
            polls: 0,
            since: self.asked_at,
        });
        self.stats.resumes += 1;
        (id, waker)
    }

    /// The job did not start after all. Gives its ctx back.
    pub(super) fn cancel_reservation(&mut self, id: TaskId) -> ClaimedCtx {
        self.stats.resumes -= 1;
        self.tasks.remove(id.index as usize).ctx
    }

    pub(super) fn retire(&mut self, id: TaskId, end: EndKind) -> Option<Task> {
        self.task(id)?;
        let task = self.tasks.try_remove(id.index as usize)?;
        for fd in &task.fds {
            self.reactor.remove(id, *fd);
        }
        self.retry_at = None;
        self.count(end);
        Some(task)
    }

    pub(super) fn count(&mut self, end: EndKind) {
        self.stats.ended += 1;
        self.stats.cancelled += u64::from(end != EndKind::Finished);
        self.stats.quarantined += u64::from(end == EndKind::Quarantined);
    }

    /// A paused job is to be resumed by one of the next turns. A job in any other state is left alone: it runs, or will.
    pub(super) fn make_ready(&mut self, id: TaskId) {
        if let Some(task) = self.task(id).filter(|task| task.state == JobState::Paused) {
            task.state = JobState::Ready;
            task.polls = 0;
            self.ready.push_back(id);
        }
    }

    /// The next job to resume, and whether it is to be cancelled instead.
    pub(super) fn next_ready(&mut self) -> Option<(TaskId, Job<()>, Option<CancelReason>)> {
        self.prefetch();
        while let Some(id) = self.ready.pop_front() {
            let now = self.asked_at;
            let Some(task) = self.task(id) else { continue };
            let Some(job) = task.job.take() else { continue };
            let told = task.waker.start_resume().then_some(CancelReason::Asked);
            task.state = JobState::Running;
            task.since = now;
            self.stats.resumes += 1;
            return Some((id, job, told));
        }
        None
    }

    /// Has the processor fetch the stack of a job that is up soon, while others run: with 100,000 deep jobs a quarter of the
    /// round trip, with few jobs nothing that can be measured.
    fn prefetch(&self) {
        let soon = self.ready.get(AHEAD).and_then(|id| self.tasks.get(id.index as usize));
        if let Some(job) = soon.and_then(|task| task.job.as_ref()) {
            job.prefetch();
        }
    }

    pub(super) fn take_job(&mut self, id: TaskId) -> Option<Job<()>> {
        self.task(id)?.job.take()
    }

    /// A job has paused: finds out what it waits for. Gives the job back if its engine has failed.
    pub(super) fn park(&mut self, id: TaskId, job: Job<()>) -> Option<Job<()>> {
        let now = self.asked_at;
        let Some(task) = self.task(id) else {
            return Some(job);
        };
        let status = task.ctx.status();
        if Wants::of(status, false, None) == Wants::Cancel {
            return Some(job);
        }
        task.job = Some(job);
        task.state = JobState::Paused;
        task.since = now;
        task.wake_at = None;
        if task.ctx.version() != task.version {
            self.sync_fds(id);
        }
        let watched = self.watch(id);
        let task = self.task(id)?;
        let deadline = task.ctx.deadline();
        match (Wants::of(status, watched == Watched::Fds, deadline), deadline) {
            (Wants::Again, _) => self.resume_after_others(id),
            (Wants::Poll, _) => self.poll_later(id),
            _ if watched == Watched::Unwatchable => self.poll_later(id),
            // The driver has resumed the job once at a deadline that has passed. A job that leaves it there and pauses again
            // polls.
            (_, Some(at)) if at <= Instant::now() => self.poll_later(id),
            (_, Some(at)) => self.set_timer(id, at),
            (_, None) => {}
        }
        None
    }

    /// Tells the reactor what has changed in the ctx: removals first, because a closed and reopened fd has the same number.
    fn sync_fds(&mut self, id: TaskId) {
        let Core { tasks, reactor, .. } = self;
        let Some(task) = tasks.get_mut(id.index as usize) else {
            return;
        };
        task.version = task.ctx.version();
        let mut now = Vec::new();
        task.ctx.visit_fds(|fd, added| now.push((fd, added)));
        for old in &task.fds {
            if !now.contains(&(*old, false)) {
                reactor.remove(id, *old);
            }
        }
        for (fd, added) in &now {
            if *added || !task.fds.contains(fd) {
                reactor.add(id, *fd);
            }
        }
        task.fds = now.into_iter().map(|(fd, _)| fd).collect();
    }

    /// Has the kernel watch the fds that count at this pause.
    fn watch(&mut self, id: TaskId) -> Watched {
        let Core { tasks, reactor, .. } = self;
        let Some(task) = tasks.get(id.index as usize) else {
            return Watched::Nothing;
        };
        let armed = task.ctx.armed();
        let mut watched = Watched::Nothing;
        for fd in task.fds.iter().filter(|fd| fd.counts(armed)) {
            if !reactor.ensure(*fd) {
                return Watched::Unwatchable;
            }
            watched = Watched::Fds;
        }
        watched
    }

    fn resume_after_others(&mut self, id: TaskId) {
        if let Some(task) = self.task(id) {
            task.state = JobState::Ready;
            self.ready.push_back(id);
        }
    }

    /// Resumes the job without an event: at once a few times, then at growing intervals.
    fn poll_later(&mut self, id: TaskId) {
        let Some(task) = self.task(id) else { return };
        let interval = Wants::poll_interval(task.polls);
        task.polls = task.polls.saturating_add(1);
        match interval {
            None => self.resume_after_others(id),
            Some(interval) => self.set_timer(id, Instant::now() + interval),
        }
    }

    fn set_timer(&mut self, id: TaskId, at: Instant) {
        let Some(task) = self.task(id) else { return };
        task.wake_at = Some(at);
        if task.timer.is_none_or(|timer| at < timer) {
            task.timer = Some(at);
            self.timers.add(at, id);
        }
    }

    /// Whether the kernel has not been asked for long enough.
    pub(super) fn kernel_is_due(&mut self, resumed: usize) -> bool {
        self.resumed_since += resumed;
        self.resumed_since >= BATCH || clock_tick() != self.asked_at
    }

    /// When something is to be done though nothing happens.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.timers.next().into_iter().chain(self.retry_at).min()
    }

    pub(super) fn until_next_timer(&self, timeout: Option<Duration>) -> Option<Duration> {
        let timer = self.next_timer().map(|at| at.saturating_duration_since(Instant::now()));
        match (timer, timeout) {
            (Some(timer), Some(timeout)) => Some(timer.min(timeout)),
            (timer, timeout) => timer.or(timeout),
        }
    }

    /// Waits for fds, and makes ready the jobs whose fds or timers are.
    pub(super) fn wait(&mut self, timeout: Option<Duration>, inbox: &Inbox) -> io::Result<()> {
        let Core {
            tasks, ready, reactor, ..
        } = self;
        let take = |id: TaskId, fd: &WaitFd| {
            let Some(task) = tasks.get_mut(id.index as usize).filter(|t| t.serial == id.serial) else {
                return false;
            };
            if task.state != JobState::Paused {
                return true; // it runs already, or will
            }
            let counts = fd.counts(task.ctx.armed());
            if counts {
                task.state = JobState::Ready;
                task.polls = 0;
                ready.push_back(id);
            }
            counts
        };
        let waited = reactor.wait(timeout, take, || inbox.clear_notifier());
        self.stats.kernel_waits += 1;
        self.resumed_since = 0;
        self.asked_at = clock_tick();
        self.fire_timers();
        waited
    }

    fn fire_timers(&mut self) {
        if self.next_timer().is_none() {
            return;
        }
        let now = Instant::now();
        self.retry_at = self.retry_at.filter(|at| *at > now);
        while let Some((at, id)) = self.timers.pop_due(now) {
            let Some(task) = self.task(id).filter(|task| task.timer == Some(at)) else {
                continue; // the job has ended, or has an earlier timer
            };
            task.timer = None;
            match task.wake_at {
                Some(wake_at) if task.state == JobState::Paused && wake_at <= now => self.resume_after_others(id),
                Some(wake_at) if task.state == JobState::Paused => self.set_timer(id, wake_at),
                _ => {}
            }
        }
    }
}

/// What the reactor has of a paused job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watched {
    /// No fd counts.
    Nothing,
    /// Every fd that counts.
    Fds,
    /// Some fd that counts cannot be watched: a regular file, a number that is not open.
    Unwatchable,
}
