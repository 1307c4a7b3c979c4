//! The scheduler that OpenSSL leaves to every application.
//!
//! ```text
//!                    spawn            Handle::spawn (any thread)
//!                      |                     |
//!                      v                     v
//!                  +---------+        +-------------+
//!                  | pending | <----- | submissions |  shared by all workers
//!                  +---------+        +-------------+
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
//! A scheduler is one thread. [`Scheduler::run`] goes on to the end of the last job. [`Scheduler::turn`] is one round, for a
//! host loop that polls the scheduler's fd. Many threads are many schedulers with one queue of jobs that have not started:
//! [`Workers`].
//!
//! A scheduler starts no thread and keeps no global state, with one exception: the handler that reports an overflow belongs to
//! the process, and is the builder's choice ([`SchedulerBuilder::overflow_handler`]).
//!
//! # When a paused job is resumed
//!
//! A paused job is resumed when its callback is called, when a wait fd that counts is ready, and when its deadline has passed.
//! [`Wants`](crate::Wants) says what else its wait ctx may ask for. A job that wants to be polled is resumed at growing intervals of up to
//! 10 ms. A job whose status is `Err` is cancelled, and joining it gives [`JoinError::EngineFailed`].
//!
//! A scheduler never reads a wait fd, and never resumes a job for another reason.
//!
//! # Fairness
//!
//! A turn resumes at most 64 jobs, each once, before it looks at callbacks again. It asks the kernel for ready fds at least
//! every 64 resumes and every tick of the kernel's clock, which is a few milliseconds. So a job that pauses again and again is
//! not resumed twice before the others had their turn, and many jobs that hand over quickly share one system call.

mod builder;
mod current;
mod handle;
mod inspect;
mod join;
mod reactor;
mod submit;
mod tasks;
mod timer;
mod wake;
mod workers;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

pub use builder::{SchedulerBuilder, WorkersBuilder};
pub use current::{LocalHandle, current, spawn};
pub use handle::{Capacity, Handle};
pub use inspect::{JobInfo, JobState};
pub use join::{JoinError, JoinHandle};
pub use workers::Workers;

use crate::error::{Panic, Quarantined, SpawnError, StartErrorKind};
use crate::hooks::SwitchHooks;
use crate::job::{Job, JobBuilder, JobPlan, Step};
use crate::sync::contain;
use current::{Refused, Turning};
use join::{CancelReason, Completion, JoinState};
use reactor::Reactor;
use submit::Shared;
use tasks::{BATCH, Core, EndKind, Pending};
use wake::{Inbox, TaskId};

/// Runs jobs on this thread and resumes each when what it waits for happens.
///
/// A scheduler stays on its thread. Inside its jobs use [`scheduler::spawn`](spawn) and [`scheduler::current`](current); from
/// other threads, a [`Handle`]. A job must not own its scheduler, in an `Rc`, say: the two would keep each other for ever.
///
/// **Dropping it cancels every job that is left.**
///
/// ```
/// use asyncjob::scheduler::Scheduler;
///
/// let scheduler = Scheduler::new()?;
/// let first = scheduler.spawn(|| 20)?;
/// let second = scheduler.spawn(move || first.join().unwrap() + 22)?; // pauses until the first is done
/// assert_eq!(scheduler.run_until(second)?, 42);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
///
/// ```compile_fail,E0277
/// fn send<T: Send>() {}
/// send::<asyncjob::scheduler::Scheduler>();
/// ```
pub struct Scheduler {
    inner: Rc<Inner>,
}

/// What a scheduler and its [`LocalHandle`]s share.
struct Inner {
    core: RefCell<Core>,
    epoll: Rc<OwnedFd>,
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    thread: ThreadId,
    /// A turn is under way.
    turning: Cell<bool>,
    /// The last turn left the inbox parked, so that a spawn wakes a host that sleeps on the fd.
    parked: Cell<bool>,
    /// A worker is to shut down, and by when.
    stop_at: Cell<Option<Instant>>,
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
    /// Ended before the deadline because their handles, or the failure of an engine, had cancelled them.
    pub cancelled_before: usize,
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

    /// Configures a scheduler: a bound on jobs, the overflow handler.
    pub fn builder() -> SchedulerBuilder {
        SchedulerBuilder::new()
    }

