//! Promise: offloaded work runs on other threads while jobs go on here, and the failure, the panic or the absence of
//! one job harms no other.

mod drivers;

use std::cell::{Cell, RefCell};
use std::panic::panic_any;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use asyncjob::offload::{Offload, OffloadError, TryRunError};
use asyncjob::scheduler::Scheduler;
use asyncjob::time::with_deadline;
use asyncjob::{Interrupted, Job, Quarantined, Status, Step, WaitCtx, block_pause, pause_job, start_job, waker_fn};
use asyncjob_testing::Watchdog;
use drivers::{Drivers, EVERY};

/// A pool of one thread, which is busy until the gate is opened.
struct Busy {
    pool: Offload,
    gate: Sender<()>,
    holder: Job<Result<(), OffloadError>>,
}

impl Busy {
    fn new(queue_capacity: usize) -> Self {
        let pool = pool_of_one(queue_capacity);
        let (gate, opened) = channel::<()>();
        let (tell, is_running) = channel();
        let clone = pool.clone();
        let holder = paused(&WaitCtx::new(), move || {
            clone.run(move || {
                tell.send(()).unwrap();
                let _ = opened.recv();
            })
        });
        is_running.recv().unwrap();
        Busy { pool, gate, holder }
    }

    /// Lets the thread go on, and waits for the first closure's job.
    fn open(self) {
        drop(self.gate);
        finish(self.holder).unwrap();
    }

    /// Starts a job that offloads `f`, which cannot run yet.
    fn offload<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> Job<Result<T, OffloadError>> {
        let pool = self.pool.clone();
        paused(&WaitCtx::new(), move || pool.run(f))
    }

    /// Closures in the queue, and behind it.
    fn line(&self) -> (usize, usize) {
        let stats = self.pool.stats();
        (stats.queued, stats.waiting_for_capacity)
    }
}

fn pool_of_one(queue_capacity: usize) -> Offload {
    let builder = Offload::builder().threads(1).queue_capacity(queue_capacity);
    builder.build().unwrap()
}

fn paused<T: 'static>(ctx: &WaitCtx, f: impl FnOnce() -> T + 'static) -> Job<T> {
    match start_job(ctx, f) {
        Ok(Step::Paused(job)) => job,
        _ => panic!("it did not pause"),
    }
}

fn finished<T>(step: Step<T>) -> T {
    match step {
        Step::Finished(value) => value,
        Step::Paused(_) => panic!("it paused"),
    }
}

/// Resumes until the end.
fn finish<T>(mut job: Job<T>) -> T {
    loop {
        match job.resume() {
            Step::Finished(value) => return value,
            Step::Paused(again) => job = again,
        }
        thread::yield_now();
    }
}

fn as_job<T: 'static>(f: impl FnOnce() -> T + 'static) -> T {
    match start_job(&WaitCtx::new(), f).unwrap() {
        Step::Finished(value) => value,
        Step::Paused(job) => finish(job),
    }
}

/// Whether a cancelled job got what it is to get.
fn was_cancelled<T>(result: Result<Result<T, OffloadError>, Quarantined>) -> bool {
    matches!(result, Ok(Err(OffloadError::Interrupted(Interrupted::Cancelled))))
}

fn panic_text(error: OffloadError) -> String {
    match error {
        OffloadError::Panicked(panic) => panic.message().to_owned(),
        other => panic!("{other}"),
    }
}

#[test]
fn it_runs_elsewhere_while_jobs_go_on_here_under_every_driver() {
    let _watchdog = Watchdog::new();
    for rule in EVERY {
        let pool = Offload::new(2).unwrap();
        let mut driver = Drivers::new(rule);
        let here = thread::current().id();
        let (open, opened): (Sender<()>, Receiver<()>) = channel();
        let log = Rc::new(RefCell::new(Vec::new()));

        let (offload, of_worker) = (pool.clone(), Rc::clone(&log));
        driver.start(move || {
            let there = offload.run(move || {
                opened.recv().unwrap(); // only the other job can open it: so the thread is free meanwhile
                thread::current().id()
            });
            assert_ne!(there.unwrap(), here);
            of_worker.borrow_mut().push("offloaded");
        });
        let of_opener = Rc::clone(&log);
        driver.start(move || {
            of_opener.borrow_mut().push("opener");
            open.send(()).unwrap();
        });
        driver.run();
        assert_eq!(*log.borrow(), ["opener", "offloaded"], "{rule:?}");
        assert_eq!(pool.stats().finished, 1);
    }
}

