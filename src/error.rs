//! The ways to get no value, sorted by who can act on them.
//!
//! | who can act | what they get |
//! |---|---|
//! | the operator: the machine is out of something | [`std::io::Error`], inside [`StartError::NoStack`] |
//! | the caller, later: a limit is reached | [`StartError::NoJobs`], [`SpawnError::Full`], with the closure in it |
//! | the job itself: somebody asked it to end | [`Cancelled`] |
//! | the programmer: misuse | a compile error, or a panic with a sentence under `# Panics` |

use std::fmt;
use std::io;

/// Somebody asked this job to end: return through your own code, now.
///
/// [`pause_job`](crate::pause_job) gives it instead of pausing, and everything that pauses passes it on. It is never
/// [`io::ErrorKind::Interrupted`] as an [`io::Error`], because std retries that kind.
///
/// ```
/// let err = std::io::Error::from(asyncjob::Cancelled);
/// assert_eq!(err.kind(), std::io::ErrorKind::Other);
/// assert!(err.get_ref().unwrap().is::<asyncjob::Cancelled>());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancelled;

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the job was cancelled: return from it")
    }
}

impl std::error::Error for Cancelled {}

impl From<Cancelled> for io::Error {
    fn from(cancelled: Cancelled) -> Self {
        io::Error::other(cancelled)
    }
}

/// Why [`start_job`](crate::start_job) ran nothing. The closure comes back, untouched.
pub enum StartError<F> {
    /// The limit of this thread's pool is reached (S16): resume or finish a paused job, then start again.
    NoJobs {
        /// What was to run.
        closure: F,
        /// The limit that was reached, in jobs: see [`PoolConfig::limit`](crate::PoolConfig::limit).
        limit: usize,
    },
    /// The system has no memory for another stack (OpenSSL reports this as `ASYNC_NO_JOBS` too, S17).
    NoStack {
        /// What was to run.
        closure: F,
        /// What the system said.
        source: io::Error,
    },
}

impl<F> StartError<F> {
    /// Gives back the closure that was not run.
    pub fn into_closure(self) -> F {
        match self {
            StartError::NoJobs { closure, .. } | StartError::NoStack { closure, .. } => closure,
        }
    }

    /// The same error about another closure: for whoever wraps what it was given.
    pub fn map<G>(self, f: impl FnOnce(F) -> G) -> StartError<G> {
        match self {
            StartError::NoJobs { closure, limit } => StartError::NoJobs {
                closure: f(closure),
                limit,
            },
            StartError::NoStack { closure, source } => StartError::NoStack {
                closure: f(closure),
                source,
            },
        }
    }
}

impl<F> fmt::Display for StartError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::NoJobs { limit, .. } => write!(
                f,
                "all {limit} jobs of this thread's pool are in use: finish one, or raise the limit with init_thread"
            ),
            StartError::NoStack { source, .. } => {
                write!(f, "no memory for the stack of another job: {source}")
            }
        }
    }
}

impl<F> fmt::Debug for StartError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StartError({self})")
    }
}

impl<F> std::error::Error for StartError<F> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StartError::NoJobs { .. } => None,
            StartError::NoStack { source, .. } => Some(source),
        }
    }
}

/// Why a job was not spawned. The closure comes back.
pub enum SpawnError<F> {
    /// The bound on jobs is reached: try again when one ends. [`Handle::room`](crate::scheduler::Handle::room) waits for that.
    Full {
        /// What was to run.
        closure: F,
        /// The bound: [`SchedulerBuilder::max_jobs`](crate::scheduler::SchedulerBuilder::max_jobs).
        max_jobs: usize,
    },
    /// The scheduler is shutting down, or gone: it takes no more jobs.
    ShuttingDown {
        /// What was to run.
        closure: F,
    },
}

impl<F> SpawnError<F> {
    /// Gives back the closure that was not run.
    pub fn into_closure(self) -> F {
        match self {
            SpawnError::Full { closure, .. } | SpawnError::ShuttingDown { closure } => closure,
        }
    }
}

impl<F> fmt::Display for SpawnError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpawnError::Full { max_jobs, .. } => write!(
                f,
                "all {max_jobs} jobs of the scheduler are in use: wait for room, or raise max_jobs"
            ),
            SpawnError::ShuttingDown { .. } => f.write_str("the scheduler is shutting down and takes no more jobs"),
        }
    }
}

impl<F> fmt::Debug for SpawnError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpawnError({self})")
    }
}

impl<F> std::error::Error for SpawnError<F> {}
