//! Random histories of calls, each read from bytes and compared with a model.
//!
//! `tests/random_histories.rs` runs them on every `cargo test`, and `fuzz/` lets a fuzzer look for bytes that lead to
//! new code.

pub(crate) mod jobs;
pub(crate) mod scheduler;

/// The bytes of a history. Each act takes what it needs from the front.
pub(crate) struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Script(bytes)
    }

    /// The next byte, or `None` at the end of the history.
    pub(crate) fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A number below `limit`; 0 at the end of the history.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::from(self.next().unwrap_or(0)) % limit
    }
}
