//! The scheduler of the job that runs this code.
//!
//! A job must not own its scheduler: the scheduler owns the job, so neither would ever be dropped. A job has a
//! [`LocalHandle`] instead, which does not keep the scheduler.

use std::cell::Cell;
use std::fmt;
use std::mem::ManuallyDrop;
use std::rc::{Rc, Weak};

use super::wake::Inbox;
use super::{Inner, JoinHandle, Scheduler};
use crate::error::{SpawnError, SpawnErrorKind};
use crate::hooks::SwitchHooks;
use crate::job::{JobBuilder, is_in_job};
use crate::pool;

/// Spawns jobs on a [`Scheduler`] of this thread. It does not keep the scheduler, so that the scheduler's own jobs can
/// have it: see [`current`].
///
/// A `LocalHandle` is neither `Send` nor `Sync`, and the closures that it spawns need not be `Send`. From other threads
/// use a [`Handle`](super::Handle). `LocalHandle::from(&scheduler)` makes one outside a job.
///
/// ```compile_fail,E0277
/// fn send<T: Send>() {}
/// send::<asyncjob::scheduler::LocalHandle>();
/// ```
#[derive(Clone)]
pub struct LocalHandle {
    inner: Weak<Inner>,
}

impl LocalHandle {
    /// Queues `f`. The next turns of the scheduler run it as a job.
    ///
    /// # Errors
    ///
    /// [`SpawnError`], with `f` in it: the scheduler is full, shutting down or gone.
    pub fn spawn<F, T>(&self, f: F) -> Result<JoinHandle<T>, SpawnError<F>>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        let spawned = match self.inner.upgrade() {
            Some(inner) => inner.spawn_plain(f),
            None => Err((SpawnErrorKind::ShuttingDown, f)),
        };
        spawned.map_err(|(kind, f)| SpawnError::new(kind, (), f))
    }

    /// How many jobs of the scheduler have not ended, queued ones included. It is 0 when the scheduler is gone.
    pub fn live_jobs(&self) -> usize {
        self.inner.upgrade().map_or(0, |inner| inner.shared.live())
    }

    fn spawn_job<F, T, H>(&self, builder: JobBuilder<'static, H>, f: F) -> Result<JoinHandle<T>, Refused<F, H>>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
        H: SwitchHooks + 'static,
    {
        match self.inner.upgrade() {
            Some(inner) => inner.spawn_job(builder, f),
            None => Err((SpawnErrorKind::ShuttingDown, builder, f)),
        }
    }
}

/// A refused spawn, before an error is made of it.
pub(super) type Refused<F, H> = (SpawnErrorKind, JobBuilder<'static, H>, F);

impl From<&Scheduler> for LocalHandle {
    fn from(scheduler: &Scheduler) -> Self {
        LocalHandle {
            inner: Rc::downgrade(&scheduler.inner),
        }
    }
}

impl From<&LocalHandle> for LocalHandle {
    fn from(handle: &LocalHandle) -> Self {
        handle.clone()
    }
}

impl fmt::Debug for LocalHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalHandle")
            .field("live_jobs", &self.live_jobs())
            .finish()
    }
}

impl<H: SwitchHooks + 'static> JobBuilder<'_, H> {
    /// Queues `f` on a scheduler of this thread, whose next turns run it as a job.
    ///
    /// `scheduler` is a [`&Scheduler`](Scheduler) or a [`&LocalHandle`](LocalHandle).
    ///
    /// # Errors
    ///
    /// [`SpawnError`], with the builder and `f` in it: the scheduler is full, shutting down or gone, or the builder's
    /// wait ctx belongs to another job that has not ended.
    ///
    /// ```
    /// use asyncjob::scheduler::Scheduler;
    /// use asyncjob::{JobBuilder, current_job};
    ///
    /// let scheduler = Scheduler::new()?;
    /// let signer = JobBuilder::new().name("signer");
    /// let job = signer.spawn_on(&scheduler, || current_job().unwrap().name().map(str::len))?;
    /// assert_eq!(scheduler.run_until(job)?, Some(6));
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn spawn_on<F, T>(
        self,
        scheduler: impl Into<LocalHandle>,
        f: F,
    ) -> Result<JoinHandle<T>, SpawnError<F, JobBuilder<'static, H>>>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        let spawned = scheduler.into().spawn_job(self.into_owned(), f);
        spawned.map_err(|(kind, builder, f)| SpawnError::new(kind, builder, f))
    }
}

