//! Promise: every spawned job ends in exactly one way. Its handle tells which, on every thread and in every job.

mod by_hand;

use std::cell::Cell;
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use asyncjob::pool::{self, PoolConfig, init_thread};
use asyncjob::scheduler::{self, JoinError, JoinHandle, Scheduler};
use asyncjob::waiting::{AwaitError, await_future, await_or_block};
use asyncjob::{Interrupted, JobBuilder, PauseError, SpawnErrorKind, Status, WaitCtx, WaitKey, current_job, pause_job};
use asyncjob_testing::Watchdog;
use by_hand::{Drops, Log, add_number, in_use, number};

#[track_caller]
fn run_until<T>(scheduler: &Scheduler, handle: JoinHandle<T>) -> Result<T, JoinError> {
    scheduler.run_until(handle)
}

fn turn(scheduler: &Scheduler) {
    scheduler.turn(Some(Duration::ZERO)).unwrap();
}

/// Waits for a callback that never comes.
fn wait_for_ever() -> Result<(), PauseError> {
    current_job().unwrap().wait_ctx().set_status(Status::Ok);
    loop {
        pause_job()?;
    }
}

/// A spawned job is queued until the next turn. Jobs run in the order in which they were spawned.
#[test]
fn a_job_runs_in_the_next_turn() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let log = Log::default();
    for name in ["a", "b", "c"] {
        let said = log.clone();
        scheduler.spawn(move || said.say(name)).unwrap().detach();
    }
    assert_eq!((log.take(), scheduler.live_jobs()), (vec![], 3));
    turn(&scheduler);
    assert_eq!(
        (log.take(), scheduler.live_jobs()),
        (vec!["a".into(), "b".into(), "c".into()], 0)
    );
}

/// `run_until` joins a job on the scheduler's thread, and runs the scheduler until the job has ended.
#[test]
fn joined_by_run_until() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let other = scheduler.spawn(wait_for_ever).unwrap();
    let job = scheduler.spawn(|| 42).unwrap();
    assert_eq!(run_until(&scheduler, job).unwrap(), 42);
    assert!(!other.is_finished(), "other jobs do not end");
}

/// A join after the run returns the result at once.
#[test]
fn joined_after_the_run() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let job = scheduler.spawn(|| "value").unwrap();
    scheduler.run().unwrap();
    assert!(job.is_finished());
    assert_eq!(job.join().unwrap(), "value");
}

/// A join inside another job pauses that job.
#[test]
fn joined_in_a_job() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let slow = scheduler.spawn(|| {
        for _ in 0..10 {
            pause_job().unwrap();
        }
        1
    });
    let slow = slow.unwrap();
    let log = Log::default();
    let said = log.clone();
    let joiner = scheduler.spawn(move || slow.join().unwrap() + 1).unwrap();
    scheduler
        .spawn(move || said.say("another job runs meanwhile"))
        .unwrap()
        .detach();
    assert_eq!(run_until(&scheduler, joiner).unwrap(), 2);
    assert_eq!(log.take(), ["another job runs meanwhile"]);
}

/// A join on another thread blocks that thread.
#[test]
fn joined_from_a_thread() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let job = scheduler.spawn(|| vec![1, 2, 3]).unwrap();
    let joiner = thread::spawn(move || job.join().unwrap());
    scheduler.run().unwrap();
    assert_eq!(joiner.join().unwrap(), [1, 2, 3]);
}

/// A handle is a future. It wakes its task once, when the job has ended.
#[test]
fn joined_as_a_future() {
    let _watchdog = Watchdog::new();
    struct Count(std::sync::atomic::AtomicU32);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let wakes = Arc::new(Count(0.into()));
    let count = || wakes.0.load(std::sync::atomic::Ordering::Relaxed);
    let waker = Waker::from(wakes.clone());
    let mut task = Context::from_waker(&waker);

    let scheduler = Scheduler::new().unwrap();
    let mut job = std::pin::pin!(
        scheduler
            .spawn(|| {
                pause_job().unwrap();
                7
            })
            .unwrap()
    );
    assert!(job.as_mut().poll(&mut task).is_pending());
    assert!(job.as_mut().poll(&mut task).is_pending(), "a second poll");
    assert_eq!(count(), 0);
    scheduler.run().unwrap();
    assert_eq!(count(), 1);
    assert!(matches!(job.as_mut().poll(&mut task), Poll::Ready(Ok(7))));
    let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job.as_mut().poll(&mut task)));
    assert!(again.is_err(), "a poll after the end panics");
}