#[test]
fn a_job_that_is_cancelled_takes_nothing_from_a_closure_that_runs() {
    let _watchdog = Watchdog::new();
    let (gate, opened) = channel::<()>();
    let (tell, told) = channel();
    let (begin, has_begun) = channel();
    let pool = Offload::new(1).unwrap();
    let clone = pool.clone();
    let buffer = vec![7u8; 1 << 16];
    let job = paused(&WaitCtx::new(), move || {
        clone.run(move || {
            begin.send(()).unwrap();
            let _ = opened.recv();
            tell.send(buffer.iter().map(|&b| usize::from(b)).sum::<usize>())
                .unwrap();
            buffer
        })
    });
    has_begun.recv().unwrap();
    assert!(was_cancelled(job.cancel()));
    drop(gate);
    assert_eq!(told.recv().unwrap(), 7 << 16);
}

#[test]
fn a_closure_may_shut_its_own_pool_down() {
    let _watchdog = Watchdog::new();
    let pool = Offload::new(2).unwrap();
    let clone = pool.clone();
    as_job(move || pool.run(move || clone.shutdown())).unwrap();
}

#[test]
fn a_thousand_jobs_share_three_threads_under_every_driver() {
    let _watchdog = Watchdog::new();
    for rule in EVERY {
        let pool = Offload::builder().threads(3).queue_capacity(5).build().unwrap();
        let mut driver = Drivers::new(rule);
        let sum = Rc::new(Cell::new(0));
        for n in 0..250u64 {
            let (pool, sum) = (pool.clone(), Rc::clone(&sum));
            driver.start(move || {
                let four: u64 = (0..4).map(|k| pool.run(move || n * 4 + k).unwrap()).sum();
                sum.set(sum.get() + four);
            });
        }
        driver.run();
        let stats = pool.stats();
        assert_eq!((sum.get(), stats.finished), (1000 * 999 / 2, 1000), "{rule:?}");
        assert_eq!((stats.queued, stats.waiting_for_capacity, stats.running), (0, 0, 0));
    }
}

#[test]
fn completion_is_by_the_drivers_callback_if_there_is_one() {
    let _watchdog = Watchdog::new();
    let busy = Busy::new(1);
    let calls = Arc::new(AtomicUsize::new(0));
    let (ctx, counter) = (WaitCtx::new(), Arc::clone(&calls));
    ctx.set_callback(Some(waker_fn(move || {
        counter.fetch_add(1, SeqCst);
    })));
    let pool = busy.pool.clone();
    let job = paused(&ctx, move || pool.run(|| 1));
    assert_eq!((ctx.status(), ctx.fds(), calls.load(SeqCst)), (Status::Ok, vec![], 0));
    busy.open();
    assert_eq!(finish(job).unwrap(), 1);
    while calls.load(SeqCst) == 0 {
        thread::yield_now(); // the value is there before the call, so the job may have it already
    }
    assert_eq!(calls.load(SeqCst), 1);
    assert_eq!(ctx.status(), Status::Unsupported, "as it was");
}

#[test]
fn completion_is_by_fd_without_a_callback() {
    let _watchdog = Watchdog::new();
    let busy = Busy::new(1);
    let ctx = WaitCtx::new();
    let pool = busy.pool.clone();
    let job = paused(&ctx, move || pool.run(|| 1));
    assert_eq!((ctx.status(), ctx.fds().len()), (Status::Unsupported, 1));
    busy.open();
    assert_eq!(finish(job).unwrap(), 1);
    assert!(ctx.fds().is_empty());
}

