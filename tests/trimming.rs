//! Promise: memory that is no longer used goes back to the kernel while jobs are paused and stacks are idle: at once
//! when the program asks for it, and with time where it sets one. No job notices.

mod by_hand;

use std::cell::Cell;
use std::hint::black_box;
use std::rc::Rc;
use std::time::Duration;

use asyncjob::hooks::SwitchHooks;
use asyncjob::pool::{PoolConfig, init_thread};
use asyncjob::scheduler::{JobState, JoinHandle, Scheduler, Workers};
use asyncjob::stack::{self, SecretPolicy, StackSize};
use asyncjob::{JobBuilder, Status, Step, WaitCtx, pause_job, start_job};
use asyncjob_testing::Watchdog;
use by_hand::{finished, paused, still_paused};

/// Touches this many KiB of the stack, and returns the sum of what it wrote there.
#[inline(never)]
fn deep(kib: usize) -> usize {
    let frame = black_box([1u8; 1024]);
    let below = if kib > 1 { deep(kib - 1) } else { 0 };
    below + black_box(&frame).iter().map(|byte| usize::from(*byte)).sum::<usize>()
}

/// A job that gets deep, pauses in a shallow call, and does so again. Its own frame holds data across the pauses.
fn deep_twice() -> usize {
    let data = black_box([3u8; 2000]);
    let mut sum = 0;
    for _ in 0..2 {
        sum += deep(DEEP >> 10);
        pause_job().unwrap();
    }
    sum + data.iter().map(|byte| usize::from(*byte)).sum::<usize>()
}

/// A build without optimization takes three times as much.
const DEEP: usize = 60 << 10;

fn trims_twice() {
    let mut job = paused(deep_twice);
    assert!(job.high_water() >= DEEP);
    let trimmed = job.trim();
    assert!((DEEP - 8192..4 * DEEP).contains(&trimmed), "{trimmed}");
    assert!(job.high_water() < 20_000, "{}", job.high_water());
    assert_eq!(job.trim(), 0, "the pages are gone");

    let mut job = still_paused(job.resume());
    assert!(job.high_water() >= DEEP, "the job got deep again");
    assert!(job.trim() >= DEEP - 8192);
    assert_eq!(finished(job.resume()), 2 * DEEP + 6000);
}

#[test]
fn a_paused_job_gives_back_what_lies_below_its_pause() {
    trims_twice();
}

/// The figure by which users choose the size of their stacks does not shrink.
#[test]
fn the_deepest_use_is_remembered() {
    let size = StackSize::at_least(4 << 20);
    let step = JobBuilder::new().stack_size(size).start(|| {
        deep(600);
        pause_job()
    });
    let Ok(Step::Paused(mut job)) = step else {
        panic!("the job pauses")
    };
    assert!(job.trim() >= 590 << 10);
    let stats = stack::stats().into_iter().find(|stats| stats.size == size.bytes());
    assert!(stats.unwrap().high_water >= 600 << 10);
}

#[test]
fn every_kind_of_stack_can_be_trimmed() {
    let secrets = SecretPolicy::new();
    for config in [
        PoolConfig::new().secrets(secrets.scrub()),
        PoolConfig::new().exact_high_water(true),
        PoolConfig::new().secrets(secrets.dont_dump()),
        PoolConfig::new().secrets(secrets.mlock()),
    ] {
        init_thread(config).unwrap();
        trims_twice();
    }
}

