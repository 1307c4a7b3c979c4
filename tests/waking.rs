//! Promise: a scheduler resumes a paused job when the event that it waits for happens, and at no other time.
//!
//! The tests call `turn` by hand. Where nothing should happen, they check that a turn resumes no job.

mod by_hand;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::File;
use std::future::Future;
use std::io::{PipeReader, Read, Write, pipe};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::mpsc;
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use asyncjob::scheduler::{JobState, JoinError, JoinHandle, Scheduler};
use asyncjob::stack::set_idle_time;
use asyncjob::{
    Interest, JobBuilder, PauseError, Status, WaitCtx, WaitFd, WaitFdOptions, WaitKey, current_job, pause_job,
};
use asyncjob_testing::Watchdog;
use by_hand::{Log, add_number, number};
#[cfg(target_os = "linux")]
use rustix::event::epoll;

fn ctx() -> WaitCtx {
    current_job().unwrap().wait_ctx().clone()
}

/// Takes turns until no job is ready, without waiting.
fn run_ready(scheduler: &Scheduler) {
    while scheduler.turn(Some(Duration::ZERO)).unwrap().ready != 0 {}
}

/// Asserts that turns resume no job.
#[track_caller]
fn assert_no_resume(scheduler: &Scheduler) {
    run_ready(scheduler);
    for _ in 0..3 {
        let resumes = scheduler.stats().resumes;
        scheduler.turn(Some(Duration::ZERO)).unwrap();
        assert_eq!(scheduler.stats().resumes, resumes, "a job was resumed without an event");
    }
}

#[track_caller]
fn run_until<T>(scheduler: &Scheduler, handle: JoinHandle<T>) -> T {
    scheduler.run_until(handle).unwrap()
}

/// Spawns a job that pauses again and again after `prepare` has set up its ctx. Returns the number of its resumes, and
/// its ctx.
fn job_that_counts_resumes(
    scheduler: &Scheduler,
    prepare: impl FnOnce(&WaitCtx) + 'static,
) -> (Rc<Cell<u32>>, WaitCtx) {
    let count = Rc::new(Cell::new(0));
    let (inside, ctx) = (count.clone(), WaitCtx::new());
    let job = move || {
        prepare(current_job().unwrap().wait_ctx());
        while pause_job().is_ok() {
            inside.set(inside.get() + 1);
        }
    };
    JobBuilder::new()
        .wait_ctx(&ctx)
        .spawn_on(scheduler, job)
        .unwrap()
        .detach();
    run_ready(scheduler);
    (count, ctx)
}

fn wait_for(fd: &impl AsRawFd) -> (WaitKey, RawFd) {
    (WaitKey::unique(), fd.as_raw_fd())
}

fn register(ctx: &WaitCtx, (key, fd): (WaitKey, RawFd)) {
    add_number(ctx, number(key, fd), ());
}

/// Wait fds are level-triggered. An fd that the engine does not drain resumes its job again and again. The scheduler
/// never reads it.
#[test]
fn a_wait_fd_wakes_for_as_long_as_it_is_readable() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let (mut reader, mut writer) = pipe().unwrap();
    let wait = wait_for(&reader);
    let (count, _ctx) = job_that_counts_resumes(&scheduler, move |ctx| register(ctx, wait));
    assert_no_resume(&scheduler);
    assert_eq!(count.get(), 0);

    writer.write_all(b"xy").unwrap();
    for expected in 1..=5 {
        while count.get() < expected {
            scheduler.turn(None).unwrap();
        }
    }
    let mut bytes = [0; 2];
    reader.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"xy", "the scheduler did not read the bytes");
    assert_no_resume(&scheduler);
}

/// A pipe whose other end is closed is ready. The read of the engine then returns the end of the file.
#[test]
fn a_hang_up_wakes() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let (reader, writer) = pipe().unwrap();
    let job = scheduler.spawn(move || {
        let (key, fd) = wait_for(&reader);
        register(&ctx(), (key, fd));
        pause_job().unwrap();
        (&reader).read(&mut [0]).unwrap()
    });
    run_ready(&scheduler);
    drop(writer);
    assert_eq!(run_until(&scheduler, job.unwrap()), 0);
}

/// Two jobs wait for two fds. Each is resumed for its own fd.
#[test]
fn each_job_wakes_for_its_own_fd() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let ((reader_a, mut writer_a), (reader_b, mut writer_b)) = (pipe().unwrap(), pipe().unwrap());
    let (wait_a, wait_b) = (wait_for(&reader_a), wait_for(&reader_b));
    let (a, _) = job_that_counts_resumes(&scheduler, move |ctx| register(ctx, wait_a));
    let (b, _) = job_that_counts_resumes(&scheduler, move |ctx| register(ctx, wait_b));
    writer_b.write_all(b"x").unwrap();
    while b.get() == 0 {
        scheduler.turn(None).unwrap();
    }
    assert_eq!(a.get(), 0);
    writer_a.write_all(b"x").unwrap();
    while a.get() == 0 {
        scheduler.turn(None).unwrap();
    }
}

