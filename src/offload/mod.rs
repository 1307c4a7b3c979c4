//! Inside a job: work on other threads.
//!
//! ```text
//!   job                run(f)  ------>  queue [f][f][f]  ------>  threads of the pool
//!    |                                                              |
//!    | pauses                                                       | f()
//!    v                                                              v
//!   resumed by the driver's callback, or by a wait fd  <--------  value
//! ```
//!
//! Offloading is for what can only block: a PKCS#11 token, a remote signer, a database driver, a host name. What such a
//! library needs once for each thread, such as a session or a connection, belongs in a `thread_local!` of the closures,
//! or in a small pool of its own.
//!
//! A closure owns its data, and so does its value. A job that is cancelled while it waits therefore takes nothing away
//! from the thread that works for it. A closure that has not begun is dropped. One that runs is finished, and its value
//! is dropped.
//!
//! | called | [`run`](Offload::run), [`try_run`](Offload::try_run) | [`run_or_block`](Offload::run_or_block) |
//! |---|---|---|
//! | in a job | pauses the job | pauses the job |
//! | in a job that cannot pause | [`OffloadError::CannotPause`] | blocks the thread |
//! | outside of jobs | [`OffloadError::NotInJob`] | blocks the thread |

mod error;
mod queue;
mod run_future;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;

use crate::error::Interrupted;
use crate::job::{can_pause, is_cancelled, is_in_job};
use crate::sys::Process;
use crate::waiting::{await_future, await_or_block};
pub use error::{OffloadError, TryRunError};
use queue::{Admission, ClosureQueue};
use run_future::RunFuture;

/// Threads that work for jobs.
///
/// Clones are handles to the same threads. The threads end when the last handle is dropped, which does not wait for
/// them, or in [`shutdown`](Self::shutdown), which does.
///
/// ```
/// use asyncjob::offload::Offload;
/// use asyncjob::scheduler::Scheduler;
///
/// let pool = Offload::new(2)?;
/// let scheduler = Scheduler::new()?;
/// let job = scheduler.spawn(move || pool.run(|| (1..=20u64).product::<u64>()))?;
/// assert_eq!(scheduler.run_until(job)??, 2_432_902_008_176_640_000);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Clone)]
pub struct Offload {
    owner: Arc<Owner>,
}

impl Offload {
    /// This many threads, and a queue for 1,024 closures.
    ///
    /// # Errors
    ///
    /// As [`OffloadBuilder::build`].
    pub fn new(threads: usize) -> io::Result<Self> {
        Self::builder().threads(threads).build()
    }

    /// A builder, to choose more than the number of threads.
    pub fn builder() -> OffloadBuilder {
        OffloadBuilder::default()
    }

    /// Runs `f` on one of the threads and returns its value. The job pauses meanwhile.
    ///
    /// Closures are run in the order of the calls, also when there are more than the queue has places.
    ///
    /// # Errors
    ///
    /// [`OffloadError`]: `f` panicked, the wait was interrupted, the pool was shut down, or the code cannot pause here.
    ///
    /// ```
    /// use asyncjob::offload::{Offload, OffloadError};
    ///
    /// let pool = Offload::new(1)?;
    /// let error = pool.run(|| 1).unwrap_err(); // this is no job
    /// assert!(matches!(error, OffloadError::NotInJob));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn run<T, F>(&self, f: F) -> Result<T, OffloadError>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.pausing(f, Admission::Waits).map_err(TryRunError::without_closure)
    }

    /// As [`run`](Self::run), but where the code cannot pause, outside of jobs or under
    /// [`block_pause`](crate::block_pause), it blocks the thread.
    ///
    /// In a closure that this pool runs, `f` is run by the same thread, at once: all threads of the pool could be
    /// waiting in such closures. A closure of another pool blocks its thread: two pools whose closures wait for each
    /// other may wait for ever.
    ///
    /// # Errors
    ///
    /// [`OffloadError`], but never [`NotInJob`](OffloadError::NotInJob) or [`CannotPause`](OffloadError::CannotPause).
    ///
    /// ```
    /// use asyncjob::offload::Offload;
    ///
    /// let pool = Offload::new(1)?;
    /// assert_eq!(pool.run_or_block(|| 6 * 7)?, 42);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn run_or_block<T, F>(&self, f: F) -> Result<T, OffloadError>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.check_process()?;
        if can_pause() {
            return self.run(f);
        }
        if self.shared().is_of_this_thread() {
            return self.run_here(f);
        }
        check_cancelled()?;
        let run = RunFuture::new(self.shared(), f, Admission::Waits);
        await_or_block(run)?.map_err(TryRunError::without_closure)
    }

    /// As [`run`](Self::run), but does not wait when the queue is full.
    ///
    /// # Errors
    ///
    /// [`TryRunError::Full`] gives `f` back. Other errors are those of [`run`](Self::run).
    ///
    /// ```
    /// use asyncjob::offload::{Offload, TryRunError};
    /// use asyncjob::scheduler::Scheduler;
    ///
    /// let pool = Offload::builder().threads(1).queue_capacity(8).build()?;
    /// let scheduler = Scheduler::new()?;
    /// let job = scheduler.spawn(move || match pool.try_run(|| "signed") {
    ///     Ok(signature) => Ok(signature),
    ///     Err(TryRunError::Full(_f)) => Ok("come back later"),
    ///     Err(error) => Err(error),
    /// })?;
    /// assert_eq!(scheduler.run_until(job)??, "signed");
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn try_run<T, F>(&self, f: F) -> Result<T, TryRunError<F>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.pausing(f, Admission::IsRefused)
    }

    /// Ends the threads, and waits until they have ended.
    ///
    /// A closure that runs is finished, and its job gets the value. A closure that waits is dropped, and its job gets
    /// [`OffloadError::ShutDown`], as does every later call. Inside a job this blocks the thread. In a child of the
    /// process that made the pool this does nothing.
    pub fn shutdown(&self) {
        if self.shared().is_inherited() {
            return; // the threads are the parent's
        }
        self.shared().close();
        let threads = mem::take(&mut *self.owner.threads.lock());
        for thread in threads {
            // A closure of the pool may be the caller: it cannot wait for itself.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join(); // the loop of a thread catches every panic
            }
        }
    }

    /// What the pool does now. All zeros in a child of the process that made the pool.
    pub fn stats(&self) -> OffloadStats {
        if self.shared().is_inherited() {
            return OffloadStats::default();
        }
        self.shared().stats()
    }

    fn pausing<T, F>(&self, f: F, admission: Admission) -> Result<T, TryRunError<F>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.check_process()?;
        if !can_pause() {
            let error = if is_in_job() {
                OffloadError::CannotPause
            } else {
                OffloadError::NotInJob
            };
            return Err(error.into());
        }
        check_cancelled()?;
        await_future(RunFuture::new(self.shared(), f, admission)).map_err(OffloadError::from)?
    }

    /// Runs `f` on the calling thread, which is one of the pool's.
    fn run_here<T>(&self, f: impl FnOnce() -> T) -> Result<T, OffloadError> {
        if self.shared().is_closed() {
            return Err(OffloadError::ShutDown);
        }
        catch_unwind(AssertUnwindSafe(f)).map_err(|payload| OffloadError::Panicked(payload.into()))
    }

    /// Fails in a child of the process that made the pool.
    fn check_process(&self) -> Result<(), OffloadError> {
        if self.shared().is_inherited() {
            return Err(OffloadError::Forked);
        }
        Ok(())
    }

    fn shared(&self) -> &ClosureQueue {
        &self.owner.shared
    }
}

