//! The scheduler, which OpenSSL leaves to every application.
//!
//! ```text
//!                    spawn            Handle::spawn (any thread)
//!                      |                     |
//!                      v                     v
//!                  +---------+        +-------------+
//!                  | pending | <----- | submissions |  shared by all workers
//!                  +---------+        +-------------+
//!                      | the job starts
//!                      v
//!    ended <-------- running <--------------- ready  (a queue: first in, first out)
//!                      |                       ^
//!                      | pauses                |
//!                      v                       |
//!                    paused ----- wake.rs -----+  the callback was called
//!                      |  |----- reactor.rs ---+  a wait fd is ready
//!                      |  '----- timer.rs -----+  the deadline has passed, or the interval of a poll
//!                      '-----------------------+  at once: the job wants to go on after the others, or is polled
//!                                                 for the first times
//! ```
//!
//! A [`Scheduler`] runs jobs on one thread. [`Scheduler::run`] returns when the last job has ended. [`Scheduler::turn`]
//! does one round, for a host loop that polls the scheduler's fd. [`Workers`] are several threads with a scheduler
//! each, and with one queue of jobs that have not started.
//!
//! | type | `Send` and `Sync` | use it |
//! |---|---|---|
//! | [`Scheduler`] | neither | on its thread, outside its jobs |
//! | [`LocalHandle`] | neither | on its thread, also inside its jobs |
//! | [`Handle`] | both | on every thread |
//! | [`JoinHandle<T>`](JoinHandle) | both, if `T` is `Send` | where `T` may go |
//! | [`Workers`] | both | on every thread |
//!
//! A scheduler starts no thread and keeps no global state, with one exception: the handler that reports a stack
//! overflow belongs to the process ([`SchedulerBuilder::overflow_handler`]).
//!
//! # When a paused job is resumed
//!
//! A scheduler resumes a paused job when the job's callback is called, when a wait fd that counts is ready, and when
//! the deadline has passed. [`Wants`](crate::Wants) says what else the wait ctx of a job may ask for. A job that wants
//! to be polled is resumed at growing intervals of up to 10 ms. A job whose status is `Err` when it pauses is
//! cancelled, and the join of that job fails with [`JoinError::EngineFailed`].
//!
//! A scheduler never reads a wait fd, and resumes a job for no other reason.
//!
//! # Fairness
//!
//! One turn starts at most 64 jobs, and resumes at most 64 jobs, each of them once. Then it looks at the callbacks
//! again. At the start of a turn the scheduler asks the kernel for ready fds when nothing else is ready, when 64 jobs
//! have run since it asked last, or when the kernel's clock has ticked since, which it does every few milliseconds.
//! While no job has a wait fd and no host polls the scheduler's fd, there is nothing to ask as long as something else
//! is ready.
//!
//! A job that pauses again and again is therefore not resumed twice before the other jobs that were ready. Many jobs
//! that give way quickly share one system call.
//!
//! A job whose operations need not wait does not pause by itself: its sockets are always ready, or its futures are. So
//! it gives way after 128 operations in a row, and earlier if they take long. The turn ends then and asks the kernel.
//! This holds for everything in this crate that may wait, and under every driver.

mod bound_ctx;
mod builder;
mod cancel;
mod current;
mod handle;
mod idle_memory;
mod inspect;
mod join;
mod reactor;
mod ready;
mod refused;
mod report;
mod submit;
mod tasks;
mod timer;
mod turn;
mod wake;
mod workers;

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

pub use builder::{SchedulerBuilder, WorkersBuilder};
pub use current::{LocalHandle, current, spawn};
pub use handle::{Capacity, Handle};
pub use join::{JoinError, JoinHandle};
pub use report::{ShutdownReport, Turn};
pub use workers::Workers;

pub use crate::job::{JobInfo, JobState, Stats};

