//! The line of closures without threads, which a test can stop at any place.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};
use std::thread;

use asyncjob_testing::Watchdog;

use super::error::TryRunError;
use super::queue::{Admission, ClosureQueue};
use super::run_future::RunFuture;
use crate::sys::Process;

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// A hundred thousand jobs line up. The newest half is cancelled, newest first, and of the rest every other one, oldest
/// first.
#[test]
fn a_hundred_thousand_closures_line_up_leave_and_run() {
    const COUNT: usize = if cfg!(miri) { 100 } else { 100_000 };
    let _watchdog = Watchdog::new();
    let shared = ClosureQueue::new(1, Process::current().unwrap());
    let ran = Arc::new(AtomicUsize::new(0));
    let mut line: Vec<_> = (0..COUNT)
        .map(|_| {
            let ran = Arc::clone(&ran);
            RunFuture::new(&shared, move || ran.fetch_add(1, SeqCst), Admission::Waits)
        })
        .collect();
    assert!(line.iter_mut().all(|run| poll(run).is_pending()));
    let waiting = |shared: &ClosureQueue| shared.stats().waiting_for_capacity;
    assert_eq!((shared.stats().queued, waiting(&shared)), (1, COUNT - 1));
    while line.len() > COUNT / 2 {
        line.pop();
    }
    assert_eq!(waiting(&shared), COUNT / 2 - 1);
    let mut number = 0;
    line.retain(|_| {
        number += 1;
        number % 2 == 0
    });
    assert_eq!(waiting(&shared), COUNT / 4 - 1);
    thread::scope(|scope| {
        scope.spawn(|| shared.work());
        while shared.stats().finished < (COUNT / 4) as u64 {
            thread::yield_now();
        }
        shared.close();
    });
    for (n, run) in line.iter_mut().enumerate() {
        assert!(
            matches!(poll(run), Poll::Ready(Ok(turn)) if turn == n),
            "in the order of the calls"
        );
    }
}

/// A closure is sent by the first poll, and once.
#[test]
fn the_first_poll_sends_the_closure() {
    let shared = ClosureQueue::new(1, Process::current().unwrap());
    let mut run = RunFuture::new(&shared, || (), Admission::Waits);
    assert_eq!(shared.stats().queued, 0);
    assert!(poll(&mut run).is_pending() && poll(&mut run).is_pending());
    assert_eq!(shared.stats().queued, 1);
}

/// The queue refuses by its bound, wherever its closures came from, and has a place again when one leaves.
#[test]
fn the_bound_holds_for_closures_that_can_be_refused() {
    let shared = ClosureQueue::new(2, Process::current().unwrap());
    let admissions = [
        Admission::Waits,
        Admission::IsRefused,
        Admission::IsRefused,
        Admission::Waits,
    ];
    let mut runs = admissions.map(|admission| RunFuture::new(&shared, || (), admission));
    let [first, second, third, fourth] = &mut runs;
    assert!(poll(first).is_pending() && poll(second).is_pending());
    assert!(matches!(poll(third), Poll::Ready(Err(TryRunError::Full(_)))));
    assert!(poll(fourth).is_pending());
    assert_eq!((shared.stats().queued, shared.stats().waiting_for_capacity), (2, 1));
    let [first, second, ..] = runs;
    drop((first, second));
    let mut again = RunFuture::new(&shared, || (), Admission::IsRefused);
    assert!(poll(&mut again).is_pending());
}
