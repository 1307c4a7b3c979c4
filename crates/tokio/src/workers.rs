//! Pinned threads for jobs, behind a handle that any thread may use.
//!
//! ```text
//!   a runtime with many threads        a worker: one thread, a current-thread runtime, a LocalSet
//!     handle.spawn(f)  ------ f ---->    runs f as a job here, and never anywhere else
//!     Pinned.await     <--- result --
//!     Pinned dropped   ------------->    cancels it
//! ```
//!
//! A closure may travel before it starts, a job may not after. So the handle sends closures, each to the worker with the
//! fewest tasks, and the `!Send` things that they make stay there.

use std::any::Any;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};

use asyncjob::job_future::JobError;
use asyncjob::pool::{PoolConfig, init_thread};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{LocalSet, spawn_local};

/// Threads that run jobs for others. Dropping it cancels what still runs on them, and joins them.
///
/// ```
/// use asyncjob::waiting::await_future;
///
/// let workers = asyncjob_tokio::Workers::new(2)?;
/// let handle = workers.handle();
/// # let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build()?;
/// # runtime.block_on(async move {
/// let answer = tokio::spawn(async move { // a task that may change its thread
///     handle.spawn(|| await_future(async { 42 }).unwrap()).await
/// });
/// assert_eq!(answer.await??, 42);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Workers {
    handle: WorkersHandle,
    threads: Vec<JoinHandle<()>>,
}

/// Sends work to [`Workers`], from any thread. Clones are cheap.
#[derive(Clone, Debug)]
pub struct WorkersHandle {
    workers: Arc<[Worker]>,
}

/// The result of work on a worker. Dropping it cancels the work; to let it go on alone, `tokio::spawn` this.
#[derive(Debug)]
#[must_use = "dropping it cancels the work"]
pub struct Pinned<T> {
    result: oneshot::Receiver<Result<T, PinnedError>>,
}

/// Why a [`Pinned`] has no result.
#[non_exhaustive]
pub enum PinnedError {
    /// The job had no result.
    Job(JobError),
    /// The work panicked, with this.
    Panicked(Box<dyn Any + Send>),
    /// The workers have ended, before the work or during it.
    WorkersEnded,
}

#[derive(Debug)]
struct Worker {
    queue: mpsc::UnboundedSender<Message>,
    /// Sent and not yet ended.
    tasks: Arc<AtomicUsize>,
}

enum Message {
    Start(Box<dyn FnOnce() + Send>),
    End,
}

impl Workers {
    /// Starts `count` threads, which run as many jobs as memory allows.
    ///
    /// # Errors
    ///
    /// If the system has no more threads or fds.
    pub fn new(count: usize) -> io::Result<Workers> {
        Workers::with_pool(count, PoolConfig::new())
    }

    /// Starts `count` threads with a pool of this kind each: a limit here is a limit for each thread. At the limit, work
    /// waits in line.
    ///
    /// # Errors
    ///
    /// If the system has no more threads or fds.
    ///
    /// # Panics
    ///
    /// If the pool is to make more stacks in advance than its limit allows, or `count` is 0.
    pub fn with_pool(count: usize, pool: PoolConfig) -> io::Result<Workers> {
        assert!(count > 0, "workers need at least one thread");
        let (mut workers, mut threads) = (Vec::new(), Vec::new());
        for number in 0..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (queue, messages) = mpsc::unbounded_channel();
            let thread = thread::Builder::new().name(format!("asyncjob-{number}"));
            threads.push(thread.spawn(move || run_worker(&runtime, messages, pool))?);
            workers.push(Worker {
                queue,
                tasks: Arc::default(),
            });
        }
        let handle = WorkersHandle {
            workers: workers.into(),
        };
        Ok(Workers { handle, threads })
    }

    /// What sends work to these threads.
    pub fn handle(&self) -> WorkersHandle {
        self.handle.clone()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &*self.handle.workers {
            let _ = worker.queue.send(Message::End);
        }
        for thread in self.threads.drain(..) {
            // Work that panics does not take its thread along: this is a pool that could not be set up.
            if let Err(panic) = thread.join()
                && !thread::panicking()
            {
                resume_unwind(panic);
            }
        }
    }
}

