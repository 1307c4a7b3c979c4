//! Promise: a host loop that polls the scheduler's fd until `next_deadline`, and turns it then, misses nothing and does
//! not spin.
//!
//! The host here is `poll(2)` on that one fd.

use std::io::{Read, Write, pipe};
use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::{Duration, Instant};

use asyncjob::scheduler::Scheduler;
use asyncjob::{Status, WaitKey, current_job, pause_job};
use asyncjob_testing::Watchdog;

/// Waits for the fd, or for the deadline if there is one; whether the fd is readable.
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

/// The host loop, as the documentation of `Scheduler::turn` has it. How often it polled.
fn host(scheduler: &Scheduler) -> usize {
    let mut polls = 0;
    loop {
        while scheduler.turn(Some(Duration::ZERO)).unwrap().ready != 0 {}
        if scheduler.live_jobs() == 0 {
            return polls;
        }
        poll(scheduler, scheduler.next_deadline());
        polls += 1;
        assert!(polls < 10_000, "the host spins");
    }
}

#[test]
fn woken_by_an_fd() {
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
fn woken_by_a_callback() {
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
fn woken_by_a_deadline() {
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
fn woken_by_a_job_from_a_thread() {
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

/// Spawned by the host itself, between its turns: the fd is readable, so that a host that polls next hears of it.
#[test]
fn woken_by_the_host_itself() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    assert_eq!(scheduler.turn(Some(Duration::ZERO)).unwrap().ready, 0);
    let job = scheduler.spawn(|| 6).unwrap();
    assert!(poll(&scheduler, None));
    host(&scheduler);
    assert_eq!(job.join().unwrap(), 6);
}

/// With nothing to do the fd is not readable, before and after work, and with a ready fd that no job wants.
#[test]
fn silent_with_nothing_to_do() {
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
    assert!(!poll(&scheduler, now), "a paused job alone is no event");
    waiting.unwrap().request_cancel();
    assert!(poll(&scheduler, None), "a cancellation is one");
    host(&scheduler);
    scheduler.turn(Some(Duration::ZERO)).unwrap();
    assert!(!poll(&scheduler, now));
}

/// Two schedulers in one host, on one thread.
#[test]
fn two_schedulers_in_one_host() {
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