/// Two jobs wait for one fd. Both are resumed.
#[test]
fn two_jobs_may_wait_for_one_fd() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let (reader, mut writer) = pipe().unwrap();
    let wait = wait_for(&reader);
    let (a, _) = job_that_counts_resumes(&scheduler, move |ctx| register(ctx, wait));
    let (b, _) = job_that_counts_resumes(&scheduler, move |ctx| register(ctx, wait));
    assert_no_resume(&scheduler);
    writer.write_all(b"x").unwrap();
    while a.get() == 0 || b.get() == 0 {
        scheduler.turn(None).unwrap();
    }
}

/// A wait fd is closed without being cleared. The kernel reports nothing. Other jobs and the scheduler continue, and
/// the job still wakes by its callback.
#[test]
fn an_fd_closed_while_it_is_registered_harms_no_other_job() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let ((reader, writer), (other, mut other_writer)) = (pipe().unwrap(), pipe().unwrap());
    let (wait, other_wait) = (wait_for(&reader), wait_for(&other));
    let (count, ctx) = job_that_counts_resumes(&scheduler, move |ctx| register(ctx, wait));
    let (others, _) = job_that_counts_resumes(&scheduler, move |ctx| register(ctx, other_wait));
    drop((reader, writer));
    other_writer.write_all(b"x").unwrap();
    while others.get() == 0 {
        scheduler.turn(None).unwrap();
    }
    assert_eq!(count.get(), 0);
    ctx.callback().unwrap().wake();
    while count.get() == 0 {
        scheduler.turn(None).unwrap();
    }
}

/// An fd is closed, reopened under the same number and registered again, all in one phase. The new file wakes the job.
/// The scheduler processes the removal first and ignores its error. In the other order the wake would be lost.
#[test]
fn a_number_closed_and_reopened_in_one_phase_wakes_its_job() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let log = Log::default();
    let said = log.clone();
    let (first, _first_writer) = pipe().unwrap();
    let (second, mut second_writer) = pipe().unwrap();
    let shared = WaitCtx::new();
    let job = JobBuilder::new().wait_ctx(&shared).spawn_on(&scheduler, move || {
        let ctx = ctx();
        let (key, number) = wait_for(&first);
        register(&ctx, (key, number));
        said.say("pauses on the first");
        pause_job().unwrap();
        ctx.clear_fd(key);
        let second = moved_to(second, OwnedFd::from(first));
        assert_eq!(second.as_raw_fd(), number);
        register(&ctx, (key, number));
        said.say("pauses on the second");
        pause_job().unwrap();
        (&second).read(&mut [0]).unwrap()
    });
    run_ready(&scheduler);
    assert_eq!(log.take(), ["pauses on the first"]);
    shared.callback().unwrap().wake();
    run_ready(&scheduler);
    assert_eq!(log.take(), ["pauses on the second"]);
    assert_no_resume(&scheduler);
    second_writer.write_all(b"x").unwrap();
    assert_eq!(run_until(&scheduler, job.unwrap()), 1);
}

/// The key stays registered while its number is given to a new file, and the number is registered once more. The new
/// file wakes the job.
#[test]
fn a_number_registered_twice_wakes_its_job() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let (first, _first_writer) = pipe().unwrap();
    let (second, mut second_writer) = pipe().unwrap();
    let shared = WaitCtx::new();
    let job = JobBuilder::new().wait_ctx(&shared).spawn_on(&scheduler, move || {
        let (key, number) = wait_for(&first);
        register(&ctx(), (key, number));
        pause_job().unwrap();
        let second = moved_to(second, OwnedFd::from(first));
        register(&ctx(), (key, number));
        pause_job().unwrap();
        (&second).read(&mut [0]).unwrap()
    });
    run_ready(&scheduler);
    shared.callback().unwrap().wake();
    assert_no_resume(&scheduler);
    second_writer.write_all(b"x").unwrap();
    assert_eq!(run_until(&scheduler, job.unwrap()), 1);
}