/// A closure of a job that is cancelled already is not sent: whether it ran would be a matter of chance.
fn check_cancelled() -> Result<(), OffloadError> {
    if is_cancelled() {
        return Err(OffloadError::Interrupted(Interrupted::Cancelled));
    }
    Ok(())
}

impl fmt::Debug for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = self.stats();
        f.debug_struct("Offload")
            .field("queued", &stats.queued)
            .field("running", &stats.running)
            .finish_non_exhaustive()
    }
}

/// How many threads an [`Offload`] has, and how long its queue is.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct OffloadBuilder {
    threads: usize,
    queue_capacity: usize,
    name: String,
}

impl Default for OffloadBuilder {
    /// One thread for each processor, and a queue for 1,024 closures.
    fn default() -> Self {
        OffloadBuilder {
            threads: thread::available_parallelism().map_or(1, usize::from),
            queue_capacity: 1024,
            name: "offload".to_owned(),
        }
    }
}

impl OffloadBuilder {
    /// How many threads there are. For work that waits (a remote signer) choose as many as it serves at a time. For
    /// work that computes choose as many as there are processors, which is the default.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// How many closures may wait for a thread before [`Offload::try_run`] refuses another one: 1,024 unless set.
    ///
    /// [`Offload::run`] is not refused: its closure lines up behind them, one for each job.
    pub fn queue_capacity(mut self, closures: usize) -> Self {
        self.queue_capacity = closures;
        self
    }

    /// What the threads are called. A number is added.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Starts the threads.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] without a thread or a place in the queue, and what the system says when it
    /// cannot start a thread.
    ///
    /// ```
    /// use asyncjob::offload::Offload;
    /// use std::cell::Cell;
    ///
    /// // What each thread needs one of: here a count, in your program a session with a token.
    /// thread_local!(static SIGNATURES: Cell<u32> = const { Cell::new(0) });
    ///
    /// let token = Offload::builder().threads(1).name("token").build()?;
    /// let sign = || SIGNATURES.replace(SIGNATURES.get() + 1);
    /// assert_eq!((token.run_or_block(sign)?, token.run_or_block(sign)?), (0, 1));
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn build(self) -> io::Result<Offload> {
        if self.threads == 0 || self.queue_capacity == 0 {
            let sentence = concat!(
                "an Offload needs at least one thread and one place in its queue",
                guide_page!("bound")
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, sentence));
        }
        let shared = Arc::new(ClosureQueue::new(self.queue_capacity, Process::current()?));
        // From here on dropping the owner ends the threads that were started before one could not be.
        let owner = Arc::new(Owner {
            shared: Arc::clone(&shared),
            threads: Mutex::default(),
        });
        for number in 0..self.threads {
            let shared = Arc::clone(&shared);
            let thread = thread::Builder::new()
                .name(format!("{}-{number}", self.name))
                .spawn(move || shared.work())?;
            owner.threads.lock().push(thread);
        }
        Ok(Offload { owner })
    }
}

/// What an [`Offload`] does: see [`Offload::stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OffloadStats {
    /// Closures in the queue, which wait for a thread.
    pub queued: usize,
    /// Closures that wait behind the queue, because it is full.
    pub waiting_for_capacity: usize,
    /// Closures that run.
    pub running: usize,
    /// Closures that have run, those that panicked included.
    pub finished: u64,
}

/// What the handles hold and the threads do not, so that the last handle ends the threads.
struct Owner {
    shared: Arc<ClosureQueue>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        if self.shared.is_inherited() {
            // The threads and the closures are the parent's. The destructors of what these own must not run here.
            return mem::forget((mem::take(&mut *self.threads.get_mut()), Arc::clone(&self.shared)));
        }
        self.shared.close();
    }
}
