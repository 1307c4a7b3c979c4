//! Promise: a host loop that polls the scheduler's fd until `next_deadline`, and then takes a few turns, misses no
//! event, does not spin, and serves its own fds whatever its jobs do.
//!
//! The host in these tests calls `poll(2)` on that one fd.

use std::cell::Cell;
use std::io::{Read, Write, pipe};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use asyncjob::io::Pausing;
use asyncjob::scheduler::Scheduler;
use asyncjob::{Status, WaitKey, current_job, pause_job};
use asyncjob_testing::Watchdog;

/// Waits for the fd, or for the deadline if there is one. Returns whether the fd is readable.
#[allow(unsafe_code, reason = "std has no poll")]
fn poll(scheduler: &Scheduler, deadline: Option<Instant>) -> bool {
    let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
    let timeout = left.map_or(-1, |left| left.as_nanos().div_ceil(1_000_000) as i32);
    let mut fd = libc::pollfd {
        fd: scheduler.as_fd().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid pollfd, and a count of one.
    unsafe { libc::poll(&mut fd, 1, timeout) > 0 }
}

/// Takes a few turns. Returns whether no job is ready any more.
fn turns(scheduler: &Scheduler) -> bool {
    (0..4).any(|_| scheduler.turn(Some(Duration::ZERO)).unwrap().ready == 0)
}

/// The host loop of the documentation of `Scheduler::turn`. Returns how often it polled.
fn host(scheduler: &Scheduler) -> usize {
    host_with(scheduler, |_| ())
}

/// As [`host`], with `serve` in place of what a host does with its own fds. It is called after each poll, with the
/// number of polls.
fn host_with(scheduler: &Scheduler, serve: impl Fn(usize)) -> usize {
    let mut polls = 0;
    loop {
        let is_idle = turns(scheduler);
        if scheduler.live_jobs() == 0 {
            return polls;
        }
        let now = Some(Instant::now());
        poll(scheduler, if is_idle { scheduler.next_deadline() } else { now });
        polls += 1;
        serve(polls);
        assert!(polls < 10_000, "the host spins");
    }
}

#[test]
fn an_fd_wakes_the_host() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let (reader, mut writer) = pipe().unwrap();
    let job = scheduler.spawn(move || {
        let mut reader = reader;
        let copy = reader.try_clone().unwrap();
        current_job().unwrap().wait_ctx().add_wait_fd(WaitKey::unique(), copy);
        for _ in 0..10 {
            pause_job().unwrap();
            reader.read_exact(&mut [0]).unwrap();
        }
    });
    let feeder = thread::spawn(move || (0..10).for_each(|_| writer.write_all(b"x").unwrap()));
    let polls = host(&scheduler);
    feeder.join().unwrap();
    assert!(polls <= 20, "{polls} polls for 10 bytes");
    job.unwrap().join().unwrap();
}

#[test]
fn a_callback_wakes_the_host() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let job = scheduler.spawn(|| {
        let ctx = current_job().unwrap().wait_ctx().clone();
        ctx.set_status(Status::Ok);
        for _ in 0..100 {
            let callback = ctx.callback().unwrap();
            let engine = thread::spawn(move || callback.wake());
            pause_job().unwrap();
            engine.join().unwrap();
        }
    });
    let polls = host(&scheduler);
    assert!(polls <= 200, "{polls} polls for 100 callbacks");
    job.unwrap().join().unwrap();
}

#[test]
fn a_deadline_wakes_the_host() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let job = scheduler.spawn(|| {
        let ctx = current_job().unwrap().wait_ctx().clone();
        ctx.set_status(Status::Ok);
        for _ in 0..3 {
            let at = Instant::now() + Duration::from_millis(3);
            ctx.set_deadline(Some(at));
            pause_job().unwrap();
            assert!(Instant::now() >= at, "resumed too early");
        }
    });
    let polls = host(&scheduler);
    assert!(polls <= 12, "{polls} polls for three deadlines");
    job.unwrap().join().unwrap();
}

#[test]
fn a_spawn_from_a_thread_wakes_the_host() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let handle = scheduler.handle();
    let keep = scheduler.spawn(|| {
        current_job().unwrap().wait_ctx().set_status(Status::Ok);
        while pause_job().is_ok() {}
    });
    let keep = keep.unwrap();
    let spawner = thread::spawn(move || {
        let sum: u32 = (0..100).map(|n| handle.spawn(move || n).unwrap().join().unwrap()).sum();
        keep.request_cancel();
        sum
    });
    let polls = host(&scheduler);
    assert_eq!(spawner.join().unwrap(), 4950);
    assert!(polls <= 300, "{polls} polls for 100 jobs");
}