/// A file stays open through a duplicate after its number was closed. The kernel keeps reporting it to epoll under the
/// old number, which cannot be deleted any more. The scheduler gets rid of it, and other fds still wake their jobs.
#[test]
fn a_closed_fd_with_an_open_duplicate_does_not_make_the_scheduler_spin() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let ((reader, mut writer), (other, mut other_writer)) = (pipe().unwrap(), pipe().unwrap());
    let (wait, other_wait) = (wait_for(&reader), wait_for(&other));
    let (_count, ctx) = job_that_counts_resumes(&scheduler, move |ctx| {
        ctx.set_status(Status::Ok); // so that the job is not polled after the fd is cleared
        register(ctx, wait);
    });
    let (others, _) = job_that_counts_resumes(&scheduler, move |ctx| register(ctx, other_wait));
    let duplicate = reader.try_clone().unwrap();
    drop(reader);
    writer.write_all(b"x").unwrap(); // stays readable under a number that is closed
    ctx.clear_fd(wait.0);
    for round in 1..=3 {
        other_writer.write_all(b"x").unwrap();
        while others.get() < round {
            scheduler.turn(None).unwrap();
        }
        (&other).read_exact(&mut [0]).unwrap();
        run_ready(&scheduler);
    }
    // The closed fd is no longer reported. A host that polls the scheduler's fd would spin otherwise.
    run_ready(&scheduler);
    scheduler.turn(Some(Duration::ZERO)).unwrap();
    assert!(
        !is_readable(scheduler.as_fd()),
        "the kernel still reports an fd that is closed"
    );
    drop(duplicate);
}

/// As above, but the number of the closed fd names another file by then, and the job waits for that one. The kernel
/// reports both under the one number. A host of the scheduler, which is an epoll here, does not lose it.
#[cfg(target_os = "linux")]
#[test]
fn a_number_reused_beside_a_duplicate_of_its_first_file_does_not_make_the_scheduler_spin() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let host = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let data = epoll::EventData::new_u64(7);
    epoll::add(&host, scheduler.as_fd(), data, epoll::EventFlags::IN).unwrap();
    let ((first, mut first_writer), (second, mut second_writer)) = (pipe().unwrap(), pipe().unwrap());
    let duplicate = first.try_clone().unwrap();
    let shared = WaitCtx::new();
    let job = JobBuilder::new().wait_ctx(&shared).spawn_on(&scheduler, move || {
        let (ctx, (key, number)) = (ctx(), wait_for(&first));
        register(&ctx, (key, number));
        pause_job().unwrap();
        ctx.clear_fd(key);
        let second = moved_to(second, OwnedFd::from(first));
        register(&ctx, (key, number));
        pause_job().unwrap();
        (&second).read(&mut [0]).unwrap()
    });
    run_ready(&scheduler);
    shared.callback().unwrap().wake();
    run_ready(&scheduler);
    first_writer.write_all(b"x").unwrap(); // for the owner of the duplicate
    scheduler.turn(Some(Duration::ZERO)).unwrap(); // takes the event
    assert_no_resume(&scheduler);
    assert!(
        !is_readable(scheduler.as_fd()),
        "the kernel still reports the first file"
    );
    assert!(!is_readable(host.as_fd()));
    second_writer.write_all(b"x").unwrap();
    assert!(is_readable(scheduler.as_fd()));
    assert!(
        is_readable(host.as_fd()),
        "the epoll instance of a host has lost the scheduler"
    );
    assert_eq!(run_until(&scheduler, job.unwrap()), 1);
    drop(duplicate);
}

/// Two jobs wait for one socket: one reads, one writes. The writer ends. The socket becomes writable, which no job
/// waits for any more. The reader still wakes.
#[test]
fn an_event_that_no_job_wants_takes_no_wake_from_another() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let (socket, mut peer) = UnixStream::pair().unwrap();
    socket.set_nonblocking(true).unwrap();
    peer.set_nonblocking(true).unwrap();
    while (&socket).write(&[0; 4096]).is_ok() {} // so that it is not writable
    let fd = socket.as_raw_fd();
    let (reads, _) = job_that_counts_resumes(&scheduler, move |ctx| register(ctx, (WaitKey::unique(), fd)));
    let writer = scheduler.spawn(move || {
        let options = WaitFdOptions::new().interest(Interest::Writable);
        add_number(&ctx(), WaitFd::new(WaitKey::unique(), fd, options), ());
        pause_job()
    });
    run_ready(&scheduler);
    drop(writer); // cancels it
    run_ready(&scheduler);
    while peer.read(&mut [0; 4096]).is_ok() {} // now it is writable
    assert_no_resume(&scheduler);
    peer.write_all(b"x").unwrap();
    run_ready(&scheduler);
    assert_eq!(reads.get(), 1, "the reader was not woken");
}

/// epoll refuses a regular file. It counts as always ready, as in poll(2): its job is polled with a growing interval,
/// and other jobs continue.
#[test]
fn a_job_with_an_fd_that_epoll_refuses_is_polled() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let refused = File::open("Cargo.toml").unwrap(); // open to the end: the job is polled for as long
    let wait = wait_for(&refused);
    let (count, _) = job_that_counts_resumes(&scheduler, move |ctx| register(ctx, wait));
    while count.get() < 20 {
        scheduler.turn(None).unwrap();
    }
    let (count, _) = job_that_counts_resumes(&scheduler, |ctx| register(ctx, (WaitKey::unique(), -1)));
    while count.get() < 20 {
        scheduler.turn(None).unwrap();
    }
}

