//! OpenSSL's `ASYNC_JOB` for C programs: the 22 functions of `<openssl/async.h>`, on the `asyncjob` library.
//!
//! ```text
//!   C program, libssl, engine                       libcrypto, if there is one
//!      |                                              ^  errors, library contexts, thread stop
//!      | ASYNC_*                                      |
//!      v                                              |
//!   job        wait_ctx        stack_memory  ---->  libcrypto, library_context
//!    |  \       /                    |
//!    |   handle                    (asyncjob::stack)
//!    v
//!   thread  ----  asyncjob::{start_job, pause_job, Job::resume}
//! ```
//!
//! | module | is |
//! |---|---|
//! | [`job`] | `ASYNC_start_job`, `ASYNC_pause_job` and what is called in or about a job |
//! | [`wait_ctx`] | `ASYNC_WAIT_CTX_*` |
//! | [`thread`] | `ASYNC_init_thread`, `ASYNC_cleanup_thread`, the end of a thread |
//! | [`stack_memory`] | `ASYNC_set_mem_functions`, `ASYNC_get_mem_functions` |
//! | `handle` | names that may go stale, for objects that stay |
//! | `libcrypto` | the libcrypto of the process, found at run time |
//! | [`library_context`] | the default `OSSL_LIB_CTX` of each job |
//! | `boundary` | no panic crosses into C |
//!
//! What the library's types forbid, C programs do: resume twice, on another thread, after the end; free a wait ctx under its job.
//! Everything that a program holds is therefore a handle that is looked up, and nothing here is reached through a pointer that
//! a program could have kept too long. The rules are those of the contract that the library's documentation cites by number
//! (S1 to S88); README.md has them as a table, with the programs that show each, and what a call costs.
//!
//! Linked with this crate as Rust there is nothing to use: it is built as a shared object and a static library only. Exports of
//! these names must not get into a Rust program by accident, since libssl would bind to them.
#![allow(
    non_camel_case_types,
    non_snake_case,
    reason = "the names are those of <openssl/async.h>"
)]

mod boundary;
#[allow(
    unsafe_code,
    reason = "turns what C carries around into references to memory that is never freed"
)]
mod handle;
#[allow(
    unsafe_code,
    reason = "the C interface: raw pointers in and out, functions of the program's"
)]
pub mod job;
#[allow(unsafe_code, reason = "finds and calls functions of libcrypto")]
mod libcrypto;
#[allow(unsafe_code, reason = "stands in for a function of libcrypto")]
pub mod library_context;
#[allow(unsafe_code, reason = "the C interface: functions of the program's")]
pub mod stack_memory;
#[allow(unsafe_code, reason = "stands in for a function of libcrypto; pthread keys")]
pub mod thread;
#[allow(
    unsafe_code,
    reason = "the C interface: raw pointers in and out, functions of the program's"
)]
pub mod wait_ctx;