    /// Queues `f`, to be run as a job on this thread by the next turns.
    ///
    /// For a job with a name, a stack size, hooks or a wait ctx: [`JobBuilder::spawn_on`].
    ///
    /// # Errors
    ///
    /// [`SpawnError`], with `f` in it, when the scheduler is full or shutting down.
    pub fn spawn<F, T>(&self, f: F) -> Result<JoinHandle<T>, SpawnError<F>>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        let spawned = self.inner.spawn_job(JobBuilder::new(), f);
        spawned.map_err(|(kind, _, f)| SpawnError::new(kind, (), f))
    }

    /// Spawns from other threads.
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.inner.shared))
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
        while self.live_jobs() != 0 {
            self.turn(None)?;
        }
        Ok(())
    }

    /// Runs until the job has ended, and gives its result. Other jobs are left as they are.
    ///
    /// # Errors
    ///
    /// As [`JoinHandle::join`], and [`JoinError::Scheduler`] when [`run`](Self::run) would fail.
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run), and if the job belongs to another scheduler and this one has no job left.
    pub fn run_until<T>(&self, mut handle: JoinHandle<T>) -> Result<T, JoinError> {
        loop {
            if let Some(result) = handle.take() {
                return result;
            }
            assert!(self.live_jobs() != 0, "run_until: the job belongs to another scheduler");
            if let Err(error) = self.turn(None) {
                handle.detach();
                return Err(JoinError::Scheduler(error));
            }
        }
    }

    /// One round: takes what other threads brought, starts and resumes up to 64 jobs of each kind, and looks for ready fds and
    /// deadlines. If there was nothing to run, the turn waits for up to `timeout` (`None`: for ever, unless there is no job at
    /// all), and the next turn runs what became ready.
    ///
    /// To embed the scheduler in another loop, poll its fd for readable there, until [`next_deadline`](Self::next_deadline) at
    /// the latest. Then call `turn(Some(Duration::ZERO))`, and again as long as [`Turn::ready`] is not 0.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    pub fn turn(&self, timeout: Option<Duration>) -> io::Result<Turn> {
        let inner = &self.inner;
        let _turning = Turning::enter(inner);
        if inner.parked.replace(false) {
            inner.inbox.unpark();
        }
        let calls = self.take_inbox();
        let resumed = inner.start_pending() + inner.resume_ready();
        inner.look_at_kernel(timeout, resumed + calls)?;
        Ok(Turn {
            resumed,
            ready: inner.core.borrow().runnable() + usize::from(inner.has_incoming()),
        })
    }

    /// When [`turn`](Self::turn) has to be called at the latest, if no fd event comes first.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.inner.core.borrow().next_timer()
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
        self.inner.shared.close();
        let until = after(within);
        let before = self.stats();
        while self.inner.jobs_left() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.turn(Some(left))?;
        }
        let at_deadline = self.stats();
        self.inner.cancel_all();
        let after = self.stats();
        let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let cancelled_before = at_deadline.cancelled - before.cancelled;
        let quarantined = after.quarantined - at_deadline.quarantined;
        Ok(ShutdownReport {
            finished: count(at_deadline.ended - before.ended - cancelled_before),
            cancelled_before: count(cancelled_before),
            cancelled: count(after.ended - at_deadline.ended - quarantined),
            quarantined: count(quarantined),
        })
    }

    /// Counts since the scheduler was made.
    pub fn stats(&self) -> Stats {
        self.inner.core.borrow().stats
    }

    /// How many jobs have not ended, queued ones included; with [`Workers`], of all of them.
    pub fn live_jobs(&self) -> usize {
        self.inner.shared.live()
    }

    fn with(inbox: Arc<Inbox>, shared: Arc<Shared>) -> io::Result<Scheduler> {
        let reactor = Reactor::new(inbox.raw_notifier())?;
        if shared.inboxes.len() == 1 {
            let _is_new = shared.home.set(thread::current().id());
        }
        Ok(Scheduler {
            inner: Rc::new(Inner {
                epoll: reactor.fd(),
                core: RefCell::new(Core::new(reactor)),
                inbox,
                shared,
                thread: thread::current().id(),
                turning: Cell::new(false),
                parked: Cell::new(false),
                stop_at: Cell::new(None),
            }),
        })
    }

    /// Takes what other threads brought: wakes, calls, jobs. Returns how many calls there were.
    fn take_inbox(&self) -> usize {
        let inner = &self.inner;
        let mut done = 0;
        if inner.inbox.has_messages() {
            let mut woken = std::mem::take(&mut inner.core.borrow_mut().woken);
            let calls = inner.inbox.take(&mut woken);
            let mut core = inner.core.borrow_mut();
            woken.drain(..).for_each(|id| core.make_ready(id));
            core.woken = woken;
            drop(core);
            done = calls.len();
            for call in calls {
                contain(|| call(self));
            }
        }
        if inner.shared.has_submissions() {
            inner.shared.take_share(&mut inner.core.borrow_mut().pending);
        }
        done
    }
}

