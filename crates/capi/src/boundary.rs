//! The edge between Rust and C: nothing unwinds across it.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls `f`; a panic (a bug of ours: the panic hook has reported it) becomes `otherwise`.
///
/// The two hot functions, start and pause, do without: their way through the switch has nothing that panics, and a frame more
/// on it is one more mispredicted return. Should a panic come after all, `extern "C"` ends the process rather than let it pass.
pub(crate) fn guarded<R>(otherwise: R, f: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or(otherwise)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_the_error_value() {
        assert_eq!(guarded(0, || panic!("a bug")), 0);
        assert_eq!(guarded(0, || 1), 1);
    }
}
