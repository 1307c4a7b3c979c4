//! Promise: a job that is always ready does not starve anything else: fds, timers, callbacks, other jobs, jobs from
//! other threads, and jobs that have not started.
//!
//! The tests count resumes of the job that is always ready, and never measure time.

use std::cell::Cell;
use std::fs::File;
use std::future::{Future, poll_fn, ready};
use std::io::{Read, Write, pipe};
use std::pin::pin;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use asyncjob::io::Pausing;
use asyncjob::job_future::JobFuture;
use asyncjob::scheduler::{self, JoinHandle, Scheduler};
use asyncjob::time::with_deadline;
use asyncjob::waiting::{WaitSpec, await_future, await_or_block, pause_until};
use asyncjob::{Status, WaitKey, block_pause, current_job, pause_job};
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

/// The most operations of a job before another job has its turn, as `asyncjob::scheduler` documents.
const OPERATIONS: usize = 128;

/// Does an operation again and again in a job, until another job of the scheduler has had its turn. Returns how many
/// operations there were.
fn operations_before_another_job(mut operation: impl FnMut() + 'static) -> usize {
    let scheduler = Scheduler::new().unwrap();
    let had_turn = Rc::new(Cell::new(false));
    let seen = Rc::clone(&had_turn);
    let greedy = scheduler.spawn(move || {
        let mut operations = 0;
        while !seen.get() && operations < 100 * OPERATIONS {
            operation();
            operations += 1;
        }
        operations
    });
    let other = scheduler.spawn(move || had_turn.set(true)).unwrap();
    other.detach();
    scheduler.run_until(greedy.unwrap()).unwrap()
}

/// A job whose operations never have to wait lets the other jobs run from time to time.
#[test]
fn a_job_that_never_has_to_wait_gives_way() {
    let _watchdog = Watchdog::new();
    let zeros = || Pausing::new(File::open("/dev/zero").unwrap()).unwrap();
    let (mut by_value, by_reference) = (zeros(), zeros());
    let reads = operations_before_another_job(move || by_value.read_exact(&mut [0; 16]).unwrap());
    let shared_reads = operations_before_another_job(move || (&by_reference).read_exact(&mut [0; 16]).unwrap());
    let futures = operations_before_another_job(|| await_future(ready(())).unwrap());
    let either = operations_before_another_job(|| await_or_block(ready(())).unwrap());
    let waits = operations_before_another_job(|| pause_until(WaitSpec::time(), || Some(())).unwrap());
    let late = operations_before_another_job(|| with_deadline(Instant::now(), || await_future(ready(()))).unwrap());
    for operations in [reads, shared_reads, futures, either, waits, late] {
        assert!(
            (1..=OPERATIONS + 1).contains(&operations),
            "{operations} operations before another job ran: {:?}",
            [reads, shared_reads, futures, either, waits, late]
        );
    }
}

/// A job that drives another scheduler between its operations gives way as early.
#[test]
fn a_job_that_drives_other_jobs_gives_way() {
    let _watchdog = Watchdog::new();
    let inner = Scheduler::new().unwrap();
    let operations = operations_before_another_job(move || {
        inner.run_until(inner.spawn(|| ()).unwrap()).unwrap();
        pause_until(WaitSpec::time(), || Some(())).unwrap();
    });
    assert!((1..=OPERATIONS + 1).contains(&operations), "{operations} operations");
}

/// A job that pauses by itself may do as many operations as before after that. It would give way earlier if they took
/// long, which they do on a machine that does other things: then the job tries again.
#[test]
fn a_pause_of_the_job_counts_as_giving_way() {
    let _watchdog = Watchdog::new();
    let goes_on = || {
        let scheduler = Scheduler::new().unwrap();
        let (resumes, other) = always_ready(&scheduler);
        let job = scheduler.spawn(move || {
            let operate = || (0..OPERATIONS / 2 + 8).for_each(|_| pause_until(WaitSpec::time(), || Some(())).unwrap());
            operate();
            let has_gone_on = resumes.get() == 0;
            current_job().unwrap().wait_ctx().set_status(Status::Eagain);
            pause_job().unwrap();
            let before = resumes.get();
            operate();
            has_gone_on && resumes.get() == before
        });
        let goes_on = scheduler.run_until(job.unwrap()).unwrap();
        drop(other);
        goes_on
    };
    assert!((0..1000).any(|_| goes_on()));
}

/// The same under an executor of futures: a poll ends, and the task is woken for the next one.
#[test]
fn a_future_whose_job_never_has_to_wait_gives_way() {
    let _watchdog = Watchdog::new();
    let polls = Rc::new(Cell::new(0));
    let seen = Rc::clone(&polls);
    let mut job = pin!(JobFuture::new(move || {
        let mut operations = 0;
        while seen.get() == 1 && operations < 100 * OPERATIONS {
            await_future(ready(())).unwrap();
            operations += 1;
        }
        operations
    }));
    let operations = await_or_block(poll_fn(|task| {
        polls.set(polls.get() + 1);
        job.as_mut().poll(task)
    }));
    let operations = operations.unwrap().unwrap();
    assert!(
        (1..=OPERATIONS + 1).contains(&operations),
        "{operations} operations in one poll"
    );
}

/// A job that cannot pause, or is to end, does not give way, and its operations succeed.
#[test]
fn a_job_that_cannot_give_way_goes_on() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let job = scheduler.spawn(|| {
        let guard = block_pause();
        (0..3 * OPERATIONS).for_each(|_| pause_until(WaitSpec::time(), || Some(())).unwrap());
        drop(guard);
        current_job().unwrap().wait_ctx().set_status(Status::Ok); // for a callback, which does not come
        pause_job().unwrap_err();
        (0..3000 * OPERATIONS).for_each(|_| pause_until(WaitSpec::time(), || Some(())).unwrap());
    });
    let job = job.unwrap();
    scheduler.turn(Some(Duration::ZERO)).unwrap();
    job.request_cancel();
    let joined = scheduler.run_until(job);
    assert!(matches!(joined, Err(scheduler::JoinError::Cancelled)), "{joined:?}");
}
