//! The errors, sorted by who can act on them.
//!
//! | who can act | what they get |
//! |---|---|
//! | the operator: the machine is out of something | [`std::io::Error`], inside [`StartErrorKind::NoStack`] |
//! | the caller, later: a limit is reached | [`StartErrorKind::NoJobs`], [`SpawnErrorKind::Full`]; the closure comes back |
//! | the job itself: it was asked to end, or its time is over | [`Interrupted`], [`Cancelled`] |
//! | the programmer: misuse | a compile error, an error that names the right call, or a panic under `# Panics` |
//!
//! Every error is `Send + Sync + 'static`, and every error enum is `#[non_exhaustive]`. What an error gives as its `source`
//! it does not print itself.

use std::any::Any;
use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;

use parking_lot::Mutex;

use crate::returned::Returned;

/// The job was asked to end: it should return through its own code, now.
///
/// Every pause of a cancelled job fails with this instead of pausing, and everything that pauses passes it on. As an
/// [`io::Error`] its kind is never [`io::ErrorKind::Interrupted`], because std retries that kind.
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

impl Error for Cancelled {}

impl From<Cancelled> for io::Error {
    fn from(cancelled: Cancelled) -> Self {
        io::Error::other(cancelled)
    }
}

/// Why a wait ended without what it waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interrupted {
    /// The job was asked to end.
    Cancelled,
    /// The deadline of the wait, or one around it, passed.
    TimedOut,
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Interrupted::Cancelled => Cancelled.fmt(f),
            Interrupted::TimedOut => f.write_str("the deadline of the wait passed"),
        }
    }
}

impl Error for Interrupted {}

impl From<Interrupted> for io::Error {
    fn from(interrupted: Interrupted) -> Self {
        match interrupted {
            Interrupted::Cancelled => Cancelled.into(),
            Interrupted::TimedOut => io::Error::new(io::ErrorKind::TimedOut, interrupted),
        }
    }
}

/// Why [`pause_job`](crate::pause_job) did not pause.
///
/// Code that also runs outside jobs waits with [`pause_until`](crate::waiting::pause_until), which blocks the thread where
/// it cannot pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PauseError {
    /// The job was asked to end. Later pauses fail in the same way.
    Cancelled,
    /// The code runs outside any job.
    NotInJob,
    /// [`block_pause`](crate::block_pause) is in force.
    Blocked,
    /// The thread is panicking. The code that would run next would run with `std::thread::panicking()` true.
    Panicking,
}

impl fmt::Display for PauseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PauseError::Cancelled => return Cancelled.fmt(f),
            PauseError::NotInJob => {
                "pause_job was called outside a job: run this code in one (start_job, Scheduler::spawn), or wait with \
                 waiting::pause_until, which blocks the thread there"
            }
            PauseError::Blocked => {
                "pause_job was called under block_pause: drop the guard first, or wait with waiting::pause_until, which \
                 blocks the thread there"
            }
            PauseError::Panicking => "pause_job was called while the thread panics: a job cannot pause there",
        })
    }
}

impl Error for PauseError {}

impl From<PauseError> for io::Error {
    fn from(error: PauseError) -> Self {
        match error {
            PauseError::Cancelled => Cancelled.into(),
            other => io::Error::other(other),
        }
    }
}

/// The job did not end when it was cancelled: it paused a thousand times more. Its stack is quarantined.
///
/// See [`Job::cancel`](crate::Job::cancel).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quarantined;

impl fmt::Display for Quarantined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the job was cancelled and did not end: its stack is quarantined")
    }
}

impl Error for Quarantined {}

/// Why a future in a job has no output: see [`await_future`](crate::waiting::await_future). The future is dropped.
#[derive(Debug)]
#[non_exhaustive]
pub enum AwaitError {
    /// The code runs outside any job.
    NotInJob,
    /// The job runs under [`block_pause`](crate::block_pause), or while its thread panics, so it cannot pause.
    CannotPause,
    /// The job was cancelled, or a deadline around the call passed.
    Interrupted(Interrupted),
    /// The driver takes no callback, and the process has no fd left to wake the job with.
    NoWaker(io::Error),
}

