//! Threads that run jobs, each with a scheduler of its own.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::submit::WorkerGroup;
use super::wake::Inbox;
use super::{Handle, Scheduler, ShutdownReport, WorkersBuilder, after};
use crate::pool::{PoolConfig, init_thread};
use crate::stack::prepare_for_forks;
use crate::sync::{Receiver, oneshot};

/// Threads that run jobs, each with a scheduler of its own.
///
/// A job starts on the worker that is free first, and stays on that thread. `Workers` is `Send` and `Sync`.
///
/// **Dropping the workers cancels every job that is left**, and waits for the threads. Inside a job of these workers
/// the drop waits for all threads but that of the job, which ends by itself. In every job it blocks the thread. Two
/// jobs that drop each other's workers therefore wait for each other for ever.
///
/// ```
/// use asyncjob::scheduler::Workers;
/// use std::time::Duration;
///
/// let workers = Workers::builder().threads(2).max_jobs(1000).build()?;
/// let squares: Vec<_> = (0..10u64).map(|n| workers.handle().spawn(move || n * n).unwrap()).collect();
/// let sum: u64 = squares.into_iter().map(|job| job.join().unwrap()).sum();
/// assert_eq!(sum, 285);
/// let report = workers.shutdown(Duration::from_secs(1));
/// assert_eq!(report.cancelled, 0);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Workers {
    shared: Arc<WorkerGroup>,
    threads: Vec<thread::JoinHandle<ShutdownReport>>,
}

impl Workers {
    /// Starts `threads` threads, without a limit of jobs.
    ///
    /// # Errors
    ///
    /// As [`WorkersBuilder::build`].
    pub fn new(threads: usize) -> io::Result<Self> {
        Self::builder().threads(threads).build()
    }

    /// Configures workers: the number of threads, their pools and names, a limit of jobs.
    pub fn builder() -> WorkersBuilder {
        WorkersBuilder::new()
    }

    /// Makes a handle that spawns jobs on these workers from any thread.
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.shared))
    }

    /// The number of threads.
    pub fn thread_count(&self) -> usize {
        self.threads.len()
    }

    /// Refuses new jobs, lets the jobs that are there go on for at most `within`, cancels those that are left then, and
    /// ends the threads.
    ///
    /// The report is the sum over all threads. If a job of these workers calls this, the thread of that job is not
    /// waited for, and is missing in the report. In a child of the process that made the workers this does nothing.
    pub fn shutdown(mut self, within: Duration) -> ShutdownReport {
        self.stop(within)
    }

    /// Lets the scheduler of each worker call `f` on its own thread, in its next turn.
    pub(crate) fn call_each<R: Send + 'static>(
        &self,
        f: impl Fn(&Scheduler) -> R + Send + Sync + 'static,
    ) -> Vec<Receiver<R>> {
        let f = Arc::new(f);
        let call = |inbox: &Arc<Inbox>| {
            let (f, (result, receiver)) = (Arc::clone(&f), oneshot());
            inbox.send(Box::new(move |scheduler| result.send(f(scheduler))));
            receiver
        };
        self.shared.inboxes.iter().map(call).collect()
    }

    /// Fails in a child of the process of the workers.
    pub(crate) fn check_process(&self) -> io::Result<()> {
        self.shared.process().check()
    }

    pub(super) fn start(builder: &WorkersBuilder) -> io::Result<Workers> {
        // While this program may still have one thread.
        prepare_for_forks();
        #[cfg(feature = "insight")]
        crate::insight::prepare_for_forks();
        let inboxes = (0..builder.threads).map(|_| Inbox::new().map(Arc::new));
        let inboxes = inboxes.collect::<io::Result<Vec<_>>>()?;
        let mut workers = Workers {
            shared: Arc::new(WorkerGroup::new(inboxes.clone(), builder.max_jobs)),
            threads: Vec::new(),
        };
        for (number, inbox) in inboxes.into_iter().enumerate() {
            let (shared, pool) = (Arc::clone(&workers.shared), builder.pool);
            let trim_after = builder.trim_after;
            let (made, is_made) = sync_channel(1);
            let thread = thread::Builder::new().name(format!("{}-{number}", builder.thread_name));
            workers
                .threads
                .push(thread.spawn(move || work(inbox, shared, pool, trim_after, &made))?);
            // A thread that could not set itself up makes this call fail.
            is_made.recv().map_err(io::Error::other)??;
        }
        Ok(workers)
    }

    fn stop(&mut self, within: Duration) -> ShutdownReport {
        if self.shared.process().is_inherited() {
            // The threads are the parent's: here there is nothing to wait for, or to detach.
            std::mem::forget((std::mem::take(&mut self.threads), Arc::clone(&self.shared)));
            return ShutdownReport::default();
        }
        self.shared.close();
        let until = after(within);
        for inbox in &self.shared.inboxes {
            inbox.send(Box::new(move |scheduler| scheduler.inner.stop_at.set(Some(until))));
        }
        // The caller may be a job of these workers. Its thread cannot wait for itself, and ends by itself.
        let own = thread::current().id();
        let others = self.threads.drain(..).filter(|thread| thread.thread().id() != own);
        others.fold(ShutdownReport::default(), |sum, thread| {
            let one = thread.join().unwrap_or_default();
            ShutdownReport {
                finished: sum.finished + one.finished,
                cancelled_before: sum.cancelled_before + one.cancelled_before,
                cancelled: sum.cancelled + one.cancelled,
                quarantined: sum.quarantined + one.quarantined,
            }
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

/// The main function of a worker thread.
fn work(
    inbox: Arc<Inbox>,
    shared: Arc<WorkerGroup>,
    pool: PoolConfig,
    trim_after: Option<Duration>,
    made: &SyncSender<io::Result<()>>,
) -> ShutdownReport {
    let pool = init_thread(pool).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error));
    let scheduler = match pool.and_then(|()| Scheduler::with(inbox, shared, trim_after)) {
        Ok(scheduler) => scheduler,
        Err(error) => {
            let _ = made.send(Err(error));
            return ShutdownReport::default();
        }
    };
    let _ = made.send(Ok(()));
    while scheduler.inner.stop_at.get().is_none() {
        if scheduler.turn(Some(Duration::MAX)).is_err() {
            break;
        }
    }
    let until = scheduler.inner.stop_at.get().unwrap_or_else(Instant::now);
    let left = until.saturating_duration_since(Instant::now());
    scheduler.shutdown(left).unwrap_or_default()
}
