//! Promise: the pool of a thread counts every job, keeps its limit, and gives back what it cannot run.
//!
//! Every test runs on a thread of its own, so each begins with a pool that was not set up.

mod by_hand;

use std::cell::Cell;
use std::rc::Rc;
use std::thread;

use asyncjob::pool::{self, PoolConfig, PoolError, cleanup_thread, init_thread};
use asyncjob::stack::StackSize;
use asyncjob::{JobBuilder, StartErrorKind, Step, WaitCtx, current_job, pause_job, start_job};
use by_hand::{finished, paused};

fn pausing() {
    pause_job().unwrap();
}

/// At least that many idle stacks, for a pool may take more than one at a time from what other threads gave back;
/// exactly that many in use, and that limit, which idle stacks and those in use keep together.
#[track_caller]
fn expect(idle: usize, in_use: usize, limit: Option<usize>) {
    let stats = pool::stats();
    assert_eq!((stats.in_use, stats.limit), (in_use, limit), "{stats:?}");
    assert!(stats.idle >= idle, "{stats:?}");
    assert!(
        stats.idle == 0 || stats.idle + in_use <= limit.unwrap_or(usize::MAX),
        "{stats:?}"
    );
}

/// Where the stack of a job lies, near enough to tell one slot from another: stacks are at least 16 KiB apart.
fn slot() -> usize {
    let local = 0u8;
    std::hint::black_box(&raw const local) as usize >> 14
}

/// S11: more stacks in advance than the limit allows is refused, and changes nothing. Also with limit 0, which here
/// means none at all and not "no limit".
#[test]
fn precreate_above_the_limit_is_refused() {
    init_thread(PoolConfig::new().limit(3).precreate(1)).unwrap();
    for (precreate, limit) in [(5, 4), (1, 0)] {
        let error = init_thread(PoolConfig::new().limit(limit).precreate(precreate)).unwrap_err();
        assert_eq!(error, PoolError::PrecreateAboveLimit { precreate, limit });
        assert!(error.to_string().contains("raise the limit"), "{error}");
    }
    expect(1, 0, Some(3));
}

/// A guard that is none, or that no address space has, is refused by name, and changes nothing.
#[test]
fn a_guard_out_of_range_is_refused() {
    init_thread(PoolConfig::new().limit(3)).unwrap();
    for guard in [0, (1 << 30) + 1, usize::MAX] {
        let error = init_thread(PoolConfig::new().limit(1).guard(guard)).unwrap_err();
        assert_eq!(error, PoolError::GuardOutOfRange { guard });
        assert!(
            error.to_string().contains(&format!("a guard of {guard} bytes")),
            "{error}"
        );
    }
    expect(0, 0, Some(3));
    for guard in [1, 1 << 20] {
        init_thread(PoolConfig::new().guard(guard)).unwrap();
        finished(start_job(&WaitCtx::new(), || ()).unwrap());
    }
}

/// A limit can be unset, and set from an option.
#[test]
fn a_limit_is_a_number_or_none() {
    init_thread(PoolConfig::new().limit(3).limit(None)).unwrap();
    expect(0, 0, None);
    init_thread(PoolConfig::new().limit(Some(2))).unwrap();
    expect(0, 0, Some(2));
}

/// A thread keeps as many idle stacks as it was told to, and at least as many as it made in advance.
#[test]
fn a_pool_keeps_so_many_idle_stacks() {
    init_thread(PoolConfig::new().max_idle(3)).unwrap();
    drop((0..10).map(|_| paused(pausing)).collect::<Vec<_>>());
    assert!((1..=3).contains(&pool::stats().idle), "{:?}", pool::stats());
    init_thread(PoolConfig::new().max_idle(0).precreate(5)).unwrap();
    expect(5, 0, None);
}

/// S12: a thread that sets nothing up has no limit and nothing in advance.
#[test]
fn without_setup_there_is_no_limit() {
    expect(0, 0, None);
    let jobs: Vec<_> = (0..50).map(|_| paused(pausing)).collect();
    expect(0, 50, None);
    drop(jobs);
    expect(50, 0, None);
}

/// S13: the limit counts idle, running and paused jobs together.
#[test]
fn the_limit_counts_idle_running_and_paused() {
    init_thread(PoolConfig::new().limit(3).precreate(2)).unwrap();
    expect(2, 0, Some(3));
    let first = paused(pausing);
    expect(1, 1, Some(3));
    let step = start_job(&WaitCtx::new(), || {
        let second = paused(pausing);
        let third = start_job(&WaitCtx::new(), || ()); // paused, running, paused: full
        expect(0, 3, Some(3));
        (third.is_err(), second)
    });
    let (refused, second) = finished(step.unwrap());
    assert!(refused);
    drop((first, second));
    expect(3, 0, Some(3));
}