use crate::error::{SpawnError, SpawnErrorKind};
use crate::hooks::SwitchHooks;
use crate::job::{JobBuilder, JobPlan, budget, share};
use crate::stack::depot::release_surplus;
use crate::sys::PollerFd;
use crate::wait_ctx::ClaimedCtx;
use current::Refused;
use idle_memory::IdleMemory;
use join::JoinState;
use reactor::Reactor;
use submit::WorkerGroup;
use tasks::{Core, Pending};
use wake::Inbox;

/// Runs jobs on this thread, and resumes each job when what it waits for has happened.
///
/// A scheduler stays on its thread: it is neither `Send` nor `Sync`. From other threads use its
/// [`handle`](Self::handle). Inside its jobs use [`scheduler::spawn`](spawn) and [`scheduler::current`](current). A job
/// must not own its scheduler, in an `Rc`, say, because each of the two would keep the other for ever.
///
/// **Dropping a scheduler cancels every job that is left.**
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
    #[cfg(feature = "insight")]
    registration: Option<crate::insight::Registration>,
}

/// What a scheduler shares with its [`LocalHandle`]s.
struct Inner {
    core: RefCell<Core>,
    poller: Rc<PollerFd>,
    /// What a host watches, once it has asked for it.
    fd_for_host: OnceCell<Rc<PollerFd>>,
    inbox: Arc<Inbox>,
    shared: Arc<WorkerGroup>,
    thread: ThreadId,
    /// The address of the ctx of the job that runs for the first time, and so has no task.
    starting: Cell<*const ()>,
    /// Whether a turn is in progress.
    turning: Cell<bool>,
    /// Whether the last turn left the inbox parked, for a host that may sleep on the fd. A spawn then wakes the host.
    parked: Cell<bool>,
    /// The time until which a worker lets its jobs go on, once it has to shut down.
    stop_at: Cell<Option<Instant>>,
    #[cfg(feature = "insight")]
    gauges: Arc<crate::insight::Gauges>,
}

impl Scheduler {
    /// Makes a scheduler for this thread, without a limit of jobs.
    ///
    /// # Errors
    ///
    /// As [`SchedulerBuilder::build`].
    pub fn new() -> io::Result<Self> {
        Self::builder().build()
    }

    /// Configures a scheduler: a limit of jobs, the overflow handler.
    pub fn builder() -> SchedulerBuilder {
        SchedulerBuilder::new()
    }

