//! Looks for a history of a scheduler that differs from the model: see `tests/histories/scheduler.rs`.
#![no_main]

#[allow(dead_code, reason = "each target uses one of the histories")]
#[path = "../../tests/histories/mod.rs"]
mod histories;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| histories::scheduler::run(bytes));
