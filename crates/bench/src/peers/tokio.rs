//! tokio: what most programs would use instead of a job, and what it asks them to be: asynchronous all the way down.

use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::task;

use crate::measure::Candidate;

/// A runtime on this thread alone, with fds.
pub(crate) fn current_thread() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime needs an epoll fd and an eventfd")
}

/// `yield_now` of the only task that is ready.
pub(crate) fn switch(name: &str) -> Candidate {
    let runtime = current_thread();
    Candidate::new(name, move |n| {
        runtime.block_on(async {
            task::spawn(async move {
                let clock = Instant::now();
                for _ in 0..n {
                    task::yield_now().await;
                }
                clock.elapsed()
            })
            .await
            .expect("it does not panic")
        })
    })
}

/// Spawn to join of an empty task, on the same thread.
pub(crate) fn spawn(name: &str) -> Candidate {
    let runtime = current_thread();
    Candidate::new(name, move |n| {
        runtime.block_on(async {
            let clock = Instant::now();
            for _ in 0..n {
                task::spawn(async {}).await.expect("it does not panic");
            }
            clock.elapsed()
        })
    })
}

/// The same for a blocking closure, on tokio's pool of threads: already started, and held to the same processor.
pub(crate) fn spawn_blocking(name: &str) -> Candidate {
    let runtime = current_thread();
    Candidate::new(name, move |n| runtime.block_on(blocking(n)))
}

async fn blocking(n: u64) -> Duration {
    let clock = Instant::now();
    for _ in 0..n {
        task::spawn_blocking(|| ()).await.expect("it does not panic");
    }
    clock.elapsed()
}