/// A hook swaps state for the code of the job, and none of that runs. One that panics would end the job.
#[test]
fn no_hook_is_called() {
    struct Count(Rc<Cell<usize>>);
    impl SwitchHooks for Count {
        fn enter(&mut self) {
            self.0.set(self.0.get() + 1);
        }
        fn leave(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    let calls = Rc::new(Cell::new(0));
    let step = JobBuilder::new().hooks(Count(Rc::clone(&calls))).start(deep_twice);
    let Ok(Step::Paused(mut job)) = step else {
        panic!("the job pauses")
    };
    assert_eq!(calls.get(), 2);
    assert!(job.trim() > 0);
    assert_eq!(calls.get(), 2);
    let job = still_paused(job.resume());
    assert_eq!(finished(job.resume()), 2 * DEEP + 6000);
}

#[test]
fn a_job_trims_another_job() {
    let outer = paused(|| {
        let mut inner = paused(deep_twice);
        assert!(inner.trim() > 0);
        pause_job().unwrap(); // the job that runs is still this one
        let inner = still_paused(inner.resume());
        finished(inner.resume())
    });
    assert_eq!(finished(outer.resume()), 2 * DEEP + 6000);
}

/// What a job waits in is deep itself: everything above its pause stays.
#[test]
fn a_job_that_pauses_deep_in_its_calls_keeps_them() {
    fn recurse(levels: usize) -> usize {
        let frame = black_box([levels as u8; 1024]);
        let below = if levels == 0 {
            pause_job().unwrap();
            0
        } else {
            recurse(levels - 1)
        };
        below + usize::from(black_box(&frame)[1023])
    }
    let mut job = paused(|| {
        deep(DEEP >> 10);
        recurse(20)
    });
    assert!(job.trim() > 0);
    assert_eq!(finished(job.resume()), (0..=20).sum::<usize>());
}

#[test]
fn a_job_that_was_trimmed_is_cancelled_and_unwound_as_any_other() {
    let mut job = paused(|| {
        deep(DEEP >> 10);
        pause_job()
    });
    assert!(job.trim() > 0);
    assert!(job.cancel().unwrap().is_err());

    struct Dropped(Rc<Cell<bool>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    let dropped = Rc::new(Cell::new(false));
    let guard = Dropped(Rc::clone(&dropped));
    let mut job = paused(move || {
        deep(DEEP >> 10);
        let _guard = guard;
        pause_job()
    });
    assert!(job.trim() > 0);
    let frames = job.backtrace().to_string();
    assert!(frames.contains("pause_job"), "{frames}");
    job.force_unwind();
    assert!(dropped.get());
}

#[test]
fn a_small_stack_has_nothing_to_give() {
    let step = JobBuilder::new().stack_size(StackSize::MIN).start(pause_job);
    let Ok(Step::Paused(mut job)) = step else {
        panic!("the job pauses")
    };
    job.trim();
    assert_eq!(job.trim(), 0);
    assert_eq!(finished(job.resume()), Ok(()));
    let step = start_job(&WaitCtx::new(), || ());
    assert!(matches!(step, Ok(Step::Finished(()))));
}

/// The high water of the jobs of a scheduler that are paused.
fn high_waters(scheduler: &Scheduler) -> Vec<usize> {
    scheduler.jobs().iter().map(|job| job.high_water).collect()
}

/// Spawns a job that waits in each of its two pauses until its callback is called.
fn spawn_deep(scheduler: &Scheduler) -> (JoinHandle<usize>, WaitCtx) {
    let ctx = WaitCtx::new();
    ctx.set_status(Status::Ok); // an engine that will call back
    let job = JobBuilder::new().wait_ctx(&ctx).spawn_on(scheduler, deep_twice);
    (job.unwrap(), ctx)
}

/// What the engine of the job does.
fn wake(ctx: &WaitCtx) {
    ctx.callback().unwrap().wake();
}

fn turn_until(scheduler: &Scheduler, is_true: impl Fn() -> bool) {
    while !is_true() {
        scheduler.turn(Some(Duration::MAX)).unwrap();
    }
}

/// More jobs than one turn trims, in each of their pauses.
#[test]
fn a_scheduler_trims_the_jobs_that_are_paused_for_long() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::builder().trim_after(Duration::ZERO).build().unwrap();
    let (jobs, ctxs): (Vec<_>, Vec<_>) = (0..100).map(|_| spawn_deep(&scheduler)).unzip();
    for pauses in 1..=2 {
        let have_paused = || scheduler.stats().resumes == 100 * pauses;
        let is_trimmed = || have_paused() && high_waters(&scheduler).iter().all(|bytes| *bytes < 20_000);
        turn_until(&scheduler, is_trimmed);
        assert!(scheduler.jobs().iter().all(|job| job.state == JobState::Paused));
        ctxs.iter().for_each(wake);
    }
    for job in jobs {
        assert_eq!(scheduler.run_until(job).unwrap(), 2 * DEEP + 6000);
    }
}

/// Nothing wakes a scheduler that has trimmed what there is. The idle stacks of the thread are of no interest here.
#[test]
fn a_scheduler_that_has_trimmed_all_jobs_sleeps() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::builder().trim_after(Duration::ZERO).build().unwrap();
    let (job, ctx) = spawn_deep(&scheduler);
    stack::set_idle_time(Duration::ZERO);
    for _pause in 0..2 {
        scheduler.turn(Some(Duration::ZERO)).unwrap(); // the job gets to its pause
        turn_until(&scheduler, || scheduler.next_deadline().is_none());
        assert!(high_waters(&scheduler)[0] < 20_000);
        wake(&ctx);
    }
    assert_eq!(scheduler.run_until(job).unwrap(), 2 * DEEP + 6000);
}

#[test]
fn a_scheduler_trims_nothing_unless_it_is_told_to_or_before_it_is_time() {
    for builder in [
        Scheduler::builder(),
        Scheduler::builder().trim_after(Duration::from_secs(3600)),
        Scheduler::builder().trim_after(Duration::MAX),
    ] {
        let scheduler = builder.build().unwrap();
        let (_job, _ctx) = spawn_deep(&scheduler);
        for _ in 0..10 {
            scheduler.turn(Some(Duration::from_millis(1))).unwrap();
        }
        assert!(high_waters(&scheduler)[0] >= DEEP);
    }
}

#[test]
fn workers_trim_the_jobs_that_are_paused_for_long() {
    let _watchdog = Watchdog::new();
    let workers = Workers::builder()
        .threads(2)
        .trim_after(Duration::ZERO)
        .build()
        .unwrap();
    let ctxs: Vec<WaitCtx> = (0..10).map(|_| WaitCtx::new()).collect();
    let spawn = |ctx: &WaitCtx| {
        ctx.set_status(Status::Ok);
        let job = JobBuilder::new().wait_ctx(ctx);
        job.submit_to(&workers.handle(), || {
            deep(DEEP >> 10);
            pause_job()
        })
    };
    let jobs: Vec<_> = ctxs.iter().map(|ctx| spawn(ctx).unwrap()).collect();
    loop {
        let all = workers.broadcast(high_waters).unwrap().concat();
        if all.len() == 10 && all.iter().all(|bytes| *bytes < 20_000) {
            break;
        }
    }
    ctxs.iter().for_each(wake);
    for job in jobs {
        assert_eq!(job.join().unwrap(), Ok(()));
    }
}
