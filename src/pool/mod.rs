//! The stacks that a thread keeps.
//!
//! ```text
//!   start_job ---- take() ---->  idle stacks of this thread  ---- empty? ---->  the depot of all threads,
//!   job ends  ---- give() ---->  (last in, first out)        ---- full?  ---->  if the limit allows (crate::stack)
//! ```
//!
//! Both calls are a pop and a push: no lock, no system call. Only an empty or a full pool goes to the depot, which keeps some
//! stacks warm for whoever is next and gives the memory of the rest back to the kernel there and then. So a burst is over,
//! for the memory, when its jobs are.
//!
//! The limit counts every stack that the pool has made and not yet destroyed: idle, running and paused (S13). The most
//! recently used stack is used first (S18), because its memory is in the cache.
//!
//! A task that finds the pool at its limit waits for a [`free_job`] instead of trying again and again: whenever a stack
//! comes back, the first of those who wait is woken.
//!
//! A thread that never calls [`init_thread`] has a pool without a limit, from its first job on (S12).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use crate::job::is_in_job;
use crate::stack::depot::{Depot, newest};
use crate::stack::{SecretPolicy, Spec, Stack, StackSize, overflow};

/// What [`init_thread`] sets up: how many jobs, on which stacks.
///
/// ```
/// use asyncjob::stack::{SecretPolicy, StackSize};
/// use asyncjob::PoolConfig;
/// let config = PoolConfig::new()
///     .limit(10_000)
///     .stack_size(StackSize::at_least(64 << 10))
///     .secrets(SecretPolicy::new().scrub().dont_dump());
/// assert_eq!(config.guard, 64 << 10);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolConfig {
    /// At most this many jobs at a time on this thread: idle, running and paused. `None`, the default: no limit.
    pub limit: Option<usize>,
    /// How many stacks to make now.
    pub precreate: usize,
    /// The stack of a job whose builder says nothing else.
    pub stack_size: StackSize,
    /// Bytes of address space below each stack that fault when touched, rounded up to whole pages, at least one. They cost no
    /// memory but 8 bytes of page table for each 4 KiB. Rust code touches every page of a large frame in turn; C code compiled
    /// without stack probes does not, and a frame larger than the guard can step over it. 64 KiB unless set.
    pub guard: usize,
    /// What may be left of a job's data after it has ended. Nothing is done unless set.
    pub secrets: SecretPolicy,
    /// Measure how deep jobs get to the word instead of to the page, by keeping unused stack zero. Each end of a job then
    /// costs about what [`SecretPolicy::scrub`] costs. Frames that contain only zeros are not seen.
    pub exact_high_water: bool,
    /// How many idle stacks this thread keeps: 256 unless set, and at least `precreate`. What exceeds it goes to the depot
    /// of all threads, and what exceeds that ([`set_max_cached`](crate::stack::set_max_cached)) gives its memory back.
    pub idle: usize,
}

impl Default for PoolConfig {
    fn default() -> Self {
        PoolConfig::DEFAULT
    }
}

impl PoolConfig {
    const DEFAULT: PoolConfig = PoolConfig {
        limit: None,
        precreate: 0,
        stack_size: StackSize::DEFAULT,
        guard: Spec::DEFAULT_GUARD as usize,
        secrets: SecretPolicy::new(),
        exact_high_water: false,
        idle: 256,
    };

    /// No limit, nothing made in advance, stacks of the default size.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`limit`](Self::limit).
    pub fn limit(mut self, jobs: usize) -> Self {
        self.limit = Some(jobs);
        self
    }

    /// Sets [`precreate`](Self::precreate).
    pub fn precreate(mut self, stacks: usize) -> Self {
        self.precreate = stacks;
        self
    }

    /// Sets [`stack_size`](Self::stack_size).
    pub fn stack_size(mut self, size: StackSize) -> Self {
        self.stack_size = size;
        self
    }

    /// Sets [`guard`](Self::guard).
    pub fn guard(mut self, bytes: usize) -> Self {
        self.guard = bytes;
        self
    }

    /// Sets [`secrets`](Self::secrets).
    pub fn secrets(mut self, secrets: SecretPolicy) -> Self {
        self.secrets = secrets;
        self
    }