    /// Queues `f`. The next turns run it as a job on this thread.
    ///
    /// [`JobBuilder::spawn_on`] also gives the job a name, a stack size, hooks or a wait ctx.
    ///
    /// # Errors
    ///
    /// [`SpawnError`], with `f` in it: the scheduler is full or shutting down.
    pub fn spawn<F, T>(&self, f: F) -> Result<JoinHandle<T>, SpawnError<F>>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        let spawned = self.inner.spawn_plain(f);
        spawned.map_err(|(kind, f)| SpawnError::new(kind, (), f))
    }

    /// Makes a handle that spawns jobs on this scheduler from any thread.
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.inner.shared))
    }

    /// Runs jobs until no job is left.
    ///
    /// # Errors
    ///
    /// The call of `epoll_wait` failed, which happens when the epoll fd was closed. No job is lost.
    ///
    /// # Panics
    ///
    /// Inside a job of this scheduler. Pause the job there instead.
    pub fn run(&self) -> io::Result<()> {
        while self.live_jobs() != 0 {
            self.turn(None)?;
        }
        let _ = release_surplus(); // no turn may come to do it
        Ok(())
    }

    /// Runs jobs until this job has ended, and returns its result. The other jobs stay as they are then.
    ///
    /// # Errors
    ///
    /// As [`JoinHandle::join`]. Also [`JoinError::Scheduler`], when [`run`](Self::run) would fail; the job goes on
    /// then.
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run). Also when the job belongs to another scheduler, and this one has no job left.
    pub fn run_until<T>(&self, mut handle: JoinHandle<T>) -> Result<T, JoinError> {
        if let Err(error) = self.inner.inbox.process().check() {
            return Err(JoinError::Scheduler(error));
        }
        loop {
            if let Some(result) = handle.take() {
                return result;
            }
            assert!(
                self.live_jobs() != 0,
                concat!(
                    "Scheduler::run_until was given a job of another scheduler, and has no job left itself: call it on \
                     the scheduler that the job was spawned on, or JoinHandle::join for a job of Workers",
                    guide_page!("jobs")
                )
            );
            if let Err(error) = self.turn(None) {
                handle.detach();
                return Err(JoinError::Scheduler(error));
            }
        }
    }

    /// The time at which [`turn`](Self::turn) has to be called at the latest, if the fd does not become readable
    /// before. `None` if there is no such time.
    ///
    /// It is the deadline of a job, or the time at which memory is to go back to the kernel:
    /// [`trim_after`](SchedulerBuilder::trim_after), [`set_idle_time`](crate::stack::set_idle_time).
    pub fn next_deadline(&self) -> Option<Instant> {
        self.inner.core.borrow_mut().next_deadline()
    }

    /// Refuses new jobs, lets the jobs that are there go on for at most `within`, and cancels those that are left then.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    pub fn shutdown(&self, within: Duration) -> io::Result<ShutdownReport> {
        self.inner.inbox.process().check()?;
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
        self.inner.stats()
    }

    /// How many jobs have not ended, queued ones included. In a scheduler of [`Workers`] this counts the jobs of all
    /// workers.
    pub fn live_jobs(&self) -> usize {
        self.inner.shared.live()
    }

    fn with(inbox: Arc<Inbox>, shared: Arc<WorkerGroup>, trim_after: Option<Duration>) -> io::Result<Scheduler> {
        let reactor = Reactor::new(inbox.raw_notifier())?;
        budget::notice_forks();
        if shared.inboxes.len() == 1 {
            let _is_new = shared.thread.set(thread::current().id());
        }
        let inner = Rc::new(Inner {
            poller: reactor.fd(),
            fd_for_host: OnceCell::new(),
            core: RefCell::new(Core::new(reactor, Arc::clone(&inbox), IdleMemory::new(trim_after))),
            inbox,
            shared,
            thread: thread::current().id(),
            starting: Cell::new(ptr::null()),
            turning: Cell::new(false),
            parked: Cell::new(false),
            stop_at: Cell::new(None),
            #[cfg(feature = "insight")]
            gauges: Arc::new(crate::insight::Gauges::new()),
        });
        Ok(Scheduler {
            #[cfg(feature = "insight")]
            registration: Some(inspect::register(&inner)),
            inner,
        })
    }
}

impl Inner {
    fn spawn_job<F, T, H>(&self, builder: JobBuilder<'static, H>, f: F) -> Result<JoinHandle<T>, Refused<F, H>>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
        H: SwitchHooks + 'static,
    {
        let ctx = match self.shared.admit_here(&self.inbox, || builder.claim_ctx()) {
            Ok(ctx) => ctx,
            Err(kind) => return Err((kind, builder, f)),
        };
        #[cfg(feature = "tracing")]
        let plan = match crate::hooks::Spans::of_spawner() {
            Some(spans) => builder.map_hooks(|hooks| (spans, hooks)).plan(),
            None => builder.plan(),
        };
        #[cfg(not(feature = "tracing"))]
        let plan = builder.plan();
        Ok(self.queue(f, plan, ctx))
    }

    /// As [`spawn_job`](Self::spawn_job), for a builder that sets nothing: none is put together.
    #[inline]
    fn spawn_plain<F, T>(&self, f: F) -> Result<JoinHandle<T>, (SpawnErrorKind, F)>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        if let Err(kind) = self.shared.admit_here(&self.inbox, || Ok(())) {
            return Err((kind, f));
        }
        #[cfg(feature = "tracing")]
        let plan = match crate::hooks::Spans::of_spawner() {
            Some(spans) => JobBuilder::new().hooks(spans).plan(),
            None => JobPlan::NONE,
        };
        #[cfg(not(feature = "tracing"))]
        let plan = JobPlan::NONE;
        Ok(self.queue(f, plan, None))
    }

