//! The errors, sorted by who can act on them.
//!
//! | who can act | what they get |
//! |---|---|
//! | the operator: the machine is out of something | [`std::io::Error`], inside [`StartErrorKind::NoStack`] |
//! | the caller, later: a limit is reached | [`StartErrorKind::NoJobs`], [`SpawnErrorKind::Full`]; the closure comes back |
//! | the job itself: it is to end, or its deadline has passed | [`Interrupted`], [`Cancelled`] |
//! | the programmer: misuse | a compile error, an error that names the right call, or a panic under `# Panics` |
//!
//! Every error is `Send + Sync + 'static`. An error does not print what it gives as its `source`. Its `Debug`, which
//! `unwrap` prints, is its variant, its sentence and its source.
//!
//! Every error enum, and every struct of figures, is `#[non_exhaustive]`. An enum that a caller has to handle in full
//! is not: `Step`, `Wants`, `Status`, `Interest`, `JobState`.

use std::any::Any;
use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;

use parking_lot::Mutex;

use crate::returned::Returned;
use crate::sys::FORKED;

/// The job is to end: the code of the job should return now.
///
/// Every pause of a cancelled job fails instead of pausing, and everything in this crate that pauses passes the error
/// on. As an [`io::Error`] its kind is never [`io::ErrorKind::Interrupted`], because the standard library retries an
/// operation that fails with that kind.
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

/// Why a wait ended before it had what it waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interrupted {
    /// The job is to end.
    Cancelled,
    /// The deadline of the wait, or a deadline around it, has passed.
    TimedOut,
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Interrupted::Cancelled => Cancelled.fmt(f),
            Interrupted::TimedOut => f.write_str("the deadline of the wait has passed"),
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
/// Code that also runs outside jobs waits with [`pause_until`](crate::waiting::pause_until), which blocks the thread
/// where it cannot pause.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PauseError {
    /// The job is to end. Later pauses of the job fail in the same way.
    Cancelled,
    /// The code runs outside a job.
    NotInJob,
    /// A guard of [`block_pause`](crate::block_pause) exists.
    Blocked,
    /// The thread is panicking. The code that would run next would find [`std::thread::panicking`] true.
    Panicking,
    /// The code runs on another stack than the job's own: inside `stacker::grow`, in an `ASYNC_JOB` that libcrypto
    /// runs, or in a coroutine of another library.
    OffStack,
}

impl fmt::Display for PauseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PauseError::Cancelled => return Cancelled.fmt(f),
            PauseError::NotInJob => concat!(
                "pause_job was called outside a job: run this code in one (start_job, Scheduler::spawn), or wait with \
                 waiting::pause_until, which blocks the thread there",
                guide_page!("jobs")
            ),
            PauseError::Blocked => concat!(
                "pause_job was called under block_pause: drop the guard first, or wait with waiting::pause_until, \
                 which blocks the thread there",
                guide_page!("across-a-pause")
            ),
            PauseError::Panicking => concat!(
                "pause_job was called while the thread panics: a job cannot pause there",
                guide_page!("across-a-pause")
            ),
            PauseError::OffStack => concat!(
                "pause_job was called on another stack than the job's own (in stacker::grow, in an ASYNC_JOB that \
                 libcrypto runs, or in a coroutine of another library): pause outside of it, or wait with \
                 waiting::pause_until, which blocks the thread there",
                guide_page!("across-a-pause")
            ),
        })
    }
}

debug_with_sentence!(PauseError: Cancelled, NotInJob, Blocked, Panicking, OffStack);

impl Error for PauseError {}

impl From<PauseError> for io::Error {
    fn from(error: PauseError) -> Self {
        match error {
            PauseError::Cancelled => Cancelled.into(),
            other => io::Error::other(other),
        }
    }
}

/// The job was cancelled and did not end within a thousand pauses. Its stack is quarantined.
///
/// See [`Job::cancel`](crate::Job::cancel).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Quarantined;

impl fmt::Display for Quarantined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(concat!(
            "the job was cancelled and did not end: its stack is quarantined",
            guide_page!("cancel")
        ))
    }
}

impl fmt::Debug for Quarantined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Quarantined: {self}")
    }
}

impl Error for Quarantined {}

/// Why [`await_future`](crate::waiting::await_future) has no output. The future was dropped, unless it was awaited by
/// reference.
#[non_exhaustive]
pub enum AwaitError {
    /// The code runs outside a job.
    NotInJob,
    /// The job cannot pause: a guard of [`block_pause`](crate::block_pause) exists, the thread is panicking, or the
    /// code runs on another stack than the job's own.
    CannotPause,
    /// The job is to end, or a deadline around the call has passed.
    Interrupted(Interrupted),
    /// The driver of the job has set no callback, and the process has no fd left for an eventfd to wake the job with.
    NoWaker(io::Error),
}