impl WorkersHandle {
    /// Runs `f` as a job on one of the threads.
    pub fn spawn<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> Pinned<T> {
        self.send(|| async { crate::job(f).await.map_err(PinnedError::Job) })
    }

    /// Runs the future that `make` makes as a task on one of the threads. The future need not be `Send`: it may be
    /// [`in_job`](crate::in_job), or hold jobs.
    pub fn spawn_task<F>(&self, make: impl FnOnce() -> F + Send + 'static) -> Pinned<F::Output>
    where
        F: Future + 'static,
        F::Output: Send,
    {
        self.send(|| async { Ok(make().await) })
    }

    /// How many tasks each thread has, waiting ones included.
    pub fn tasks(&self) -> Vec<usize> {
        self.workers
            .iter()
            .map(|worker| worker.tasks.load(Ordering::Relaxed))
            .collect()
    }

    fn send<T: Send + 'static, F>(&self, make: impl FnOnce() -> F + Send + 'static) -> Pinned<T>
    where
        F: Future<Output = Result<T, PinnedError>> + 'static,
    {
        let idlest = self
            .workers
            .iter()
            .min_by_key(|worker| worker.tasks.load(Ordering::Relaxed));
        let worker = idlest.expect("there is at least one");
        let (sender, result) = oneshot::channel();
        let task = Counted::new(&worker.tasks);
        let start = move || {
            spawn_local(run_task(make, sender, task));
        };
        // A failure means that the workers have ended: the sender is dropped with the message, and that is the result.
        let _ = worker.queue.send(Message::Start(Box::new(start)));
        Pinned { result }
    }
}

impl<T> Future for Pinned<T> {
    type Output = Result<T, PinnedError>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let result = Pin::new(&mut self.result).poll(task);
        result.map(|received| received.unwrap_or(Err(PinnedError::WorkersEnded)))
    }
}

fn run_worker(runtime: &Runtime, mut messages: mpsc::UnboundedReceiver<Message>, pool: PoolConfig) {
    if let Err(error) = init_thread(pool) {
        panic!("{error}");
    }
    let tasks = LocalSet::new();
    tasks.block_on(runtime, async {
        while let Some(Message::Start(start)) = messages.recv().await {
            start();
        }
    });
    // Jobs may use the runtime while they end.
    let _inside = runtime.enter();
    drop(tasks);
}

/// Runs the work to its end, or until nobody wants its result.
async fn run_task<T, F>(make: impl FnOnce() -> F, mut sender: oneshot::Sender<Result<T, PinnedError>>, _task: Counted)
where
    F: Future<Output = Result<T, PinnedError>>,
{
    let result = {
        let mut work = pin!(async { make().await });
        poll_fn(|task| match sender.poll_closed(task) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(task))) {
                Ok(result) => result.map(Some),
                Err(panic) => Poll::Ready(Some(Err(PinnedError::Panicked(panic)))),
            },
        })
        .await
    };
    if let Some(result) = result {
        let _ = sender.send(result);
    }
}

/// Counts a task from when it is sent to when it is gone.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(tasks: &Arc<AtomicUsize>) -> Self {
        tasks.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(tasks))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Display for PinnedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PinnedError::Job(error) => error.fmt(f),
            PinnedError::Panicked(panic) => match message(&**panic) {
                Some(message) => write!(f, "the work panicked: {message}"),
                None => f.write_str("the work panicked"),
            },
            PinnedError::WorkersEnded => f.write_str("the workers have ended: keep `Workers` until its work is done"),
        }
    }
}

impl fmt::Debug for PinnedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PinnedError({self})")
    }
}

impl std::error::Error for PinnedError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            PinnedError::Job(error) => Some(error),
            PinnedError::Panicked(_) | PinnedError::WorkersEnded => None,
        }
    }
}

impl From<PinnedError> for io::Error {
    fn from(error: PinnedError) -> Self {
        match error {
            PinnedError::Job(error) => error.into(),
            other => io::Error::other(other.to_string()),
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> Option<&str> {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied())
}