    /// Queues a job that was admitted.
    #[inline]
    fn queue<F, T>(&self, f: F, plan: JobPlan, ctx: Option<ClaimedCtx>) -> JoinHandle<T>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        let (handle, main) = share(|| JoinState::new(self.inbox.process(), Some(self.thread)), f);
        self.core.borrow_mut().pending.push_back(Pending { main, plan, ctx });
        if self.parked.get() {
            self.inbox.notify_if_parked(); // wakes a host that sleeps on the fd
        }
        JoinHandle::new(handle)
    }

    fn stats(&self) -> Stats {
        Stats {
            refused: self.shared.refused(),
            ..self.core.borrow().stats
        }
    }

    /// Whether a host has asked for the fd. It may sleep on the fd between two turns.
    fn is_hosted(&self) -> bool {
        self.fd_for_host.get().is_some()
    }

    /// A host has asked for the fd. From now on each turn leaves the inbox parked, and until the next turn the fd is as
    /// such a turn would have left it. Without a host nothing can sleep between two turns, so nothing parks there.
    fn serve_host(&self) {
        if self.turning.get() || self.inbox.process().is_inherited() {
            return;
        }
        self.parked.set(true);
        let is_busy = self.core.borrow().runnable() != 0 || self.has_incoming();
        if is_busy || !self.park() {
            self.inbox.notify();
        }
    }

    /// Marks the inbox as parked: from now on what other threads send notifies this scheduler. Returns `false` if there
    /// is something already.
    fn park(&self) -> bool {
        if self.inbox.park() {
            if !self.shared.has_submissions() {
                return true;
            }
            self.inbox.unpark();
        }
        false
    }

    /// Whether other threads have sent something.
    fn has_incoming(&self) -> bool {
        self.inbox.has_messages() || self.shared.has_submissions()
    }

    /// Whether this scheduler, alone or as a worker, has jobs to run or to wait for.
    fn jobs_left(&self) -> bool {
        let core = self.core.borrow();
        !core.tasks.is_empty() || core.has_unstarted() || self.shared.has_submissions()
    }
}

impl AsFd for Scheduler {
    /// The fd is readable when there is something new for [`turn`](Scheduler::turn), except for deadlines: see
    /// [`next_deadline`](Scheduler::next_deadline). Jobs that a turn has left to the next one need not make it
    /// readable, so take turns until [`Turn::ready`] is 0 before you poll it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        let inner = &self.inner;
        let for_host = || inner.core.borrow_mut().fd_for_host();
        // Without another fd the host gets the instance itself. A replacement of it, which is rare, takes the host's
        // registration along then; its polls still work.
        let is_first = !inner.is_hosted();
        let fd = inner
            .fd_for_host
            .get_or_init(|| for_host().unwrap_or_else(|_| Rc::clone(&inner.poller)));
        if is_first {
            inner.serve_host();
        }
        fd.as_fd()
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        if self.inner.inbox.process().is_inherited() {
            // The jobs are the parent's. Their code must not run here, and neither must the destructors of what they
            // own.
            return std::mem::forget(Rc::clone(&self.inner));
        }
        self.inner.shared.close_one();
        self.inner.cancel_all();
        #[cfg(feature = "insight")]
        drop(self.registration.take()); // before the inbox drops what it is asked
        self.inner.inbox.close();
        let _ = release_surplus();
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

/// The time that is `within` from now. If an `Instant` does not reach that far, it is a century from now.
fn after(within: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(within).unwrap_or_else(|| now + CENTURY)
}

const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