impl Inner {
    fn spawn_job<F, T, H>(&self, builder: JobBuilder<'static, H>, f: F) -> Result<JoinHandle<T>, Refused<F, H>>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
        H: SwitchHooks + 'static,
    {
        let ctx = match self.shared.admit(&builder) {
            Ok(ctx) => ctx,
            Err(kind) => return Err((kind, builder, f)),
        };
        let state = JoinState::new(Some(self.thread));
        let plan = builder.plan();
        self.core.borrow_mut().pending.push_back(Pending {
            main: job_main(Arc::clone(&state), f),
            completion: state.clone(),
            plan,
            ctx,
        });
        if self.parked.get() {
            self.inbox.notify_if_parked(); // a host that sleeps on the fd
        }
        Ok(JoinHandle::new(state))
    }

    /// Whether other threads have brought something.
    fn has_incoming(&self) -> bool {
        self.inbox.has_messages() || self.shared.has_submissions()
    }

    /// Whether this scheduler, alone or as a worker, has anything to do or to wait for.
    fn jobs_left(&self) -> bool {
        let core = self.core.borrow();
        !core.tasks.is_empty() || !core.pending.is_empty() || self.shared.has_submissions()
    }

    /// Starts the jobs that have not run yet, up to a batch. Returns how many.
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

    /// Runs a job for the first time. `false`: there was no stack for it, and it was put back.
    fn start(&self, pending: Pending) -> bool {
        let Pending {
            main,
            completion,
            plan,
            ctx,
        } = pending;
        let for_job = ctx.clone();
        let (id, waker) = self.core.borrow_mut().reserve(&self.inbox, ctx, &completion);
        if !completion.starting(&waker, self.thread) {
            discard(main);
            completion.fail(JoinError::Cancelled);
            self.retire(id, EndKind::Cancelled);
            return true;
        }
        for_job.set_callback(Some(Waker::from(waker)));
        match catch_unwind(AssertUnwindSafe(|| plan.start(&for_job, main))) {
            Ok(Ok(step)) => self.settle(id, step),
            Ok(Err((plan, main, refusal))) => return self.put_back(id, plan, main, refusal, completion),
            Err(payload) => self.hook_panicked(id, payload),
        }
        discard(for_job);
        true
    }

    /// There is no stack for a job. It waits for another job's end, or fails if there is none to wait for.
    #[cold]
    fn put_back(
        &self,
        id: TaskId,
        plan: JobPlan,
        main: Box<dyn FnOnce()>,
        refusal: StartErrorKind,
        completion: Arc<dyn Completion>,
    ) -> bool {
        let mut core = self.core.borrow_mut();
        let ctx = core.cancel_reservation(id);
        if core.tasks.is_empty() {
            drop(core);
            discard((main, plan, ctx));
            self.shared.ended();
            completion.fail(JoinError::NoStack(refusal.into()));
            return true;
        }
        completion.postponed();
        core.wait_for_stack(Pending {
            main,
            completion,
            plan,
            ctx,
        });
        false
    }

    /// Resumes the jobs that were ready, each once, up to a batch. Returns how many.
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
            Ok(Ok(())) => self.retire(id, EndKind::Cancelled),
            Ok(Err(Quarantined)) => {
                if let Some(completion) = completion {
                    completion.fail(JoinError::Quarantined);
                }
                self.retire(id, EndKind::Quarantined);
            }
            Err(payload) => self.hook_panicked(id, payload),
        }
    }

    /// A panic came out of a job other than from its closure: from a switch hook.
    #[cold]
    fn hook_panicked(&self, id: TaskId, payload: Box<dyn Any + Send>) {
        let completion = self.core.borrow_mut().completion(id);
        if let Some(completion) = completion {
            completion.fail(JoinError::Panicked(Panic::new(payload)));
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
        let busy = core.runnable() != 0 || self.has_incoming();
        if !busy {
            // Also before a return without waiting: a host may go to sleep on the fd next.
            self.parked.set(true);
        }
        let parked = !busy && self.inbox.park() && !self.shared.has_submissions();
        if parked && done == 0 {
            let has_no_jobs = timeout.is_none() && self.shared.live() == 0;
            let timeout = if has_no_jobs { Some(Duration::ZERO) } else { timeout };
            let timeout = core.until_next_timer(timeout);
            return core.wait(timeout, &self.inbox);
        }
        if core.kernel_is_due(done) {
            return core.wait(Some(Duration::ZERO), &self.inbox);
        }
        Ok(())
    }

    /// Cancels every job, started or not.
    fn cancel_all(self: &Rc<Self>) {
        let _turning = Turning::enter(self);
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
        self.inner.epoll.as_fd()
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.inner.shared.close_one();
        self.inner.cancel_all();
        self.inner.inbox.close();
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

/// Drops what is the user's. A panic of a destructor has been reported by the panic hook, and stops no other job.
fn discard<T>(value: T) {
    contain(|| drop(value));
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