impl fmt::Display for AwaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AwaitError::NotInJob => f.write_str(concat!(
                "a future was awaited outside a job: run this code in one (Scheduler::spawn, start_job), or use \
                 await_or_block, which blocks the thread there",
                guide_page!("jobs")
            )),
            AwaitError::CannotPause => f.write_str(concat!(
                "a future was awaited where the job cannot pause: drop the block_pause guard first, or use \
                 await_or_block, which blocks the thread there",
                guide_page!("across-a-pause")
            )),
            AwaitError::Interrupted(interrupted) => interrupted.fmt(f),
            AwaitError::NoWaker(_) => f.write_str(NO_WAKER),
        }
    }
}

/// The text of [`AwaitError::NoWaker`] and of the errors of the same name.
pub(crate) const NO_WAKER: &str = concat!(
    "the process has no fd left for an eventfd to wake the job with: raise RLIMIT_NOFILE (ulimit -n)",
    guide_page!("bound")
);

/// The error of a wait that would never end, in a `drop` while the thread panics. A panic would abort the process
/// there.
pub(crate) fn waits_for_itself_in_a_panic() -> io::Error {
    const SENTENCE: &str = concat!(
        "a thread that panics cannot pause a job, and a blocked one cannot run the jobs it waits for: do not wait in a \
         drop while std::thread::panicking() is true",
        guide_page!("across-a-pause")
    );
    io::Error::new(io::ErrorKind::Deadlock, SENTENCE)
}

debug_with_sentence!(AwaitError: NotInJob, CannotPause, Interrupted, NoWaker);

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
///
/// `Panic` is `Send` and `Sync`, so that an error which holds it is, too.
///
/// ```
/// let payload = std::panic::catch_unwind(|| panic!("no key")).unwrap_err();
/// let panic = asyncjob::Panic::from(payload);
/// assert_eq!(panic.message(), "no key");
/// ```
pub struct Panic {
    message: Cow<'static, str>,
    /// A payload is `Send` only. Nothing locks the mutex: it makes `Panic` `Sync`.
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

    /// The message of the panic. If the payload is not text, this is "a value that is not text".
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The payload, in the form in which [`std::panic::catch_unwind`] gives it.
    pub fn into_payload(self) -> Box<dyn Any + Send> {
        self.payload.into_inner()
    }

    /// Continues the panic in this thread, without another call of the panic hook.
    ///
    /// # Panics
    ///
    /// Always, with the payload.
    pub fn resume(self) -> ! {
        std::panic::resume_unwind(self.into_payload())
    }
}

impl From<Box<dyn Any + Send>> for Panic {
    /// Wraps a payload that [`std::panic::catch_unwind`] gave.
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

/// [`start_job`](crate::start_job) or [`JobBuilder::start`](crate::JobBuilder::start) started no job.
///
/// [`kind`](Self::kind) says why. [`into_closure`](Self::into_closure) and [`into_parts`](Self::into_parts) give back
/// what the call was given: the closure `F`, and the builder `B`. The error is `Send` and `Sync` whatever `F` and `B`
/// are: see [`Returned`](crate::Returned).
///
/// ```
/// use asyncjob::{StartErrorKind, Step, WaitCtx, pool, pool::PoolConfig, start_job};
///
/// pool::init_thread(PoolConfig::new().limit(0))?;
/// let refused = start_job(&WaitCtx::new(), || 7).unwrap_err();
/// assert!(matches!(refused.kind(), StartErrorKind::NoJobs { limit: 0 }));
/// let closure = refused.into_closure();
/// assert_eq!(closure(), 7);
/// # Ok::<(), asyncjob::pool::PoolError>(())
/// ```
pub struct StartError<F, B = ()> {
    kind: StartErrorKind,
    returned: Returned<(B, F)>,
}

/// Why a job was not started.
#[non_exhaustive]
pub enum StartErrorKind {
    /// The limit of this thread's pool is reached. Finish a paused job, and start again
    /// ([S16](crate::docs::openssl_behaviour#s16)).
    NoJobs {
        /// The limit, in jobs: see [`PoolConfig::limit`](crate::pool::PoolConfig::limit).
        limit: usize,
    },
    /// The system has no memory for another stack. OpenSSL reports this as `ASYNC_NO_JOBS`
    /// ([S17](crate::docs::openssl_behaviour#s17)).
    NoStack(io::Error),
}

/// The text of every error about a stack that the system has no memory for.
pub(crate) const NO_STACK: &str = concat!(
    "there is no memory for the stack of another job: allow fewer jobs, or choose smaller stacks",
    guide_page!("bound")
);

impl fmt::Display for StartErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartErrorKind::NoJobs { limit } => write!(
                f,
                "all {limit} jobs of this thread's pool are in use: finish one, or raise the limit with \
                 pool::init_thread{}",
                guide_page!("bound")
            ),
            StartErrorKind::NoStack(_) => f.write_str(NO_STACK),
        }
    }
}

