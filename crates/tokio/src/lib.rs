//! Drives `asyncjob` jobs on tokio: wait fds through [`AsyncFd`](tokio::io::unix::AsyncFd), deadlines through tokio's timer.
//!
//! ```text
//!   job: io, time, offload, await_future, an engine's wait fd        this crate
//!     pauses with wait fds         ------------------------------->  an AsyncFd each, kept while the ctx keeps the fd
//!     pauses with a deadline       ------------------------------->  a Sleep
//!     pauses for a callback        ------------------------------->  the task's waker
//!     pauses without a reason      ------------------------------->  a few turns of the runtime, then a growing Sleep
//! ```
//!
//! | to run | use | on |
//! |---|---|---|
//! | synchronous code | [`spawn_local`], or [`job`] where a future is wanted | a current-thread runtime or a `LocalSet` |
//! | a future whose callbacks are synchronous (a TLS handshake) | [`in_job`] | the same |
//! | either, from a multi-threaded runtime | [`Workers`]: pinned threads behind a `Send` handle | any runtime |
//!
//! A job never changes its thread once it has started, so nothing here is `Send` but the handle.
//!
//! ```
//! use asyncjob::WaitKey;
//! use std::io::{Read, Write, pipe};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # tokio::task::LocalSet::new().block_on(&runtime, async {
//! let (mut reader, mut writer) = pipe()?;
//! let job = asyncjob_tokio::spawn_local(move || {
//!     let ctx = asyncjob::current_job().unwrap().wait_ctx().clone();
//!     ctx.add_wait_fd(WaitKey::unique(), reader.try_clone().unwrap());
//!     asyncjob::pause_job().unwrap(); // the runtime does other things
//!     let mut byte = [0];
//!     reader.read_exact(&mut byte).unwrap(); // does not block: the fd is ready
//!     byte[0]
//! });
//! writer.write_all(&[7])?;
//! assert_eq!(job.await??, 7);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Limits
//!
//! A thread runs as many jobs as its pool allows ([`asyncjob::init_thread`]). Above that the futures of this crate wait in line
//! for a job to end; nothing spins and nothing fails.
//!
//! # Task-locals
//!
//! Put the scope around the job, `KEY.scope(value, asyncjob_tokio::job(...))`, not into it: a scope sets the value for each
//! poll and takes it away after, which is what a job that runs within the poll needs. Inside a job, a scope that is open
//! during a pause would stay open for the tasks that run meanwhile. For thread-locals of your own there are
//! [`SwitchHooks`](asyncjob::SwitchHooks).
//!
//! # A clock that stands still
//!
//! `tokio::time::pause()` moves tokio's clock, not the system's, which the code in jobs looks at: a job that sleeps for an hour
//! takes an hour, and keeps a runtime whose clock is paused busy meanwhile.

mod handle;
mod hangup;
mod join;
#[allow(
    unsafe_code,
    reason = "borrows the wait fds, which a ctx gives as numbers, and vouches for duplicates of them"
)]
mod raw;
mod watch;
mod workers;

use asyncjob::job_future::{JobError, JobFuture};
pub use handle::Handle;
pub use hangup::hangup;
pub use join::{JoinError, JoinHandle};
pub use workers::{Workers, WorkersBuilder};

/// Runs `f` as a job on this thread, as [`tokio::task::spawn_local`] runs a future.
///
/// Aborting the handle, or the end of the runtime, cancels the job.
///
/// # Panics
///
/// Outside a `LocalSet`, as tokio's.
///
/// ```
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # tokio::task::LocalSet::new().block_on(&runtime, async {
/// let job = asyncjob_tokio::spawn_local(|| {
///     // Synchronous code that awaits:
///     asyncjob::waiting::await_future(tokio::time::sleep(std::time::Duration::from_millis(1))).unwrap();
///     42
/// });
/// assert_eq!(job.await??, 42);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn spawn_local<T: 'static>(f: impl FnOnce() -> T + 'static) -> tokio::task::JoinHandle<Result<T, JobError>> {
    tokio::task::spawn_local(job(f))
}

/// A future that runs `f` as a job, watched by tokio: see [`JobFuture`].
///
/// # Panics
///
/// When it is polled outside a tokio runtime and the job waits for an fd or for time.
pub fn job<T: 'static>(f: impl FnOnce() -> T + 'static) -> JobFuture<T> {
    watched(JobFuture::new(f))
}

/// A future that polls `future` inside a job, watched by tokio: see [`asyncjob::in_job`].
///
/// # Panics
///
/// As [`job`].
///
/// ```
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// async fn handshake(sign: fn() -> u32) -> u32 {
///     sign() + 1
/// }
/// fn sign() -> u32 {
///     asyncjob::waiting::await_future(tokio::task::yield_now()).unwrap(); // this thread is not blocked
///     41
/// }
/// assert_eq!(asyncjob_tokio::in_job(handshake(sign)).await?, 42);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn in_job<F>(future: F) -> JobFuture<F::Output>
where
    F: Future + 'static,
{
    watched(asyncjob::in_job(future))
}

/// Lets tokio watch what the job waits for: for a [`JobFuture`] that was made elsewhere.
pub fn watched<T: 'static>(job: JobFuture<T>) -> JobFuture<T> {
    let mut watch = watch::Watch::default();
    job.watch(move |ctx, task| watch.poll(ctx, task))
}

/// The README's code compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
