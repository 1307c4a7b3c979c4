//! Promise: a wait ctx has at most one live job of a driver, because one callback cannot wake two jobs. A second job is
//! refused with an explanation, and no wake is lost.

use std::os::fd::{AsFd, BorrowedFd};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use asyncjob::job_future::JobError;
use asyncjob::scheduler::{JoinError, Scheduler, Workers};
use asyncjob::{JobBuilder, SpawnErrorKind, Status, WaitCtx, WaitKey, current_job, pause_job, waker_fn};
use asyncjob_testing::Watchdog;

fn wait_once() -> bool {
    current_job().unwrap().wait_ctx().set_status(Status::Ok);
    pause_job().is_ok()
}

#[test]
fn a_second_job_is_refused_until_the_first_has_ended() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let ctx = WaitCtx::new();
    let with_ctx = || JobBuilder::new().wait_ctx(&ctx);
    let first = with_ctx().spawn_on(&scheduler, wait_once).unwrap();

    // The first job is queued, then paused. The ctx is in use both times.
    for _ in 0..2 {
        let here = with_ctx().spawn_on(&scheduler, wait_once).unwrap_err();
        assert_eq!(here.kind(), &SpawnErrorKind::WaitCtxInUse);
        assert!(here.to_string().contains("give each job a ctx of its own"), "{here}");
        let elsewhere = with_ctx().submit_to(&scheduler.handle(), wait_once).unwrap_err();
        assert_eq!(elsewhere.kind(), &SpawnErrorKind::WaitCtxInUse);
        scheduler.turn(Some(Duration::ZERO)).unwrap();
    }
    assert_eq!(scheduler.live_jobs(), 1, "a refused job is not counted");

    ctx.callback().unwrap().wake();
    assert!(scheduler.run_until(first).unwrap());
    assert!(ctx.callback().is_none(), "the callback was removed with the job");
    let next = with_ctx().spawn_on(&scheduler, || 7).unwrap();
    assert_eq!(scheduler.run_until(next).unwrap(), 7);
}

#[test]
fn a_second_job_as_a_future_is_refused_too() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let ctx = WaitCtx::new();
    let first = JobBuilder::new()
        .wait_ctx(&ctx)
        .spawn_on(&scheduler, wait_once)
        .unwrap();
    let mut task = Context::from_waker(Waker::noop());
    let mut second = std::pin::pin!(JobBuilder::new().wait_ctx(&ctx).future(wait_once));
    let refused = second.as_mut().poll(&mut task);
    assert!(
        matches!(refused, Poll::Ready(Err(JobError::WaitCtxInUse))),
        "{refused:?}"
    );
    scheduler.turn(Some(Duration::ZERO)).unwrap();
    ctx.callback().unwrap().wake();
    assert!(scheduler.run_until(first).unwrap(), "the first job received its wake");
}

/// A future releases its ctx when it is dropped, before its first poll or while its job is paused.
#[test]
fn a_dropped_future_releases_its_ctx() {
    let _watchdog = Watchdog::new();
    let ctx = WaitCtx::new();
    for polls in 0..2 {
        let mut task = Context::from_waker(Waker::noop());
        let mut job = Box::pin(JobBuilder::new().wait_ctx(&ctx).future(wait_once));
        for _ in 0..polls {
            assert!(job.as_mut().poll(&mut task).is_pending());
        }
        drop(job);
        assert!(ctx.callback().is_none());
    }
    let scheduler = Scheduler::new().unwrap();
    assert!(JobBuilder::new().wait_ctx(&ctx).spawn_on(&scheduler, || ()).is_ok());
}

/// However a job ends, it releases its ctx: by a panic, by a cancel before its start, or with its scheduler.
#[test]
fn every_end_of_a_job_releases_its_ctx() {
    let _watchdog = Watchdog::new();
    let ctx = WaitCtx::new();
    let with_ctx = || JobBuilder::new().wait_ctx(&ctx);
    let scheduler = Scheduler::new().unwrap();
    let panics = with_ctx().spawn_on(&scheduler, || -> () { std::panic::resume_unwind(Box::new(1)) });
    scheduler.run_until(panics.unwrap()).unwrap_err();
    drop(with_ctx().spawn_on(&scheduler, || ()).unwrap());
    scheduler.run().unwrap();
    let _left = with_ctx().spawn_on(&scheduler, wait_once).unwrap();
    drop(scheduler);
    let workers = Workers::new(1).unwrap();
    assert_eq!(
        with_ctx().submit_to(&workers.handle(), || 9).unwrap().join().unwrap(),
        9
    );
}

/// Panics when it is dropped, unless the thread panics already.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            std::panic::resume_unwind(Box::new("a drop that panics"));
        }
    }
}

/// A callback whose drop panics.
fn bomb() -> Waker {
    let bomb = Bomb;
    waker_fn(move || {
        let _ = &bomb;
    })
}

/// The user's callback goes when the scheduler sets its own, and when the job has ended. The job has its result, its
/// ctx is free again, and other jobs go on.
#[test]
fn a_callback_whose_drop_panics_costs_nothing() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let ctx = WaitCtx::new();
    let with_ctx = || JobBuilder::new().wait_ctx(&ctx);
    ctx.set_callback(Some(bomb()));
    let first = with_ctx().spawn_on(&scheduler, || 7).unwrap();
    let other = scheduler.spawn(|| 8).unwrap();
    scheduler.run().unwrap();
    assert_eq!((first.join().unwrap(), other.join().unwrap()), (7, 8));

    let sets = || current_job().unwrap().wait_ctx().set_callback(Some(bomb()));
    let second = with_ctx().spawn_on(&scheduler, sets).unwrap();
    scheduler.run().unwrap();
    second.join().unwrap();

    let third = with_ctx().spawn_on(&scheduler, || 9).unwrap();
    assert_eq!(scheduler.run_until(third).unwrap(), 9, "the ctx is free again");
    assert_eq!(scheduler.live_jobs(), 0);
}

/// A ctx that only the job has goes with the job, and what the ctx owns goes with it.
#[test]
fn a_value_whose_drop_panics_goes_with_the_job_and_costs_nothing() {
    struct Fd(
        std::os::unix::net::UnixStream,
        #[allow(dead_code, reason = "dropped with the fd")] Bomb,
    );
    impl AsFd for Fd {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let with_value = || {
        let ctx = WaitCtx::new();
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ctx.add_wait_fd(WaitKey::unique(), Fd(ours, Bomb));
        JobBuilder::new().wait_ctx(&ctx).spawn_on(&scheduler, || 7).unwrap()
    };
    let (runs, cancelled) = (with_value(), with_value());
    cancelled.request_cancel();
    let other = scheduler.spawn(|| 8).unwrap();
    scheduler.run().unwrap();
    assert_eq!((runs.join().unwrap(), other.join().unwrap()), (7, 8));
    assert!(matches!(cancelled.join(), Err(JoinError::Cancelled)));
}