/// `await_or_block` joins a job on a thread without a scheduler.
#[test]
fn awaited_or_blocked_for() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let handle = scheduler.handle();
    let joiner = thread::spawn(move || await_or_block(handle.spawn(|| 5).unwrap()).unwrap().unwrap());
    while scheduler.live_jobs() == 0 {
        thread::yield_now();
    }
    scheduler.run().unwrap();
    assert_eq!(joiner.join().unwrap(), 5);
}

/// A join on the scheduler's own thread, outside a job, would never end. It panics with an explanation instead.
#[test]
fn a_join_that_would_wait_for_ever_panics() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let job = scheduler.spawn(|| ()).unwrap();
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job.join())).unwrap_err();
    assert!(panic.downcast_ref::<&str>().unwrap().contains("run_until"));
    scheduler.run().unwrap();
}

/// Running a scheduler inside one of its own jobs panics in that job, and harms no other job.
#[test]
fn a_scheduler_inside_its_own_job_panics() {
    let _watchdog = Watchdog::new();
    let scheduler = Rc::new(Scheduler::new().unwrap());
    let inside = scheduler.clone();
    let job = scheduler.spawn(move || inside.run().unwrap()).unwrap();
    let other = scheduler.spawn(|| 3).unwrap();
    let error = run_until(&scheduler, job).unwrap_err();
    assert!(error.to_string().contains("pause the job instead"), "{error}");
    assert_eq!(run_until(&scheduler, other).unwrap(), 3);
}

/// A job that joins another job is cancelled. The join is interrupted, and the other job continues.
#[test]
fn a_join_that_is_interrupted() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let target = scheduler.spawn(|| {
        for _ in 0..3 {
            pause_job().unwrap();
        }
        "continued"
    });
    let mut target = target.unwrap();
    let joiner = scheduler.spawn(move || {
        let result = await_future(&mut target);
        (
            matches!(result, Err(AwaitError::Interrupted(Interrupted::Cancelled))),
            target,
        )
    });
    let joiner = joiner.unwrap();
    let (sender, kept) = mpsc::channel();
    let canceller = scheduler.spawn(move || {
        turns_pass(1);
        joiner.request_cancel();
        sender.send(joiner).unwrap();
    });
    run_until(&scheduler, canceller.unwrap()).unwrap();
    scheduler.run().unwrap();
    let error = kept.recv().unwrap().join().err().unwrap();
    assert!(
        matches!(error, JoinError::Cancelled),
        "what a cancelled job returns is dropped: {error}"
    );
}

fn turns_pass(count: usize) {
    for _ in 0..count {
        pause_job().unwrap();
    }
}

/// The pause of a cancelled job fails, and the job returns through its own code. The handle reports the cancellation.
#[test]
fn cancelled_while_paused() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let drops = Drops::default();
    let local = drops.counted();
    let job = scheduler.spawn(move || {
        let _local = local;
        wait_for_ever().unwrap_err()
    });
    let job = job.unwrap();
    turn(&scheduler);
    job.request_cancel();
    job.request_cancel();
    assert_eq!(drops.count(), 0, "the job ends at the next turn");
    assert!(matches!(run_until(&scheduler, job), Err(JoinError::Cancelled)));
    assert_eq!(
        (drops.count(), scheduler.stats().cancelled, scheduler.stats().ended),
        (1, 1, 1)
    );
}

/// The closure of a job that is cancelled before its start is dropped and does not run.
#[test]
fn cancelled_before_it_started() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let drops = Drops::default();
    let local = drops.counted();
    let job = scheduler.spawn(move || drop(local)).unwrap();
    job.request_cancel();
    let resumes = scheduler.stats().resumes;
    assert!(matches!(run_until(&scheduler, job), Err(JoinError::Cancelled)));
    assert_eq!((drops.count(), scheduler.live_jobs()), (1, 0));
    assert!(scheduler.stats().resumes <= resumes + 1);
}

/// A cancel after the end of a job changes nothing.
#[test]
fn cancelled_after_it_ended() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let job = scheduler.spawn(|| 9).unwrap();
    scheduler.run().unwrap();
    job.request_cancel();
    turn(&scheduler);
    assert_eq!(job.join().unwrap(), 9);
}

/// A cancel from a thread wakes a scheduler that sleeps.
#[test]
fn cancelled_from_a_thread() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let job = scheduler.spawn(wait_for_ever).unwrap();
    let canceller = thread::spawn(move || {
        job.request_cancel();
        job.join()
    });
    scheduler.run().unwrap();
    assert!(matches!(canceller.join().unwrap(), Err(JoinError::Cancelled)));
}

