//! The scheduler that OpenSSL leaves to every application.
//!
//! ```text
//!                    spawn            Handle::spawn (any thread)
//!                      |                     |
//!                      v                     v
//!                  +-------+  admit   +-------------+
//!                  | fresh | <------- | submissions |  shared by all workers
//!                  +-------+          +-------------+
//!                      | start_job
//!                      v
//!    Finished <---- running <--------------- ready  (a queue: first in, first out)
//!                      |                       ^
//!                      | Paused                |
//!                      v                       |
//!                   parked ----- wake.rs ------+  its callback was called
//!                      |  |----- reactor.rs ---+  a wait fd is ready
//!                      |  '----- timer.rs -----+  its deadline is over, or its back-off
//!                      '------------------------  at once: status EAGAIN
//! ```
//!
//! One thread, explicit, embeddable: [`Scheduler::run`] goes on to the end of the last job, [`Scheduler::turn`] is one
//! round for a host loop that polls [`Scheduler::as_fd`](std::os::fd::AsFd). Nothing is global and nothing starts by
//! itself. Many threads are many schedulers with one queue of jobs that have not started: [`Workers`].
//!
//! # When a paused job is resumed
//!
//! | status of its wait ctx | resumed |
//! |---|---|
//! | any | when its callback is called, when a wait fd that counts is ready, when its deadline is over |
//! | `Ok` | by nothing else: a callback will come |
//! | `Eagain` | after the jobs that are ready now |
//! | `Unsupported` | with neither fd nor deadline: again and again, at growing intervals of up to 10 ms |
//! | `Err` | never: the job is cancelled, and joining it gives [`JoinError::EngineFailed`] |
//!
//! A wait fd is never read, and a job is never resumed for another reason. Resuming for a reason that turns out not to be
//! one is legal all the same, which is why jobs pause in loops.
//!
//! # Fairness
//!
//! A turn resumes at most [`BATCH`] jobs, each once, before it looks at callbacks again, and it asks the kernel for fds at
//! least every [`BATCH`] resumes and every tick of the kernel's clock (a few milliseconds). So a job that is always ready
//! starves nobody, and many jobs that hand over quickly share one system call.

mod inspect;
mod join;
mod reactor;
mod tasks;
mod timer;
mod wake;
mod workers;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

pub use inspect::{JobInfo, JobState};
pub use join::{JoinError, JoinHandle};
pub use workers::{Handle, Room, Workers};

use crate::error::{SpawnError, StartError};
use crate::job::{Job, JobBuilder, Step};
use crate::stack::install_overflow_handler;
use crate::wait_ctx::WaitCtx;
use join::{CancelReason, Completion, JoinState};
use reactor::Reactor;
use tasks::{Core, EndKind};
use wake::{Inbox, TaskId};
use workers::{Shared, Submission};

/// How many jobs run between two looks at what has happened meanwhile.
pub const BATCH: usize = 64;

/// Runs jobs on this thread and resumes each when what it waits for happens.
///
/// All methods take `&self`, so that jobs can use it too: put it in an `Rc`. From other threads, use a [`Handle`].
///
/// Dropping it cancels every job that is left.
///
/// ```
/// use asyncjob::scheduler::Scheduler;
/// use asyncjob::waiting::await_future;
///
/// let scheduler = Scheduler::new()?;
/// let first = scheduler.spawn(|| 20)?;
/// let second = scheduler.spawn(move || first.join().unwrap() + 22)?; // pauses until the first is done
/// assert_eq!(scheduler.run_until(second)??, 42);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Scheduler {
    core: RefCell<Core>,
    epoll: Rc<OwnedFd>,
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    /// A turn is under way.
    turning: Cell<bool>,
    /// The last turn left the inbox parked, so that whoever brings something rings, and a host hears it.
    parked: Cell<bool>,
    /// A worker is to shut down, and by when.
    stop_at: Cell<Option<Instant>>,
}

/// Configures a [`Scheduler`] or [`Workers`].
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct SchedulerBuilder {
    max_jobs: usize,
}