/// S64: callbacks before the pause are kept, and together cause one resume.
#[test]
fn callbacks_before_the_pause_cause_one_resume() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let (count, _) = job_that_counts_resumes(&scheduler, |ctx| {
        ctx.set_status(Status::Ok);
        for _ in 0..3 {
            let callback = ctx.callback().unwrap();
            thread::spawn(move || callback.wake()).join().unwrap();
        }
    });
    run_ready(&scheduler);
    assert_eq!(count.get(), 1);
    assert_no_resume(&scheduler);
}

/// Two callbacks during one pause cause one resume. A callback during the next pause causes another.
#[test]
fn two_callbacks_during_one_pause_cause_one_resume() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let (count, ctx) = job_that_counts_resumes(&scheduler, |ctx| ctx.set_status(Status::Ok));
    for expected in 1..=3 {
        let callback = ctx.callback().unwrap();
        callback.wake_by_ref();
        callback.wake();
        run_ready(&scheduler);
        assert_eq!(count.get(), expected);
    }
    assert_no_resume(&scheduler);
}

/// More calls than a turn lists of them, all on the thread of the scheduler. A job that was listed for each call would
/// take places of the next turn that belong to others.
#[test]
fn callbacks_of_one_job_in_one_turn_make_one_job_ready() {
    let scheduler = Scheduler::new().unwrap();
    let (resumes, woken) = job_that_counts_resumes(&scheduler, |ctx| ctx.set_status(Status::Ok));
    run_ready(&scheduler);
    let waker = woken.callback().unwrap();
    let caller = scheduler.spawn(move || (0..100).for_each(|_| waker.wake_by_ref()));
    let turn = scheduler.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!(
        (turn.resumed, turn.ready, resumes.get()),
        (1, 1, 0),
        "the caller has run"
    );
    let turn = scheduler.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!((turn.resumed, turn.ready, resumes.get()), (1, 0, 1));
    assert_no_resume(&scheduler);
    caller.unwrap().detach();
}

/// S64: a wake of another thread that comes while its job is ready already is part of the resume that follows,
/// whichever way it goes to the scheduler.
#[test]
fn callbacks_from_a_thread_before_the_resume_are_part_of_it() {
    let _watchdog = Watchdog::new();
    for wakes_of_another_job in [0, 1] {
        let scheduler = Scheduler::new().unwrap();
        let (other, other_ctx) = job_that_counts_resumes(&scheduler, |ctx| ctx.set_status(Status::Ok));
        let ready_ctx = WaitCtx::new();
        let waking = ready_ctx.clone();
        let waker = scheduler.spawn(move || {
            ctx().set_status(Status::Eagain);
            pause_job().unwrap();
            let other = other_ctx.callback().unwrap();
            let ready = waking.callback().unwrap();
            let thread = thread::spawn(move || {
                (0..wakes_of_another_job).for_each(|_| other.wake_by_ref());
                ready.wake_by_ref();
                ready.wake();
            });
            thread.join().unwrap();
        });
        let resumes = Rc::new(Cell::new(0));
        let inside = Rc::clone(&resumes);
        let ready = move || {
            ctx().set_status(Status::Eagain);
            while pause_job().is_ok() {
                inside.set(inside.get() + 1);
                ctx().set_status(Status::Ok);
            }
        };
        let ready = JobBuilder::new().wait_ctx(&ready_ctx).spawn_on(&scheduler, ready);
        run_until(&scheduler, waker.unwrap());
        run_ready(&scheduler);
        assert_eq!((resumes.get(), other.get()), (1, wakes_of_another_job));
        assert_no_resume(&scheduler);
        drop(ready);
    }
}

/// A callback after the end of its job wakes no job, not even the next job with the same task slot and the same ctx.
#[test]
fn a_callback_after_the_end_wakes_no_job() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let shared = WaitCtx::new();
    let first = JobBuilder::new()
        .wait_ctx(&shared)
        .spawn_on(&scheduler, || ctx().callback().unwrap());
    let late = run_until(&scheduler, first.unwrap());
    let count = Rc::new(Cell::new(0));
    let inside = count.clone();
    let second = JobBuilder::new().wait_ctx(&shared).spawn_on(&scheduler, move || {
        ctx().set_status(Status::Ok);
        pause_job().unwrap();
        inside.set(inside.get() + 1);
    });
    run_ready(&scheduler);
    late.wake();
    assert_no_resume(&scheduler);
    assert_eq!(count.get(), 0);
    shared.callback().unwrap().wake();
    run_until(&scheduler, second.unwrap());
    assert_eq!(count.get(), 1);
}

