//! The stacks that a thread keeps for its jobs, and how many jobs it may have.
//!
//! ```text
//!   start_job ---- take() ---->  idle stacks of this thread  ---- empty? ---->  the depot of all threads,
//!   job ends  ---- give() ---->  (last in, first out)        ---- full?  ---->  if the limit allows (crate::stack)
//! ```
//!
//! Taking a stack is a pop and giving it back is a push: no lock, no system call. Only an empty or a full pool goes to
//! the depot. The depot keeps some stacks with their memory for the next thread that needs one, and gives the memory of
//! the others back to the kernel about a second after the last of them came: in turns of the scheduler that runs the
//! jobs, or a piece at a time when the next jobs of the thread end. The end of a burst of jobs therefore makes no
//! system call, and the memory is free again soon after.
//!
//! The limit counts every stack that the pool has made and not yet destroyed: idle, running, paused and quarantined
//! ones. The stack that was used last is used first, because its memory is in the cache. A thread that never calls
//! [`init_thread`] has a pool without a limit.
//!
//! A task that finds the pool at its limit waits for [`available`], and does not try again and again.
//!
//! [S12](crate::docs::openssl_behaviour#s12), [S13](crate::docs::openssl_behaviour#s13),
//! [S18](crate::docs::openssl_behaviour#s18)

mod available;
#[cfg(test)]
mod tests;
#[allow(unsafe_code, reason = "reaches the pool of a thread through a word of the thread")]
mod thread;

use std::fmt;
use std::time::Duration;

use crate::stack::{self, SecretPolicy, Spec, StackSize};
use crate::sys::{ThreadWords, clock_tick};

pub use available::{Available, available};
use thread::THREAD;
pub(crate) use thread::{
    NoStack, count_again, forget_thread, give, has_capacity, quarantine, set_in_turn, take, take_available, uncount,
};

/// What [`init_thread`] sets up: how many jobs, on which stacks.
///
/// ```
/// use asyncjob::pool::{PoolConfig, init_thread};
/// use asyncjob::stack::{SecretPolicy, StackSize};
///
/// let config = PoolConfig::new()
///     .limit(10_000)
///     .stack_size(StackSize::at_least(64 << 10))
///     .secrets(SecretPolicy::new().scrub().dont_dump());
/// init_thread(config)?;
/// # Ok::<(), asyncjob::pool::PoolError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    limit: Option<usize>,
    precreate: usize,
    stack_size: StackSize,
    guard: usize,
    secrets: SecretPolicy,
    exact_high_water: bool,
    max_idle: usize,
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
        max_idle: 256,
    };

    /// No limit, no stack made in advance, stacks of the default size.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many jobs this thread may have: idle stacks, running and paused jobs together. `None`, the default, is no
    /// limit.
    ///
    /// ```
    /// use asyncjob::pool::PoolConfig;
    ///
    /// let limit_from_the_command_line: Option<usize> = None;
    /// assert_eq!(PoolConfig::new().limit(100).limit(limit_from_the_command_line), PoolConfig::new());
    /// ```
    pub fn limit(mut self, jobs: impl Into<Option<usize>>) -> Self {
        self.limit = jobs.into();
        self
    }

    /// How many stacks [`init_thread`] makes in advance. None unless set.
    pub fn precreate(mut self, stacks: usize) -> Self {
        self.precreate = stacks;
        self
    }

    /// The stack of a job whose builder sets no other size.
    pub fn stack_size(mut self, size: StackSize) -> Self {
        self.stack_size = size;
        self
    }

    /// How many bytes of address space below each stack fault when they are touched: 64 KiB unless set, rounded up to
    /// whole pages. Every stack has a guard, so 0 is refused, as is more than 1 GiB.
    ///
    /// A guard costs no memory but 8 bytes of page table for each 4 KiB. Rust code touches every page of a large call
    /// frame in turn. C code that was compiled without stack probes does not, and a call frame larger than the guard
    /// can step over it.
    pub fn guard(mut self, bytes: usize) -> Self {
        self.guard = bytes;
        self
    }

    /// What may be left of a job's data in memory after the job has ended. Nothing is erased unless set.
    pub fn secrets(mut self, secrets: SecretPolicy) -> Self {
        self.secrets = secrets;
        self
    }

    /// Measures how deep jobs get to the word instead of to the page, by keeping the unused part of each stack zero.
    /// The end of a job then costs about what [`SecretPolicy::scrub`] costs. Call frames that contain only zeros are
    /// not seen.
    pub fn exact_high_water(mut self, exact: bool) -> Self {
        self.exact_high_water = exact;
        self
    }

    /// How many idle stacks this thread keeps: 256 unless set, and at least [`precreate`](Self::precreate). Stacks
    /// above that go to the depot of all threads. What exceeds the depot's own bound
    /// ([`set_max_cached`](crate::stack::set_max_cached)) gives its memory back.
    pub fn max_idle(mut self, stacks: usize) -> Self {
        self.max_idle = stacks;
        self
    }

    fn check(&self) -> Result<(), PoolError> {
        if let Some(limit) = self.limit
            && self.precreate > limit
        {
            return Err(PoolError::PrecreateAboveLimit {
                precreate: self.precreate,
                limit,
            });
        }
        if !(1..=LARGEST_GUARD).contains(&self.guard) {
            return Err(PoolError::GuardOutOfRange { guard: self.guard });
        }
        Ok(())
    }

    fn spec(&self) -> Spec {
        Spec {
            size: self.stack_size,
            guard: self.guard as u32, // `check` has seen it
            secrets: self.secrets,
            exact: self.exact_high_water,
        }
    }
}

