//! The C ABI of OpenSSL's ASYNC_JOB: a drop-in by LD_PRELOAD or by linking.
#![allow(
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
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
