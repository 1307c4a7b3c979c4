//! The closures that wait for a thread.

use std::sync::Arc;

use loom::model::Builder;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

#[allow(dead_code, reason = "not all of it is run here")]
#[path = "../../../src/offload/queue.rs"]
mod queue;

use queue::{Admission, ClosureQueue};

use crate::stand_ins::{block_on, sys};
use crate::sync::Closed;

/// What the queue says of itself.
#[allow(dead_code, reason = "nothing asks here")]
pub(crate) struct OffloadStats {
    queued: usize,
    waiting_for_capacity: usize,
    running: usize,
    finished: u64,
}

fn queue() -> Arc<ClosureQueue> {
    Arc::new(ClosureQueue::new(1, sys::Process))
}

/// A thread of the pool. It ends when the queue is closed; loom fails a model in which it does not.
fn worker(queue: &Arc<ClosureQueue>) -> thread::JoinHandle<()> {
    let queue = Arc::clone(queue);
    thread::spawn(move || queue.work())
}

/// Sends a closure, and waits for its value.
fn send(queue: &ClosureQueue, runs: &loom::sync::Arc<AtomicUsize>) -> Option<Result<usize, Closed>> {
    let runs = runs.clone();
    let sent = queue
        .push(move || runs.fetch_add(1, Ordering::Relaxed), Admission::Waits)
        .ok()?;
    let mut value = Box::pin(sent.value);
    let value = block_on(|task| Future::poll(value.as_mut(), task));
    Some(value.map(|value| value.expect("the closure returns")))
}

fn model(threads: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(threads);
}

/// More closures than the queue has capacity for, from two threads, on one thread.
#[test]
fn each_closure_runs_once_and_its_value_comes_back() {
    model(|| {
        let (queue, runs) = (queue(), loom::sync::Arc::new(AtomicUsize::new(0)));
        let worker = worker(&queue);
        let other = {
            let (queue, runs) = (queue.clone(), runs.clone());
            thread::spawn(move || send(&queue, &runs))
        };
        let values = [send(&queue, &runs), other.join().unwrap()];
        queue.close();
        worker.join().unwrap();
        let values = values.map(|value| value.expect("the queue is open").expect("it was run"));
        assert!(values == [0, 1] || values == [1, 0], "{values:?}");
    });
}

/// Two threads, one closure: the notification reaches one that can take it.
#[test]
fn no_closure_waits_while_the_threads_sleep() {
    model(|| {
        let (queue, runs) = (queue(), loom::sync::Arc::new(AtomicUsize::new(0)));
        let workers = [worker(&queue), worker(&queue)];
        assert_eq!(send(&queue, &runs), Some(Ok(0)));
        queue.close();
        for worker in workers {
            worker.join().unwrap();
        }
    });
}

/// The caller of a closure that is in the line when the pool is shut down is told so, and the threads end.
#[test]
fn a_shutdown_leaves_nobody_waiting() {
    model(|| {
        let (queue, runs) = (queue(), loom::sync::Arc::new(AtomicUsize::new(0)));
        let worker = worker(&queue);
        let other = {
            let queue = queue.clone();
            thread::spawn(move || queue.close())
        };
        let expected = match send(&queue, &runs) {
            None | Some(Err(Closed)) => 0,
            Some(Ok(value)) => value + 1,
        };
        other.join().unwrap();
        worker.join().unwrap();
        assert_eq!(runs.load(Ordering::Relaxed), expected);
    });
}

/// The caller of a closure goes. The closure is run or dropped, and what it owns is dropped once.
#[test]
fn a_closure_whose_caller_goes_is_dropped_once() {
    struct Dropped(loom::sync::Arc<AtomicUsize>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    model(|| {
        let (queue, drops) = (queue(), loom::sync::Arc::new(AtomicUsize::new(0)));
        let worker = worker(&queue);
        let owned = Dropped(drops.clone());
        let Ok(sent) = queue.push(move || drop(owned), Admission::Waits) else {
            panic!("the queue is open")
        };
        queue.withdraw(sent.number);
        drop(sent);
        queue.close();
        worker.join().unwrap();
        assert_eq!(drops.load(Ordering::Relaxed), 1);
    });
}
