//! The jobs of one scheduler: which of them are ready, and what the others wait for.
//!
//! ```text
//!   started ---- park_first --------------> Paused ---- add_woken: a wake --------> queued, and woken
//!      |                                      ^  |-------- wait: a ready fd ---------->  Ready
//!      |                                      |  |-------- fire_timers: a timer ------>  |
//!      |                                      |  |-------- make_ready: a cancel ------>  |
//!      |                                      |  '-------- park: Wants::Again, Poll -->  |
//!      |                                    park                                         |
//!      |                                      |                                          |
//!      |                     retire <------ Running <--------------- next_ready ---------'
//!      '---> end: the job has ended
//! ```
//!
//! A job gets a task when it pauses for the first time: most jobs of some programs never do. A ready task is in the
//! queue of ready tasks. One whose waker was called is put there without a look at it, and its state stays Paused: the
//! latch of the waker or a mark says that it is woken. [`next_ready`](Core::next_ready) looks at both, and passes over
//! a task that has been resumed since it was put there. A task is found by its [`TaskId`], whose serial distinguishes
//! it from earlier tasks at the same index. A shutdown takes the jobs out of tasks in every state, and retires these
//! tasks.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use super::bound_ctx::{BoundCtx, MOST_SPARE};
use super::cancel::CancelReason;
use super::idle_memory::IdleMemory;
use super::join::{JoinState, SpawnedJob};
use super::reactor::{Reactor, Registration};
use super::ready::ReadyQueue;
use super::refused::RefusedJobs;
use super::timer::Timers;
use super::wake::{Inbox, TaskId};
use super::{JobState, Stats};
use crate::error::StartErrorKind;
use crate::job::{Job, JobPlan, OwnedClosure, fetch_value};
use crate::sys::{PollerFd, clock_tick};
use crate::wait_ctx::{ClaimedCtx, LONGEST_INTERVAL, Status, WaitFd, WakeCause, Wants};

/// How many jobs are started, and how many are resumed, before the scheduler looks at what has happened meanwhile.
pub(super) const BATCH: usize = 64;
/// How many jobs ahead the memory of a job is fetched: early enough for the memory to arrive, and late enough for it to
/// stay in the cache.
const AHEAD: usize = 4;
/// How many jobs ahead its task is fetched, which says where that memory is.
const TASK_AHEAD: usize = 2 * AHEAD;
/// How many lines of its frames are fetched for a job. More lines make the processor wait more than they save.
const FRAME_LINES: usize = 4;
/// How many jobs are in the cache anyway: each touches about ten lines of it.
const FIT_IN_CACHE: usize = 256;

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndKind {
    Finished,
    Cancelled,
    Quarantined,
}

/// A job that has not started.
pub(super) struct Pending {
    pub(super) main: OwnedClosure<JoinState>,
    pub(super) plan: JobPlan,
    /// The ctx that the spawner has given the job.
    pub(super) ctx: Option<ClaimedCtx>,
}

/// A job that has started.
pub(super) struct Task {
    pub(super) serial: u32,
    state: JobState,
    /// The handle of the job. It is absent while the job runs.
    pub(super) job: Option<Job<()>>,
    pub(super) bound: BoundCtx,
    pub(super) completion: SpawnedJob,
    seldom: Seldom,
    /// The entries of the ctx that the reactor knows, newest first, as of `version` of the ctx.
    fds: Vec<KnownFd>,
    /// That version, and [`HAS_FDS`] if `fds` is not empty: one comparison says that there was no fd and is none.
    version: u64,
    /// The time of the task's timer, which is not later than `wake_at`.
    timer: Option<Instant>,
    /// The time to resume the job if nothing else happens.
    wake_at: Option<Instant>,
    /// The kernel's clock at the start of the turn in which the job was last resumed or paused.
    pub(super) since: u64,
    /// `since` of the pause in which the job was last trimmed, or [`NEVER_TRIMMED`].
    pub(super) trimmed: u64,
}