    /// Sets [`exact_high_water`](Self::exact_high_water).
    pub fn exact_high_water(mut self, exact: bool) -> Self {
        self.exact_high_water = exact;
        self
    }

    /// Sets [`idle`](Self::idle).
    pub fn idle(mut self, stacks: usize) -> Self {
        self.idle = stacks;
        self
    }

    fn spec(&self) -> Spec {
        Spec {
            size: self.stack_size,
            guard: self.guard.clamp(1, LARGEST_GUARD) as u32,
            secrets: self.secrets,
            exact: self.exact_high_water,
        }
    }
}

const LARGEST_GUARD: usize = 1 << 30;

/// Why a pool was not set up or not cleaned up. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoolError {
    /// More stacks were to be made in advance than the limit allows (S11).
    PrecreateAboveLimit {
        /// As configured.
        precreate: usize,
        /// As configured.
        limit: usize,
    },
    /// Called inside a job, which stands on a stack of this pool (S50): call it outside.
    InsideJob,
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PoolError::PrecreateAboveLimit { precreate, limit } => write!(
                f,
                "the pool cannot make {precreate} stacks in advance with a limit of {limit}: raise the limit"
            ),
            PoolError::InsideJob => f.write_str("the pool of a thread cannot be cleaned up inside one of its jobs"),
        }
    }
}

impl std::error::Error for PoolError {}

/// What a pool holds: see [`pool_stats`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Stacks ready for a job.
    pub idle: usize,
    /// Stacks of running and paused jobs, and quarantined ones.
    pub in_use: usize,
    /// The limit of both together.
    pub limit: Option<usize>,
}

/// Sets up the pool of this thread (`ASYNC_init_thread(3)`).
///
/// A second call changes the configuration: idle stacks of another size or above the limit go, jobs that run or pause
/// stay counted (a fix of S15). That not every stack could be made in advance is no error (S14): [`pool_stats`] tells.
///
/// # Errors
///
/// [`PoolError::PrecreateAboveLimit`] as named.
///
/// ```
/// use asyncjob::{PoolConfig, init_thread, pool_stats};
/// init_thread(PoolConfig::new().limit(100).precreate(10))?;
/// assert_eq!(pool_stats().idle, 10);
/// # Ok::<(), asyncjob::PoolError>(())
/// ```
pub fn init_thread(config: PoolConfig) -> Result<(), PoolError> {
    if let Some(limit) = config.limit
        && config.precreate > limit
    {
        return Err(PoolError::PrecreateAboveLimit {
            precreate: config.precreate,
            limit,
        });
    }
    THREAD.with(|pool| pool.configure(config));
    Ok(())
}

/// Frees the idle stacks of this thread and forgets its configuration (`ASYNC_cleanup_thread(3)`).
///
/// Paused jobs stay valid and can finish (a fix of S48 and S49). A thread that exits does this by itself.
///
/// # Errors
///
/// [`PoolError::InsideJob`] inside a job (S50).
pub fn cleanup_thread() -> Result<(), PoolError> {
    if is_in_job() {
        return Err(PoolError::InsideJob);
    }
    THREAD.with(|pool| {
        pool.drop_idle();
        pool.configure(PoolConfig::DEFAULT);
    });
    Ok(())
}

/// What the pool of this thread holds now.
pub fn pool_stats() -> PoolStats {
    THREAD.with(|pool| {
        let idle = pool.idle.borrow().len();
        PoolStats {
            idle,
            in_use: pool.total.get() - idle,
            limit: Some(pool.limit.get()).filter(|&limit| limit != usize::MAX),
        }
    })
}

/// A future that is ready when this thread's pool has a job to spare: at once, unless the pool is at its limit.
///
/// Those who wait are called in their order. Being ready reserves nothing: start the job in the same poll.
///
/// ```
/// use asyncjob::{PoolConfig, Step, WaitCtx, free_job, init_thread, pause_job, start_job};
/// use std::pin::pin;
/// use std::task::{Context, Waker};
///
/// init_thread(PoolConfig::new().limit(1))?;
/// let ctx = WaitCtx::new();
/// let Ok(Step::Paused(job)) = start_job(&ctx, pause_job) else { panic!() };
///
/// let mut task = Context::from_waker(Waker::noop());
/// let mut free = pin!(free_job());
/// assert!(free.as_mut().poll(&mut task).is_pending());
/// job.cancel();
/// assert!(free.as_mut().poll(&mut task).is_ready());
/// # use std::future::Future;
/// # Ok::<(), asyncjob::PoolError>(())
/// ```
pub fn free_job() -> FreeJob {
    FreeJob { place: None }
}

