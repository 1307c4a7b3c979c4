//! Promise: a panic in a job leaves the call that ran it, and harms nobody else.

mod by_hand;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use asyncjob::pool;
use asyncjob::{Job, JobBuilder, WaitCtx, current_job_id, pause_job, start_job};
use by_hand::{Drops, finished, in_use, paused, run, still_paused};

/// What a call threw.
fn thrown<T>(call: impl FnOnce() -> T) -> Option<&'static str> {
    catch_unwind(AssertUnwindSafe(call))
        .err()
        .map(|panic| *panic.downcast::<&'static str>().unwrap())
}

fn throw(what: &'static str) -> ! {
    resume_unwind(Box::new(what)) // without the report that `panic!` prints
}

/// Nothing of a job is left on this thread but idle stacks.
#[track_caller]
fn all_is_well() {
    assert_eq!((in_use(), current_job_id()), (0, None));
    assert!(!std::thread::panicking());
    let job = paused(|| pause_job().is_ok());
    assert!(finished(job.resume()), "the next job works");
}

#[test]
fn in_the_first_phase() {
    let panic = thrown(|| start_job(&WaitCtx::new(), || throw("first")).map(drop));
    assert_eq!(panic, Some("first"));
    all_is_well();
}

#[test]
fn after_a_resume() {
    let drops = Drops::default();
    let local = drops.counted();
    let job = paused(move || {
        let _local = local;
        pause_job().unwrap();
        throw("second")
    });
    let job: Job<()> = job;
    assert_eq!(thrown(|| job.resume()), Some("second"));
    assert_eq!(drops.count(), 1);
    all_is_well();
}

/// With `panic!`, which prints: the message is the job's.
#[test]
fn a_real_panic_keeps_its_message() {
    let panic = catch_unwind(|| run(|| -> u32 { panic!("asked for, {} of 1", std::hint::black_box(1)) })).unwrap_err();
    assert_eq!(
        panic.downcast_ref::<String>().map(String::as_str),
        Some("asked for, 1 of 1")
    );
    all_is_well();
}

/// Nested: the panic of the inner job arrives in the outer one, which may catch it and go on.
#[test]
fn in_a_nested_job_and_caught_there() {
    let job = paused(|| {
        let me = current_job_id();
        let panic = thrown(|| run(|| -> () { throw("inner") }));
        assert_eq!(current_job_id(), me);
        pause_job().unwrap();
        assert_eq!(current_job_id(), me);
        panic
    });
    assert_eq!(finished(job.resume()), Some("inner"));
    all_is_well();
}

/// Nested and not caught: it goes through both.
#[test]
fn through_two_jobs() {
    let job = paused(|| {
        let inner = paused(|| {
            pause_job().unwrap();
            throw("from below")
        });
        let inner: Job<()> = inner;
        pause_job().unwrap();
        finished(inner.resume())
    });
    assert_eq!(thrown(|| job.resume()), Some("from below"));
    all_is_well();
}

/// A job that panics while it holds paused jobs drops them, and they end through their own code, with nothing lost.
#[test]
fn holding_paused_jobs() {
    let drops = Drops::default();
    let counted: Vec<_> = (0..3).map(|_| drops.counted()).collect();
    let panic = thrown(|| {
        run(move || {
            let _held: Vec<_> = counted
                .into_iter()
                .map(|counted| {
                    paused(move || {
                        let _counted = counted;
                        assert!(pause_job().is_err());
                    })
                })
                .collect();
            throw("with three in hand")
        })
    });
    assert_eq!(panic, Some("with three in hand"));
    assert_eq!(drops.count(), 3);
    all_is_well();
}

/// A job that catches its own panic may pause in between and afterwards, and pauses in the unwinding do nothing.
#[test]
fn caught_inside_the_job() {
    struct PausesAtDrop;
    impl Drop for PausesAtDrop {
        fn drop(&mut self) {
            assert_eq!(pause_job(), Err(asyncjob::PauseError::Panicking));
        }
    }
    let job = paused(|| {
        let caught = thrown(|| {
            let _at_drop = PausesAtDrop;
            pause_job().unwrap();
            throw("inside")
        });
        pause_job().unwrap();
        caught
    });
    let job = still_paused(job.resume());
    assert!(!std::thread::panicking());
    assert_eq!(finished(job.resume()), Some("inside"));
    all_is_well();
}

/// With a name and hooks, the parts that a plain job does not have.
#[test]
fn with_a_name_and_hooks() {
    struct Nothing(#[allow(dead_code, reason = "held for its drop")] by_hand::Counted);
    impl asyncjob::hooks::SwitchHooks for Nothing {
        fn enter(&mut self) {}
        fn leave(&mut self) {}
    }
    let drops = Drops::default();
    let builder = JobBuilder::new()
        .name(String::from("named"))
        .hooks(Nothing(drops.counted()));
    let panic = thrown(|| builder.start(|| throw("named")).map(drop));
    assert_eq!((panic, drops.count()), (Some("named"), 1));
    all_is_well();
}

/// Ten thousand jobs that panic, in the first phase or the second, with others paused between them: the number of
/// stacks stays what it was.
#[test]
fn ten_thousand_of_them() {
    let bystander = paused(|| pause_job().is_ok());
    run(|| ());
    let total = || pool::stats().idle + in_use();
    let before = total();
    for round in 0..10_000 {
        let panic = thrown(|| {
            run(move || {
                if round % 2 == 0 {
                    throw("even");
                }
                throw("odd")
            })
        });
        assert_eq!(panic, Some(["even", "odd"][round % 2]));
        let job: Job<()> = paused(|| {
            pause_job().unwrap();
            throw("later")
        });
        assert_eq!(thrown(|| job.resume()), Some("later"));
        assert_eq!((total(), in_use()), (before, 1));
    }
    assert!(finished(bystander.resume()));
    all_is_well();
}
