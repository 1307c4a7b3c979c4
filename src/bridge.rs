//! The functions that join both sides of the crate: code inside a job waits for something that a driver outside does.
//!
//! `waiting` knows no driver, and the drivers (`scheduler`, `job_future`) do not know how code waits. What needs both
//! of them is here, above them.

use std::future::Future;
use std::io;
use std::thread;

use crate::error::{AwaitError, waits_for_itself_in_a_panic};
use crate::hooks::SwitchHooks;
use crate::job::{HeapClosure, JobBuilder, can_pause, is_in_job};
use crate::job_future::{JobFuture, Kept, Returned, boxed};
use crate::scheduler::{JoinError, JoinHandle, Scheduler, Workers};
use crate::waiting::{await_future, await_or_block};

impl<T> JoinHandle<T> {
    /// Waits for the result of the job. Inside a job the wait pauses that job, and outside it blocks the thread.
    ///
    /// # Errors
    ///
    /// [`JoinError`]: the job has no result, or the wait for it was interrupted. The handle is dropped by then, which
    /// cancels a job that has not ended.
    ///
    /// # Panics
    ///
    /// When the wait would block the only thread that can run the job, and so would never end:
    ///
    /// * outside a job, on the scheduler's own thread. Call [`Scheduler::run_until`] there.
    /// * inside a job of the same thread, while a guard of [`block_pause`](crate::block_pause) exists.
    ///
    /// A thread that panics already, as in the `drop` of a value on the way, gets an error instead:
    /// [`JoinError::Scheduler`].
    pub fn join(mut self) -> Result<T, JoinError> {
        self.check_join()?;
        match await_or_block(&mut self) {
            Ok(result) => result,
            Err(AwaitError::Interrupted(interrupted)) => Err(JoinError::Interrupted(interrupted)),
            Err(AwaitError::NoWaker(source)) => Err(JoinError::NoWaker(source)),
            Err(AwaitError::NotInJob | AwaitError::CannotPause) => unreachable!("the wait blocks there"),
        }
    }
}

impl Workers {
    /// Calls `f` with the scheduler of each worker, on the worker's thread, between the runs of its jobs. Returns the
    /// results, one for each worker that has one.
    ///
    /// A worker that ends meanwhile has no result, nor has one whose call of `f` panics. Inside a job the wait pauses
    /// that job, also in a job of one of these workers. Outside a job it blocks the thread.
    ///
    /// # Errors
    ///
    /// The wait was interrupted: the job was cancelled, or a deadline around the call has passed. The error is also
    /// that of an eventfd, as for [`await_or_block`]. In a child of the process that made the workers it says so.
    ///
    /// # Panics
    ///
    /// In a job while a guard of [`block_pause`](crate::block_pause) exists. Two such jobs of two workers would wait
    /// for each other for ever. A job that panics already gets an error instead.
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
        if !can_pause() && is_in_job() {
            if thread::panicking() {
                return Err(waits_for_itself_in_a_panic());
            }
            panic!(concat!(
                "Workers::broadcast was called in a job that cannot pause: drop the block_pause guard first",
                guide_page!("across-a-pause")
            ));
        }
        self.check_process()?;
        let mut results = Vec::new();
        for result in self.call_each(f) {
            results.extend(await_or_block(result)?.ok());
        }
        Ok(results)
    }
}

/// Polls `future` inside a job, so that synchronous callbacks deep within the future can pause instead of blocking.
///
/// To the runtime the result is the future that went in. Everything that [`JobFuture`] says holds for it: it is not
/// `Send`, for instance, and dropping it cancels the job.
///
/// # Errors
///
/// The output is a [`JobError`](crate::job_future::JobError) when the job cannot start, when its engine has failed, or
/// when the wait of `future` itself was interrupted.
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
///
/// This makes an unmodified TLS handshake asynchronous in its private key: the handshake's future calls `Signer::sign`,
/// which calls [`await_future`]. Put a timeout around the future and not into it. While a callback is paused, the
/// future that called it is in the middle of a poll, and a timer inside that future is not polled.
#[inline]
pub fn in_job<F>(future: F) -> JobFuture<F::Output>
where
    F: Future + 'static,
{
    JobFuture::plain(boxed(future))
}

impl<H: SwitchHooks + 'static> JobBuilder<'_, H> {
    /// Polls `future` inside a job that has this builder's name, stack size, hooks and wait ctx: see
    /// [`in_job`](crate::in_job).
    #[inline]
    pub fn in_job<F>(self, future: F) -> JobFuture<F::Output>
    where
        F: Future + 'static,
    {
        // The future goes to the heap, and stays there. Otherwise the stack of the job would hold it once for each call
        // that hands it down, and the future of a handshake is large.
        JobFuture::of(self, boxed(future))
    }
}

/// A future as the closure of a job, which awaits it where it lies.
impl<F: Future> HeapClosure<Returned<F::Output>> for F {
    fn call(self: Box<Self>) -> Returned<F::Output> {
        let mut future = Kept::new(self);
        await_future(future.as_mut()).map_err(Box::new)
    }
}
