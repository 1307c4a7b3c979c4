//! Work that is spawned on workers runs there, ends there, and ends with them.

use std::any::Any;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread;

use asyncjob::Panic;
use asyncjob::job_future::JobError;
use asyncjob::pool::{self, PoolConfig, PoolError};
use asyncjob::stack::{self, StackSize};
use asyncjob::waiting::await_future;
use asyncjob_testing::Watchdog;
use asyncjob_tokio::{JoinError, Workers};
use tokio::sync::{Notify, Semaphore};

/// Counts itself until it is dropped.
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

/// Pauses until the job is cancelled.
fn pause_for_ever() {
    await_future(std::future::pending::<()>()).unwrap_err();
}

#[test]
fn zero_threads_are_invalid_input() {
    for workers in [Workers::new(0), Workers::builder().threads(0).build()] {
        assert_eq!(workers.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}

#[test]
fn a_pool_that_cannot_be_set_up_is_an_error() {
    let _watchdog = Watchdog::new();
    let pool = PoolConfig::new().limit(1).precreate(2);
    let error = Workers::builder().threads(2).pool(pool).build().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert!(error.get_ref().unwrap().is::<PoolError>(), "{error}");
}

#[test]
fn threads_have_the_name_of_the_builder() {
    let _watchdog = Watchdog::new();
    let name = |workers: Workers| block_on(workers.handle().spawn(|| thread::current().name().map(str::to_owned)));
    let default = name(Workers::new(1).unwrap()).unwrap();
    assert_eq!(default.as_deref(), Some("asyncjob-tokio-0"));
    let named = Workers::builder().threads(1).thread_name("tls").build().unwrap();
    assert_eq!(named.thread_count(), 1);
    assert_eq!(name(named).unwrap().as_deref(), Some("tls-0"));
}

/// A job that ends later would do it, too.
#[test]
fn the_memory_of_a_crowd_goes_back_without_another_job() {
    const CROWD: usize = 2000;
    let _watchdog = Watchdog::new();
    let size = StackSize::at_least(40 << 10); // which no other test has
    let pool = PoolConfig::new().stack_size(size);
    let workers = Workers::builder().threads(1).pool(pool).build().unwrap();
    let stacks = || {
        let stats = stack::stats();
        stats.iter().find(|stats| stats.size == size.bytes()).unwrap().stacks
    };
    let permits = Arc::new(Semaphore::new(0));
    let started = Arc::new(AtomicU32::new(0));
    let spawn_one = |_| {
        let (permits, started) = (Arc::clone(&permits), Arc::clone(&started));
        workers.handle().spawn(move || {
            started.fetch_add(1, SeqCst);
            await_future(permits.acquire()).unwrap().unwrap().forget();
        })
    };
    let jobs: Vec<_> = (0..CROWD).map(spawn_one).collect();
    wait_until(|| started.load(SeqCst) as usize == CROWD);
    assert!(stacks() >= CROWD);
    permits.add_permits(CROWD);
    jobs.into_iter().for_each(|job| block_on(job).unwrap());
    wait_until(|| stacks() < CROWD / 2); // the thread keeps 256 of them, and the process 512
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
fn dropping_the_handle_cancels_the_work() {
    let _watchdog = Watchdog::new();
    let workers = Workers::new(1).unwrap();
    let alive = Arc::new(AtomicU32::new(0));
    let counted = Counted::new(&alive);
    let (started, has_started) = mpsc::channel();
    let job = workers.handle().spawn(move || {
        let _counted = counted;
        started.send(()).unwrap();
        pause_for_ever();
    });
    has_started.recv().unwrap();
    assert!(!job.is_finished());
    drop(job);
    wait_until(|| alive.load(SeqCst) == 0 && workers.handle().tasks() == [0]);
    let in_use = block_on(workers.handle().spawn_task(|| async { pool::stats().in_use })).unwrap();
    assert_eq!(in_use, 0);
}

#[test]
fn a_detached_job_goes_on_and_ends_by_itself() {
    let _watchdog = Watchdog::new();
    let workers = Workers::new(1).unwrap();
    let go_on = Arc::new(Notify::new());
    let (ended, result) = mpsc::channel();
    let told = Arc::clone(&go_on);
    let job = workers
        .handle()
        .spawn(move || ended.send(await_future(told.notified()).is_ok()).unwrap());
    job.detach();
    // The worker polls its tasks in turn, so the detached job has been polled without a handle now.
    block_on(workers.handle().spawn(|| ())).unwrap();
    go_on.notify_one();
    assert!(result.recv().unwrap(), "its wait was not cancelled");
    wait_until(|| workers.handle().tasks() == [0]);
}

#[test]
fn a_requested_cancel_ends_the_job_before_its_result_says_so() {
    let _watchdog = Watchdog::new();
    let workers = Workers::new(1).unwrap();
    let alive = Arc::new(AtomicU32::new(0));
    let counted = Counted::new(&alive);
    let (started, has_started) = mpsc::channel();
    let mut job = workers.handle().spawn(move || {
        let _counted = counted;
        started.send(()).unwrap();
        pause_for_ever();
    });
    has_started.recv().unwrap();
    job.request_cancel();
    let error = block_on(&mut job).unwrap_err();
    assert!(matches!(error, JoinError::Cancelled), "{error}");
    assert_eq!(alive.load(SeqCst), 0, "its destructors have run");
    wait_until(|| job.is_finished());
    job.request_cancel(); // has no effect any more
}

#[test]
fn work_that_is_cancelled_before_it_starts_never_does() {
    let _watchdog = Watchdog::new();
    let workers = Workers::new(1).unwrap();
    let (go_on, told) = mpsc::channel::<()>();
    let blocking = workers.handle().spawn(move || told.recv().unwrap());
    let has_run = Arc::new(AtomicBool::new(false));
    let (run, made) = (Arc::clone(&has_run), Arc::clone(&has_run));
    let job = workers.handle().spawn(move || run.store(true, SeqCst));
    let task = workers.handle().spawn_task(move || {
        made.store(true, SeqCst);
        async {}
    });
    job.request_cancel();
    task.request_cancel();
    go_on.send(()).unwrap();
    block_on(blocking).unwrap();
    assert!(matches!(block_on(job), Err(JoinError::Cancelled)));
    assert!(matches!(block_on(task), Err(JoinError::Cancelled)));
    assert!(!has_run.load(SeqCst));
}

#[test]
fn a_handle_is_finished_when_its_result_is_there() {
    let _watchdog = Watchdog::new();
    let workers = Workers::new(1).unwrap();
    let go_on = Arc::new(Notify::new());
    let told = Arc::clone(&go_on);
    let job = workers.handle().spawn(move || await_future(told.notified()).is_ok());
    assert!(!job.is_finished());
    go_on.notify_one();
    wait_until(|| job.is_finished());
    assert!(block_on(job).unwrap());
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
        assert!(job.is_finished());
        assert!(matches!(block_on(job), Err(JoinError::WorkersEnded)));
    }
    assert!(matches!(block_on(handle.spawn(|| 1)), Err(JoinError::WorkersEnded)));
}

#[test]
fn a_job_that_drops_its_own_workers_goes_on_to_its_next_pause() {
    let _watchdog = Watchdog::new();
    let alive = Arc::new(AtomicU32::new(0));
    for pauses in [false, true] {
        let workers = Workers::new(2).unwrap();
        let handle = workers.handle();
        let counted = Counted::new(&alive);
        let (give, take) = mpsc::channel::<Workers>();
        let job = handle.spawn(move || {
            let _counted = counted;
            let workers = take.recv().unwrap();
            assert_eq!(workers.thread_count(), 2);
            drop(workers); // waits for the other thread, and not for this one
            if pauses {
                pause_for_ever();
            }
            7
        });
        let counted = Counted::new(&alive);
        let other = handle.spawn(move || {
            let _counted = counted;
            pause_for_ever();
        });
        wait_until(|| handle.tasks() == [1, 1]);
        give.send(workers).unwrap();
        match block_on(job) {
            Ok(result) => assert_eq!((result, pauses), (7, false)),
            Err(error) => assert!(pauses && matches!(error, JoinError::WorkersEnded), "{error}"),
        }
        assert!(matches!(block_on(other), Err(JoinError::WorkersEnded)));
        wait_until(|| alive.load(SeqCst) == 0 && handle.tasks() == [0, 0]);
    }
}

#[test]
fn a_limit_is_for_each_thread_and_work_above_it_waits() {
    let _watchdog = Watchdog::new();
    let workers = Workers::builder()
        .threads(1)
        .pool(PoolConfig::new().limit(1))
        .build()
        .unwrap();
    let most = Arc::new(AtomicU32::new(0));
    let jobs: Vec<_> = (0..10)
        .map(|_| {
            let most = Arc::clone(&most);
            workers.handle().spawn(move || {
                most.fetch_max(pool::stats().in_use as u32, SeqCst);
                await_future(tokio::task::yield_now()).unwrap();
            })
        })
        .collect();
    for job in jobs {
        block_on(job).unwrap();
    }
    assert_eq!(most.load(SeqCst), 1);
}

#[test]
fn an_io_error_keeps_the_type_of_the_error() {
    let job = io::Error::from(JoinError::Job(JobError::EngineFailed));
    assert!(matches!(inner(&job), JobError::EngineFailed));
    let payload: Box<dyn Any + Send> = Box::new(7);
    let panicked = io::Error::from(JoinError::Panicked(Panic::from(payload)));
    assert!(matches!(inner(&panicked), JoinError::Panicked(_)));
    assert_eq!(panicked.to_string(), "the work panicked: a value that is not text");
}

fn inner<E: std::error::Error + 'static>(error: &io::Error) -> &E {
    error.get_ref().and_then(|error| error.downcast_ref()).unwrap()
}

/// A task of `tokio::spawn` may move between threads, so no job can be spawned beside it. The compiler cannot tell.
#[test]
fn spawn_local_outside_a_local_set_says_at_its_caller_what_to_use() {
    let _watchdog = Watchdog::new();
    let (before, (place, seen)) = (std::panic::take_hook(), mpsc::channel());
    std::panic::set_hook(Box::new(move |panic| {
        let at = panic.location().expect("std always knows").file().to_owned();
        if panic.to_string().contains("asyncjob_tokio::spawn_local was called") {
            let _ = place.send(at);
        }
        before(panic);
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    let task = runtime.spawn(async { drop(asyncjob_tokio::spawn_local(|| ())) });
    let panic = Panic::from(runtime.block_on(task).unwrap_err().into_panic());
    let text = panic.message();
    assert!(
        text.starts_with("asyncjob_tokio::spawn_local was called where no LocalSet runs"),
        "{text}"
    );
    assert!(text.contains("asyncjob_tokio::Workers"), "{text}");
    assert!(text.ends_with("/docs/guide/tokio.md]"), "{text}");
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), [file!()]);
}
