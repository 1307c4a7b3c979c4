//! The settings of a scheduler and of workers.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::submit::WorkerGroup;
use super::wake::Inbox;
use super::{Scheduler, Workers};
use crate::pool::PoolConfig;

/// Configures a [`Scheduler`].
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct SchedulerBuilder {
    max_jobs: usize,
    overflow_handler: bool,
    trim_after: Option<Duration>,
}

impl SchedulerBuilder {
    pub(super) fn new() -> Self {
        SchedulerBuilder {
            max_jobs: usize::MAX,
            overflow_handler: true,
            trim_after: None,
        }
    }

    /// Sets how many jobs the scheduler has at most, queued ones included. It refuses more with
    /// [`SpawnErrorKind::Full`](crate::SpawnErrorKind::Full). The default is no limit.
    pub fn max_jobs(mut self, jobs: usize) -> Self {
        self.max_jobs = jobs;
        self
    }

    /// Sets whether [`build`](Self::build) installs the handler of `SIGSEGV` and `SIGBUS` that names a job whose stack
    /// overflows: [`install_overflow_handler`](crate::stack::install_overflow_handler). The default is to install it.
    ///
    /// Signal handlers belong to the whole process. Do not install this one in a program whose handlers belong to
    /// something else, such as a JVM, Go's runtime or a crash reporter. An overflow then still ends the process,
    /// without a report of this crate.
    pub fn overflow_handler(mut self, install: bool) -> Self {
        self.overflow_handler = install;
        self
    }

    /// Lets the scheduler [trim](crate::Job::trim) each job that has been paused for longer than this, once in a pause.
    /// By default no job is trimmed.
    ///
    /// A connection that has parsed a large request, and is idle since, holds the memory of its deepest call. A job
    /// that is resumed soon needs that memory again, and the kernel would have to fill it with zeros first, so choose a
    /// time after which a job is most likely idle: a second, say. A job may be trimmed an eighth of the time later. A
    /// turn trims at most 32 jobs.
    ///
    /// ```
    /// use asyncjob::scheduler::Scheduler;
    /// use std::time::Duration;
    ///
    /// let scheduler = Scheduler::builder().trim_after(Duration::from_secs(1)).build()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn trim_after(mut self, paused: Duration) -> Self {
        self.trim_after = Some(paused);
        self
    }

    /// Makes a scheduler for this thread.
    ///
    /// # Errors
    ///
    /// The system has no epoll instance or eventfd left, or no memory for the overflow report.
    pub fn build(self) -> io::Result<Scheduler> {
        install_handler(self.overflow_handler)?;
        let inbox = Arc::new(Inbox::new()?);
        let shared = WorkerGroup::new(vec![Arc::clone(&inbox)], self.max_jobs);
        Scheduler::with(inbox, Arc::new(shared), self.trim_after)
    }
}

/// Configures [`Workers`].
///
/// ```
/// use asyncjob::pool::PoolConfig;
/// use asyncjob::scheduler::Workers;
/// use asyncjob::stack::SecretPolicy;
///
/// let keys_are_near = PoolConfig::new().secrets(SecretPolicy::new().scrub());
/// let workers = Workers::builder().threads(2).max_jobs(1000).pool(keys_are_near).thread_name("tls").build()?;
/// assert_eq!(workers.thread_count(), 2);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct WorkersBuilder {
    pub(super) threads: usize,
    pub(super) max_jobs: usize,
    pub(super) pool: PoolConfig,
    pub(super) thread_name: Cow<'static, str>,
    pub(super) trim_after: Option<Duration>,
    overflow_handler: bool,
}

impl WorkersBuilder {
    pub(super) fn new() -> Self {
        WorkersBuilder {
            threads: thread::available_parallelism().map_or(1, usize::from),
            max_jobs: usize::MAX,
            pool: PoolConfig::new(),
            thread_name: Cow::Borrowed("asyncjob"),
            trim_after: None,
            overflow_handler: true,
        }
    }

    /// Sets the number of threads. The default is one for each processor.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets how many jobs all threads together have at most: see [`SchedulerBuilder::max_jobs`].
    pub fn max_jobs(mut self, jobs: usize) -> Self {
        self.max_jobs = jobs;
        self
    }

    /// Sets up the pool of each thread, as [`pool::init_thread`](crate::pool::init_thread) does.
    pub fn pool(mut self, config: PoolConfig) -> Self {
        self.pool = config;
        self
    }

    /// Lets the schedulers trim jobs that are paused for long: see [`SchedulerBuilder::trim_after`].
    pub fn trim_after(mut self, paused: Duration) -> Self {
        self.trim_after = Some(paused);
        self
    }

    /// Sets the name of the threads, to which a hyphen and a number are added. The default is `asyncjob`.
    pub fn thread_name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.thread_name = name.into();
        self
    }

    /// Sets whether [`build`](Self::build) installs the overflow handler: see [`SchedulerBuilder::overflow_handler`].
    pub fn overflow_handler(mut self, install: bool) -> Self {
        self.overflow_handler = install;
        self
    }

    /// Starts the threads, each with a scheduler of its own. They share one queue of jobs that have not started.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`]: the number of threads is 0, or the pool cannot be set up. Other errors are
    /// those of the system, when it has no thread, epoll instance or eventfd left. The threads that had started are
    /// stopped then.
    pub fn build(self) -> io::Result<Workers> {
        if self.threads == 0 {
            let sentence = concat!("workers need at least one thread", guide_page!("jobs"));
            return Err(io::Error::new(io::ErrorKind::InvalidInput, sentence));
        }
        install_handler(self.overflow_handler)?;
        Workers::start(&self)
    }
}

fn install_handler(install: bool) -> io::Result<()> {
    if install {
        crate::stack::install_overflow_handler()?;
    }
    Ok(())
}
