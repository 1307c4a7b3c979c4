//! A closure on its way to a thread, and its value on the way back, as a future.
//!
//! ```text
//!   New -- first poll --> Sent -- the thread is done with it --> Ended
//!    |                      |
//!    | drop                 | drop: a closure that has not begun leaves the line
//!    v                      v
//! ```
//!
//! The closure is sent by the first poll and not before, so that a wait that cannot begin does not run it.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::error::{OffloadError, TryRunError};
use super::queue::{Admission, ClosureQueue, QueuedClosure, Refusal};
use crate::returned::Returned;
use crate::sync::Closed;

pub(super) struct RunFuture<'a, T, F> {
    shared: &'a ClosureQueue,
    admission: Admission,
    stage: Stage<T, F>,
}

enum Stage<T, F> {
    New(F),
    Sent(QueuedClosure<T>),
    Ended,
}

impl<'a, T, F> RunFuture<'a, T, F> {
    pub(super) fn new(shared: &'a ClosureQueue, f: F, admission: Admission) -> Self {
        RunFuture {
            shared,
            admission,
            stage: Stage::New(f),
        }
    }
}

impl<T, F> Unpin for RunFuture<'_, T, F> {} // nothing in it is pinned

impl<T, F> Future for RunFuture<'_, T, F>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    type Output = Result<T, TryRunError<F>>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Stage::New(_) = this.stage
            && let Stage::New(f) = mem::replace(&mut this.stage, Stage::Ended)
        {
            this.stage = match this.shared.push(f, this.admission) {
                Ok(ticket) => Stage::Sent(ticket),
                Err(Refusal::Full(f)) => return Poll::Ready(Err(TryRunError::Full(Returned::of_send(f)))),
                Err(Refusal::Closed) => return Poll::Ready(Err(OffloadError::ShutDown.into())),
            };
        }
        let Stage::Sent(ticket) = &mut this.stage else {
            panic!("polled after it was ready");
        };
        let result = ready!(Pin::new(&mut ticket.value).poll(task));
        this.stage = Stage::Ended;
        Poll::Ready(match result {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(payload)) => Err(OffloadError::Panicked(payload.into()).into()),
            Err(Closed) => Err(OffloadError::ShutDown.into()),
        })
    }
}

impl<T, F> Drop for RunFuture<'_, T, F> {
    fn drop(&mut self) {
        if let Stage::Sent(ticket) = &self.stage {
            self.shared.withdraw(ticket.number);
        }
    }
}
