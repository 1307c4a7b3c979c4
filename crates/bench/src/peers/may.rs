//! The `may` crate: coroutines on worker threads of its own. One worker here, on the processor that everything runs on.

use std::sync::Once;
use std::time::{Duration, Instant};

use may::coroutine;

use crate::depth::pause_often;
use crate::measure::Candidate;

/// Yield and being run again, of the only coroutine that is ready.
pub(crate) fn switch(name: &str, job_frames: u32) -> Candidate {
    configure();
    match job_frames {
        0 => Candidate::new(name, yields::<0>),
        4 => Candidate::new(name, yields::<4>),
        8 => Candidate::new(name, yields::<8>),
        other => unreachable!("no code for {other} frames: add a line here"),
    }
}

/// Spawn to join, both inside may: from a coroutine that waits for the one that it spawned.
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

/// Runs `work` on the worker, so that crossing to it is outside the clock.
fn on_worker(work: impl FnOnce() -> Duration + Send + 'static) -> Duration {
    spawn(work).join().expect("it does not panic")
}

fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> coroutine::JoinHandle<T> {
    // SAFETY: the closures of this file use no thread-local and little stack, which is what `spawn` asks for.
    unsafe { coroutine::spawn(work) }
}

/// Before the first coroutine: may starts its workers once and for ever.
fn configure() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        may::config()
            .set_workers(1)
            .set_stack_size(super::bare::STACK / size_of::<usize>());
    });
}
