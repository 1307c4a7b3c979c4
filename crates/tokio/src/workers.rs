//! Threads that run jobs for tasks of other threads.
//!
//! ```text
//!   a task of any runtime               a worker: a thread, a current-thread runtime, a LocalSet
//!
//!     handle.spawn(f)  ------ f ----->    runs f as a job here, and on no other thread
//!     JoinHandle       <-- result ----
//!     dropped          -------------->    cancels the job
//! ```
//!
//! A closure may change its thread before it starts as a job. The job may not. So a [`Handle`] sends closures, each to
//! the worker with the fewest tasks, and what the closure makes stays on the thread of that worker.

use std::borrow::Cow;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use asyncjob::guide_page;
use asyncjob::pool::{self, PoolConfig, init_thread};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::LocalSet;
use tokio::time::{Sleep, sleep};

use crate::handle::{Handle, Message, Worker};

/// Threads that run jobs for tasks of other threads, also on runtimes whose tasks move between threads.
///
/// Dropping the workers cancels what is left on them and waits for the threads. Inside one of their own jobs the drop
/// does not wait for the thread of that job. In a child of the process that made them the drop does nothing, and what
/// is spawned fails with [`JoinError::Forked`](crate::JoinError::Forked).
///
/// The memory of stacks that no job needs goes back to the kernel, which each worker sees to about once a second (see
/// [`set_idle_time`](asyncjob::stack::set_idle_time)).
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
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Debug)]
pub struct Workers {
    handle: Handle,
    threads: Vec<thread::JoinHandle<()>>,
}

/// Configures [`Workers`].
///
/// ```
/// use asyncjob::pool::PoolConfig;
///
/// let pool = PoolConfig::new().limit(1000);
/// let workers = asyncjob_tokio::Workers::builder().threads(2).pool(pool).thread_name("tls").build()?;
/// assert_eq!(workers.thread_count(), 2);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct WorkersBuilder {
    threads: usize,
    pool: PoolConfig,
    thread_name: Cow<'static, str>,
}

impl Workers {
    /// `threads` threads, each with a pool without a limit.
    ///
    /// # Errors
    ///
    /// As [`WorkersBuilder::build`].
    pub fn new(threads: usize) -> io::Result<Workers> {
        Workers::builder().threads(threads).build()
    }

    /// Configures workers: their number, their pools, their names.
    pub fn builder() -> WorkersBuilder {
        WorkersBuilder::new()
    }

    /// Spawns on these workers, from any thread.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// How many threads there are.
    pub fn thread_count(&self) -> usize {
        self.threads.len()
    }

    fn start(builder: &WorkersBuilder) -> io::Result<Workers> {
        let (queues, inboxes): (Vec<_>, Vec<_>) = (0..builder.threads).map(|_| unbounded_channel()).unzip();
        let mut workers = Workers {
            handle: Handle::new(queues.into_iter().map(Worker::new).collect())?,
            threads: Vec::new(),
        };
        for (number, inbox) in inboxes.into_iter().enumerate() {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (pool, (made, is_made)) = (builder.pool, sync_channel(1));
            let thread = thread::Builder::new().name(format!("{}-{number}", builder.thread_name));
            workers
                .threads
                .push(thread.spawn(move || work(&runtime, inbox, pool, &made))?);
            // What the thread could not set up is an error of this call.
            is_made.recv().map_err(io::Error::other)??;
        }
        Ok(workers)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if self.handle.is_inherited() {
            mem::forget(mem::take(&mut self.threads)); // they are the parent's
            return;
        }
        self.handle.end_all();
        // A job of these workers may be the caller: its thread cannot wait for itself, and ends by itself.
        let own = thread::current().id();
        let others = self.threads.drain(..).filter(|thread| thread.thread().id() != own);
        for thread in others {
            let _ = thread.join(); // the panic hook has reported what a thread may have panicked with
        }
    }
}

/// For functions that take `impl Into<Handle>`, such as `asyncjob_rustls::TlsAcceptor::pinned`: `pinned(&workers)`.
impl From<&Workers> for Handle {
    fn from(workers: &Workers) -> Self {
        workers.handle()
    }
}

impl WorkersBuilder {
    fn new() -> Self {
        WorkersBuilder {
            threads: thread::available_parallelism().map_or(1, usize::from),
            pool: PoolConfig::new(),
            thread_name: Cow::Borrowed("asyncjob-tokio"),
        }
    }

    /// How many threads. Default: one for each processor.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// The pool of each thread, as [`pool::init_thread`](init_thread) sets it up. At the limit of its thread's pool, a
    /// job waits for the end of another one.
    pub fn pool(mut self, config: PoolConfig) -> Self {
        self.pool = config;
        self
    }

    /// What the threads are called. A number is added. Default: `asyncjob-tokio`.
    pub fn thread_name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.thread_name = name.into();
        self
    }

    /// Starts the threads, each with a current-thread runtime of its own.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] for no threads and for a pool that cannot be set up. Otherwise what the system
    /// says when it has no thread or fd left. The threads that were started already are stopped again.
    pub fn build(self) -> io::Result<Workers> {
        if self.threads == 0 {
            let sentence = concat!("workers need at least one thread", guide_page!("tokio"));
            return Err(io::Error::new(io::ErrorKind::InvalidInput, sentence));
        }
        Workers::start(&self)
    }
}

/// What a worker does next.
enum Next {
    Message(Option<Message>),
    IdleMemory,
}

/// When a worker gives the memory of idle stacks back to the kernel: about once a second, as long as its thread has
/// stacks.
#[derive(Default)]
struct IdleMemory {
    due: Option<Pin<Box<Sleep>>>,
}

impl IdleMemory {
    const INTERVAL: Duration = Duration::from_secs(1);

    /// A stack will be idle some time.
    fn job_starts(&mut self) {
        self.due.get_or_insert_with(|| Box::pin(sleep(Self::INTERVAL)));
    }

    fn poll_due(&mut self, task: &mut Context<'_>) -> Poll<()> {
        match &mut self.due {
            Some(due) => due.as_mut().poll(task),
            None => Poll::Pending,
        }
    }

    fn give_back(&mut self) {
        let more_is_due = pool::decay();
        let has_jobs = pool::stats().in_use != 0;
        let left = more_is_due.or(has_jobs.then_some(Self::INTERVAL));
        self.due = left.map(|left| Box::pin(sleep(left.min(Self::INTERVAL))));
    }
}

/// The life of a worker.
fn work(runtime: &Runtime, mut inbox: UnboundedReceiver<Message>, pool: PoolConfig, made: &SyncSender<io::Result<()>>) {
    if let Err(error) = init_thread(pool) {
        let _ = made.send(Err(io::Error::new(io::ErrorKind::InvalidInput, error)));
        return;
    }
    let _ = made.send(Ok(()));
    let tasks = LocalSet::new();
    tasks.block_on(runtime, async {
        let mut idle_memory = IdleMemory::default();
        loop {
            let next = poll_fn(|task| match inbox.poll_recv(task) {
                Poll::Ready(message) => Poll::Ready(Next::Message(message)),
                Poll::Pending => idle_memory.poll_due(task).map(|()| Next::IdleMemory),
            });
            match next.await {
                Next::Message(Some(Message::Start(start))) => {
                    idle_memory.job_starts();
                    start();
                }
                Next::Message(_) => break,
                Next::IdleMemory => idle_memory.give_back(),
            }
        }
    });
    // Jobs may use the runtime while they are cancelled.
    let _inside = runtime.enter();
    drop(tasks);
}
