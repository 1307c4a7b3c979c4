//! Promise: a job for whose stack there is no memory keeps no other job from starting, and starts when there is memory.
//!
//! The tests limit the address space of the process, so that a stack of the usual size fits and one of the largest size
//! does not. Each is a process of its own.
#![cfg(target_os = "linux")] // whose /proc says how much memory the process has, to which the limit is set
#![allow(unsafe_code, reason = "std sets no limits")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs;
use std::rc::Rc;
use std::time::Duration;

use asyncjob::pool::{PoolConfig, init_thread};
use asyncjob::scheduler::{JoinError, JoinHandle, Scheduler};
use asyncjob::stack::{SecretPolicy, StackSize, set_max_cached};
use asyncjob::{JobBuilder, Status, Step, WaitCtx, current_job, pause_job, start_job};
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
    // The places that these leave are of no use to the large one, as the long job stays.
    for _ in 0..100 {
        let small = scheduler.spawn(|| pause_job().unwrap()).unwrap();
        scheduler.run_until(small).unwrap();
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

/// They keep it also when there is memory, and the pool is at its limit then.
#[test]
fn jobs_of_one_size_keep_their_order_at_the_limit_of_the_pool() {
    run_alone("one_size_at_the_limit");
}

#[test]
#[ignore = "run by jobs_of_one_size_keep_their_order_at_the_limit_of_the_pool"]
fn one_size_at_the_limit() {
    let _watchdog = Watchdog::new();
    init_thread(PoolConfig::new().limit(3)).unwrap();
    let (scheduler, long) = scheduler_with_a_long_job();
    let memory = LittleMemory::new();
    let order = Rc::new(RefCell::new(Vec::new()));
    let spawn_next = |n| {
        let order = Rc::clone(&order);
        spawn_large(&scheduler, move || order.borrow_mut().push(n))
    };
    let jobs = [0, 1].map(spawn_next);
    turn(&scheduler);
    let (first, second) = (spawn_small(&scheduler), spawn_small(&scheduler));
    turn(&scheduler);
    drop(memory);
    for _ in 0..3 {
        scheduler.turn(Some(Duration::from_millis(20))).unwrap(); // a refused job is tried
    }
    assert_eq!(*order.borrow(), [0; 0], "the pool has a fourth stack");
    for (job, ctx) in [first, second] {
        ctx.callback().expect("it has started").wake();
        scheduler.run_until(job).unwrap();
    }
    for job in jobs {
        scheduler.run_until(job).unwrap();
    }
    assert_eq!(*order.borrow(), [0, 1]);
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
    // Without this job the slab of the small stacks would be unmapped when the last of them ends, and the large stack
    // would fit there.
    let in_the_slab = start_job(&WaitCtx::new(), pause_job);
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
    drop((left, long, in_the_slab));
}

/// Locks the stacks of this thread in memory, of which the process may lock 4 MiB: 12 stacks of the usual size, or a
/// large one and 6 of them.
fn lock_stacks() {
    let limit = libc::rlimit {
        rlim_cur: 4 << 20,
        rlim_max: 4 << 20,
    };
    // SAFETY: the limit is valid during the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) }, 0);
    // The limit does not count for root.
    // SAFETY: the process is of this test alone.
    if unsafe { libc::geteuid() } == 0 {
        // SAFETY: as above.
        assert_eq!(unsafe { libc::setuid(65534) }, 0);
    }
    init_thread(PoolConfig::new().secrets(SecretPolicy::new().mlock())).unwrap();
}

fn spawn_locked(scheduler: &Scheduler) -> JoinHandle<()> {
    let large = JobBuilder::new().stack_size(StackSize::at_least(2 << 20));
    large.spawn_on(scheduler, || ()).unwrap()
}

/// Spawns a job that ends when its callback is called.
fn spawn_small(scheduler: &Scheduler) -> (JoinHandle<()>, WaitCtx) {
    let ctx = WaitCtx::new();
    ctx.set_status(Status::Ok);
    let job = JobBuilder::new()
        .wait_ctx(&ctx)
        .spawn_on(scheduler, || pause_job().unwrap());
    (job.unwrap(), ctx)
}

/// Wakes the first of the jobs that has started, and spawns another one in its place.
fn replace_one(scheduler: &Scheduler, small: &mut VecDeque<(JoinHandle<()>, WaitCtx)>) {
    let (job, ctx) = small.pop_front().unwrap();
    ctx.callback().expect("the first of them has started").wake();
    scheduler.run_until(job).unwrap();
    small.push_back(spawn_small(scheduler));
    turn(scheduler);
}

/// Twelve small jobs run at a time. When one ends, the next one waits already, so that there is never memory for a
/// large stack unless places stay empty.
#[test]
fn small_jobs_do_not_starve_a_large_one() {
    run_alone("a_large_job_among_small_ones");
}

#[test]
#[ignore = "run by small_jobs_do_not_starve_a_large_one"]
fn a_large_job_among_small_ones() {
    let _watchdog = Watchdog::new();
    lock_stacks();
    let scheduler = Scheduler::new().unwrap();
    let mut small: VecDeque<_> = (0..12).map(|_| spawn_small(&scheduler)).collect();
    turn(&scheduler);
    for _ in 0..2 {
        let large = spawn_locked(&scheduler);
        turn(&scheduler);
        assert!(!large.is_finished());
        let mut ends = 0;
        while !large.is_finished() {
            replace_one(&scheduler, &mut small);
            ends += 1;
            assert!(ends < 100, "the large job starves");
        }
        // It needs the places of six small ones, each of which is the eighth that becomes free.
        assert!(ends > 40, "the small jobs have waited: {ends}");
        scheduler.run_until(large).unwrap();
        turn(&scheduler);
    }
    // All twelve run again.
    assert!(small.iter().all(|(_, ctx)| ctx.callback().is_some()));
    small.drain(..).for_each(|(job, ctx)| {
        ctx.callback().unwrap().wake();
        scheduler.run_until(job).unwrap();
    });
}

/// A job that does not fit, ever, is refused for good, and large jobs that come again and again leave places to others.
#[test]
fn refused_jobs_do_not_starve_the_others() {
    run_alone("small_jobs_among_refused_ones");
}

#[test]
#[ignore = "run by refused_jobs_do_not_starve_the_others"]
fn small_jobs_among_refused_ones() {
    let _watchdog = Watchdog::new();
    lock_stacks();
    let scheduler = Scheduler::new().unwrap();
    let mut small: VecDeque<_> = (0..12).map(|_| spawn_small(&scheduler)).collect();
    turn(&scheduler);
    let mut large: VecDeque<_> = (0..3).map(|_| spawn_locked(&scheduler)).collect();
    let mut ended = 0;
    for _ in 0..2000 {
        replace_one(&scheduler, &mut small);
        if large[0].is_finished() {
            large.pop_front();
            large.push_back(spawn_locked(&scheduler));
            ended += 1;
        }
    }
    assert!((40..200).contains(&ended), "{ended} large jobs beside 2,000 small ones");
}

/// Stacks that are idle hold nothing up: neither those of this thread, nor those that threads share.
#[test]
fn a_stack_takes_the_memory_of_idle_ones() {
    run_alone("memory_of_idle_stacks");
}

#[test]
#[ignore = "run by a_stack_takes_the_memory_of_idle_ones"]
fn memory_of_idle_stacks() {
    lock_stacks();
    let ctx = WaitCtx::new();
    let start = |size| match JobBuilder::new().stack_size(size).wait_ctx(&ctx).start(pause_job) {
        Ok(Step::Paused(job)) => Some(job),
        Ok(Step::Finished(_)) => panic!("the job pauses"),
        Err(_) => None,
    };
    let large = StackSize::at_least(2 << 20);
    for (idle, wanted) in [(large, StackSize::DEFAULT), (StackSize::DEFAULT, large)] {
        let jobs: Vec<_> = std::iter::from_fn(|| start(idle)).collect();
        let refused = start(wanted).is_none();
        drop(jobs);
        assert!(refused == (wanted == large) && start(wanted).is_some());
    }
}
