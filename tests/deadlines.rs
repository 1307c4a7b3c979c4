//! Promise: a deadline applies to every pause inside it, is never early, and leaves nothing behind.

mod drivers;

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

use asyncjob::io::Pausing;
use asyncjob::offload::{Offload, OffloadError};
use asyncjob::time::{self, sleep, sleep_until, with_deadline, with_timeout, yield_now};
use asyncjob::waiting::{AwaitError, await_future, await_or_block};
use asyncjob::{Interrupted, Job, Status, Step, WaitCtx, block_pause, start_job};
use asyncjob_testing::Watchdog;
use drivers::{Drivers, EVERY, Rule};

const HOUR: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_millis(2);

fn paused<T: 'static>(ctx: &WaitCtx, f: impl FnOnce() -> T + 'static) -> Job<T> {
    match start_job(ctx, f) {
        Ok(Step::Paused(job)) => job,
        _ => panic!("the job did not pause"),
    }
}

fn finished<T>(step: Step<T>) -> T {
    match step {
        Step::Finished(value) => value,
        Step::Paused(_) => panic!("the job paused"),
    }
}

#[test]
fn a_sleep_is_as_long_as_asked_under_every_driver() {
    let _watchdog = Watchdog::new();
    for rule in EVERY {
        let mut driver = Drivers::new(rule);
        let order = Rc::new(RefCell::new(Vec::new()));
        for (name, nap) in [("long", 12), ("short", 4)] {
            let order = Rc::clone(&order);
            driver.start(move || {
                let nap = Duration::from_millis(nap);
                let end = Instant::now() + nap;
                sleep(nap).unwrap();
                assert!(Instant::now() >= end, "never early");
                order.borrow_mut().push((end, name));
            });
        }
        driver.run();
        // The order is not checked, because on a busy machine both sleeps are over before the driver looks.
        order.borrow_mut().sort_by_key(|(_, name)| *name);
        assert_eq!(
            order.borrow().iter().map(|(_, name)| *name).collect::<Vec<_>>(),
            ["long", "short"],
            "{rule:?}"
        );
    }
}

#[test]
fn a_sleep_sets_the_deadline_of_the_ctx_and_restores_it() {
    let _watchdog = Watchdog::new();
    let ctx = WaitCtx::new();
    ctx.set_status(Status::Other(7));
    let end = Instant::now() + HOUR;
    let job = paused(&ctx, move || sleep_until(end));
    assert_eq!((ctx.deadline(), ctx.status()), (Some(end), Status::Unsupported));
    assert_eq!(job.cancel(), Ok(Err(Interrupted::Cancelled)));
    assert_eq!((ctx.deadline(), ctx.status()), (None, Status::Other(7)), "as before");
}

#[test]
fn an_early_resume_does_not_end_a_sleep() {
    let _watchdog = Watchdog::new();
    let ctx = WaitCtx::new();
    let mut job = paused(&ctx, || sleep(HOUR));
    for _ in 0..10 {
        let Step::Paused(again) = job.resume() else {
            panic!("the hour is not over")
        };
        job = again;
    }
    drop(job);
}

#[test]
fn every_kind_of_wait_ends_at_the_deadline_under_every_driver() {
    let _watchdog = Watchdog::new();
    for rule in EVERY {
        let mut driver = Drivers::new(rule);
        let ctx = driver.start(|| {
            let (stream, _peer) = UnixStream::pair().unwrap();
            let mut stream = Pausing::new(stream).unwrap();
            let pool = Offload::new(1).unwrap();
            let (release, held) = std::sync::mpsc::channel::<()>();

            let read = with_timeout(SOON, || stream.read(&mut [0]).unwrap_err().kind());
            assert_eq!(read, ErrorKind::TimedOut);
            assert_eq!(with_timeout(SOON, || sleep(HOUR)), Err(Interrupted::TimedOut));
            let future = with_timeout(SOON, || await_future(std::future::pending::<()>()));
            assert!(
                matches!(future, Err(AwaitError::Interrupted(Interrupted::TimedOut))),
                "{future:?}"
            );
            let work = with_timeout(SOON, || pool.run(move || held.recv().is_ok()));
            assert!(
                matches!(work, Err(OffloadError::Interrupted(Interrupted::TimedOut))),
                "{work:?}"
            );
            // The closure owns the receiver. It was either started by a thread, or dropped without a run.
            let _ = release.send(());
            assert!(with_deadline(Instant::now(), yield_now).is_err());
        });
        driver.run();
        assert_eq!((ctx.deadline(), ctx.fds()), (None, vec![]), "{rule:?}");
    }
}

#[test]
fn the_earlier_of_two_nested_deadlines_counts() {
    let _watchdog = Watchdog::new();
    let now = Instant::now();
    let (near, far) = (now + HOUR, now + 2 * HOUR);
    let ctx = WaitCtx::new();
    let outer_is_earlier = paused(&ctx, move || {
        with_deadline(near, || with_deadline(far, || sleep(3 * HOUR)))
    });
    assert_eq!(ctx.deadline(), Some(near));
    drop(outer_is_earlier);
    let inner_is_earlier = paused(&ctx, move || {
        with_deadline(far, || {
            let _ = with_deadline(near, || sleep(3 * HOUR));
            assert_eq!(time::deadline(), Some(far), "the inner deadline has ended");
        })
    });
    assert_eq!(ctx.deadline(), Some(near));
    drop(inner_is_earlier);
    assert_eq!(ctx.deadline(), None);
}

