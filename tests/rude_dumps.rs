//! Promise: a dump ends, and shows what is there, whatever the process does meanwhile: threads that exit, jobs that
//! end, forks, and code of the user that panics.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use asyncjob::insight::{DriverKind, Recorder, dump, tag};
use asyncjob::scheduler::{Scheduler, Workers};
use asyncjob::stack::StackSize;
use asyncjob::{JobBuilder, Status, Step, current_job, pause_job, waker_fn};
use asyncjob_testing::{Watchdog, run_alone};

/// A limit that is not reached unless something is wrong.
const LONG: Duration = Duration::from_secs(30);

/// The dump is one of the whole process, so the tests take turns.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn wait_for_a_callback() {
    current_job().unwrap().wait_ctx().set_status(Status::Ok);
    let _ = pause_job();
}

/// A scheduler that goes away while it is asked is not one that does not answer.
#[test]
fn schedulers_come_and_go_during_a_dump() {
    let (_watchdog, _alone) = (Watchdog::new(), alone());
    let stop = Arc::new(AtomicBool::new(false));
    let comes_and_goes = || {
        let stop = Arc::clone(&stop);
        thread::spawn(move || {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) || rounds < 20 {
                let workers = Workers::builder().threads(2).thread_name("short").build().unwrap();
                let spawn = |_| workers.handle().spawn(wait_for_a_callback).unwrap();
                let jobs: Vec<_> = (0..20).map(spawn).collect();
                drop(workers); // cancels them
                drop(jobs);
                rounds += 1;
            }
        })
    };
    let threads = [comes_and_goes(), comes_and_goes()];
    for _ in 0..200 {
        let found = dump(LONG);
        let silent = found.drivers.iter().find(|driver| !driver.answered);
        assert!(silent.is_none(), "{silent:?}");
    }
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Threads whose jobs are in futures, or are driven by hand, end while they are asked, and so do the jobs: by
/// returning, by a panic, by a cancel, and by being given up.
#[test]
fn threads_and_jobs_end_during_a_dump() {
    let (_watchdog, _alone) = (Watchdog::new(), alone());
    let stop = Arc::new(AtomicBool::new(false));
    let comes_and_goes = |n: usize| {
        let stop = Arc::clone(&stop);
        move || {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) || rounds < 20 {
                thread::spawn(move || ends_in_some_way(n + rounds)).join().unwrap();
                rounds += 1;
            }
        }
    };
    let threads = [0, 2, 4].map(|n| thread::spawn(comes_and_goes(n)));
    for _ in 0..200 {
        let found = dump(LONG);
        let silent = found.drivers.iter().find(|driver| !driver.answered);
        assert!(silent.is_none(), "{silent:?}");
        assert!(found.to_string().contains("jobs,") && found.to_json().starts_with('{'));
    }
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

fn ends_in_some_way(way: usize) {
    let panics = move || {
        let _peer = tag("peer", way);
        wait_for_a_callback();
        if way.is_multiple_of(3) {
            resume_unwind(Box::new("ends the job"));
        }
    };
    let mut future = pin!(JobBuilder::new().name("future").future(panics));
    let mut task = Context::from_waker(Waker::noop());
    assert!(future.as_mut().poll(&mut task).is_pending());
    let Ok(Step::Paused(job)) = JobBuilder::new().name("by hand").start(panics) else {
        panic!("it pauses")
    };
    let _ = catch_unwind(AssertUnwindSafe(|| match way % 4 {
        0 => drop(job.resume()),
        1 => drop(job.cancel()),
        2 => job.force_unwind(),
        _ => drop(job),
    }));
    if way.is_multiple_of(2) {
        future.wait_ctx().callback().unwrap().wake();
        let _ = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut task)));
    }
}

