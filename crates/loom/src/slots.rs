//! The slot for one value: its two sides, in every order.

use loom::thread;

use crate::stand_ins::block_on;
use crate::sync::{Closed, oneshot};

#[test]
fn a_value_reaches_the_task_that_waits_for_it() {
    loom::model(|| {
        let (sender, receiver) = oneshot();
        let other = thread::spawn(move || sender.send(7));
        let mut receiver = Box::pin(receiver);
        assert_eq!(block_on(|task| Future::poll(receiver.as_mut(), task)), Ok(7));
        other.join().unwrap();
    });
}

#[test]
fn a_sender_that_goes_ends_the_wait() {
    loom::model(|| {
        let (sender, receiver) = oneshot::<u32>();
        let other = thread::spawn(move || drop(sender));
        let mut receiver = Box::pin(receiver);
        assert_eq!(block_on(|task| Future::poll(receiver.as_mut(), task)), Err(Closed));
        other.join().unwrap();
    });
}

#[test]
fn a_receiver_may_go_at_any_time() {
    loom::model(|| {
        let (sender, receiver) = oneshot();
        let other = thread::spawn(move || sender.send(7));
        drop(receiver);
        other.join().unwrap();
    });
}
