//! The handle by which other threads spawn jobs on a scheduler or on workers.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::JoinHandle;
use super::current::Refused;
use super::join::JoinState;
use super::submit::{Submission, WorkerGroup};
use crate::error::SpawnError;
use crate::hooks::SwitchHooks;
use crate::job::{JobBuilder, boxed, share_send};
use crate::sync::Waiter;

/// Spawns jobs from any thread on a [`Scheduler`](super::Scheduler) or on [`Workers`](super::Workers).
///
/// A handle is `Send` and `Sync`, and so the closures that it spawns must be `Send`. A clone is another handle to the
/// same scheduler or workers. A handle does not keep them: when they are gone, a spawn is refused.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<WorkerGroup>,
}

impl Handle {
    pub(super) fn new(shared: Arc<WorkerGroup>) -> Self {
        Handle { shared }
    }

    /// Queues `f`. The scheduler, or the worker that is free first, runs it as a job.
    ///
    /// # Errors
    ///
    /// [`SpawnError`], with `f` in it: the scheduler is full, shutting down or gone.
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
        let submitted = self.submit(JobBuilder::new(), f);
        submitted.map_err(|(kind, _, f)| SpawnError::of_send(kind, (), f))
    }

    /// Makes a future that is ready when the scheduler can accept another job.
    ///
    /// Futures that wait are woken in the order of their first polls. A future that is ready has reserved nothing:
    /// spawn in the same poll, and wait again if the spawn is refused all the same. When the scheduler is shutting down
    /// or gone the future is ready, too, and the spawn says so.
    ///
    /// ```
    /// use asyncjob::scheduler::Workers;
    /// use asyncjob::waiting::await_or_block;
    ///
    /// let workers = Workers::builder().threads(1).max_jobs(1).build()?;
    /// let first = workers.handle().spawn(|| 1)?;
    /// await_or_block(workers.handle().capacity())?; // until the first job has ended
    /// let second = workers.handle().spawn(|| 2)?;
    /// assert_eq!(first.join()? + second.join()?, 3);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn capacity(&self) -> Capacity {
        Capacity {
            shared: Arc::clone(&self.shared),
            waiter: Waiter::new(),
        }
    }

    /// How many jobs have not ended, queued ones included.
    pub fn live_jobs(&self) -> usize {
        self.shared.live()
    }

    fn submit<F, T, H>(&self, builder: JobBuilder<'static, H>, f: F) -> Result<JoinHandle<T>, Refused<F, H>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
        H: SwitchHooks + Send + 'static,
    {
        let ctx = match self.shared.admit(|| builder.claim_ctx()) {
            Ok(ctx) => ctx,
            Err(kind) => return Err((kind, builder, f)),
        };
        #[cfg(feature = "tracing")]
        let hooks = match crate::hooks::Spans::of_spawner() {
            Some(spans) => Some(Box::new((spans, builder.hooks)) as Box<dyn SwitchHooks + Send>),
            None => boxed(builder.hooks).map(|hooks| hooks as _),
        };
        #[cfg(not(feature = "tracing"))]
        let hooks = boxed(builder.hooks).map(|hooks| hooks as Box<dyn SwitchHooks + Send>);
        let (handle, main) = share_send(
            || JoinState::new(self.shared.process(), self.shared.thread.get().copied()),
            f,
        );
        self.shared.submit(Submission {
            main,
            name: builder.name,
            stack_size: builder.stack_size,
            hooks,
            ctx,
        });
        Ok(JoinHandle::new(handle))
    }
}

impl<H: SwitchHooks + Send + 'static> JobBuilder<'_, H> {
    /// Queues `f` from any thread. The scheduler, or the worker that is free first, runs it as a job.
    ///
    /// # Errors
    ///
    /// [`SpawnError`], with the builder and `f` in it: the scheduler is full, shutting down or gone, or the builder's
    /// wait ctx belongs to another job that has not ended.
    ///
    /// ```
    /// use asyncjob::scheduler::Workers;
    /// use asyncjob::{JobBuilder, current_job};
    ///
    /// let workers = Workers::new(1)?;
    /// let signer = JobBuilder::new().name("signer");
    /// let job = signer.submit_to(&workers.handle(), || current_job().unwrap().name().map(str::len))?;
    /// assert_eq!(job.join()?, Some(6));
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn submit_to<F, T>(self, handle: &Handle, f: F) -> Result<JoinHandle<T>, SpawnError<F, JobBuilder<'static, H>>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let submitted = handle.submit(self.into_owned(), f);
        submitted.map_err(|(kind, builder, f)| SpawnError::of_send(kind, builder, f))
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("live_jobs", &self.live_jobs()).finish()
    }
}

/// A future that is ready when a scheduler can accept another job: see [`Handle::capacity`]. Dropping it gives its
/// place in the queue up.
#[must_use = "futures do nothing until awaited"]
pub struct Capacity {
    shared: Arc<WorkerGroup>,
    waiter: Waiter,
}

impl Future for Capacity {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.shared.poll_capacity(&mut this.waiter, task)
    }
}

impl Drop for Capacity {
    fn drop(&mut self) {
        self.shared.withdraw(&mut self.waiter);
    }
}

impl fmt::Debug for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capacity")
            .field("has_capacity", &self.shared.has_capacity())
            .finish()
    }
}

const _: () = {
    const fn is_portable<T: Send + Sync>() {}
    is_portable::<Handle>();
    is_portable::<JoinHandle<()>>();
    is_portable::<super::Workers>();
};
