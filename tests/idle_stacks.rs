//! Promise: a stack that no job needs gives its memory back with time, and one that jobs need stays.

mod by_hand;

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use asyncjob::pool::{self, PoolConfig, decay, init_thread};
use asyncjob::scheduler::Scheduler;
use asyncjob::stack::{self, StackSize, set_idle_time};
use asyncjob::{Status, Step, WaitCtx, current_job, pause_job, start_job};
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
    a_crowd_keeps_its_stacks_for_a_moment();
    a_run_that_ends_leaves_no_crowd_behind();
    a_crowd_without_a_scheduler_goes_when_other_jobs_end();
    a_thread_that_exits_leaves_no_crowd_behind();
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

/// Jobs that wait for a wake. Returns when all of them are paused.
fn crowd(scheduler: &Scheduler, count: usize) -> Vec<Waker> {
    let wakers = Rc::new(RefCell::new(Vec::new()));
    for _ in 0..count {
        let mine = Rc::clone(&wakers);
        let job = scheduler.spawn(move || {
            let ctx = current_job().unwrap().wait_ctx().clone();
            ctx.set_status(Status::Ok);
            mine.borrow_mut().push(ctx.callback().unwrap());
            pause_job().unwrap();
        });
        job.unwrap().detach();
    }
    while wakers.borrow().len() < count {
        scheduler.turn(Some(Duration::ZERO)).unwrap();
    }
    wakers.take()
}

/// The idle stacks that no bound covers: this thread keeps none, and the depot none.
fn a_crowd_keeps_its_stacks_for_a_moment() {
    const CROWD: usize = 1000;
    set_idle_time(Duration::MAX); // the moment does not depend on it
    init_thread(PoolConfig::new().max_idle(1)).unwrap();
    while decay().is_some() {}
    let scheduler = Scheduler::new().unwrap();
    for _ in 0..2 {
        crowd(&scheduler, CROWD).into_iter().for_each(Waker::wake);
        while scheduler.live_jobs() != 0 {
            scheduler.turn(Some(Duration::ZERO)).unwrap();
        }
        let (stacks, in_depot) = in_process();
        assert!(stacks >= CROWD && stacks == in_depot + idle(), "{stacks} {in_depot}");
    }
    let ended = Instant::now();
    let mut pieces = 0;
    while in_process().0 > idle() {
        let at = scheduler
            .next_deadline()
            .expect("the scheduler has to give the memory back");
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        let before = in_process().0;
        scheduler.turn(Some(Duration::ZERO)).unwrap();
        pieces += usize::from(in_process().0 < before);
    }
    assert!(ended.elapsed() >= Duration::from_millis(900), "{:?}", ended.elapsed());
    assert!(pieces >= 4, "at most 256 at once: {pieces}");
    assert_eq!(scheduler.next_deadline(), None);
}

fn a_run_that_ends_leaves_no_crowd_behind() {
    let scheduler = Scheduler::new().unwrap();
    crowd(&scheduler, 100).into_iter().for_each(Waker::wake);
    scheduler.run().unwrap();
    assert_eq!(in_process().0, idle());
    crowd(&scheduler, 100).into_iter().for_each(Waker::wake);
    while scheduler.live_jobs() != 0 {
        scheduler.turn(Some(Duration::ZERO)).unwrap();
    }
    assert!(in_process().0 >= 100);
    drop(scheduler);
    assert_eq!(in_process().0, idle());
}

/// No call but those of the next jobs gives the memory back, at most 256 stacks in each of them.
fn a_crowd_without_a_scheduler_goes_when_other_jobs_end() {
    const CROWD: usize = 1000;
    set_idle_time(Duration::MAX);
    use_stacks(CROWD);
    let ended = Instant::now();
    assert!(in_process().0 >= CROWD);
    let mut pieces = 0;
    while in_process().0 > idle() {
        let before = in_process().0;
        use_stacks(1);
        let gone = before - in_process().0;
        assert!(gone <= 256, "at once: {gone}");
        if gone != 0 {
            assert!(ended.elapsed() >= Duration::from_millis(900), "{:?}", ended.elapsed());
            pieces += 1;
        }
    }
    assert!(pieces >= 4, "{pieces}");
    set_idle_time(Duration::ZERO);
    use_stacks(CROWD);
    assert_eq!(in_process().0, idle(), "an idle time of zero is over at once");
}

fn a_thread_that_exits_leaves_no_crowd_behind() {
    set_idle_time(Duration::MAX);
    let before = in_process().0;
    let other = std::thread::spawn(|| {
        init_thread(PoolConfig::new().max_idle(1)).unwrap();
        use_stacks(1000);
        in_process().0
    });
    assert!(other.join().unwrap() >= 1000);
    assert_eq!(in_process().0, before);
}