const LARGEST_GUARD: usize = 1 << 30;

const _: () = assert!(LARGEST_GUARD <= u32::MAX as usize, "a Spec holds a guard in 32 bits");

/// Why a pool was not set up or not cleaned up. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoolError {
    /// More stacks were to be made in advance than the limit allows ([S11](crate::docs::openssl_behaviour#s11)).
    PrecreateAboveLimit {
        /// See [`PoolConfig::precreate`].
        precreate: usize,
        /// See [`PoolConfig::limit`].
        limit: usize,
    },
    /// A guard has 1 byte to 1 GiB.
    GuardOutOfRange {
        /// See [`PoolConfig::guard`].
        guard: usize,
    },
    /// [`cleanup_thread`] was called inside a job, which runs on a stack of this pool
    /// ([S50](crate::docs::openssl_behaviour#s50)).
    InsideJob,
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PoolError::PrecreateAboveLimit { precreate, limit } => write!(
                f,
                "the pool cannot make {precreate} stacks in advance with a limit of {limit}: raise the limit{}",
                guide_page!("bound")
            ),
            PoolError::GuardOutOfRange { guard } => write!(
                f,
                "a stack cannot have a guard of {guard} bytes: choose 1 byte (which is one page) to 1 GiB{}",
                guide_page!("stack-size")
            ),
            PoolError::InsideJob => {
                f.write_str("a job cannot clean up the pool of its thread: call cleanup_thread outside of jobs")
            }
        }
    }
}

debug_with_sentence!(PoolError: PrecreateAboveLimit, GuardOutOfRange, InsideJob);

impl std::error::Error for PoolError {}

/// What a pool holds: see [`stats`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Stacks that are ready for a job.
    pub idle: usize,
    /// Stacks of running and paused jobs, and quarantined ones.
    pub in_use: usize,
    /// The limit of both together, if there is one.
    pub limit: Option<usize>,
}

/// Sets up the pool of this thread (`ASYNC_init_thread(3)`).
///
/// A second call changes the configuration. Idle stacks of another kind or above the limit are freed, and jobs that run
/// or are paused stay counted. It is no error when the system does not have the memory for every stack that was to be
/// made in advance: [`stats`] tells how many there are.
///
/// # Errors
///
/// [`PoolError::PrecreateAboveLimit`] and [`PoolError::GuardOutOfRange`], as they say.
///
/// ```
/// use asyncjob::pool::{self, PoolConfig, init_thread};
/// init_thread(PoolConfig::new().limit(100).precreate(10))?;
/// assert_eq!(pool::stats().idle, 10);
/// # Ok::<(), pool::PoolError>(())
/// ```
///
/// [S11](crate::docs::openssl_behaviour#s11), [S14](crate::docs::openssl_behaviour#s14),
/// [S15](crate::docs::openssl_behaviour#s15)
pub fn init_thread(config: PoolConfig) -> Result<(), PoolError> {
    config.check()?;
    THREAD.with(|pool| pool.configure(&config));
    Ok(())
}

/// Frees the idle stacks of this thread and forgets its configuration (`ASYNC_cleanup_thread(3)`).
///
/// Paused jobs stay valid and can finish. A thread that exits does this by itself.
///
/// # Errors
///
/// [`PoolError::InsideJob`] inside a job.
///
/// [S48](crate::docs::openssl_behaviour#s48), [S49](crate::docs::openssl_behaviour#s49),
/// [S50](crate::docs::openssl_behaviour#s50)
pub fn cleanup_thread() -> Result<(), PoolError> {
    if ThreadWords::current_job().is_some() {
        return Err(PoolError::InsideJob);
    }
    THREAD.with(|pool| {
        pool.drop_idle();
        pool.configure(&PoolConfig::DEFAULT);
    });
    Ok(())
}

/// Gives the memory of the stacks back to the kernel that have been idle for as long as
/// [`set_idle_time`](crate::stack::set_idle_time) says: those of this thread, and those that threads share. Returns
/// how long it is until there may be more to give back, or `None` if no stack is idle.
///
/// A [`Scheduler`](crate::scheduler::Scheduler) calls this. Call it in a loop of your own, now and then, or by a timer.
/// The stacks that [`PoolConfig::precreate`] asked for stay.
///
/// ```
/// use asyncjob::{WaitCtx, pool, stack, start_job};
/// use std::time::Duration;
///
/// stack::set_idle_time(Duration::ZERO);
/// assert!(start_job(&WaitCtx::new(), || ()).is_ok());
/// assert_eq!(pool::stats().idle, 1);
/// while pool::decay().is_some() {} // your loop sleeps for the time that is returned
/// assert_eq!(pool::stats().idle, 0);
/// ```
pub fn decay() -> Option<Duration> {
    let now = clock_tick();
    let own = THREAD.with(|pool| pool.decay(now));
    own.into_iter().chain(stack::decay(now)).min()
}

/// What the pool of this thread holds now.
pub fn stats() -> PoolStats {
    THREAD.with(|pool| pool.stats())
}
