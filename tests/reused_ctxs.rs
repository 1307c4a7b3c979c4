//! Promise: a spawned job gets a wait ctx as good as new, and nothing that is left of an ended job wakes another one,
//! though a scheduler uses the ctxs of ended jobs again. A new wait ctx is as good as the first one, though a thread
//! uses the memory of those that are gone again.

mod by_hand;

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use asyncjob::scheduler::Scheduler;
use asyncjob::{
    Changes, Interest, JobBuilder, PauseError, Status, WaitCtx, WaitFdOptions, WaitKey, current_job, pause_job,
    waker_fn,
};
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

/// What a job, or who has a handle, may do to a ctx.
const CHANGES: [fn(&WaitCtx); 8] = [
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
    |ctx| {
        // More than a ctx has room for without an allocation.
        let end = || std::io::pipe().unwrap().0;
        (0..40).for_each(|_| ctx.add_wait_fd(WaitKey::unique(), end()));
    },
    |ctx| {
        let key = WaitKey::unique();
        ctx.add_wait_fd(key, std::io::pipe().unwrap().0);
        ctx.settle();
        assert!(ctx.clear_fd(key).is_some());
    },
];

fn assert_is_new(ctx: &WaitCtx) {
    assert_eq!(ctx.status(), Status::Unsupported);
    assert_eq!((ctx.deadline(), ctx.armed(), ctx.version()), (None, None, 0));
    assert!(ctx.fds().is_empty());
    assert_eq!(ctx.changes(), Changes::default());
}

#[test]
fn the_next_job_finds_a_new_ctx() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    for change in CHANGES {
        run(&scheduler, move || change(&ctx()));
        run(&scheduler, || {
            let ctx = ctx();
            assert_is_new(&ctx);
            ctx.set_status(Status::Ok);
            let wake = ctx.callback().unwrap();
            let thread = std::thread::spawn(move || wake.wake());
            pause_job().unwrap(); // resumed by the callback
            thread.join().unwrap();
        });
    }
}

/// On a thread of its own each ctx is in the memory of the one before.
#[test]
fn a_new_ctx_is_as_good_as_the_first_one() {
    std::thread::spawn(|| {
        for change in CHANGES {
            let ctx = WaitCtx::new();
            change(&ctx);
            drop(ctx);
            let ctx = WaitCtx::new();
            assert_is_new(&ctx);
            assert!(ctx.callback().is_none());
            let key = WaitKey::unique();
            ctx.add_wait_fd(key, std::io::pipe().unwrap().0);
            assert_eq!((ctx.fds().len(), ctx.changes().added.len(), ctx.version()), (1, 1, 1));
        }
    })
    .join()
    .unwrap();
}

/// Two drivers may follow each other on the same memory, and threads, too.
#[test]
fn the_memory_of_a_ctx_goes_from_thread_to_thread() {
    let key = WaitKey::unique();
    let mut given = WaitCtx::new();
    for round in 1..=100 {
        given = std::thread::spawn(move || {
            given.add_wait_fd(key, std::io::pipe().unwrap().0);
            assert_eq!(given.fds().len(), 1, "round {round}");
            let weak = given.downgrade();
            drop(given);
            assert!(weak.upgrade().is_none());
            let next = WaitCtx::new();
            let scheduler = Scheduler::new().unwrap();
            let job = JobBuilder::new()
                .wait_ctx(&next)
                .spawn_on(&scheduler, || ctx().fds().len());
            assert_eq!(scheduler.run_until(job.unwrap()).unwrap(), 0);
            next
        })
        .join()
        .unwrap();
    }
}

#[test]
fn a_value_whose_drop_panics_takes_its_ctx_along() {
    struct Bomb(std::io::PipeReader);
    impl AsFd for Bomb {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("this panic is part of the test");
        }
    }
    for with_weak in [false, true] {
        let ctx = WaitCtx::new();
        ctx.add_wait_fd(WaitKey::unique(), Bomb(std::io::pipe().unwrap().0));
        ctx.set_status(Status::Err);
        let weak = with_weak.then(|| ctx.downgrade());
        let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(ctx)));
        assert!(dropped.is_err());
        assert!(weak.as_ref().is_none_or(|weak| weak.upgrade().is_none()));
        drop(weak);
        assert_is_new(&WaitCtx::new());
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