impl fmt::Display for AwaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AwaitError::NotInJob => f.write_str(
                "a future was awaited outside a job: run this code in one (Scheduler::spawn, start_job), or use \
                 await_or_block, which blocks the thread there",
            ),
            AwaitError::CannotPause => f.write_str(
                "a future was awaited where the job cannot pause: drop the block_pause guard first, or use \
                 await_or_block, which blocks the thread there",
            ),
            AwaitError::Interrupted(interrupted) => interrupted.fmt(f),
            AwaitError::NoWaker(_) => f.write_str(NO_WAKER),
        }
    }
}

/// What [`AwaitError::NoWaker`] and its kin in other errors say.
pub(crate) const NO_WAKER: &str = "there is no eventfd left to wake the job with: raise RLIMIT_NOFILE (ulimit -n)";

impl Error for AwaitError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            AwaitError::NoWaker(source) => Some(source),
            _ => None,
        }
    }
}

impl From<AwaitError> for io::Error {
    fn from(error: AwaitError) -> Self {
        match error {
            AwaitError::Interrupted(interrupted) => interrupted.into(),
            other => io::Error::other(other),
        }
    }
}

/// A panic that ended a job or a closure, with its payload.
pub struct Panic {
    message: Cow<'static, str>,
    /// A payload is `Send` only. Nothing locks this; it makes the error that holds it `Sync`.
    payload: Mutex<Box<dyn Any + Send>>,
}

impl Panic {
    pub(crate) fn new(payload: Box<dyn Any + Send>) -> Self {
        let message = match (payload.downcast_ref::<&'static str>(), payload.downcast_ref::<String>()) {
            (Some(text), _) => Cow::Borrowed(*text),
            (_, Some(text)) => Cow::Owned(text.clone()),
            _ => Cow::Borrowed("a value that is not text"),
        };
        Panic {
            message,
            payload: Mutex::new(payload),
        }
    }

    /// The message of the panic, or a note that its payload is no text.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The payload, as [`std::panic::catch_unwind`] gives it.
    pub fn into_payload(self) -> Box<dyn Any + Send> {
        self.payload.into_inner()
    }

    /// Goes on panicking here, without calling the panic hook again.
    ///
    /// # Panics
    ///
    /// Always.
    pub fn resume(self) -> ! {
        std::panic::resume_unwind(self.into_payload())
    }
}

impl From<Box<dyn Any + Send>> for Panic {
    /// For a payload that [`std::panic::catch_unwind`] gave.
    fn from(payload: Box<dyn Any + Send>) -> Self {
        Panic::new(payload)
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Panic").field(&self.message).finish()
    }
}

/// [`start_job`](crate::start_job) or [`JobBuilder::start`](crate::JobBuilder::start) ran nothing. What it was given comes
/// back: the closure, and the builder `B`.
pub struct StartError<F, B = ()> {
    kind: StartErrorKind,
    returned: Returned<(B, F)>,
}

/// Why a job was not started.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartErrorKind {
    /// The limit of this thread's pool is reached: finish a paused job, then start again
    /// ([S16](crate::docs::openssl_behaviour#s16)).
    NoJobs {
        /// The limit that was reached, in jobs: see [`PoolConfig::limit`](crate::pool::PoolConfig::limit).
        limit: usize,
    },
    /// The system has no memory for another stack. OpenSSL reports this as `ASYNC_NO_JOBS`, too
    /// ([S17](crate::docs::openssl_behaviour#s17)).
    NoStack(io::Error),
}

impl fmt::Display for StartErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartErrorKind::NoJobs { limit } => write!(
                f,
                "all {limit} jobs of this thread's pool are in use: finish one, or raise the limit with pool::init_thread"
            ),
            StartErrorKind::NoStack(_) => f.write_str("there is no memory for the stack of another job"),
        }
    }
}

impl Error for StartErrorKind {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            StartErrorKind::NoStack(source) => Some(source),
            StartErrorKind::NoJobs { .. } => None,
        }
    }
}

impl From<StartErrorKind> for io::Error {
    fn from(kind: StartErrorKind) -> Self {
        match kind {
            StartErrorKind::NoStack(source) => io::Error::new(source.kind(), StartErrorKind::NoStack(source)),
            no_jobs => io::Error::new(io::ErrorKind::ResourceBusy, no_jobs),
        }
    }
}

