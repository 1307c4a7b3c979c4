//! Random histories of calls, each read from bytes and compared with a model.
//!
//! `tests/random_histories.rs` runs them on every `cargo test`, and `fuzz/` lets a fuzzer look for bytes that lead to
//! new code.

pub(crate) mod jobs;
pub(crate) mod scheduler;