/// What a resume has to think of, and what mostly is not there: one comparison says so.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seldom(u16);

impl Seldom {
    const NOTHING: Self = Seldom(0);
    /// The job is to be cancelled when it would be resumed next.
    const CANCELLED: u16 = 1 << 15;
    /// How often the job has polled without an event. From some number on, the interval does not grow any more.
    const POLLS: u16 = 0xff;

    fn is_cancelled(self) -> bool {
        self.0 & Self::CANCELLED != 0
    }

    fn cancel(&mut self) {
        self.0 |= Self::CANCELLED;
    }

    /// There was an event.
    fn end_polls(&mut self) {
        self.0 &= !Self::POLLS;
    }

    /// Counts a poll. Returns how many there were before.
    fn poll(&mut self) -> u32 {
        let before = self.0 & Self::POLLS;
        self.0 += u16::from(before != Self::POLLS);
        u32::from(before)
    }
}

impl Task {
    #[inline]
    fn paused(&mut self, job: Job<()>, now: u64) {
        let absent = self.job.replace(job);
        debug_assert!(absent.is_none());
        mem::forget(absent); // so that no code for the drop of a job is here
        self.state = JobState::Paused;
        if cfg!(feature = "insight") {
            self.since = now; // without it, the resume in this turn has stored the same
        }
        debug_assert_eq!(self.since, now);
        self.wake_at = None;
    }

    /// The state, of which a woken task has none of its own.
    pub(super) fn state(&self) -> JobState {
        if self.state == JobState::Paused && self.bound.waker.is_woken() {
            return JobState::Ready;
        }
        self.state
    }
}

/// What [`Core::next_ready`] finds. The job is out of its task.
pub(super) enum Next {
    Resume(TaskId, Job<()>),
    /// The job is to be cancelled in place of a resume.
    Cancel(TaskId, Job<()>),
    Nothing,
}

/// What is left of a job that has ended, for the caller to drop when the core is not borrowed: it may own what belongs
/// to the user.
#[allow(dead_code, reason = "what is dropped is not looked at")]
pub(super) struct Retired(SpawnedJob, Option<BoundCtx>);

/// The kernel's clock does not get there.
const NEVER_TRIMMED: u64 = u64::MAX;
/// Is set beside a version of 32 bits.
const HAS_FDS: u64 = 1 << 32;

/// An entry of a ctx that the reactor knows.
struct KnownFd {
    /// The serial of the entry in its ctx.
    serial: u64,
    registration: Registration,
}

/// The state of a scheduler that changes. It is borrowed between the runs of user code, never during one.
pub(super) struct Core {
    pub(super) tasks: Slab<Task>,
    next_serial: u32,
    ready: ReadyQueue,
    pub(super) pending: VecDeque<Pending>,
    /// The jobs that there was no memory for.
    refused: RefusedJobs,
    /// Whether the pool was at its limit for the first pending job, so that no job can start.
    pool_is_full: bool,
    /// Set when there was no stack for a job. It is tried again when another job has ended, or at this time.
    retry_at: Option<Instant>,
    reactor: Reactor,
    inbox: Arc<Inbox>,
    pub(super) timers: Timers,
    /// The wait ctxs of ended jobs, for the next ones.
    spare: Vec<BoundCtx>,
    /// An empty list, which keeps the memory of the last list of woken tasks.
    pub(super) woken: Vec<TaskId>,
    /// The kernel's clock when the kernel was last asked for ready fds.
    pub(super) asked_at: u64,
    /// How many starts, resumes and calls there were since then.
    pub(super) resumed_since: usize,
    /// The kernel's clock at the start of the turn, or with `insight` at the last pause if that was later. `asked_at`
    /// is no substitute: between two turns a host may have done other things for any time.
    pub(super) turn_began: u64,
    pub(super) stats: Stats,
    pub(super) idle_memory: IdleMemory,
}

