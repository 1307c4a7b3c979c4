//! smol: the executor for one thread with the least around a task.

use std::time::Instant;

use smol::LocalExecutor;
use smol::future::block_on;

use super::kernel::{per_wake, rounds};
use crate::measure::Candidate;

/// Spawn to the output of an empty task, one after another.
pub(crate) fn spawn(name: &str) -> Candidate {
    spawn_many(name, 1)
}

/// As [`spawn`], with so many tasks at once. Measures the share of one task.
pub(crate) fn spawn_many(name: &str, batch: usize) -> Candidate {
    let executor = LocalExecutor::new();
    Candidate::new(name, move |n| {
        block_on(executor.run(async {
            let mut tasks = Vec::with_capacity(batch);
            let clock = Instant::now();
            for _ in 0..rounds(n, batch) {
                tasks.extend((0..batch).map(|_| executor.spawn(async {})));
                for task in tasks.drain(..) {
                    task.await;
                }
            }
            per_wake(clock.elapsed(), n, batch)
        }))
    })
}
