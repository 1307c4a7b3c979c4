//! Promise: a parent process never notices what a child of `fork(2)` does with what it has inherited, and the child
//! waits for nothing that cannot come.
//!
//! Each case is a process of its own with one thread of the test harness, which forks. A child that waits for ever is
//! killed by its alarm.

use std::cell::Cell;
use std::io::{self, Write, pipe};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use asyncjob::job_future::JobFuture;
use asyncjob::offload::{Offload, OffloadError};
use asyncjob::pool::{PoolConfig, init_thread};
use asyncjob::scheduler::{JoinError, JoinHandle, Scheduler, Workers};
#[cfg(target_os = "linux")]
use asyncjob::stack::SecretPolicy;
use asyncjob::waiting::{await_future, await_or_block};
use asyncjob::{
    PauseError, SpawnErrorKind, Status, Step, WaitCtx, WaitKey, current_job, no_pause, on_forbidden_pause, pause_job,
    start_job,
};
use asyncjob_testing::run_alone;

/// Runs `f` in a child, and asserts that it returns there.
#[track_caller]
fn in_child(f: impl FnOnce()) {
    // SAFETY: the threads of ours that run meanwhile hold no lock that the child takes, but those that the test is
    // about, and the C library keeps its own locks in order.
    #[allow(unsafe_code, reason = "what the test is about")]
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "{}", io::Error::last_os_error());
    if child == 0 {
        exit_after(f);
    }
    expect_success(child);
}

/// Waits for a child.
#[track_caller]
fn expect_success(child: libc::pid_t) {
    let mut status = 0;
    #[allow(unsafe_code, reason = "to wait for one child")]
    // SAFETY: the status may be written to during the call.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(
        (waited, status),
        (child, 0),
        "the child failed, or was killed by its alarm"
    );
}

/// Ends a child: nothing of what is below on its stack runs.
fn exit_after(f: impl FnOnce()) -> ! {
    #[allow(unsafe_code, reason = "kills a child that waits for ever")]
    // SAFETY: the call takes no pointers.
    unsafe {
        libc::alarm(20)
    };
    let failed = catch_unwind(AssertUnwindSafe(f)).is_err();
    #[allow(unsafe_code, reason = "ends the child without the exit handlers of the parent")]
    // SAFETY: the call takes no pointers.
    unsafe {
        libc::_exit(i32::from(failed))
    }
}

fn turn(scheduler: &Scheduler) {
    scheduler.turn(Some(Duration::ZERO)).unwrap();
}

#[track_caller]
fn assert_is_forked(error: &io::Error) {
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    assert!(error.to_string().contains("forked"), "{error}");
}

/// A scheduler with a job that waits for a byte in a pipe, and one that waits for its callback.
struct Parent {
    scheduler: Scheduler,
    byte: io::PipeWriter,
    callback: std::task::Waker,
    by_fd: JoinHandle<()>,
    by_callback: JoinHandle<()>,
    /// How often the code of a job has gone on after its pause.
    resumes: Rc<Cell<u32>>,
}

impl Parent {
    fn new() -> Parent {
        let scheduler = Scheduler::new().unwrap();
        let ((reader, byte), resumes) = (pipe().unwrap(), Rc::new(Cell::new(0)));
        let (by_fd, counter) = (WaitCtx::new(), Rc::clone(&resumes));
        by_fd.add_wait_fd(WaitKey::unique(), reader);
        let by_fd = asyncjob::JobBuilder::new()
            .wait_ctx(&by_fd)
            .spawn_on(&scheduler, move || {
                let _ = pause_job();
                counter.set(counter.get() + 1);
            });
        let (waker, counter) = (Rc::new(Cell::new(None)), Rc::clone(&resumes));
        let inside = Rc::clone(&waker);
        let by_callback = scheduler.spawn(move || {
            let ctx = current_job().unwrap().wait_ctx().clone();
            ctx.set_status(Status::Ok);
            inside.set(ctx.callback());
            let _ = pause_job();
            counter.set(counter.get() + 1);
        });
        turn(&scheduler);
        turn(&scheduler); // parked: a wake notifies it
        Parent {
            scheduler,
            byte,
            callback: waker.take().unwrap(),
            by_fd: by_fd.unwrap(),
            by_callback: by_callback.unwrap(),
            resumes,
        }
    }

