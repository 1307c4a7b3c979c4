//! Promise: a panic in a job comes out of the call that ran the job, and harms nothing else.

mod by_hand;

use std::cell::Cell;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};

use asyncjob::pool;
use asyncjob::scheduler::{JoinError, JoinHandle, Scheduler, Workers};
use asyncjob::{Job, JobBuilder, WaitCtx, current_job_id, pause_job, start_job};
use by_hand::{Drops, finished, in_use, paused, run, still_paused};

/// The text with which a call panicked, if it did.
fn panic_of<T>(call: impl FnOnce() -> T) -> Option<&'static str> {
    catch_unwind(AssertUnwindSafe(call))
        .err()
        .map(|panic| *panic.downcast::<&'static str>().unwrap())
}

fn panic_with(what: &'static str) -> ! {
    resume_unwind(Box::new(what)) // prints no report, unlike `panic!`
}

/// Asserts that no job is left on this thread, and that the next job works.
#[track_caller]
fn assert_no_job_is_left() {
    assert_eq!((in_use(), current_job_id()), (0, None));
    assert!(!std::thread::panicking());
    let job = paused(|| pause_job().is_ok());
    assert!(finished(job.resume()), "the next job works");
}

#[test]
fn a_panic_in_the_first_phase_comes_out_of_the_start() {
    let panic = panic_of(|| start_job(&WaitCtx::new(), || panic_with("first")).map(drop));
    assert_eq!(panic, Some("first"));
    assert_no_job_is_left();
}

#[test]
fn a_panic_after_a_resume_comes_out_of_the_resume() {
    let drops = Drops::default();
    let local = drops.counted();
    let job = paused(move || {
        let _local = local;
        pause_job().unwrap();
        panic_with("second")
    });
    let job: Job<()> = job;
    assert_eq!(panic_of(|| job.resume()), Some("second"));
    assert_eq!(drops.count(), 1);
    assert_no_job_is_left();
}

/// The macro `panic!` prints a report, and its message arrives unchanged.
#[test]
fn a_real_panic_keeps_its_message() {
    let panic = catch_unwind(|| run(|| -> u32 { panic!("asked for, {} of 1", std::hint::black_box(1)) })).unwrap_err();
    assert_eq!(
        panic.downcast_ref::<String>().map(String::as_str),
        Some("asked for, 1 of 1")
    );
    assert_no_job_is_left();
}

/// The panic of an inner job arrives in the outer job, which may catch it and continue.
#[test]
fn an_outer_job_may_catch_the_panic_of_an_inner_job() {
    let job = paused(|| {
        let me = current_job_id();
        let panic = panic_of(|| run(|| -> () { panic_with("inner") }));
        assert_eq!(current_job_id(), me);
        pause_job().unwrap();
        assert_eq!(current_job_id(), me);
        panic
    });
    assert_eq!(finished(job.resume()), Some("inner"));
    assert_no_job_is_left();
}

/// A panic that no job catches passes through both jobs.
#[test]
fn a_panic_may_pass_through_two_jobs() {
    let job = paused(|| {
        let inner = paused(|| {
            pause_job().unwrap();
            panic_with("from below")
        });
        let inner: Job<()> = inner;
        pause_job().unwrap();
        finished(inner.resume())
    });
    assert_eq!(panic_of(|| job.resume()), Some("from below"));
    assert_no_job_is_left();
}

/// A job that panics while it owns paused jobs drops them. They end through their own code, and nothing is lost.
#[test]
fn a_panic_drops_the_paused_jobs_that_the_job_owns() {
    let drops = Drops::default();
    let counted: Vec<_> = (0..3).map(|_| drops.counted()).collect();
    let panic = panic_of(|| {
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
            panic_with("with three jobs")
        })
    });
    assert_eq!(panic, Some("with three jobs"));
    assert_eq!(drops.count(), 3);
    assert_no_job_is_left();
}

/// A job that catches its own panic may pause before and afterwards. A pause during the unwinding does nothing.
#[test]
fn a_job_may_catch_its_own_panic() {
    struct PausesAtDrop;
    impl Drop for PausesAtDrop {
        fn drop(&mut self) {
            assert_eq!(pause_job(), Err(asyncjob::PauseError::Panicking));
        }
    }
    let job = paused(|| {
        let caught = panic_of(|| {
            let _at_drop = PausesAtDrop;
            pause_job().unwrap();
            panic_with("inside")
        });
        pause_job().unwrap();
        caught
    });
    let job = still_paused(job.resume());
    assert!(!std::thread::panicking());
    assert_eq!(finished(job.resume()), Some("inside"));
    assert_no_job_is_left();
}

