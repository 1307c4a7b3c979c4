//! Promise: `pause_until` waits the same way wherever it is called: in a job under every kind of driver, on a plain
//! thread, and where a job may not pause.

mod drivers;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use asyncjob::time::with_timeout;
use asyncjob::waiting::{WaitSpec, WakeSource, pause_until};
use asyncjob::{
    Interest, Interrupted, Status, Step, WaitCtx, WaitFdOptions, WaitKey, block_pause, current_job, start_job,
};
use asyncjob_testing::Watchdog;
use drivers::{Drivers, EVERY};

/// A device on a thread: it works for a moment, says that it is done, then wakes.
fn device(waker: Waker) -> Arc<AtomicBool> {
    let done = Arc::new(AtomicBool::new(false));
    let (inside, work) = (Arc::clone(&done), Duration::from_millis(2));
    thread::spawn(move || {
        thread::sleep(work);
        inside.store(true, Ordering::Release);
        waker.wake();
    });
    done
}

/// What an engine does, and how often it looked.
fn wait_for_device() -> u32 {
    let wake = WakeSource::new().unwrap();
    let done = device(wake.waker().clone());
    let looks = Cell::new(0);
    let is_done = || {
        looks.set(looks.get() + 1);
        done.load(Ordering::Acquire).then_some(())
    };
    pause_until(WaitSpec::woken_by(&wake), is_done).unwrap();
    looks.get()
}

#[test]
fn a_device_is_waited_for_under_every_driver() {
    let _watchdog = Watchdog::new();
    for rule in EVERY {
        let mut driver = Drivers::new(rule);
        let finished = Rc::new(Cell::new(0));
        for _ in 0..20 {
            let finished = Rc::clone(&finished);
            driver.start(move || {
                wait_for_device();
                finished.set(finished.get() + 1);
            });
        }
        driver.run();
        assert_eq!(finished.get(), 20, "{rule:?}");
    }
}

#[test]
fn a_device_is_waited_for_on_a_thread() {
    let _watchdog = Watchdog::new();
    assert!(wait_for_device() <= 3, "the thread is parked, it does not spin");
}

/// Under `block_pause` the thread blocks, and the driver is not disturbed.
#[test]
fn a_device_is_waited_for_under_block_pause() {
    let _watchdog = Watchdog::new();
    let ctx = WaitCtx::new();
    ctx.set_callback(Some(asyncjob::waker_fn(|| panic!("the wait is the thread's"))));
    let step = start_job(&ctx, || {
        let _lock_is_held = block_pause();
        wait_for_device()
    });
    let Ok(Step::Finished(looks)) = step else {
        panic!("it cannot pause")
    };
    assert!(looks <= 3);
}

/// A guard that is taken after the source was made: the wake goes to the driver, and the thread looks again by itself.
#[test]
fn a_guard_taken_too_late_does_not_hang() {
    let _watchdog = Watchdog::new();
    let ctx = WaitCtx::new();
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    ctx.set_callback(Some(asyncjob::waker_fn(move || {
        counted.fetch_add(1, Ordering::Relaxed);
    })));
    let step = start_job(&ctx, || {
        let wake = WakeSource::new().unwrap();
        let _lock_is_held = block_pause();
        let done = device(wake.waker().clone());
        pause_until(WaitSpec::woken_by(&wake), || done.load(Ordering::Acquire).then_some(7))
    });
    assert!(matches!(step, Ok(Step::Finished(Ok(7)))));
    while calls.load(Ordering::Relaxed) == 0 {
        thread::yield_now();
    }
}

/// What the wait says to the driver is said during the wait only.
#[test]
fn the_ctx_is_as_it_was() {
    let _watchdog = Watchdog::new();
    let ctx = WaitCtx::new();
    let seen = ctx.clone();
    ctx.set_status(Status::Other(9));
    let step = start_job(&ctx, move || {
        let wake = WakeSource::new().unwrap();
        let during = |tries: &Cell<u32>| {
            tries.set(tries.get() + 1);
            (tries.get() == 2).then(|| (seen.status(), seen.fds().len()))
        };
        let tries = Cell::new(0);
        pause_until(WaitSpec::woken_by(&wake), || during(&tries)).unwrap()
    });
    let Ok(Step::Paused(job)) = step else { panic!() };
    assert_eq!(
        (ctx.status(), ctx.fds().len()),
        (Status::Unsupported, 1),
        "an eventfd, as there is no callback"
    );
    let Step::Finished(during) = job.resume() else { panic!() };
    assert_eq!(during, (Status::Unsupported, 1));
    assert_eq!(
        (ctx.status(), ctx.fds().len(), ctx.armed()),
        (Status::Other(9), 0, None)
    );
}

/// A wait fd of the engine's own: by its key in a job, by `poll(2)` elsewhere.
#[test]
fn an_fd_is_waited_for_anywhere() {
    let _watchdog = Watchdog::new();
    let read_slowly = || {
        let (reader, writer) = std::io::pipe().unwrap();
        let key = WaitKey::unique();
        let ctx = current_job().map(|job| job.wait_ctx().clone());
        if let Some(ctx) = &ctx {
            let options = WaitFdOptions::new().only_when_armed();
            ctx.add_wait_fd_with(key, reader.try_clone().unwrap(), options);
        }
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(2));
            drop(writer);
        });
        let looks = Cell::new(0);
        let second_look = || {
            looks.set(looks.get() + 1);
            (looks.get() == 2).then_some(())
        };
        pause_until(WaitSpec::fd(key, &reader, Interest::Readable), second_look).unwrap();
        let end = std::io::Read::read(&mut &reader, &mut [0]).unwrap(); // does not block
        ctx.map(|ctx| ctx.clear_fd(key));
        end
    };
    assert_eq!(read_slowly(), 0);
    for rule in EVERY.into_iter().filter(|rule| *rule != drivers::Rule::Always) {
        let mut driver = Drivers::new(rule);
        driver.start(move || assert_eq!(read_slowly(), 0));
        driver.run();
    }
}

/// A deadline of the wait, and one around it; what is ready at once needs no time.
#[test]
fn a_wait_ends_at_its_deadline() {
    let _watchdog = Watchdog::new();
    let begin = Instant::now();
    let never = || None::<()>;
    let timed_out = Err(Interrupted::TimedOut);
    assert_eq!(pause_until(WaitSpec::time().deadline(begin), never), timed_out);
    assert_eq!(pause_until(WaitSpec::retry().deadline(begin), || Some(3)), Ok(3));
    let around = with_timeout(Duration::from_millis(1), || pause_until(WaitSpec::retry(), never));
    assert_eq!(around, timed_out);
    let wake = WakeSource::new().unwrap();
    let at = Instant::now() + Duration::from_millis(1);
    assert_eq!(pause_until(WaitSpec::woken_by(&wake).deadline(at), never), timed_out);
    assert!(Instant::now() >= at);
}

/// A cancelled job's wait fails, and leaves the ctx as it was.
#[test]
fn a_wait_ends_at_a_cancel() {
    let _watchdog = Watchdog::new();
    let ctx = WaitCtx::new();
    let step = start_job(&ctx, || {
        let wake = WakeSource::new().unwrap();
        pause_until(WaitSpec::woken_by(&wake), || None::<()>)
    });
    let Ok(Step::Paused(job)) = step else { panic!() };
    assert_eq!(job.cancel(), Ok(Err(Interrupted::Cancelled)));
    assert!(ctx.fds().is_empty());
}