impl Core {
    pub(super) fn new(reactor: Reactor, inbox: Arc<Inbox>, idle_memory: IdleMemory) -> Self {
        Core {
            tasks: Slab::new(),
            next_serial: 0,
            ready: ReadyQueue::default(),
            pending: VecDeque::new(),
            refused: RefusedJobs::default(),
            pool_is_full: false,
            retry_at: None,
            reactor,
            inbox,
            timers: Timers::default(),
            spare: Vec::new(),
            woken: Vec::new(),
            asked_at: clock_tick(),
            resumed_since: 0,
            turn_began: clock_tick(),
            stats: Stats::default(),
            idle_memory,
        }
    }

    /// The fd that a host polls, or watches.
    pub(super) fn fd_for_host(&mut self) -> io::Result<Rc<PollerFd>> {
        self.reactor.fd_for_host()
    }

    /// How many jobs a turn resumes: those that are ready now, up to a batch.
    pub(super) fn batch(&self) -> usize {
        self.ready.len().min(BATCH)
    }

    /// How many jobs can be started or resumed now.
    #[inline]
    pub(super) fn runnable(&self) -> usize {
        if self.refused.has_no_lines() && !self.pool_is_full {
            return self.ready.len() + self.pending.len();
        }
        self.runnable_beside_refused()
    }

    #[cold]
    fn runnable_beside_refused(&self) -> usize {
        if self.pool_is_full {
            return self.ready.len();
        }
        let may_start = self.refused.may_others_start(self.tasks.len());
        let pending = if may_start { self.pending.len() } else { 0 };
        self.ready.len() + self.refused.ready() + pending
    }

    /// How many jobs are ready, have not started, and are paused.
    #[cfg(feature = "insight")]
    pub(super) fn queues(&self) -> (usize, usize, usize) {
        let paused = self.tasks.len().saturating_sub(self.ready.len());
        (self.ready.len(), self.pending.len() + self.refused.len(), paused)
    }

    /// Whether some job has not started.
    pub(super) fn has_unstarted(&self) -> bool {
        !self.pending.is_empty() || !self.refused.is_empty()
    }

    /// Takes a job that has not started.
    pub(super) fn take_unstarted(&mut self) -> Option<Pending> {
        self.pending.pop_front().or_else(|| self.refused.pop())
    }

    /// Takes the next job to start, if there may be a stack for it, and counts its start.
    #[inline]
    pub(super) fn start_next(&mut self) -> Option<Pending> {
        let next = self.next_pending()?;
        self.stats.resumes += 1;
        Some(next)
    }

    fn next_pending(&mut self) -> Option<Pending> {
        if self.pool_is_full {
            return None;
        }
        if self.refused.has_no_lines() {
            return self.pending.pop_front();
        }
        self.next_beside_refused()
    }

    #[cold]
    fn next_beside_refused(&mut self) -> Option<Pending> {
        if let Some(refused) = self.refused.next() {
            return Some(refused);
        }
        loop {
            if !self.refused.may_others_start(self.tasks.len()) {
                return None;
            }
            let next = self.refused.line_up(self.pending.pop_front()?);
            if next.is_some() {
                return next;
            }
        }
    }

    /// Makes a job pending again, for which there was no stack. The job that frees a stack is most likely one of this
    /// scheduler. If it is not, the job is tried again after some time.
    pub(super) fn wait_for_stack(&mut self, pending: Pending, refusal: &StartErrorKind) {
        let no_memory = matches!(refusal, StartErrorKind::NoStack(_));
        if no_memory || self.refused.is_trying() {
            self.refused.put_back(pending);
        } else {
            self.pending.push_front(pending);
        }
        self.pool_is_full = !no_memory;
        self.retry_at.get_or_insert_with(|| Instant::now() + LONGEST_INTERVAL);
    }

    /// The task with this id, if it still exists.
    fn task(&mut self, id: TaskId) -> Option<&mut Task> {
        let task = self.tasks.get_mut(id.index as usize)?;
        (task.serial == id.serial).then_some(task)
    }