/// A job may cancel itself, and a job may be cancelled while it is ready.
#[test]
fn cancelled_while_running_or_ready() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let (sender, own) = mpsc::channel::<JoinHandle<()>>();
    let job = scheduler.spawn(move || {
        let me = own.recv().unwrap();
        me.request_cancel();
        assert!(pause_job().is_err(), "its next pause fails");
    });
    sender.send(job.unwrap()).unwrap();
    scheduler.run().unwrap();
    assert_eq!(scheduler.stats().cancelled, 1);

    let ready = scheduler.spawn(|| {
        current_job().unwrap().wait_ctx().set_status(Status::Eagain);
        let mut pauses = 0;
        while pause_job().is_ok() {
            pauses += 1;
        }
        pauses
    });
    let ready = ready.unwrap();
    turn(&scheduler);
    ready.request_cancel();
    assert!(matches!(run_until(&scheduler, ready), Err(JoinError::Cancelled)));
}

/// A job that continues to pause after a cancel is quarantined, and its handle reports that.
#[test]
fn cancelled_and_stubborn() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let job = scheduler.spawn(|| {
        current_job().unwrap().wait_ctx().set_status(Status::Ok);
        loop {
            let _ = pause_job();
        }
    });
    let job: JoinHandle<()> = job.unwrap();
    turn(&scheduler);
    job.request_cancel();
    let error = run_until(&scheduler, job).unwrap_err();
    assert!(matches!(error, JoinError::Quarantined), "{error}");
    assert_eq!(
        (scheduler.stats().quarantined, scheduler.live_jobs(), in_use()),
        (1, 0, 1)
    );
}

/// The handle reports a panic with its payload. The scheduler continues.
#[test]
fn a_panic_is_reported() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let panics = [
        scheduler
            .spawn(|| -> () { resume_unwind(Box::new("static text")) })
            .unwrap(),
        scheduler
            .spawn(|| -> () { resume_unwind(Box::new(String::from("a string"))) })
            .unwrap(),
        scheduler.spawn(|| -> () { resume_unwind(Box::new(17u64)) }).unwrap(),
    ];
    let expected = ["static text", "a string", "a value that is not text"];
    for (job, expected) in panics.into_iter().zip(expected) {
        let error = run_until(&scheduler, job).unwrap_err();
        assert_eq!(error.to_string(), format!("the job panicked: {expected}"));
        assert!(matches!(error, JoinError::Panicked(_)));
    }
    assert_eq!(scheduler.stats().ended, 3);
}

