//! Runs synchronous-looking code asynchronously: OpenSSL's ASYNC_JOB model on guarded stacks.
//!
//! A **job** is a closure on a stack of its own. Somewhere deep inside it, code that has to wait (for a key in an HSM, a
//! socket, another thread) writes the reason into the job's **wait ctx** and calls [`pause_job`]. Control goes back to
//! whoever started the job, who does other things and resumes the job when the reason is gone. The code in between, a
//! TLS library that signs synchronously, say, notices nothing.
//!
//! ```
//! use asyncjob::scheduler::Scheduler;
//! use asyncjob::{current_job, pause_job};
//! use std::sync::mpsc;
//!
//! // Something slow, on another thread: here, one that doubles what it gets.
//! let (requests, slow) = mpsc::channel::<(u64, asyncjob::WaitCtx, mpsc::Sender<u64>)>();
//! std::thread::spawn(move || {
//!     for (number, ctx, reply) in slow {
//!         reply.send(2 * number).unwrap();
//!         ctx.callback().unwrap().wake(); // resumes the job
//!     }
//! });
//!
//! // Synchronous code, which does not know whether it runs in a job.
//! let double = move |number: u64| {
//!     let ctx = current_job().unwrap().wait_ctx().clone();
//!     let (reply, result) = mpsc::channel();
//!     ctx.set_status(asyncjob::Status::Ok); // a callback will come
//!     requests.send((number, ctx, reply)).unwrap();
//!     loop {
//!         match result.try_recv() {
//!             Ok(doubled) => return doubled,
//!             Err(_) => pause_job().unwrap(),
//!         };
//!     }
//! };
//!
//! let scheduler = Scheduler::new()?;
//! let jobs: Vec<_> = (1..=3)
//!     .map(|n| {
//!         let double = double.clone();
//!         scheduler.spawn(move || double(n)).unwrap()
//!     })
//!     .collect();
//! scheduler.run()?; // three jobs at once, on this thread
//! let doubled: Vec<u64> = jobs.into_iter().map(|job| job.join().unwrap()).collect();
//! assert_eq!(doubled, [2, 4, 6]);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # The one picture
//!
//! ```text
//!    inside a job (pauses it)               |            outside (resumes it)
//!                                           |
//!    io   time   offload   future::await_   |  Scheduler   JobFuture   asyncjob-tokio   a C program
//!             \     |      /                |          \       |        /          (crates/capi)
//!              v    v     v                 |           v      v       v
//!                             wait_ctx  +   job
//!                                 |         |
//!                                 |        pool -> stack
//! ```
//!
//! The two sides meet in two places: the **job** (the switch) and the **wait ctx** (the reason). What pauses a job never
//! knows who will resume it, and what resumes it never knows why it paused. So [`io`], [`time`], [`offload`] and [`waiting`]
//! work under every driver: our scheduler, tokio, a loop around `poll(2)`, or a loop that just resumes.
//!
//! # The rooms, in the order in which to visit them
//!
//! | module | what it is | start with |
//! |---|---|---|
//! | [`job`] | code on a stack of its own, which can pause | [`start_job`], [`pause_job`], [`Job::resume`] |
//! | [`wait_ctx`] | what a job waits for: fds, a callback, a status, a deadline | [`WaitCtx`] |
//! | [`pool`] | the stacks that a thread keeps, and their limit | [`init_thread`] |
//! | [`stack`] | the memory below: guards, overflow reports, secrets, depth | [`install_overflow_handler`] |
//! | [`hooks`] | thread state that travels with a job | [`SwitchHooks`] |
//! | [`scheduler`] | resumes each job when what it waits for happens | [`Scheduler`](scheduler::Scheduler) |
//! | [`io`] | inside a job: sockets that pause instead of blocking | [`io::Pausing`] |
//! | [`time`] | inside a job: sleep, and deadlines for a whole closure | [`time::sleep`] |
//! | [`offload`] | inside a job: work on other threads | [`offload::Offload`] |
//! | [`waiting`] | futures in jobs, jobs as futures | [`waiting::await_future`], [`job_future::in_job`] |
//! | [`error`] | the ways to get no value, by who can act | |
//!
//! Two that are not public: `waiting` is the loop that everything of ours that pauses waits in, and `sys` is the system
//! calls. `tests/layers.rs` holds which module may use which.
//!
//! Beside this crate: `asyncjob-capi` (OpenSSL's C interface, for `LD_PRELOAD`), `asyncjob-tokio`, `asyncjob-rustls`, and
//! `asyncjob-bench` (what a switch costs, next to everybody else's).
//!
//! # What the compiler cannot check
//!
//! * **Thread-locals around a pause.** Other code runs on the thread while a job is paused. See [`pause_job`] for what that
//!   means for lock guards, `RefCell`s and `scoped_tls`, and [`block_pause`] and [`SwitchHooks`] for what to do about it.
//! * **Thread-locals of a job.** A job must end before its thread's locals are destroyed: do not keep a paused job in a
//!   thread-local whose destructor runs last.
//! * **The stack.** It is 256 KiB unless you choose, with a guard: deeper is a fault that
//!   [`install_overflow_handler`] explains, not corruption.
//! * No Miri (the switch is assembly) and no shadow stacks, as in corosensei.
//!
//! # Where unsafe is
//!
//! Denied in the crate, allowed in the modules that say why on their `mod` line below: `job`, `stack`, `sys`.

#![warn(missing_debug_implementations)]

mod bridge;
mod error;
pub mod hooks;
pub mod io;
#[allow(
    unsafe_code,
    reason = "switches stacks and keeps each job's control block on its own stack"
)]
mod job;
pub mod job_future;
pub mod offload;
pub mod pool;
mod returned;
pub mod scheduler;
#[allow(unsafe_code, reason = "maps, guards and hands out raw memory")]
pub mod stack;
mod sync;
#[allow(unsafe_code, reason = "calls the system")]
mod sys;
pub mod time;
mod wait_ctx;
pub mod waiting;

pub use bridge::in_job;
pub use error::{
    Cancelled, Interrupted, Panic, PauseError, Quarantined, SpawnError, SpawnErrorKind, StartError, StartErrorKind,
};
pub use job::{
    BlockPause, CurrentJob, Job, JobBuilder, JobId, Step, block_pause, current_job, current_job_id, is_capable,
    pause_job, start_job,
};
pub use pool::{FreeJob, PoolConfig, PoolError, PoolStats, cleanup_thread, free_job, init_thread, pool_stats};
pub use returned::Returned;
pub use stack::{Secrets, StackSize, StackStats, install_overflow_handler, stack_stats};
pub use wait_ctx::{Changes, Interest, Status, WaitCtx, WaitFd, WaitFdOptions, WaitKey, Wants, waker_fn};

/// The README's program compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
