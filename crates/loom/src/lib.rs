//! The parts of `asyncjob` that threads share without a lock, with the atomics of loom instead of those of `std`.
//!
//! The sources are those of `asyncjob`, and so are the tests: each has its test for loom beside it. This is a crate of
//! its own because the atomics are chosen when a crate is built. `cargo test -p asyncjob-loom` runs it.

#[cfg(test)]
#[path = "../../../src/wait_ctx/published.rs"]
mod published;
