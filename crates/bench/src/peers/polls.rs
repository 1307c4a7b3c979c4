//! Futures that are polled without a job and inside one.

use std::future::{Future, poll_fn};
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use asyncjob::in_job;
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};

use super::tokio::current_thread;
use crate::measure::Candidate;

/// Is pending so many times, and wakes its task each time.
struct Turns(u64);

impl Future for Turns {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        if black_box(self.0) == 0 {
            return Poll::Ready(());
        }
        self.0 -= 1;
        task.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Is always pending, and wakes nothing.
struct Never;

impl Future for Never {
    type Output = ();

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        black_box(task);
        Poll::Pending
    }
}

/// A waker that does nothing.
struct WakesNothing;

impl Wake for WakesNothing {
    fn wake(self: Arc<Self>) {}
    fn wake_by_ref(self: &Arc<Self>) {
        black_box(self);
    }
}

/// A poll for which nothing has happened: that of a future whose task was woken for another one.
pub(crate) fn not_woken(name: &str) -> Candidate {
    unwoken(name, || Never)
}

/// As [`not_woken`], of a job that waits for the future.
pub(crate) fn not_woken_in_job(name: &str) -> Candidate {
    unwoken(name, || in_job(Never))
}

fn unwoken<F: Future + 'static>(name: &str, make: fn() -> F) -> Candidate {
    Candidate::new(name, move |n| {
        let (waker, mut future) = (Waker::from(Arc::new(WakesNothing)), pin!(make()));
        let mut task = Context::from_waker(&waker);
        assert!(future.as_mut().poll(&mut task).is_pending());
        let clock = Instant::now();
        for _ in 0..n {
            black_box(future.as_mut().poll(&mut task).is_pending()); // not the output, which has another size in a job
        }
        clock.elapsed()
    })
}

/// A poll that wakes its own waker and does nothing else.
pub(crate) fn itself(name: &str) -> Candidate {
    woken_by_itself(name, |turns| turns)
}

/// As [`itself`], inside a job.
pub(crate) fn itself_in_job(name: &str) -> Candidate {
    woken_by_itself(name, in_job)
}

fn woken_by_itself<F: Future + 'static>(name: &str, make: fn(Turns) -> F) -> Candidate {
    Candidate::new(name, move |n| {
        let (waker, mut future) = (Waker::from(Arc::new(WakesNothing)), pin!(make(Turns(n + 1))));
        let mut task = Context::from_waker(&waker);
        assert!(future.as_mut().poll(&mut task).is_pending());
        let clock = Instant::now();
        while future.as_mut().poll(&mut task).is_pending() {}
        clock.elapsed()
    })
}

/// A round of a channel: a send, which wakes, and a poll that receives and is pending again.
pub(crate) fn channel(name: &str) -> Candidate {
    received(name, receive)
}

/// As [`channel`], with the receiver inside a job.
pub(crate) fn channel_in_job(name: &str) -> Candidate {
    received(name, |receiver| in_job(receive(receiver)))
}

fn received<F: Future + 'static>(name: &str, make: fn(mpsc::Receiver<u64>) -> F) -> Candidate {
    Candidate::new(name, move |n| {
        let (sender, receiver) = mpsc::channel(1);
        let (waker, mut future) = (Waker::from(Arc::new(WakesNothing)), pin!(make(receiver)));
        let mut task = Context::from_waker(&waker);
        assert!(future.as_mut().poll(&mut task).is_pending());
        let clock = Instant::now();
        for number in 0..n {
            sender.try_send(number).expect("the channel is empty");
            let _ = black_box(future.as_mut().poll(&mut task));
        }
        clock.elapsed()
    })
}

async fn receive(mut receiver: mpsc::Receiver<u64>) {
    while let Some(number) = receiver.recv().await {
        black_box(number);
    }
}

/// A turn of a task on a current-thread runtime of tokio: wake, queue, poll.
pub(crate) fn task(name: &str) -> Candidate {
    on_tokio(name, |turns| turns)
}

/// As [`task`], with the future of the task inside a job.
pub(crate) fn task_in_job(name: &str) -> Candidate {
    on_tokio(name, asyncjob_tokio::in_job)
}

fn on_tokio<F: Future + 'static>(name: &str, make: fn(Turns) -> F) -> Candidate {
    let (runtime, local) = (current_thread(), LocalSet::new());
    Candidate::new(name, move |n| {
        local.block_on(&runtime, async {
            let timed = async move {
                let mut future = pin!(make(Turns(n + 1)));
                let first = poll_fn(|task| Poll::Ready(future.as_mut().poll(task).is_pending())).await;
                assert!(first);
                let clock = Instant::now();
                future.await;
                clock.elapsed()
            };
            spawn_local(timed).await.expect("it does not panic")
        })
    })
}

/// A future that is ready at its first poll, from the call that makes it to its drop. It is on the heap.
pub(crate) fn ready(name: &str) -> Candidate {
    made(name, || Box::pin(async {}))
}

/// As [`ready`], inside a job, which starts and ends for it.
pub(crate) fn ready_in_job(name: &str) -> Candidate {
    made(name, || in_job(async {}))
}

fn made<F: Future + 'static>(name: &str, make: fn() -> F) -> Candidate {
    let waker = Waker::from(Arc::new(WakesNothing));
    Candidate::new(name, move |n| {
        let mut task = Context::from_waker(&waker);
        let clock = Instant::now();
        for _ in 0..n {
            assert!(pin!(black_box(make)()).poll(&mut task).is_ready());
        }
        clock.elapsed()
    })
}
