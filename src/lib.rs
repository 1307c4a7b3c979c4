//! Runs synchronous code asynchronously: OpenSSL's `ASYNC_JOB` model on guarded stacks.
//!
//! A **job** is a closure on a stack of its own. Code deep inside the job that has to wait (for a key in an HSM, a
//! socket, another thread) pauses the job. Control goes back to the code that runs the job, which does other things and
//! resumes the job when what it waits for has happened. The code in between, such as a TLS library that signs
//! synchronously, notices nothing.
//!
//! ```
//! use std::sync::{Arc, Barrier};
//!
//! use asyncjob::offload::Offload;
//! use asyncjob::scheduler::Scheduler;
//!
//! let key_threads = Offload::new(3)?; // where the slow key lives: an HSM session each, say
//! let barrier = Arc::new(Barrier::new(3)); // this "key" answers only when three ask at once
//! let scheduler = Scheduler::new()?;
//!
//! let mut jobs = Vec::new();
//! for name in ["alice", "bob", "carol"] {
//!     let (key, barrier) = (key_threads.clone(), Arc::clone(&barrier));
//!     jobs.push(scheduler.spawn(move || {
//!         // A plain blocking call, as deep in a TLS library as you like. It pauses this job and blocks no thread.
//!         key.run(move || {
//!             barrier.wait();
//!             format!("signed for {name}")
//!         })
//!     })?);
//! }
//!
//! scheduler.run()?; // three calls that block, at once, from one thread
//! for (job, name) in jobs.into_iter().zip(["alice", "bob", "carol"]) {
//!     assert_eq!(job.join()??, format!("signed for {name}"));
//! }
//! # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
//! ```
//!
//! # What do you want to do?
//!
//! | to | use |
//! |---|---|
//! | call something that blocks, without blocking the thread | [`offload`] |
//! | read and write sockets | [`io`] |
//! | await a future in synchronous code | [`waiting::await_future`] |
//! | wait for a device or a thread of your own, as an engine does | [`waiting::pause_until`] |
//! | sleep, or put a deadline around a whole closure | [`time`] |
//! | run many jobs on this thread, or on several | [`Scheduler`](scheduler::Scheduler), [`Workers`](scheduler::Workers) |
//! | run a job on an async runtime | [`JobFuture`](job_future::JobFuture), [`in_job`], the crate `asyncjob-tokio` |
//! | drive jobs by hand, as a C program does | [`start_job`], [`pause_job`], [`Job::resume`], [`WaitCtx`] |
//! | limit the number of jobs, choose their stacks | [`pool`], [`stack`] |
//! | have thread state travel with a job | [`hooks`] |
//!
//! # The guide
//!
//! | you ask | page |
//! |---|---|
//! | What is a job, and when do I use one? When not? | [jobs] |
//! | How do I run blocking code on tokio? | [tokio] |
//! | How do I serve TLS with a key in an HSM? | [hsm] |
//! | How do I use an OpenSSL engine from tokio? | [openssl-engine] |
//! | How do I put the scheduler into my own event loop? | [embed] |
//! | How do I write an engine? | [engine] |
//! | How do I bound the number of jobs, and wait when there are too many? | [bound] |
//! | How do I cancel a job, or give it a time limit? | [cancel] |
//! | How large must a stack be? | [stack-size] |
//! | What must I not hold across a pause? | [across-a-pause] |
//! | May my server fork its workers? | [fork] |
//! | What do OpenSSL's functions correspond to in Rust? | [from-c] |
//! | My server hangs. What now? | [hang] |
//! | What do my jobs do, in numbers? | [numbers] |
//! | Which job ran when, and what kept the others? | [timeline] |
//! | What do the benchmark's numbers mean for me? | [benchmark] |
//!
//! [jobs]: https://github.com/asyncjob/asyncjob/blob/HEAD/docs/guide/jobs.md
//! [tokio]: https://github.com/asyncjob/asyncjob/blob/HEAD/docs/guide/tokio.md
//! [hsm]: https://github.com/asyncjob/asyncjob/blob/HEAD/docs/guide/hsm.md
//! [openssl-engine]: https://github.com/asyncjob/asyncjob/blob/HEAD/docs/guide/openssl-engine.md
//! [embed]: https://github.com/asyncjob/asyncjob/blob/HEAD/docs/guide/embed.md
//! [engine]: https://github.com/asyncjob/asyncjob/blob/HEAD/docs/guide/engine.md
//! [bound]: https://github.com/asyncjob/asyncjob/blob/HEAD/docs/guide/bound.md
//! [cancel]: https://github.com/asyncjob/asyncjob/blob/HEAD/docs/guide/cancel.md
//! [stack-size]: https://github.com/asyncjob/asyncjob/blob/HEAD/docs/guide/stack-size.md
//! [across-a-pause]: https://github.com/asyncjob/asyncjob/blob/HEAD/docs/guide/across-a-pause.md
//! [fork]: https://github.com/asyncjob/asyncjob/blob/HEAD/docs/guide/fork.md
//! [from-c]: https://github.com/asyncjob/asyncjob/blob/HEAD/docs/guide/from-c.md
//! [hang]: https://github.com/asyncjob/asyncjob/blob/HEAD/docs/guide/hang.md
//! [numbers]: https://github.com/asyncjob/asyncjob/blob/HEAD/docs/guide/numbers.md
//! [timeline]: https://github.com/asyncjob/asyncjob/blob/HEAD/docs/guide/timeline.md
//! [benchmark]: https://github.com/asyncjob/asyncjob/blob/HEAD/docs/guide/benchmark.md
//!
//! # How the parts fit together
//!
//! ```text
//!    inside a job (pauses it)               |            outside (resumes it)
//!                                           |
//!       io   time   offload   yours         |   Scheduler   JobFuture   asyncjob-tokio   a C program
//!         \     |      |      /              |       \        |         /          (crates/capi)
//!          v    v      v     v              |        v       v        v
//!               waiting                     |
//!                  \                        |                /
//!                   `---->    wait ctx   +  job   <---------'
//!                                 |          |
//!                                 |         pool -> stack
//! ```
//!
//! The two sides meet in two places: the **job** (the switch) and the **wait ctx** (what the job waits for). Code that
//! pauses a job does not know what will resume it, and code that resumes a job does not know why it paused. So
//! everything on the left works under every driver on the right: the scheduler of this crate, tokio, a loop around
//! `poll(2)`, or a loop that resumes jobs again and again.
//!
//! [`docs::openssl_behaviour`] lists what OpenSSL's jobs do, number by number, and what this crate does for each
//! number. These crates come with this one:
//!
//! * `asyncjob-capi` has OpenSSL's C interface, for `LD_PRELOAD`.
//! * `asyncjob-tokio` runs jobs on tokio.
//! * `asyncjob-rustls` makes TLS handshakes of rustls asynchronous in their private key.
//! * `asyncjob-openssl` does so for OpenSSL, its engines and its providers; `asyncjob-capi-lib` is what it stands on.
//! * `asyncjob-bench` measures what a switch costs, next to other libraries.
//!
//! # Features
//!
//! Each only adds something, and none is on unless you ask for it.
//!
//! | feature | adds |
//! |---|---|
//! | `insight` | the module `insight`: every job of the process with its stack, on one page, as text or JSON |
//! | `metrics` | `insight::Numbers::export`: counts, queues and times through the facade of the crate `metrics` |
//! | `tracing` | `hooks::Spans`: each job has a span of `tracing`, with its waits as events; its spans and its subscriber travel with it |
//! | `sanitizer` | tells AddressSanitizer of each switch, in a build with `-Zsanitizer=address` |
//!
//! # What dropping does
//!
//! Everything that stands for a job cancels the job when it is dropped: a [`Job`], a
//! [`JoinHandle`](scheduler::JoinHandle), a [`JobFuture`](job_future::JobFuture), and a
//! [`Scheduler`](scheduler::Scheduler) with all of its jobs. The pause of a cancelled job fails, and the job returns
//! through its own code. [`JoinHandle::detach`](scheduler::JoinHandle::detach) lets a job go on by itself.
//!
//! # What may go to another thread
//!
//! A job stays on the thread that starts it. So [`Job`], [`JobFuture`](job_future::JobFuture),
//! [`Scheduler`](scheduler::Scheduler) and [`LocalHandle`](scheduler::LocalHandle) are neither `Send` nor `Sync`. A
//! [`WaitCtx`], a [`Handle`](scheduler::Handle), the [`Workers`](scheduler::Workers) and all errors are both. A
//! [`JoinHandle`](scheduler::JoinHandle) and [`io::Pausing`] are, if what is in them is.
//!
//! # What belongs to the whole process
//!
//! * The handler of `SIGSEGV` and `SIGBUS` that names a job whose stack overflows. A scheduler installs it unless its
//!   [builder](scheduler::SchedulerBuilder::overflow_handler) is told not to. [`stack::install_overflow_handler`]
//!   installs it by hand.
//! * A handler of `pthread_atfork(3)` that counts forks, so that a child does not disturb its parent: [`docs::fork`].
//! * Idle stacks that threads have left for each other: [`stack::set_max_cached`] and
//!   [`stack::set_idle_time`].
//!
//! # What the compiler cannot check
//!
//! * **Thread-locals around a pause.** Other code runs on the thread while a job is paused. [`pause_job`] says what
//!   that means for lock guards and `RefCell` borrows. [`docs::soundness`] says what safe code could still do.
//! * **The stack.** It has 256 KiB unless you choose another size, and ends in a guard. A job that goes deeper causes a
//!   fault, which the overflow handler explains, and corrupts no memory.
//! * **No Miri and no shadow stacks.** The switch is assembly, as in corosensei.
//!
//! # When a server hangs
//!
//! [`docs::hang`] says how to see every parked job of a process, and how to read what you see.
//!
//! # Where unsafe is
//!
//! Unsafe code is denied in the crate. It is allowed in the modules that say why on their `mod` line: `job`, `stack`,
//! `sys`, and in the handles, the callback, the values and the lock of a wait ctx. `wait_ctx` also has an `unsafe fn`
//! with a safe body, [`WaitCtx::add_raw_wait_fd`], and its form for the C interface.

