//! Waiting for a job of a pool that is at its limit.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::thread::THREAD;
use crate::sync::Waiter;

/// A future that is ready when this thread's pool has a stack for another job: at once, unless the pool is at its
/// limit.
///
/// The tasks that wait are woken in the order in which they came. Being ready reserves nothing: start the job in the
/// same poll. A task that finds the stack taken goes back to its place in the line.
///
/// ```
/// use asyncjob::pool::{PoolConfig, available, init_thread};
/// use asyncjob::{Step, WaitCtx, pause_job, start_job};
/// use std::pin::pin;
/// use std::task::{Context, Waker};
///
/// init_thread(PoolConfig::new().limit(1))?;
/// let ctx = WaitCtx::new();
/// let Ok(Step::Paused(job)) = start_job(&ctx, pause_job) else { panic!() };
///
/// let mut task = Context::from_waker(Waker::noop());
/// let mut another = pin!(available());
/// assert!(another.as_mut().poll(&mut task).is_pending());
/// drop(job); // cancels it
/// assert!(another.as_mut().poll(&mut task).is_ready());
/// # use std::future::Future;
/// # Ok::<(), asyncjob::pool::PoolError>(())
/// ```
pub fn available() -> Available {
    Available {
        waiter: Waiter::new(),
        of_this_thread: PhantomData,
    }
}

/// Waits for the pool of this thread: see [`available`].
///
/// The future stays on its thread:
///
/// ```compile_fail,E0277
/// fn send<T: Send>(_: T) {}
/// send(asyncjob::pool::available());
/// ```
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Available {
    waiter: Waiter,
    of_this_thread: PhantomData<Rc<()>>,
}

impl Future for Available {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        THREAD.with(|pool| pool.poll_available(&mut self.waiter, task))
    }
}

impl Drop for Available {
    /// A task that was woken and leaves a stack behind wakes the next one.
    fn drop(&mut self) {
        THREAD.with(|pool| pool.withdraw(&mut self.waiter));
    }
}
