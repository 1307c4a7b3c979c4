//! Looks for a history of jobs that differs from the model: see `tests/histories/jobs.rs`.
#![no_main]

#[allow(dead_code, reason = "each target uses one of the histories")]
#[path = "../../tests/histories/mod.rs"]
mod histories;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| histories::jobs::run(bytes));