    /// The place for the result of a started job.
    pub(super) fn completion(&mut self, id: TaskId) -> Option<SpawnedJob> {
        self.task(id).map(|task| task.completion.clone())
    }

    /// The ids of all tasks.
    pub(super) fn ids(&self) -> Vec<TaskId> {
        let id = |(index, task): (usize, &Task)| TaskId {
            index: index as u32,
            serial: task.serial,
        };
        self.tasks.iter().map(id).collect()
    }

    /// A wait ctx that another job has left behind.
    pub(super) fn take_spare(&mut self) -> Option<BoundCtx> {
        self.spare.pop()
    }

    /// Keeps a wait ctx that is as good as new for another job. Gives it back if there are enough.
    pub(super) fn keep_spare(&mut self, bound: BoundCtx) -> Option<BoundCtx> {
        if self.spare.len() == MOST_SPARE {
            return Some(bound);
        }
        self.spare.push(bound);
        None
    }

    /// Makes the task of a job that has paused for the first time.
    fn insert(&mut self, bound: BoundCtx, completion: SpawnedJob) -> TaskId {
        let serial = self.next_serial;
        self.next_serial = if serial == TaskId::LAST_SERIAL { 0 } else { serial + 1 };
        let version = bound.ctx.version().wrapping_sub(1); // this pause reads the entries that are there
        let index = self.tasks.insert(Task {
            serial,
            state: JobState::Running,
            job: None,
            bound,
            completion,
            seldom: Seldom::NOTHING,
            fds: Vec::new(),
            version: u64::from(version),
            timer: None,
            wake_at: None,
            since: self.turn_began,
            trimmed: NEVER_TRIMMED,
        });
        let index = u32::try_from(index).ok().filter(|index| *index != u32::MAX);
        let index = index.expect("fewer than 2^32 - 1 jobs");
        TaskId { index, serial }
    }

    /// Removes the task of a job that has ended, and counts the job.
    pub(super) fn retire(&mut self, id: TaskId, end: EndKind) -> Option<Retired> {
        self.task(id)?;
        let task = self.tasks.try_remove(id.index as usize)?;
        for fd in &task.fds {
            self.reactor.remove(fd.registration);
        }
        if let Some(at) = task.timer {
            self.timers.remove(at, id);
        }
        if !self.refused.has_no_lines() {
            self.refused.task_ended(self.tasks.len(), clock_tick());
        }
        Some(self.end(task.bound, task.completion, end))
    }

    /// Counts a job that has ended, and keeps its ctx for another one.
    #[inline]
    fn end(&mut self, mut bound: BoundCtx, completion: SpawnedJob, end: EndKind) -> Retired {
        self.ended(end);
        if self.spare.len() == MOST_SPARE || !bound.renew() {
            return Retired(completion, Some(bound));
        }
        self.spare.push(bound);
        Retired(completion, None)
    }

    /// Counts a job that has ended. There may be a stack for another one now.
    #[inline]
    pub(super) fn ended(&mut self, end: EndKind) {
        self.pool_is_full = false;
        self.refused.retry();
        self.count(end);
    }

    /// Counts a job that has ended.
    pub(super) fn count(&mut self, end: EndKind) {
        self.stats.ended += 1;
        self.stats.cancelled += u64::from(end != EndKind::Finished);
        self.stats.quarantined += u64::from(end == EndKind::Quarantined);
    }

    /// Lets one of the next turns resume a paused job. A job in another state runs, or will run, so nothing is to be
    /// done.
    pub(super) fn make_ready(&mut self, id: TaskId, cause: WakeCause) {
        if let Some(task) = self.task(id).filter(|task| task.state == JobState::Paused) {
            task.bound.ctx.woken(cause);
            task.state = JobState::Ready;
            task.seldom.end_polls();
            self.ready.push(id);
        }
    }