#[test]
fn a_deadline_ends_with_a_panic() {
    let _watchdog = Watchdog::new();
    let step = start_job(&WaitCtx::new(), || {
        let panic = catch_unwind(|| with_timeout(HOUR, || panic!("on purpose")));
        (panic.is_err(), time::deadline())
    });
    assert_eq!(finished(step.unwrap()), (true, None));
    let outside = catch_unwind(AssertUnwindSafe(|| with_timeout(HOUR, || panic!("on purpose"))));
    assert_eq!((outside.is_err(), time::deadline()), (true, None));
}

#[test]
fn a_sleep_that_ends_before_the_deadline_around_it_succeeds() {
    let _watchdog = Watchdog::new();
    for rule in EVERY {
        let mut driver = Drivers::new(rule);
        driver.start(|| assert_eq!(with_timeout(HOUR, || sleep(SOON)), Ok(())));
        driver.run();
    }
    assert_eq!(with_timeout(HOUR, || sleep(SOON)), Ok(()));
}

#[test]
fn an_operation_that_need_not_wait_succeeds_after_the_deadline() {
    let _watchdog = Watchdog::new();
    let (a, mut b) = UnixStream::pair().unwrap();
    let mut a = Pausing::new(a).unwrap();
    b.write_all(&[1, 2]).unwrap();
    with_deadline(Instant::now(), || a.read_exact(&mut [0])).unwrap();
    let step = start_job(&WaitCtx::new(), move || {
        with_deadline(Instant::now(), || a.read_exact(&mut [0]))
    });
    finished(step.unwrap()).unwrap();
}

#[test]
fn outside_a_job_a_deadline_applies_to_the_thread() {
    let _watchdog = Watchdog::new();
    let (a, _b) = UnixStream::pair().unwrap();
    let mut a = Pausing::new(a).unwrap();
    let read = with_timeout(SOON, || a.read(&mut [0]));
    assert_eq!(read.unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(with_timeout(SOON, || sleep(HOUR)), Err(Interrupted::TimedOut));
    assert_eq!(with_timeout(SOON, || sleep(Duration::MAX)), Err(Interrupted::TimedOut));
    let future = with_timeout(SOON, || await_or_block(std::future::pending::<()>()));
    assert!(matches!(future, Err(AwaitError::Interrupted(Interrupted::TimedOut))));
    assert_eq!(with_deadline(Instant::now(), yield_now), Err(Interrupted::TimedOut));
    assert_eq!((yield_now(), time::deadline()), (Ok(()), None));
}

#[test]
fn the_deadline_of_a_thread_does_not_apply_to_its_jobs() {
    let _watchdog = Watchdog::new();
    let inside = with_timeout(HOUR, || start_job(&WaitCtx::new(), time::deadline));
    assert_eq!(finished(inside.unwrap()), None);
}

#[test]
fn a_job_that_may_not_pause_sleeps_on_its_thread() {
    let _watchdog = Watchdog::new();
    let step = start_job(&WaitCtx::new(), || {
        let _no_pause = block_pause();
        let begin = Instant::now();
        let naps = (sleep(SOON), with_timeout(SOON, || sleep(HOUR)), yield_now());
        (naps, begin.elapsed() >= 2 * SOON)
    });
    let expected = ((Ok(()), Err(Interrupted::TimedOut), Ok(())), true);
    assert_eq!(finished(step.unwrap()), expected);
}

#[test]
fn jobs_that_yield_take_turns_under_every_driver() {
    let _watchdog = Watchdog::new();
    for rule in EVERY {
        let mut driver = Drivers::new(rule);
        let order = Rc::new(RefCell::new(Vec::new()));
        for name in ["a", "b", "c"] {
            let order = Rc::clone(&order);
            driver.start(move || {
                for _ in 0..3 {
                    order.borrow_mut().push(name);
                    yield_now().unwrap();
                }
            });
        }
        driver.run();
        assert_eq!(order.borrow().concat(), "abcabcabc", "{rule:?}");
    }
}

#[test]
fn a_yield_sets_the_status_eagain_and_restores_it() {
    let _watchdog = Watchdog::new();
    let ctx = WaitCtx::new();
    let job = paused(&ctx, yield_now);
    assert_eq!((ctx.status(), ctx.deadline()), (Status::Eagain, None));
    assert_eq!(finished(job.resume()), Ok(()));
    assert_eq!(ctx.status(), Status::Unsupported);
    assert_eq!(paused(&ctx, yield_now).cancel(), Ok(Err(Interrupted::Cancelled)));
}

#[test]
fn a_driver_wakes_a_sleeper_once() {
    let _watchdog = Watchdog::new();
    for rule in [Rule::Fds, Rule::Callback] {
        let mut driver = Drivers::new(rule);
        driver.start(|| sleep(SOON).unwrap());
        driver.run();
        // On a machine that is slow enough the time has passed before the job can pause.
        assert!(driver.resumes <= 1, "{rule:?}: {}", driver.resumes);
    }
}
