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

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::thread;

use parking_lot::{Condvar, Mutex};

use crate::error::Cancelled;
use crate::future::{AwaitError, Bell, await_or_block_by};
use crate::job::is_in_job;

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
        let errand = Errand {
            shared: &self.owner.shared,
            stage,
        };
        match await_or_block_by(self.owner.shared.bell, errand) {
            Ok(result) => result,
            Err(AwaitError::Cancelled) => Err(OffloadError::Cancelled),
            Err(AwaitError::TimedOut) => Err(OffloadError::TimedOut),
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

/// The state of a thread, as a closure gets it: used like the `S` itself.
#[derive(Debug)]
pub struct State<S> {
    value: S,
    discarded: bool,
}

impl<S> State<S> {
    /// Drops the state when the closure returns: the next closure of this thread gets a new one.
    ///
    /// For a session that the token has closed. A closure that panics discards its state in any case.
    pub fn discard(&mut self) {
        self.discarded = true;
    }
}

impl<S> Deref for State<S> {
    type Target = S;
    fn deref(&self) -> &S {
        &self.value
    }
}

impl<S> DerefMut for State<S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.value
    }
}

/// How many threads, how long a queue, which completion.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct OffloadBuilder {
    threads: usize,
    queue: usize,
    name: String,
    bell: Bell,
}

impl Default for OffloadBuilder {
    /// One thread for each processor, 1,024 places in the queue.
    fn default() -> Self {
        OffloadBuilder {
            threads: thread::available_parallelism().map_or(1, usize::from),
            queue: 1024,
            name: "offload".to_owned(),
            bell: Bell::Driver,
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

    /// Completes by a wait fd (an eventfd for each call) even where the driver has set a callback: for a driver whose
    /// callback is meant for an engine alone. Without a callback completion is always by fd.
    pub fn complete_by_fd(mut self) -> Self {
        self.bell = Bell::Fd;
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
        let shared = Arc::new(Shared::new(self.queue, self.bell, Box::new(make)));
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

/// Why [`Offload::run`] has no value.
#[derive(Debug)]
#[non_exhaustive]
pub enum OffloadError {
    /// The closure panicked, with this payload: [`std::panic::resume_unwind`] carries it on. Its thread lives on with a
    /// new state.
    Panicked(Box<dyn Any + Send>),
    /// The thread's state could not be made. The next closure tries again.
    NoState(Box<dyn Error + Send + Sync>),
    /// The job is to end.
    Cancelled,
    /// A deadline around the call passed.
    TimedOut,
    /// [`Offload::shutdown`] was called before the closure ran.
    ShutDown,
    /// The driver takes no callback, and there is no fd left to wake the job with.
    NoWaker(io::Error),
}

impl fmt::Display for OffloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OffloadError::Panicked(payload) => {
                write!(f, "the offloaded closure panicked: {}", message(payload.as_ref()))
            }
            OffloadError::NoState(source) => write!(f, "no state for the offload thread: {source}"),
            OffloadError::Cancelled => Cancelled.fmt(f),
            OffloadError::TimedOut => f.write_str("the deadline passed before the offloaded closure was done"),
            OffloadError::ShutDown => f.write_str("the Offload was shut down before the closure ran"),
            OffloadError::NoWaker(source) => write!(f, "no eventfd to wake the job with: {source}"),
        }
    }
}

impl Error for OffloadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            OffloadError::NoState(source) => Some(source.as_ref()),
            OffloadError::NoWaker(source) => Some(source),
            _ => None,
        }
    }
}

impl From<OffloadError> for io::Error {
    fn from(error: OffloadError) -> Self {
        match error {
            OffloadError::Cancelled => Cancelled.into(),
            OffloadError::TimedOut => io::Error::new(io::ErrorKind::TimedOut, error.to_string()),
            OffloadError::NoState(source) => io::Error::other(source),
            other => io::Error::other(other.to_string()), // a payload is not Sync, so it cannot come along
        }
    }
}

/// Why [`Offload::try_run`] has no value.
pub enum TryRunError<F> {
    /// Every place in the queue is taken. The closure was not run: here it is.
    Full(F),
    /// As with [`Offload::run`].
    Failed(OffloadError),
}