    /// Puts the tasks whose wakers were called into the queue of ready tasks, and leaves an empty list.
    /// [`next_ready`](Self::next_ready) looks at each of them.
    #[inline]
    pub(super) fn add_woken(&mut self, woken: &mut Vec<TaskId>) {
        self.ready.back().append(woken);
    }

    /// As [`add_woken`](Self::add_woken), for what was woken on this thread since the turn began, or since the last
    /// call.
    #[inline]
    pub(super) fn add_woken_here(&mut self) {
        self.inbox.local.take(self.ready.back());
    }

    /// As [`add_woken`](Self::add_woken), for a task whose latch is not set: its state says that it is woken.
    pub(super) fn add_first_woken(&mut self, id: TaskId) {
        if let Some(task) = self.task(id).filter(|task| task.state == JobState::Paused) {
            task.state = JobState::Ready;
            task.seldom.end_polls();
            self.ready.push(id);
        }
    }

    /// Lets the scheduler cancel these tasks when it would resume them next, and lets one of the next turns resume
    /// those that are paused.
    #[cold]
    pub(super) fn cancel_next(&mut self, ids: Vec<TaskId>) {
        for id in ids {
            if let Some(task) = self.task(id) {
                task.seldom.cancel();
                self.make_ready(id, WakeCause::Cancel);
            }
        }
    }

    /// The next job to resume.
    #[inline]
    pub(super) fn next_ready(&mut self) -> Next {
        if self.tasks.len() >= FIT_IN_CACHE {
            self.prefetch();
        }
        while let Some(id) = self.ready.pop() {
            let Some(task) = self.tasks.get_mut(id.index as usize) else {
                continue;
            };
            if task.serial != id.serial {
                continue;
            }
            let is_woken = task.bound.waker.start_resume(&self.inbox);
            if !is_woken && task.state != JobState::Ready {
                continue; // the job has been resumed since this wake, which was about the pause before
            }
            let Some(job) = task.job.take() else { continue };
            task.state = JobState::Running;
            task.since = self.turn_began;
            self.stats.resumes += 1;
            if task.seldom != Seldom::NOTHING {
                if is_woken {
                    task.seldom.end_polls();
                }
                if task.seldom.is_cancelled() {
                    return Next::Cancel(id, job);
                }
            }
            return Next::Resume(id, job);
        }
        Next::Nothing
    }

    /// Lets the processor fetch what the next resumes will touch, while other jobs run. Of 100,000 jobs that are woken
    /// in random order this saves nearly half. Few jobs stay in the cache by themselves.
    #[inline(never)]
    fn prefetch(&self) {
        let Some(soon) = self.ready.peek(AHEAD) else { return };
        let Some(task) = self.tasks.get(soon.index as usize) else {
            return;
        };
        if let Some(job) = &task.job {
            job.fetch::<FRAME_LINES>(task.bound.ctx.read_by_resume());
        }
        if let Some(later) = self.ready.peek(TASK_AHEAD) {
            // The slab gives no address without reading what lies there. An address of nothing would do no harm.
            let apart = later.index.wrapping_sub(soon.index) as i32 as isize;
            let later = std::ptr::from_ref(task).wrapping_offset(apart);
            fetch_value(later);
        }
    }

    /// Takes the job out of its task, in whatever state the task is.
    pub(super) fn take_job(&mut self, id: TaskId) -> Option<Job<()>> {
        self.task(id)?.job.take()
    }

    /// Puts a job back that [`take_job`](Self::take_job) gave out.
    #[cfg(feature = "insight")]
    pub(super) fn put_job(&mut self, id: TaskId, job: Job<()>) {
        if let Some(task) = self.task(id) {
            task.job = Some(job);
        }
    }