/// What a library needs once for each thread is kept in a thread-local, and goes when the last handle ends the threads.
#[test]
fn the_threads_keep_their_thread_locals_until_the_last_handle_is_gone() {
    let _watchdog = Watchdog::new();
    struct Session(Cell<u32>, Sender<u32>);
    impl Drop for Session {
        fn drop(&mut self) {
            self.1.send(self.0.get()).unwrap();
        }
    }
    thread_local!(static SESSION: RefCell<Option<Session>> = const { RefCell::new(None) });

    let (ended, ends) = channel();
    let pool = pool_of_one(1);
    for _ in 0..5 {
        let (pool, ended) = (pool.clone(), ended.clone());
        let run = move || {
            SESSION.with_borrow_mut(|session| {
                let uses = &session.get_or_insert_with(|| Session(Cell::new(0), ended)).0;
                uses.set(uses.get() + 1);
            });
        };
        as_job(move || pool.run(run)).unwrap();
    }
    let second = pool.clone();
    drop(pool);
    assert!(ends.try_recv().is_err(), "a handle is left");
    drop(second);
    assert_eq!(ends.recv().unwrap(), 5, "one session, used by all");
}

#[test]
fn ten_thousand_panics_cost_no_thread() {
    let _watchdog = Watchdog::new();
    struct Quiet;
    let pool = Offload::new(2).unwrap();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.payload().is::<Quiet>() {
            hook(info);
        }
    }));
    let panics = as_job({
        let pool = pool.clone();
        move || {
            (0..10_000)
                .filter(|_| matches!(pool.run(|| panic_any(Quiet)), Err(OffloadError::Panicked(_))))
                .count()
        }
    });
    assert_eq!((panics, pool.stats().finished), (10_000, 10_000));
    assert_eq!(as_job(move || pool.run(|| 5)).unwrap(), 5);
}

#[test]
fn a_panic_comes_back_with_its_payload() {
    let _watchdog = Watchdog::new();
    let pool = Offload::new(1).unwrap();
    let again = pool.clone();
    assert_eq!(
        panic_text(as_job(move || pool.run(|| panic!("on purpose"))).unwrap_err()),
        "on purpose"
    );
    let OffloadError::Panicked(panic) = as_job(move || again.run(|| panic_any(7u8))).unwrap_err() else {
        panic!("it panicked")
    };
    assert_eq!(panic.into_payload().downcast_ref(), Some(&7u8));
}

/// The drop of a value, of what a closure owns, and of a panic's payload, each where no job is left to hear of it.
#[test]
fn panics_that_no_job_hears_of_cost_no_thread() {
    let _watchdog = Watchdog::new();
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("on purpose");
        }
    }
    let busy = Busy::new(1);
    let pool = busy.pool.clone();
    let bombs: [fn() -> Bomb; 2] = [|| Bomb, || panic_any(Bomb)];
    for bomb in bombs {
        let (gate, opened) = channel::<()>();
        let (tell, is_running) = channel();
        let other = pool_of_one(1);
        let clone = other.clone();
        let leaves = paused(&WaitCtx::new(), move || {
            let run = clone.run(move || {
                tell.send(()).unwrap();
                let _ = opened.recv();
                bomb()
            });
            run.map(std::mem::forget)
        });
        is_running.recv().unwrap();
        assert!(was_cancelled(leaves.cancel()));
        drop(gate);
        assert_eq!(as_job(move || other.run(|| 5)).unwrap(), 5);
    }
    let owned = Bomb;
    let unrun = busy.offload(move || drop(owned));
    let behind = busy.offload(|| ());
    let ender = thread::spawn(move || pool.shutdown());
    assert!(matches!(finish(unrun), Err(OffloadError::ShutDown)));
    assert!(matches!(finish(behind), Err(OffloadError::ShutDown)));
    busy.open();
    ender.join().unwrap();
}

