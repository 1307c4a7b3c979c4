//! Offloaded work runs on other threads while jobs go on here, and nobody's failure, panic or absence harms another.

mod drivers;

use std::cell::{Cell, RefCell};
use std::panic::panic_any;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::Instant;

use asyncjob::offload::{Offload, OffloadError, State, TryRunError};
use asyncjob::time::{with_deadline, yield_now};
use asyncjob::{Job, Status, Step, WaitCtx, block_pause, start_job, waker_fn};
use asyncjob_testing::Watchdog;
use drivers::{Drivers, EVERY};

/// A pool of one thread, which is busy until the gate is opened.
struct Busy {
    pool: Offload,
    gate: Sender<()>,
    holder: Job<Result<(), OffloadError>>,
}

impl Busy {
    fn new(places: usize) -> Self {
        let pool = Offload::builder().threads(1).queue(places).build(|| Ok(())).unwrap();
        let (gate, opened) = channel::<()>();
        let (tell, is_running) = channel();
        let clone = pool.clone();
        let holder = paused(&WaitCtx::new(), move || {
            clone.run(move |_| {
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

fn panic_text(error: OffloadError) -> &'static str {
    match error {
        OffloadError::Panicked(payload) => payload.downcast_ref::<&str>().copied().unwrap(),
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
            let there = offload.run(move |_| {
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
fn a_thousand_jobs_share_three_threads_under_every_driver() {
    let _watchdog = Watchdog::new();
    for rule in EVERY {
        let pool = Offload::builder().threads(3).queue(5).build(|| Ok(())).unwrap();
        let mut driver = Drivers::new(rule);
        let sum = Rc::new(Cell::new(0));
        for n in 0..250u64 {
            let (pool, sum) = (pool.clone(), Rc::clone(&sum));
            driver.start(move || {
                let four: u64 = (0..4).map(|k| pool.run(move |_| n * 4 + k).unwrap()).sum();
                sum.set(sum.get() + four);
            });
        }
        driver.run();
        assert_eq!((sum.get(), pool.stats().finished), (1000 * 999 / 2, 1000), "{rule:?}");
        assert_eq!(
            (pool.stats().queued, pool.stats().waiting_for_room, pool.stats().running),
            (0, 0, 0)
        );
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
    let job = paused(&ctx, move || pool.run(|_| 1));
    assert_eq!((ctx.status(), ctx.fds(), calls.load(SeqCst)), (Status::Ok, vec![], 0));
    busy.open();
    assert_eq!(finish(job).unwrap(), 1);
    assert_eq!(calls.load(SeqCst), 1);
    assert_eq!(ctx.status(), Status::Unsupported, "as it was");
}

#[test]
fn each_thread_makes_its_state_once_and_keeps_it() {
    let _watchdog = Watchdog::new();
    struct Session(ThreadId, u32);
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let pool = Offload::builder().threads(2).build(move || {
        count.fetch_add(1, SeqCst);
        Ok(Session(thread::current().id(), 0))
    });
    let pool = pool.unwrap();
    let uses = Arc::new(Mutex::new(Vec::new()));
    for _ in 0..50 {
        let (pool, uses) = (pool.clone(), Arc::clone(&uses));
        as_job(move || {
            pool.run(move |session| {
                assert_eq!(session.0, thread::current().id());
                session.1 += 1;
                uses.lock().unwrap().push(session.1);
            })
        })
        .unwrap();
    }
    let threads = made.load(SeqCst);
    assert!((1..=2).contains(&threads), "{threads}");
    let firsts = uses.lock().unwrap().iter().filter(|&&n| n == 1).count();
    assert_eq!(firsts, threads, "every other use was of a state that had been used");
}

#[test]
fn a_state_is_made_again_after_it_is_discarded_or_a_closure_panics() {
    let _watchdog = Watchdog::new();
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let builder = Offload::builder().threads(1);
    let pool = builder.build(move || Ok(count.fetch_add(1, SeqCst))).unwrap();
    let run = |f: fn(&mut State<usize>) -> usize| {
        let pool = pool.clone();
        as_job(move || pool.run(f))
    };
    assert_eq!((run(|state| **state).unwrap(), run(|state| **state).unwrap()), (0, 0));
    let discarded = run(|state| {
        state.discard();
        **state
    });
    assert_eq!((discarded.unwrap(), run(|state| **state).unwrap()), (0, 1));
    assert_eq!(panic_text(run(|_| panic!("on purpose")).unwrap_err()), "on purpose");
    assert_eq!(run(|state| **state).unwrap(), 2);
    assert_eq!((made.load(SeqCst), pool.stats().finished), (3, 6));
}

#[test]
fn a_state_that_cannot_be_made_fails_that_closure_only() {
    let _watchdog = Watchdog::new();
    let plugged_in = Arc::new(AtomicBool::new(false));
    let token = Arc::clone(&plugged_in);
    let pool = Offload::builder().threads(1).build(move || match token.load(SeqCst) {
        true => Ok("session"),
        false => Err("no token".into()),
    });
    let pool = pool.unwrap();
    let use_it = || {
        let pool = pool.clone();
        as_job(move || pool.run(|session| **session))
    };
    let error = use_it().unwrap_err();
    assert!(matches!(error, OffloadError::NoState(_)));
    assert_eq!(error.to_string(), "no state for the offload thread: no token");
    plugged_in.store(true, SeqCst);
    assert_eq!(use_it().unwrap(), "session");
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
                .filter(|_| matches!(pool.run(|_| panic_any(Quiet)), Err(OffloadError::Panicked(_))))
                .count()
        }
    });
    assert_eq!((panics, pool.stats().finished), (10_000, 10_000));
    assert_eq!(as_job(move || pool.run(|_| 5)).unwrap(), 5);
}

#[test]
fn a_panic_of_a_value_that_is_dropped_late_costs_no_thread() {
    let _watchdog = Watchdog::new();
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("on purpose");
        }
    }
    let busy = Busy::new(1);
    let (gate, opened) = channel::<()>();
    let pool = busy.pool.clone();
    // Its job goes while it runs, so its result, which panics when dropped, is dropped by the pool's thread.
    let (tell, is_running) = channel();
    let abandoned = paused(&WaitCtx::new(), move || {
        pool.run(move |_| {
            tell.send(()).unwrap();
            let _ = opened.recv();
            Bomb
        })
        .map(std::mem::forget)
    });
    let pool = busy.pool.clone();
    busy.open();
    is_running.recv().unwrap();
    assert!(matches!(abandoned.cancel(), Ok(Err(OffloadError::Cancelled))));
    drop(gate);
    assert_eq!(as_job(move || pool.run(|_| 5)).unwrap(), 5);
}

#[test]
fn try_run_gives_the_closure_back_when_the_queue_is_full() {
    let _watchdog = Watchdog::new();
    let busy = Busy::new(2);
    let ctx = WaitCtx::new();
    let waiting: Vec<_> = (0..2)
        .map(|n| {
            let pool = busy.pool.clone();
            paused(&ctx, move || pool.try_run(move |_| n).map_err(|e| e.to_string()))
        })
        .collect();
    assert_eq!(busy.pool.stats().queued, 2);
    let pool = busy.pool.clone();
    let payload = vec![1, 2, 3];
    let refused = as_job(move || match pool.try_run(move |_| payload) {
        Err(TryRunError::Full(f)) => f,
        _ => panic!("there is no room"),
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
fn jobs_wait_for_room_in_turn_and_nobody_overtakes() {
    let _watchdog = Watchdog::new();
    let busy = Busy::new(1);
    let order = Arc::new(Mutex::new(Vec::new()));
    let jobs: Vec<_> = (0..4)
        .map(|n| {
            let (pool, order) = (busy.pool.clone(), Arc::clone(&order));
            paused(&WaitCtx::new(), move || {
                pool.run(move |_| order.lock().unwrap().push(n))
            })
        })
        .collect();
    let stats = busy.pool.stats();
    assert_eq!((stats.queued, stats.waiting_for_room), (1, 3));
    let pool = busy.pool.clone();
    let overtaking = as_job(move || matches!(pool.try_run(|_| ()), Err(TryRunError::Full(_))));
    assert!(overtaking);
    busy.open();
    jobs.into_iter().for_each(|job| finish(job).unwrap());
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3]);
}

#[test]
fn a_cancelled_job_takes_its_closure_out_of_the_queue() {
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
        let (pool, owned, ran) = (busy.pool.clone(), Owned(Arc::clone(&drops)), Arc::clone(&ran));
        paused(&WaitCtx::new(), move || {
            pool.run(move |_| {
                ran.fetch_add(1, SeqCst);
                drop(owned);
            })
        })
    };
    let (queued, first, second) = (spawn(), spawn(), spawn());
    assert_eq!((busy.pool.stats().queued, busy.pool.stats().waiting_for_room), (1, 2));

    assert!(matches!(first.cancel(), Ok(Err(OffloadError::Cancelled))));
    assert_eq!(
        (drops.load(SeqCst), busy.pool.stats().waiting_for_room),
        (1, 1),
        "it waited for room"
    );
    assert!(matches!(queued.cancel(), Ok(Err(OffloadError::Cancelled))));
    assert_eq!(
        (drops.load(SeqCst), busy.pool.stats().queued),
        (2, 0),
        "it waited for the thread"
    );
    busy.open();
    finish(second).unwrap();
    assert_eq!(
        (drops.load(SeqCst), ran.load(SeqCst)),
        (3, 1),
        "the place went to who waited"
    );
}

#[test]
fn a_place_that_was_given_to_a_job_that_goes_is_given_on() {
    let _watchdog = Watchdog::new();
    let busy = Busy::new(1);
    let spawn = |n| {
        let pool = busy.pool.clone();
        paused(&WaitCtx::new(), move || pool.run(move |_| n))
    };
    let (queued, first, second) = (spawn(0), spawn(1), spawn(2));
    drop(queued); // its place is given to `first`, which has not come for it
    assert_eq!((busy.pool.stats().queued, busy.pool.stats().waiting_for_room), (0, 2));
    drop(first);
    busy.open();
    assert_eq!(finish(second).unwrap(), 2);
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
        clone.run(move |_| {
            begin.send(()).unwrap();
            let _ = opened.recv();
            tell.send(buffer.iter().map(|&b| usize::from(b)).sum::<usize>())
                .unwrap();
            buffer
        })
    });
    has_begun.recv().unwrap();
    assert!(matches!(job.cancel(), Ok(Err(OffloadError::Cancelled))));
    drop(gate);
    assert_eq!(told.recv().unwrap(), 7 << 16);
}

#[test]
fn shutdown_finishes_what_runs_and_refuses_the_rest() {
    let _watchdog = Watchdog::new();
    let busy = Busy::new(1);
    let spawn = || {
        let pool = busy.pool.clone();
        paused(&WaitCtx::new(), move || pool.run(|_| ()))
    };
    let (queued, waiting) = (spawn(), spawn());
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
    let late = pool.clone();
    assert!(matches!(as_job(move || late.run(|_| ())), Err(OffloadError::ShutDown)));
    assert!(matches!(pool.run(|_| ()), Err(OffloadError::ShutDown)), "inline too");
    assert!(matches!(
        pool.try_run(|_| ()),
        Err(TryRunError::Failed(OffloadError::ShutDown))
    ));
    pool.shutdown(); // a second time: nothing to do
}

#[test]
fn a_closure_may_shut_its_own_pool_down() {
    let _watchdog = Watchdog::new();
    let pool = Offload::new(2).unwrap();
    let clone = pool.clone();
    as_job(move || pool.run(move |_| clone.shutdown())).unwrap();
}

#[test]
fn the_last_handle_ends_the_threads_and_their_states() {
    let _watchdog = Watchdog::new();
    struct Session(Sender<()>);
    impl Drop for Session {
        fn drop(&mut self) {
            self.0.send(()).unwrap();
        }
    }
    let (ended, ends) = channel();
    let pool = Offload::builder()
        .threads(1)
        .build(move || Ok(Session(ended.clone())))
        .unwrap();
    let second = pool.clone();
    as_job(move || pool.run(|_| ())).unwrap();
    assert!(ends.try_recv().is_err(), "a handle is left");
    drop(second);
    ends.recv().unwrap();
}

#[test]
fn outside_a_job_it_runs_inline_on_a_state_of_this_thread() {
    let _watchdog = Watchdog::new();
    let pool = Offload::builder()
        .threads(1)
        .build(|| Ok(thread::current().id()))
        .unwrap();
    let here = thread::current().id();
    let on = |pool: &Offload<ThreadId>| pool.run(|state| (**state, thread::current().id())).unwrap();
    assert_eq!((on(&pool), on(&pool)), ((here, here), (here, here)));
    let clone = pool.clone();
    let there = as_job(move || clone.run(|state| **state)).unwrap();
    assert_ne!(there, here, "the pool's thread has a state of its own");
    assert_eq!(pool.stats().finished, 1, "inline ones do not count");
}

#[test]
fn inline_states_are_kept_by_pool_nest_and_go_with_it() {
    let _watchdog = Watchdog::new();
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_sub(1, SeqCst);
        }
    }
    let alive = Arc::new(AtomicUsize::new(0));
    let pool = |alive: &Arc<AtomicUsize>| {
        let alive = Arc::clone(alive);
        let builder = Offload::builder().threads(1);
        let made = builder.build(move || {
            alive.fetch_add(1, SeqCst);
            Ok(Counted(Arc::clone(&alive)))
        });
        made.unwrap()
    };
    let (one, two) = (pool(&alive), pool(&alive));
    for _ in 0..3 {
        one.run(|_| ()).unwrap();
        two.run(|_| ()).unwrap();
    }
    assert_eq!(alive.load(SeqCst), 2);
    let inner = one.clone();
    let during = Arc::clone(&alive);
    let nested = one.run(move |_| inner.run(move |_| during.load(SeqCst)).unwrap());
    assert_eq!(
        (nested.unwrap(), alive.load(SeqCst)),
        (3, 2),
        "a second one only while both are in use"
    );
    assert_eq!(panic_text(one.run(|_| panic!("on purpose")).unwrap_err()), "on purpose");
    assert_eq!(alive.load(SeqCst), 1);
    drop(two);
    one.run(|_| ()).unwrap();
    assert_eq!(
        alive.load(SeqCst),
        1,
        "the state of the pool that is gone went at the next look"
    );
}

#[test]
fn a_closure_that_offloads_again_does_not_wait_for_its_own_thread() {
    let _watchdog = Watchdog::new();
    let pool = Offload::new(1).unwrap();
    let again = pool.clone();
    let value = as_job(move || pool.run(move |_| again.run(|_| 3).unwrap()));
    assert_eq!(value.unwrap(), 3);
}

#[test]
fn where_a_job_may_not_pause_it_blocks() {
    let _watchdog = Watchdog::new();
    let pool = Offload::new(1).unwrap();
    let here = thread::current().id();
    let step = start_job(&WaitCtx::new(), move || {
        let _no_pause = block_pause();
        let there = pool.run(|_| thread::current().id()).unwrap();
        let (gate, opened) = channel::<()>();
        let late = with_deadline(Instant::now(), || pool.run(move |_| opened.recv().is_err()));
        drop(gate);
        (there != here, late)
    });
    let (elsewhere, late) = finished(step.unwrap());
    assert!(elsewhere);
    assert!(matches!(late, Err(OffloadError::TimedOut)));
}

#[test]
fn a_pool_needs_a_thread_and_a_place() {
    let _watchdog = Watchdog::new();
    for builder in [Offload::builder().threads(0), Offload::builder().queue(0)] {
        let error = builder.build(|| Ok(())).unwrap_err();
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
    let pool = Offload::builder().threads(1).name("token").build(|| Ok(())).unwrap();
    let name = as_job(move || pool.run(|_| thread::current().name().map(str::to_owned)));
    assert_eq!(name.unwrap().as_deref(), Some("token-0"));
}

#[test]
fn errors_become_io_errors_that_say_the_same() {
    let _watchdog = Watchdog::new();
    use std::io::{Error, ErrorKind};
    let from = |error: OffloadError| {
        let text = error.to_string();
        let error = Error::from(error);
        assert!(text.contains(&error.to_string()), "{text} / {error}");
        error.kind()
    };
    assert_eq!(from(OffloadError::TimedOut), ErrorKind::TimedOut);
    assert_eq!(from(OffloadError::Cancelled), ErrorKind::Other);
    assert_eq!(from(OffloadError::NoState("no token".into())), ErrorKind::Other);
    assert_eq!(from(OffloadError::Panicked(Box::new("text"))), ErrorKind::Other);
    assert_eq!(from(OffloadError::ShutDown), ErrorKind::Other);
    as_job(|| yield_now().unwrap());
}