    /// Handles a job that has paused for the first time: makes its task, and then does what [`park`](Self::park) does.
    /// Returns the id of the task, too.
    pub(super) fn park_first(
        &mut self,
        job: Job<()>,
        bound: BoundCtx,
        completion: SpawnedJob,
    ) -> (TaskId, Option<(Job<()>, CancelReason)>) {
        let id = self.insert(bound, completion);
        let task = &self.tasks[id.index as usize];
        let is_woken = task.bound.waker.set_task(id);
        if !task.completion.shared().paused(&self.inbox, id) {
            return (id, Some((job, CancelReason::Asked)));
        }
        let refused = self.park(id, job);
        if is_woken && refused.is_none() {
            self.make_ready(id, WakeCause::Callback);
        }
        (id, refused)
    }

    /// Handles a job that has paused: finds out what the job waits for. Gives the job back if there is a reason to
    /// cancel it.
    #[inline]
    pub(super) fn park(&mut self, id: TaskId, job: Job<()>) -> Option<(Job<()>, CancelReason)> {
        // The job may have run for long. Only `insight` pays for a look at the clock here, of 4 ns.
        #[cfg(feature = "insight")]
        {
            self.turn_began = clock_tick();
        }
        let Some(task) = self.tasks.get_mut(id.index as usize) else {
            return Some((job, CancelReason::Asked));
        };
        let ctx = &*task.bound.ctx;
        if ctx.status() == Status::Ok && u64::from(ctx.version()) == task.version && !ctx.has_deadline() {
            // As below, for most jobs.
            task.paused(job, self.turn_began);
            return None;
        }
        let wants = Wants::of(ctx.status(), false, None);
        if wants == Wants::Cancel {
            return Some((job, CancelReason::EngineFailed));
        }
        let has_fds = u64::from(ctx.version()) != task.version;
        let has_deadline = ctx.has_deadline();
        task.paused(job, self.turn_began);
        if wants == Wants::Callback && !has_fds && !has_deadline {
            return None;
        }
        if wants == Wants::Again && !has_fds {
            self.resume_after_others(id, WakeCause::Retry);
        } else {
            self.park_watched(id);
        }
        None
    }

    /// As [`park`](Self::park), for a job that waits for fds or a time, or has done so before.
    #[inline(never)] // its frame would be that of `park`
    fn park_watched(&mut self, id: TaskId) {
        if self.waits_as_before(id) {
            return;
        }
        self.sync_fds(id);
        let watched = self.watch(id);
        let Some(task) = self.task(id) else { return };
        let (status, deadline) = (task.bound.ctx.status(), task.bound.ctx.deadline());
        match (Wants::of(status, watched == Watched::Fds, deadline), deadline) {
            (Wants::Again, _) => self.resume_after_others(id, WakeCause::Retry),
            (Wants::Poll, _) => self.poll_later(id),
            _ if watched == Watched::Unwatchable => self.poll_later(id),
            // The scheduler has resumed the job once at a deadline that has passed. If the job leaves that deadline in
            // the ctx and pauses again, it is polled.
            (_, Some(at)) if at <= Instant::now() => self.poll_later(id),
            (_, Some(at)) => self.set_timer(id, at),
            (_, None) => {}
        }
    }

    /// Tells the reactor what has changed in the ctx, if anything has. Removals come first, because an fd that was
    /// closed and opened again has the same number.
    ///
    /// Both lists are in the order of the serials, so one pass over the two finds the entries that have stayed.
    fn sync_fds(&mut self, id: TaskId) {
        let Core { tasks, reactor, .. } = self;
        let Some(task) = tasks.get_mut(id.index as usize) else {
            return;
        };
        let version = task.bound.ctx.version();
        if task.version as u32 == version {
            return;
        }
        let now = task.bound.ctx.live_fds();
        let mut known = mem::take(&mut task.fds).into_iter().peekable();
        let mut stayed = Vec::with_capacity(now.len());
        for entry in &now {
            while let Some(removed) = known.next_if(|known| known.serial > entry.serial()) {
                reactor.remove(removed.registration);
            }
            let same = known.next_if(|known| known.serial == entry.serial());
            let registration = same.map(|known| known.registration);
            stayed.push(registration.filter(|_| !entry.is_added()));
            if let Some(changed) = registration.filter(|_| entry.is_added()) {
                reactor.remove(changed);
            }
        }
        known.for_each(|removed| reactor.remove(removed.registration));
        let registered = now.iter().zip(stayed).map(|(entry, registration)| KnownFd {
            serial: entry.serial(),
            registration: registration.unwrap_or_else(|| reactor.add(id, entry.fd())),
        });
        task.fds = registered.collect();
        task.version = u64::from(version) | if task.fds.is_empty() { 0 } else { HAS_FDS };
    }

