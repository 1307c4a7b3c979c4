//! From another processor's "it is done" to the job that runs: how long, as a distribution.
//!
//! ```text
//!   waiter (home)                     engine (other processor)
//!   arm ───────────────────────────>  sees it; lets the waiter go to sleep, or on with other work
//!   pauses, awaits, sleeps ...        stamps the time, calls the waker
//!   runs again: now - stamp  <──────
//! ```

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};
use std::{hint, mem};

use hdrhistogram::Histogram;

use crate::machine::{Cores, pin};

/// What the waiter's thread does while it waits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// Other jobs keep it running.
    Busy,
    /// It has nothing else to do and sleeps in the kernel.
    Asleep,
}

/// What a waiter and its engine share.
pub(crate) struct Line {
    epoch: Instant,
    /// Nanoseconds since the epoch; 0 while nothing was done.
    stamp: AtomicU64,
    armed: AtomicBool,
    left: AtomicU64,
    waker: OnceLock<Waker>,
    seen: Mutex<Histogram<u64>>,
}

impl Line {
    fn new(samples: u64) -> Self {
        Line {
            epoch: Instant::now(),
            stamp: AtomicU64::new(0),
            armed: AtomicBool::new(false),
            left: AtomicU64::new(samples),
            waker: OnceLock::new(),
            seen: Mutex::new(histogram()),
        }
    }

    /// The waiter: this is how to wake me.
    pub(crate) fn open(&self, waker: Waker) {
        assert!(self.waker.set(waker).is_ok(), "a line has one waiter");
    }

    /// The waiter: wake me. False when there were enough samples.
    pub(crate) fn arm(&self) -> bool {
        if self.is_closed() {
            return false;
        }
        self.stamp.store(0, Ordering::Relaxed);
        self.armed.store(true, Ordering::Release);
        true
    }

    /// The waiter, running: whether it was woken, and if so that counts. Waking may be for nothing.
    #[inline]
    pub(crate) fn woken(&self) -> bool {
        let stamp = self.stamp.load(Ordering::Acquire);
        if stamp == 0 {
            return false;
        }
        let took = self.now() - stamp;
        self.seen.lock().expect("nobody panics").saturating_record(took.max(1));
        self.left.fetch_sub(1, Ordering::Release);
        true
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.left.load(Ordering::Acquire) == 0
    }

    #[inline]
    fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64 + 1
    }

    /// The engine: waits until the waiter is ready, then until it sleeps or has gone on, and wakes it.
    fn serve(&self, load: Load) {
        while !self.is_closed() {
            if self.armed.swap(false, Ordering::Acquire) {
                spin(match load {
                    Load::Busy => Duration::from_micros(3),
                    Load::Asleep => Duration::from_micros(60),
                });
                self.stamp.store(self.now(), Ordering::Release);
                if let Some(waker) = self.waker.get() {
                    waker.wake_by_ref();
                }
            }
            hint::spin_loop();
        }
    }
}

/// Runs `waiter` here and its engine on the other processor until there are so many samples.
pub(crate) fn measure(cores: Cores, samples: u64, load: Load, waiter: impl FnOnce(&Arc<Line>)) -> Histogram<u64> {
    let line = Arc::new(Line::new(samples));
    let engine = {
        let line = Arc::clone(&line);
        thread::spawn(move || {
            pin(cores.other);
            line.serve(load);
        })
    };
    waiter(&line);
    engine.join().expect("it does not panic");
    mem::replace(&mut *line.seen.lock().expect("nobody panics"), histogram())
}

/// Counts from a nanosecond to ten seconds, to three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 10_000_000_000, 3).expect("these bounds are allowed")
}

/// The floor of a wake on a busy thread: it looks at the cache line that the engine writes, over and over.
pub(crate) fn spinning(line: &Arc<Line>) {
    while line.arm() {
        while !line.woken() {
            hint::spin_loop();
        }
    }
}

/// The floor of a wake of a thread that sleeps: parked, and unparked by the engine.
pub(crate) fn parked(line: &Arc<Line>) {
    let here = thread::current();
    line.open(asyncjob::waker_fn(move || here.unpark()));
    while line.arm() {
        while !line.woken() {
            thread::park();
        }
    }
}

fn spin(time: Duration) {
    let clock = Instant::now();
    while clock.elapsed() < time {
        hint::spin_loop();
    }
}
