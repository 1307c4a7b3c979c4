//! What threads cost, and what a system call costs, which every hand-over through the kernel contains.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::machine::Cores;
use crate::measure::Candidate;

/// The cheapest system call: into the kernel and back.
pub(crate) fn system_call(name: &str) -> Candidate {
    Candidate::new(name, |n| {
        let clock = Instant::now();
        for _ in 0..n {
            // SAFETY: the call takes no argument and cannot fail.
            unsafe { libc::syscall(libc::SYS_getppid) };
        }
        clock.elapsed()
    })
}

/// `thread::spawn` to `join`.
pub(crate) fn life(name: &str) -> Candidate {
    Candidate::new(name, |n| {
        let clock = Instant::now();
        for _ in 0..n {
            thread::spawn(|| ()).join().expect("it does not panic");
        }
        clock.elapsed()
    })
}

/// Two threads hand over to each other and back, both on this processor, through `thread::park`.
pub(crate) fn park_one_core(name: &str) -> Candidate {
    Candidate::new(name, |n| hand_over(n, None, Parked::default()))
}

/// As `park_one_core`, through a mutex and a condition variable.
pub(crate) fn condvar_one_core(name: &str) -> Candidate {
    Candidate::new(name, |n| hand_over(n, None, Signalled::default()))
}

/// As `condvar_one_core`, with the other thread on another processor, which sleeps in between.
pub(crate) fn condvar_two_cores(name: &str, cores: Cores) -> Candidate {
    Candidate::new(name, move |n| hand_over(n, Some(cores.other), Signalled::default()))
}

/// As `condvar_two_cores`, with both threads spinning: what the caches alone cost.
pub(crate) fn spin_two_cores(name: &str, cores: Cores) -> Candidate {
    Candidate::new(name, move |n| hand_over(n, Some(cores.other), Spun::default()))
}

/// A counter that one thread advances to odd numbers and the other to even ones.
trait Turn: Send + Sync + 'static {
    /// Waits until the counter is `value`.
    fn wait(&self, value: u64);
    /// Sets the counter, and wakes `other`.
    fn set(&self, value: u64, other: &thread::Thread);
}

fn hand_over(n: u64, core: Option<usize>, turn: impl Turn) -> Duration {
    let turn = Arc::new(turn);
    let here = thread::current();
    let theirs = Arc::clone(&turn);
    let other = thread::spawn(move || {
        if let Some(core) = core {
            crate::machine::pin(core);
        }
        for round in 0..=n {
            theirs.wait(2 * round + 1);
            theirs.set(2 * round + 2, &here);
        }
    });
    let there = other.thread().clone();
    turn.set(1, &there); // after this round the thread runs
    turn.wait(2);
    let clock = Instant::now();
    for round in 1..=n {
        turn.set(2 * round + 1, &there);
        turn.wait(2 * round + 2);
    }
    let took = clock.elapsed();
    other.join().expect("it does not panic");
    took
}

#[derive(Default)]
struct Parked(AtomicU64);

impl Turn for Parked {
    fn wait(&self, value: u64) {
        while self.0.load(Ordering::Acquire) != value {
            thread::park();
        }
    }

    fn set(&self, value: u64, other: &thread::Thread) {
        self.0.store(value, Ordering::Release);
        other.unpark();
    }
}

#[derive(Default)]
struct Signalled {
    value: Mutex<u64>,
    changed: Condvar,
}

impl Turn for Signalled {
    fn wait(&self, value: u64) {
        let seen = self.value.lock().expect("no thread panics with the lock");
        drop(
            self.changed
                .wait_while(seen, |seen| *seen != value)
                .expect("no thread panics with the lock"),
        );
    }

    fn set(&self, value: u64, _: &thread::Thread) {
        *self.value.lock().expect("no thread panics with the lock") = value;
        self.changed.notify_one();
    }
}

#[derive(Default)]
struct Spun(AtomicU64);

impl Turn for Spun {
    fn wait(&self, value: u64) {
        while self.0.load(Ordering::Acquire) != value {
            spin_loop();
        }
    }

    fn set(&self, value: u64, _: &thread::Thread) {
        self.0.store(value, Ordering::Release);
    }
}
