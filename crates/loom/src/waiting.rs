//! The wake of a thread that blocks.

use std::sync::Arc;
use std::task::Waker;

use loom::model::Builder;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

#[path = "../../../src/waiting/unpark.rs"]
mod unpark;

use unpark::Unpark;

use crate::stand_ins::block_on;

/// The thread looks and parks in turns, as `pause_until` does outside a job.
fn wait_for(unpark: &Unpark, is_there: impl Fn() -> bool) {
    while !is_there() {
        unpark.park(None);
    }
}

/// Two threads announce something each. loom fails a model in which every thread sleeps. (They are not joined: loom
/// takes an unpark of a thread that joins for the end of what it joins.)
#[test]
fn no_wake_is_slept_on() {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(|| {
        let unpark = Arc::new(Unpark::of_this_thread());
        let announced = loom::sync::Arc::new(AtomicUsize::new(0));
        for _ in 0..2 {
            let (announced, waker) = (announced.clone(), Waker::from(unpark.clone()));
            thread::spawn(move || {
                announced.fetch_add(1, Ordering::Relaxed); // the wake makes it visible
                waker.wake();
            });
        }
        wait_for(&unpark, || announced.load(Ordering::Relaxed) == 2);
    });
}

/// Other code of the thread parks in between, a poll that blocks for instance, and takes the token of the wake.
#[test]
fn a_wake_is_for_the_wait_that_it_is_for() {
    loom::model(|| {
        let unpark = Arc::new(Unpark::of_this_thread());
        let announced = loom::sync::Arc::new(AtomicUsize::new(0));
        let (sender, receiver) = crate::sync::oneshot();
        let (announces, waker) = (announced.clone(), Waker::from(unpark.clone()));
        thread::spawn(move || {
            announces.store(1, Ordering::Relaxed);
            waker.wake();
            sender.send(());
        });
        let mut receiver = Box::pin(receiver);
        block_on(|task| Future::poll(receiver.as_mut(), task)).unwrap();
        unpark.park(None); // the token may be gone, and the wake is kept
        assert_eq!(announced.load(Ordering::Relaxed), 1);
    });
}
