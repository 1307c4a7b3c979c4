//! High-water marks: how many bytes of a stack its jobs have used.
//!
//! A page that was touched stays resident until the stack gives its memory back. The lowest resident page of a stack
//! therefore shows how deep the deepest of its jobs got, and no job has to keep a record. The ioctl `PAGEMAP_SCAN`
//! answers for many stacks in one call, and where the kernel has none `mincore(2)` does. Pages that were swapped out do
//! not count.
//!
//! A page is too coarse for some uses. [`lowest_used_word`] is exact: it looks for the lowest word that is not zero, on
//! a stack whose unused part is kept zero.

use std::io;

use super::memory::{self, PageMap, Range, page};
use super::slab::Geometry;

/// Pages that one call of [`memory::residency`] asks for. The answers lie on the caller's stack.
const PAGES_PER_CALL: usize = 1024;

/// Calls `visit` with the address of each page of the range and whether the page is resident, lowest first, until
/// `visit` returns false. Usable in a signal handler if `visit` is.
pub(super) fn visit_pages(range: Range, mut visit: impl FnMut(usize, bool) -> bool) -> io::Result<()> {
    let mut pages = [0u8; PAGES_PER_CALL];
    let mut start = range.start;
    let end = range.start + range.len;
    while start < end {
        let len = (end - start).min(PAGES_PER_CALL * page());
        memory::residency(Range { start, len }, &mut pages)?;
        for (index, state) in pages[..len / page()].iter().enumerate() {
            if !visit(start + index * page(), state & 1 != 0) {
                return Ok(());
            }
        }
        start += len;
    }
    Ok(())
}

/// How many bytes of a stack lie above the lower end of its lowest resident page. 0 when the kernel gives no answer.
pub(super) fn resident_depth(stack: Range) -> usize {
    resident(stack, stack.start).depth
}

/// What [`resident`] finds: 0 when the kernel gives no answer.
#[derive(Default)]
pub(super) struct Resident {
    /// How many bytes of the stack lie above the lower end of its lowest resident page.
    pub(super) depth: usize,
    /// How many resident bytes lie below the address that was given.
    pub(super) below: usize,
}

/// Looks for the lowest resident page of a stack, and counts the resident pages below an address.
pub(super) fn resident(stack: Range, below: usize) -> Resident {
    let mut found = Resident::default();
    let _ = visit_pages(stack, |address, resident| {
        if resident && found.depth == 0 {
            found.depth = stack.start + stack.len - address;
        }
        if resident && address < below {
            found.below += page();
        }
        found.depth == 0 || address < below
    });
    found
}

/// What [`survey`] finds of many slots.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Survey {
    /// The largest [`resident_depth`].
    pub(super) deepest: usize,
    /// How many bytes are resident, in all slots together.
    pub(super) resident: usize,
}

/// Looks at the resident pages of many slots. Each range is one slot or several neighbours.
pub(super) fn survey(slots: impl Iterator<Item = Range>, shape: Geometry) -> Survey {
    survey_by(PageMap::open().as_ref(), slots, shape)
}

/// As [`survey`], by `mincore(2)` alone if there is no page map.
pub(super) fn survey_by(map: Option<&PageMap>, slots: impl Iterator<Item = Range>, shape: Geometry) -> Survey {
    let mut found = Survey::default();
    for range in slots {
        let mut count = |address: usize| {
            let within = (address - range.start) % shape.stride;
            if within >= shape.guard {
                found.deepest = found.deepest.max(shape.stride - within);
                found.resident += page();
            }
        };
        let start = map
            .as_ref()
            .map_or(range.start, |map| map.visit_resident(range, &mut count));
        let rest = Range {
            start,
            len: range.start + range.len - start,
        };
        let _ = visit_pages(rest, |address, resident| {
            if resident {
                count(address);
            }
            true
        });
    }
    found
}

/// The lowest address from `start` (a multiple of 8) to `end` whose word is not zero, or `end` if there is none.
///
/// # Safety
///
/// The range must be readable memory of a stack on which no code runs during this call.
pub(super) unsafe fn lowest_used_word(start: usize, end: usize) -> usize {
    (start..end)
        .step_by(8)
        // SAFETY: the caller's promise. The read is volatile because the compiler has seen no write to the word: the
        // code of a job wrote it, on another stack than this one.
        .find(|address| unsafe { (*address as *const u64).read_volatile() } != 0)
        .unwrap_or(end)
}