impl SchedulerBuilder {
    /// At most this many jobs at a time, queued ones included; more are refused with [`SpawnError::Full`]. Default: no
    /// limit.
    pub fn max_jobs(mut self, jobs: usize) -> Self {
        self.max_jobs = jobs;
        self
    }

    /// Makes a scheduler for this thread, and [installs the handler](install_overflow_handler) that names a job whose stack
    /// overflows.
    ///
    /// # Errors
    ///
    /// When the system has no epoll instance or eventfd left.
    pub fn build(self) -> io::Result<Scheduler> {
        let inbox = Arc::new(Inbox::new()?);
        let home = Some(thread::current().id());
        let shared = Shared::new(vec![Arc::clone(&inbox)], self.max_jobs, home);
        Scheduler::with(inbox, Arc::new(shared))
    }

    /// Starts `threads` threads with a scheduler each, which share one queue of jobs that have not started.
    ///
    /// # Errors
    ///
    /// When the system has no thread, epoll instance or eventfd left; what had been started is stopped again.
    pub fn workers(self, threads: usize) -> io::Result<Workers> {
        Workers::start(threads, self.max_jobs)
    }
}

/// What one [`Scheduler::turn`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Turn {
    /// Jobs started or resumed.
    pub resumed: usize,
    /// Jobs that can run now: call [`Scheduler::turn`] again without waiting if this is not 0.
    pub ready: usize,
}

/// What became of the jobs that were left: see [`Scheduler::shutdown`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Ended by themselves before the deadline.
    pub finished: usize,
    /// Cancelled at the deadline, and ended then.
    pub cancelled: usize,
    /// Did not end when cancelled: their stacks are quarantined.
    pub quarantined: usize,
}

/// Counts since the scheduler was made: see [`Scheduler::stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Jobs that have ended, in whatever way.
    pub ended: u64,
    /// Of these, cancelled: by their handle, by a shutdown or because their engine failed.
    pub cancelled: u64,
    /// Of these, given up with their stacks.
    pub quarantined: u64,
    /// Starts and resumes.
    pub resumes: u64,
    /// Calls to `epoll_wait`.
    pub kernel_waits: u64,
}

impl Scheduler {
    /// A scheduler for this thread, with no bound on jobs.
    ///
    /// # Errors
    ///
    /// As [`SchedulerBuilder::build`].
    pub fn new() -> io::Result<Self> {
        Self::builder().build()
    }

    /// To set a bound first.
    pub fn builder() -> SchedulerBuilder {
        SchedulerBuilder { max_jobs: usize::MAX }
    }