#![warn(missing_debug_implementations)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![doc(html_root_url = "https://docs.rs/asyncjob/latest")] // for the links of the other crates

// build.rs refuses targets that are not supported.
#[macro_use]
mod guide;

mod bridge;
pub mod docs;
mod error;
pub mod hooks;
#[cfg(feature = "insight")]
pub mod insight;
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
#[doc(hidden)] // for asyncjob-capi-lib
pub use job::c_interface;
pub use job::{
    BlockPause, CurrentJob, ForbiddenPause, Job, JobBuilder, JobId, NoPause, Step, block_pause, capture_backtraces,
    current_job, current_job_id, is_capable, no_pause, on_forbidden_pause, pause_job, start_job,
};
pub use returned::Returned;
#[doc(hidden)] // for asyncjob-tokio
pub use sys::{FORKED, Process};
pub use wait_ctx::{Changes, Interest, Status, WaitCtx, WaitFd, WaitFdOptions, WaitKey, WaitValue, Wants, waker_fn};
#[doc(hidden)] // for asyncjob-capi-lib
pub use wait_ctx::{Fd, Locked, Record, WeakWaitCtx};

/// The README's program compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The programs of the guide compile and run. Those of its other pages are tested in the crate that they use.
#[cfg(doctest)]
mod guide_programs {
    #[doc = include_str!("../docs/guide/across-a-pause.md")]
    struct AcrossAPause;
    #[doc = include_str!("../docs/guide/engine.md")]
    struct Engine;
    #[doc = include_str!("../docs/guide/fork.md")]
    struct Fork;
    #[doc = include_str!("../docs/guide/from-c.md")]
    struct FromC;
    #[doc = include_str!("../docs/guide/jobs.md")]
    struct Jobs;
    #[doc = include_str!("../docs/guide/stack-size.md")]
    struct StackSize;
    #[cfg(feature = "insight")]
    #[doc = include_str!("../docs/guide/hang.md")]
    struct Hang;
    #[cfg(feature = "insight")]
    #[doc = include_str!("../docs/guide/numbers.md")]
    struct Numbers;
    #[cfg(feature = "insight")]
    #[doc = include_str!("../docs/guide/timeline.md")]
    struct Timeline;
}