/// Waits for the pool: see [`free_job`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct FreeJob {
    place: Option<Rc<Place>>,
}

/// A place in the queue for a job.
#[derive(Debug)]
struct Place {
    waker: RefCell<Waker>,
    /// Woken and out of the queue.
    called: Cell<bool>,
}

impl Future for FreeJob {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        THREAD.with(|pool| match &self.place {
            place if pool.has_room() && place.as_ref().is_none_or(|place| place.called.get()) => Poll::Ready(()),
            None => {
                let (waker, called) = (RefCell::new(task.waker().clone()), Cell::new(false));
                let place = Rc::new(Place { waker, called });
                pool.line_up(|queue| queue.push_back(Rc::clone(&place)));
                self.place = Some(place);
                Poll::Pending
            }
            Some(place) => {
                place.waker.borrow_mut().clone_from(task.waker());
                if place.called.replace(false) {
                    // Somebody who did not wait took the job: still the first of those who do.
                    pool.line_up(|queue| queue.push_front(Rc::clone(place)));
                }
                Poll::Pending
            }
        })
    }
}

impl Drop for FreeJob {
    /// Whoever was called and leaves room behind calls the next one: it may have started nothing.
    fn drop(&mut self) {
        let Some(place) = self.place.take() else { return };
        THREAD.with(|pool| {
            if !place.called.get() {
                pool.waiting.borrow_mut().retain(|waiting| !Rc::ptr_eq(waiting, &place));
            } else if pool.has_room() {
                pool.call_next();
            }
        });
    }
}

/// Why [`take`] has no stack.
pub(crate) enum NoStack {
    Limit(usize),
    Memory(io::Error),
}

/// A stack for a job, of the size asked for or of the pool's.
#[inline]
pub(crate) fn take(size: Option<StackSize>) -> Result<Stack, NoStack> {
    THREAD.with(|pool| {
        if size.is_none()
            && let Some(stack) = pool.idle.borrow_mut().pop()
        {
            return Ok(stack);
        }
        pool.take_new(size)
    })
}

/// The stack of a job that has ended.
#[inline]
pub(crate) fn give(stack: Stack) {
    // Three conditions and a store, so that it is inlined into the switch: as a call it would cost as much as the rest.
    THREAD.with(|pool| {
        if ptr::eq(stack.depot(), pool.as_it_is.get())
            && let Ok(mut idle) = pool.idle.try_borrow_mut()
            // A vector at its capacity is the bound: `push` would have to check for it anyway.
            && idle.len() < idle.capacity()
        {
            return idle.push(stack);
        }
        pool.give_slowly(stack);
    });
}

/// The stack of a job that nobody will resume: it stays in use for ever, and counted.
pub(crate) fn quarantine(stack: Stack) {
    stack.quarantine();
}

/// The number of the next job: unique in the process.
#[inline]
pub(crate) fn next_id() -> u64 {
    THREAD.with(|pool| {
        let id = pool.next_id.get();
        if id % IDS_AT_ONCE == 0 {
            return pool.more_ids();
        }
        pool.next_id.set(id + 1);
        id
    })
}

/// Ids are handed to threads in blocks, so that a start writes to no memory that threads share.
const IDS_AT_ONCE: u64 = 1024;

/// The pool of one thread. It needs no drop of its own, so that reaching it is one address computation: [`AtExit`]
/// empties it.
struct Pool {
    idle: ManuallyDrop<RefCell<Vec<Stack>>>,
    /// Every stack made and not destroyed.
    total: Cell<usize>,
    limit: Cell<usize>,
    /// The capacity that `idle` may grow to.
    bound: Cell<usize>,
    spec: Cell<Spec>,
    /// Where the stacks in `idle` come from, once there was one.
    depot: Cell<Option<&'static Depot>>,
    /// That depot, if its stacks are put back as they are; null if they are to be wiped first, are too many, or are waited
    /// for.
    as_it_is: Cell<*const Depot>,
    next_id: Cell<u64>,
    /// The thread has an [`AtExit`] and an alternate signal stack.
    prepared: Cell<bool>,
    /// The thread is exiting and has emptied the pool: nothing may be put in any more.
    closed: Cell<bool>,
    /// Those who wait for a job, the first one in front.
    waiting: ManuallyDrop<RefCell<VecDeque<Rc<Place>>>>,
    /// `waiting` may be not empty: what a job that ends looks at.
    is_awaited: Cell<bool>,
}

