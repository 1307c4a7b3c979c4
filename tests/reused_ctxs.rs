//! Promise: a spawned job gets a wait ctx as good as new, and nothing that is left of an ended job wakes another one,
//! though a scheduler uses the ctxs of ended jobs again.

mod by_hand;

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use asyncjob::scheduler::Scheduler;
use asyncjob::{Interest, PauseError, Status, WaitCtx, WaitFdOptions, WaitKey, current_job, pause_job, waker_fn};
use asyncjob_testing::Watchdog;
use by_hand::Log;

fn ctx() -> WaitCtx {
    current_job().unwrap().wait_ctx().clone()
}

fn run(scheduler: &Scheduler, f: impl FnOnce() + 'static) {
    scheduler.run_until(scheduler.spawn(f).unwrap()).unwrap();
}

/// Runs a job that pauses for its callback. Returns the job's ctx.
fn waiting(scheduler: &Scheduler) -> (asyncjob::scheduler::JoinHandle<Result<(), PauseError>>, WaitCtx) {
    let seen = Rc::new(RefCell::new(None));
    let mine = Rc::clone(&seen);
    let job = scheduler.spawn(move || {
        ctx().set_status(Status::Ok);
        *mine.borrow_mut() = Some(ctx());
        pause_job()
    });
    scheduler.turn(Some(Duration::ZERO)).unwrap();
    let ctx = seen.borrow_mut().take().unwrap();
    (job.unwrap(), ctx)
}

#[test]
fn the_next_job_finds_a_new_ctx() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let changes: [fn(&WaitCtx); 6] = [
        |ctx| ctx.set_status(Status::Eagain),
        |ctx| ctx.set_deadline(Some(Instant::now() + Duration::from_secs(3600))),
        |ctx| assert_eq!(ctx.arm(Some(WaitKey::unique())), None),
        |ctx| {
            let (reader, _writer) = std::io::pipe().unwrap();
            let options = WaitFdOptions::new().interest(Interest::Writable);
            ctx.add_wait_fd_with(WaitKey::unique(), reader, options);
        },
        |ctx| ctx.set_callback(None),
        |ctx| ctx.set_callback(Some(waker_fn(|| ()))),
    ];
    for change in changes {
        run(&scheduler, move || change(&ctx()));
        run(&scheduler, || {
            let ctx = ctx();
            assert_eq!(ctx.status(), Status::Unsupported);
            assert_eq!((ctx.deadline(), ctx.armed(), ctx.version()), (None, None, 0));
            assert!(ctx.fds().is_empty() && ctx.changes().added.is_empty());
            ctx.set_status(Status::Ok);
            let wake = ctx.callback().unwrap();
            let thread = std::thread::spawn(move || wake.wake());
            pause_job().unwrap(); // resumed by the callback
            thread.join().unwrap();
        });
    }
}

#[test]
fn a_ctx_that_somebody_keeps_goes_to_no_other_job() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let kept = Rc::new(RefCell::new(Vec::new()));
    for _ in 0..3 {
        let kept = Rc::clone(&kept);
        run(&scheduler, move || kept.borrow_mut().push(ctx()));
    }
    let kept = kept.borrow();
    assert!(!kept[0].ptr_eq(&kept[1]) && !kept[1].ptr_eq(&kept[2]) && !kept[0].ptr_eq(&kept[2]));
}

#[test]
fn a_callback_that_an_engine_keeps_wakes_no_later_job() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let kept: Rc<RefCell<Vec<Waker>>> = Rc::default();
    for _ in 0..3 {
        let kept = Rc::clone(&kept);
        run(&scheduler, move || kept.borrow_mut().push(ctx().callback().unwrap()));
    }
    let (job, ctx) = waiting(&scheduler);
    kept.borrow_mut().drain(..).for_each(Waker::wake);
    let resumes = scheduler.stats().resumes;
    for _ in 0..3 {
        scheduler.turn(Some(Duration::ZERO)).unwrap();
    }
    assert_eq!(scheduler.stats().resumes, resumes);
    ctx.callback().unwrap().wake();
    assert_eq!(scheduler.run_until(job).unwrap(), Ok(()));
}

/// A callback that is called while the job runs for the first time, before the scheduler has a task for it.
#[test]
fn a_wake_before_the_first_pause_is_kept() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    for _ in 0..3 {
        run(&scheduler, || {
            ctx().set_status(Status::Ok);
            let wake = ctx().callback().unwrap();
            std::thread::spawn(move || wake.wake()).join().unwrap();
            pause_job().unwrap();
        });
    }
}

/// Two wakes before the first pause are one resume, and the second pause waits for a wake of its own.
#[test]
fn wakes_before_the_first_pause_are_one_resume() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let log = Log::default();
    let mine = log.clone();
    let job = scheduler.spawn(move || {
        ctx().set_status(Status::Ok);
        ctx().callback().unwrap().wake();
        ctx().callback().unwrap().wake();
        mine.say("first pause");
        pause_job().unwrap();
        mine.say("second pause");
        pause_job()
    });
    for _ in 0..5 {
        scheduler.turn(Some(Duration::ZERO)).unwrap();
    }
    assert_eq!(log.take(), ["first pause", "second pause"]);
    job.unwrap().request_cancel();
    scheduler.run().unwrap();
}

/// A request to cancel is seen at the next resume, although a wake came before it.
#[test]
fn a_ready_job_that_another_job_cancels_is_not_resumed() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let (first, first_ctx) = waiting(&scheduler);
    let (second, second_ctx) = waiting(&scheduler);
    second_ctx.callback().unwrap().wake();
    first_ctx.callback().unwrap().wake();
    let other = scheduler.spawn(move || first.request_cancel());
    // This turn starts the new job before it resumes the two that are ready.
    let result = scheduler.run_until(second).unwrap();
    assert_eq!(result, Ok(()));
    scheduler.run_until(other.unwrap()).unwrap();
    scheduler.run().unwrap();
    assert_eq!(scheduler.stats().cancelled, 1);
}

/// A request that comes while the job runs for the first time ends the job at its first pause.
#[test]
fn a_job_that_is_cancelled_before_its_first_pause() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let (asks, asked) = std::sync::mpsc::channel();
    let job = scheduler.spawn(move || {
        asks.send(()).unwrap();
        receiver.recv().unwrap();
        ctx().set_status(Status::Ok); // nothing wakes it
        pause_job()
    });
    let handle = job.unwrap();
    let other = std::thread::spawn(move || {
        asked.recv().unwrap();
        handle.request_cancel();
        sender.send(()).unwrap();
        handle
    });
    scheduler.run().unwrap();
    let handle = other.join().unwrap();
    assert!(matches!(
        scheduler.run_until(handle),
        Err(asyncjob::scheduler::JoinError::Cancelled)
    ));
}
