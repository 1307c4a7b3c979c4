//! Takes the place of `trace.rs` on processors whose calls and returns it does not know.

use crate::peer::Absent;

/// As in `trace.rs`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) instructions: f64,
    pub(crate) mispredicted: f64,
    pub(crate) system_calls: f64,
    pub(crate) allocations: f64,
}

/// Always fails, with the reason.
pub(crate) fn per_operation(_: impl Fn(u64) -> Vec<String>, _: u64) -> Result<Counts, Absent> {
    Err(Absent::new("counted on x86-64 only"))
}

/// Does nothing: no process traces this one.
pub(crate) fn mark() {}
