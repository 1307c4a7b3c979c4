//! How deep a job got: which pages of its stack are in memory, which the kernel knows and nobody needs to write down.
//!
//! A page that was touched stays resident until the stack gives its memory back, so the mark of a warm stack is that of the
//! deepest of the jobs that it has served. `mincore(2)` answers for many stacks in one call. Pages that were swapped out
//! do not count. Where whole pages are too coarse, unused stack is kept zero and the lowest word that is not zero is the mark
//! ([`lowest_used_word`]).

use std::io;

use super::memory::{Range, page};
use super::slab::Geometry;

/// Pages asked for in one call.
const AT_ONCE: usize = 1024;

/// Calls `visit` with the address of each page of the range and whether it is resident, lowest first, for as long as it
/// returns true. Usable in a signal handler if `visit` is.
pub(super) fn visit_pages(range: Range, mut visit: impl FnMut(usize, bool) -> bool) -> io::Result<()> {
    let mut answers = [0u8; AT_ONCE];
    let mut start = range.start;
    let end = range.start + range.len;
    while start < end {
        let len = (end - start).min(AT_ONCE * page());
        // SAFETY: the range is memory of ours and the vector has a byte for each of its pages.
        if unsafe { libc::mincore(start as *mut _, len, answers.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        for (index, answer) in answers[..len / page()].iter().enumerate() {
            if !visit(start + index * page(), answer & 1 != 0) {
                return Ok(());
            }
        }
        start += len;
    }
    Ok(())
}

/// How many bytes of a stack lie above its lowest resident page, that page included.
pub(super) fn resident_depth(stack: Range) -> usize {
    let mut depth = 0;
    // Without an answer nothing is known, which is what 0 says.
    let _ = visit_pages(stack, |address, resident| {
        if resident {
            depth = stack.start + stack.len - address;
        }
        !resident
    });
    depth
}

/// The largest [`resident_depth`] of the slots in `slots`: ranges of whole slots, each one or more side by side.
pub(super) fn deepest(slots: impl Iterator<Item = Range>, shape: Geometry) -> usize {
    let mut deepest = 0;
    for range in slots {
        let _ = visit_pages(range, |address, resident| {
            let within = (address - range.start) % shape.stride;
            if resident && within >= shape.guard {
                deepest = deepest.max(shape.stride - within);
            }
            true
        });
    }
    deepest
}

/// The lowest address from `start` on (a multiple of 8) whose word is not zero; `end` if there is none.
///
/// # Safety
///
/// The range is readable memory of a stack, and no job runs on it.
pub(super) unsafe fn lowest_used_word(start: usize, end: usize) -> usize {
    (start..end)
        .step_by(8)
        // SAFETY: the caller's promise; volatile, because whoever wrote the word was no Rust code that this one knows of.
        .find(|address| unsafe { (*address as *const u64).read_volatile() } != 0)
        .unwrap_or(end)
}
