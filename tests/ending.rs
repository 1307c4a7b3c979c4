//! Promise: a job that its owner gives up ends through its own code. If it cannot end, its stack is never used again.
//!
//! | call | the job's code after the pause | its destructors | its stack |
//! |---|---|---|---|
//! | `cancel`, drop | runs, with `Cancelled` | run | returns to the pool |
//! | `cancel` of a job that does not end | runs for a thousand pauses | do not run | quarantined |
//! | `force_unwind` | does not run | run | returns to the pool |
//! | `quarantine` | does not run | do not run | quarantined |

mod by_hand;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;
use std::rc::Rc;

use asyncjob::stack::quarantined;
use asyncjob::{Job, JobBuilder, PauseError, Quarantined, WaitCtx, WaitKey, current_job_id, pause_job, start_job};
use by_hand::{Drops, Log, finished, in_use, paused, paused_with, run, still_paused};

/// The number of quarantined stacks belongs to the process, which all tests share. Tests that count it run one at a
/// time.
fn counting() -> impl Drop {
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    struct Guard(#[allow(dead_code, reason = "held")] std::sync::MutexGuard<'static, ()>);
    impl Drop for Guard {
        fn drop(&mut self) {}
    }
    Guard(ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

/// A job that pauses again and again and never ends by itself.
fn stubborn() -> Job<()> {
    paused(|| {
        loop {
            let _ = pause_job();
        }
    })
}

/// The pause of a cancelled job fails, and later pauses fail without pausing. The job returns any value.
#[test]
fn a_cancelled_job_returns_through_its_own_code() {
    let job = paused(|| [pause_job(), pause_job(), pause_job()]);
    assert_eq!(job.cancel(), Ok([Err(PauseError::Cancelled); 3]));
    assert_eq!((in_use(), current_job_id()), (0, None));
}

/// A cancelled job that ignores 999 failed pauses still ends.
#[test]
fn a_cancelled_job_may_try_a_thousand_pauses() {
    let job = paused(|| (0..1000).map(|_| pause_job()).filter(Result::is_err).count());
    assert_eq!(job.cancel(), Ok(1000));
}

/// S88: a job that does not end after a thousand failed pauses is quarantined. Its stack is counted and stays in use
/// for the pool, and no value on it is dropped. The job releases its wait ctx.
#[test]
fn a_job_that_does_not_end_is_quarantined() {
    let _counting = counting();
    let before = quarantined();
    let (drops, log) = (Drops::default(), Log::default());
    let (kept, said) = (drops.counted(), log.clone());
    let job = paused(move || {
        let _kept = kept;
        let mut tries = 0;
        loop {
            if pause_job().is_err() {
                tries += 1;
                said.say(tries.to_string());
            }
        }
    });
    let ended: Result<(), _> = job.cancel();
    assert_eq!(ended, Err(Quarantined));
    assert_eq!(
        log.take().last().map(String::as_str),
        Some("1001"),
        "the pause in which it was cancelled, and a thousand more"
    );
    assert_eq!((quarantined(), in_use(), drops.count()), (before + 1, 1, 0));
    assert_eq!(current_job_id(), None);
    run(|| ());
    assert_eq!(in_use(), 1, "the next job has another stack");
}

/// Dropping a job cancels it.
#[test]
fn a_dropped_job_is_cancelled() {
    let log = Log::default();
    let said = log.clone();
    let job = paused(move || {
        let _local = said.at_drop("local dropped");
        said.say(format!("{:?}", pause_job()));
        said.at_drop("result dropped")
    });
    drop(job);
    assert_eq!(
        log.take(),
        [
            "Err(Cancelled: the job was cancelled: return from it)",
            "local dropped",
            "result dropped"
        ]
    );
    assert_eq!(in_use(), 0);
}

/// Dropping a job never panics, neither if the job panics nor if its result or the payload of its panic panics when it
/// is dropped.
#[test]
fn dropping_a_job_never_panics() {
    struct PanicsAtDrop;
    impl Drop for PanicsAtDrop {
        fn drop(&mut self) {
            resume_unwind(Box::new("at drop"));
        }
    }
    drop(paused(|| {
        let _ = pause_job();
        resume_unwind(Box::new("cancelled"));
    }));
    drop(paused(|| {
        let _ = pause_job();
        PanicsAtDrop
    }));
    drop(paused(|| {
        let _ = pause_job();
        resume_unwind(Box::new(PanicsAtDrop));
    }));
    struct PanicsTwice;
    impl Drop for PanicsTwice {
        fn drop(&mut self) {
            resume_unwind(Box::new(PanicsAtDrop));
        }
    }
    drop(paused(|| {
        let _ = pause_job();
        resume_unwind(Box::new(PanicsTwice));
    }));
    assert_eq!((in_use(), current_job_id()), (0, None));
}

/// `cancel` passes a panic of the job on to its caller.
#[test]
fn cancel_passes_a_panic_on() {
    let job = paused(|| {
        let _ = pause_job();
        resume_unwind(Box::new("cancelled"))
    });
    let job: Job<()> = job;
    let panic = catch_unwind(AssertUnwindSafe(|| job.cancel())).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"cancelled"));
    assert_eq!((in_use(), current_job_id()), (0, None));
}

/// A job that is dropped while its thread panics ends through its own code. `panicking()` is as before afterwards.
#[test]
fn a_job_may_be_dropped_while_the_thread_panics() {
    let log = Log::default();
    let said = log.clone();
    let job = paused(move || {
        said.say(format!("{:?} panicking: {}", pause_job(), std::thread::panicking()));
    });
    let failed = catch_unwind(AssertUnwindSafe(move || {
        let _job = job;
        resume_unwind(Box::new("elsewhere"))
    }));
    assert!(failed.is_err_and(|panic| panic.is::<&str>()));
    assert_eq!(
        log.take(),
        ["Err(Cancelled: the job was cancelled: return from it) panicking: true"]
    );
    assert!(!std::thread::panicking());
    assert_eq!((in_use(), current_job_id()), (0, None));
}

/// A job that does not end, and is dropped while its thread panics, is quarantined. The panic continues.
#[test]
fn a_stubborn_job_may_be_dropped_while_the_thread_panics() {
    let _counting = counting();
    let before = quarantined();
    let job = stubborn();
    let failed = catch_unwind(AssertUnwindSafe(move || {
        let _job = job;
        resume_unwind(Box::new("elsewhere"))
    }));
    assert!(failed.is_err_and(|panic| panic.is::<&str>()));
    assert!(!std::thread::panicking());
    assert_eq!((quarantined(), in_use()), (before + 1, 1));
    let job = paused(pause_job);
    assert_eq!(finished(job.resume()), Ok(()));
}

/// A job may panic itself when it is dropped while its thread panics.
#[test]
fn a_panicking_job_may_be_dropped_while_the_thread_panics() {
    let job = paused(|| {
        let _ = pause_job();
        resume_unwind(Box::new("the job's own"));
    });
    let failed = catch_unwind(AssertUnwindSafe(move || {
        let _job = job;
        resume_unwind(Box::new(1u32))
    }));
    assert!(
        failed.is_err_and(|panic| panic.is::<u32>()),
        "the first panic continues"
    );
    assert!(!std::thread::panicking());
    assert_eq!((in_use(), current_job_id()), (0, None));
}

/// A job that a destructor starts while the thread panics does not pause, and the error says why.
#[test]
fn a_job_started_while_the_thread_panics_cannot_pause() {
    struct RunsAJob(Rc<Cell<Option<PauseError>>>);
    impl Drop for RunsAJob {
        fn drop(&mut self) {
            self.0.set(run(pause_job).err());
        }
    }
    let seen = Rc::new(Cell::new(None));
    let at_drop = RunsAJob(seen.clone());
    let failed = catch_unwind(AssertUnwindSafe(move || {
        let _at_drop = at_drop;
        resume_unwind(Box::new(()))
    }));
    assert!(failed.is_err());
    assert_eq!(seen.get(), Some(PauseError::Panicking));
}

/// `force_unwind` runs the destructors, and not the code after the pause. A pause in a destructor does nothing.
#[test]
fn forced_unwinding_runs_destructors_only() {
    struct PausesAtDrop(Log);
    impl Drop for PausesAtDrop {
        fn drop(&mut self) {
            self.0.say(if pause_job() == Err(PauseError::Panicking) {
                "panicking"
            } else {
                "paused"
            });
        }
    }
    let log = Log::default();
    let said = log.clone();
    let job = paused(move || {
        let _first = said.at_drop("first");
        let _second = PausesAtDrop(said.clone());
        let _ = pause_job();
        said.say("not reached");
    });
    job.force_unwind();
    assert_eq!(log.take(), ["panicking", "first"]);
    assert_eq!((in_use(), current_job_id()), (0, None));
    assert!(!std::thread::panicking());
}

/// A job that catches the unwinding goes on as a cancelled job, and returns.
#[test]
fn a_job_that_catches_the_unwinding_goes_on_as_a_cancelled_one() {
    let log = Log::default();
    let said = log.clone();
    let job = paused(move || {
        let _result = said.at_drop("local dropped");
        let caught = catch_unwind(|| pause_job().unwrap());
        said.say(format!("caught: {}, then {:?}", caught.is_err(), pause_job()));
        said.at_drop("result dropped")
    });
    job.force_unwind();
    assert_eq!(
        log.take(),
        [
            "caught: true, then Err(Cancelled: the job was cancelled: return from it)",
            "local dropped",
            "result dropped"
        ]
    );
    assert_eq!((in_use(), std::thread::panicking()), (0, false));
}

/// A job that catches the unwinding and pauses again and again is quarantined. `force_unwind` returns.
#[test]
fn forced_unwinding_of_a_stubborn_job_returns() {
    let _counting = counting();
    let _watchdog = asyncjob_testing::Watchdog::new();
    let before = quarantined();
    let job: Job<()> = paused(|| {
        loop {
            let _ = catch_unwind(pause_job);
        }
    });
    job.force_unwind();
    assert_eq!((quarantined(), in_use()), (before + 1, 1));
    assert_eq!((current_job_id(), std::thread::panicking()), (None, false));
}

/// A job that catches the unwinding and then panics itself: its own panic leaves `force_unwind`.
#[test]
fn a_panic_after_forced_unwinding_leaves_the_call() {
    let job: Job<()> = paused(|| {
        let _ = catch_unwind(pause_job);
        resume_unwind(Box::new("its own"));
    });
    let panic = catch_unwind(AssertUnwindSafe(|| job.force_unwind())).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"its own"));
    assert_eq!((in_use(), current_job_id()), (0, None));
}