/// Callbacks of drivers that panic: neither the thread that calls them nor those behind them in the line are harmed.
#[test]
fn callbacks_that_panic_cost_no_thread_and_no_result() {
    let _watchdog = Watchdog::new();
    let busy = Busy::new(1);
    let called = Arc::new(AtomicUsize::new(0));
    let jobs: Vec<_> = (0..4)
        .map(|n| {
            let (ctx, pool, called) = (WaitCtx::new(), busy.pool.clone(), Arc::clone(&called));
            ctx.set_callback(Some(waker_fn(move || {
                called.fetch_add(1, SeqCst);
                panic!("a driver's callback, on purpose");
            })));
            paused(&ctx, move || pool.run(move || n))
        })
        .collect();
    let pool = busy.pool.clone();
    busy.open();
    let results: Vec<_> = jobs.into_iter().map(|job| finish(job).unwrap()).collect();
    assert_eq!(results, [0, 1, 2, 3]);
    assert_eq!(as_job(move || pool.run(|| 5)).unwrap(), 5);
    assert_eq!(called.load(SeqCst), 4);
}

/// The same, where the last handle goes and closures are refused.
#[test]
fn callbacks_that_panic_do_not_stop_a_shutdown() {
    let _watchdog = Watchdog::new();
    let busy = Busy::new(1);
    let jobs = [0, 1, 2].map(|n| {
        let (ctx, pool) = (WaitCtx::new(), busy.pool.clone());
        ctx.set_callback(Some(waker_fn(|| panic!("a driver's callback, on purpose"))));
        paused(&ctx, move || pool.run(move || n))
    });
    let pool = busy.pool.clone();
    let ender = thread::spawn(move || pool.shutdown());
    for job in jobs {
        assert!(matches!(finish(job), Err(OffloadError::ShutDown)));
    }
    busy.open();
    ender.join().unwrap();
}

#[test]
fn try_run_gives_the_closure_back_when_the_queue_is_full() {
    let _watchdog = Watchdog::new();
    let busy = Busy::new(2);
    let ctx = WaitCtx::new();
    let waiting: Vec<_> = (0..2)
        .map(|n| {
            let pool = busy.pool.clone();
            paused(&ctx, move || pool.try_run(move || n).map_err(|e| e.to_string()))
        })
        .collect();
    assert_eq!(busy.line(), (2, 0));
    let pool = busy.pool.clone();
    let payload = vec![1, 2, 3];
    let refused = as_job(move || match pool.try_run(move || payload) {
        Err(TryRunError::Full(f)) => f.into_inner(),
        _ => panic!("the queue is full"),
    });
    let pool = busy.pool.clone();
    busy.open();
    let results: Vec<_> = waiting.into_iter().map(finish).collect();
    assert_eq!(results, [Ok(0), Ok(1)]);
    assert_eq!(
        as_job(move || pool.try_run(refused).unwrap()),
        [1, 2, 3],
        "the same closure, later"
    );
}

#[test]
fn closures_are_run_in_the_order_of_the_calls() {
    let _watchdog = Watchdog::new();
    let busy = Busy::new(1);
    let order = Arc::new(Mutex::new(Vec::new()));
    let jobs: Vec<_> = (0..4)
        .map(|n| {
            let order = Arc::clone(&order);
            busy.offload(move || order.lock().unwrap().push(n))
        })
        .collect();
    assert_eq!(busy.line(), (1, 3));
    let pool = busy.pool.clone();
    let overtaking = as_job(move || matches!(pool.try_run(|| ()), Err(TryRunError::Full(_))));
    assert!(overtaking);
    busy.open();
    jobs.into_iter().for_each(|job| finish(job).unwrap());
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3]);
}