    /// Nothing has happened, and everything still works.
    fn goes_on(mut self) {
        let waits = self.scheduler.stats().kernel_waits;
        self.scheduler.turn(Some(Duration::from_millis(1))).unwrap();
        assert_eq!(self.scheduler.stats().kernel_waits, waits + 1);
        assert_eq!(
            self.scheduler.turn(Some(Duration::ZERO)).unwrap().resumed,
            0,
            "a job was woken"
        );
        assert_eq!((self.resumes.get(), self.scheduler.live_jobs()), (0, 2));
        self.byte.write_all(b"x").unwrap();
        self.scheduler.run_until(self.by_fd).unwrap();
        self.callback.wake();
        self.scheduler.run_until(self.by_callback).unwrap();
        assert_eq!(self.resumes.get(), 2);
    }
}

#[test]
fn the_drop_of_a_scheduler() {
    run_alone("drop_scheduler");
}

#[test]
#[ignore = "run by the_drop_of_a_scheduler"]
fn drop_scheduler() {
    let parent = Parent::new();
    let (resumes, scheduler) = (Rc::clone(&parent.resumes), &parent.scheduler);
    in_child(|| {
        // SAFETY: the child does not use the parent's value again: it exits from this closure.
        #[allow(unsafe_code, reason = "the child drops its own copy of what the parent keeps")]
        let copy = unsafe { std::ptr::read(scheduler) };
        drop(copy);
        assert_eq!(resumes.get(), 0, "the code of a job ran in the child");
    });
    parent.goes_on();
}

#[test]
fn the_use_of_a_scheduler_and_of_its_handles() {
    run_alone("use_scheduler");
}

#[test]
#[ignore = "run by the_use_of_a_scheduler_and_of_its_handles"]
fn use_scheduler() {
    let parent = Parent::new();
    let (scheduler, handle) = (&parent.scheduler, parent.scheduler.handle());
    let ended = scheduler.spawn(|| 1).unwrap();
    turn(scheduler);
    let (ended, other) = (Cell::new(Some(ended)), Cell::new(Some(handle.spawn(|| 2).unwrap())));
    turn(scheduler);
    in_child(|| {
        parent.callback.wake_by_ref();
        parent.by_fd.request_cancel();
        assert_is_forked(&scheduler.turn(Some(Duration::ZERO)).unwrap_err());
        assert_is_forked(&scheduler.turn(None).unwrap_err());
        assert_is_forked(&scheduler.run().unwrap_err());
        assert_is_forked(&scheduler.shutdown(Duration::ZERO).unwrap_err());
        assert_eq!(scheduler.spawn(|| ()).unwrap_err().kind(), &SpawnErrorKind::Forked);
        assert_eq!(handle.spawn(|| ()).unwrap_err().kind(), &SpawnErrorKind::Forked);
        await_or_block(handle.capacity()).unwrap();
        let until = scheduler.run_until(ended.take().unwrap());
        assert!(matches!(until, Err(JoinError::Scheduler(error)) if error.kind() == io::ErrorKind::Unsupported));
        let joined = other.take().unwrap().join();
        assert!(matches!(joined, Err(JoinError::Scheduler(error)) if error.kind() == io::ErrorKind::Unsupported));
        assert_eq!(parent.resumes.get(), 0, "the code of a job ran in the child");
    });
    assert_eq!(ended.take().unwrap().join().unwrap(), 1);
    assert_eq!(other.take().unwrap().join().unwrap(), 2);
    parent.goes_on();
}

#[test]
fn a_scheduler_of_the_child() {
    run_alone("own_scheduler");
}