/// S14: that the system does not have all the memory asked for in advance is no error; `pool::stats` tells.
#[test]
fn precreating_less_than_asked_is_no_error() {
    init_thread(PoolConfig::new().limit(4)).unwrap();
    let held = [paused(pausing), paused(pausing), paused(pausing)];
    init_thread(PoolConfig::new().limit(4).precreate(4)).unwrap();
    expect(1, 3, Some(4));
    drop(held);
}

/// S15, fixed: a second setup keeps counting the jobs of the first, and loses no stack.
#[test]
fn a_second_setup_counts_the_jobs_of_the_first() {
    init_thread(PoolConfig::new().limit(4).precreate(2)).unwrap();
    let jobs = [paused(pausing), paused(pausing), paused(pausing)];
    init_thread(PoolConfig::new().limit(3)).unwrap();
    expect(0, 3, Some(3));
    let refused = start_job(&WaitCtx::new(), || ()).unwrap_err();
    assert!(matches!(refused.kind(), StartErrorKind::NoJobs { limit: 3 }));
    drop(jobs);
    expect(3, 0, Some(3));
}

/// S15, fixed: idle jobs never exceed a limit that was lowered, neither those that are idle then nor those that end
/// later.
#[test]
fn a_lowered_limit_holds_for_idle_jobs_too() {
    let mut jobs: Vec<_> = (0..6).map(|_| paused(pausing)).collect();
    let late = jobs.split_off(3);
    drop(jobs);
    expect(3, 3, None);
    init_thread(PoolConfig::new().limit(2)).unwrap();
    expect(0, 3, Some(2));
    drop(late);
    expect(2, 0, Some(2));
}

/// S16: at the limit the closure comes back, not run, with the limit; once a job finishes the next start works.
#[test]
fn exhaustion_gives_the_closure_back() {
    init_thread(PoolConfig::new().limit(1)).unwrap();
    let job = paused(pausing);
    let ran = Rc::new(Cell::new(0));
    let again = {
        let ran = ran.clone();
        let error = start_job(&WaitCtx::new(), move || ran.set(ran.get() + 1))
            .err()
            .unwrap();
        let StartErrorKind::NoJobs { limit, .. } = error.kind() else {
            panic!("{error}")
        };
        assert_eq!(*limit, 1);
        assert!(error.to_string().contains("all 1 jobs"), "{error}");
        error.into_closure()
    };
    assert_eq!(ran.get(), 0);
    finished(job.resume());
    finished(start_job(&WaitCtx::new(), again).unwrap());
    assert_eq!(ran.get(), 1);
}

/// S17, told apart: no memory is an error of its own, with the system's reason and the closure.
#[test]
fn no_memory_is_told_apart_from_the_limit() {
    // In a process of its own, because the limit of its address space holds for all its threads.
    let exe = std::env::current_exe().unwrap();
    let status = std::process::Command::new("sh")
        .args([
            "-c",
            "ulimit -v 600000 && exec \"$0\" --exact --ignored starts_until_memory_is_out",
        ])
        .arg(exe)
        .output()
        .unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
    assert!(String::from_utf8_lossy(&status.stdout).contains("1 passed"));
}

#[test]
#[ignore = "run by no_memory_is_told_apart_from_the_limit, in a small address space"]
fn starts_until_memory_is_out() {
    let size = StackSize::at_least(1 << 20);
    let mut jobs = Vec::new();
    let error = loop {
        match JobBuilder::new().stack_size(size).start(pausing) {
            Ok(Step::Paused(job)) => jobs.push(job),
            Ok(Step::Finished(())) => unreachable!(),
            Err(error) => break error,
        }
        assert!(jobs.len() < 1000, "600 MB hold no thousand stacks of 1 MiB");
    };
    let StartErrorKind::NoStack(source) = error.kind() else {
        panic!("{error}")
    };
    assert_eq!(source.kind(), std::io::ErrorKind::OutOfMemory, "{source}");
    let in_use = pool::stats().in_use;
    assert_eq!(in_use, jobs.len(), "the stack that was not had is not counted");
    jobs.truncate(jobs.len() - 2);
    let (builder, closure) = error.into_parts();
    let step = builder.start(closure);
    assert!(matches!(step, Ok(Step::Paused(_))), "there is room again");
}

