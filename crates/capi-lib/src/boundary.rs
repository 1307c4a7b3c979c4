//! The boundary between Rust and C: no panic unwinds across it.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls `f`. If `f` panics, which is a bug of this library, the panic hook reports it and `otherwise` is returned.
///
/// The two hot functions, start and pause, do without this. Their way through the switch contains no panic, and one
/// more frame on that way costs one more mispredicted return. If a panic comes after all, `extern "C"` ends the process
/// before the panic reaches C.
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