#[test]
#[ignore = "run by a_scheduler_of_the_child"]
fn own_scheduler() {
    let parent = Parent::new();
    in_child(|| {
        let (scheduler, offload) = (Scheduler::new().unwrap(), Offload::new(1).unwrap());
        let job = scheduler.spawn(move || offload.run(|| 7).unwrap()).unwrap();
        assert_eq!(scheduler.run_until(job).unwrap(), 7);
        let workers = Workers::new(1).unwrap();
        assert_eq!(workers.handle().spawn(|| 8).unwrap().join().unwrap(), 8);
        // A child of the child is told from both.
        in_child(|| assert_is_forked(&scheduler.turn(None).unwrap_err()));
        assert_eq!(workers.shutdown(Duration::ZERO).cancelled, 0);
    });
    parent.goes_on();
}

#[test]
fn a_fork_in_a_job() {
    run_alone("fork_in_job");
}

/// The job goes on in the child, up to its end. Then the turn ends with the error, and no other job runs.
#[test]
#[ignore = "run by a_fork_in_a_job"]
fn fork_in_job() {
    for pauses in [false, true] {
        let scheduler = Scheduler::new().unwrap();
        let runs = Rc::new(Cell::new(0));
        let is_child = Rc::new(Cell::new(false));
        let forked = Rc::clone(&is_child);
        let forks = scheduler.spawn(move || {
            // SAFETY: the process has one thread that runs code of ours.
            #[allow(unsafe_code, reason = "what the test is about")]
            let child = unsafe { libc::fork() };
            forked.set(child == 0);
            if pauses {
                give_way();
            }
            child
        });
        let counter = Rc::clone(&runs);
        let other = scheduler.spawn(move || counter.set(counter.get() + 1)).unwrap();
        let turned = scheduler.turn(Some(Duration::ZERO));
        if is_child.get() {
            exit_after(|| {
                assert_is_forked(&turned.unwrap_err());
                assert_eq!(runs.get(), 0, "another job ran in the child");
                drop(scheduler);
            });
        }
        let child = scheduler.run_until(forks.unwrap()).unwrap();
        expect_success(child);
        scheduler.run_until(other).unwrap();
        assert_eq!(runs.get(), 1);
    }
}

#[test]
fn a_fork_in_a_resumed_job() {
    run_alone("fork_in_resumed_job");
}

/// As in a job that starts. The job may also be one of a scheduler that runs in a job: then both schedulers stop.
#[test]
#[ignore = "run by a_fork_in_a_resumed_job"]
fn fork_in_resumed_job() {
    for is_nested in [false, true] {
        let scheduler = Scheduler::new().unwrap();
        let child = Rc::new(Cell::new(-1));
        let forked = Rc::clone(&child);
        let forks = move || {
            give_way();
            // SAFETY: the process has one thread that runs code of ours.
            #[allow(unsafe_code, reason = "what the test is about")]
            forked.set(unsafe { libc::fork() });
        };
        let job = if is_nested {
            scheduler
                .spawn(move || {
                    give_way();
                    let inner = Scheduler::new().unwrap();
                    let counter = Rc::new(Cell::new(0));
                    let forks = inner.spawn(forks).unwrap();
                    let other = inner.spawn(counts_after_a_pause(&counter)).unwrap();
                    let turned = inner.turn(Some(Duration::ZERO));
                    assert_eq!(counter.get(), u32::from(turned.is_ok()), "another job ran in the child");
                    forks.detach();
                    other.detach();
                })
                .unwrap()
        } else {
            scheduler.spawn(forks).unwrap()
        };
        let runs = Rc::new(Cell::new(0));
        let other = scheduler.spawn(counts_after_a_pause(&runs)).unwrap();
        let turned = scheduler.turn(Some(Duration::ZERO));
        if child.get() == 0 {
            exit_after(|| {
                assert_is_forked(&turned.unwrap_err());
                assert_eq!(runs.get(), 0, "another job ran in the child");
                drop(scheduler);
                let own = Scheduler::new().unwrap(); // which the fork does not stop
                let jobs = [(); 2].map(|()| own.spawn(counts_after_a_pause(&runs)).unwrap());
                assert_eq!(own.turn(Some(Duration::ZERO)).unwrap().resumed, 4);
                jobs.into_iter().for_each(|job| own.run_until(job).unwrap());
            });
        }
        assert_eq!((turned.unwrap().ready, runs.get()), (0, 1));
        expect_success(child.get());
        scheduler.run_until(job).unwrap();
        scheduler.run_until(other).unwrap();
    }
}

