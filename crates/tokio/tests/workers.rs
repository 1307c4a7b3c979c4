//! Work that is sent to pinned threads runs there, ends there, and ends with them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread;

use asyncjob::pool::{PoolConfig, pool_stats};
use asyncjob::waiting::await_future;
use asyncjob_tokio::{PinnedError, Workers};
use asyncjob_testing::Watchdog;
use tokio::sync::Notify;

/// Counts itself as long as it is there.
struct Counted(Arc<AtomicU32>);

impl Counted {
    fn new(counter: &Arc<AtomicU32>) -> Self {
        counter.fetch_add(1, SeqCst);
        Counted(Arc::clone(counter))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

fn wait_until(condition: impl Fn() -> bool) {
    while !condition() {
        thread::yield_now();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

#[test]
fn a_job_stays_on_its_thread_and_the_handle_may_go_anywhere() {
    let _watchdog = Watchdog::new();
    let workers = Workers::new(2).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let handle = workers.handle();
            runtime.spawn(async move {
                let job = handle.spawn(|| {
                    let before = thread::current().id();
                    for _ in 0..10 {
                        await_future(tokio::task::yield_now()).unwrap();
                    }
                    (before, thread::current().id())
                });
                job.await.unwrap()
            })
        })
        .collect();
    for task in tasks {
        let (before, after) = runtime.block_on(task).unwrap();
        assert_eq!(before, after);
        assert_ne!(before, thread::current().id());
    }
    wait_until(|| workers.handle().tasks() == [0, 0]);
}

#[test]
fn work_goes_to_the_thread_with_the_fewest_tasks() {
    let _watchdog = Watchdog::new();
    let workers = Workers::new(3).unwrap();
    let handle = workers.handle();
    let go_on = Arc::new(Notify::new());
    let waiting: Vec<_> = (0..6)
        .map(|_| {
            let go_on = Arc::clone(&go_on);
            handle.spawn(move || await_future(go_on.notified()).ok())
        })
        .collect();
    assert_eq!(handle.tasks(), [2, 2, 2]);
    drop(waiting);
    wait_until(|| handle.tasks() == [0, 0, 0]);
}

#[test]
fn dropping_the_result_cancels_the_work() {
    let _watchdog = Watchdog::new();
    let workers = Workers::new(1).unwrap();
    let alive = Arc::new(AtomicU32::new(0));
    let counted = Counted::new(&alive);
    let job = workers.handle().spawn(move || {
        let _counted = counted;
        await_future(std::future::pending::<()>()).unwrap_err()
    });
    wait_until(|| workers.handle().tasks() == [1]);
    drop(job);
    wait_until(|| alive.load(SeqCst) == 0 && workers.handle().tasks() == [0]);
    let in_use = block_on(workers.handle().spawn_task(|| async { pool_stats().in_use })).unwrap();
    assert_eq!(in_use, 0);
}

#[test]
fn a_panic_comes_back_and_spares_the_thread() {
    let _watchdog = Watchdog::new();
    let workers = Workers::new(1).unwrap();
    let job = workers.handle().spawn(|| {
        if true {
            panic!("out of {}", "paper");
        }
    });
    let error = block_on(job).unwrap_err();
    assert_eq!(error.to_string(), "the work panicked: out of paper");
    assert_eq!(block_on(workers.handle().spawn(|| 1)).unwrap(), 1);
}

#[test]
fn workers_that_end_cancel_what_runs_and_refuse_what_comes() {
    let _watchdog = Watchdog::new();
    let workers = Workers::new(2).unwrap();
    let handle = workers.handle();
    let alive = Arc::new(AtomicU32::new(0));
    let started = Arc::new(AtomicU32::new(0));
    let jobs: Vec<_> = (0..4)
        .map(|_| {
            let (counted, started) = (Counted::new(&alive), Arc::clone(&started));
            handle.spawn(move || {
                let _counted = counted;
                started.fetch_add(1, SeqCst);
                await_future(tokio::time::sleep(std::time::Duration::from_secs(3600))).unwrap_err();
            })
        })
        .collect();
    wait_until(|| started.load(SeqCst) == 4);
    drop(workers);
    assert_eq!(
        (alive.load(SeqCst), handle.tasks()),
        (0, vec![0, 0]),
        "joined: all of it is over"
    );
    for job in jobs {
        assert!(matches!(block_on(job), Err(PinnedError::WorkersEnded)));
    }
    assert!(matches!(block_on(handle.spawn(|| 1)), Err(PinnedError::WorkersEnded)));
}

#[test]
fn a_limit_is_for_each_thread_and_work_above_it_waits() {
    let _watchdog = Watchdog::new();
    let workers = Workers::with_pool(1, PoolConfig::new().limit(1)).unwrap();
    let most = Arc::new(AtomicU32::new(0));
    let jobs: Vec<_> = (0..10)
        .map(|_| {
            let most = Arc::clone(&most);
            workers.handle().spawn(move || {
                most.fetch_max(pool_stats().in_use as u32, SeqCst);
                await_future(tokio::task::yield_now()).unwrap();
            })
        })
        .collect();
    for job in jobs {
        block_on(job).unwrap();
    }
    assert_eq!(most.load(SeqCst), 1);
}
