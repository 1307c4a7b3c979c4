//! The block of a spawned job: its two sides, in every order.

use std::sync::Arc;
use std::task::{Context, Poll, Wake};

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use crate::closure::JobMain;
use crate::shared_closure::{SendClosure, Shared, share_send};
use crate::stand_ins::block_on;

/// What both sides share: nothing.
struct State;

impl Shared for State {
    type Error = &'static str;

    fn run<T>(&self, f: impl FnOnce() -> T, keep: impl FnOnce(Result<T, &'static str>)) {
        keep(Ok(f()));
    }

    fn failing(&self) {}
}

/// What a scheduler does with a job. It has a side of its own while the job runs.
fn run(main: SendClosure<State>) {
    let main = main.into_owned();
    let side = main.side().clone();
    main.call_main();
    drop(side);
}

#[test]
fn a_result_reaches_the_task_that_waits_for_it() {
    loom::model(|| {
        let (mut handle, main) = share_send(|| State, || Box::new(7));
        let other = thread::spawn(move || run(main));
        assert_eq!(block_on(|task| handle.poll_take(task)), Some(Ok(Box::new(7))));
        drop(handle); // perhaps before the side of the job is gone
        other.join().unwrap();
    });
}

/// The job's side has its waker while the handle goes.
#[test]
fn a_handle_may_go_at_any_time() {
    loom::model(|| {
        let (mut handle, main) = share_send(|| State, || Box::new(7));
        let other = thread::spawn(move || run(main));
        let waker = Arc::new(Wakes(AtomicUsize::new(0))).into();
        let _ = handle.poll_take(&mut Context::from_waker(&waker));
        drop(handle);
        other.join().unwrap();
    });
}

struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The handle is polled by one task and then by another one. The last of them is woken, or finds the result.
#[test]
fn the_task_that_polled_last_is_woken() {
    loom::model(|| {
        let (mut handle, main) = share_send(|| State, || Box::new(7));
        let other = thread::spawn(move || run(main));
        let first = Arc::new(Wakes(AtomicUsize::new(0))).into();
        if let Poll::Ready(taken) = handle.poll_take(&mut Context::from_waker(&first)) {
            assert_eq!(taken, Some(Ok(Box::new(7))));
        } else {
            assert_eq!(block_on(|task| handle.poll_take(task)), Some(Ok(Box::new(7))));
        }
        other.join().unwrap();
    });
}

/// A job that is quarantined: its stack keeps a side for ever.
#[test]
fn an_error_comes_although_a_side_stays() {
    loom::model(|| {
        let (mut handle, main) = share_send(|| State, || Box::new(7));
        let other = thread::spawn(move || {
            let main = main.into_owned();
            main.side().fail("quarantined");
            // The model must end without a leak: this side goes late.
            drop(main);
        });
        assert_eq!(block_on(|task| handle.poll_take(task)), Some(Err("quarantined")));
        assert_eq!(handle.try_take(), Some(None));
        drop(handle);
        other.join().unwrap();
    });
}

/// A job that never starts, and says nothing.
#[test]
fn a_side_may_go_without_a_result() {
    loom::model(|| {
        let (mut handle, main) = share_send(|| State, || Box::new(7));
        let other = thread::spawn(move || drop(main.into_owned()));
        assert!(handle.try_take().is_none());
        let waker = Arc::new(Wakes(AtomicUsize::new(0))).into();
        assert!(handle.poll_take(&mut Context::from_waker(&waker)).is_pending());
        drop(handle);
        other.join().unwrap();
    });
}