/// [`Scheduler::spawn`](crate::scheduler::Scheduler::spawn) or one of its siblings took no job. What it was given comes
/// back: the closure, and the builder `B`.
pub struct SpawnError<F, B = ()> {
    kind: SpawnErrorKind,
    returned: Returned<(B, F)>,
}

/// Why a job was not spawned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpawnErrorKind {
    /// The bound on jobs is reached: spawn again when one has ended.
    /// [`Handle::capacity`](crate::scheduler::Handle::capacity) waits for that.
    Full {
        /// The bound: [`SchedulerBuilder::max_jobs`](crate::scheduler::SchedulerBuilder::max_jobs).
        max_jobs: usize,
    },
    /// The scheduler is shutting down, or gone. It takes no more jobs.
    ShuttingDown,
    /// The builder's wait ctx belongs to another job that has not ended. Each would take the other's wakes.
    WaitCtxInUse,
    /// [`scheduler::spawn`](crate::scheduler::spawn) was called outside the jobs of every scheduler.
    NoScheduler,
}

/// What every error for a wait ctx with two jobs says.
pub(crate) const WAIT_CTX_IN_USE: &str = "the wait ctx belongs to a job that has not ended: give each job a ctx of its own, or wait for the end of the first";

impl fmt::Display for SpawnErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpawnErrorKind::Full { max_jobs } => write!(
                f,
                "all {max_jobs} jobs of the scheduler are in use: wait for Handle::capacity, or raise max_jobs"
            ),
            SpawnErrorKind::ShuttingDown => f.write_str("the scheduler is shutting down and takes no more jobs"),
            SpawnErrorKind::WaitCtxInUse => f.write_str(WAIT_CTX_IN_USE),
            SpawnErrorKind::NoScheduler => {
                f.write_str("no scheduler runs this code: call scheduler::spawn inside a job, or Scheduler::spawn")
            }
        }
    }
}

impl Error for SpawnErrorKind {}

impl From<SpawnErrorKind> for io::Error {
    fn from(kind: SpawnErrorKind) -> Self {
        match kind {
            SpawnErrorKind::Full { .. } => io::Error::new(io::ErrorKind::ResourceBusy, kind),
            other => io::Error::other(other),
        }
    }
}

/// The part that the two refusals have in common: a kind, and what comes back.
macro_rules! refusal {
    ($name:ident, $kind:ident) => {
        impl<F: 'static, B: 'static> $name<F, B> {
            #[cold]
            pub(crate) fn new(kind: $kind, builder: B, closure: F) -> Self {
                Self {
                    kind,
                    returned: Returned::new((builder, closure)),
                }
            }

            /// Gives back the closure that was not run.
            ///
            /// # Panics
            ///
            /// On another thread than the one whose call was refused, as [`Returned::into_inner`].
            pub fn into_closure(self) -> F {
                self.into_parts().1
            }

            /// Gives back the builder and the closure. The builder of a call without one is `()`.
            ///
            /// # Panics
            ///
            /// As [`into_closure`](Self::into_closure).
            pub fn into_parts(self) -> (B, F) {
                self.returned.into_inner()
            }
        }

        impl<F, B> $name<F, B> {
            /// The reason.
            pub fn kind(&self) -> &$kind {
                &self.kind
            }
        }

        impl<F, B> fmt::Display for $name<F, B> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.kind.fmt(f)
            }
        }

        impl<F, B> fmt::Debug for $name<F, B> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.kind).finish()
            }
        }

        impl<F, B> Error for $name<F, B> {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                self.kind.source()
            }
        }

        impl<F, B> From<$name<F, B>> for $kind {
            /// Drops what came back.
            fn from(error: $name<F, B>) -> Self {
                error.kind
            }
        }

        impl<F, B> From<$name<F, B>> for io::Error {
            /// Drops what came back.
            fn from(error: $name<F, B>) -> Self {
                error.kind.into()
            }
        }
    };
}

refusal!(StartError, StartErrorKind);
refusal!(SpawnError, SpawnErrorKind);

const _: () = {
    const fn is_portable<T: Send + Sync + 'static>() {}
    is_portable::<StartError<*mut (), *mut ()>>();
    is_portable::<SpawnError<*mut (), *mut ()>>();
    is_portable::<AwaitError>();
    is_portable::<Panic>();
};
