//! Promise: a job that is always ready does not starve anything else: fds, timers, callbacks, other jobs, jobs from
//! other threads, and jobs that have not started.
//!
//! The tests count resumes of the job that is always ready, and never measure time.

use std::cell::Cell;
use std::io::{Write, pipe};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use asyncjob::scheduler::{self, JoinHandle, Scheduler};
use asyncjob::{Status, WaitKey, current_job, pause_job};
use asyncjob_testing::Watchdog;

/// The most jobs of a kind that a turn runs, as `Scheduler::turn` documents.
const BATCH: usize = 64;

/// Spawns a job that is ready again as soon as it pauses, and counts its resumes.
fn always_ready(scheduler: &Scheduler) -> (Rc<Cell<usize>>, JoinHandle<()>) {
    let count = Rc::new(Cell::new(0));
    let inside = count.clone();
    let job = scheduler.spawn(move || {
        current_job().unwrap().wait_ctx().set_status(Status::Eagain);
        while pause_job().is_ok() {
            inside.set(inside.get() + 1);
        }
    });
    (count, job.unwrap())
}

/// Takes turns until `job` has ended. Returns how often the other job was resumed meanwhile.
fn resumes_until<T>(scheduler: &Scheduler, count: &Cell<usize>, job: JoinHandle<T>) -> usize {
    let before = count.get();
    scheduler.run_until(job).unwrap();
    count.get() - before
}

/// Two hundred jobs that are always ready fill more than a batch. Beside them, one job of each kind of wait gets its
/// turn.
#[test]
fn two_hundred_jobs_that_are_always_ready_starve_no_other_job() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let all: Vec<_> = (0..200).map(|_| always_ready(&scheduler)).collect();
    let resumes = || all.iter().map(|(count, _)| count.get()).collect::<Vec<_>>();
    while resumes().contains(&0) {
        scheduler.turn(Some(Duration::ZERO)).unwrap(); // a turn starts one batch of them
    }
    let before = resumes();

    // An fd that is ready.
    let (reader, mut writer) = pipe().unwrap();
    writer.write_all(b"x").unwrap();
    let by_fd = scheduler.spawn(move || {
        current_job().unwrap().wait_ctx().add_wait_fd(WaitKey::unique(), reader);
        pause_job().unwrap();
    });
    // A deadline that is over.
    let by_deadline = scheduler.spawn(|| {
        let at = Instant::now() + Duration::from_millis(1);
        let ctx = current_job().unwrap().wait_ctx().clone();
        ctx.set_status(Status::Ok);
        ctx.set_deadline(Some(at));
        while Instant::now() < at {
            pause_job().unwrap();
        }
    });
    // A callback from a thread.
    let by_callback = scheduler.spawn(|| {
        let ctx = current_job().unwrap().wait_ctx().clone();
        ctx.set_status(Status::Ok);
        let engine = thread::spawn(move || ctx.callback().unwrap().wake());
        pause_job().unwrap();
        engine.join().unwrap();
    });
    let by_thread = {
        let handle = scheduler.handle();
        thread::spawn(move || handle.spawn(|| ()).unwrap().join().unwrap())
    };
    scheduler.run_until(by_fd.unwrap()).unwrap();
    scheduler.run_until(by_deadline.unwrap()).unwrap();
    scheduler.run_until(by_callback.unwrap()).unwrap();
    while !by_thread.is_finished() {
        scheduler.turn(Some(Duration::ZERO)).unwrap();
    }
    by_thread.join().unwrap();

    // The jobs that are always ready were resumed equally often, give or take one.
    let gains: Vec<_> = resumes()
        .iter()
        .zip(before)
        .map(|(after, before)| after - before)
        .collect();
    let (least, most) = (gains.iter().min().unwrap(), gains.iter().max().unwrap());
    assert!(most - least <= 1, "{least} to {most}");
}

/// The scheduler notices a ready fd within a batch of resumes.
#[test]
fn a_ready_fd_is_noticed_within_a_batch() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let (count, _job) = always_ready(&scheduler);
    let (reader, mut writer) = pipe().unwrap();
    let waiting = scheduler.spawn(move || {
        current_job().unwrap().wait_ctx().add_wait_fd(WaitKey::unique(), reader);
        pause_job().unwrap();
    });
    for _ in 0..10 {
        scheduler.turn(Some(Duration::ZERO)).unwrap();
    }
    writer.write_all(b"x").unwrap();
    let resumes = resumes_until(&scheduler, &count, waiting.unwrap());
    assert!(
        resumes <= BATCH + 2,
        "{resumes} resumes of another job before the fd was noticed"
    );
}

/// The scheduler notices a callback in the next turn, and so within one round of the ready jobs.
#[test]
fn a_callback_is_noticed_in_the_next_turn() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let (count, _job) = always_ready(&scheduler);
    let waker = Rc::new(Cell::new(None));
    let inside = waker.clone();
    let waiting = scheduler.spawn(move || {
        let ctx = current_job().unwrap().wait_ctx().clone();
        ctx.set_status(Status::Ok);
        inside.set(ctx.callback());
        pause_job().unwrap();
    });
    for _ in 0..10 {
        scheduler.turn(Some(Duration::ZERO)).unwrap();
    }
    waker.take().unwrap().wake();
    let resumes = resumes_until(&scheduler, &count, waiting.unwrap());
    assert!(
        resumes <= 2,
        "{resumes} resumes of another job before the callback was noticed"
    );
}

/// Jobs that spawn jobs without end do not keep other jobs from running.
#[test]
fn jobs_that_spawn_without_end_starve_no_other_job() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let stop = Rc::new(Cell::new(false));
    fn spawn_again(stop: Rc<Cell<bool>>) {
        if !stop.get() {
            scheduler::spawn(move || spawn_again(stop)).unwrap().detach();
        }
    }
    for _ in 0..2 * BATCH {
        let stop = stop.clone();
        scheduler.spawn(move || spawn_again(stop)).unwrap().detach();
    }
    let (count, job) = always_ready(&scheduler);
    for _ in 0..100 {
        scheduler.turn(Some(Duration::ZERO)).unwrap();
    }
    assert!(count.get() >= 50, "{} resumes in 100 turns", count.get());
    stop.set(true);
    job.request_cancel();
    scheduler.run().unwrap();
}

/// A turn does a bounded amount of work, however many jobs are ready.
#[test]
fn a_turn_is_bounded() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let all: Vec<_> = (0..10 * BATCH).map(|_| always_ready(&scheduler)).collect();
    for _ in 0..30 {
        let turn = scheduler.turn(None).unwrap();
        assert!(turn.resumed <= 2 * BATCH, "{} resumes in one turn", turn.resumed);
        assert!(turn.ready > 0);
    }
    drop(all);
}