/// Ten thousand jobs panic, some before and some after a pause. Each handle reports it, and the number of stacks is the
/// same as for ten thousand jobs that do not panic.
#[test]
fn ten_thousand_panics() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let total = || pool::stats().idle + pool::stats().in_use;
    let round = |panics: bool| {
        for batch in 0..100 {
            let jobs: Vec<_> = (0..100u32)
                .map(|n| {
                    let job = scheduler.spawn(move || {
                        if (n + batch) % 2 == 0 {
                            pause_job().unwrap();
                        }
                        if panics {
                            resume_unwind(Box::new(n));
                        }
                        n
                    });
                    job.unwrap()
                })
                .collect();
            scheduler.run().unwrap();
            for (n, job) in jobs.into_iter().enumerate() {
                match job.join() {
                    Ok(value) => assert_eq!((value as usize, panics), (n, false)),
                    Err(JoinError::Panicked(panic)) => {
                        assert_eq!(*panic.into_payload().downcast::<u32>().unwrap() as usize, n)
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    round(false);
    let before = total();
    round(true);
    assert_eq!((total(), pool::stats().in_use), (before, 0));
    assert_eq!(scheduler.stats().ended, 20_000);
}

/// The bound counts queued, running and paused jobs. At the bound the closure comes back, and the error says what to
/// do. When there is capacity, the same closure can be spawned.
#[test]
fn max_jobs_is_a_bound_on_live_jobs() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::builder().max_jobs(3).build().unwrap();
    let paused = scheduler.spawn(wait_for_ever).unwrap();
    turn(&scheduler);
    let _queued = scheduler.spawn(wait_for_ever).unwrap();
    let _also = scheduler.handle().spawn(wait_for_ever).unwrap();
    assert_eq!(scheduler.live_jobs(), 3);
    let ran = Rc::new(Cell::new(false));
    let inside = ran.clone();
    let error = scheduler.spawn(move || inside.set(true)).unwrap_err();
    assert_eq!(error.kind(), &SpawnErrorKind::Full { max_jobs: 3 });
    let sentence = "all 3 jobs of the scheduler are in use: wait for Handle::capacity, or raise max_jobs";
    assert!(error.to_string().starts_with(sentence), "{error}");
    paused.request_cancel();
    let _ = run_until(&scheduler, paused);
    let job = scheduler.spawn(error.into_closure()).unwrap();
    run_until(&scheduler, job).unwrap();
    assert!(ran.get());
}

/// A thread that waits for capacity spawns a thousand jobs through a bound of two.
#[test]
fn a_thread_may_wait_for_capacity() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::builder().max_jobs(2).build().unwrap();
    let handle = scheduler.handle();
    let (sender, spawned) = mpsc::channel();
    let spawner = thread::spawn(move || {
        for n in 0..1000u32 {
            let mut job = move || n;
            let handle_of_job = loop {
                match handle.spawn(job) {
                    Ok(handle) => break handle,
                    Err(full) => job = full.into_closure(),
                }
                await_or_block(handle.capacity()).unwrap();
            };
            sender.send(handle_of_job).unwrap();
        }
    });
    while !spawner.is_finished() || scheduler.live_jobs() != 0 {
        scheduler.turn(Some(Duration::from_millis(1))).unwrap();
    }
    spawner.join().unwrap();
    let values: Vec<_> = spawned.into_iter().map(|job| job.join().unwrap()).collect();
    assert_eq!(values, (0..1000).collect::<Vec<_>>());
}

/// More jobs than the pool of the thread allows wait for a stack. They all run, and the thread does not spin meanwhile.
#[test]
fn more_jobs_than_stacks_all_run() {
    let _watchdog = Watchdog::new();
    init_thread(PoolConfig::new().limit(2)).unwrap();
    let scheduler = Scheduler::new().unwrap();
    let jobs: Vec<_> = (0..6)
        .map(|n| {
            let job = scheduler.spawn(move || {
                let at = Instant::now() + Duration::from_millis(20);
                current_job().unwrap().wait_ctx().set_deadline(Some(at));
                while Instant::now() < at {
                    pause_job().unwrap();
                }
                n
            });
            job.unwrap()
        })
        .collect();
    let mut turns = 0;
    while scheduler.live_jobs() != 0 {
        scheduler.turn(None).unwrap();
        turns += 1;
    }
    assert!(
        turns < 200,
        "{turns} turns for six jobs: the scheduler did not sleep while a job waited for a stack"
    );
    assert_eq!(
        jobs.into_iter().map(|job| job.join().unwrap()).collect::<Vec<_>>(),
        [0, 1, 2, 3, 4, 5]
    );
}

/// A job that is cancelled while it waits for a stack does not run when a stack is free.
#[test]
fn cancelled_while_it_waits_for_a_stack() {
    let _watchdog = Watchdog::new();
    init_thread(PoolConfig::new().limit(1)).unwrap();
    let scheduler = Scheduler::new().unwrap();
    let holder = scheduler.spawn(wait_for_ever).unwrap();
    let waiting = scheduler.spawn(|| unreachable!("it was cancelled")).unwrap();
    turn(&scheduler);
    waiting.request_cancel();
    turn(&scheduler);
    holder.request_cancel();
    scheduler.run().unwrap();
    let waited: Result<(), _> = waiting.join();
    assert!(matches!(waited, Err(JoinError::Cancelled)), "{waited:?}");
}

/// With no stack and no job whose end could free one, a job fails and the error says why.
#[test]
fn a_job_without_any_stack_fails() {
    let _watchdog = Watchdog::new();
    init_thread(PoolConfig::new().limit(0)).unwrap();
    let scheduler = Scheduler::new().unwrap();
    let job = scheduler.spawn(|| ()).unwrap();
    let error = run_until(&scheduler, job).unwrap_err();
    let JoinError::NoStack(why) = error else {
        panic!("{error}")
    };
    assert!(why.to_string().contains("init_thread"), "{why}");
    assert_eq!(scheduler.live_jobs(), 0);
}

/// Four threads spawn jobs while the scheduler runs. Every job runs once, on the scheduler's thread.
#[test]
fn spawned_from_other_threads() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let scheduler_thread = thread::current().id();
    let spawners: Vec<_> = (0..4)
        .map(|_| {
            let handle = scheduler.handle();
            thread::spawn(move || {
                let jobs: Vec<_> = (0..500)
                    .map(|_| handle.spawn(|| thread::current().id()).unwrap())
                    .collect();
                jobs.into_iter().map(|job| job.join().unwrap()).collect::<Vec<_>>()
            })
        })
        .collect();
    while spawners.iter().any(|spawner| !spawner.is_finished()) {
        scheduler.turn(Some(Duration::from_millis(1))).unwrap();
    }
    for spawner in spawners {
        assert_eq!(spawner.join().unwrap(), vec![scheduler_thread; 500]);
    }
    assert_eq!(scheduler.stats().ended, 2000);
}

/// A spawn from a thread wakes a scheduler that sleeps.
#[test]
fn spawned_while_it_sleeps() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let sleeper = scheduler.spawn(wait_for_ever).unwrap();
    let handle = scheduler.handle();
    let spawner = thread::spawn(move || {
        for _ in 0..1000 {
            handle.spawn(|| ()).unwrap().join().unwrap();
        }
        sleeper.request_cancel();
    });
    scheduler.run().unwrap();
    spawner.join().unwrap();
}

