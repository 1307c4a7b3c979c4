//! The latency of a wake from another processor, as a distribution.
//!
//! ```text
//!   waiter                            engine (on the other processor)
//!   arm --------------------------->  waits until the waiter sleeps or does other work
//!   pauses, awaits, sleeps ...        stores the time, calls the waker
//!   runs again: now - stamp  <------
//! ```

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};
use std::{hint, mem};

use hdrhistogram::Histogram;

use crate::machine::{Cores, pin};

/// What the waiter's thread does during a wait.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// It runs other jobs.
    Busy,
    /// It sleeps in the kernel.
    Asleep,
}

/// What a waiter and its engine share.
pub(crate) struct Exchange {
    epoch: Instant,
    /// When the engine called the waker, in nanoseconds since the epoch. 0 before that.
    stamp: AtomicU64,
    armed: AtomicBool,
    left: AtomicU64,
    waker: OnceLock<Waker>,
    seen: Mutex<Histogram<u64>>,
}

impl Exchange {
    fn new(samples: u64) -> Self {
        Exchange {
            epoch: Instant::now(),
            stamp: AtomicU64::new(0),
            armed: AtomicBool::new(false),
            left: AtomicU64::new(samples),
            waker: OnceLock::new(),
            seen: Mutex::new(histogram()),
        }
    }

    /// The waiter calls this with its waker.
    pub(crate) fn open(&self, waker: Waker) {
        assert!(self.waker.set(waker).is_ok(), "an exchange has one waiter");
    }

    /// The waiter asks for a wake. False when there are enough samples.
    pub(crate) fn arm(&self) -> bool {
        if self.is_closed() {
            return false;
        }
        self.stamp.store(0, Ordering::Relaxed);
        self.armed.store(true, Ordering::Release);
        true
    }

    /// The waiter calls this when it runs. If the engine has woken it, this takes the sample. A waiter may also run
    /// without that.
    #[inline]
    pub(crate) fn woken(&self) -> bool {
        let stamp = self.stamp.load(Ordering::Acquire);
        if stamp == 0 {
            return false;
        }
        let took = self.now() - stamp;
        self.seen
            .lock()
            .expect("no thread panics with the lock")
            .saturating_record(took.max(1));
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

    /// The engine: waits until the waiter is armed, gives it time to sleep or to go on with other work, and wakes it.
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

/// Runs `waiter` on this thread and its engine on the other processor, until there are so many samples.
pub(crate) fn measure(cores: Cores, samples: u64, load: Load, waiter: impl FnOnce(&Arc<Exchange>)) -> Histogram<u64> {
    let exchange = Arc::new(Exchange::new(samples));
    let engine = {
        let exchange = Arc::clone(&exchange);
        thread::spawn(move || {
            pin(cores.other);
            exchange.serve(load);
        })
    };
    waiter(&exchange);
    engine.join().expect("it does not panic");
    mem::replace(
        &mut *exchange.seen.lock().expect("no thread panics with the lock"),
        histogram(),
    )
}

/// A histogram from a nanosecond to ten seconds, with three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 10_000_000_000, 3).expect("these bounds are allowed")
}

/// The floor of a wake on a busy thread: a loop on the cache line that the engine writes.
pub(crate) fn spinning(exchange: &Arc<Exchange>) {
    while exchange.arm() {
        while !exchange.woken() {
            hint::spin_loop();
        }
    }
}

/// The floor of a wake of a thread that sleeps: the thread is parked, and the engine unparks it.
pub(crate) fn parked(exchange: &Arc<Exchange>) {
    let here = thread::current();
    exchange.open(asyncjob::waker_fn(move || here.unpark()));
    while exchange.arm() {
        while !exchange.woken() {
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
