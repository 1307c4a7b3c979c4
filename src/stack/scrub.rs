//! Scrubbing: overwriting with zeros what a job has used of its stack.

use super::depth;
use super::memory::{self, Advice, Range, page};
use super::size::SecretPolicy;

/// Zeroes the stack from its lowest byte to `top`, and returns how many bytes below `top` had been used.
///
/// The function writes only to pages that are in memory. A page that was never touched reads as zero and stays
/// untouched. A page below an absent one may have been swapped out, and to write zeros there would first read it back.
/// Unless the stack is locked in memory, everything from the highest absent page down is therefore given back to the
/// kernel instead.
///
/// # Safety
///
/// `stack` must be the memory of a stack. No code may run on the stack, and nothing that lies on it may be used after
/// this call. `top` must lie in the highest page of the stack.
pub(super) unsafe fn scrub(stack: Range, top: usize, policy: SecretPolicy) -> usize {
    let mut lowest = None;
    // All pages from this address up are resident.
    let mut together = stack.start + stack.len;
    let mut known = depth::visit_pages(stack, |address, resident| {
        if resident {
            lowest = lowest.or(Some(address));
            together = together.min(address);
        } else {
            together = stack.start + stack.len;
        }
        true
    })
    .is_ok();
    if together > top {
        known = false; // the page of the header is there, whatever the kernel says
    }
    if !known || policy.mlock {
        together = if known {
            lowest.unwrap_or(stack.start)
        } else {
            stack.start
        };
    }
    let from = lowest.filter(|_| known).unwrap_or(stack.start);
    // SAFETY: the range is within the stack, on which no code runs.
    let used = top - unsafe { depth::lowest_used_word(from, top) };
    // SAFETY: the range is within the stack, on which no code runs.
    unsafe { zero(together.min(top), top) };
    if together > stack.start && !policy.mlock {
        let below = Range {
            start: stack.start,
            len: together - stack.start,
        };
        // SAFETY: no code runs on the stack, and its contents are to go.
        if unsafe { memory::advise(below, Advice::Release(policy)) }.is_err() {
            // SAFETY: as above.
            unsafe { zero(below.start, together) };
        }
    }
    used
}

/// # Safety
///
/// The caller must own the memory in the range.
unsafe fn zero(start: usize, end: usize) {
    debug_assert!(end - start <= (8 << 20) + page());
    // SAFETY: the caller's promise.
    unsafe { (start as *mut u8).write_bytes(0, end - start) };
    // The compiler must not drop the write because it sees no read.
    std::hint::black_box(start as *mut u8);
}