/// Jobs may spawn jobs and join them.
#[test]
fn spawned_by_jobs() {
    let _watchdog = Watchdog::new();
    fn tree(depth: u32) -> u32 {
        if depth == 0 {
            return 1;
        }
        let children = [(); 2].map(|()| scheduler::spawn(move || tree(depth - 1)).unwrap());
        children.map(|child| child.join().unwrap()).iter().sum()
    }
    let scheduler = Scheduler::new().unwrap();
    let job = scheduler.spawn(|| tree(7)).unwrap();
    assert_eq!(run_until(&scheduler, job).unwrap(), 128);
    scheduler.run().unwrap();
    assert_eq!(scheduler.stats().ended, 255);
}

/// A spawned job has the name and the wait ctx that its builder was given.
#[test]
fn a_spawned_job_has_the_name_and_the_ctx_of_its_builder() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let ctx = WaitCtx::new();
    let bound = ctx.clone();
    let builder = JobBuilder::new().name("signer");
    let job = builder.wait_ctx(&ctx).spawn_on(&scheduler, move || {
        let me = current_job().unwrap();
        assert!(me.wait_ctx().ptr_eq(&bound));
        bound.set_status(Status::Ok);
        pause_job().unwrap();
        me.name().map(String::from)
    });
    turn(&scheduler);
    assert_eq!(scheduler.jobs()[0].name.as_deref(), Some("signer"));
    ctx.callback().unwrap().wake();
    assert_eq!(run_until(&scheduler, job.unwrap()).unwrap().as_deref(), Some("signer"));
}

/// Destructors that panic harm no other job: of a closure that was cancelled before it ran, of the value of a cancelled
/// job, and of values in wait ctxs.
#[test]
fn destructors_that_panic_harm_no_other_job() {
    let _watchdog = Watchdog::new();
    struct PanicsAtDrop;
    impl Drop for PanicsAtDrop {
        fn drop(&mut self) {
            if !thread::panicking() {
                resume_unwind(Box::new("at drop"));
            }
        }
    }
    let scheduler = Scheduler::new().unwrap();
    let value = PanicsAtDrop;
    let unstarted = scheduler.spawn(move || std::mem::forget(value)).unwrap();
    unstarted.request_cancel();
    let returning = scheduler.spawn(|| {
        let _ = wait_for_ever();
        PanicsAtDrop
    });
    let returning = returning.unwrap();
    let owner = || {
        let ctx = WaitCtx::new();
        add_number(&ctx, number(WaitKey::unique(), -1), PanicsAtDrop);
        ctx
    };
    let in_ctx = JobBuilder::new()
        .wait_ctx(&owner())
        .spawn_on(&scheduler, || ())
        .unwrap();
    let paused = JobBuilder::new()
        .wait_ctx(&owner())
        .spawn_on(&scheduler, || assert!(pause_job().is_ok()));
    let paused = paused.unwrap();
    turn(&scheduler);
    returning.request_cancel();
    let last = scheduler.spawn(|| 1).unwrap();
    scheduler.run().unwrap();
    assert!(matches!(unstarted.join(), Err(JoinError::Cancelled)));
    assert!(matches!(returning.join(), Err(JoinError::Cancelled)));
    assert!(in_ctx.join().is_ok() && paused.join().is_ok());
    assert_eq!(last.join().unwrap(), 1);
    assert_eq!(scheduler.live_jobs(), 0);
}
