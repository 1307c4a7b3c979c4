//! The parts of `asyncjob` that threads share, with the atomics and the mutex of loom instead of those of `std` and
//! `parking_lot`.
//!
//! The sources are those of `asyncjob`: this crate includes them, and stands in for what they name. It is a crate of
//! its own because the atomics are chosen when a crate is built. `cargo test -p asyncjob-loom` runs every order of the
//! steps of two or three threads.
//!
//! | part | test | what no order may do |
//! |---|---|---|
//! | the sequence lock of a wait ctx | beside its source | give a reader words of two writes |
//! | the lock of a wait ctx, which its usual thread takes with plain stores | beside its source | let two threads change the ctx |
//! | the callback of a wait ctx, with a count for its usual thread | beside its source | free it too early, or never |
//! | the counts of the handles of a wait ctx | beside their source | renew a wait ctx that a handle leads to, or keep one |
//! | the slot for one value | `slots` | lose the value, the end, or the wake of the task that waits |
//! | the block of a spawned job, with its result | `blocks` | lose the result or the wake of the task that waits, or use a block that is freed |
//! | the line of tasks that wait for capacity | `lines` | leave a task in the line while there is capacity |
//! | the inbox of a scheduler and the waker of a job | `scheduler::inboxes` | let the scheduler sleep on a wake |
//! | a request to cancel | `scheduler::cancels` | lose the request beside the first pause of the job |
//! | the waker that the job of a future sees | `forwarding` | lose a wake while the task becomes another one |
//! | the queue of submissions | `scheduler::submissions` | leave a job in the queue while the workers sleep, or lose it |
//! | the closures that wait for a thread | `offload` | lose a closure or its value, run it twice, or keep a thread |
//! | the wake of a thread that blocks | `waiting` | let the thread sleep on a wake |

#[cfg(test)]
extern crate self as crossbeam_queue;
#[cfg(test)]
extern crate self as parking_lot;

/// What `asyncjob` has of `parking_lot`, and of `crossbeam_queue`.
#[cfg(test)]
pub use stand_ins::{Condvar, Mutex, MutexGuard, SegQueue};

#[cfg(test)]
#[macro_use]
#[path = "../../../src/guide.rs"]
mod guide;

#[cfg(test)]
mod blocks;
#[cfg(test)]
mod forwarding;
#[cfg(test)]
mod lines;
#[cfg(test)]
mod offload;
#[cfg(test)]
mod slots;
#[cfg(test)]
mod stand_ins;

#[cfg(test)]
#[path = "../../../src/wait_ctx/published.rs"]
mod published;

#[cfg(test)]
#[allow(
    dead_code,
    unsafe_code,
    reason = "counts the wakers of a callback, and frees what they call"
)]
#[path = "../../../src/wait_ctx/callback.rs"]
mod callback;

#[cfg(test)]
#[allow(dead_code, unsafe_code, reason = "counts references, and frees what they lead to")]
#[path = "../../../src/wait_ctx/counted.rs"]
mod counted;

#[cfg(test)]
#[allow(dead_code, unsafe_code, reason = "a lock, which lends out the value in it")]
#[path = "../../../src/wait_ctx/owner_lock.rs"]
mod owner_lock;

#[cfg(test)]
#[allow(dead_code, unsafe_code, reason = "raw memory; not all of it is run here")]
#[path = "../../../src/job/closure.rs"]
mod closure;

#[cfg(test)]
#[allow(
    dead_code,
    unexpected_cfgs,
    unsafe_code,
    reason = "raw memory, of which nothing is kept here; no feature"
)]
#[path = "../../../src/job/block_memory.rs"]
mod block_memory;

/// What closures ask of the job that runs: there is none.
#[cfg(test)]
mod current {
    use std::convert::Infallible;

    /// No job runs.
    pub(crate) struct Control(Infallible);

    impl Control {
        pub(crate) fn room(&self) -> usize {
            match self.0 {}
        }
    }

    pub(crate) fn with_current<R>(_: impl FnOnce(&Control) -> R) -> Option<R> {
        None
    }
}

#[cfg(test)]
#[allow(
    dead_code,
    unsafe_code,
    reason = "a block that two sides share and free; not all of it is run here"
)]
#[path = "../../../src/job/shared_closure.rs"]
mod shared_closure;

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "not all of it is run here")]
#[path = "../../../src/sync/mod.rs"]
mod sync;

#[cfg(test)]
use stand_ins::sys;

#[cfg(test)]
mod scheduler;
#[cfg(test)]
mod waiting;

/// What the submissions of a scheduler name of other modules.
#[cfg(test)]
use scheduler::named::{error, hooks, job, stack, wait_ctx};