/// A callback from a thread wakes a scheduler that sleeps.
#[test]
fn a_callback_from_a_thread_wakes_a_sleeping_scheduler() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let (sender, wakers) = mpsc::channel::<Waker>();
    let engine = thread::spawn(move || wakers.into_iter().for_each(Waker::wake));
    let job = scheduler.spawn(move || {
        let ctx = ctx();
        ctx.set_status(Status::Ok);
        for _ in 0..1000 {
            sender.send(ctx.callback().unwrap()).unwrap();
            pause_job().unwrap();
        }
    });
    scheduler.run().unwrap();
    assert!(job.unwrap().is_finished());
    engine.join().unwrap();
}

/// A thread makes callbacks again and again while the scheduler shuts down and after it was dropped.
#[test]
fn callbacks_from_a_thread_during_a_shutdown_are_harmless() {
    let _watchdog = Watchdog::new();
    for _ in 0..20 {
        let scheduler = Scheduler::new().unwrap();
        let (sender, wakers) = mpsc::channel::<Waker>();
        let (stop, stopped) = mpsc::channel::<()>();
        let engine = thread::spawn(move || {
            let wakers: Vec<_> = (0..10).map(|_| wakers.recv().unwrap()).collect();
            let mut calls = 0u64;
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                wakers.iter().for_each(Waker::wake_by_ref);
                calls += 1;
            }
            calls
        });
        for _ in 0..10 {
            let sender = sender.clone();
            let job = scheduler.spawn(move || {
                let ctx = ctx();
                ctx.set_status(Status::Ok);
                sender.send(ctx.callback().unwrap()).unwrap();
                while pause_job().is_ok() {}
            });
            job.unwrap().detach();
        }
        for _ in 0..5 {
            scheduler.turn(Some(Duration::ZERO)).unwrap();
        }
        let report = scheduler.shutdown(Duration::ZERO).unwrap();
        assert_eq!((report.finished, report.cancelled, report.quarantined), (0, 10, 0));
        drop(scheduler);
        drop(stop);
        engine.join().unwrap();
    }
}

/// Starts jobs with deadlines, each `after` milliseconds from a common start, and takes turns until all of them wait.
/// On a slow machine a deadline may pass before that. Then it tries again with later deadlines.
fn wait_for_deadlines(scheduler: &Scheduler, log: &Log, deadlines: &[(&'static str, u64)]) {
    for later in [0, 100, 1000, 10_000] {
        let start = Instant::now() + Duration::from_millis(later);
        let jobs: Vec<_> = deadlines
            .iter()
            .map(|&(name, after)| {
                let (at, said) = (start + Duration::from_millis(after), log.clone());
                let job = scheduler.spawn(move || {
                    ctx().set_deadline(Some(at));
                    let paused = pause_job();
                    if paused.is_ok() {
                        let early = Instant::now() < at;
                        said.say(format!("{name}{}", if early { ", too early" } else { "" }));
                    }
                });
                job.unwrap()
            })
            .collect();
        run_ready(scheduler);
        if log.is_empty() {
            jobs.into_iter().for_each(JoinHandle::detach);
            return;
        }
        jobs.iter().for_each(JoinHandle::request_cancel);
        scheduler.run().unwrap();
        log.take();
    }
    panic!("ten seconds are not enough to start three jobs");
}

/// Each deadline wakes its job once, in order, and never early.
#[test]
fn deadlines_wake_in_order() {
    let _watchdog = Watchdog::new();
    set_idle_time(Duration::MAX); // idle stacks have a deadline, too
    let scheduler = Scheduler::new().unwrap();
    let log = Log::default();
    wait_for_deadlines(&scheduler, &log, &[("third", 40), ("first", 20), ("second", 30)]);
    assert!(scheduler.next_deadline().is_some());
    scheduler.run().unwrap();
    assert_eq!(log.take(), ["first", "second", "third"]);
    assert_eq!(scheduler.next_deadline(), None);
}

/// A deadline that is moved to a later time wakes its job only at that time. A deadline that is removed never does.
#[test]
fn a_deadline_may_be_moved_or_removed() {
    let _watchdog = Watchdog::new();
    const HOUR: Duration = Duration::from_secs(3600);
    let scheduler = Scheduler::new().unwrap();
    let (count, ctx) = job_that_counts_resumes(&scheduler, |ctx| {
        ctx.set_status(Status::Ok);
        ctx.set_deadline(Some(Instant::now() + HOUR));
    });
    let pause_again_with = |deadline| {
        ctx.set_deadline(deadline);
        ctx.callback().unwrap().wake();
        run_ready(&scheduler);
    };
    pause_again_with(Some(Instant::now() + 2 * HOUR));
    assert_no_resume(&scheduler);
    assert_eq!(count.get(), 1);
    let later = Instant::now() + Duration::from_millis(20);
    pause_again_with(Some(later));
    while count.get() < 3 {
        scheduler.turn(None).unwrap();
    }
    assert!(Instant::now() >= later);
    pause_again_with(None);
    assert_no_resume(&scheduler);
}

/// S66, `Ok`: a callback will come, so the job is not polled.
#[test]
fn status_ok_waits_for_the_callback() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let (count, ctx) = job_that_counts_resumes(&scheduler, |ctx| ctx.set_status(Status::Ok));
    assert_no_resume(&scheduler);
    assert_eq!(scheduler.jobs()[0].state, JobState::Paused);
    ctx.callback().unwrap().wake();
    run_ready(&scheduler);
    assert_eq!(count.get(), 1);
}

/// S66, `Eagain`: no callback will come, so the job is resumed after the other jobs that are ready.
#[test]
fn status_eagain_is_resumed_after_the_others() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let log = Log::default();
    for name in ["a", "b", "c"] {
        let said = log.clone();
        let job = scheduler.spawn(move || {
            ctx().set_status(Status::Eagain);
            for round in 0..3 {
                said.say(format!("{name}{round}"));
                pause_job().unwrap();
            }
        });
        job.unwrap().detach();
    }
    scheduler.run().unwrap();
    assert_eq!(log.take(), ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]);
}