/// The job has a name and hooks, which a plain job does not have.
#[test]
fn a_panic_drops_the_name_and_the_hooks() {
    struct Nothing(#[allow(dead_code, reason = "held for its drop")] by_hand::Counted);
    impl asyncjob::hooks::SwitchHooks for Nothing {
        fn enter(&mut self) {}
        fn leave(&mut self) {}
    }
    let drops = Drops::default();
    let builder = JobBuilder::new()
        .name(String::from("named"))
        .hooks(Nothing(drops.counted()));
    let panic = panic_of(|| builder.start(|| panic_with("named")).map(drop));
    assert_eq!((panic, drops.count()), (Some("named"), 1));
    assert_no_job_is_left();
}

/// Ten thousand jobs panic in their first phase, and as many after a resume, while another job is paused. The number of
/// stacks does not change.
#[test]
fn ten_thousand_panics_lose_no_stack() {
    let bystander = paused(|| pause_job().is_ok());
    run(|| ());
    let total = || pool::stats().idle + in_use();
    let before = total();
    for round in 0..10_000 {
        let panic = panic_of(|| {
            run(move || {
                if round % 2 == 0 {
                    panic_with("even");
                }
                panic_with("odd")
            })
        });
        assert_eq!(panic, Some(["even", "odd"][round % 2]));
        let job: Job<()> = paused(|| {
            pause_job().unwrap();
            panic_with("later")
        });
        assert_eq!(panic_of(|| job.resume()), Some("later"));
        assert_eq!((total(), in_use()), (before, 1));
    }
    assert!(finished(bystander.resume()));
    assert_no_job_is_left();
}

/// Joins a job when it is dropped, and keeps the answer.
struct JoinsInDrop<'a>(Option<JoinHandle<()>>, &'a Cell<Option<ErrorKind>>);

impl Drop for JoinsInDrop<'_> {
    fn drop(&mut self) {
        if let Some(Err(JoinError::Scheduler(error))) = self.0.take().map(JoinHandle::join) {
            self.1.set(Some(error.kind()));
        }
    }
}

/// Another panic would abort the process.
#[test]
fn a_join_that_would_wait_for_ever_is_an_error_while_the_thread_panics() {
    let scheduler = Scheduler::new().unwrap();
    let spawned = || Some(scheduler.spawn(|| ()).unwrap());
    let answer = Cell::new(None);
    let outside_a_job = panic_of(|| {
        let _joins = JoinsInDrop(spawned(), &answer);
        panic_with("outside")
    });
    assert_eq!(
        (outside_a_job, answer.take()),
        (Some("outside"), Some(ErrorKind::Deadlock))
    );

    let answer = Rc::new(Cell::new(None));
    let (kept, handle) = (Rc::clone(&answer), scheduler.handle());
    let job = scheduler.spawn(move || {
        let _joins = JoinsInDrop(handle.spawn(|| ()).ok(), &kept);
        panic_with("inside")
    });
    let job: JoinHandle<()> = job.unwrap();
    scheduler.run().unwrap();
    assert!(matches!(job.join(), Err(JoinError::Panicked(_))));
    assert_eq!(answer.take(), Some(ErrorKind::Deadlock));
}

#[test]
fn a_broadcast_in_a_job_that_panics_is_an_error() {
    struct BroadcastsInDrop(Arc<Workers>, Sender<Option<ErrorKind>>);
    impl Drop for BroadcastsInDrop {
        fn drop(&mut self) {
            let refused = self.0.broadcast(|_| ()).err();
            self.1.send(refused.map(|error| error.kind())).unwrap();
        }
    }
    let workers = Arc::new(Workers::new(1).unwrap());
    let (sender, answer) = mpsc::channel();
    let broadcasts = BroadcastsInDrop(Arc::clone(&workers), sender);
    let job = workers.handle().spawn(move || -> () {
        let _broadcasts = broadcasts;
        panic_with("in a worker")
    });
    assert!(matches!(job.unwrap().join(), Err(JoinError::Panicked(_))));
    assert_eq!(answer.recv().unwrap(), Some(ErrorKind::Deadlock));
}