thread_local! {
    static THREAD: Pool = const {
        Pool {
            idle: ManuallyDrop::new(RefCell::new(Vec::new())),
            total: Cell::new(0),
            limit: Cell::new(usize::MAX),
            bound: Cell::new(PoolConfig::DEFAULT.idle),
            spec: Cell::new(Spec::new(StackSize::DEFAULT)),
            depot: Cell::new(None),
            as_it_is: Cell::new(ptr::null()),
            next_id: Cell::new(0),
            prepared: Cell::new(false),
            closed: Cell::new(false),
            waiting: ManuallyDrop::new(RefCell::new(VecDeque::new())),
            is_awaited: Cell::new(false),
        }
    };
    static AT_EXIT: AtExit = const { AtExit };
}

/// Empties the pool of an exiting thread.
struct AtExit;

impl Drop for AtExit {
    fn drop(&mut self) {
        THREAD.with(|pool| {
            pool.closed.set(true);
            pool.as_it_is.set(ptr::null());
            pool.drop_idle();
            drop(pool.waiting.take());
        });
    }
}

impl Pool {
    fn configure(&self, config: PoolConfig) {
        if config.spec() != self.spec.replace(config.spec()) {
            self.drop_idle();
            self.depot.set(None);
        }
        self.limit.set(config.limit.unwrap_or(usize::MAX));
        self.call_all();
        self.bound.set(config.idle.max(config.precreate));
        if self.idle.borrow().len() > self.bound.get() {
            self.drop_idle();
        }
        self.idle.borrow_mut().shrink_to(self.bound.get());
        self.keep_lowered_limit();
        self.precreate(config.precreate);
    }

    /// A limit below what there is: idle stacks go now, and stacks that come back go as they come (S15).
    fn keep_lowered_limit(&self) {
        let mut idle = self.idle.borrow_mut();
        let leaving = self.total.get().saturating_sub(self.limit.get()).min(idle.len());
        self.total.set(self.total.get() - leaving);
        if let Some(depot) = self.depot.get() {
            depot.give_all(idle.drain(..leaving));
        }
        self.choose_way_back();
    }

    /// Whether stacks that come back may take the short way, which checks nothing.
    fn choose_way_back(&self) {
        let nothing_else_to_do = !self.closed.get() && !self.is_awaited.get() && self.total.get() <= self.limit.get();
        let short = self
            .depot
            .get()
            .filter(|depot| nothing_else_to_do && !depot.spec().wipes());
        self.as_it_is.set(short.map_or(ptr::null(), ptr::from_ref));
    }

    fn precreate(&self, stacks: usize) {
        let mut made = Vec::new();
        while self.idle.borrow().len() + made.len() < stacks {
            match self.take_new(None) {
                Ok(stack) => made.push(stack),
                Err(_) => break, // S14
            }
        }
        made.into_iter().for_each(give);
    }

    #[cold]
    fn take_new(&self, size: Option<StackSize>) -> Result<Stack, NoStack> {
        let own = size.is_none_or(|size| size == self.spec.get().size);
        if let Some(stack) = own.then(|| self.idle.borrow_mut().pop()).flatten() {
            return Ok(stack);
        }
        let limit = self.limit.get();
        if self.total.get() >= limit && !self.discard_idle_for(size) {
            return Err(NoStack::Limit(limit));
        }
        self.prepare_thread();
        let stack = if own {
            self.own_depot().take()
        } else {
            self.take_other(size.unwrap_or_default())
        };
        let stack = stack.map_err(NoStack::Memory)?;
        self.total.set(self.total.get() + 1);
        Ok(stack)
    }

    /// From the first stack on, this thread has something to free when it exits, and an overflow to survive until it is
    /// reported. A thread whose locals are being destroyed already has closed its pool, and frees stacks at once.
    fn prepare_thread(&self) {
        if !self.prepared.replace(true) {
            let _ = AT_EXIT.try_with(|_| ());
            overflow::arm_thread();
        }
    }