    /// Queues `f`, to be run as a job on this thread by the next turns.
    ///
    /// # Errors
    ///
    /// [`SpawnError`], with `f` in it, when the scheduler is full or shutting down.
    pub fn spawn<F, T>(&self, f: F) -> Result<JoinHandle<T>, SpawnError<F>>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        self.spawn_with(JobBuilder::new(), WaitCtx::new(), f)
    }

    /// As [`spawn`](Self::spawn), with a name, a stack size or hooks, and in a wait ctx that may have served other jobs:
    /// one at a time, and the scheduler sets its callback.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn). The builder is dropped.
    pub fn spawn_with<F, T>(&self, builder: JobBuilder, ctx: WaitCtx, f: F) -> Result<JoinHandle<T>, SpawnError<F>>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        let f = self.shared.admit(f)?;
        let state = JoinState::new(Some(thread::current().id()));
        let pending = Pending {
            main: job_main(Arc::clone(&state), f),
            completion: state.clone(),
            builder,
            ctx,
        };
        self.core.borrow_mut().pending.push_back(pending);
        if self.parked.get() {
            self.inbox.notify_if_parked(); // a host that sleeps on the fd
        }
        Ok(JoinHandle { state })
    }

    /// Spawns from other threads.
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.shared))
    }

    /// Runs until no job is left.
    ///
    /// # Errors
    ///
    /// When `epoll_wait` fails, which takes a closed epoll fd. No job is lost.
    ///
    /// # Panics
    ///
    /// Inside a job of this scheduler: pause there instead.
    pub fn run(&self) -> io::Result<()> {
        while self.shared.live() != 0 {
            self.turn(None)?;
        }
        Ok(())
    }

    /// Runs until the job has ended, and gives its result. Other jobs are left as they are.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run); inside, as [`JoinHandle::join`].
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run), and if the job belongs to another scheduler and this one has no job left.
    pub fn run_until<T>(&self, handle: JoinHandle<T>) -> io::Result<Result<T, JoinError>> {
        while !handle.is_finished() {
            assert!(
                self.shared.live() != 0,
                "run_until: the job belongs to another scheduler"
            );
            self.turn(None)?;
        }
        Ok(handle.join())
    }

    /// One round: takes what other threads brought, starts and resumes up to [`BATCH`] jobs of each kind, and looks for ready
    /// fds and deadlines. If there was nothing to run it waits for up to `timeout` (`None`: for ever, unless there is no job
    /// at all), and the next turn runs what became ready.
    ///
    /// To embed the scheduler in another loop: poll its fd for readable there, until [`next_deadline`](Self::next_deadline)
    /// at the latest, and call `turn(Some(Duration::ZERO))`, again as long as [`Turn::ready`] is not 0.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    pub fn turn(&self, timeout: Option<Duration>) -> io::Result<Turn> {
        let _turning = Turning::enter(&self.turning);
        if self.parked.replace(false) {
            self.inbox.unpark();
        }
        let calls = self.take_inbox();
        let resumed = self.start_pending() + self.resume_ready();
        self.look_at_kernel(timeout, resumed + calls)?;
        let core = self.core.borrow();
        Ok(Turn {
            resumed,
            ready: core.runnable() + usize::from(self.inbox.has_messages() || self.shared.has_submissions()),
        })
    }

    /// When [`turn`](Self::turn) has to be called at the latest, if no fd event comes first.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.core.borrow().next_timer()
    }

    /// Takes no more jobs, lets those that are there go on for at most `within`, then cancels what is left.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    pub fn shutdown(&self, within: Duration) -> io::Result<ShutdownReport> {
        self.shared.close();
        let until = after(within);
        let before = self.stats();
        while self.jobs_left() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.turn(Some(left))?;
        }
        let at_deadline = self.stats();
        self.cancel_all();
        let after = self.stats();
        let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let quarantined = after.quarantined - at_deadline.quarantined;
        Ok(ShutdownReport {
            finished: count(at_deadline.ended - before.ended),
            cancelled: count(after.ended - at_deadline.ended - quarantined),
            quarantined: count(quarantined),
        })
    }

    /// Counts since the scheduler was made.
    pub fn stats(&self) -> Stats {
        self.core.borrow().stats
    }

    /// How many jobs have not ended, queued ones included; with [`Workers`], of all of them.
    pub fn live_jobs(&self) -> usize {
        self.shared.live()
    }

    fn with(inbox: Arc<Inbox>, shared: Arc<Shared>) -> io::Result<Scheduler> {
        let reactor = Reactor::new(inbox.raw_notifier())?;
        install_overflow_handler()?;
        Ok(Scheduler {
            epoll: reactor.fd(),
            core: RefCell::new(Core::new(reactor)),
            inbox,
            shared,
            turning: Cell::new(false),
            parked: Cell::new(false),
            stop_at: Cell::new(None),
        })
    }

    /// Whether this scheduler, alone or as a worker, has anything to do or to wait for.
    fn jobs_left(&self) -> bool {
        let core = self.core.borrow();
        !core.tasks.is_empty() || !core.pending.is_empty() || self.shared.has_submissions()
    }

    /// What other threads brought: wakes, calls, jobs. How many calls there were.
    fn take_inbox(&self) -> usize {
        let mut done = 0;
        if self.inbox.has_messages() {
            let mut woken = std::mem::take(&mut self.core.borrow_mut().woken);
            let calls = self.inbox.take(&mut woken);
            let mut core = self.core.borrow_mut();
            woken.drain(..).for_each(|id| core.make_ready(id));
            core.woken = woken;
            drop(core);
            done = calls.len();
            calls.into_iter().for_each(|call| call(self));
        }
        if self.shared.has_submissions() {
            self.shared.take_share(&mut self.core.borrow_mut().pending);
        }
        done
    }

    /// Starts the jobs that have not run yet, up to a batch. How many.
    fn start_pending(&self) -> usize {
        for started in 0..BATCH {
            let Some(pending) = self.core.borrow_mut().next_pending() else {
                return started;
            };
            if !self.start(pending) {
                return started;
            }
        }
        BATCH
    }

    /// Runs a job for the first time. `false` if there was no stack for it and it was put back.
    fn start(&self, pending: Pending) -> bool {
        let Pending {
            main,
            completion,
            builder,
            ctx,
        } = pending;
        let (id, waker) = self.core.borrow_mut().reserve(&self.inbox, &ctx, &completion);
        if !completion.starting(&waker) {
            discard(main);
            completion.fail(JoinError::Cancelled);
            self.retire(id, EndKind::Cancelled);
            return true;
        }
        ctx.set_callback(Some(Waker::from(waker)));
        match catch_unwind(AssertUnwindSafe(|| builder.try_start(&ctx, main))) {
            Ok(Ok(step)) => self.settle(id, step),
            Ok(Err((builder, refused))) => return self.put_back(id, builder, refused, completion, ctx),
            Err(payload) => self.hook_panicked(id, payload),
        }
        discard(ctx);
        true
    }

    /// There is no stack for a job: it waits for another job's end, or fails if there is none to wait for.
    #[cold]
    fn put_back(
        &self,
        id: TaskId,
        builder: JobBuilder,
        refused: StartError<Box<dyn FnOnce()>>,
        completion: Arc<dyn Completion>,
        ctx: WaitCtx,
    ) -> bool {
        let mut core = self.core.borrow_mut();
        core.cancel_reservation(id);
        if core.tasks.is_empty() {
            drop(core);
            let why = io::Error::other(refused.to_string());
            discard(refused);
            self.shared.ended();
            completion.fail(JoinError::NoStack(why));
            return true;
        }
        completion.postponed();
        core.wait_for_stack(Pending {
            main: refused.into_closure(),
            completion,
            builder,
            ctx,
        });
        false
    }

    /// Resumes the jobs that were ready, each once, up to a batch. How many.
    fn resume_ready(&self) -> usize {
        let batch = self.core.borrow().batch();
        for resumed in 0..batch {
            let Some((id, job, told)) = self.core.borrow_mut().next_ready() else {
                return resumed;
            };
            self.resume(id, job, told);
        }
        batch
    }

    fn resume(&self, id: TaskId, job: Job<()>, told: Option<CancelReason>) {
        if let Some(reason) = told {
            return self.cancel(id, job, reason);
        }
        match catch_unwind(AssertUnwindSafe(|| job.resume())) {
            Ok(step) => self.settle(id, step),
            Err(payload) => self.hook_panicked(id, payload),
        }
    }

    /// A job has paused or ended.
    fn settle(&self, id: TaskId, step: Step<()>) {
        match step {
            Step::Finished(()) => self.retire(id, EndKind::Finished),
            Step::Paused(job) => {
                let refused = self.core.borrow_mut().park(id, job);
                if let Some(job) = refused {
                    self.cancel(id, job, CancelReason::EngineFailed);
                }
            }
        }
    }

    fn cancel(&self, id: TaskId, job: Job<()>, reason: CancelReason) {
        let completion = self.core.borrow_mut().completion(id);
        if let Some(completion) = &completion {
            completion.telling(reason);
        }
        match catch_unwind(AssertUnwindSafe(|| job.cancel())) {
            Ok(Some(())) => self.retire(id, EndKind::Cancelled),
            Ok(None) => {
                if let Some(completion) = completion {
                    completion.fail(JoinError::Quarantined);
                }
                self.retire(id, EndKind::Quarantined);
            }
            Err(payload) => self.hook_panicked(id, payload),
        }
    }

    /// A panic came out of a job other than from its closure: from a switch hook, or from a joiner's waker.
    #[cold]
    fn hook_panicked(&self, id: TaskId, payload: Box<dyn std::any::Any + Send>) {
        let completion = self.core.borrow_mut().completion(id);
        if let Some(completion) = completion {
            completion.fail(JoinError::Panicked(payload));
        }
        self.retire(id, EndKind::Finished);
    }

    fn retire(&self, id: TaskId, end: EndKind) {
        let task = self.core.borrow_mut().retire(id, end);
        self.shared.ended();
        discard(task); // after the borrow: the ctx may own values whose drop runs anything
    }

    /// Asks the kernel for ready fds when it is time to, and waits there if this turn had nothing to do.
    fn look_at_kernel(&self, timeout: Option<Duration>, done: usize) -> io::Result<()> {
        let mut core = self.core.borrow_mut();
        let busy = core.runnable() != 0 || self.inbox.has_messages() || self.shared.has_submissions();
        if !busy {
            // Also before a return without waiting: a host may go to sleep on the fd next.
            self.parked.set(true);
        }
        let parked = !busy && self.inbox.park() && !self.shared.has_submissions();
        if parked && done == 0 {
            let nobody_waits = timeout.is_none() && self.shared.live() == 0;
            let timeout = if nobody_waits { Some(Duration::ZERO) } else { timeout };
            let timeout = core.until_next_timer(timeout);
            return core.wait(timeout, &self.inbox);
        }
        if core.kernel_is_due(done) {
            return core.wait(Some(Duration::ZERO), &self.inbox);
        }
        Ok(())
    }

    /// Cancels every job, started or not.
    fn cancel_all(&self) {
        let _turning = Turning::enter(&self.turning);
        self.shared.take_all(&mut self.core.borrow_mut().pending);
        loop {
            let Some(pending) = self.core.borrow_mut().pending.pop_front() else {
                break;
            };
            self.core.borrow_mut().count(EndKind::Cancelled);
            self.shared.ended();
            pending.completion.fail(JoinError::Cancelled);
            discard(pending);
        }
        let ids = self.core.borrow().ids();
        for id in ids {
            let job = self.core.borrow_mut().take_job(id);
            if let Some(job) = job {
                self.cancel(id, job, CancelReason::Asked);
            }
        }
    }
}