#[test]
fn a_cancelled_job_takes_its_closure_out_of_the_line() {
    let _watchdog = Watchdog::new();
    struct Owned(Arc<AtomicUsize>);
    impl Drop for Owned {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    let busy = Busy::new(1);
    let drops = Arc::new(AtomicUsize::new(0));
    let ran = Arc::new(AtomicUsize::new(0));
    let spawn = || {
        let (owned, ran) = (Owned(Arc::clone(&drops)), Arc::clone(&ran));
        busy.offload(move || {
            ran.fetch_add(1, SeqCst);
            drop(owned);
        })
    };
    let (queued, first, second) = (spawn(), spawn(), spawn());
    assert_eq!(busy.line(), (1, 2));
    assert!(was_cancelled(first.cancel()));
    assert_eq!((drops.load(SeqCst), busy.line()), (1, (1, 1)));
    assert!(was_cancelled(queued.cancel()));
    assert_eq!((drops.load(SeqCst), busy.line()), (2, (1, 0)), "the next one moved up");
    busy.open();
    finish(second).unwrap();
    assert_eq!((drops.load(SeqCst), ran.load(SeqCst)), (3, 1));
}

/// A job that waits and is given up keeps nothing: neither its place nor the line behind it waits for it.
#[test]
fn a_quarantined_job_keeps_no_place() {
    let _watchdog = Watchdog::new();
    let busy = Busy::new(1);
    let ran = Arc::new(AtomicUsize::new(0));
    let spawn = || {
        let ran = Arc::clone(&ran);
        busy.offload(move || ran.fetch_add(1, SeqCst))
    };
    let (queued, given_up, behind) = (spawn(), spawn(), spawn());
    given_up.quarantine();
    let pool = busy.pool.clone();
    busy.open();
    assert_eq!((finish(queued).unwrap(), finish(behind).unwrap()), (0, 2));
    assert_eq!(as_job(move || pool.try_run(|| 5)).unwrap(), 5, "the queue is empty");
}

/// What a paused job waits for does not depend on its thread: here that thread is blocked by another job, which waits
/// behind it in the same line.
#[test]
fn a_blocked_job_does_not_wait_for_a_paused_job_of_its_thread() {
    let _watchdog = Watchdog::new();
    let order = {
        let busy = Busy::new(1);
        let order = Arc::new(Mutex::new(Vec::new()));
        let spawn = |name: &'static str| {
            let order = Arc::clone(&order);
            busy.offload(move || order.lock().unwrap().push(name))
        };
        let paused = [spawn("queued"), spawn("waiting"), spawn("waiting, too")];
        let (pool, in_blocked) = (busy.pool.clone(), Arc::clone(&order));
        let Busy { gate, holder, .. } = busy;
        let step = start_job(&WaitCtx::new(), move || {
            let _lock_is_held = block_pause();
            drop(gate);
            pool.run_or_block(move || in_blocked.lock().unwrap().push("blocked"))
        });
        finished(step.unwrap()).unwrap();
        paused.into_iter().for_each(|job| finish(job).unwrap());
        finish(holder).unwrap();
        Arc::into_inner(order).unwrap().into_inner().unwrap()
    };
    assert_eq!(order, ["queued", "waiting", "waiting, too", "blocked"]);
}

/// The same under the scheduler, which is what the host of such jobs is.
#[test]
fn a_blocked_job_of_a_scheduler_does_not_wait_for_the_others() {
    let _watchdog = Watchdog::new();
    let sum = {
        let pool = pool_of_one(1);
        let scheduler = Scheduler::new().unwrap();
        let jobs: Vec<_> = (0..20)
            .map(|n| {
                let pool = pool.clone();
                let job = scheduler.spawn(move || {
                    let _lock_is_held = (n % 3 == 2).then(block_pause);
                    pool.run_or_block(move || n)
                });
                job.unwrap()
            })
            .collect();
        scheduler.run().unwrap();
        jobs.into_iter().map(|job| job.join().unwrap().unwrap()).sum::<i32>()
    };
    assert_eq!(sum, 190);
}