/// S66, `Eagain`: jobs that the job itself has woken are ready before it gives way, and go on before it.
#[test]
fn a_job_that_gives_way_goes_on_after_those_that_it_has_woken() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let log = Log::default();
    let (said, sleeper_ctx) = (log.clone(), WaitCtx::new());
    let sleeper = move || {
        ctx().set_status(Status::Ok);
        while pause_job().is_ok() {
            said.say("woken");
        }
    };
    let sleeper = JobBuilder::new().wait_ctx(&sleeper_ctx).spawn_on(&scheduler, sleeper);
    run_ready(&scheduler);
    let said = log.clone();
    let waker = scheduler.spawn(move || {
        ctx().set_status(Status::Eagain);
        for round in 0..3 {
            said.say(format!("round {round}"));
            sleeper_ctx.callback().unwrap().wake();
            pause_job().unwrap();
        }
    });
    run_until(&scheduler, waker.unwrap());
    drop(sleeper);
    assert_eq!(log.take(), ["round 0", "woken", "round 1", "woken", "round 2", "woken"]);
}

/// The same if it has woken more jobs than the list of a thread has room for. Each of them is resumed once, in the
/// order of the wakes.
#[test]
fn a_job_that_gives_way_goes_on_after_hundreds_that_it_has_woken() {
    const SLEEPERS: usize = 300;
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let order: Rc<RefCell<Vec<usize>>> = Rc::default();
    let wakers: Rc<RefCell<Vec<Waker>>> = Rc::default();
    let sleepers = (0..SLEEPERS).map(|number| {
        let (order, wakers) = (Rc::clone(&order), Rc::clone(&wakers));
        let sleeper = scheduler.spawn(move || {
            ctx().set_status(Status::Ok);
            wakers.borrow_mut().push(ctx().callback().unwrap());
            while pause_job().is_ok() {
                order.borrow_mut().push(number);
            }
        });
        sleeper.unwrap()
    });
    let sleepers: Vec<_> = sleepers.collect();
    run_ready(&scheduler);
    let (seen, wakers) = (Rc::clone(&order), wakers.take());
    let waker = scheduler.spawn(move || {
        ctx().set_status(Status::Eagain);
        for _ in 0..3 {
            wakers.iter().rev().for_each(Waker::wake_by_ref);
            wakers.iter().for_each(Waker::wake_by_ref); // changes nothing
            pause_job().unwrap();
            assert_eq!(seen.take(), Vec::from_iter((0..SLEEPERS).rev()));
        }
    });
    run_until(&scheduler, waker.unwrap());
    assert_no_resume(&scheduler);
    drop(sleepers);
}

/// S66, `Err`: the engine has failed for this session, so the job is cancelled and the join says why.
#[test]
fn status_err_cancels_the_job() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let seen = Rc::new(Cell::new(None));
    let inside = seen.clone();
    let job = scheduler.spawn(move || {
        ctx().set_status(Status::Err);
        inside.set(Some(pause_job()));
        "what it returns is dropped"
    });
    let error = scheduler.run_until(job.unwrap()).unwrap_err();
    assert!(matches!(error, JoinError::EngineFailed), "{error}");
    assert_eq!(seen.get(), Some(Err(PauseError::Cancelled)));
    assert!(error.to_string().contains("end its session"), "{error}");
}

