//! Promise: several schedulers on several threads behind one handle: a job that has not started goes to whichever worker
//! is free, a job that has started stays where it is.

use std::collections::HashSet;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread::{self, ThreadId};

use asyncjob::scheduler::{JoinError, Scheduler, Workers};
use asyncjob::waiting::await_or_block;
use asyncjob::{JobBuilder, SpawnErrorKind, Status, current_job, pause_job};

/// Four jobs that can only end together, on four workers: each worker runs one.
#[test]
fn jobs_run_at_the_same_time() {
    let workers = Workers::new(4).unwrap();
    assert_eq!(workers.thread_count(), 4);
    let all = Arc::new(Barrier::new(4));
    let jobs: Vec<_> = (0..4)
        .map(|_| {
            let all = all.clone();
            let job = workers.handle().spawn(move || {
                all.wait(); // blocks the thread, on purpose
                thread::current().id()
            });
            job.unwrap()
        })
        .collect();
    let threads: HashSet<ThreadId> = jobs.into_iter().map(|job| job.join().unwrap()).collect();
    assert_eq!(threads.len(), 4);
    assert!(!threads.contains(&thread::current().id()));
}

/// A worker that is busy keeps nobody waiting: the others run what was queued behind it.
#[test]
fn a_busy_worker_keeps_nobody_waiting() {
    let workers = Workers::new(2).unwrap();
    let (release, blocked) = mpsc::channel::<()>();
    let (sender, is_blocking) = mpsc::channel();
    let blocker = workers.handle().spawn(move || {
        sender.send(()).unwrap();
        blocked.recv().unwrap_err();
    });
    is_blocking.recv().unwrap();
    let jobs: Vec<_> = (0..100).map(|n| workers.handle().spawn(move || n).unwrap()).collect();
    let sum: i32 = jobs.into_iter().map(|job| job.join().unwrap()).sum();
    assert_eq!(sum, 4950);
    drop(release);
    blocker.unwrap().join().unwrap();
}

/// A started job is resumed on its own thread each time, also when another thread wakes it.
#[test]
fn a_started_job_stays() {
    let workers = Workers::new(3).unwrap();
    let jobs: Vec<_> = (0..30)
        .map(|_| {
            let job = workers.handle().spawn(|| {
                let home = thread::current().id();
                let ctx = current_job().unwrap().wait_ctx().clone();
                ctx.set_status(Status::Ok);
                (0..20).all(|_| {
                    let callback = ctx.callback().unwrap();
                    let engine = thread::spawn(move || callback.wake());
                    pause_job().unwrap();
                    engine.join().unwrap();
                    thread::current().id() == home
                })
            });
            job.unwrap()
        })
        .collect();
    assert!(jobs.into_iter().all(|job| job.join().unwrap()));
}

/// Ten thousand jobs from four threads: each runs once.
#[test]
fn every_job_runs_once() {
    let workers = Workers::new(2).unwrap();
    let runs = Arc::new(AtomicU32::new(0));
    let spawners: Vec<_> = (0..4)
        .map(|_| {
            let (handle, runs) = (workers.handle(), runs.clone());
            thread::spawn(move || {
                for _ in 0..2500 {
                    let runs = runs.clone();
                    let job = handle.spawn(move || {
                        if runs.fetch_add(1, Ordering::Relaxed) % 7 == 0 {
                            pause_job().unwrap();
                        }
                    });
                    job.unwrap().detach();
                }
            })
        })
        .collect();
    for spawner in spawners {
        spawner.join().unwrap();
    }
    let report = workers.shutdown(std::time::Duration::from_secs(60));
    assert_eq!(
        (runs.load(Ordering::Relaxed), report.cancelled, report.quarantined),
        (10_000, 0, 0)
    );
}

/// Joined from a job of another worker.
#[test]
fn joined_across_workers() {
    let workers = Workers::new(2).unwrap();
    let handle = workers.handle();
    let sum = workers.handle().spawn(move || {
        let jobs: Vec<_> = (0..50).map(|n| handle.spawn(move || n).unwrap()).collect();
        jobs.into_iter().map(|job| job.join().unwrap()).sum::<i32>()
    });
    assert_eq!(sum.unwrap().join().unwrap(), 1225);
}

/// The bound counts the jobs of all workers together; waiting for room works across them.
#[test]
fn one_bound_for_all() {
    let workers = Workers::builder().max_jobs(4).threads(2).build().unwrap();
    let handle = workers.handle();
    let block = |_| {
        handle.spawn(|| {
            current_job().unwrap().wait_ctx().set_status(Status::Ok);
            while pause_job().is_ok() {}
        })
    };
    let jobs: Vec<_> = (0..4).map(block).map(Result::unwrap).collect();
    let refused = handle.spawn(|| ()).unwrap_err();
    assert_eq!(refused.kind(), &SpawnErrorKind::Full { max_jobs: 4 });
    jobs.iter().for_each(|job| job.request_cancel());
    await_or_block(handle.capacity()).unwrap();
    for job in jobs {
        assert!(matches!(job.join(), Err(JoinError::Cancelled)));
    }
    handle.spawn(|| ()).unwrap().join().unwrap();
}

/// A panic in a job, and in a call on each scheduler, harms no worker.
#[test]
fn panics_harm_no_worker() {
    let workers = Workers::new(2).unwrap();
    for _ in 0..100 {
        let job = workers.handle().spawn(|| -> () { resume_unwind(Box::new("job")) });
        assert!(matches!(job.unwrap().join(), Err(JoinError::Panicked(_))));
    }
    let results = workers.broadcast(|_| -> () { resume_unwind(Box::new("a call")) });
    assert_eq!(results.unwrap(), [], "a call that panics has no result");
    let ended = workers.broadcast(|scheduler| scheduler.stats().ended).unwrap();
    assert_eq!(ended.into_iter().sum::<u64>(), 100);
}

/// A name is seen where the jobs are listed.
#[test]
fn named_jobs_are_listed() {
    let workers = Workers::new(2).unwrap();
    let job = JobBuilder::new().name("connection 3").submit_to(&workers.handle(), || {
        current_job().unwrap().wait_ctx().set_status(Status::Ok);
        while pause_job().is_ok() {}
    });
    let names = || {
        workers
            .broadcast(Scheduler::jobs)
            .unwrap()
            .into_iter()
            .flatten()
            .filter_map(|job| job.name)
    };
    while names().count() == 0 {
        thread::yield_now();
    }
    assert_eq!(names().collect::<Vec<_>>(), ["connection 3"]);
    job.unwrap().request_cancel();
}

/// Zero workers are an error that says so.
#[test]
fn no_threads_are_no_workers() {
    let error = Workers::new(0).err().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert_eq!(error.to_string(), "workers need at least one thread");
}