    /// Lets the kernel watch the fds that count at this pause.
    fn watch(&mut self, id: TaskId) -> Watched {
        let Core { tasks, reactor, .. } = self;
        let Some(task) = tasks.get(id.index as usize) else {
            return Watched::Nothing;
        };
        let armed = task.bound.ctx.armed();
        let mut watched = Watched::Nothing;
        let registrations = task.fds.iter().map(|known| &known.registration);
        for registration in registrations.filter(|registration| registration.fd.counts(armed)) {
            if !reactor.ensure(registration) {
                return Watched::Unwatchable;
            }
            watched = Watched::Fds;
        }
        watched
    }

    /// Whether the job waits for one fd, which the kernel has watched for it before, and for nothing else. Then there
    /// is nothing to do at a pause.
    #[inline]
    fn waits_as_before(&self, id: TaskId) -> bool {
        let Some(task) = self.tasks.get(id.index as usize) else {
            return false;
        };
        let (ctx, [known]) = (&*task.bound.ctx, &*task.fds) else {
            return false;
        };
        task.version as u32 == ctx.version()
            && Wants::of(ctx.status(), true, None) == Wants::Watch
            && !ctx.has_deadline()
            && known.registration.fd.counts(None)
            && self.reactor.watches(&known.registration)
    }

    /// Puts the task into the queue of ready tasks.
    fn resume_after_others(&mut self, id: TaskId, cause: WakeCause) {
        if let Some(task) = self.task(id) {
            task.bound.ctx.woken(cause);
            task.state = JobState::Ready;
            self.queue_last(id);
        }
    }

    /// Puts a task into the queue of ready tasks, behind those that its job, or a job before it, has woken.
    #[inline]
    fn queue_last(&mut self, id: TaskId) {
        self.add_woken_here();
        self.ready.push(id);
    }

    /// Resumes the job without an event: a few times after the other jobs, then at growing intervals.
    fn poll_later(&mut self, id: TaskId) {
        let Some(task) = self.task(id) else { return };
        let interval = Wants::poll_interval(task.seldom.poll());
        match interval {
            None => self.resume_after_others(id, WakeCause::Retry),
            Some(interval) => self.set_timer(id, Instant::now() + interval),
        }
    }

    /// Lets a timer resume the job.
    fn set_timer(&mut self, id: TaskId, at: Instant) {
        let Some(task) = self.task(id) else { return };
        task.wake_at = Some(at);
        if task.timer.is_some_and(|timer| timer <= at) {
            return;
        }
        let later = task.timer.replace(at);
        if let Some(later) = later {
            self.timers.remove(later, id);
        }
        self.timers.add(at, id);
    }

    /// Whether it is time to ask the kernel again, at the start of a turn.
    pub(super) fn kernel_is_due(&mut self, calls: usize) -> bool {
        self.resumed_since += calls;
        self.resumed_since >= BATCH || self.turn_began != self.asked_at
    }

    /// Lets the next turn ask the kernel, however few jobs have run.
    #[cold]
    pub(super) fn ask_kernel_soon(&mut self) {
        self.resumed_since = BATCH;
    }

    /// The next time at which a job is to be resumed or started although nothing happens.
    fn next_timer(&self) -> Option<Instant> {
        self.timers.next().into_iter().chain(self.retry_at).min()
    }

