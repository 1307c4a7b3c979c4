//! Promise: after a burst of jobs their memory returns to the system while a few other jobs end, without another call,
//! and during the burst the stacks take few mappings. With an idle time of zero it returns before the burst has ended.
//!
//! This file has one test, because it reads the numbers of the whole process. Its jobs share one wait ctx. What jobs
//! allocate on the heap is freed to the allocator, and glibc keeps small blocks until `malloc_trim(3)`: with a ctx for
//! each job, 26 MiB would stay.

use std::time::{Duration, Instant};

use asyncjob::pool::{PoolConfig, cleanup_thread, init_thread};
use asyncjob::stack::{self, StackSize, set_idle_time, set_max_cached};
use asyncjob::{Job, Step, WaitCtx, pause_job};
use asyncjob_testing::Watchdog;

const STEADY: usize = 10_000;
const BURST: usize = 200_000;
/// How many idle stacks this thread and the depot keep.
const IDLE: usize = 256 + 512;
/// How many stacks give their memory back in the end of one job.
const AT_ONCE: usize = 256;

#[test]
fn resident_memory_returns_within_ten_percent() {
    let _watchdog = Watchdog::new();
    init_thread(PoolConfig::new().stack_size(StackSize::MIN).guard(16 << 10)).unwrap();
    let ctx = WaitCtx::new();
    let mut steady: Vec<Job<usize>> = (0..STEADY).map(|number| start(&ctx, number)).collect();
    // The test allocates its own memory before it measures anything.
    let mut burst: Vec<Option<Job<usize>>> = (0..BURST).map(|_| None).collect();
    for (number, at_random, at_once) in [(1, false, true), (2, true, true), (3, true, false)] {
        set_idle_time(if at_once { Duration::ZERO } else { Duration::MAX });
        let (before, mappings) = (resident(), mappings());
        burst
            .iter_mut()
            .enumerate()
            .for_each(|(number, job)| *job = Some(start(&ctx, number)));
        let during = resident();
        assert!(
            during - before >= (BURST - IDLE - 2 * AT_ONCE) * 4096,
            "each job has a page: {before} -> {during}"
        );
        let grown = self::mappings() - mappings;
        assert!(grown <= 8, "burst {number}: {grown} more mappings");
        if at_random {
            shuffle(&mut burst);
        }
        burst.iter_mut().filter_map(Option::take).for_each(finish);
        if !at_once {
            let ends = ends_until(&ctx, before + 2 * AT_ONCE * 4096);
            println!("burst {number}: {ends:?}");
            assert!(
                ends.jobs >= BURST / AT_ONCE / 2,
                "a piece in the end of a job: {ends:?}"
            );
        }
        let after = resident();
        println!(
            "burst {number}: {} KiB, {} KiB, {} KiB resident",
            before >> 10,
            during >> 10,
            after >> 10
        );
        assert!(
            after < before + before / 10,
            "burst {number}: {before} -> {during} -> {after}"
        );
    }
    steady.drain(..).for_each(finish);
    cleanup_thread().unwrap();
    set_max_cached(0);
    drop(start(&ctx, 0));
    let reserved: usize = stack::stats().iter().map(|stats| stats.reserved).sum();
    assert!(
        reserved <= BURST / 100 * (32 << 10) * 2,
        "the large slabs are unmapped: {reserved} bytes are left"
    );
}

/// The jobs that ended after a burst until its memory was back.
#[derive(Debug, Default)]
struct Ends {
    jobs: usize,
    longest: Duration,
}

/// Starts jobs and ends them, one at a time, until less than this is resident.
fn ends_until(ctx: &WaitCtx, most: usize) -> Ends {
    let mut ends = Ends::default();
    while resident() >= most {
        let job = start(ctx, 0);
        let clock = Instant::now();
        finish(job);
        ends.jobs += 1;
        ends.longest = ends.longest.max(clock.elapsed());
    }
    ends
}

fn start(ctx: &WaitCtx, number: usize) -> Job<usize> {
    let step = asyncjob::start_job(ctx, move || {
        let _ = pause_job();
        number
    });
    let Ok(Step::Paused(job)) = step else {
        panic!("job {number} pauses")
    };
    job
}

fn finish(job: Job<usize>) {
    assert!(matches!(job.resume(), Step::Finished(_)));
}

fn shuffle<T>(values: &mut [T]) {
    let mut state = 1u64;
    for last in (1..values.len()).rev() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        values.swap(last, (state >> 33) as usize % (last + 1));
    }
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() << 10
}

fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}