    fn take_other(&self, size: StackSize) -> io::Result<Stack> {
        let spec = Spec {
            size,
            ..self.spec.get()
        };
        Depot::of(spec).take()
    }

    fn own_depot(&self) -> &'static Depot {
        self.depot.get().unwrap_or_else(|| {
            let depot = Depot::of(self.spec.get());
            self.depot.set(Some(depot));
            self.choose_way_back();
            depot
        })
    }

    /// A stack of another kind, one that has to be wiped, one too many, or one that somebody waits for.
    #[cold]
    fn give_slowly(&self, stack: Stack) {
        self.put_back(stack);
        if self.is_awaited.get() {
            self.call_next();
        }
    }

    fn put_back(&self, mut stack: Stack) {
        let own = self.depot.get().is_some_and(|depot| ptr::eq(depot, stack.depot()));
        if !own || self.closed.get() {
            return self.discard(stack);
        }
        stack.wipe();
        let above_limit = self.total.get() > self.limit.get();
        if !above_limit && self.make_room() {
            self.idle.borrow_mut().push(stack);
        } else {
            self.total.set(self.total.get() - 1);
            self.own_depot().give_all(std::iter::once(stack));
        }
        if above_limit {
            self.choose_way_back();
        }
    }

    /// Grows the pool up to its bound, then hands half of it to the depot: the stacks from the newest slabs, so that those
    /// empty when a burst is over.
    fn make_room(&self) -> bool {
        let mut idle = self.idle.borrow_mut();
        let bound = self.bound.get();
        if idle.len() >= bound {
            let leaving = idle.len().div_ceil(2);
            self.total.set(self.total.get() - leaving);
            self.own_depot()
                .give_all(newest(&mut idle, leaving, Stack::order).into_iter());
        } else if idle.len() == idle.capacity() {
            let wanted = (2 * idle.len()).clamp(FIRST_ROOM, bound.max(FIRST_ROOM)).min(bound);
            let more = wanted - idle.len();
            idle.reserve_exact(more);
        }
        idle.len() < bound
    }

    fn has_room(&self) -> bool {
        self.total.get() < self.limit.get() || !self.idle.borrow().is_empty()
    }

    fn line_up(&self, place: impl FnOnce(&mut VecDeque<Rc<Place>>)) {
        place(&mut self.waiting.borrow_mut());
        self.is_awaited.set(true);
        self.choose_way_back();
        // With a limit of 0 this thread has no stack, but from now on it has something to free when it exits.
        let _ = AT_EXIT.try_with(|_| ());
    }

    #[cold]
    fn call_next(&self) {
        let next = self.waiting.borrow_mut().pop_front();
        match next {
            Some(place) => {
                place.called.set(true);
                let waker = place.waker.borrow().clone();
                waker.wake(); // no borrow is held: a waker may run anything
            }
            None => {
                self.is_awaited.set(false);
                self.choose_way_back();
            }
        }
    }

    /// The limit has changed: all may try.
    fn call_all(&self) {
        let waiting = self.waiting.borrow().len();
        (0..waiting).for_each(|_| self.call_next());
    }

    /// At the limit, a job of another size takes the place of an idle stack.
    fn discard_idle_for(&self, size: Option<StackSize>) -> bool {
        let idle = size.and_then(|_| self.idle.borrow_mut().pop());
        idle.map(|stack| self.discard(stack)).is_some()
    }

    #[cold]
    fn discard(&self, stack: Stack) {
        self.total.set(self.total.get() - 1);
        drop(stack);
    }

    fn drop_idle(&self) {
        let idle = self.idle.take();
        self.total.set(self.total.get() - idle.len());
        if let Some(depot) = self.depot.get() {
            depot.give_all(idle.into_iter());
        }
    }

    #[cold]
    fn more_ids(&self) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let first = NEXT.fetch_add(IDS_AT_ONCE, Ordering::Relaxed);
        // Number 0 of each block is never given out, so that 0 can mean "take a new block", and no job is number 0.
        self.next_id.set(first + 2);
        first + 1
    }
}

/// Idle stacks that a pool makes room for at first.
const FIRST_ROOM: usize = 16;
