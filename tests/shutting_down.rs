//! Promise: a scheduler that shuts down takes no more jobs, lets the live jobs end, cancels the rest at the deadline,
//! and reports the end of each job. A thread that joins a job always gets an answer.

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

/// The report tells jobs that ended by themselves from jobs that were cancelled and from a job that does not end.
#[test]
fn the_report_counts_each_kind_of_end() {
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

/// A shutdown returns as soon as the last job has ended, however long it may wait.
#[test]
fn a_shutdown_returns_when_the_last_job_has_ended() {
    let _watchdog = Watchdog::new();
    for within in [Duration::from_secs(3600), Duration::MAX] {
        let scheduler = Scheduler::new().unwrap();
        scheduler.spawn(|| pause_job().unwrap()).unwrap().detach();
        let report = scheduler.shutdown(within).unwrap();
        assert_eq!((report.finished, report.cancelled), (1, 0));
        assert_eq!(Workers::new(2).unwrap().shutdown(within).finished, 0);
    }
}

/// A scheduler that shuts down refuses new jobs from this thread, from other threads and from its jobs, while the live
/// jobs continue. The closure comes back.
#[test]
fn a_shutdown_refuses_new_jobs() {
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

/// A job that has not started is cancelled without a run.
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

/// Dropping a scheduler cancels its jobs, and a thread that joins one of them gets the answer.
#[test]
fn dropping_a_scheduler_cancels_its_jobs() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let job = scheduler.spawn(wait_for_ever).unwrap();
    scheduler.turn(Some(Duration::ZERO)).unwrap();
    let joiner = thread::spawn(move || job.join());
    drop(scheduler);
    assert!(matches!(joiner.join().unwrap(), Err(JoinError::Cancelled)));
    assert_eq!(pool::stats().in_use, 0);
}

/// A job that joins another job is cancelled together with it, whichever of the two is first.
#[test]
fn a_job_and_its_joiner_are_cancelled_together() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let target = scheduler.spawn(wait_for_ever).unwrap();
    let joiner = scheduler.spawn(move || target.join()).unwrap();
    scheduler.turn(Some(Duration::ZERO)).unwrap();
    let report = scheduler.shutdown(Duration::ZERO).unwrap();
    assert_eq!((report.finished, report.cancelled, report.quarantined), (0, 2, 0));
    assert!(matches!(joiner.join(), Err(JoinError::Cancelled)));
}

/// Threads spawn jobs while the scheduler is dropped. In every order of events each handle gets an answer. In an
/// earlier version, a job that was admitted before the scheduler closed and queued after it was dropped never ended.
#[test]
fn every_handle_gets_an_answer_while_the_scheduler_is_dropped() {
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

/// A thread that waits for capacity while the scheduler shuts down is woken, and its spawn is refused.
#[test]
fn a_shutdown_wakes_a_thread_that_waits_for_capacity() {
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

/// A shutdown waits for its jobs until the deadline, and not longer.
#[test]
fn a_shutdown_waits_until_its_deadline() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    scheduler.spawn(wait_for_ever).unwrap().detach();
    let deadline = Instant::now() + Duration::from_millis(10);
    let report = scheduler.shutdown(Duration::from_millis(10)).unwrap();
    assert!(Instant::now() >= deadline);
    assert_eq!(report.cancelled, 1);
}

/// A shutdown of workers reports the sum of all threads, and every thread ends.
#[test]
fn workers_report_the_sum_of_their_threads() {
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

/// A job that its handle has cancelled is no job that finished by itself, whether the shutdown ends it or a turn
/// before.
#[test]
fn the_report_tells_who_cancelled_a_job() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let jobs = [(); 3].map(|()| scheduler.spawn(wait_for_ever).unwrap());
    scheduler.turn(Some(Duration::ZERO)).unwrap();
    jobs[0].request_cancel();
    jobs[1].request_cancel();
    let report = scheduler.shutdown(Duration::from_millis(100)).unwrap();
    assert_eq!((report.finished, report.cancelled_before, report.cancelled), (0, 2, 1));
}
