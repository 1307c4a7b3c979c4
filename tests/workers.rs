//! Promise: `Workers` runs a scheduler on each of several threads behind one handle. A free worker takes a job that has
//! not started. A job that has started stays on its thread.

use std::collections::HashSet;
use std::future::Future;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::task::Context;
use std::thread::{self, ThreadId};

use asyncjob::pool::{self, PoolConfig};
use asyncjob::scheduler::{JoinError, Scheduler, Workers};
use asyncjob::waiting::await_or_block;
use asyncjob::{JobBuilder, SpawnErrorKind, Status, block_pause, current_job, pause_job, waker_fn};
use asyncjob_testing::Watchdog;

/// Four jobs that can only end together run on four workers. So each worker runs one of them.
#[test]
fn jobs_run_at_the_same_time() {
    let _watchdog = Watchdog::new();
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

/// A busy worker delays no job, because the other workers take the jobs that are queued.
#[test]
fn a_busy_worker_delays_no_job() {
    let _watchdog = Watchdog::new();
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

/// A job that has started is resumed on its own thread each time, also when another thread wakes it.
#[test]
fn a_started_job_stays_on_its_thread() {
    let _watchdog = Watchdog::new();
    let workers = Workers::new(3).unwrap();
    let jobs: Vec<_> = (0..30)
        .map(|_| {
            let job = workers.handle().spawn(|| {
                let own_thread = thread::current().id();
                let ctx = current_job().unwrap().wait_ctx().clone();
                ctx.set_status(Status::Ok);
                (0..20).all(|_| {
                    let callback = ctx.callback().unwrap();
                    let engine = thread::spawn(move || callback.wake());
                    pause_job().unwrap();
                    engine.join().unwrap();
                    thread::current().id() == own_thread
                })
            });
            job.unwrap()
        })
        .collect();
    assert!(jobs.into_iter().all(|job| job.join().unwrap()));
}

/// Four threads spawn ten thousand jobs, and each job runs once.
#[test]
fn every_job_runs_once() {
    let _watchdog = Watchdog::new();
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

/// A job on one worker may join jobs on other workers.
#[test]
fn a_job_may_join_jobs_of_other_workers() {
    let _watchdog = Watchdog::new();
    let workers = Workers::new(2).unwrap();
    let handle = workers.handle();
    let sum = workers.handle().spawn(move || {
        let jobs: Vec<_> = (0..50).map(|n| handle.spawn(move || n).unwrap()).collect();
        jobs.into_iter().map(|job| job.join().unwrap()).sum::<i32>()
    });
    assert_eq!(sum.unwrap().join().unwrap(), 1225);
}

/// `max_jobs` is a bound on the jobs of all workers together, and so is the wait for capacity.
#[test]
fn all_workers_share_one_bound() {
    let _watchdog = Watchdog::new();
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

/// A panic in a job, and a panic in a call of `broadcast`, harms no worker.
#[test]
fn panics_harm_no_worker() {
    let _watchdog = Watchdog::new();
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

/// The list of jobs shows their names.
#[test]
fn named_jobs_are_listed() {
    let _watchdog = Watchdog::new();
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

/// Zero threads are an error.
#[test]
fn zero_threads_are_an_error() {
    let _watchdog = Watchdog::new();
    let error = Workers::new(0).err().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert!(
        error.to_string().starts_with("workers need at least one thread"),
        "{error}"
    );
}

/// `broadcast` inside a job pauses the job, so that the job's own worker can make the call.
#[test]
fn broadcast_works_inside_a_job() {
    let _watchdog = Watchdog::new();
    let workers = Arc::new(Workers::new(2).unwrap());
    let jobs: Vec<_> = (0..8)
        .map(|_| {
            let inside = Arc::clone(&workers);
            let job = workers
                .handle()
                .spawn(move || inside.broadcast(|_| thread::current().id()).unwrap());
            job.unwrap()
        })
        .collect();
    for job in jobs {
        let threads: HashSet<_> = job.join().unwrap().into_iter().collect();
        assert_eq!(threads.len(), 2);
    }
}

/// Two jobs that may not pause could wait for each other's workers for ever. So `broadcast` in such a job panics with
/// an explanation.
#[test]
fn broadcast_in_a_job_that_may_not_pause_panics() {
    let _watchdog = Watchdog::new();
    let workers = Arc::new(Workers::new(1).unwrap());
    let inside = Arc::clone(&workers);
    let job = workers.handle().spawn(move || {
        let _lock_is_held = block_pause();
        inside.broadcast(|_| ()).is_ok()
    });
    let error = job.unwrap().join().unwrap_err();
    assert!(
        error.to_string().contains("drop the block_pause guard first"),
        "{error}"
    );
}

/// The last `Workers` is dropped in one of its own jobs. The drop joins the other threads, and this thread ends by
/// itself.
#[test]
fn workers_may_be_dropped_inside_their_own_job() {
    let _watchdog = Watchdog::new();
    for threads in [1, 3] {
        let workers = Arc::new(Workers::new(threads).unwrap());
        let handle = workers.handle();
        let (release, released) = mpsc::channel::<()>();
        let inside = Arc::clone(&workers);
        let (sender, ended) = mpsc::channel();
        let job = handle.spawn(move || {
            released.recv().unwrap_err(); // the test has dropped its `Workers`
            drop(inside);
            sender.send(thread::current().id()).unwrap();
        });
        drop(workers);
        drop(release);
        ended.recv().unwrap();
        job.unwrap().join().unwrap();
        while handle.spawn(|| ()).is_ok() {
            thread::yield_now();
        }
    }
}

/// Each thread has the pool that the builder was given. A pool that cannot be set up is an error.
#[test]
fn each_thread_has_the_configured_pool() {
    let _watchdog = Watchdog::new();
    let pool = PoolConfig::new().limit(3).precreate(2);
    let workers = Workers::builder()
        .threads(2)
        .pool(pool)
        .thread_name("tls")
        .build()
        .unwrap();
    let seen = workers.broadcast(|_| (pool::stats(), thread::current().name().map(str::to_owned)));
    for (at, (stats, name)) in seen.unwrap().into_iter().enumerate() {
        assert_eq!((stats.idle, stats.limit), (2, Some(3)));
        assert_eq!(name, Some(format!("tls-{at}")));
    }
    let impossible = PoolConfig::new().limit(1).precreate(2);
    let error = Workers::builder().threads(2).pool(impossible).build().err().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert!(error.to_string().contains("raise the limit"), "{error}");
}

/// Each job that ends wakes one waiter for capacity, in the order of the waiters. A waiter that is dropped passes its
/// wake on. A waiter that is polled again and again counts once.
#[test]
fn capacity_is_first_come_first_served() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::builder().max_jobs(1).build().unwrap();
    let handle = scheduler.handle();
    let wakes: Vec<_> = (0..3).map(|_| Arc::new(AtomicU32::new(0))).collect();
    let wakers: Vec<_> = wakes
        .iter()
        .map(|wakes| {
            let wakes = Arc::clone(wakes);
            waker_fn(move || {
                wakes.fetch_add(1, Ordering::Relaxed);
            })
        })
        .collect();
    let counts = || {
        wakes
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .collect::<Vec<_>>()
    };
    let first = scheduler.spawn(|| ()).unwrap();
    let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(handle.capacity())).collect();
    for (future, waker) in waiting.iter_mut().zip(&wakers) {
        for _ in 0..1000 {
            assert!(future.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
        }
    }
    scheduler.run_until(first).unwrap();
    assert_eq!(counts(), [1, 0, 0]);
    drop(waiting.remove(0));
    assert_eq!(
        counts(),
        [1, 1, 0],
        "the first waiter was dropped, and its wake went to the second"
    );
    let mut second = waiting.remove(0);
    assert!(second.as_mut().poll(&mut Context::from_waker(&wakers[1])).is_ready());
    let next = scheduler.spawn(|| ()).unwrap();
    assert!(
        waiting[0]
            .as_mut()
            .poll(&mut Context::from_waker(&wakers[2]))
            .is_pending()
    );
    drop(second);
    scheduler.run_until(next).unwrap();
    assert_eq!(counts(), [1, 1, 1]);
}
