//! Promise: a scheduler takes memory for the jobs and the waits that there are: none for what has ended, and none for a
//! large number.
//!
//! These tests count the bytes that are allocated. They have a file of their own for the allocator, and count for each
//! thread, because the test harness has threads of its own.

mod by_hand;

use std::time::{Duration, Instant};

use asyncjob::scheduler::{JoinHandle, Scheduler};
use asyncjob::stack::set_idle_time;
use asyncjob::time::{sleep, with_deadline, with_timeout, yield_now};
use asyncjob::{Status, WaitKey, current_job, pause_job};
use asyncjob_testing::{Counting, Watchdog, allocated_bytes, run_alone};
use by_hand::{add_number, number};

#[global_allocator]
static GLOBAL: Counting = Counting;

const HOUR: Duration = Duration::from_secs(3600);
/// Long enough for a timer: a deadline that has passed at the pause needs none.
const SHORT: Duration = Duration::from_micros(100);

/// The bytes that are allocated on this thread after `round` has been called ten times, and after a hundred times
/// more.
fn before_and_after(mut round: impl FnMut()) -> (isize, isize) {
    (0..10).for_each(|_| round()); // each list that the scheduler uses in turn has grown by then
    let before = allocated_bytes();
    (0..100).for_each(|_| round());
    (before, allocated_bytes())
}

fn run_ready(scheduler: &Scheduler) {
    while scheduler.turn(Some(Duration::ZERO)).unwrap().ready != 0 {}
}

/// A connection that ends long before its idle timeout, again and again.
#[test]
fn jobs_that_end_before_their_deadline() {
    let _watchdog = Watchdog::new();
    set_idle_time(Duration::MAX); // idle stacks have a deadline, too
    let scheduler = Scheduler::new().unwrap();
    let (before, after) = before_and_after(|| {
        let jobs = (0..50).map(|_| scheduler.spawn(|| with_timeout(HOUR, pause_job)).unwrap());
        let jobs: Vec<_> = jobs.collect();
        run_ready(&scheduler);
        assert!(scheduler.next_deadline().is_some(), "the jobs have a deadline");
        drop(jobs);
        scheduler.run().unwrap();
        assert_eq!(scheduler.next_deadline(), None, "no job has a deadline any more");
    });
    assert_eq!(after - before, 0, "bytes more after 5,000 jobs more");
}

/// A job whose short waits and whose waits under a far deadline take turns. It is the same far deadline each time, and
/// another one each time.
#[test]
fn short_waits_beside_a_far_deadline() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let in_an_hour = Instant::now() + HOUR;
    let job = scheduler.spawn(move || {
        let ctx = current_job().unwrap().wait_ctx().clone();
        let wait_until = |at| {
            ctx.callback().unwrap().wake();
            ctx.set_status(Status::Ok);
            with_deadline(at, pause_job).unwrap();
            ctx.set_status(Status::Unsupported);
        };
        before_and_after(|| {
            for _ in 0..10 {
                sleep(SHORT).unwrap();
                wait_until(in_an_hour);
                sleep(SHORT).unwrap();
                wait_until(Instant::now() + HOUR);
            }
        })
    });
    let (before, after) = scheduler.run_until(job.unwrap()).unwrap();
    assert!(
        after - before < 2000,
        "{} bytes more after 2,000 waits more",
        after - before
    );
}

/// A job that waits for fds that are not open. The highest of the numbers would be a table of many GiB.
#[test]
fn numbers_of_fds_that_are_not_open() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let peak = scheduler.spawn(|| {
        let ctx = current_job().unwrap().wait_ctx().clone();
        let wait = |fd| {
            let key = WaitKey::unique();
            add_number(&ctx, number(key, fd), ());
            ctx.callback().unwrap().wake();
            pause_job().unwrap();
            let bytes = allocated_bytes();
            ctx.clear_fd(key);
            bytes
        };
        let before = wait(-1);
        [1 << 20, (1 << 24) - 1, i32::MAX, i32::MIN].map(|fd| wait(fd) - before)
    });
    let peak = scheduler.run_until(peak.unwrap()).unwrap();
    assert!(peak.iter().all(|&more| more < 1000), "{peak:?} bytes more");
}

/// The other tests keep idle stacks for ever.
#[test]
fn what_a_burst_leaves_goes_with_its_stacks() {
    run_alone("blocks_of_a_burst");
}

/// The blocks of a burst stay with the thread for the next one.
#[test]
#[ignore = "run by what_a_burst_leaves_goes_with_its_stacks"]
fn blocks_of_a_burst() {
    const BURST: usize = 5000;
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let burst = || {
        let jobs: Vec<_> = (0..BURST).map(|_| scheduler.spawn(yield_now).unwrap()).collect();
        scheduler.run().unwrap();
        assert!(jobs.iter().all(JoinHandle::is_finished));
    };
    (0..2).for_each(|_| burst()); // the lists of the scheduler have grown
    let after_burst = allocated_bytes();
    burst();
    assert_eq!(allocated_bytes(), after_burst, "bytes after one burst more");
    let kept = 1024 * 256;
    let left = if cfg!(feature = "sanitizer") {
        kept
    } else {
        BURST as isize * 256
    };
    while allocated_bytes() > after_burst - (left - kept) {
        scheduler.turn(Some(Duration::from_millis(100))).unwrap();
    }
}