impl<F> fmt::Display for TryRunError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TryRunError::Full(_) => {
                f.write_str("the queue of the Offload is full: try again later, or use run to wait")
            }
            TryRunError::Failed(error) => error.fmt(f),
        }
    }
}

impl<F> fmt::Debug for TryRunError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TryRunError({self})")
    }
}

impl<F> Error for TryRunError<F> {}

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

type Make<S> = Box<dyn Fn() -> Result<S, Box<dyn Error + Send + Sync>> + Send + Sync>;
type Task<S> = Box<dyn FnOnce(&mut Seat<S>, &Shared<S>) + Send>;

struct Shared<S> {
    /// Names the pool in the inline states of threads.
    id: u64,
    bell: Bell,
    make: Make<S>,
    queue: Mutex<Queue<S>>,
    /// A task was queued, or the queue closed.
    work: Condvar,
}

/// What waits for what. `tasks.len() + granted.len() <= places`, and nobody is in `waiting` while there is room.
struct Queue<S> {
    places: usize,
    tasks: VecDeque<(u64, Task<S>)>,
    /// Jobs that wait for a place, in order.
    waiting: VecDeque<(u64, Waker)>,
    /// Those of them that were given one and have not come back for it yet.
    granted: Vec<u64>,
    next_id: u64,
    running: usize,
    finished: u64,
    closed: bool,
}

enum Refusal<F> {
    Full(F),
    Closed,
}

impl<S: 'static> Shared<S> {
    fn new(places: usize, bell: Bell, make: Make<S>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Shared {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            bell,
            make,
            queue: Mutex::new(Queue {
                places,
                tasks: VecDeque::new(),
                waiting: VecDeque::new(),
                granted: Vec::new(),
                next_id: 0,
                running: 0,
                finished: 0,
                closed: false,
            }),
            work: Condvar::new(),
        }
    }

    /// A thread's life.
    fn work(&self) {
        let mut seat = Seat { state: None };
        while let Some(task) = self.next_task() {
            contain(|| task(&mut seat, self));
        }
        contain(|| drop(seat));
    }

    fn next_task(&self) -> Option<Task<S>> {
        let mut queue = self.queue.lock();
        loop {
            if let Some((_, task)) = queue.tasks.pop_front() {
                queue.running += 1;
                let next = queue.grant();
                drop(queue);
                next.into_iter().for_each(Waker::wake);
                return Some(task);
            }
            if queue.closed {
                return None;
            }
            self.work.wait(&mut queue);
        }
    }
}

impl<S> Shared<S> {
    fn count_finished(&self) {
        let mut queue = self.queue.lock();
        queue.running -= 1;
        queue.finished += 1;
    }

    /// A job that was in the queue waits no longer.
    fn withdraw(&self, id: u64) {
        let mut queue = self.queue.lock();
        let unrun = queue.remove(id);
        let next = queue.grant();
        drop(queue);
        next.into_iter().for_each(Waker::wake);
        drop(unrun); // drops what the user's closure owns
    }

    fn close(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        let unrun = mem::take(&mut queue.tasks);
        let waiting = mem::take(&mut queue.waiting);
        drop(queue);
        self.work.notify_all();
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
        drop(unrun); // each breaks its promise
    }
}

impl<S> Queue<S> {
    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn has_room(&self) -> bool {
        self.tasks.len() + self.granted.len() < self.places
    }

    /// Nobody would be overtaken.
    fn is_open_to_new(&self) -> bool {
        self.waiting.is_empty() && self.has_room()
    }

    /// A place may have become free: gives it to who waits longest. The waker is to be woken after the lock is released.
    #[must_use]
    fn grant(&mut self) -> Option<Waker> {
        if !self.has_room() {
            return None;
        }
        let (id, waker) = self.waiting.pop_front()?;
        self.granted.push(id);
        Some(waker)
    }

    /// Whether the job that waits under `id` was given a place, which it has then taken.
    fn take_grant(&mut self, id: u64) -> bool {
        let at = self.granted.iter().position(|&granted| granted == id);
        at.map(|at| self.granted.swap_remove(at)).is_some()
    }

