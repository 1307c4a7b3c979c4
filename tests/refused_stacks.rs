//! Promise: a job for whose stack there is no memory keeps no other job from starting, and starts when there is memory.
//!
//! The tests limit the address space of the process, so that a stack of the usual size fits and one of the largest size
//! does not. Each is a process of its own.
#![allow(unsafe_code, reason = "std sets no limits")]

use std::cell::RefCell;
use std::fs;
use std::rc::Rc;
use std::time::Duration;

use asyncjob::scheduler::{JoinError, JoinHandle, Scheduler};
use asyncjob::stack::{StackSize, set_max_cached};
use asyncjob::{JobBuilder, Status, current_job, pause_job};
use asyncjob_testing::{Watchdog, run_alone};

/// While it exists, the process gets 7 MiB of address space more than it has.
struct LittleMemory;

impl LittleMemory {
    fn new() -> Self {
        set_max_cached(0); // a large stack of an earlier part of the test would be there
        let sizes = fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = sizes.split(' ').next().unwrap().parse().unwrap();
        limit_memory(pages * 4096 + (7 << 20));
        LittleMemory
    }
}

impl Drop for LittleMemory {
    fn drop(&mut self) {
        limit_memory(libc::RLIM_INFINITY);
    }
}

fn limit_memory(bytes: u64) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the limit is valid during the call.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) }, 0);
    limit.rlim_cur = bytes.min(limit.rlim_max);
    // SAFETY: the limit is valid during the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
}

/// A scheduler with a job that does not end until its handle is dropped.
fn scheduler_with_a_long_job() -> (Scheduler, JoinHandle<()>) {
    let scheduler = Scheduler::new().unwrap();
    let long = scheduler.spawn(|| {
        current_job().unwrap().wait_ctx().set_status(Status::Ok);
        while pause_job().is_ok() {}
    });
    turn(&scheduler);
    (scheduler, long.unwrap())
}

fn turn(scheduler: &Scheduler) {
    scheduler.turn(Some(Duration::ZERO)).unwrap();
}

fn spawn_large<T: 'static>(scheduler: &Scheduler, f: impl FnOnce() -> T + 'static) -> JoinHandle<T> {
    let large = JobBuilder::new().stack_size(StackSize::MAX);
    large.spawn_on(scheduler, f).unwrap()
}

#[test]
fn others_start_beside_a_refused_job_which_starts_when_there_is_memory() {
    run_alone("others_start");
}

#[test]
#[ignore = "run by others_start_beside_a_refused_job_which_starts_when_there_is_memory"]
fn others_start() {
    let _watchdog = Watchdog::new();
    let (scheduler, long) = scheduler_with_a_long_job();
    let memory = LittleMemory::new();
    let large = spawn_large(&scheduler, || "large");
    let small: Vec<_> = (0..100).map(|n| scheduler.spawn(move || n).unwrap()).collect();
    for (n, small) in small.into_iter().enumerate() {
        assert_eq!(scheduler.run_until(small).unwrap(), n);
    }
    assert!(!large.is_finished(), "there was memory for the large stack");
    drop(memory);
    assert_eq!(
        scheduler.run_until(large).unwrap(),
        "large",
        "although no job has ended"
    );
    drop(long);
    scheduler.run().unwrap();
}

/// The jobs of one size keep their order, also those that are spawned after the first was refused.
#[test]
fn jobs_of_one_size_start_in_their_order() {
    run_alone("one_size");
}

#[test]
#[ignore = "run by jobs_of_one_size_start_in_their_order"]
fn one_size() {
    let _watchdog = Watchdog::new();
    let (scheduler, long) = scheduler_with_a_long_job();
    let memory = LittleMemory::new();
    let order = Rc::new(RefCell::new(Vec::new()));
    let mut jobs = Vec::new();
    for n in 0..4 {
        let order = Rc::clone(&order);
        jobs.push(spawn_large(&scheduler, move || order.borrow_mut().push(n)));
        turn(&scheduler);
    }
    assert_eq!(*order.borrow(), [0; 0]);
    drop(memory);
    for job in jobs {
        scheduler.run_until(job).unwrap();
    }
    assert_eq!(*order.borrow(), [0, 1, 2, 3]);
    drop(long);
    scheduler.run().unwrap();
}

/// A refused job that is cancelled does not start, and one that nothing can free a stack for fails.
#[test]
fn refused_jobs_end() {
    run_alone("end");
}

#[test]
#[ignore = "run by refused_jobs_end"]
fn end() {
    let _watchdog = Watchdog::new();
    let (scheduler, long) = scheduler_with_a_long_job();
    let memory = LittleMemory::new();
    let cancelled = spawn_large(&scheduler, || unreachable!("there is no memory"));
    turn(&scheduler);
    cancelled.request_cancel();
    let failed = spawn_large(&scheduler, || unreachable!("there is no memory"));
    turn(&scheduler);
    drop(long);
    scheduler.run().unwrap();
    drop(memory);
    let cancelled: Result<(), _> = scheduler.run_until(cancelled);
    assert!(matches!(cancelled, Err(JoinError::Cancelled)), "{cancelled:?}");
    let failed: Result<(), _> = scheduler.run_until(failed);
    assert!(matches!(failed, Err(JoinError::NoStack(_))), "{failed:?}");

    let (scheduler, long) = scheduler_with_a_long_job();
    let memory = LittleMemory::new();
    let left = spawn_large(&scheduler, || unreachable!("there is no memory"));
    turn(&scheduler);
    let report = scheduler.shutdown(Duration::ZERO).unwrap();
    drop(memory);
    assert_eq!((report.cancelled, scheduler.live_jobs()), (2, 0));
    drop((left, long));
}
