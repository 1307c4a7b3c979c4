//! Drives [`asyncjob`] jobs on tokio: wait fds through [`AsyncFd`], deadlines through tokio's
//! timer.
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
//! | synchronous code | [`spawn_local`], or [`job`] where a future is wanted | a current-thread runtime, a `LocalSet` |
//! | a future with synchronous callbacks (a TLS handshake) | [`in_job`] | the same |
//! | either, from tasks that move between threads | [`Workers`]: threads for jobs, behind a [`Handle`] | any runtime |
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
//! # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
//! ```
//!
//! # If the compiler says that `JobStaysOnItsThread` cannot be sent
//!
//! A job never changes its thread once it has started. So the futures of this crate are not `Send`, and `tokio::spawn`
//! does not take them. The compiler says "`dyn JobStaysOnItsThread` cannot be sent between threads safely" about this:
//!
//! ```compile_fail,E0277
//! # async fn not_like_this() {
//! let task = tokio::spawn(asyncjob_tokio::job(|| 42));
//! # }
//! ```
//!
//! There are two ways out. On a current-thread runtime or a `LocalSet`, use [`spawn_local`] or
//! [`tokio::task::spawn_local`]. On a multi-threaded runtime, use [`Workers`], whose [`Handle`] is `Send`:
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! # let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build()?;
//! let workers = asyncjob_tokio::Workers::new(2)?; // once in a program
//! # runtime.block_on(async move {
//! let handle = workers.handle();
//! let task = tokio::spawn(async move { handle.spawn(|| 42).await });
//! assert_eq!(task.await??, 42);
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! # Limits
//!
//! A thread runs as many jobs as its pool allows ([`pool::init_thread`](asyncjob::pool::init_thread)). At the limit, a
//! future of this crate waits for the end of another job of its thread. The futures are woken in the order in which
//! they began to wait.
//!
//! # Task-locals
//!
//! Put the scope around the job, `KEY.scope(value, asyncjob_tokio::job(...))`, not into it. A scope sets the value for
//! each poll and takes it away after the poll. A job runs within polls, so it has the value. A scope inside a job that
//! is open during a pause would stay open for the tasks that run meanwhile. For thread-locals of your own there are
//! [`SwitchHooks`](asyncjob::hooks::SwitchHooks).
//!
//! # A paused clock
//!
//! `tokio::time::pause()` stops tokio's clock. The code in jobs looks at the system's clock, which goes on. So a job
//! that sleeps for an hour takes an hour, and keeps a runtime whose clock is paused busy meanwhile.
//!
//! [`AsyncFd`]: https://docs.rs/tokio/latest/tokio/io/unix/struct.AsyncFd.html
//! [`tokio::task::spawn_local`]: https://docs.rs/tokio/latest/tokio/task/fn.spawn_local.html

#![cfg_attr(docsrs, feature(doc_cfg))]
#![doc(html_root_url = "https://docs.rs/asyncjob-tokio/latest")] // for the links of asyncjob-rustls

mod handle;
mod hangup;
mod join;
#[allow(
    unsafe_code,
    reason = "borrows wait fds, which a ctx gives as numbers, and registers duplicates of them"
)]
mod raw;
mod watch;
mod workers;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Context;

use asyncjob::job_future::{JobError, JobFuture, Watch};
use asyncjob::{Panic, guide_page};
pub use handle::Handle;
pub use hangup::hangup;
pub use join::{JoinError, JoinHandle};
pub use workers::{Workers, WorkersBuilder};

/// Runs `f` as a job on this thread, as [`tokio::task::spawn_local`] runs a future.
///
/// The handle is tokio's. Aborting it cancels the job, and so does the end of the runtime. Dropping it lets the job go
/// on.
///
/// # Panics
///
/// Outside a `LocalSet`, and so in a task of `tokio::spawn`, which may move to another thread. The message says what to
/// use there: [`Workers`].
///
/// ```
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # tokio::task::LocalSet::new().block_on(&runtime, async {
/// let job = asyncjob_tokio::spawn_local(|| {
///     // Synchronous code that awaits a future:
///     asyncjob::waiting::await_future(tokio::time::sleep(std::time::Duration::from_millis(1))).unwrap();
///     42
/// });
/// assert_eq!(job.await??, 42);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
///
/// [`tokio::task::spawn_local`]: https://docs.rs/tokio/latest/tokio/task/fn.spawn_local.html
#[track_caller]
pub fn spawn_local<T: 'static>(f: impl FnOnce() -> T + 'static) -> tokio::task::JoinHandle<Result<T, JobError>> {
    let job = job(f);
    // tokio has no call that asks whether there is a `LocalSet`. Its panic names neither the caller nor a way out.
    match catch_unwind(AssertUnwindSafe(|| tokio::task::spawn_local(job))) {
        Ok(handle) => handle,
        Err(panic) => panic!(
            "asyncjob_tokio::spawn_local was called where no LocalSet runs, as in a task of tokio::spawn: use \
             asyncjob_tokio::Workers there, or call it inside LocalSet::run_until or LocalSet::block_on (tokio says: \
             {}){}",
            Panic::from(panic).message(),
            guide_page!("tokio")
        ),
    }
}

/// A future that runs `f` as a job. tokio watches what the job waits for. See [`JobFuture`].
///
/// # Panics
///
/// When the future is polled outside a tokio runtime and the job waits for an fd or for time.
pub fn job<T: 'static>(f: impl FnOnce() -> T + 'static) -> JobFuture<T> {
    watched(JobFuture::new(f))
}

/// A future that polls `future` inside a job. tokio watches what the job waits for. See [`asyncjob::in_job`].
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
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
pub fn in_job<F>(future: F) -> JobFuture<F::Output>
where
    F: Future + 'static,
{
    watched(asyncjob::in_job(future))
}

/// Lets tokio watch what the job of a [`JobFuture`] waits for.
///
/// For a job with a name, a stack size, hooks or a wait ctx:
///
/// ```
/// use asyncjob::JobBuilder;
/// use asyncjob::stack::StackSize;
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// let builder = JobBuilder::new().name("parser").stack_size(StackSize::at_least(1 << 20));
/// let job = asyncjob_tokio::watched(builder.future(|| 42));
/// assert_eq!(job.await?, 42);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
pub fn watched<T: 'static>(job: JobFuture<T>) -> JobFuture<T> {
    job.watch_made_by(new_watch).yield_by(give_way)
}

fn new_watch() -> Box<Watch> {
    let mut watch = watch::Watch::default();
    Box::new(move |ctx, task| watch.poll(ctx, task))
}

/// Has the task polled again after tokio has looked at its driver. To wake the task would put it before that.
fn give_way(task: &mut Context<'_>) {
    let _is_pending = pin!(tokio::task::yield_now()).poll(task);
}

/// The README's code compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// So do those of the guide.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guide/tokio.md")]
struct Guide;

/// A part of this page is about tokio.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guide/bound.md")]
struct Bound;

/// As above.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guide/cancel.md")]
struct Cancel;

/// This page has a loop around mio, which the tests of this crate use.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guide/embed.md")]
struct Embed;