/// Lets the other jobs run.
fn give_way() {
    current_job().unwrap().wait_ctx().set_status(Status::Eagain);
    pause_job().unwrap();
}

fn counts_after_a_pause(runs: &Rc<Cell<u32>>) -> impl FnOnce() + 'static {
    let runs = Rc::clone(runs);
    move || {
        give_way();
        runs.set(runs.get() + 1);
    }
}

#[test]
fn workers_and_offload() {
    run_alone("use_workers_and_offload");
}

#[test]
#[ignore = "run by workers_and_offload"]
fn use_workers_and_offload() {
    let both = (Workers::new(2).unwrap(), Offload::new(2).unwrap());
    let (workers, offload) = (&both.0, &both.1);
    let (gate, opens) = std::sync::mpsc::channel::<()>();
    let waits = workers.handle().spawn(move || opens.recv().unwrap()).unwrap();
    in_child(|| {
        // SAFETY: the child does not use the parent's values again: it exits from this closure.
        #[allow(unsafe_code, reason = "the child drops its own copies of what the parent keeps")]
        let (workers, pool) = unsafe { std::ptr::read(&both) };
        assert_eq!(
            workers.handle().spawn(|| ()).unwrap_err().kind(),
            &SpawnErrorKind::Forked
        );
        assert_is_forked(&workers.broadcast(|_| ()).unwrap_err());
        assert!(matches!(pool.run_or_block(|| ()), Err(OffloadError::Forked)));
        let in_job = start_job(&WaitCtx::new(), {
            let pool = pool.clone();
            move || (pool.run(|| ()), pool.try_run(|| ()).is_err())
        });
        let Ok(Step::Finished((run, true))) = in_job else {
            panic!("it paused")
        };
        assert!(matches!(run, Err(OffloadError::Forked)));
        assert_eq!(pool.stats(), Default::default());
        pool.shutdown();
        drop(pool);
        assert_eq!(workers.shutdown(Duration::from_secs(1)), Default::default());
        assert!(!waits.is_finished());
    });
    assert_eq!(offload.run_or_block(|| 7).unwrap(), 7);
    gate.send(()).unwrap();
    waits.join().unwrap();
    drop(both);
}

#[test]
fn jobs_and_futures() {
    run_alone("copies_of_jobs_and_futures");
}

/// A job that the child inherits is a copy that works. What happens to the copy is not seen in the parent.
#[test]
#[ignore = "run by jobs_and_futures"]
fn copies_of_jobs_and_futures() {
    let Ok(Step::Paused(job)) = start_job(&WaitCtx::new(), pause_job) else {
        panic!("it pauses")
    };
    let job = Cell::new(Some(job));
    let (sent, receives) = std::sync::mpsc::channel();
    let mut future = Box::pin(JobFuture::new(move || {
        let first = await_future(std::future::poll_fn(|_| match receives.try_recv() {
            Ok(value) => std::task::Poll::Ready(value),
            Err(_) => std::task::Poll::Pending,
        }));
        first.unwrap_or(0)
    }));
    let mut poll = || {
        let mut task = std::task::Context::from_waker(std::task::Waker::noop());
        std::future::Future::poll(future.as_mut(), &mut task)
    };
    assert!(poll().is_pending());
    in_child(|| assert_eq!(job.take().unwrap().cancel(), Ok(Err(PauseError::Cancelled))));
    in_child(|| drop(job.take()));
    let Step::Finished(paused) = job.take().unwrap().resume() else {
        panic!("it ends")
    };
    assert_eq!(paused, Ok(()));
    assert!(poll().is_pending());
    in_child(|| drop(std::mem::replace(&mut future, Box::pin(JobFuture::new(|| 0)))));
    assert!(sent.send(1).is_ok(), "the job of the parent still waits");
}