#[test]
fn shutdown_finishes_what_runs_and_refuses_the_rest() {
    let _watchdog = Watchdog::new();
    let busy = Busy::new(1);
    let (queued, waiting) = (busy.offload(|| ()), busy.offload(|| ()));
    let pool = busy.pool.clone();
    let ender = {
        let pool = pool.clone();
        thread::spawn(move || pool.shutdown())
    };
    // Both are refused though the thread is busy still; only then is it let go.
    for job in [queued, waiting] {
        assert!(matches!(finish(job), Err(OffloadError::ShutDown)));
    }
    busy.open();
    ender.join().unwrap();
    let (late, try_late) = (pool.clone(), pool.clone());
    assert!(matches!(as_job(move || late.run(|| ())), Err(OffloadError::ShutDown)));
    assert!(matches!(
        as_job(move || try_late.try_run(|| ())),
        Err(TryRunError::Failed(OffloadError::ShutDown))
    ));
    assert!(matches!(pool.run_or_block(|| ()), Err(OffloadError::ShutDown)));
    pool.shutdown(); // a second time: nothing to do
}

/// Where the code cannot pause, `run` says so and runs nothing; `run_or_block` blocks the thread.
#[test]
fn where_the_code_cannot_pause_it_fails_or_blocks_as_asked() {
    let _watchdog = Watchdog::new();
    let pool = Offload::new(1).unwrap();
    let ran = Arc::new(AtomicBool::new(false));
    let run = || {
        let ran = Arc::clone(&ran);
        move || ran.store(true, SeqCst)
    };
    assert!(matches!(pool.run(run()), Err(OffloadError::NotInJob)));
    assert!(matches!(
        pool.try_run(run()),
        Err(TryRunError::Failed(OffloadError::NotInJob))
    ));
    let here = thread::current().id();
    assert_ne!(pool.run_or_block(|| thread::current().id()).unwrap(), here);

    let (in_job, in_closure, second) = (pool.clone(), Arc::clone(&ran), run());
    let step = start_job(&WaitCtx::new(), move || {
        let _no_pause = block_pause();
        for _ in 0..10_000 {
            let ran = Arc::clone(&in_closure);
            let result = in_job.run(move || ran.store(true, SeqCst));
            assert!(matches!(result, Err(OffloadError::CannotPause)));
        }
        assert!(matches!(
            in_job.try_run(second),
            Err(TryRunError::Failed(OffloadError::CannotPause))
        ));
        in_job.run_or_block(|| thread::current().id()).unwrap()
    });
    assert_ne!(finished(step.unwrap()), here);
    pool.shutdown();
    assert!(!ran.load(SeqCst), "no closure of a refused call was run");
}

#[test]
fn a_blocking_wait_ends_at_the_deadline() {
    let _watchdog = Watchdog::new();
    let pool = Offload::new(1).unwrap();
    let (gate, opened) = channel::<()>();
    let late = with_deadline(Instant::now(), || pool.run_or_block(move || opened.recv().is_err()));
    drop(gate);
    assert!(matches!(late, Err(OffloadError::Interrupted(Interrupted::TimedOut))));
}

/// Closures that offload again would wait for their own thread, when each thread of the pool runs one.
#[test]
fn a_closure_that_offloads_again_does_not_wait_for_its_own_thread() {
    let _watchdog = Watchdog::new();
    let threads = {
        let pool = Offload::new(1).unwrap();
        let (again, refused) = (pool.clone(), pool.clone());
        let offloaded = pool.run_or_block(move || {
            assert!(matches!(refused.run(|| ()), Err(OffloadError::NotInJob)));
            assert_eq!(
                panic_text(again.run_or_block(|| panic!("on purpose")).unwrap_err()),
                "on purpose"
            );
            (
                thread::current().id(),
                again.run_or_block(|| thread::current().id()).unwrap(),
            )
        });
        offloaded.unwrap()
    };
    assert_eq!(threads.0, threads.1);
}

/// Without an fd for the wake the wait cannot begin, and the closure is not run.
#[test]
fn without_an_fd_left_it_fails_and_runs_nothing() {
    let _watchdog = Watchdog::new();
    // In a process of its own, because the limit holds for all its threads.
    let run = std::process::Command::new("sh")
        .args([
            "-c",
            "ulimit -n 50 && exec \"$0\" --exact --ignored runs_without_an_fd_left",
        ])
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && output.contains("1 passed"), "{output}");
}