/// To name the frames takes more stack than this job has.
#[test]
fn a_job_with_a_small_stack_dumps() {
    let (_watchdog, _alone) = (Watchdog::new(), alone());
    let scheduler = Scheduler::new().unwrap();
    scheduler.spawn(wait_for_a_callback).unwrap().detach();
    let small = JobBuilder::new()
        .name("small")
        .stack_size(StackSize::at_least(16 << 10));
    let asks = small.spawn_on(&scheduler, || Box::new(dump(LONG)));
    let found = scheduler.run_until(asks.unwrap()).unwrap();
    let of_scheduler = found
        .drivers
        .iter()
        .find(|driver| driver.kind == DriverKind::Scheduler)
        .unwrap();
    let (names, stacks): (Vec<_>, Vec<_>) = of_scheduler
        .jobs
        .iter()
        .map(|job| (job.info.name.as_deref(), job.stack.is_some()))
        .unzip();
    assert_eq!(
        (names, stacks),
        (vec![None, Some("small")], vec![true, false]),
        "{found}"
    );
}

/// Wakes a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The waker of a task is code of the user, which the dump calls.
#[test]
fn a_waker_that_panics_keeps_no_other_future_from_its_answer() {
    let (_watchdog, _alone) = (Watchdog::new(), alone());
    let (paused, both_paused) = channel();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let runtime = thread::Builder::new().name("runtime".into()).spawn(move || {
        let panics = waker_fn(|| std::panic::resume_unwind(Box::new("a waker")));
        let unparks = Waker::from(Arc::new(Unpark(thread::current())));
        let mut first = pin!(JobBuilder::new().name("first").future(wait_for_a_callback));
        let mut second = pin!(JobBuilder::new().name("second").future(wait_for_a_callback));
        loop {
            let polled = [
                first.as_mut().poll(&mut Context::from_waker(&panics)).is_pending(),
                second.as_mut().poll(&mut Context::from_waker(&unparks)).is_pending(),
            ];
            assert_eq!(polled, [true; 2]);
            let _ = paused.send(());
            if stopped.load(Ordering::Relaxed) {
                return;
            }
            thread::park();
        }
    });
    both_paused.recv().unwrap();
    let found = dump(LONG);
    let driver = found
        .drivers
        .iter()
        .find(|driver| driver.kind == DriverKind::Futures)
        .unwrap();
    let names: Vec<_> = driver
        .jobs
        .iter()
        .map(|job| job.info.name.as_deref().unwrap())
        .collect();
    assert_eq!((driver.answered, names), (true, vec!["first", "second"]), "{found}");
    stop.store(true, Ordering::Relaxed);
    let runtime = runtime.unwrap();
    runtime.thread().unpark();
    runtime.join().unwrap();
}

/// Asserts that `is_right` returns true in a child.
fn assert_in_child(round: usize, is_right: impl FnOnce() -> bool) {
    #[allow(unsafe_code, reason = "what the test is about")]
    // SAFETY: the child calls only what the test is about, and ends without the exit handlers of its parent.
    let child = unsafe { libc::fork() };
    if child == 0 {
        #[allow(unsafe_code, reason = "ends a child that waits for ever")]
        // SAFETY: the call takes no pointers.
        unsafe {
            libc::alarm(20)
        };
        let is_right = catch_unwind(AssertUnwindSafe(is_right)).unwrap_or(false);
        #[allow(unsafe_code, reason = "ends the child without the exit handlers of the parent")]
        // SAFETY: the call takes no pointers.
        unsafe {
            libc::_exit(i32::from(!is_right))
        };
    }
    let mut status = 0;
    #[allow(unsafe_code, reason = "waits for the child")]
    // SAFETY: the status may be written to during the call.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!((waited, status), (child, 0), "round {round}");
}

/// A child of `fork(2)` has what another thread was about to change, and the locks that it held.
#[test]
fn a_child_of_a_fork_dumps() {
    run_alone("forks_while_others_dump_and_tag");
}