/// `force_unwind` of a job that owns paused jobs drops them, so they end through their own code.
#[test]
fn forced_unwinding_cancels_the_jobs_that_the_job_owns() {
    let log = Log::default();
    let said = log.clone();
    let job = paused(move || {
        let inner = said.clone();
        let _inner = paused(move || inner.say(format!("{:?}", pause_job())));
        let _ = pause_job();
    });
    job.force_unwind();
    assert_eq!(log.take(), ["Err(Cancelled: the job was cancelled: return from it)"]);
    assert_eq!((in_use(), current_job_id()), (0, None));
}

/// `force_unwind` settles the changes of the job's fds, as a resume does. An fd that was added before is not reported
/// as added to the next job.
#[test]
fn forced_unwinding_settles_the_fds() {
    let ctx = WaitCtx::new();
    let inside = ctx.clone();
    let job = paused_with(&ctx, move || {
        inside.add_wait_fd(WaitKey::unique(), std::io::pipe().unwrap().0);
        let _ = pause_job();
    });
    assert_eq!(ctx.changes().added.len(), 1);
    job.force_unwind();
    assert_eq!((ctx.changes().added.len(), ctx.fds().len()), (0, 1));
}

/// A destructor may panic during forced unwinding if the panic is caught on the job's own stack.
#[test]
fn a_destructor_may_catch_a_panic_during_forced_unwinding() {
    struct Catches;
    impl Drop for Catches {
        fn drop(&mut self) {
            assert!(catch_unwind(|| resume_unwind(Box::new("inner"))).is_err());
        }
    }
    let job = paused(|| {
        let _catches = Catches;
        let _ = pause_job();
    });
    job.force_unwind();
    assert_eq!((in_use(), std::thread::panicking()), (0, false));
}