/// S18: the stack of the job that finished last is used first.
#[test]
fn the_pool_is_last_in_first_out() {
    let where_it_runs = || {
        paused(|| {
            let slot = slot();
            pause_job().unwrap();
            slot
        })
    };
    let [a, b, c] = [where_it_runs(), where_it_runs(), where_it_runs()];
    let (b, a, c) = (finished(b.resume()), finished(a.resume()), finished(c.resume()));
    assert!(a != b && b != c && a != c);
    let again = [where_it_runs(), where_it_runs(), where_it_runs()];
    assert_eq!(again.map(|job| finished(job.resume())), [c, a, b]);
}

/// S19: a job that was forgotten keeps its place, as in C, and says so in `in_use`.
#[test]
fn a_forgotten_job_keeps_its_place() {
    init_thread(PoolConfig::new().limit(1)).unwrap();
    std::mem::forget(paused(pausing));
    expect(0, 1, Some(1));
    assert!(start_job(&WaitCtx::new(), || ()).is_err());
}

/// S48: cleaning up frees the idle stacks and the configuration, and may be done again.
#[test]
fn cleanup_frees_the_idle_stacks() {
    init_thread(PoolConfig::new().limit(7).precreate(5)).unwrap();
    cleanup_thread().unwrap();
    expect(0, 0, None);
    cleanup_thread().unwrap();
    finished(start_job(&WaitCtx::new(), || ()).unwrap());
    expect(1, 0, None);
}

/// S32, S48 and S49, fixed: jobs that are paused at the cleanup stay valid, stay counted, and can finish.
#[test]
fn paused_jobs_survive_a_cleanup() {
    let job = paused(|| {
        pause_job().unwrap();
        current_job().unwrap().id()
    });
    let id = job.id();
    cleanup_thread().unwrap();
    expect(0, 1, None);
    assert_eq!(finished(job.resume()), id);
    expect(1, 0, None);
}

/// S50, fixed: inside a job the cleanup is refused, and changes nothing.
#[test]
fn cleanup_inside_a_job_is_refused() {
    init_thread(PoolConfig::new().limit(3).precreate(3)).unwrap();
    let result = finished(start_job(&WaitCtx::new(), cleanup_thread).unwrap());
    assert_eq!(result, Err(PoolError::InsideJob));
    expect(3, 0, Some(3));
    cleanup_thread().unwrap();
}

/// A pool belongs to its thread.
#[test]
fn threads_do_not_share_a_limit() {
    init_thread(PoolConfig::new().limit(1)).unwrap();
    let job = paused(pausing);
    thread::spawn(|| {
        expect(0, 0, None);
        finished(start_job(&WaitCtx::new(), || ()).unwrap());
    })
    .join()
    .unwrap();
    finished(job.resume());
}

/// Jobs whose builder names the pool's own size reuse the pool's stacks: a thousand of them, one stack.
#[test]
fn asking_for_the_pools_own_size_reuses_its_stacks() {
    for _ in 0..1000 {
        let job = JobBuilder::new().stack_size(StackSize::default());
        finished(job.start(|| ()).unwrap());
    }
    assert!(pool::stats().idle < 100, "{:?}", pool::stats());
}

/// Jobs with a stack of another size count for the limit; at the limit one takes the place of an idle stack.
#[test]
fn a_job_of_another_size_counts_too() {
    init_thread(PoolConfig::new().limit(2).precreate(2)).unwrap();
    let large = JobBuilder::new().stack_size(StackSize::at_least(1 << 20));
    let Ok(Step::Paused(job)) = large.start(pausing) else {
        panic!()
    };
    expect(1, 1, Some(2));
    let other = paused(pausing);
    let larger = JobBuilder::new().stack_size(StackSize::at_least(2 << 20));
    assert!(larger.start(pausing).is_err());
    finished(job.resume());
    expect(0, 1, Some(2));
    finished(other.resume());
    expect(1, 0, Some(2));
}

/// A new stack size frees the idle stacks of the old one, and the stacks of running jobs when they end.
#[test]
fn a_new_stack_size_replaces_the_stacks() {
    let job = paused(pausing);
    init_thread(PoolConfig::new().precreate(2)).unwrap();
    init_thread(PoolConfig::new().precreate(1).stack_size(StackSize::at_least(1 << 20))).unwrap();
    expect(1, 1, None);
    finished(job.resume());
    expect(1, 0, None);
}

#[test]
fn stack_sizes_are_rounded_up() {
    assert_eq!(StackSize::at_least(0), StackSize::MIN);
    assert_eq!(StackSize::at_least(65_537).bytes(), 128 << 10);
    assert_eq!(StackSize::at_least(8 << 20), StackSize::MAX);
    assert!(std::panic::catch_unwind(|| StackSize::at_least((8 << 20) + 1)).is_err());
}
