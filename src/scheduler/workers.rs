//! Many schedulers on many threads, and what reaches a scheduler from other threads.
//!
//! ```text
//!   Handle::spawn ---> queue of submissions ---> whichever worker looks next; one that sleeps is woken
//!                                                 |           |           |
//!                                              scheduler   scheduler   scheduler     a thread each
//! ```
//!
//! A job stays on the thread that started it: the compiler keeps addresses of thread-locals across a switch, so a started
//! job must not move. What has not started goes to whoever is free.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::join::{Completion, JoinError, JoinHandle, JoinState};
use super::wake::Inbox;
use super::{Pending, Scheduler, SchedulerBuilder, ShutdownReport, after, discard};
use crate::error::SpawnError;

/// Spawns jobs from any thread on a [`Scheduler`] or on [`Workers`]. Clones are handles to the same.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Handle { shared }
    }

    /// Queues `f`, to be run as a job by the scheduler, or by whichever worker is free first.
    ///
    /// # Errors
    ///
    /// [`SpawnError`], with `f` in it, when the scheduler is full, shutting down or gone.
    ///
    /// ```
    /// use asyncjob::scheduler::Scheduler;
    ///
    /// let scheduler = Scheduler::new()?;
    /// let handle = scheduler.handle();
    /// let other = std::thread::spawn(move || handle.spawn(|| 6 * 7).unwrap().join());
    /// while scheduler.live_jobs() == 0 { std::thread::yield_now(); }
    /// scheduler.run()?;
    /// assert_eq!(other.join().unwrap()?, 42);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn spawn<F, T>(&self, f: F) -> Result<JoinHandle<T>, SpawnError<F>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.submit(None, f)
    }

    /// As [`spawn`](Self::spawn), with a name for reports and lists of jobs.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
    pub fn spawn_named<F, T>(&self, name: impl Into<Cow<'static, str>>, f: F) -> Result<JoinHandle<T>, SpawnError<F>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.submit(Some(name.into()), f)
    }

    /// Ready when there is room for another job, which somebody else may take first: wait, spawn, and if that is
    /// [`SpawnError::Full`] wait again.
    pub fn room(&self) -> Room {
        Room {
            shared: Arc::clone(&self.shared),
        }
    }

    /// How many jobs have not ended, queued ones included.
    pub fn live_jobs(&self) -> usize {
        self.shared.live()
    }

    fn submit<F, T>(&self, name: Option<Cow<'static, str>>, f: F) -> Result<JoinHandle<T>, SpawnError<F>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let f = self.shared.admit(f)?;
        let state = JoinState::new(self.shared.home);
        let in_job = Arc::clone(&state);
        self.shared.submit(Submission {
            main: Box::new(move || in_job.complete(catch_unwind(AssertUnwindSafe(f)))),
            completion: state.clone(),
            name,
        });
        Ok(JoinHandle { state })
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("live_jobs", &self.live_jobs()).finish()
    }
}

/// A future: see [`Handle::room`].
#[must_use = "futures do nothing until awaited"]
pub struct Room {
    shared: Arc<Shared>,
}

impl Future for Room {
    type Output = ();

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        if self.shared.has_room() {
            return Poll::Ready(());
        }
        let waker = task.waker().clone();
        self.shared.waiting.lock().push(waker);
        self.shared.somebody_waits.store(true, Ordering::SeqCst);
        // A job may have ended before it could see that somebody waits.
        if self.shared.has_room() {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").field("room", &self.shared.has_room()).finish()
    }
}

/// Threads that run jobs, each with a scheduler of its own.
///
/// Dropping it cancels every job that is left and waits for the threads.
///
/// ```
/// use asyncjob::scheduler::Scheduler;
/// use std::time::Duration;
///
/// let workers = Scheduler::builder().max_jobs(1000).workers(2)?;
/// let squares: Vec<_> = (0..10u64).map(|n| workers.handle().spawn(move || n * n).unwrap()).collect();
/// let sum: u64 = squares.into_iter().map(|job| job.join().unwrap()).sum();
/// assert_eq!(sum, 285);
/// let report = workers.shutdown(Duration::from_secs(1));
/// assert_eq!(report.cancelled, 0);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Workers {
    shared: Arc<Shared>,
    threads: Vec<thread::JoinHandle<ShutdownReport>>,
}

impl Workers {
    /// `threads` threads, with no bound on jobs.
    ///
    /// # Errors
    ///
    /// As [`SchedulerBuilder::workers`].
    pub fn new(threads: usize) -> io::Result<Self> {
        Scheduler::builder().workers(threads)
    }

