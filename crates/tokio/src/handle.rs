//! Workers, as other threads see them.

use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use asyncjob::Process;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, oneshot};
use tokio::task::spawn_local;

use crate::join::{JoinError, JoinHandle};

/// Spawns on [`Workers`](crate::Workers), from any thread. Clones are handles to the same workers.
#[derive(Clone, Debug)]
pub struct Handle {
    workers: Arc<[Worker]>,
    process: Process,
}

/// One thread, as the handles see it.
#[derive(Debug)]
pub(crate) struct Worker {
    queue: UnboundedSender<Message>,
    /// Spawned and not yet ended.
    tasks: Arc<AtomicUsize>,
}

/// What a worker is sent.
pub(crate) enum Message {
    /// Spawn a task.
    Start(Box<dyn FnOnce() + Send>),
    /// Cancel all tasks and end.
    End,
}

impl Handle {
    pub(crate) fn new(workers: Arc<[Worker]>) -> io::Result<Self> {
        let process = Process::current()?;
        Ok(Handle { workers, process })
    }

    /// Whether this is a child of the process that made the workers.
    pub(crate) fn is_inherited(&self) -> bool {
        self.process.is_inherited()
    }

    /// Runs `f` as a job on the worker with the fewest tasks.
    ///
    /// If the workers have ended, the error is [`JoinError::WorkersEnded`]. In a child of the process that made them it
    /// is [`JoinError::Forked`].
    pub fn spawn<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        self.send(|| async { crate::job(f).await.map_err(JoinError::Job) })
    }

    /// Runs the future that `make` makes as a task on the worker with the fewest tasks. The future need not be `Send`:
    /// it may be [`in_job`](crate::in_job), or hold jobs.
    ///
    /// ```
    /// let workers = asyncjob_tokio::Workers::new(1)?;
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    /// # runtime.block_on(async {
    /// let task = workers.handle().spawn_task(|| asyncjob_tokio::in_job(async { 42 }));
    /// assert_eq!(task.await??, 42);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn spawn_task<F>(&self, make: impl FnOnce() -> F + Send + 'static) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: Send,
    {
        self.send(|| async { Ok(make().await) })
    }

    /// How many tasks each worker has, those that have not started included.
    pub fn tasks(&self) -> Vec<usize> {
        self.workers
            .iter()
            .map(|worker| worker.tasks.load(Ordering::Relaxed))
            .collect()
    }

    /// Tells every worker to end.
    pub(crate) fn end_all(&self) {
        for worker in &*self.workers {
            let _ = worker.queue.send(Message::End);
        }
    }

    fn send<T: Send + 'static, F>(&self, make: impl FnOnce() -> F + Send + 'static) -> JoinHandle<T>
    where
        F: Future<Output = Result<T, JoinError>> + 'static,
    {
        let idlest = self
            .workers
            .iter()
            .min_by_key(|worker| worker.tasks.load(Ordering::Relaxed));
        let worker = idlest.expect("workers have at least one thread");
        let (sender, result) = oneshot::channel();
        let (cancel, counted) = (Arc::new(Notify::new()), Counted::new(&worker.tasks));
        let handle = JoinHandle::new(result, Arc::downgrade(&cancel), self.process);
        if self.is_inherited() {
            return handle; // which says so
        }
        let start = move || {
            spawn_local(run_task(make, sender, cancel, counted));
        };
        // A worker that has ended drops the message, and the sender of the result with it: `JoinError::WorkersEnded`.
        let _ = worker.queue.send(Message::Start(Box::new(start)));
        handle
    }
}

impl Worker {
    pub(crate) fn new(queue: UnboundedSender<Message>) -> Self {
        Worker {
            queue,
            tasks: Arc::default(),
        }
    }
}

/// Runs the work until it ends or is cancelled, and sends its result.
async fn run_task<T, F>(
    make: impl FnOnce() -> F,
    result: oneshot::Sender<Result<T, JoinError>>,
    cancel: Arc<Notify>,
    _counted: Counted,
) where
    F: Future<Output = Result<T, JoinError>>,
{
    let mut work = pin!(until_cancelled(async { make().await }, &cancel));
    let ended = poll_fn(|task| {
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(task)));
        polled.unwrap_or_else(|payload| Poll::Ready(Err(JoinError::Panicked(payload.into()))))
    });
    let _ = result.send(ended.await);
}

/// Polls `work` until it ends or is cancelled. Its last poll drops it.
async fn until_cancelled<T>(work: impl Future<Output = Result<T, JoinError>>, cancel: &Notify) -> Result<T, JoinError> {
    let (mut work, mut cancelled) = (pin!(work), pin!(cancel.notified()));
    // The cancellation first: work that is cancelled before its first poll never starts.
    poll_fn(|task| match cancelled.as_mut().poll(task) {
        Poll::Ready(()) => Poll::Ready(Err(JoinError::Cancelled)),
        Poll::Pending => work.as_mut().poll(task),
    })
    .await
}

/// Counts a task from its spawn to its end.
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

const _: () = {
    const fn is_portable<T: Send + Sync + 'static>() {}
    is_portable::<Handle>();
};
