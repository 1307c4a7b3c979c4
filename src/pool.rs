//! The stacks that a thread keeps.
//!
//! ```text
//!   start_job ---- take() ---->  idle stacks of this thread  ---- empty? ---->  a new stack, if the limit allows
//!   job ends  ---- give() ---->  (last in, first out)                           (crate::stack)
//! ```
//!
//! The limit counts every stack that the pool has made and not yet destroyed: idle, running and paused (S13). The most
//! recently used stack is used first (S18), because its memory is in the cache.
//!
//! A thread that never calls [`init_thread`] has a pool without a limit, from its first job on (S12).

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::job::is_in_job;
use crate::stack::{Stack, StackSize};

/// What [`init_thread`] sets up: how many jobs, on stacks of which size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolConfig {
    /// At most this many jobs at a time on this thread: idle, running and paused. `None`, the default: no limit.
    pub limit: Option<usize>,
    /// How many stacks to make now.
    pub precreate: usize,
    /// The stack of a job whose builder says nothing else.
    pub stack_size: StackSize,
}

impl PoolConfig {
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
}

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
/// A second call changes the configuration: idle stacks of another size go, jobs that run or pause stay counted (a fix
/// of S15). That not every stack could be made in advance is no error (S14): [`pool_stats`] tells.
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
        pool.size.set(StackSize::default());
        pool.limit.set(usize::MAX);
        pool.drop_idle();
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
    THREAD.with(|pool| {
        if stack.size() == pool.size.get() && !pool.closed.get() {
            pool.idle.borrow_mut().push(stack);
        } else {
            pool.discard(stack);
        }
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
    size: Cell<StackSize>,
    next_id: Cell<u64>,
    /// The thread is exiting and has emptied the pool: nothing may be put in any more.
    closed: Cell<bool>,
}

thread_local! {
    static THREAD: Pool = const {
        Pool {
            idle: ManuallyDrop::new(RefCell::new(Vec::new())),
            total: Cell::new(0),
            limit: Cell::new(usize::MAX),
            size: Cell::new(StackSize::DEFAULT),
            next_id: Cell::new(0),
            closed: Cell::new(false),
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
            pool.drop_idle();
        });
    }
}

impl Pool {
    fn configure(&self, config: PoolConfig) {
        if config.stack_size != self.size.replace(config.stack_size) {
            self.drop_idle();
        }
        self.limit.set(config.limit.unwrap_or(usize::MAX));
        while self.idle.borrow().len() < config.precreate {
            match self.take_new(None) {
                Ok(stack) => give(stack),
                Err(_) => break, // S14
            }
        }
    }

    #[cold]
    fn take_new(&self, size: Option<StackSize>) -> Result<Stack, NoStack> {
        let limit = self.limit.get();
        if self.total.get() >= limit && !self.discard_idle_for(size) {
            return Err(NoStack::Limit(limit));
        }
        // From the first stack on, this thread has something to free when it exits. A thread whose locals are being
        // destroyed already has closed its pool, and frees stacks at once.
        let _ = AT_EXIT.try_with(|_| ());
        let stack = Stack::new(size.unwrap_or(self.size.get())).map_err(NoStack::Memory)?;
        self.total.set(self.total.get() + 1);
        Ok(stack)
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
        drop(idle);
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
