//! Promise: a stack that no job needs gives its memory back with time, and one that jobs need stays.

mod by_hand;

use std::time::Duration;

use asyncjob::pool::{self, PoolConfig, decay, init_thread};
use asyncjob::scheduler::Scheduler;
use asyncjob::stack::{self, StackSize, set_idle_time};
use asyncjob::{Step, WaitCtx, pause_job, start_job};
use asyncjob_testing::Watchdog;
use by_hand::{finished, paused};

/// Has so many jobs at a time.
fn use_stacks(count: usize) {
    let jobs: Vec<_> = (0..count).map(|_| paused(|| pause_job().unwrap())).collect();
    jobs.into_iter().for_each(|job| finished(job.resume()));
}

fn idle() -> usize {
    pool::stats().idle
}

/// How many stacks of the default size exist, and how many of them are idle in the depot.
fn in_process() -> (usize, usize) {
    let stats = stack::stats();
    let stats = stats.iter().find(|stats| stats.size == StackSize::DEFAULT.bytes());
    stats.map_or((0, 0), |stats| (stats.stacks, stats.in_depot))
}

/// The idle time belongs to the process, so this is one test. A time of 0 is over at each call.
#[test]
fn idle_stacks_decay() {
    let _watchdog = Watchdog::new();
    set_idle_time(Duration::ZERO);
    what_is_not_used_between_two_calls_goes();
    what_was_made_in_advance_stays();
    what_threads_share_goes_too();
    a_scheduler_gives_idle_stacks_back();
    before_the_time_nothing_goes();
}

fn what_is_not_used_between_two_calls_goes() {
    use_stacks(20);
    assert!(decay().is_some(), "the first call has nothing to compare with");
    assert_eq!(idle(), 20);
    use_stacks(3); // the last three, and so the last two of eight marks
    assert!(decay().is_some());
    assert_eq!(idle(), 5);
    use_stacks(5);
    assert!(decay().is_some());
    assert_eq!(idle(), 5, "all were used");
    assert_eq!(decay(), None);
    assert_eq!(idle(), 0);
    assert_eq!(in_process(), (0, 0));

    let job = paused(|| pause_job().unwrap());
    use_stacks(3);
    while decay().is_some() {}
    assert_eq!((idle(), in_process()), (0, (1, 0)), "a job keeps its stack");
    finished(job.resume());
    while decay().is_some() {}
}

fn what_was_made_in_advance_stays() {
    init_thread(PoolConfig::new().precreate(4)).unwrap();
    use_stacks(10);
    while decay().is_some() {}
    assert_eq!(idle(), 4);
    pool::cleanup_thread().unwrap();
    while decay().is_some() {}
}

/// A thread that exits leaves its stacks in the depot.
fn what_threads_share_goes_too() {
    stack::set_max_cached(100);
    let other = std::thread::spawn(|| {
        let step = start_job(&WaitCtx::new(), || ());
        assert!(matches!(step, Ok(Step::Finished(()))));
    });
    other.join().unwrap();
    assert_eq!(in_process(), (1, 1));
    while decay().is_some() {}
    assert_eq!(in_process(), (0, 0));
    stack::set_max_cached(0);
}

fn a_scheduler_gives_idle_stacks_back() {
    let scheduler = Scheduler::new().unwrap();
    let jobs: Vec<_> = (0..10)
        .map(|_| scheduler.spawn(|| pause_job().unwrap()).unwrap())
        .collect();
    scheduler.run().unwrap();
    drop(jobs);
    assert!(scheduler.next_deadline().is_some());
    while scheduler.next_deadline().is_some() {
        scheduler.turn(Some(Duration::MAX)).unwrap();
    }
    assert_eq!((idle(), in_process()), (0, (0, 0)));
}

fn before_the_time_nothing_goes() {
    for time in [Duration::from_secs(3600), Duration::MAX] {
        set_idle_time(time);
        use_stacks(3);
        for _ in 0..3 {
            assert_eq!(decay().is_some(), time != Duration::MAX);
        }
        assert_eq!(idle(), 3);
    }
}
