//! Promise: a wait ctx stores a callback, a status and a deadline for its driver, and acts on none of them.

mod by_hand;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use asyncjob::{Status, WaitCtx, pause_job, waker_fn};
use asyncjob_testing::Watchdog;
use by_hand::{finished, paused_with};

fn counting() -> (Arc<AtomicU32>, std::task::Waker) {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let waker = waker_fn(move || {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    (calls, waker)
}

/// S63: a new ctx has no callback, and a driver may set none.
#[test]
fn a_ctx_has_no_callback_until_one_is_set() {
    let ctx = WaitCtx::new();
    assert!(ctx.callback().is_none());
    ctx.set_callback(None);
    assert!(ctx.callback().is_none());
    let (calls, waker) = counting();
    ctx.set_callback(Some(waker));
    ctx.callback().unwrap().wake();
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    ctx.set_callback(None);
    assert!(ctx.callback().is_none());
}

/// S64: the library never calls the callback: not at a start, a pause, a resume, an end, or a drop.
#[test]
fn only_the_engine_calls_the_callback() {
    let ctx = WaitCtx::new();
    let (calls, waker) = counting();
    ctx.set_callback(Some(waker));
    finished(paused_with(&ctx, || pause_job().unwrap()).resume());
    drop(paused_with(&ctx, || {
        let _ = pause_job();
    }));
    drop(ctx);
    assert_eq!(calls.load(Ordering::Relaxed), 0);
}

/// S64: any thread may call the callback any number of times, before the pause and after the job has ended.
#[test]
fn the_callback_may_be_called_at_any_time() {
    let _watchdog = Watchdog::new();
    let ctx = WaitCtx::new();
    let (calls, waker) = counting();
    ctx.set_callback(Some(waker));
    let engine = ctx.clone();
    let job = paused_with(&ctx, move || {
        let caller = engine.clone();
        thread::spawn(move || caller.callback().unwrap().wake_by_ref())
            .join()
            .unwrap(); // before the pause
        pause_job().unwrap();
        engine.callback().unwrap()
    });
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    let kept = finished(job.resume());
    drop(ctx);
    kept.wake_by_ref(); // after the job and the ctx are gone
    kept.wake();
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}

/// S2 and S65: the status is 0 until it is set. It may be any number, and later jobs do not reset it.
#[test]
fn the_status_is_any_number_and_stays() {
    let ctx = WaitCtx::new();
    assert_eq!(ctx.status(), Status::Unsupported);
    let known = [
        (0, Status::Unsupported),
        (1, Status::Err),
        (2, Status::Ok),
        (3, Status::Eagain),
    ];
    let others = [4, -1, i32::MAX, i32::MIN].map(|raw| (raw, Status::Other(raw)));
    for (raw, status) in known.into_iter().chain(others) {
        assert_eq!((Status::from_raw(raw), status.to_raw()), (status, raw));
        let inside = ctx.clone();
        let job = paused_with(&ctx, move || {
            inside.set_status(status);
            pause_job().unwrap();
        });
        assert_eq!(ctx.status(), status);
        finished(job.resume());
        assert_eq!(ctx.status(), status);
        finished(paused_with(&ctx, || pause_job().unwrap()).resume());
        assert_eq!(ctx.status(), status, "not reset by the next job");
    }
    assert_eq!(Status::default(), Status::Unsupported);
}

/// The ctx keeps a deadline until it is removed. A deadline in the past stays in the past, and one that is too far to
/// be stored exactly stays far.
#[test]
fn the_deadline_is_kept() {
    let ctx = WaitCtx::new();
    assert_eq!(ctx.deadline(), None);
    let start = Instant::now();
    ctx.set_deadline(Some(start));
    assert!(
        ctx.deadline().unwrap() <= Instant::now(),
        "the first deadline of a process may be in the past already"
    );
    for later in [
        Duration::from_nanos(1),
        Duration::from_secs(1),
        Duration::from_secs(1 << 32),
    ] {
        let at = Instant::now() + later;
        ctx.set_deadline(Some(at));
        assert_eq!(ctx.deadline(), Some(at));
    }
    if let Some(past) = start.checked_sub(Duration::from_secs(1)) {
        ctx.set_deadline(Some(past));
        assert!(ctx.deadline().unwrap() <= Instant::now());
    }
    ctx.set_deadline(None);
    assert_eq!(ctx.deadline(), None);
}