/// S66, `Unsupported`: a job with a wait fd waits for it. A job without one is polled.
#[test]
fn status_unsupported_waits_for_the_fds() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let (reader, mut writer) = pipe().unwrap();
    let wait = wait_for(&reader);
    let (count, _) = job_that_counts_resumes(&scheduler, move |ctx| {
        ctx.set_status(Status::Unsupported);
        register(ctx, wait);
    });
    assert_no_resume(&scheduler);
    writer.write_all(b"x").unwrap();
    while count.get() == 0 {
        scheduler.turn(None).unwrap();
    }
}

/// Any other status counts as `Unsupported`.
#[test]
fn another_status_waits_for_the_fds() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let (reader, _writer) = pipe().unwrap();
    let wait = wait_for(&reader);
    let (_, _ctx) = job_that_counts_resumes(&scheduler, move |ctx| {
        ctx.set_status(Status::Other(77));
        register(ctx, wait);
    });
    assert_no_resume(&scheduler);
}

/// S29: a job without a wait fd, a callback or a deadline is polled. It is resumed a few times at once, and then by a
/// timer, so that the thread sleeps in between.
#[test]
fn a_job_with_nothing_to_wait_for_is_polled_with_a_back_off() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let (count, _) = job_that_counts_resumes(&scheduler, |_| ());
    let at_once = count.get();
    assert!((1..=16).contains(&at_once), "{at_once} resumes at once");
    let mut gaps = Vec::new();
    let mut before = None;
    for _ in 0..12 {
        let next = scheduler.next_deadline().expect("the next poll has a time");
        gaps.extend(before.map(|before: Instant| next.saturating_duration_since(before)));
        before = Some(next);
        let polls = count.get();
        while count.get() == polls {
            scheduler.turn(None).unwrap();
        }
        assert_eq!(count.get(), polls + 1, "one resume for each time");
    }
    assert!(
        gaps[gaps.len() - 1] >= Duration::from_millis(4),
        "the interval grows: {gaps:?}"
    );
    assert!(
        scheduler.next_deadline().unwrap() <= Instant::now() + Duration::from_millis(10),
        "and is bounded"
    );
}

/// An event resets the interval of the polls.
#[test]
fn an_event_resets_the_back_off() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let (count, ctx) = job_that_counts_resumes(&scheduler, |_| ());
    let at_once = count.get();
    while count.get() < at_once + 10 {
        scheduler.turn(None).unwrap();
    }
    let before = count.get();
    ctx.callback().unwrap().wake();
    run_ready(&scheduler);
    assert!(
        count.get() >= before + at_once,
        "the first polls after an event come at once: {} resumes",
        count.get() - before
    );
}

/// A hundred thousand entries of one fd come, stay, and go with their job. To compare each of them with each other
/// takes longer than the watchdog allows.
#[test]
fn a_job_may_have_a_hundred_thousand_wait_fds() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let (reader, _writer) = pipe().unwrap();
    let fd = reader.as_raw_fd();
    let job = scheduler.spawn(move || {
        let ctx = ctx();
        let mut keys = Vec::new();
        let mut pause_with = |count| {
            while keys.len() < count {
                let key = WaitKey::unique();
                register(&ctx, (key, fd));
                keys.push(key);
            }
            while keys.len() > count {
                ctx.clear_fd(keys.pop().unwrap());
            }
            ctx.callback().unwrap().wake();
            pause_job().unwrap();
            assert_eq!(ctx.fds().len(), count);
        };
        let several = [100_000, 100_001, 99_999, 100_000];
        several.iter().for_each(|&count| pause_with(count));
    });
    run_until(&scheduler, job.unwrap());
}

/// An fd that is added only for when it is armed wakes its job only while it is armed, even if it is ready before.
#[test]
fn an_fd_only_when_armed_wakes_its_job_while_it_is_armed() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let (reader, mut writer) = pipe().unwrap();
    let (key, fd) = wait_for(&reader);
    let (count, ctx) = job_that_counts_resumes(&scheduler, move |ctx| {
        ctx.set_status(Status::Ok);
        add_number(ctx, WaitFd::new(key, fd, WaitFdOptions::new().only_when_armed()), ());
    });
    writer.write_all(b"x").unwrap();
    assert_no_resume(&scheduler);
    ctx.arm(Some(key));
    ctx.callback().unwrap().wake();
    while count.get() < 2 {
        scheduler.turn(None).unwrap();
    }
    ctx.arm(None);
    ctx.callback().unwrap().wake();
    assert_no_resume(&scheduler);
}

/// Whether the fd is readable, so that a host that polls it would wake.
#[allow(unsafe_code, reason = "std has no poll")]
fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid pollfd, and a count of one.
    unsafe { libc::poll(&mut poll, 1, 0) > 0 }
}

