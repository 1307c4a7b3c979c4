//! What a job adds to a poll: the same future, awaited without a job and inside a job, in interleaved rounds.
//!
//! ```text
//! cargo bench -p asyncjob-tokio --bench awaiting
//! ```
//!
//! | row | a poll is |
//! |---|---|
//! | bare | a call of `poll`, which wakes its own waker and is pending |
//! | channel | a round of a `tokio::sync::mpsc` channel: a send, which wakes, a poll that receives, a pending poll |
//! | task | a turn of a task on a current-thread runtime: wake, queue, poll |
//!
//! Each row has a control, which is the left side measured once more. A ratio can be trusted as far as the control's
//! ratio is close to 1. The figures are medians of many rounds.

use std::future::{Future, poll_fn};
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use asyncjob::job_future::JobFuture;
use asyncjob::waiting::await_future;
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};

const POLLS: u32 = 2_000;
const ROUNDS: usize = 401;

/// Is pending so many times, and wakes its task each time.
struct Turns(u32);

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

type Boxed = Pin<Box<dyn Future<Output = ()>>>;

/// A waker that does nothing.
struct WakesNothing;

impl Wake for WakesNothing {
    fn wake(self: Arc<Self>) {}
    fn wake_by_ref(self: &Arc<Self>) {
        black_box(self);
    }
}

/// Polls to the end, and gives the nanoseconds for each poll.
fn poll_to_end(future: impl Future) -> f64 {
    let (waker, mut future) = (Waker::from(Arc::new(WakesNothing)), pin!(future));
    let mut task = Context::from_waker(&waker);
    let start = Instant::now();
    while future.as_mut().poll(&mut task).is_pending() {}
    nanoseconds(start)
}

fn nanoseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e9 / f64::from(POLLS)
}

fn bare() -> f64 {
    poll_to_end(Turns(POLLS))
}

fn bare_in_job() -> f64 {
    poll_to_end(JobFuture::new(|| await_future(Turns(POLLS))))
}

/// Receives until the channel is closed, from a sender that sends after each pending poll.
fn channel(wrap: fn(mpsc::Receiver<u32>) -> Boxed) -> f64 {
    let (sender, receiver) = mpsc::channel(1);
    let (waker, mut future) = (Waker::from(Arc::new(WakesNothing)), wrap(receiver));
    let mut task = Context::from_waker(&waker);
    assert!(future.as_mut().poll(&mut task).is_pending());
    let start = Instant::now();
    for number in 0..POLLS {
        sender.try_send(number).expect("the channel is empty");
        let _ = black_box(future.as_mut().poll(&mut task));
    }
    nanoseconds(start)
}

async fn receive(mut receiver: mpsc::Receiver<u32>) {
    while let Some(number) = receiver.recv().await {
        black_box(number);
    }
}

fn channel_bare() -> f64 {
    channel(|receiver| Box::pin(receive(receiver)))
}

fn channel_in_job() -> f64 {
    channel(|receiver| Box::pin(async { drop(asyncjob::in_job(receive(receiver)).await) }))
}

fn task() -> f64 {
    on_tokio(|| Box::pin(Turns(POLLS)))
}

fn task_in_job() -> f64 {
    on_tokio(|| Box::pin(async { drop(asyncjob_tokio::job(|| await_future(Turns(POLLS))).await) }))
}

fn on_tokio(make: fn() -> Boxed) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        spawn_local(poll_fn(|_| Poll::Ready(()))).await.expect("no panic"); // pays for what only the first task costs
        let start = Instant::now();
        spawn_local(make()).await.expect("no panic");
        nanoseconds(start)
    })
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    type Measured = fn() -> f64;
    let rows: [(&str, Measured, Measured); 3] = [
        ("bare", bare, bare_in_job),
        ("channel", channel_bare, channel_in_job),
        ("task", task, task_in_job),
    ];
    println!("| future  | without a job, ns | in a job, ns | added, ns | ratio | control |");
    println!("|---------|------------------:|-------------:|----------:|------:|--------:|");
    for (name, without, within) in rows {
        let mut times: [Vec<f64>; 3] = Default::default();
        for _ in 0..ROUNDS {
            for (measure, times) in [without, within, without].into_iter().zip(&mut times) {
                times.push(measure());
            }
        }
        let [without, within, control] = times.map(median);
        let (ratio, control) = (within / without, control / without);
        let added = within - without;
        println!("| {name:<7} | {without:>17.1} | {within:>12.1} | {added:>9.1} | {ratio:>5.2} | {control:>7.2} |");
    }
}
