//! Promise: a scheduler that shuts down takes no more jobs, lets those that are there end, cancels what is left, and
//! says what became of each; whoever holds a handle is never left waiting.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use asyncjob::pool;
use asyncjob::scheduler::{JoinError, Scheduler, Workers};
use asyncjob::waiting::await_or_block;
use asyncjob::{SpawnErrorKind, Status, current_job, pause_job};
use asyncjob_testing::Watchdog;

fn wait_for_ever() {
    current_job().unwrap().wait_ctx().set_status(Status::Ok);
    while pause_job().is_ok() {}
}

fn stubborn() {
    current_job().unwrap().wait_ctx().set_status(Status::Ok);
    loop {
        let _ = pause_job();
    }
}

/// Some end by themselves, some are cancelled, one does not end: the report tells them apart.
#[test]
fn the_report_tells_what_became_of_the_jobs() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let pausing: fn() = || (0..5).for_each(|_| assert!(pause_job().is_ok()));
    let jobs = [pausing, pausing, pausing, wait_for_ever, wait_for_ever, stubborn];
    let handles = jobs.map(|job| scheduler.spawn(job).unwrap());
    let report = scheduler.shutdown(Duration::from_millis(500)).unwrap();
    assert_eq!((report.finished, report.cancelled, report.quarantined), (3, 2, 1));
    assert_eq!((scheduler.live_jobs(), pool::stats().in_use), (0, 1));
    let ends: Vec<_> = handles.into_iter().map(|handle| handle.join()).collect();
    assert!(ends[..3].iter().all(Result::is_ok));
    assert!(ends[3..5].iter().all(|end| matches!(end, Err(JoinError::Cancelled))));
    assert!(matches!(ends[5], Err(JoinError::Quarantined)));
}

/// With nothing left it returns at once, however long it might wait; also for ever.
#[test]
fn it_returns_when_the_last_job_has_ended() {
    let _watchdog = Watchdog::new();
    for within in [Duration::from_secs(3600), Duration::MAX] {
        let scheduler = Scheduler::new().unwrap();
        scheduler.spawn(|| pause_job().unwrap()).unwrap().detach();
        let report = scheduler.shutdown(within).unwrap();
        assert_eq!((report.finished, report.cancelled), (1, 0));
        assert_eq!(Workers::new(2).unwrap().shutdown(within).finished, 0);
    }
}

/// No more jobs are taken, from this thread, from others, or from jobs, while those that are there go on; the closure
/// comes back.
#[test]
fn no_more_jobs_are_taken() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let handle = scheduler.handle();
    let inside = handle.clone();
    let job = scheduler.spawn(move || {
        while inside.spawn(|| ()).is_ok() {
            pause_job().unwrap();
        }
        "shutting down"
    });
    let report = scheduler.shutdown(Duration::from_secs(60)).unwrap();
    assert_eq!(job.unwrap().join().unwrap(), "shutting down");
    assert!(report.finished >= 1);
    let refused = scheduler.spawn(|| 4).unwrap_err();
    assert_eq!(refused.kind(), &SpawnErrorKind::ShuttingDown);
    assert_eq!(refused.into_closure()(), 4);
    drop(scheduler);
    let refused = thread::spawn(move || handle.spawn(|| 5).unwrap_err().into_closure()());
    assert_eq!(refused.join().unwrap(), 5);
}

/// Jobs that never started are cancelled without being run.
#[test]
fn jobs_that_never_started_are_not_run() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let local = scheduler.spawn(|| unreachable!("it was cancelled")).unwrap();
    let remote = scheduler.handle().spawn(|| unreachable!("it was cancelled")).unwrap();
    let report = scheduler.shutdown(Duration::ZERO).unwrap();
    assert_eq!((report.finished, report.cancelled), (0, 2));
    let ends: [Result<(), _>; 2] = [local.join(), remote.join()];
    assert!(ends.iter().all(|end| matches!(end, Err(JoinError::Cancelled))));
}

/// Dropping a scheduler cancels what is left, and a thread that waits for a job of it hears of that.
#[test]
fn dropping_it_cancels() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let job = scheduler.spawn(wait_for_ever).unwrap();
    scheduler.turn(Some(Duration::ZERO)).unwrap();
    let joiner = thread::spawn(move || job.join());
    drop(scheduler);
    assert!(matches!(joiner.join().unwrap(), Err(JoinError::Cancelled)));
    assert_eq!(pool::stats().in_use, 0);
}

