//! A closure on its way to a thread and its result on the way back, as a future.
//!
//! ```text
//!   New -- no room --> ForRoom -- granted --> Queued -- result --> Over
//!    '------------------ room -----------------^
//! ```

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::error::OffloadError;
use super::queue::Shared;
use super::state::State;

/// Where a result is handed over.
pub(super) struct Slot<T> {
    pub(super) result: Option<Result<T, OffloadError>>,
    pub(super) waker: Option<Waker>,
}

/// The half of the thread. Dropping it unkept says that the closure will not run.
pub(super) struct Promise<T>(pub(super) Arc<Mutex<Slot<T>>>);

impl<T> Promise<T> {
    pub(super) fn settle(&self, result: Result<T, OffloadError>) {
        let mut slot = self.0.lock();
        if slot.result.is_none() {
            slot.result = Some(result);
        }
        let waker = slot.waker.take();
        drop(slot);
        waker.into_iter().for_each(Waker::wake);
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        self.settle(Err(OffloadError::ShutDown));
    }
}

/// The half of the job, and where its closure is in the queue.
pub(super) struct Place<T> {
    pub(super) id: u64,
    pub(super) slot: Arc<Mutex<Slot<T>>>,
}

/// A closure on its way, as a future.
pub(super) struct RunFuture<'a, S, T, F> {
    pub(super) shared: &'a Shared<S>,
    pub(super) stage: Stage<T, F>,
}

pub(super) enum Stage<T, F> {
    /// Not queued.
    New(F),
    /// The queue was full: this is the number under which the job waits.
    ForRoom(u64, F),
    /// Queued, or running, or done.
    Queued(Place<T>),
    /// The result was handed out.
    Over,
}

impl<S, T, F> Unpin for RunFuture<'_, S, T, F> {} // nothing in it is pinned

impl<S, T, F> Future for RunFuture<'_, S, T, F>
where
    S: 'static,
    F: FnOnce(&mut State<S>) -> T + Send + 'static,
    T: Send + 'static,
{
    type Output = Result<T, OffloadError>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let shared = self.shared;
        self.stage = match mem::replace(&mut self.stage, Stage::Over) {
            Stage::New(f) => shared.enter(None, f, task.waker())?,
            Stage::ForRoom(id, f) => shared.enter(Some(id), f, task.waker())?,
            queued => queued,
        };
        let Stage::Queued(place) = &self.stage else {
            return Poll::Pending;
        };
        let waker = task.waker().clone(); // outside the lock, as the drop below: a waker may run anything
        let mut slot = place.slot.lock();
        let Some(result) = slot.result.take() else {
            let before = slot.waker.replace(waker);
            drop(slot);
            drop(before);
            return Poll::Pending;
        };
        drop(slot);
        self.stage = Stage::Over;
        Poll::Ready(result)
    }
}

impl<S, T, F> Drop for RunFuture<'_, S, T, F> {
    /// The job waits no longer: what has not begun will not, and its place is free for the next.
    fn drop(&mut self) {
        match &self.stage {
            Stage::ForRoom(id, _) => self.shared.withdraw(*id),
            Stage::Queued(place) => self.shared.withdraw(place.id),
            Stage::New(_) | Stage::Over => {}
        }
    }
}