    /// To set a bound on jobs first, over all threads together.
    pub fn builder() -> SchedulerBuilder {
        Scheduler::builder()
    }

    /// Spawns on them.
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.shared))
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// Calls `f` with each worker's scheduler, on its thread, between the runs of its jobs: to list jobs, say.
    ///
    /// # Panics
    ///
    /// With a panic of `f`, here; the worker goes on.
    pub fn each<R: Send + 'static>(&self, f: impl Fn(&Scheduler) -> R + Send + Sync + 'static) -> Vec<R> {
        let (results, all) = std::sync::mpsc::channel();
        let f = Arc::new(f);
        for inbox in &self.shared.inboxes {
            let (f, results) = (Arc::clone(&f), results.clone());
            inbox.send(Box::new(move |scheduler| {
                let _ = results.send(catch_unwind(AssertUnwindSafe(|| f(scheduler))));
            }));
        }
        drop(results);
        let results: Vec<thread::Result<R>> = all.into_iter().collect();
        results
            .into_iter()
            .map(|result| result.unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    }

    /// Takes no more jobs, lets those that are there go on for at most `within`, cancels what is left, and ends the
    /// threads. The report is the sum of all.
    pub fn shutdown(mut self, within: Duration) -> ShutdownReport {
        self.stop(within)
    }

    pub(super) fn start(threads: usize, max_jobs: usize) -> io::Result<Workers> {
        let inboxes = (0..threads.max(1)).map(|_| Inbox::new().map(Arc::new));
        let inboxes = inboxes.collect::<io::Result<Vec<_>>>()?;
        let mut workers = Workers {
            shared: Arc::new(Shared::new(inboxes.clone(), max_jobs, None)),
            threads: Vec::new(),
        };
        for (number, inbox) in inboxes.into_iter().enumerate() {
            // Made here, so that a system without epoll instances is an error of this call; an epoll fd has no thread.
            let shared = Arc::clone(&workers.shared);
            let (made, is_made) = std::sync::mpsc::sync_channel(1);
            let thread = thread::Builder::new().name(format!("asyncjob-{number}"));
            workers.threads.push(thread.spawn(move || work(inbox, shared, &made))?);
            is_made.recv().map_err(io::Error::other)??;
        }
        Ok(workers)
    }

    fn stop(&mut self, within: Duration) -> ShutdownReport {
        self.shared.close();
        let until = after(within);
        for inbox in &self.shared.inboxes {
            inbox.send(Box::new(move |scheduler| scheduler.stop_at.set(Some(until))));
        }
        let reports = self.threads.drain(..).map(|thread| thread.join().unwrap_or_default());
        reports.fold(ShutdownReport::default(), |sum, one| ShutdownReport {
            finished: sum.finished + one.finished,
            cancelled: sum.cancelled + one.cancelled,
            quarantined: sum.quarantined + one.quarantined,
        })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers")
            .field("threads", &self.threads.len())
            .field("live_jobs", &self.shared.live())
            .finish()
    }
}

/// The life of a worker.
fn work(inbox: Arc<Inbox>, shared: Arc<Shared>, made: &std::sync::mpsc::SyncSender<io::Result<()>>) -> ShutdownReport {
    let scheduler = match Scheduler::with(inbox, shared) {
        Ok(scheduler) => scheduler,
        Err(error) => {
            let _ = made.send(Err(error));
            return ShutdownReport::default();
        }
    };
    let _ = made.send(Ok(()));
    while scheduler.stop_at.get().is_none() {
        if scheduler.turn(Some(Duration::MAX)).is_err() {
            break;
        }
    }
    let until = scheduler.stop_at.get().unwrap_or_else(Instant::now);
    let left = until.saturating_duration_since(Instant::now());
    scheduler.shutdown(left).unwrap_or_default()
}

/// A job on its way to a scheduler.
pub(super) struct Submission {
    pub(super) main: Box<dyn FnOnce() + Send>,
    pub(super) completion: Arc<dyn Completion + Send + Sync>,
    pub(super) name: Option<Cow<'static, str>>,
}

/// How many jobs a worker takes while others might.
const MOST_AT_ONCE: usize = 8;

/// What the threads of one scheduler, or of all workers, share.
pub(super) struct Shared {
    inboxes: Vec<Arc<Inbox>>,
    /// Where to look first for somebody who sleeps.
    next: AtomicUsize,
    submissions: Mutex<Queue>,
    submitted: AtomicUsize,
    /// Jobs that have not ended, and how many there may be.
    live: AtomicUsize,
    max_jobs: usize,
    closed: AtomicBool,
    /// Schedulers that still exist.
    open: AtomicUsize,
    /// Who waits for room.
    waiting: Mutex<Vec<Waker>>,
    somebody_waits: AtomicBool,
    /// The thread of the scheduler, if there is just one.
    home: Option<ThreadId>,
}

