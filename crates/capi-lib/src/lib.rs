//! OpenSSL's `ASYNC_JOB` on the jobs of [`asyncjob`]: the 22 functions of `<openssl/async.h>`.
//!
//! A Rust program that uses OpenSSL, through the crate `openssl` say, and depends on this crate has one kind of job. An
//! engine or a provider in C that runs in a job of the program pauses that job, and what it waits for is what the
//! scheduler, the `JobFuture` or tokio wakes the job for. Rust code in a job that C code has started with
//! `ASYNC_start_job` pauses that one, and finds the program's wait ctx in it. The crate `asyncjob-openssl` has TLS
//! connections on top of this.
//!
//! # What a program has to do
//!
//! Depend on the crate, and export its functions from the executable, with this line in `build.rs`:
//!
//! ```
//! println!(
//!     "cargo::rustc-link-arg=-Wl,--export-dynamic-symbol=ASYNC_*,--export-dynamic-symbol=OPENSSL_thread_stop,\
//!      --export-dynamic-symbol=OSSL_LIB_CTX_set0_default"
//! );
//! ```
//!
//! Then [`check`] at the start of the program says whether OpenSSL really binds to this crate, and what to do
//! otherwise. Out of reach is OpenSSL that is linked statically (the feature `vendored` of the crate `openssl`),
//! because no call in it passes through the loader. The linker refuses such a program: it finds `ASYNC_*` twice.
//!
//! # What C code sees in a job of Rust code
//!
//! | function | in a job that Rust code started |
//! |---|---|
//! | `ASYNC_get_current_job`, `ASYNC_get_wait_ctx` | the job, and its [`WaitCtx`](asyncjob::WaitCtx) |
//! | `ASYNC_WAIT_CTX_set_wait_fd`, `_clear_fd`, `_set_status` | change that ctx: its driver waits for the fd |
//! | `ASYNC_WAIT_CTX_get_callback` | a function that wakes the driver, if the driver has set a callback |
//! | `ASYNC_pause_job` | pauses the job. Returns 0 if the job was cancelled, at once from then on |
//! | `ASYNC_block_pause`, `ASYNC_unblock_pause` | count for this job, beside the guards of Rust code |
//! | `ASYNC_start_job` with its handle | fails: only Rust code resumes it |
//! | `ASYNC_WAIT_CTX_free` of its ctx | does nothing: Rust code drops it. The cleanups of its fds are called then |
//!
//! A handle of a job becomes stale at the end of the job, and that of a ctx when Rust code has dropped the ctx. Stale
//! handles do no harm. `ASYNC_start_job` in a job of Rust code starts a job in a job, as it does in a job of C code.
//!
//! The default library context and the C++ exceptions of a thread travel with the jobs that C code starts. To have
//! other state travel with a job of Rust code, give it [hooks](asyncjob::hooks).
//!
//! A deadline that Rust code sets in a job that C code started is not seen by C code, which knows fds, a callback and a
//! status.
//!
//! # The parts
//!
//! ```text
//!   C program, libssl, engine
//!      |
//!      | ASYNC_*
//!      v
//!     job ------> thread ------> library_context ------> libcrypto ...... the libcrypto of the process, or none
//!      |            |
//!      |            v
//!      +--------> slots -------> wait_ctx -------------> handle
//!                                   '------> of_rust -------^
//!
//!     stack_memory                                       boundary: below every module that C calls
//! ```
//!
//! An arrow leads from a module to one that it imports; not all are drawn. `tests/modules.rs` checks that no imports
//! form a circle.
//!
//! | module | is |
//! |---|---|
//! | [`job`] | `ASYNC_start_job`, `ASYNC_pause_job` and what is called in or about a job |
//! | [`thread`] | `ASYNC_init_thread`, `ASYNC_cleanup_thread`, the end of a thread, the functions that we interpose |
//! | [`wait_ctx`] | `ASYNC_WAIT_CTX_*` |
//! | [`stack_memory`] | `ASYNC_set_mem_functions`, `ASYNC_get_mem_functions` |
//! | `of_rust` | the wait ctxs of Rust code, as C code sees them |
//! | `slots` | what is known of each job outside its stack, and which thread owns it |
//! | `ctx_slots` | the wait ctxs of C programs, in use and free |
//! | `handle` | handles of jobs and wait ctxs, which may be stale without harm |
//! | `travelling` | what of a thread travels with its jobs: the two that follow |
//! | `library_context` | the default `OSSL_LIB_CTX` of each job |
//! | `exceptions` | the C++ exceptions that each job handles |
//! | `dump` | the paused jobs on a signal, with the feature `dump` |
//! | `libcrypto` | the libcrypto of the process, found at run time |
//! | `binding` | whether OpenSSL reaches these functions |
//! | `boundary` | no panic crosses into C |
//!
//! C programs do what the types of `asyncjob` forbid. They resume a job twice, on another thread, or after its end, and
//! free a wait ctx under its job. Everything that a program holds is therefore a handle that is looked up, and this
//! library reaches no object through a pointer that a program could have kept too long.
//!
//! A number such as S42 names a behaviour of OpenSSL. `docs/openssl-behaviour.md` at the root of the repository defines
//! the numbers, and says what this library does in each case. The README of `asyncjob-capi` has a table of the
//! differences, with the programs that show each, and says what a call costs.
#![allow(
    non_camel_case_types,
    non_snake_case,
    reason = "the names are those of <openssl/async.h>"
)]

mod binding;
mod boundary;
mod ctx_slots;
#[cfg(feature = "dump")]
#[allow(
    unsafe_code,
    reason = "a constructor, pthread_atfork, a signal's action, and fds that the program may close"
)]
mod dump;
#[allow(unsafe_code, reason = "reaches the exception state of the C++ runtime")]
mod exceptions;
#[allow(unsafe_code, reason = "pthread_atfork")]
mod fork;
#[allow(unsafe_code, reason = "turns handles into references to memory that is never freed")]
mod handle;
#[allow(
    unsafe_code,
    reason = "the C interface: raw pointers in and out, functions of the program's"
)]
pub mod job;
#[allow(unsafe_code, reason = "finds and calls functions of libcrypto")]
mod libcrypto;
#[allow(unsafe_code, reason = "calls functions of libcrypto that have contracts")]
mod library_context;
mod of_rust;
#[allow(
    unsafe_code,
    reason = "shares cells between threads: only the thread that owns a slot reaches them"
)]
mod slots;
#[allow(unsafe_code, reason = "the C interface: functions of the program's")]
pub mod stack_memory;
#[allow(unsafe_code, reason = "interposes functions of libcrypto; pthread keys")]
pub mod thread;
#[allow(unsafe_code, reason = "sets library contexts that have contracts")]
mod travelling;
#[allow(
    unsafe_code,
    reason = "the C interface: raw pointers in and out, functions of the program's"
)]
pub mod wait_ctx;

pub use binding::{NotBound, check};
pub use slots::forgotten_jobs;
