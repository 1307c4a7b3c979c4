//! Scrubbing: zeros over what a job has used of its stack.

use super::depth;
use super::memory::{self, Range, page};

/// Zeroes the stack from its lowest byte to `top`, and says how many bytes below `top` were not zero.
///
/// Only what is in memory is written to: pages that were never touched read as zero and stay untouched. A page below an
/// absent one may have been swapped out, where writing zeros would first read it back: unless the stack is `locked`, all
/// from there down is given back to the kernel instead.
///
/// # Safety
///
/// `stack` is the memory of a stack on which no job is, and `top` lies in its highest page.
pub(super) unsafe fn scrub(stack: Range, top: usize, locked: bool) -> usize {
    let mut lowest = None;
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
        known = false; // not even the page of the plate is said to be there
    }
    if !known || locked {
        together = if known {
            lowest.unwrap_or(stack.start)
        } else {
            stack.start
        };
    }
    let from = lowest.filter(|_| known).unwrap_or(stack.start);
    // SAFETY: within the stack, on which no job is.
    let used = top - unsafe { depth::lowest_used_word(from, top) };
    // SAFETY: within the stack, on which no job is.
    unsafe { zero(together.min(top), top) };
    if together > stack.start && !locked {
        let below = Range {
            start: stack.start,
            len: together - stack.start,
        };
        // SAFETY: no job is on this stack.
        if unsafe { memory::advise(below, libc::MADV_DONTNEED) }.is_err() {
            // SAFETY: as above.
            unsafe { zero(below.start, together) };
        }
    }
    used
}

/// # Safety
///
/// The range is memory of ours that nobody uses.
unsafe fn zero(start: usize, end: usize) {
    debug_assert!(end - start <= (8 << 20) + page());
    // SAFETY: the caller's promise.
    unsafe { (start as *mut u8).write_bytes(0, end - start) };
    // The compiler may not conclude that nobody will read this.
    std::hint::black_box(start as *mut u8);
}
