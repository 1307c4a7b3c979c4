//! The calls that join both sides of the crate: code inside a job that waits for something which a driver outside does.
//!
//! `waiting` knows no driver, and the drivers (`scheduler`, `job_future`) do not know how code waits. What needs both stands
//! here, above them.

use std::future::Future;
use std::io;

use crate::error::AwaitError;
use crate::hooks::SwitchHooks;
use crate::job::{JobBuilder, can_pause, is_in_job};
use crate::job_future::{JobError, JobFuture};
use crate::scheduler::{JoinError, JoinHandle, Scheduler, Workers};
use crate::waiting::{await_future, await_or_block};

impl<T> JoinHandle<T> {
    /// Waits for the result: inside a job by pausing it, outside by blocking the thread.
    ///
    /// # Errors
    ///
    /// [`JoinError`] when the job has no result, or when the wait for it was cut short.
    ///
    /// # Panics
    ///
    /// When the wait would block the thread that runs the job, which then would never end: on the scheduler's own thread
    /// outside a job (call [`Scheduler::run_until`] instead), and in a job under [`block_pause`](crate::block_pause).
    pub fn join(mut self) -> Result<T, JoinError> {
        self.check_join();
        match await_or_block(&mut self) {
            Ok(result) => result,
            Err(AwaitError::Interrupted(interrupted)) => Err(JoinError::Interrupted(interrupted)),
            Err(AwaitError::NoWaker(source)) => Err(JoinError::NoWaker(source)),
            Err(AwaitError::NotInJob | AwaitError::CannotPause) => unreachable!("the wait blocks there"),
        }
    }
}

impl Workers {
    /// Calls `f` with each worker's scheduler, on its thread, between the runs of its jobs: to list jobs, say. Returns the
    /// results of all.
    ///
    /// Inside a job, also one of these workers, it waits by pausing the job. A worker that ends meanwhile, or whose call of
    /// `f` panics, has no result.
    ///
    /// # Errors
    ///
    /// When the wait was cut short: the job was cancelled, or a deadline around the call passed.
    ///
    /// # Panics
    ///
    /// In a job under [`block_pause`](crate::block_pause): two such jobs of two workers would wait for each other for ever.
    ///
    /// ```
    /// use asyncjob::scheduler::{Scheduler, Workers};
    ///
    /// let workers = Workers::new(2)?;
    /// let jobs = workers.broadcast(Scheduler::jobs)?;
    /// assert_eq!(jobs.len(), 2); // a list for each worker
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn broadcast<R: Send + 'static>(
        &self,
        f: impl Fn(&Scheduler) -> R + Send + Sync + 'static,
    ) -> io::Result<Vec<R>> {
        assert!(
            can_pause() || !is_in_job(),
            "Workers::broadcast was called in a job that cannot pause: drop the block_pause guard first"
        );
        let mut results = Vec::new();
        for result in self.call_each(f) {
            results.extend(await_or_block(result)?.ok());
        }
        Ok(results)
    }
}

/// Polls `future` inside a job, so that synchronous callbacks deep within it can pause instead of blocking.
///
/// This is what makes an unmodified TLS handshake asynchronous in its private key: the handshake's future calls
/// `Signer::sign`, which calls [`await_future`]. To the runtime the result is the future that went in.
///
/// Everything of [`JobFuture`] applies. Put a timeout around it, not into it: while a callback is paused, the future that
/// called it is in the middle of a poll, and so is everything in it.
///
/// ```
/// use asyncjob::in_job;
/// use asyncjob::waiting::{await_future, await_or_block};
///
/// async fn handshake(sign: fn() -> u32) -> u32 {
///     sign() + 1
/// }
/// let done = in_job(handshake(|| await_future(async { 41 }).unwrap()));
/// assert_eq!(await_or_block(done).unwrap().unwrap(), 42);
/// ```
pub fn in_job<F>(future: F) -> JobFuture<F::Output>
where
    F: Future + 'static,
{
    JobBuilder::new().in_job(future)
}

impl<H: SwitchHooks + 'static> JobBuilder<'_, H> {
    /// Polls `future` inside a job: [`in_job`], with a name, a stack size, hooks or a wait ctx.
    pub fn in_job<F>(self, future: F) -> JobFuture<F::Output>
    where
        F: Future + 'static,
    {
        // On the heap: the job's stack would hold the future once for each call that it is handed down by, and a handshake is
        // large.
        let future = Box::pin(future);
        JobFuture::of(self, move || await_future(future).map_err(JobError::Await))
    }
}