impl AsFd for Scheduler {
    /// Readable when [`turn`](Scheduler::turn) has something to do; deadlines apart.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.shared.close_for(&self.inbox);
        self.cancel_all();
    }
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler")
            .field("live_jobs", &self.live_jobs())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// Marks a turn under way, for as long as it lives.
struct Turning<'a>(&'a Cell<bool>);

impl<'a> Turning<'a> {
    fn enter(turning: &'a Cell<bool>) -> Self {
        assert!(
            !turning.replace(true),
            "a scheduler was run inside one of its own jobs: pause the job instead, and the scheduler goes on"
        );
        Turning(turning)
    }
}

impl Drop for Turning<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// A job that has not started.
pub(super) struct Pending {
    main: Box<dyn FnOnce()>,
    completion: Arc<dyn Completion>,
    builder: JobBuilder,
    ctx: WaitCtx,
}

impl From<Submission> for Pending {
    fn from(submission: Submission) -> Self {
        let builder = JobBuilder::new();
        Pending {
            main: submission.main,
            completion: submission.completion,
            builder: match submission.name {
                Some(name) => builder.name(name),
                None => builder,
            },
            ctx: WaitCtx::new(),
        }
    }
}

/// Drops what is the user's. A panic of a destructor has been reported by the panic hook, and stops no other job.
fn discard<T>(value: T) {
    let _: thread::Result<()> = catch_unwind(AssertUnwindSafe(|| drop(value)));
}

/// That long from now, or a century if that is beyond what an `Instant` counts.
fn after(within: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(within).unwrap_or_else(|| now + CENTURY)
}

const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What a spawned job runs: the closure, whose panic is its result.
fn job_main<T: 'static>(state: Arc<JoinState<T>>, f: impl FnOnce() -> T + 'static) -> Box<dyn FnOnce()> {
    Box::new(move || state.complete(catch_unwind(AssertUnwindSafe(f))))
}
