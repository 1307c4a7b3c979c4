//! Futures that synchronous code waits for.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use super::wake_source::CallbackWaker;
use super::{Blocking, Stop, WaitSpec, WakeSource, wait, wait_in};
use crate::error::AwaitError;
use crate::job::{ThisJob, can_pause, with_this_job};
use crate::sync::poll_blocking;
use crate::wait_ctx::Status;

/// Waits for `future` inside a job, by pausing the job while the thread does other things. Returns the output of the
/// future.
///
/// # Errors
///
/// * [`AwaitError::NotInJob`]: the code runs outside a job.
/// * [`AwaitError::CannotPause`]: the job cannot pause, because a guard of [`block_pause`](crate::block_pause) exists
///   or the thread is panicking, and the future is not ready.
/// * [`AwaitError::Interrupted`]: the job is cancelled, or a deadline around the call passes.
/// * [`AwaitError::NoWaker`]: the driver of the job has set no callback, and the process has no fd left for an eventfd.
///
/// The future is dropped then. To keep it, await it by reference.
///
/// ```
/// use asyncjob::waiting::await_future;
/// use asyncjob::{Step, WaitCtx, start_job};
///
/// let step = start_job(&WaitCtx::new(), || await_future(async { 6 * 7 }).unwrap());
/// let Ok(Step::Finished(answer)) = step else { panic!("a future that is ready does not pause") };
/// assert_eq!(answer, 42);
/// ```
///
/// A future can be awaited under every driver. If the driver has set a callback in the job's wait ctx, the callback is
/// the future's waker. If it has set none, the waker makes an eventfd readable, which is a wait fd of the ctx. The
/// function is not named `block_on`, because it does not block the thread.
#[inline]
pub fn await_future<F: Future>(future: F) -> Result<F::Output, AwaitError> {
    await_in_job(pin!(future))
}

#[inline]
fn await_in_job<F: Future>(future: Pin<&mut F>) -> Result<F::Output, AwaitError> {
    let awaited = with_this_job(|job| match CallbackWaker::of(job.wait_ctx()) {
        Some(waker) => await_by_callback(job, waker, future),
        None => await_by(
            WakeSource::of_notifier(job.wait_ctx().clone()).map_err(AwaitError::NoWaker)?,
            future,
        ),
    });
    awaited.unwrap_or(Err(AwaitError::NotInJob))
}

/// Waits in the job that runs this code, whose driver has set a callback.
#[inline]
fn await_by_callback<F: Future>(
    job: ThisJob<'_>,
    mut waker: CallbackWaker<'_>,
    mut future: Pin<&mut F>,
) -> Result<F::Output, AwaitError> {
    let spec = WaitSpec::by(Status::Ok, Blocking::Refused);
    let output = wait_in(job, &spec, || poll(future.as_mut(), waker.refreshed()));
    output.map_err(AwaitError::from)
}

/// Waits for `future` inside a job by pausing the job, and where the code cannot pause by blocking the thread. Returns
/// the output of the future.
///
/// # Errors
///
/// [`AwaitError::Interrupted`] and [`AwaitError::NoWaker`], as [`await_future`]. The other errors do not occur.
///
/// ```
/// use asyncjob::waiting::await_or_block;
/// assert_eq!(await_or_block(async { 1 }).unwrap(), 1);
/// ```
pub fn await_or_block<F: Future>(future: F) -> Result<F::Output, AwaitError> {
    let mut future = pin!(future);
    if can_pause() {
        match await_in_job(future.as_mut()) {
            // The poll itself has blocked the pauses of the job.
            Err(AwaitError::CannotPause) => {}
            other => return other,
        }
    }
    let future = poll_fn(|task| poll_blocking(|| future.as_mut().poll(task)));
    await_by(WakeSource::of_thread(), pin!(future))
}

fn await_by<F: Future>(source: WakeSource, mut future: Pin<&mut F>) -> Result<F::Output, AwaitError> {
    let output = wait(source.spec_of_polls(), || poll(future.as_mut(), source.refreshed()));
    output.map_err(AwaitError::from)
}

#[inline]
fn poll<F: Future>(future: Pin<&mut F>, waker: &Waker) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(waker)) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

impl From<Stop> for AwaitError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Interrupted(interrupted) => AwaitError::Interrupted(interrupted),
            Stop::CannotPause => AwaitError::CannotPause,
        }
    }
}
