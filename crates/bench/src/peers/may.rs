//! The `may` crate: coroutines on worker threads of its own. It has one worker here, on the processor of the run.

use std::sync::Once;
use std::time::{Duration, Instant};

use may::coroutine;

use crate::depth::pause_often;
use crate::measure::Candidate;

/// `yield_now` of the only coroutine that is ready.
pub(crate) fn switch(name: &str, job_frames: u32) -> Candidate {
    configure();
    match job_frames {
        0 => Candidate::new(name, yields::<0>),
        4 => Candidate::new(name, yields::<4>),
        8 => Candidate::new(name, yields::<8>),
        other => unreachable!("no code for {other} frames: add a line here"),
    }
}

/// Spawn to join, both inside may: a coroutine waits for the one that it spawned.
pub(crate) fn life(name: &str) -> Candidate {
    configure();
    Candidate::new(name, |n| {
        on_worker(move || {
            let clock = Instant::now();
            for _ in 0..n {
                spawn(|| ()).join().expect("it does not panic");
            }
            clock.elapsed()
        })
    })
}

fn yields<const FRAMES: u32>(n: u64) -> Duration {
    on_worker(move || {
        let clock = Instant::now();
        pause_often::<FRAMES>(n, coroutine::yield_now);
        clock.elapsed()
    })
}

/// Runs `work` on the worker, so that the clock does not count the way to the worker.
fn on_worker(work: impl FnOnce() -> Duration + Send + 'static) -> Duration {
    spawn(work).join().expect("it does not panic")
}

fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> coroutine::JoinHandle<T> {
    // SAFETY: `spawn` wants closures that use no thread-local and little stack, as those of this file do.
    unsafe { coroutine::spawn(work) }
}

/// Called before the first coroutine, because may starts its workers once.
fn configure() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        may::config()
            .set_workers(1)
            .set_stack_size(super::bare::STACK / size_of::<usize>());
    });
}
