//! Inside a job: work on other threads.
//!
//! ```text
//!   job             run(f)  --- room? --->  queue [f][f][f]  --->  threads, each with a state of its own
//!    |                |no                   at most `queue`          |  f(&mut state)
//!    | pauses         v                                              v
//!    |              waits, in turn                                 result
//!    v                                                               |
//!   resumed by the driver's callback, or by a wait fd  <-------------+
//! ```
//!
//! For what can only block: a PKCS#11 token, a remote signer, a database driver, a host name. The thread's state is what
//! such a thing needs one of for each thread: a session, a connection.
//!
//! A closure owns its data and so does its result. A job that is cancelled while it waits therefore takes nothing away
//! from the thread that works for it: a closure that still waits is dropped unrun, a running one ends and its result is
//! dropped.
//!
//! Outside a job the closure runs inline, as OpenSSL's engines do it: see [`Offload::run`].

mod error;
mod queue;
mod run_future;
mod state;

use std::error::Error;
use std::fmt;
use std::io;
use std::mem;
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;

use crate::error::Interrupted;
use crate::job::is_in_job;
use crate::waiting::{AwaitError, await_or_block};
pub use error::{OffloadError, TryRunError};
use queue::{Refusal, Shared};
use run_future::{RunFuture, Stage};
pub use state::State;
use state::inline_seat;

/// Threads that work for jobs, each with a state `S` of its own.
///
/// Clones are handles to the same threads. They end when the last handle is dropped, which does not wait for them, or
/// in [`shutdown`](Self::shutdown), which does.
///
/// ```
/// use asyncjob::offload::Offload;
/// use asyncjob::{Step, WaitCtx, start_job};
///
/// let pool = Offload::new(2)?;
/// let ctx = WaitCtx::new();
/// let step = start_job(&ctx, move || pool.run(|_| (1..=20u64).product::<u64>()));
/// let Ok(mut step) = step else { panic!() };
/// let product = loop {
///     match step {
///         Step::Finished(product) => break product.unwrap(),
///         Step::Paused(job) => step = job.resume(), // a driver would wait for ctx.fds() first
///     }
/// };
/// assert_eq!(product, 2_432_902_008_176_640_000);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Offload<S = ()> {
    owner: Arc<Owner<S>>,
}

impl Offload {
    /// This many threads without a state, and room for 1,024 closures to wait.
    ///
    /// # Errors
    ///
    /// As [`OffloadBuilder::build`].
    pub fn new(threads: usize) -> io::Result<Self> {
        Self::builder().threads(threads).build(|| Ok(()))
    }

    /// For everything else.
    pub fn builder() -> OffloadBuilder {
        OffloadBuilder::default()
    }
}

impl<S: 'static> Offload<S> {
    /// Runs `f` on one of the threads and gives its value; the job pauses meanwhile.
    ///
    /// When the queue is full the job pauses until there is room, first come, first served.
    ///
    /// Outside a job `f` runs inline, on the calling thread. The state it gets there is one that is made for that thread
    /// at its first such call and kept until the thread ends or the `Offload` is gone: the states of the pool's threads
    /// stay theirs, as they need not be `Send`. Where a job may not pause the closure goes to the threads all the same,
    /// and the caller's thread blocks.
    ///
    /// # Errors
    ///
    /// [`OffloadError`]: it tells which of `f`, its state, the waiting job and the pool failed.
    pub fn run<T, F>(&self, f: F) -> Result<T, OffloadError>
    where
        F: FnOnce(&mut State<S>) -> T + Send + 'static,
        T: Send + 'static,
    {
        if is_in_job() {
            return self.complete(Stage::New(f));
        }
        self.run_inline(f)
    }

    /// As [`run`](Self::run), but does not wait for room.
    ///
    /// # Errors
    ///
    /// [`TryRunError::Full`] gives `f` back; the rest is as with [`run`](Self::run).
    ///
    /// ```
    /// use asyncjob::offload::{Offload, TryRunError};
    ///
    /// let pool = Offload::builder().threads(1).queue(8).build(|| Ok(()))?;
    /// match pool.try_run(|_| "signed") {
    ///     Ok(signature) => assert_eq!(signature, "signed"),
    ///     Err(TryRunError::Full(_f)) => unreachable!("tell the peer to come back later"),
    ///     Err(TryRunError::Failed(e)) => return Err(e.into()),
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn try_run<T, F>(&self, f: F) -> Result<T, TryRunError<F>>
    where
        F: FnOnce(&mut State<S>) -> T + Send + 'static,
        T: Send + 'static,
    {
        if !is_in_job() {
            return self.run_inline(f).map_err(TryRunError::Failed);
        }
        let queued = self.owner.shared.queue.lock().push_if_room(f);
        match queued {
            Ok(place) => {
                self.owner.shared.work.notify_one();
                self.complete::<T, F>(Stage::Queued(place)).map_err(TryRunError::Failed)
            }
            Err(Refusal::Full(f)) => Err(TryRunError::Full(f)),
            Err(Refusal::Closed) => Err(TryRunError::Failed(OffloadError::ShutDown)),
        }
    }

    /// Ends the threads, and waits for it.
    ///
    /// What runs is finished and its job gets the result. What waits is dropped and its job gets
    /// [`OffloadError::ShutDown`], as does every later call. Inside a job this blocks the thread.
    pub fn shutdown(&self) {
        self.owner.shared.close();
        let threads = mem::take(&mut *self.owner.threads.lock());
        for thread in threads {
            // A closure of the pool may be the caller: it cannot wait for itself.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join(); // the loop of a thread catches every panic
            }
        }
    }

    /// What the pool does now.
    pub fn stats(&self) -> OffloadStats {
        let queue = self.owner.shared.queue.lock();
        OffloadStats {
            queued: queue.tasks.len(),
            waiting_for_room: queue.waiting.len() + queue.granted.len(),
            running: queue.running,
            finished: queue.finished,
        }
    }

    /// Waits for what `stage` leads to.
    fn complete<T, F>(&self, stage: Stage<T, F>) -> Result<T, OffloadError>
    where
        F: FnOnce(&mut State<S>) -> T + Send + 'static,
        T: Send + 'static,
    {
        let run_future = RunFuture {
            shared: &self.owner.shared,
            stage,
        };
        match await_or_block(run_future) {
            Ok(result) => result,
            Err(AwaitError::Interrupted(Interrupted::Cancelled)) => Err(OffloadError::Cancelled),
            Err(AwaitError::Interrupted(Interrupted::TimedOut)) => Err(OffloadError::TimedOut),
            Err(AwaitError::NoWaker(source)) => Err(OffloadError::NoWaker(source)),
            Err(AwaitError::NotInJob | AwaitError::CannotPause) => unreachable!("these block instead"),
        }
    }

    fn run_inline<T>(&self, f: impl FnOnce(&mut State<S>) -> T) -> Result<T, OffloadError> {
        let shared = &self.owner.shared;
        if shared.queue.lock().closed {
            return Err(OffloadError::ShutDown);
        }
        let mut seat = inline_seat::take::<S>(shared.id);
        let result = seat.serve(&shared.make, f);
        inline_seat::put(shared.id, Arc::downgrade(&self.owner.alive), seat);
        result
    }
}