    fn wait_for_room(&mut self, id: u64, waker: &Waker) {
        match self.waiting.iter_mut().find(|(waiting, _)| *waiting == id) {
            Some((_, old)) => old.clone_from(waker),
            None => self.waiting.push_back((id, waker.clone())),
        }
    }

    /// Forgets `id`, wherever it is; the closure comes out if it was queued.
    fn remove(&mut self, id: u64) -> Option<Task<S>> {
        self.waiting.retain(|(waiting, _)| *waiting != id);
        self.take_grant(id);
        let at = self.tasks.iter().position(|(queued, _)| *queued == id)?;
        self.tasks.remove(at).map(|(_, task)| task)
    }
}

impl<S: 'static> Queue<S> {
    /// Queues `f`, unless somebody would be overtaken.
    fn push_if_room<T, F>(&mut self, f: F) -> Result<Place<T>, Refusal<F>>
    where
        F: FnOnce(&mut State<S>) -> T + Send + 'static,
        T: Send + 'static,
    {
        if self.closed {
            return Err(Refusal::Closed);
        }
        if !self.is_open_to_new() {
            return Err(Refusal::Full(f));
        }
        Ok(self.push(f))
    }

    fn push<T, F>(&mut self, f: F) -> Place<T>
    where
        F: FnOnce(&mut State<S>) -> T + Send + 'static,
        T: Send + 'static,
    {
        let id = self.next_id();
        let slot = Arc::new(Mutex::new(Slot {
            result: None,
            waker: None,
        }));
        let promise = Promise(Arc::clone(&slot));
        let task: Task<S> = Box::new(move |seat, shared| {
            let result = seat.serve(&shared.make, f);
            shared.count_finished(); // first, so that whoever has the result finds it counted
            promise.settle(result);
        });
        self.tasks.push_back((id, task));
        Place { id, slot }
    }
}

/// Where a thread's state is, when there is one.
struct Seat<S> {
    state: Option<State<S>>,
}

impl<S> Seat<S> {
    /// Runs `f` on the state, which is made if there is none and gone if something panics.
    fn serve<T>(&mut self, make: &Make<S>, f: impl FnOnce(&mut State<S>) -> T) -> Result<T, OffloadError> {
        let served = catch_unwind(AssertUnwindSafe(|| {
            let mut state = match self.state.take() {
                Some(state) => state,
                None => State {
                    value: make().map_err(OffloadError::NoState)?,
                    discarded: false,
                },
            };
            let value = f(&mut state);
            if !state.discarded {
                self.state = Some(state);
            }
            Ok(value)
        }));
        served.unwrap_or_else(|panic| Err(OffloadError::Panicked(panic)))
    }
}

/// Where a result is handed over.
struct Slot<T> {
    result: Option<Result<T, OffloadError>>,
    waker: Option<Waker>,
}

/// The half of the thread. Dropping it unkept says that the closure will not run.
struct Promise<T>(Arc<Mutex<Slot<T>>>);

impl<T> Promise<T> {
    fn settle(&self, result: Result<T, OffloadError>) {
        let mut slot = self.0.lock();
        if slot.result.is_none() {
            slot.result = Some(result);
        }
        let waker = slot.waker.take();
        drop(slot);
        waker.into_iter().for_each(Waker::wake);
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        self.settle(Err(OffloadError::ShutDown));
    }
}

/// The half of the job, and where its closure is in the queue.
struct Place<T> {
    id: u64,
    slot: Arc<Mutex<Slot<T>>>,
}

/// A closure on its way, as a future.
struct Errand<'a, S, T, F> {
    shared: &'a Shared<S>,
    stage: Stage<T, F>,
}

enum Stage<T, F> {
    /// Not queued.
    New(F),
    /// The queue was full: this is the number under which the job waits.
    ForRoom(u64, F),
    /// Queued, or running, or done.
    Queued(Place<T>),
    /// The result was handed out.
    Over,
}

impl<S, T, F> Unpin for Errand<'_, S, T, F> {} // nothing in it is pinned