debug_with_sentence!(StartErrorKind: NoJobs, NoStack);

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

/// [`Scheduler::spawn`](crate::scheduler::Scheduler::spawn), or another function that spawns, accepted no job.
///
/// [`kind`](Self::kind) says why. [`into_closure`](Self::into_closure) and [`into_parts`](Self::into_parts) give back
/// what the call was given: the closure `F`, and the builder `B`. The error is `Send` and `Sync` whatever `F` and `B`
/// are: see [`Returned`](crate::Returned).
pub struct SpawnError<F, B = ()> {
    kind: SpawnErrorKind,
    returned: Returned<(B, F)>,
}

/// Why a job was not spawned.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpawnErrorKind {
    /// The limit of jobs is reached. Spawn again when a job has ended:
    /// [`Handle::capacity`](crate::scheduler::Handle::capacity) waits for that.
    Full {
        /// The limit, in jobs: see [`SchedulerBuilder::max_jobs`](crate::scheduler::SchedulerBuilder::max_jobs).
        max_jobs: usize,
    },
    /// The scheduler is shutting down or has been dropped. It accepts no more jobs.
    ShuttingDown,
    /// The builder's wait ctx belongs to another job that has not ended. One of the two would take the other's wakes.
    WaitCtxInUse,
    /// [`scheduler::spawn`](crate::scheduler::spawn) was called outside a job of a scheduler.
    NoScheduler,
    /// The scheduler belongs to the parent of this process: see [`docs::fork`](crate::docs::fork).
    Forked,
}

/// The text of every error about a wait ctx with two jobs.
pub(crate) const WAIT_CTX_IN_USE: &str = concat!(
    "the wait ctx belongs to a job that has not ended: give each job a ctx of its own, or wait until the other job has \
     ended",
    guide_page!("from-c")
);

impl fmt::Display for SpawnErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpawnErrorKind::Full { max_jobs } => write!(
                f,
                "all {max_jobs} jobs of the scheduler are in use: wait for Handle::capacity, or raise max_jobs{}",
                guide_page!("bound")
            ),
            SpawnErrorKind::ShuttingDown => f.write_str(concat!(
                "the scheduler is shutting down or was dropped, and accepts no more jobs: spawn before \
                 Scheduler::shutdown, and keep the scheduler",
                guide_page!("cancel")
            )),
            SpawnErrorKind::WaitCtxInUse => f.write_str(WAIT_CTX_IN_USE),
            SpawnErrorKind::NoScheduler => f.write_str(concat!(
                "no scheduler runs this code: call scheduler::spawn inside a job, or Scheduler::spawn",
                guide_page!("jobs")
            )),
            SpawnErrorKind::Forked => f.write_str(FORKED),
        }
    }
}

debug_with_sentence!(SpawnErrorKind: Full, ShuttingDown, WaitCtxInUse, NoScheduler, Forked);

impl Error for SpawnErrorKind {}

impl From<SpawnErrorKind> for io::Error {
    fn from(kind: SpawnErrorKind) -> Self {
        match kind {
            SpawnErrorKind::Full { .. } => io::Error::new(io::ErrorKind::ResourceBusy, kind),
            SpawnErrorKind::Forked => io::Error::new(io::ErrorKind::Unsupported, kind),
            other => io::Error::other(other),
        }
    }
}

/// What the two errors of a refused call have in common: a kind, and the values that come back.
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

            /// As [`new`](Self::new), for what may go to other threads.
            #[cold]
            #[allow(
                dead_code,
                reason = "only one of the two errors is made by a call from any thread"
            )]
            pub(crate) fn of_send(kind: $kind, builder: B, closure: F) -> Self
            where
                F: Send,
                B: Send,
            {
                Self {
                    kind,
                    returned: Returned::of_send((builder, closure)),
                }
            }

            /// Gives back the closure, which was not run.
            ///
            /// # Panics
            ///
            /// As [`Returned::into_inner`]: on another thread than the one whose call was refused, unless the call
            /// asked for a closure that is `Send`.
            pub fn into_closure(self) -> F {
                self.into_parts().1
            }

            /// Gives back the builder and the closure. After a call without a builder the first value is `()`.
            ///
            /// # Panics
            ///
            /// As [`into_closure`](Self::into_closure).
            pub fn into_parts(self) -> (B, F) {
                self.returned.into_inner()
            }
        }

        impl<F, B> $name<F, B> {
            /// Why the call was refused.
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
            /// Drops the closure and the builder.
            fn from(error: $name<F, B>) -> Self {
                error.kind
            }
        }

        impl<F, B> From<$name<F, B>> for io::Error {
            /// Drops the closure and the builder.
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