/// In a child: whether the dump has no driver of the parent, and has one of the child, with its job, its tag and its
/// frames.
fn dumps_what_is_its_own() -> bool {
    let scheduler = Scheduler::new().unwrap();
    let _job = scheduler.spawn(|| {
        let _tag = tag("key", "of the child");
        wait_for_a_callback();
    });
    scheduler.turn(Some(Duration::ZERO)).unwrap();
    let found = dump(LONG);
    let mut drivers = found.drivers.iter().filter(|driver| driver.kind != DriverKind::Unknown);
    let own = drivers.next().map(|driver| &driver.jobs[..]);
    let Some([job]) = own else { return false };
    let has_frame = |frame: &String| frame.contains("wait_for_a_callback");
    let is_complete = job.tags.len() == 1 && found.stacks[job.stack.unwrap()].iter().any(has_frame);
    std::mem::forget(scheduler);
    is_complete && drivers.next().is_none()
}

#[test]
#[ignore = "run by a_child_of_a_fork_dumps, in a process of its own"]
fn forks_while_others_dump_and_tag() {
    let _watchdog = Watchdog::new();
    let workers = Workers::builder().threads(2).build().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let jobs: Vec<_> = (0..4)
        .map(|_| {
            let stop = Arc::clone(&stop);
            let tags = move || {
                while !stop.load(Ordering::Relaxed) {
                    let _tag = tag("key", "value");
                    pause_job().unwrap();
                }
            };
            workers.handle().spawn(tags).unwrap()
        })
        .collect();
    let dumps = Arc::clone(&stop);
    let dumps = thread::spawn(move || {
        while !dumps.load(Ordering::Relaxed) {
            dump(LONG);
        }
    });
    for round in 0..50 {
        assert_in_child(round, dumps_what_is_its_own);
    }
    stop.store(true, Ordering::Relaxed);
    jobs.into_iter().for_each(|job| job.join().unwrap());
    dumps.join().unwrap();
}

#[test]
fn a_child_of_a_fork_records() {
    run_alone("forks_while_others_record_and_read");
}

/// Runs three jobs of the recorder.
fn run_three(recorder: &Recorder) {
    let scheduler = Scheduler::new().unwrap();
    for _ in 0..3 {
        let job = JobBuilder::new().hooks(recorder.job("three"));
        job.spawn_on(&scheduler, || pause_job().unwrap()).unwrap().detach();
    }
    scheduler.run().unwrap();
}

/// In a child: whether the recorder has what the child records and nothing of the parent, in numbers and as a timeline,
/// and a new one can be made.
fn records_what_is_its_own(inherited: Recorder) -> bool {
    let is_right = |recorder: &Recorder| {
        run_three(recorder);
        let numbers = recorder.numbers();
        let counts = (numbers.all.started, numbers.all.ended, numbers.all.runs.count);
        counts == (3, 3, 6) && numbers.by_name.len() == 1 && recorder.timeline().tracks.len() == 1
    };
    let is_right_as_copy = is_right(&inherited);
    drop(inherited);
    is_right_as_copy && is_right(&recorder()) && dumps_what_is_its_own()
}

/// Reports each job as a hog: its thread is busy with all that may be locked.
fn recorder() -> Recorder {
    let builder = Recorder::builder().timeline(100).hog(Duration::from_nanos(1), |_| ());
    #[cfg(not(asyncjob_portable))]
    let builder = builder.interrupt_by(libc::SIGPROF).unwrap();
    builder.build()
}

#[test]
#[ignore = "run by a_child_of_a_fork_records, in a process of its own"]
fn forks_while_others_record_and_read() {
    let _watchdog = Watchdog::new();
    let recorder = recorder();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let until_stopped = |work: fn(&Recorder)| {
            let (recorder, stop) = (recorder.clone(), &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    work(&recorder);
                }
            });
        };
        until_stopped(run_three);
        until_stopped(|recorder| drop(recorder.numbers()));
        until_stopped(|recorder| drop(recorder.timeline()));
        let forks = || {
            for round in 0..40 {
                run_three(&recorder); // so that others read what this thread has recorded
                let inherited = recorder.clone();
                assert_in_child(round, || records_what_is_its_own(inherited));
            }
        };
        let forked = catch_unwind(AssertUnwindSafe(forks));
        stop.store(true, Ordering::Relaxed);
        forked.unwrap_or_else(|panic| resume_unwind(panic));
    });
    assert!(recorder.numbers().all.ended >= 120, "the parent goes on");
}