#[test]
fn a_child_starts_jobs_although_another_thread_was_in_the_depot() {
    run_alone("depot_in_use");
}

/// A thread takes stacks from the depot and gives them back all the time, so that it holds the depot's lock at many of
/// the forks.
#[test]
#[ignore = "run by a_child_starts_jobs_although_another_thread_was_in_the_depot"]
fn depot_in_use() {
    let starts_jobs = |count| {
        let jobs: Vec<_> = (0..count)
            .map(|_| match start_job(&WaitCtx::new(), pause_job) {
                Ok(Step::Paused(job)) => job,
                _ => panic!("there is memory for a stack"),
            })
            .collect();
        drop(jobs);
    };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                init_thread(PoolConfig::new().max_idle(0)).unwrap(); // each stack goes to the depot
                while !stop.load(Ordering::Relaxed) {
                    starts_jobs(3);
                }
            });
        }
        init_thread(PoolConfig::new().max_idle(0)).unwrap();
        for _ in 0..300 {
            in_child(|| starts_jobs(3));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// The lock of the report is held again and again by another thread of the parent.
#[test]
fn a_child_reports_forbidden_pauses() {
    run_alone("forks_while_a_report_is_set");
}

#[test]
#[ignore = "run by a_child_reports_forbidden_pauses"]
fn forks_while_a_report_is_set() {
    static IS_REPORTED: AtomicBool = AtomicBool::new(false);
    let set = || on_forbidden_pause(|_| IS_REPORTED.store(true, Ordering::Relaxed));
    set();
    // A child that fails ends the test, and the process ends with it: nobody waits for this thread.
    thread::spawn(move || {
        loop {
            set();
        }
    });
    for _ in 0..500 {
        in_child(|| {
            let step = start_job(&WaitCtx::new(), || {
                let _held = no_pause("a lock");
                pause_job()
            });
            assert!(matches!(step, Ok(Step::Finished(Err(PauseError::Blocked)))));
            assert!(IS_REPORTED.load(Ordering::Relaxed));
        });
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_child_locks_the_stacks_that_it_inherits() {
    run_alone("fork_with_locked_stacks");
}

/// The kernel gives a child the memory of its parent, with what lies on its stacks, and none of the locks on it.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "run by a_child_locks_the_stacks_that_it_inherits"]
fn fork_with_locked_stacks() {
    let locked = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
        line.unwrap().trim().trim_end_matches(" kB").parse::<usize>().unwrap()
    };
    let start = || match start_job(&WaitCtx::new(), pause_job) {
        Ok(Step::Paused(job)) => job,
        _ => panic!("it pauses"),
    };
    init_thread(PoolConfig::new().secrets(SecretPolicy::new().mlock())).unwrap();
    let (_paused, idle) = (start(), [start(), start()]);
    drop(idle); // into the pool of the thread
    std::thread::spawn(move || {
        init_thread(PoolConfig::new().secrets(SecretPolicy::new().mlock())).unwrap();
        drop([start(), start()]); // into the depot, when the thread ends
    })
    .join()
    .unwrap();
    let by_parent = locked();
    assert!(by_parent >= 5 * 256, "{by_parent} KiB: five stacks");
    in_child(|| {
        assert_eq!(locked(), by_parent);
        drop([start(), start(), start(), start()]); // the stacks that it has inherited
        assert_eq!(locked(), by_parent);
        in_child(|| assert_eq!(locked(), by_parent));
    });
    assert_eq!(locked(), by_parent);
}
