//! OpenSSL's `ASYNC_JOB` for C programs: the 22 functions of `<openssl/async.h>`, on the `asyncjob` library.
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
//! | `slots` | what is known of each job outside its stack, and which thread owns it |
//! | `handle` | handles of jobs and wait ctxs, which may be stale without harm |
//! | `library_context` | the default `OSSL_LIB_CTX` of each job |
//! | `exceptions` | the C++ exceptions that each job handles |
//! | `libcrypto` | the libcrypto of the process, found at run time |
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

mod boundary;
#[allow(unsafe_code, reason = "reaches the exception state of the C++ runtime")]
mod exceptions;
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
#[allow(
    unsafe_code,
    reason = "shares cells between threads: only the thread that owns a slot reaches them"
)]
mod slots;
#[allow(unsafe_code, reason = "the C interface: functions of the program's")]
pub mod stack_memory;
#[allow(unsafe_code, reason = "interposes functions of libcrypto; pthread keys")]
pub mod thread;
#[allow(
    unsafe_code,
    reason = "the C interface: raw pointers in and out, functions of the program's"
)]
pub mod wait_ctx;