impl<S, T, F> Future for Errand<'_, S, T, F>
where
    S: 'static,
    F: FnOnce(&mut State<S>) -> T + Send + 'static,
    T: Send + 'static,
{
    type Output = Result<T, OffloadError>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let shared = self.shared;
        self.stage = match mem::replace(&mut self.stage, Stage::Over) {
            Stage::New(f) => shared.enter(None, f, task.waker())?,
            Stage::ForRoom(id, f) => shared.enter(Some(id), f, task.waker())?,
            queued => queued,
        };
        let Stage::Queued(place) = &self.stage else {
            return Poll::Pending;
        };
        let mut slot = place.slot.lock();
        let Some(result) = slot.result.take() else {
            slot.waker = Some(task.waker().clone());
            return Poll::Pending;
        };
        drop(slot);
        self.stage = Stage::Over;
        Poll::Ready(result)
    }
}

impl<S: 'static> Shared<S> {
    /// Queues `f` if there is room, or a place was given to `id`; else waits for one.
    fn enter<T, F>(&self, id: Option<u64>, f: F, waker: &Waker) -> Result<Stage<T, F>, OffloadError>
    where
        F: FnOnce(&mut State<S>) -> T + Send + 'static,
        T: Send + 'static,
    {
        let mut queue = self.queue.lock();
        let granted = id.is_some_and(|id| queue.take_grant(id));
        if queue.closed {
            return Err(OffloadError::ShutDown);
        }
        if granted || (id.is_none() && queue.is_open_to_new()) {
            let place = queue.push(f);
            drop(queue);
            self.work.notify_one();
            return Ok(Stage::Queued(place));
        }
        let id = id.unwrap_or_else(|| queue.next_id());
        queue.wait_for_room(id, waker);
        Ok(Stage::ForRoom(id, f))
    }
}

impl<S, T, F> Drop for Errand<'_, S, T, F> {
    /// The job waits no longer: what has not begun will not, and its place is free for the next.
    fn drop(&mut self) {
        match &self.stage {
            Stage::ForRoom(id, _) => self.shared.withdraw(*id),
            Stage::Queued(place) => self.shared.withdraw(place.id),
            Stage::New(_) | Stage::Over => {}
        }
    }
}

/// The states that a thread's inline closures use, one for each pool.
mod inline_seat {
    use super::*;

    struct Kept {
        pool: u64,
        alive: Weak<()>,
        seat: Box<dyn Any>,
    }

    thread_local! {
        static SEATS: RefCell<Vec<Kept>> = const { RefCell::new(Vec::new()) };
    }

    /// Takes the state out, so that an inline closure that calls inline itself gets another.
    pub(super) fn take<S: 'static>(pool: u64) -> Seat<S> {
        let kept = SEATS.try_with(|seats| {
            let mut seats = seats.borrow_mut();
            let at = seats.iter().position(|kept| kept.pool == pool)?;
            Some(seats.swap_remove(at))
        });
        let seat = kept
            .ok()
            .flatten()
            .and_then(|kept| kept.seat.downcast::<Seat<S>>().ok());
        seat.map_or(Seat { state: None }, |seat| *seat)
    }

    /// Keeps the state, and drops those whose pool is gone.
    pub(super) fn put<S: 'static>(pool: u64, alive: Weak<()>, seat: Seat<S>) {
        let mut new = Some(Kept {
            pool,
            alive,
            seat: Box::new(seat),
        });
        // Dropped after the borrow ends, as a state's drop may run inline closures too. A thread that is ending drops the
        // state at once.
        let _unused = SEATS.try_with(|seats| {
            let mut seats = seats.borrow_mut();
            if seats.iter().all(|kept| kept.pool != pool) {
                seats.extend(new.take());
            }
            let (gone, here) = mem::take(&mut *seats)
                .into_iter()
                .partition(|kept| kept.alive.strong_count() == 0);
            *seats = here;
            let gone: Vec<Kept> = gone;
            gone
        });
    }
}

/// Runs what belongs to the user and must not end the thread: the drop of a state or of a result that nobody waits for, a
/// driver's callback. The panic hook has reported a panic by then.
fn contain(f: impl FnOnce()) {
    let _: thread::Result<()> = catch_unwind(AssertUnwindSafe(f));
}

fn message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(a payload that is no text)")
}