impl Shared {
    pub(super) fn new(inboxes: Vec<Arc<Inbox>>, max_jobs: usize, home: Option<ThreadId>) -> Self {
        Shared {
            open: AtomicUsize::new(inboxes.len()),
            inboxes,
            next: AtomicUsize::new(0),
            submissions: Mutex::default(),
            submitted: AtomicUsize::new(0),
            live: AtomicUsize::new(0),
            max_jobs,
            closed: AtomicBool::new(false),
            waiting: Mutex::default(),
            somebody_waits: AtomicBool::new(false),
            home,
        }
    }

    /// Counts another job, if there may be one.
    pub(super) fn admit<F>(&self, closure: F) -> Result<F, SpawnError<F>> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(SpawnError::ShuttingDown { closure });
        }
        if self.live.fetch_add(1, Ordering::SeqCst) >= self.max_jobs {
            self.live.fetch_sub(1, Ordering::SeqCst);
            let max_jobs = self.max_jobs;
            return Err(SpawnError::Full { closure, max_jobs });
        }
        Ok(closure)
    }

    /// A job has ended.
    pub(super) fn ended(&self) {
        self.live.fetch_sub(1, Ordering::SeqCst);
        if self.somebody_waits.load(Ordering::SeqCst) {
            self.tell_waiting();
        }
    }

    #[cold]
    fn tell_waiting(&self) {
        let mut waiting = self.waiting.lock();
        self.somebody_waits.store(false, Ordering::SeqCst);
        let all = std::mem::take(&mut *waiting);
        drop(waiting);
        all.into_iter().for_each(Waker::wake);
    }

    pub(super) fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }

    /// Also when nobody will ever have room again, so that nobody waits for it.
    fn has_room(&self) -> bool {
        self.live() < self.max_jobs || self.closed.load(Ordering::SeqCst)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.tell_waiting();
    }

    /// One scheduler is gone; with the last one, nobody is left to take jobs.
    pub(super) fn close_for(&self, inbox: &Arc<Inbox>) {
        debug_assert!(self.inboxes.iter().any(|m| Arc::ptr_eq(m, inbox)));
        if self.open.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.close();
        }
    }

    fn submit(&self, submission: Submission) {
        let mut submissions = self.submissions.lock();
        if submissions.nobody_left {
            drop(submissions);
            return self.refuse(submission);
        }
        submissions.jobs.push_back(submission);
        self.submitted.store(submissions.jobs.len(), Ordering::SeqCst);
        drop(submissions);
        // Those who are awake look by themselves. Whoever falls parked looks again after saying so.
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let count = self.inboxes.len();
        (0..count).any(|n| self.inboxes[(first + n) % count].notify_if_parked());
    }

    /// Admitted before the last scheduler was closed, submitted after it was gone.
    #[cold]
    fn refuse(&self, submission: Submission) {
        self.ended();
        submission.completion.fail(JoinError::Cancelled);
        discard(submission);
    }

    pub(super) fn has_submissions(&self) -> bool {
        self.submitted.load(Ordering::SeqCst) != 0
    }

    /// One worker's share of what has been submitted: little at a time, because what it has taken nobody else can run,
    /// however long its next job computes.
    pub(super) fn take_share(&self, pending: &mut VecDeque<Pending>) {
        let mut submissions = self.submissions.lock();
        let mut share = submissions.jobs.len().div_ceil(self.inboxes.len());
        if self.inboxes.len() > 1 {
            share = share.min(MOST_AT_ONCE);
        }
        pending.extend(submissions.jobs.drain(..share).map(Pending::from));
        self.submitted.store(submissions.jobs.len(), Ordering::SeqCst);
    }

    /// Everything that has been submitted. If that is the last scheduler's last act, nothing more can be.
    pub(super) fn take_all(&self, pending: &mut VecDeque<Pending>) {
        let mut submissions = self.submissions.lock();
        pending.extend(submissions.jobs.drain(..).map(Pending::from));
        self.submitted.store(0, Ordering::SeqCst);
        submissions.nobody_left = self.open.load(Ordering::SeqCst) == 0;
    }
}

/// Jobs on their way to a scheduler.
#[derive(Default)]
struct Queue {
    jobs: VecDeque<Submission>,
    /// Every scheduler is gone.
    nobody_left: bool,
}