impl<S> Clone for Offload<S> {
    fn clone(&self) -> Self {
        Offload {
            owner: Arc::clone(&self.owner),
        }
    }
}

impl<S> fmt::Debug for Offload<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = self.owner.shared.queue.lock();
        f.debug_struct("Offload")
            .field("queued", &queue.tasks.len())
            .field("running", &queue.running)
            .finish_non_exhaustive()
    }
}

/// How many threads, how long a queue, which completion.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct OffloadBuilder {
    threads: usize,
    queue: usize,
    name: String,
}

impl Default for OffloadBuilder {
    /// One thread for each processor, 1,024 places in the queue.
    fn default() -> Self {
        OffloadBuilder {
            threads: thread::available_parallelism().map_or(1, usize::from),
            queue: 1024,
            name: "offload".to_owned(),
        }
    }
}

impl OffloadBuilder {
    /// How many threads: for work that waits (a remote signer) as many as it serves at a time, for work that computes
    /// as many as there are processors, which is the default.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// How many closures may wait for a thread.
    pub fn queue(mut self, places: usize) -> Self {
        self.queue = places;
        self
    }

    /// What the threads are called: a number is added.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Starts the threads. Each makes its state with `make` when it first needs one, and again after one is discarded.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] without a thread or a place in the queue, and what the system says when it cannot
    /// start a thread.
    ///
    /// ```
    /// use asyncjob::offload::{Offload, OffloadError};
    ///
    /// struct Session { signatures: u32 }
    /// let token = Offload::builder().threads(4).name("token").build(|| Ok(Session { signatures: 0 }))?;
    /// let signatures = token.run(|session| { session.signatures += 1; session.signatures })?;
    /// assert_eq!(signatures, 1);
    ///
    /// let unplugged = Offload::builder().build(|| -> Result<Session, _> { Err("no token in slot 0".into()) })?;
    /// let error = unplugged.run(|session| session.signatures).unwrap_err();
    /// assert_eq!(error.to_string(), "no state for the offload thread: no token in slot 0");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn build<S, M>(self, make: M) -> io::Result<Offload<S>>
    where
        S: 'static,
        M: Fn() -> Result<S, Box<dyn Error + Send + Sync>> + Send + Sync + 'static,
    {
        if self.threads == 0 || self.queue == 0 {
            let sentence = "an Offload needs at least one thread and one place in its queue";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, sentence));
        }
        let shared = Arc::new(Shared::new(self.queue, Box::new(make)));
        // From here on dropping the owner ends the threads that were started before one could not be.
        let owner = Arc::new(Owner {
            shared: Arc::clone(&shared),
            threads: Mutex::default(),
            alive: Arc::default(),
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OffloadStats {
    /// Closures that wait for a thread.
    pub queued: usize,
    /// Jobs that wait for a place in the queue.
    pub waiting_for_room: usize,
    /// Closures that run.
    pub running: usize,
    /// Closures that have run, those that panicked included. Inline ones do not count.
    pub finished: u64,
}

/// What the handles hold and the threads do not, so that the last handle ends the threads.
struct Owner<S> {
    shared: Arc<Shared<S>>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
    /// Goes with the last handle: so do the states of inline closures.
    alive: Arc<()>,
}

impl<S> Drop for Owner<S> {
    fn drop(&mut self) {
        self.shared.close();
    }
}
