//! Promise: a pause and a resume that change no fd take no lock, even while another thread holds the lock of the wait
//! ctx.
//!
//! A second thread holds the lock of a ctx during the test. It is stopped inside the allocator, by an allocation that
//! the ctx makes while it lists its fds.

#![cfg(target_os = "linux")] // which tells through /proc that a thread sleeps

mod by_hand;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use asyncjob::{Status, WaitCtx, WaitKey, block_pause, current_job_id, pause_job, start_job};
use asyncjob_testing::Watchdog;
use by_hand::{add_number, finished, number, paused_with, still_paused};

#[derive(PartialEq)]
enum Gate {
    Open,
    Stopped,
    Released,
}

static GATE: Mutex<Gate> = Mutex::new(Gate::Open);
static GATE_CHANGED: Condvar = Condvar::new();

thread_local!(static STOP_AT_NEXT_ALLOCATION: Cell<bool> = const { Cell::new(false) });

struct StoppingAllocator;

#[allow(unsafe_code, reason = "the only place inside the ctx's lock that a test can reach")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for StoppingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if STOP_AT_NEXT_ALLOCATION.replace(false) {
            let mut gate = GATE.lock().unwrap();
            *gate = Gate::Stopped;
            GATE_CHANGED.notify_all();
            drop(GATE_CHANGED.wait_while(gate, |gate| *gate != Gate::Released));
        }
        // SAFETY: the caller keeps the contract of this method, which is that of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of this method, which is that of the system's allocator.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static GLOBAL: StoppingAllocator = StoppingAllocator;

/// Waits until the kernel reports that the thread sleeps (`true`), or the thread reports that it is done (`false`).
fn sleeps(thread: i32, done: &AtomicBool) -> bool {
    loop {
        if done.load(Ordering::Acquire) {
            return false;
        }
        let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap_or_default();
        let state = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.trim_start().chars().next());
        if state == Some('S') {
            return true;
        }
        thread::yield_now();
    }
}

#[test]
fn jobs_run_while_another_thread_holds_the_lock() {
    let _watchdog = Watchdog::new();
    let ctx = WaitCtx::new();
    // More than are read without the lock.
    for fd in 3..6 {
        add_number(&ctx, number(WaitKey::unique(), fd), ());
    }
    let job = paused_with(&ctx, || {
        while pause_job().is_ok() {}
        current_job_id()
    });
    let mut job = still_paused(job.resume()); // settles the fd

    let holder = {
        let ctx = ctx.clone();
        thread::spawn(move || {
            STOP_AT_NEXT_ALLOCATION.set(true);
            ctx.fds().len()
        })
    };
    drop(GATE_CHANGED.wait_while(GATE.lock().unwrap(), |gate| *gate != Gate::Stopped));

    // The control: the lock is held, so a thread that asks the ctx for an fd sleeps.
    let (id, done) = (Arc::new(AtomicI32::new(0)), Arc::new(AtomicBool::new(false)));
    let asker = {
        let (ctx, id, done) = (ctx.clone(), id.clone(), done.clone());
        thread::spawn(move || {
            #[allow(unsafe_code, reason = "std does not tell the number of a thread")]
            // SAFETY: the call has no argument and always succeeds.
            id.store(unsafe { libc::gettid() }, Ordering::Release);
            let fd = ctx.fd(WaitKey::unique());
            done.store(true, Ordering::Release);
            fd
        })
    };
    while id.load(Ordering::Acquire) == 0 {
        thread::yield_now();
    }
    assert!(
        sleeps(id.load(Ordering::Acquire), &done),
        "the lock is not held, so this test would prove nothing"
    );

    // Pauses, resumes, starts, ends, statuses and deadlines while the other thread holds the lock. If one of them took
    // the lock, it would hang here.
    for _ in 0..100 {
        job = still_paused(job.resume());
        let inside = ctx.clone();
        let step = start_job(&ctx, move || {
            let _guard = block_pause();
            inside.set_status(Status::Ok);
            inside.set_deadline(Some(std::time::Instant::now()));
            (inside.status(), inside.deadline().is_some(), inside.version())
        });
        finished(step.unwrap());
    }
    assert!(job.cancel().is_ok());
    assert!(!done.load(Ordering::Acquire), "the lock was held until here");

    *GATE.lock().unwrap() = Gate::Released;
    GATE_CHANGED.notify_all();
    assert_eq!(holder.join().unwrap(), 3);
    assert_eq!(asker.join().unwrap(), None);
}
