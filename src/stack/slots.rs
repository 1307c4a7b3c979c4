//! The slots of a slab: which are in use, and which have guards.
//!
//! Guards are made for [`AT_ONCE`] slots in one call, when the first of them is needed. Slots are handed out lowest first,
//! so that what remains after a burst is together, and the rest of the slab goes back to the kernel with its page tables.
//!
//! A slot is in one of three states, kept by its [`SlotBitmap`] under the lock of the depot:
//!
//! * **raw**: no guard, no memory. All 64 of a row are, or none.
//! * **free**: guarded, no memory.
//! * **out**: a [`Stack`](super::Stack) exists: idle in a pool or the depot, or under a job, or in quarantine.

use std::io;

use super::depot::Depot;
use super::guard::Guards;
use super::memory::{self, Range};
use super::slab::{AT_ONCE, Slab};

/// Which slots of a slab are raw, free and out.
pub(super) struct SlotBitmap {
    pub(super) slab: &'static Slab,
    guards: Guards,
    /// A word for each row, a bit for each slot: set when it is out. All zero at first, so that a large slab pays for the
    /// words that it has used.
    out: Vec<u64>,
    /// A bit for each row: none of it is free or raw.
    full: Vec<u64>,
    /// A bit for each row: its guards exist.
    guarded: Vec<u64>,
    /// Words of `full` below this one are all ones.
    lowest: usize,
    count: usize,
    /// Rows with guards and nothing out. A few are kept, so that a job more and a job less do not make and remove guards.
    spare_rows: usize,
}

/// How many rows may be kept with nothing out.
const SPARE_ROWS: usize = 4;

impl SlotBitmap {
    /// Maps a slab: see [`Slab::map`].
    pub(super) fn map(
        depot: &'static Depot,
        before: usize,
        number: usize,
        retired: Option<&'static Slab>,
    ) -> io::Result<SlotBitmap> {
        let (slab, guards) = Slab::map(depot, before, number, retired)?;
        let rows = slab.slots() / AT_ONCE;
        Ok(SlotBitmap {
            slab,
            guards,
            out: vec![0; rows],
            full: vec![0; rows.div_ceil(64)],
            guarded: vec![0; rows.div_ceil(64)],
            lowest: 0,
            count: 0,
            spare_rows: 0,
        })
    }

    /// How many slots are out.
    pub(super) fn out(&self) -> usize {
        self.count
    }

    /// The slots that are out.
    pub(super) fn slots_in_use(&self) -> impl Iterator<Item = usize> + '_ {
        let rows = self.out.iter().enumerate().filter(|(_, bits)| **bits != 0);
        rows.flat_map(|(row, bits)| {
            (0..AT_ONCE)
                .filter(move |slot| bits & (1 << slot) != 0)
                .map(move |slot| row * AT_ONCE + slot)
        })
    }

    /// Takes the lowest slot that is not out; `None`: all are.
    pub(super) fn claim(&mut self) -> io::Result<Option<usize>> {
        let Some(row) = self.lowest_row() else {
            return Ok(None);
        };
        if !bit(&self.guarded, row) {
            self.install_guards(row)?;
        } else if self.out[row] == 0 {
            self.spare_rows -= 1;
        }
        let slot = self.out[row].trailing_ones() as usize;
        self.out[row] |= 1 << slot;
        if self.out[row] == u64::MAX {
            set(&mut self.full, row, true);
        }
        self.count += 1;
        Ok(Some(row * AT_ONCE + slot))
    }

    /// Puts a slot back whose memory has been given back.
    ///
    /// # Safety
    ///
    /// The caller must have claimed the slot, and must not use the slot after this call.
    pub(super) unsafe fn release(&mut self, slot: usize) {
        let row = slot / AT_ONCE;
        debug_assert!(self.out[row] & (1 << (slot % AT_ONCE)) != 0, "a slot released twice");
        self.out[row] &= !(1 << (slot % AT_ONCE));
        set(&mut self.full, row, false);
        self.lowest = self.lowest.min(row / 64);
        self.count -= 1;
        if self.out[row] == 0 {
            self.spare_rows += 1;
            if self.spare_rows > SPARE_ROWS {
                self.remove_guards(row);
            }
        }
    }

    /// Gives the mapping back. The record stays for the next one.
    ///
    /// # Safety
    ///
    /// The caller must have released every slot that was claimed.
    pub(super) unsafe fn unmap(self) -> &'static Slab {
        debug_assert_eq!(self.count, 0, "a slab with stacks out is unmapped");
        // SAFETY: the caller's promise.
        unsafe { self.slab.unmap() };
        self.slab
    }

    fn lowest_row(&mut self) -> Option<usize> {
        let ahead = self.full[self.lowest..].iter().position(|word| *word != u64::MAX)?;
        self.lowest += ahead;
        let row = self.lowest * 64 + self.full[self.lowest].trailing_ones() as usize;
        (row < self.out.len()).then_some(row)
    }

    #[cold]
    fn install_guards(&mut self, row: usize) -> io::Result<()> {
        let guards: [Range; AT_ONCE] = std::array::from_fn(|slot| self.slab.guard(row * AT_ONCE + slot));
        // SAFETY: the row is raw: nobody has a pointer into it.
        unsafe { self.guards.install(&guards)? };
        set(&mut self.guarded, row, true);
        Ok(())
    }

    /// Makes a row raw again, which also gives its page tables back where the kernel can (Linux 6.14). If it fails, the row
    /// stays free, which costs only those.
    #[cold]
    fn remove_guards(&mut self, row: usize) {
        let range = self.slab.row(row);
        // SAFETY: no slot of the row is out: nobody has a pointer into it.
        if unsafe { self.guards.remove(range) }.is_err() {
            return;
        }
        // SAFETY: as above.
        let _ = unsafe { memory::advise(range, libc::MADV_DONTNEED) };
        set(&mut self.guarded, row, false);
        self.spare_rows -= 1;
    }
}

fn bit(words: &[u64], index: usize) -> bool {
    words[index / 64] & (1 << (index % 64)) != 0
}

fn set(words: &mut [u64], index: usize, value: bool) {
    let mask = 1 << (index % 64);
    if value {
        words[index / 64] |= mask;
    } else {
        words[index / 64] &= !mask;
    }
}
