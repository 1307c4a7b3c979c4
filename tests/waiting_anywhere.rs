//! Promise: `pause_until` waits in the same way in every place: in a job under every kind of driver, on a plain thread,
//! and in a job that may not pause.

mod drivers;

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use asyncjob::scheduler::{JoinError, Scheduler};
use asyncjob::time::with_timeout;
use asyncjob::waiting::{WaitSpec, WakeSource, await_future, await_or_block, pause_until};
use asyncjob::{
    Interest, Interrupted, Status, Step, WaitCtx, WaitFdOptions, WaitKey, block_pause, current_job, in_job, start_job,
};
use asyncjob_testing::Watchdog;
use drivers::{Drivers, EVERY};

/// A device on a thread. It works for a moment, sets a flag, and then wakes the waiter.
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

/// Waits for the device, as an engine does. Returns how often it checked the flag.
fn wait_for_device() -> u32 {
    let wake = WakeSource::new().unwrap();
    let done = device(wake.waker().clone());
    let checks = Cell::new(0);
    let is_done = || {
        checks.set(checks.get() + 1);
        done.load(Ordering::Acquire).then_some(())
    };
    pause_until(WaitSpec::woken_by(&wake), is_done).unwrap();
    checks.get()
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
    assert!(wait_for_device() <= 3, "the thread is parked and does not spin");
}

/// Under `block_pause` the thread blocks, and the driver's callback is not called.
#[test]
fn a_device_is_waited_for_under_block_pause() {
    let _watchdog = Watchdog::new();
    let ctx = WaitCtx::new();
    ctx.set_callback(Some(asyncjob::waker_fn(|| panic!("the thread waits, not the driver"))));
    let step = start_job(&ctx, || {
        let _lock_is_held = block_pause();
        wait_for_device()
    });
    let Ok(Step::Finished(checks)) = step else {
        panic!("the job cannot pause")
    };
    assert!(checks <= 3);
}

/// A guard may be made after the `WakeSource`. The wake goes to the driver then, and the blocked thread checks again by
/// itself.
#[test]
fn a_wait_under_a_guard_that_was_made_late_does_not_hang() {
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

/// A wait changes the status and the wait fds of the ctx only during the wait.
/// A future whose first poll waits for another device in the middle, as the poll of a handshake does in which a key
/// signs. The wake of the future comes during that wait. Returns how often the future was polled.
fn a_future_that_waits_in_its_poll() -> impl Future<Output = u32> {
    let (mut polls, mut done) = (0, None);
    poll_fn(move |task| {
        polls += 1;
        let done = done.get_or_insert_with(|| {
            let done = device(task.waker().clone());
            let signer = WakeSource::new().unwrap();
            let (waker, socket) = (signer.waker().clone(), Arc::clone(&done));
            let is_signed = Arc::new(AtomicBool::new(false));
            let in_thread = Arc::clone(&is_signed);
            thread::spawn(move || {
                while !socket.load(Ordering::Acquire) {
                    thread::yield_now();
                }
                thread::sleep(Duration::from_millis(20)); // until the job has taken the wake of the socket
                in_thread.store(true, Ordering::Release);
                waker.wake();
            });
            let signed = || is_signed.load(Ordering::Acquire).then_some(());
            pause_until(WaitSpec::woken_by(&signer), signed).unwrap();
            done
        });
        // The poll has looked at its socket before it signed, and does not look again.
        let is_done = polls > 1 && done.load(Ordering::Acquire);
        if is_done { Poll::Ready(polls) } else { Poll::Pending }
    })
}

#[test]
fn a_wake_that_comes_while_the_poll_itself_waits_is_not_lost() {
    let _watchdog = Watchdog::new();
    for rule in EVERY {
        let mut driver = Drivers::new(rule);
        let polls = Rc::new(Cell::new(0));
        let in_job = Rc::clone(&polls);
        driver.start(move || in_job.set(await_future(a_future_that_waits_in_its_poll()).unwrap()));
        driver.run();
        assert!(polls.get() >= 2, "{rule:?}");
    }
    let scheduler = Scheduler::new().unwrap();
    let job = scheduler.spawn(|| await_future(a_future_that_waits_in_its_poll()).unwrap());
    assert_eq!(scheduler.run_until(job.unwrap()).unwrap(), 2);
    assert!(
        await_or_block(in_job(a_future_that_waits_in_its_poll()))
            .unwrap()
            .unwrap()
            >= 2
    );
    assert!(
        await_or_block(a_future_that_waits_in_its_poll()).unwrap() >= 2,
        "on a thread"
    );
}

#[test]
fn a_source_that_was_made_elsewhere_is_refused() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let outside = WakeSource::new().unwrap();
    let job = scheduler.spawn(move || pause_until(WaitSpec::woken_by(&outside), || None::<()>));
    assert!(matches!(
        scheduler.run_until(job.unwrap()),
        Err(JoinError::Panicked(panic)) if panic.to_string().contains("make the source in the job that waits")
    ));
    let of_another_job = scheduler.spawn(|| WakeSource::new().unwrap());
    let source = scheduler.run_until(of_another_job.unwrap()).unwrap();
    let job = scheduler.spawn(move || pause_until(WaitSpec::woken_by(&source), || None::<()>));
    assert!(matches!(scheduler.run_until(job.unwrap()), Err(JoinError::Panicked(_))));
}

#[test]
fn a_source_that_was_made_under_a_guard_wakes_after_the_guard_is_gone() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let job = scheduler.spawn(|| {
        let guard = block_pause();
        let wake = WakeSource::new().unwrap();
        drop(guard);
        let done = device(wake.waker().clone());
        pause_until(WaitSpec::woken_by(&wake), || done.load(Ordering::Acquire).then_some(()))
    });
    scheduler.run_until(job.unwrap()).unwrap().unwrap();
}

#[test]
fn a_wait_restores_the_ctx() {
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
        "an eventfd, because there is no callback"
    );
    let Step::Finished(during) = job.resume() else { panic!() };
    assert_eq!(during, (Status::Unsupported, 1));
    assert_eq!(
        (ctx.status(), ctx.fds().len(), ctx.armed()),
        (Status::Other(9), 0, None)
    );
}

/// An engine waits for a wait fd of its own: by its key in a job, and by `poll(2)` elsewhere.
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
        let checks = Cell::new(0);
        let second_check = || {
            checks.set(checks.get() + 1);
            (checks.get() == 2).then_some(())
        };
        pause_until(WaitSpec::fd(key, &reader, Interest::Readable), second_check).unwrap();
        let end = std::io::Read::read(&mut &reader, &mut [0]).unwrap(); // the end of the pipe, so this does not block
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

/// A wait ends at its own deadline and at a deadline around it. A wait that is ready at once succeeds after its
/// deadline.
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

/// The wait of a cancelled job fails, and the ctx is restored.
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
