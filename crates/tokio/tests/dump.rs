//! Promise: `asyncjob::insight::dump` lists the jobs of tokio's threads, with what they wait for, and resumes none.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use asyncjob::insight::{DriverDump, DriverKind, dump};
use asyncjob::waiting::await_future;
use asyncjob_testing::Watchdog;
use asyncjob_tokio::{Workers, in_job, spawn_local};
use tokio::sync::Notify;
use tokio::task::LocalSet;

/// A limit that is not reached unless something is wrong.
const LONG: Duration = Duration::from_secs(30);

/// Dumps until this many jobs of the thread are there.
fn futures_of(thread: &str, jobs: usize) -> (DriverDump, Vec<Vec<String>>) {
    loop {
        let dump = dump(LONG);
        let found = dump.drivers.into_iter().find(|driver| driver.thread == thread);
        if let Some(driver) = found.filter(|driver| driver.jobs.len() == jobs) {
            return (driver, dump.stacks);
        }
        thread::yield_now();
    }
}

/// Asserts that each job is paused in `wait_here`, in the poll of the future that it awaits.
fn assert_parked(driver: &DriverDump, stacks: &[Vec<String>]) {
    assert!(driver.answered && driver.kind == DriverKind::Futures, "{driver:?}");
    for job in &driver.jobs {
        let stack = &stacks[job.stack.unwrap()];
        assert!(stack.iter().any(|frame| frame.contains("await_future")), "{stack:#?}");
        assert!(
            !stack.iter().any(|frame| frame.contains("tokio::runtime")),
            "frames of the runtime: {stack:#?}"
        );
    }
}

#[test]
fn the_jobs_of_a_local_set_are_listed() {
    let _watchdog = Watchdog::new();
    let go_on = Arc::new(Notify::new());
    let resumes = Arc::new(AtomicU32::new(0));
    let (inside, count) = (Arc::clone(&go_on), Arc::clone(&resumes));
    let runtime = thread::Builder::new().name("local set".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        LocalSet::new().block_on(&runtime, async {
            let spawn = || {
                let (inside, count) = (Arc::clone(&inside), Arc::clone(&count));
                spawn_local(move || {
                    await_future(inside.notified()).unwrap();
                    count.fetch_add(1, SeqCst);
                })
            };
            let jobs = [spawn(), spawn()];
            in_job(async move { inside.notified().await }).await.unwrap();
            for job in jobs {
                job.await.unwrap().unwrap();
            }
        });
    });
    for _ in 0..3 {
        let (driver, stacks) = futures_of("local set", 3);
        assert_parked(&driver, &stacks);
        assert_eq!(resumes.load(SeqCst), 0, "a look resumes no job");
    }
    (0..3).for_each(|_| go_on.notify_one());
    runtime.unwrap().join().unwrap();
    assert_eq!(resumes.load(SeqCst), 2);
}

#[test]
fn the_jobs_of_workers_are_listed_until_they_end() {
    let _watchdog = Watchdog::new();
    let workers = Workers::builder()
        .threads(1)
        .thread_name("tokio-workers")
        .build()
        .unwrap();
    let (started, has_started) = mpsc::channel();
    let job = workers.handle().spawn(move || {
        started.send(()).unwrap();
        await_future(std::future::pending::<()>()).unwrap_err();
    });
    has_started.recv().unwrap();
    let (driver, stacks) = futures_of("tokio-workers-0", 1);
    assert_parked(&driver, &stacks);
    drop(job);
    let (driver, _) = futures_of("tokio-workers-0", 0);
    assert!(driver.answered);
}
