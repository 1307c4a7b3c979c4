//! Promise: a pause where `no_pause` forbids it is an error, and is reported once for each guard, with where the guard
//! and the pause are.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use asyncjob::waiting::{WaitSpec, await_or_block, pause_until};
use asyncjob::{
    Job, JobBuilder, PauseError, Step, WaitCtx, capture_backtraces, no_pause, on_forbidden_pause, pause_job, start_job,
};
use asyncjob_testing::Watchdog;

/// What was reported: what is held, the line of the guard, the text.
type Reports = Arc<Mutex<Vec<(&'static str, u32, String)>>>;

/// The report is one of the whole process, so the tests take turns.
fn reports() -> (MutexGuard<'static, ()>, Reports) {
    static ONE: Mutex<()> = Mutex::new(());
    let alone = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let reports = Reports::default();
    let into = Arc::clone(&reports);
    on_forbidden_pause(move |pause| {
        let text = pause.to_string();
        into.lock().unwrap().push((pause.what, pause.held_at.line(), text));
        panic!("a panic of the report ends there");
    });
    capture_backtraces(true);
    (alone, reports)
}

fn finish<T: 'static>(f: impl FnOnce() -> T + 'static) -> T {
    match JobBuilder::new().name("holder").start(f).unwrap() {
        Step::Finished(value) => value,
        Step::Paused(_) => panic!("it paused"),
    }
}

#[inline(never)]
fn takes_the_lock() -> (asyncjob::NoPause, u32) {
    (no_pause("the lock"), line!())
}

#[inline(never)]
fn pauses_deep_inside() -> Result<(), PauseError> {
    std::hint::black_box(pause_job())
}

#[test]
fn a_forbidden_pause_is_an_error_and_reported_once_with_both_backtraces() {
    let (_alone, reports) = reports();
    let line = finish(|| {
        let (held, line) = takes_the_lock();
        for _ in 0..3 {
            assert_eq!(pauses_deep_inside(), Err(PauseError::Blocked));
        }
        drop(held);
        line
    });
    let reports = reports.lock().unwrap();
    let [(what, at, text)] = &reports[..] else {
        panic!("{reports:?}")
    };
    assert_eq!((*what, *at), ("the lock", line));
    assert!(
        text.contains("(holder) pauses while it holds the lock, since tests/no_pause.rs:"),
        "{text}"
    );
    let (held, paused) = text.split_once("paused by:").unwrap();
    assert!(
        held.contains("takes_the_lock") && !held.contains("pauses_deep_inside"),
        "{text}"
    );
    assert!(
        paused.contains("pauses_deep_inside") && !paused.contains("takes_the_lock"),
        "{text}"
    );
}

/// What need not wait is no mistake. What has to is one, also if it blocks the thread instead of the job.
#[test]
fn a_wait_under_the_guard_blocks_and_is_reported() {
    let (_watchdog, (_alone, reports)) = (Watchdog::new(), reports());
    finish(|| {
        let _held = no_pause("a table");
        assert_eq!(pause_until(WaitSpec::retry(), || Some(1)), Ok(1));
        assert_eq!(await_or_block(async { 2 }).unwrap(), 2);
    });
    assert!(reports.lock().unwrap().is_empty(), "nothing waited");
    finish(|| {
        let _held = no_pause("a table");
        let mut asked = 0;
        let third = || {
            asked += 1;
            (asked == 3).then_some(asked)
        };
        assert_eq!(pause_until(WaitSpec::retry(), third), Ok(3));
    });
    finish(|| {
        let _held = no_pause("a channel");
        let mut is_second = false;
        let second_poll = std::future::poll_fn(move |task| {
            if std::mem::replace(&mut is_second, true) {
                return std::task::Poll::Ready(7);
            }
            let waker = task.waker().clone();
            std::thread::spawn(move || waker.wake());
            std::task::Poll::Pending
        });
        assert_eq!(await_or_block(second_poll).unwrap(), 7);
    });
    finish(|| {
        let _held = no_pause("a clock");
        // Long enough that it is not over before it has begun, on an emulator.
        let _ = asyncjob::time::sleep(Duration::from_millis(50));
    });
    let whats: Vec<_> = reports.lock().unwrap().iter().map(|(what, ..)| *what).collect();
    assert_eq!(whats, ["a table", "a channel", "a clock"]);
}

#[test]
fn only_the_job_with_the_guard_is_held() {
    let (_alone, reports) = reports();
    let outside = no_pause("nothing: this is no job");
    let inner = finish(|| {
        let held = no_pause("the outer one");
        let Ok(Step::Paused(inner)) = start_job(&WaitCtx::new(), pause_job) else {
            panic!("it may pause")
        };
        drop(held);
        inner
    });
    assert!(matches!(Job::resume(inner), Step::Finished(Ok(()))));
    let after = start_job(&WaitCtx::new(), || {
        drop(no_pause("gone"));
        pause_job()
    });
    let Ok(Step::Paused(job)) = after else {
        panic!("the guard is gone")
    };
    drop(outside);
    assert!(matches!(job.resume(), Step::Finished(Ok(()))));
    assert!(reports.lock().unwrap().is_empty());
}

/// Guards nest, and `block_pause` alone is no mistake.
#[test]
fn the_innermost_guard_is_named_first() {
    let (_alone, reports) = reports();
    capture_backtraces(false);
    finish(|| {
        let _outer = no_pause("outer");
        let inner = no_pause("inner");
        assert_eq!(pause_job(), Err(PauseError::Blocked));
        drop(inner);
        assert_eq!(pause_job(), Err(PauseError::Blocked));
    });
    finish(|| {
        let _blocked = asyncjob::block_pause();
        assert_eq!(pause_job(), Err(PauseError::Blocked));
    });
    let reports = reports.lock().unwrap();
    assert_eq!(
        reports.iter().map(|(what, ..)| *what).collect::<Vec<_>>(),
        ["inner", "outer"]
    );
    assert!(reports[0].2.contains("disabled backtrace"), "{}", reports[0].2);
}