#[test]
#[ignore = "run by without_an_fd_left_it_fails_and_runs_nothing, with few fds"]
fn runs_without_an_fd_left() {
    let _watchdog = Watchdog::new();
    let pool = Offload::new(1).unwrap();
    let ran = Arc::new(AtomicBool::new(false));
    let (in_job, in_closure) = (pool.clone(), Arc::clone(&ran));
    let open: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    let result = as_job(move || in_job.run(move || in_closure.store(true, SeqCst)));
    drop(open);
    assert!(matches!(&result, Err(OffloadError::NoWaker(_))), "{result:?}");
    assert!(result.unwrap_err().to_string().contains("RLIMIT_NOFILE"));
    assert_eq!(
        (pool.stats().queued, pool.stats().finished, ran.load(SeqCst)),
        (0, 0, false)
    );
}

/// A job that is cancelled already sends nothing: whether its closure ran would be chance.
#[test]
fn a_cancelled_job_offloads_nothing() {
    let _watchdog = Watchdog::new();
    let pool = Offload::new(1).unwrap();
    let ran = Arc::new(AtomicUsize::new(0));
    let (in_job, in_closure) = (pool.clone(), Arc::clone(&ran));
    let job = paused(&WaitCtx::new(), move || {
        let _ = pause_job();
        for _ in 0..10_000 {
            let ran = Arc::clone(&in_closure);
            let run = move || ran.fetch_add(1, SeqCst);
            assert!(matches!(
                in_job.run_or_block(run),
                Err(OffloadError::Interrupted(Interrupted::Cancelled))
            ));
        }
    });
    job.cancel().unwrap();
    pool.shutdown();
    assert_eq!(ran.load(SeqCst), 0);
}

#[test]
fn a_pool_needs_a_thread_and_a_place() {
    let _watchdog = Watchdog::new();
    for builder in [Offload::builder().threads(0), Offload::builder().queue_capacity(0)] {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        assert!(
            error.to_string().contains("at least one thread and one place"),
            "{error}"
        );
    }
}

#[test]
fn threads_have_names() {
    let _watchdog = Watchdog::new();
    let pool = Offload::builder().threads(1).name("token").build().unwrap();
    let name = as_job(move || pool.run(|| thread::current().name().map(str::to_owned)));
    assert_eq!(name.unwrap().as_deref(), Some("token-0"));
}

#[test]
fn errors_pass_through_a_question_mark() {
    let _watchdog = Watchdog::new();
    fn boxed(error: impl std::error::Error + Send + Sync + 'static) -> Box<dyn std::error::Error + Send + Sync> {
        error.into()
    }
    let pool = Offload::new(1).unwrap();
    let refused = pool.try_run(|| ()).unwrap_err();
    assert!(boxed(refused).to_string().contains("run_or_block"));
    let panicked = pool.run_or_block(|| panic!("on purpose")).unwrap_err();
    assert_eq!(
        boxed(panicked).to_string(),
        "the offloaded closure panicked: on purpose"
    );
}

#[test]
fn errors_become_io_errors_that_keep_them() {
    let _watchdog = Watchdog::new();
    use std::io::{Error, ErrorKind};
    let cancelled = Error::from(OffloadError::Interrupted(Interrupted::Cancelled));
    assert!(cancelled.get_ref().unwrap().is::<asyncjob::Cancelled>());
    let timed_out = Error::from(OffloadError::Interrupted(Interrupted::TimedOut));
    assert_eq!(timed_out.kind(), ErrorKind::TimedOut);
    let shut_down = Error::from(OffloadError::ShutDown);
    assert!(shut_down.get_ref().unwrap().is::<OffloadError>());
    let no_waker = OffloadError::NoWaker(ErrorKind::OutOfMemory.into());
    assert!(std::error::Error::source(&no_waker).is_some());
    let busy = Busy::new(1);
    let _queued = busy.offload(|| ());
    let pool = busy.pool.clone();
    let full = as_job(move || Error::from(pool.try_run(|| ()).unwrap_err()));
    assert_eq!(full.kind(), ErrorKind::ResourceBusy);
    busy.open();
}
