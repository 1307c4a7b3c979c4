//! The peers, one file each.

pub(crate) mod bare;
#[allow(unsafe_code, reason = "calls into a C++ shim")]
pub(crate) mod boost;
pub(crate) mod crypto;
#[allow(unsafe_code, reason = "calls ASYNC_* through pointers found at run time")]
#[allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "it does what a C program does, call after call, under one promise"
)]
pub(crate) mod engine;
pub(crate) mod generator;
#[allow(unsafe_code, reason = "eventfd and epoll")]
pub(crate) mod kernel;
pub(crate) mod latency;
#[allow(unsafe_code, reason = "calls ASYNC_* through pointers found at run time")]
pub(crate) mod libcrypto;
#[allow(unsafe_code, reason = "may::coroutine::spawn is unsafe")]
pub(crate) mod may;
pub(crate) mod ours;
#[allow(unsafe_code, reason = "raw mappings instead of stacks")]
pub(crate) mod pages;
pub(crate) mod polls;
pub(crate) mod scheduled;
pub(crate) mod smol;
#[allow(unsafe_code, reason = "a bare system call, a futex")]
pub(crate) mod threads;
#[allow(unsafe_code, reason = "AsyncFd::register")]
pub(crate) mod tokio;
#[allow(unsafe_code, reason = "makecontext and swapcontext")]
pub(crate) mod ucontext;