/// `quarantine` runs nothing and drops nothing. The stack is counted and stays out of use, and the wait ctx is
/// released.
#[test]
fn a_quarantined_job_is_never_touched_again() {
    let _counting = counting();
    let before = quarantined();
    let (drops, ctx) = (Drops::default(), WaitCtx::new());
    let kept = drops.counted();
    let Ok(step) = JobBuilder::new().name("quarantined").wait_ctx(&ctx).start(move || {
        let _kept = kept;
        let _ = pause_job();
    }) else {
        panic!()
    };
    still_paused(step).quarantine();
    assert_eq!((quarantined(), in_use(), drops.count()), (before + 1, 1, 0));
    run(|| ());
    assert_eq!(in_use(), 1);
}

/// However a job ends, it releases its wait ctx and with it the values in it. The other end of a pipe shows this.
#[test]
fn every_end_of_a_job_releases_its_ctx() {
    use std::io::Read;
    let _counting = counting();
    type Way = (&'static str, fn(Job<()>));
    let ways: [Way; 6] = [
        ("resume", |job| finished(job.resume())),
        ("cancel", |job| assert!(job.cancel().is_ok())),
        ("drop", drop),
        ("force_unwind", Job::force_unwind),
        ("quarantine", Job::quarantine),
        ("cancel in a job", |job| {
            let _ = run(move || job.cancel());
        }),
    ];
    for (way, end) in ways {
        let ctx = WaitCtx::new();
        let (mut reader, writer) = std::io::pipe().unwrap();
        ctx.add_wait_fd(WaitKey::unique(), writer);
        let job = paused_with(&ctx, || {
            let _ = pause_job();
        });
        drop(ctx);
        end(job);
        assert_eq!(
            reader.read(&mut [0]).unwrap(),
            0,
            "{way}: the writer was dropped, so the read is at the end of the file"
        );
    }
}

/// The last job that holds a ctx drops it at its end. A value in that ctx may run jobs in its destructor.
#[test]
fn the_last_drop_of_a_ctx_may_run_jobs() {
    struct RunsAJob(std::io::PipeReader);
    impl std::os::fd::AsFd for RunsAJob {
        fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
    impl Drop for RunsAJob {
        fn drop(&mut self) {
            assert_eq!(run(|| 5), 5);
            asyncjob::pool::cleanup_thread().unwrap();
        }
    }
    let ctx = WaitCtx::new();
    ctx.add_wait_fd(WaitKey::unique(), RunsAJob(std::io::pipe().unwrap().0));
    let job = paused_with(&ctx, || pause_job().unwrap());
    drop(ctx);
    finished(job.resume());
    assert_eq!(current_job_id(), None);
    assert_eq!(in_use(), 0);
}

/// If the destructor of a value in the ctx panics, the pool still gets the stack back.
#[test]
fn a_panic_in_the_last_drop_of_a_ctx_costs_no_stack() {
    struct PanicsAtDrop(std::io::PipeReader);
    impl std::os::fd::AsFd for PanicsAtDrop {
        fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
    impl Drop for PanicsAtDrop {
        fn drop(&mut self) {
            resume_unwind(Box::new("cleanup"));
        }
    }
    let ctx = WaitCtx::new();
    ctx.add_wait_fd(WaitKey::unique(), PanicsAtDrop(std::io::pipe().unwrap().0));
    let job = paused_with(&ctx, || {
        pause_job().unwrap();
    });
    drop(ctx);
    let panic = catch_unwind(AssertUnwindSafe(|| finished(job.resume()))).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"cleanup"));
    assert_eq!((in_use(), current_job_id()), (0, None));
}

/// Forced unwinding through a C frame aborts the process. A drop does not, because it never unwinds. Each case runs in
/// a process of its own.
#[test]
fn a_drop_never_unwinds_through_c() {
    let run = |test: &str| {
        let exe = std::env::current_exe().unwrap();
        Command::new(exe).args(["--exact", "--ignored", test]).output().unwrap()
    };
    let dropped = run("drops_through_c");
    assert!(dropped.status.success(), "{}", String::from_utf8_lossy(&dropped.stderr));
    let unwound = run("unwinds_through_c");
    let signal = std::os::unix::process::ExitStatusExt::signal(&unwound.status);
    assert_eq!(signal, Some(libc::SIGABRT));
}

#[test]
#[ignore = "run by a_drop_never_unwinds_through_c"]
fn drops_through_c() {
    drop(pausing_below_c());
}

#[test]
#[ignore = "run by a_drop_never_unwinds_through_c"]
fn unwinds_through_c() {
    pausing_below_c().force_unwind();
}

fn pausing_below_c() -> Job<()> {
    extern "C" fn engine() {
        let _ = pause_job();
    }
    paused(|| engine())
}

/// Uses the stack down to `left` bytes above its guard, and pauses there.
#[inline(never)]
fn pauses_with_little_left(left: usize, lowest: usize) {
    let pad = std::hint::black_box([1u8; 128]);
    if pad.as_ptr().addr() - lowest > left {
        pauses_with_little_left(left, lowest);
    } else {
        let _ = pause_job();
    }
    std::hint::black_box(&pad);
}

/// A backtrace needs next to nothing of the job's own stack: it works on the smallest and on a nearly full one. Where
/// even that is not left, it is disabled. The stack does not overflow.
#[test]
fn a_backtrace_overflows_no_stack() {
    use std::backtrace::BacktraceStatus;
    let size = asyncjob::stack::StackSize::MIN;
    // A pause of a debug build needs more than a KiB itself.
    for left in (1536..8192).step_by(128) {
        let builder = JobBuilder::new().stack_size(size);
        let Ok(step) = builder.start(move || {
            let here = 0u8;
            let top = std::ptr::from_ref(&here).addr();
            // The top of the slot is less than 4 KiB above, and a multiple of 4 KiB.
            let lowest = top.next_multiple_of(4096) - size.bytes();
            pauses_with_little_left(left, lowest);
        }) else {
            panic!()
        };
        let mut job = still_paused(step);
        let trace = job.backtrace();
        match trace.status() {
            BacktraceStatus::Captured => {
                assert!(
                    trace.to_string().contains("pauses_with_little_left"),
                    "{left} left: {trace}"
                );
            }
            status => assert!(left < 4096, "{left} bytes left: {status:?}"),
        }
        finished(job.resume());
    }
}

/// A backtrace of a paused job names the function that paused. The job does not notice, and it works any number of
/// times.
#[test]
fn a_backtrace_names_the_function_that_paused() {
    #[inline(never)]
    fn waits_for_the_signature() -> u32 {
        pause_job().unwrap();
        std::hint::black_box(1)
    }
    let ctx = WaitCtx::new();
    let inside = ctx.clone();
    let mut job = paused_with(&ctx, move || {
        inside.add_wait_fd(WaitKey::unique(), std::io::pipe().unwrap().0);
        waits_for_the_signature() + waits_for_the_signature()
    });
    for _ in 0..3 {
        let trace = job.backtrace().to_string();
        assert!(trace.contains("waits_for_the_signature"), "{trace}");
        assert!(trace.contains("a_backtrace_names_the_function_that_paused"), "{trace}");
    }
    assert_eq!(ctx.changes().added.len(), 1, "a backtrace is not a resume");
    let mut job = still_paused(job.resume());
    assert!(job.backtrace().to_string().contains("waits_for_the_signature"));
    assert_eq!(current_job_id(), None);
    assert_eq!(finished(job.resume()), 2);
}

/// A job that paused a thousand times is cancelled like a new one, also from within another job.
#[test]
fn a_job_may_be_cancelled_by_another_job() {
    let mut job = paused(|| {
        let mut count = 0;
        while pause_job().is_ok() {
            count += 1;
        }
        count
    });
    for _ in 0..1000 {
        job = still_paused(job.resume());
    }
    let count = start_job(&WaitCtx::new(), move || job.cancel());
    assert_eq!(finished(count.unwrap()), Ok(1000));
}