/// The scheduler of the job that runs this code, or `None` outside the jobs of a scheduler.
///
/// ```
/// use asyncjob::scheduler::{self, Scheduler};
///
/// let scheduler = Scheduler::new()?;
/// assert!(scheduler::current().is_none());
/// let job = scheduler.spawn(|| scheduler::current().unwrap().live_jobs())?;
/// assert_eq!(scheduler.run_until(job)?, 1);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
pub fn current() -> Option<LocalHandle> {
    if !is_in_job() {
        return None;
    }
    let inner = RUNNING.with(|running| {
        let inner = running.take();
        running.set(inner.clone());
        inner
    });
    inner.map(|inner| LocalHandle { inner })
}

/// Queues `f` on the scheduler of the job that runs this code. Outside a job use [`Scheduler::spawn`].
///
/// # Errors
///
/// [`SpawnError`], with `f` in it: the scheduler is full or shutting down, or the code does not run in a job of a
/// scheduler ([`NoScheduler`](crate::SpawnErrorKind::NoScheduler)).
///
/// ```
/// use asyncjob::scheduler::{self, Scheduler};
///
/// let scheduler = Scheduler::new()?;
/// let sum = scheduler.spawn(|| {
///     let parts: Vec<_> = (1..=3).map(|n| scheduler::spawn(move || n * n).unwrap()).collect();
///     parts.into_iter().map(|part| part.join().unwrap()).sum::<i32>()
/// })?;
/// assert_eq!(scheduler.run_until(sum)?, 14);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
pub fn spawn<F, T>(f: F) -> Result<JoinHandle<T>, SpawnError<F>>
where
    F: FnOnce() -> T + 'static,
    T: 'static,
{
    match current() {
        Some(scheduler) => scheduler.spawn(f),
        None => Err(SpawnError::new(SpawnErrorKind::NoScheduler, (), f)),
    }
}

thread_local! {
    /// The scheduler whose turn is in progress. If a job of one scheduler takes a turn of another, this is the inner
    /// one.
    ///
    /// It is empty between turns, so it need not be dropped, and each use of it costs less.
    static RUNNING: ManuallyDrop<Cell<Option<Weak<Inner>>>> = const { ManuallyDrop::new(Cell::new(None)) };
}

/// Marks a turn of a scheduler as in progress for as long as this value exists.
pub(super) struct Turning<'a> {
    inner: &'a Inner,
    was_in_turn: bool,
    outer: Option<Weak<Inner>>,
}

impl<'a> Turning<'a> {
    pub(super) fn enter(inner: &'a Rc<Inner>) -> Self {
        assert!(
            !inner.turning.replace(true),
            concat!(
                "a scheduler was run inside one of its own jobs: pause the job instead, and the scheduler goes on",
                guide_page!("jobs")
            )
        );
        inner.inbox.local.open();
        Turning {
            inner,
            was_in_turn: pool::set_in_turn(true), // `IdleMemory` sees to the surplus of stacks
            outer: RUNNING.with(|running| running.replace(Some(Rc::downgrade(inner)))),
        }
    }
}

impl Drop for Turning<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.inner.inbox.local.close() {
            close_late(&self.inner.inbox);
        }
        pool::set_in_turn(self.was_in_turn);
        RUNNING.with(|running| running.set(self.outer.take()));
        self.inner.turning.set(false);
    }
}

/// Leaves the wakes that the turn has not taken for the next one.
#[cold]
#[inline(never)]
fn close_late(inbox: &Inbox) {
    let mut late = Vec::new();
    inbox.local.take(&mut late);
    inbox.local.close();
    late.into_iter().for_each(|id| inbox.post(id)); // their latches are set
}