/// Moves the file of `from` to the number of `to`, which closes the file of `to`.
#[allow(unsafe_code, reason = "std does not choose the number of an fd")]
fn moved_to(from: PipeReader, to: OwnedFd) -> PipeReader {
    let number = std::os::fd::IntoRawFd::into_raw_fd(to);
    // SAFETY: both fds are open, and no value owns the second one now.
    let moved = unsafe { libc::dup2(from.as_raw_fd(), number) };
    assert_eq!(moved, number);
    // SAFETY: the number is open, and no other value owns it.
    PipeReader::from(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(number) })
}

/// The time that a host spends between two turns is not the job's.
#[test]
fn the_time_in_a_state_begins_with_the_turn() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let idle = Duration::from_secs(1);
    std::thread::sleep(idle); // a host that does other things: the figure is about exactly this
    let before = Instant::now();
    let (_count, _ctx) = job_that_counts_resumes(&scheduler, |ctx| ctx.set_status(Status::Ok));
    let in_state = scheduler.jobs()[0].in_state;
    let coarse = Duration::from_millis(20); // the clock ticks every few milliseconds
    assert!(in_state <= before.elapsed() + coarse, "{in_state:?}");
}

/// A job that asks for the list is in it, and so is the job that runs it. A paused job beside them is paused.
#[test]
fn a_job_that_runs_is_in_the_list() {
    let _watchdog = Watchdog::new();
    let scheduler = Rc::new(Scheduler::new().unwrap());
    let (_count, _ctx) = job_that_counts_resumes(&scheduler, |ctx| ctx.set_status(Status::Ok));
    let asks = Rc::downgrade(&scheduler);
    let job = asyncjob::JobBuilder::new().name("asks").spawn_on(&*scheduler, move || {
        let list = asks.upgrade().unwrap().jobs();
        let seen = |state| list.iter().filter(|job| job.state == state).count();
        let own = list.iter().find(|job| job.state == JobState::Running).unwrap();
        assert_eq!(Some(own.id), asyncjob::current_job_id());
        (seen(JobState::Running), seen(JobState::Paused), own.name.clone())
    });
    let seen = scheduler.run_until(job.unwrap()).unwrap();
    assert_eq!(seen, (1, 1, Some("asks".to_string())));
}

/// A hundred thousand futures wait for capacity, and leave in three orders. To look through the line for each of them
/// takes longer than the watchdog allows.
#[test]
fn a_hundred_thousand_futures_may_wait_for_capacity() {
    const COUNT: usize = 100_000;
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::builder().max_jobs(1).build().unwrap();
    let handle = scheduler.handle();
    let job = scheduler.spawn(|| ()).unwrap();
    let mut task = Context::from_waker(Waker::noop());
    let mut line: VecDeque<_> = (0..COUNT).map(|_| handle.capacity()).collect();
    for waiting in &mut line {
        assert!(Pin::new(&mut *waiting).poll(&mut task).is_pending());
        assert!(Pin::new(&mut *waiting).poll(&mut task).is_pending());
    }
    while line.len() > COUNT / 2 {
        drop((line.pop_back(), line.pop_front(), line.swap_remove_back(line.len() / 2)));
    }
    scheduler.run_until(job).unwrap();
    let mut ready = 0;
    while let Some(mut first) = line.pop_front() {
        ready += usize::from(Pin::new(&mut first).poll(&mut task).is_ready()); // and lets the next one try
    }
    assert!(ready >= 1);
    assert!(scheduler.spawn(|| ()).is_ok());
}

/// A wake on the scheduler's own thread needs no lock: it stays in a list of the scheduler until the turn ends. A turn
/// of another scheduler inside it has a list of its own.
#[test]
fn wakes_on_the_thread_reach_their_own_scheduler() {
    let _watchdog = Watchdog::new();
    let (outer, inner) = (Scheduler::new().unwrap(), Rc::new(Scheduler::new().unwrap()));
    let waiting = |scheduler: &Scheduler| {
        let waker = Rc::new(Cell::new(None));
        let mine = Rc::clone(&waker);
        let job = scheduler.spawn(move || {
            ctx().set_status(Status::Ok);
            mine.set(ctx().callback());
            pause_job().unwrap();
        });
        run_ready(scheduler);
        (job.unwrap(), waker.take().unwrap())
    };
    let ((in_outer, wake_outer), (in_inner, wake_inner)) = (waiting(&outer), waiting(&inner));
    let turns = Rc::clone(&inner);
    let both = outer.spawn(move || {
        // In a job of `outer`, and then in a job of `inner` inside it.
        wake_inner.wake();
        let from_inside = turns.spawn(move || wake_outer.wake()).unwrap();
        run_until(&turns, from_inside);
        run_until(&turns, in_inner);
    });
    run_until(&outer, both.unwrap());
    run_until(&outer, in_outer);
    assert_no_resume(&outer);
    assert_no_resume(&inner);
}