/// A job that waits for another job is cancelled with it, whichever comes first.
#[test]
fn jobs_that_wait_for_each_other() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let target = scheduler.spawn(wait_for_ever).unwrap();
    let joiner = scheduler.spawn(move || target.join()).unwrap();
    scheduler.turn(Some(Duration::ZERO)).unwrap();
    let report = scheduler.shutdown(Duration::ZERO).unwrap();
    assert_eq!((report.finished, report.cancelled, report.quarantined), (0, 2, 0));
    assert!(matches!(joiner.join(), Err(JoinError::Cancelled)));
}

/// Threads that spawn while the scheduler goes away: whatever the order, each handle gives an answer. A job that was
/// admitted before the scheduler closed and queued after it was gone had nobody to end it.
#[test]
fn spawning_while_the_scheduler_goes_away() {
    let _watchdog = Watchdog::new();
    for round in 0..300 {
        let scheduler = Scheduler::new().unwrap();
        let start = Arc::new(Barrier::new(4));
        let spawners: Vec<_> = (0..3)
            .map(|_| {
                let (handle, start) = (scheduler.handle(), start.clone());
                thread::spawn(move || {
                    start.wait();
                    std::iter::from_fn(|| handle.spawn(|| 1).ok())
                        .take(300)
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        start.wait();
        for _ in 0..round % 3 {
            scheduler.turn(Some(Duration::ZERO)).unwrap();
        }
        drop(scheduler);
        for spawner in spawners {
            for job in spawner.join().unwrap() {
                match job.join() {
                    Ok(value) => assert_eq!(value, 1),
                    Err(error) => assert!(matches!(error, JoinError::Cancelled), "{error}"),
                }
            }
        }
    }
}

/// Whoever waits for room when the scheduler shuts down is told, and then refused.
#[test]
fn waiting_for_room_of_a_scheduler_that_goes_away() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::builder().max_jobs(1).build().unwrap();
    let _job = scheduler.spawn(wait_for_ever).unwrap();
    let handle = scheduler.handle();
    let waiter = thread::spawn(move || {
        await_or_block(handle.capacity()).unwrap();
        handle.spawn(|| ()).unwrap_err().kind() == &SpawnErrorKind::ShuttingDown
    });
    let _ = scheduler.shutdown(Duration::ZERO).unwrap();
    drop(scheduler);
    assert!(waiter.join().unwrap());
}

/// The jobs that end by themselves are waited for no longer than asked, and at least until the deadline.
#[test]
fn the_deadline_is_the_deadline() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    scheduler.spawn(wait_for_ever).unwrap().detach();
    let deadline = Instant::now() + Duration::from_millis(10);
    let report = scheduler.shutdown(Duration::from_millis(10)).unwrap();
    assert!(Instant::now() >= deadline);
    assert_eq!(report.cancelled, 1);
}

/// A shutdown of workers reports the sum, and every thread ends.
#[test]
fn workers_report_the_sum() {
    let _watchdog = Watchdog::new();
    let workers = Workers::new(3).unwrap();
    let running = Arc::new(AtomicBool::new(true));
    let handles: Vec<_> = (0..30)
        .map(|n| {
            let running = running.clone();
            workers.handle().spawn(move || {
                if n % 3 == 0 {
                    wait_for_ever();
                } else {
                    while running.load(Ordering::Relaxed) && pause_job().is_ok() {}
                }
                n
            })
        })
        .map(Result::unwrap)
        .collect();
    let started = || workers.broadcast(|scheduler| scheduler.jobs().len()).unwrap();
    while started().into_iter().sum::<usize>() < 30 {
        thread::yield_now();
    }
    running.store(false, Ordering::Relaxed);
    while workers.handle().live_jobs() > 10 {
        thread::yield_now();
    }
    let report = workers.shutdown(Duration::ZERO);
    assert_eq!((report.finished, report.cancelled, report.quarantined), (0, 10, 0));
    let ends = handles
        .into_iter()
        .map(|handle| handle.join().is_ok())
        .filter(|&ok| ok)
        .count();
    assert_eq!(ends, 20);
}
