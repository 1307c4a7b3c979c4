//! Promise: a handle cancels its job when it is dropped. `detach` lets the job continue without a handle.

mod by_hand;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use asyncjob::scheduler::{self, JoinError, Scheduler, Workers};
use asyncjob::time::{with_timeout, yield_now};
use asyncjob::waiting::await_future;
use asyncjob::{PauseError, Status, block_pause, current_job, pause_job};
use asyncjob_testing::Watchdog;

/// Waits for a callback that never comes. Returns the error that ended the wait.
fn wait_for_ever() -> PauseError {
    current_job().unwrap().wait_ctx().set_status(Status::Ok);
    loop {
        if let Err(error) = pause_job() {
            return error;
        }
    }
}

#[test]
fn a_dropped_handle_cancels_a_paused_job() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let ended = Rc::new(Cell::new(None));
    let inside = Rc::clone(&ended);
    let job = scheduler.spawn(move || inside.set(Some(wait_for_ever()))).unwrap();
    scheduler.turn(Some(Duration::ZERO)).unwrap();
    drop(job);
    scheduler.run().unwrap();
    assert_eq!(ended.get(), Some(PauseError::Cancelled));
}

#[test]
fn a_dropped_handle_cancels_a_job_that_has_not_started() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let ran = Rc::new(Cell::new(false));
    let inside = Rc::clone(&ran);
    drop(scheduler.spawn(move || inside.set(true)).unwrap());
    scheduler.run().unwrap();
    assert!(!ran.get());
    assert_eq!((scheduler.stats().ended, scheduler.stats().cancelled), (1, 1));
}

#[test]
fn a_detached_job_continues() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let ran = Rc::new(Cell::new(false));
    let inside = Rc::clone(&ran);
    let job = scheduler.spawn(move || {
        yield_now().unwrap();
        inside.set(true);
    });
    job.unwrap().detach();
    scheduler.run().unwrap();
    assert!(ran.get());
    assert_eq!(scheduler.stats().cancelled, 0);
}

#[test]
fn dropping_the_handle_of_a_job_that_has_ended_cancels_nothing() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let job = scheduler.spawn(|| 1).unwrap();
    scheduler.run().unwrap();
    drop(job);
    scheduler.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!(scheduler.stats().cancelled, 0);
}

/// An interrupted join drops its handle, and so cancels the job that it waited for.
#[test]
fn a_join_that_times_out_cancels_its_job() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let job = scheduler.spawn(|| {
        let slow = scheduler::spawn(wait_for_ever).unwrap();
        with_timeout(Duration::from_millis(1), || slow.join())
    });
    let joined = scheduler.run_until(job.unwrap()).unwrap();
    assert!(matches!(joined, Err(JoinError::Interrupted(_))), "{joined:?}");
    scheduler.run().unwrap();
    assert_eq!(scheduler.stats().cancelled, 1);
}

/// A handle that is awaited by reference stays, and so does its job.
#[test]
fn a_wait_by_reference_keeps_the_job() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let (sender, go) = mpsc::channel::<()>();
    let job = scheduler.spawn(move || {
        let slow = scheduler::spawn(move || {
            while go.try_recv().is_err() {
                yield_now().unwrap();
            }
            5
        });
        let mut slow = slow.unwrap();
        let first = with_timeout(Duration::from_millis(1), || await_future(&mut slow));
        assert!(first.is_err());
        sender.send(()).unwrap();
        slow.join().unwrap()
    });
    assert_eq!(scheduler.run_until(job.unwrap()).unwrap(), 5);
}

/// A join that would block the only thread that can run the job panics with an explanation.
#[test]
fn a_join_that_could_never_end_is_refused() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let first = scheduler.spawn(|| yield_now().is_ok()).unwrap();
    let second = scheduler.spawn(move || {
        let _lock_is_held = block_pause();
        first.join().is_ok()
    });
    let error = scheduler.run_until(second.unwrap()).unwrap_err();
    assert!(
        error.to_string().contains("drop the block_pause guard first"),
        "{error}"
    );
}

/// The same holds on a worker, when the other job has started on the thread of the job that waits.
#[test]
fn a_join_on_a_workers_own_thread_is_refused() {
    let _watchdog = Watchdog::new();
    let workers = Workers::new(1).unwrap();
    let handle = workers.handle();
    let job = workers.handle().spawn(move || {
        let other = handle.spawn(wait_for_ever).unwrap();
        yield_now().unwrap(); // the other job starts
        let _lock_is_held = block_pause();
        other.join().is_ok()
    });
    let error = job.unwrap().join().unwrap_err();
    assert!(
        error.to_string().contains("drop the block_pause guard first"),
        "{error}"
    );
}

/// A thread that runs no scheduler may block in a join.
#[test]
fn a_thread_may_block_in_join() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let job = scheduler.spawn(|| 3).unwrap();
    let joiner = thread::spawn(move || job.join().unwrap());
    scheduler.run().unwrap();
    assert_eq!(joiner.join().unwrap(), 3);
}