/// The host spawns a job between two turns. The fd is readable then, so that a host that polls next notices it.
#[test]
fn a_spawn_by_the_host_makes_the_fd_readable() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    assert_eq!(scheduler.turn(Some(Duration::ZERO)).unwrap().ready, 0);
    let job = scheduler.spawn(|| 6).unwrap();
    assert!(poll(&scheduler, None));
    host(&scheduler);
    assert_eq!(job.join().unwrap(), 6);
}

/// The fd is not readable before and after work, and not while a job is paused.
#[test]
fn with_nothing_to_do_the_fd_is_not_readable() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let now = Some(Instant::now());
    scheduler.turn(Some(Duration::ZERO)).unwrap();
    assert!(!poll(&scheduler, now));
    let waiting = scheduler.spawn(|| {
        current_job().unwrap().wait_ctx().set_status(Status::Ok);
        while pause_job().is_ok() {}
    });
    while scheduler.turn(Some(Duration::ZERO)).unwrap().ready != 0 {}
    scheduler.turn(Some(Duration::ZERO)).unwrap();
    assert!(!poll(&scheduler, now), "a paused job is not an event");
    waiting.unwrap().request_cancel();
    assert!(poll(&scheduler, None), "a cancellation is an event");
    host(&scheduler);
    scheduler.turn(Some(Duration::ZERO)).unwrap();
    assert!(!poll(&scheduler, now));
}

/// A job whose sockets are always ready stays ready, until it sees that the host has served its own fds.
#[test]
fn a_job_that_is_always_ready_leaves_the_host_its_fds() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let served = Rc::new(Cell::new(false));
    let seen = Rc::clone(&served);
    let busy = scheduler.spawn(move || {
        let (from, to) = UnixStream::pair().unwrap();
        let (mut from, mut to) = (Pausing::new(from).unwrap(), Pausing::new(to).unwrap());
        while !seen.get() {
            to.write_all(b"x").unwrap();
            from.read_exact(&mut [0]).unwrap();
        }
    });
    let polls = host_with(&scheduler, |polls| served.set(polls >= 10));
    assert_eq!(
        polls, 10,
        "the job was not ready all the time, or the host was not served"
    );
    busy.unwrap().join().unwrap();
}

/// One host on one thread turns two schedulers.
#[test]
fn one_host_turns_two_schedulers() {
    let _watchdog = Watchdog::new();
    let (a, b) = (Scheduler::new().unwrap(), Scheduler::new().unwrap());
    let (reader, mut writer) = pipe().unwrap();
    let reads = a.spawn(move || {
        let copy = reader.try_clone().unwrap();
        current_job().unwrap().wait_ctx().add_wait_fd(WaitKey::unique(), copy);
        pause_job().unwrap();
        (&reader).read(&mut [0; 8]).unwrap()
    });
    let writes = b.spawn(move || {
        pause_job().unwrap();
        writer.write(b"four").unwrap()
    });
    while a.live_jobs() + b.live_jobs() != 0 {
        a.turn(Some(Duration::ZERO)).unwrap();
        b.turn(Some(Duration::ZERO)).unwrap();
    }
    assert_eq!(
        (writes.unwrap().join().unwrap(), reads.unwrap().join().unwrap()),
        (4, 4)
    );
}

/// A host may ask for the fd at any time: the fd shows what has happened before as well as what happens later.
#[test]
fn the_fd_shows_what_was_there_before_the_host_asked_for_it() {
    let is_readable = |scheduler: &Scheduler| poll(scheduler, Some(Instant::now()));
    let run = |scheduler: &Scheduler| while scheduler.turn(Some(Duration::ZERO)).unwrap().ready != 0 {};

    let before = Scheduler::new().unwrap();
    before.spawn(|| ()).unwrap().detach();
    assert!(is_readable(&before), "a job was spawned before");

    let turned = Scheduler::new().unwrap();
    turned.spawn(|| ()).unwrap().detach();
    run(&turned);
    let handle = turned.handle();
    thread::spawn(move || handle.spawn(|| ()).unwrap().detach())
        .join()
        .unwrap();
    assert!(is_readable(&turned), "a job was submitted between two turns");

    let later = Scheduler::new().unwrap();
    assert!(!is_readable(&later));
    later.spawn(|| ()).unwrap().detach();
    assert!(is_readable(&later), "a job was spawned later");
    run(&later);
    run(&later);
    assert!(!is_readable(&later));
    let handle = later.handle();
    thread::spawn(move || handle.spawn(|| ()).unwrap().detach())
        .join()
        .unwrap();
    assert!(is_readable(&later), "a job was submitted later");
}