    /// The next time at which something is to be done although nothing happens.
    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        self.idle_memory.job_may_have_run(self.stats.resumes);
        let idle = self
            .idle_memory
            .left()
            .and_then(|left| Instant::now().checked_add(left));
        self.next_timer().into_iter().chain(idle).min()
    }

    /// How long to wait in the kernel: until the next timer, and for `timeout` at most.
    pub(super) fn until_next_timer(&mut self, timeout: Option<Duration>) -> Option<Duration> {
        self.idle_memory.job_may_have_run(self.stats.resumes);
        let timer = self.next_timer().map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = match (timer, timeout) {
            (Some(timer), Some(timeout)) => Some(timer.min(timeout)),
            (timer, timeout) => timer.or(timeout),
        };
        match self.idle_memory.next() {
            Some(at) if timeout != Some(Duration::ZERO) => self.until_idle(at, timeout),
            _ => timeout,
        }
    }

    /// As `timeout`, but at most until the idle memory is looked at. A wait without limit stays one, because that time
    /// mostly does not come before something else happens.
    fn until_idle(&mut self, at: u64, timeout: Option<Duration>) -> Option<Duration> {
        let is_due = at <= self.asked_at;
        let may_alarm = !is_due && timeout.is_none_or(|timeout| timeout == Duration::MAX);
        if may_alarm && self.reactor.set_alarm(at) {
            return timeout;
        }
        let idle = if is_due {
            Some(Duration::ZERO)
        } else {
            self.idle_memory.left()
        };
        timeout.into_iter().chain(idle).min()
    }

    /// Waits for ready fds. Makes the jobs ready whose fds are ready or whose timers are due.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let Core {
            tasks,
            ready,
            reactor,
            inbox,
            ..
        } = self;
        let take = |id: TaskId, fd: &WaitFd| {
            let Some(task) = tasks.get_mut(id.index as usize).filter(|t| t.serial == id.serial) else {
                return false;
            };
            if task.state != JobState::Paused {
                return true; // the job runs, or will run
            }
            let counts = fd.counts(task.bound.ctx.armed());
            if counts {
                task.bound.ctx.woken(WakeCause::Fd(fd.fd));
                task.state = JobState::Ready;
                task.seldom.end_polls();
                ready.push(id);
            }
            counts
        };
        let waited = reactor.wait(timeout, take, || inbox.clear_notifier());
        self.stats.kernel_waits += 1;
        self.look_at_clock();
        waited
    }

    /// Whether the kernel watches fds of jobs. What other threads send is seen without it.
    #[inline]
    pub(super) fn watches_fds(&self) -> bool {
        self.reactor.watches_fds()
    }

    /// Does what time has come for. Makes the jobs ready whose timers are due.
    pub(super) fn look_at_clock(&mut self) {
        self.resumed_since = 0;
        self.asked_at = clock_tick();
        self.fire_timers();
        self.idle_memory.job_may_have_run(self.stats.resumes);
        self.give_memory_back(self.asked_at);
    }

    /// Resumes the jobs whose timers are due, or sets the timer again if the job has a later deadline by now.
    fn fire_timers(&mut self) {
        if self.next_timer().is_none() {
            return;
        }
        let now = Instant::now();
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.pool_is_full = false;
            self.refused.retry();
            self.refused.give_up_places(clock_tick());
        }
        while let Some(id) = self.timers.pop_due(now) {
            let Some(task) = self.task(id) else { continue };
            task.timer = None;
            match task.wake_at {
                Some(wake_at) if task.state == JobState::Paused && wake_at <= now => {
                    self.resume_after_others(id, WakeCause::Deadline);
                }
                Some(wake_at) if task.state == JobState::Paused => self.set_timer(id, wake_at),
                _ => {}
            }
        }
    }
}

/// What the kernel watches for a paused job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watched {
    /// No fd counts.
    Nothing,
    /// The kernel watches every fd that counts.
    Fds,
    /// The kernel refuses to watch some fd that counts: a regular file, or a number that is not open.
    Unwatchable,
}
