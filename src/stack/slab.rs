//! A slab: one mapping that holds many stacks.
//!
//! ```text
//!   base                                                                                  base + slots * stride
//!   | guard | stack 0        | guard | stack 1        | ...                    | guard | stack n-1 |
//!           |<---- size ---->|<----- stride ----->|
//!                          ^ ^
//!                          | one StackHeader, then up to 7 lines of 64 bytes: tops are staggered, see [`Geometry::plate`]
//!                          top: the job's header lies right below
//! ```
//!
//! Whose guard an address is in is arithmetic on the four numbers of a [`Slab`], which never move and are never freed: the
//! overflow handler reads them from a signal frame.
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
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use super::depot::Depot;
use super::guard::Guards;
use super::memory::{self, Range};
use super::size::Spec;
use super::{StackHeader, memory::page};

/// Slots of one row: the unit in which guards are made and taken back.
pub(super) const AT_ONCE: usize = 64;
/// Slots of the first slab of a depot. Each further one has four times as many, so that a million need eight.
const FIRST: usize = AT_ONCE;
const GROWTH: usize = 4;
const MOST: usize = 1 << 20;
/// No slab takes more address space than this (a 47-bit address space has 128 of them).
const MOST_BYTES: usize = 1 << 40;
/// Steps of 64 bytes by which the tops of neighbours differ. Without them, the same line of every stack falls into the same
/// set of the cache: with 10,000 jobs a round trip in random order took 567 ns instead of 266. Twice as many steps made it 233
/// at the cost of 512 more bytes of the page that a job may use. (With 1,000 jobs and 1 MiB of L2, nothing changed.)
const STAGGER: usize = 8;
/// The most bytes from the end of a slot to the top of its stack.
pub(crate) const MAX_ABOVE_TOP: usize = size_of::<StackHeader>() + 64 * (STAGGER - 1);

/// The shape of a slot: what a [`Spec`] becomes on a machine whose pages have the size that they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) guard: usize,
    pub(super) stride: usize,
}

impl Geometry {
    pub(super) fn of(spec: Spec) -> Self {
        let guard = (spec.guard as usize).next_multiple_of(page());
        Self {
            guard,
            stride: guard + spec.size.bytes().next_multiple_of(page()),
        }
    }

    /// Where the plate of slot `index` lies, from the start of the slab.
    fn header(self, index: usize) -> usize {
        (index + 1) * self.stride - size_of::<StackHeader>() - 64 * (index % STAGGER)
    }
}

/// One mapping, as the overflow handler sees it. Never freed: a depot uses it again for another mapping.
pub(super) struct Slab {
    /// 0: not mapped.
    base: AtomicUsize,
    len: AtomicUsize,
    /// The number of the mapping in its depot: higher is newer.
    number: AtomicUsize,
    geometry: Geometry,
    pub(super) depot: &'static Depot,
    next: AtomicPtr<Slab>,
}

/// Every slab of the process, newest first. Only ever prepended to.
static SLABS: AtomicPtr<Slab> = AtomicPtr::new(ptr::null_mut());

/// Every slab of the process, mapped or not. Usable in a signal handler.
pub(super) fn all() -> impl Iterator<Item = &'static Slab> {
    let first = SLABS.load(Ordering::Acquire);
    // SAFETY: slabs are leaked boxes, published whole.
    let mut next = unsafe { first.as_ref() };
    std::iter::from_fn(move || {
        let slab = next?;
        // SAFETY: as above.
        next = unsafe { slab.next.load(Ordering::Acquire).as_ref() };
        Some(slab)
    })
}

impl Slab {
    fn publish(depot: &'static Depot, geometry: Geometry) -> &'static Slab {
        let slab: &'static Slab = Box::leak(Box::new(Slab {
            base: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            number: AtomicUsize::new(0),
            geometry,
            depot,
            next: AtomicPtr::new(ptr::null_mut()),
        }));
        let mut first = SLABS.load(Ordering::Acquire);
        loop {
            slab.next.store(first, Ordering::Release);
            let new = ptr::from_ref(slab).cast_mut();
            match SLABS.compare_exchange_weak(first, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return slab,
                Err(now) => first = now,
            }
        }
    }

    /// The slot whose range, guard included, contains `address`. Usable in a signal handler.
    pub(super) fn slot_of(&self, address: usize) -> Option<usize> {
        let offset = address.checked_sub(self.base.load(Ordering::Acquire))?;
        (offset < self.len.load(Ordering::Acquire)).then(|| offset / self.geometry.stride)
    }

    pub(super) fn slots(&self) -> usize {
        self.len.load(Ordering::Acquire) / self.geometry.stride
    }

    pub(super) fn bytes(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Guard and stack of a slot.
    pub(super) fn whole(&self, slot: usize) -> Range {
        Range {
            start: self.base.load(Ordering::Acquire) + slot * self.geometry.stride,
            len: self.geometry.stride,
        }
    }

    pub(super) fn guard(&self, slot: usize) -> Range {
        Range {
            len: self.geometry.guard,
            ..self.whole(slot)
        }
    }

    pub(super) fn stack(&self, slot: usize) -> Range {
        let whole = self.whole(slot);
        Range {
            start: whole.start + self.geometry.guard,
            len: whole.len - self.geometry.guard,
        }
    }

    /// Where the plate of a slot lies. It may be read only if the slot is out.
    pub(super) fn header(&self, slot: usize) -> *mut StackHeader {
        (self.base.load(Ordering::Acquire) + self.geometry.header(slot)) as *mut StackHeader
    }

    /// Slots of an older slab, and lower ones of the same, come first.
    pub(super) fn order(&self, slot: usize) -> u64 {
        (self.number.load(Ordering::Relaxed) as u64) << 32 | slot as u64
    }

    fn row(&self, row: usize) -> Range {
        Range {
            start: self.base.load(Ordering::Acquire) + row * AT_ONCE * self.geometry.stride,
            len: AT_ONCE * self.geometry.stride,
        }
    }
}

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
    /// Maps a slab for the depot that has `before` mapped ones, the `number`-th of all. Where address space is limited it settles for a smaller
    /// slab.
    pub(super) fn map(
        depot: &'static Depot,
        before: usize,
        number: usize,
        retired: Option<&'static Slab>,
    ) -> io::Result<SlotBitmap> {
        let geometry = Geometry::of(depot.spec);
        let mut slots = wanted_slots(before, geometry);
        let base = loop {
            match memory::map(slots * geometry.stride) {
                Ok(base) => break base,
                Err(_) if slots > FIRST => slots /= GROWTH,
                Err(error) => return Err(no_memory(error, slots * geometry.stride)),
            }
        };
        let range = Range {
            start: base,
            len: slots * geometry.stride,
        };
        let guards = prepare(range, geometry, depot.spec).inspect_err(|_| {
            // SAFETY: mapped above, and nobody has seen it.
            unsafe { memory::unmap(range) }
        })?;
        let slab = retired.unwrap_or_else(|| Slab::publish(depot, geometry));
        slab.number.store(number, Ordering::Release);
        slab.base.store(base, Ordering::Release);
        slab.len.store(range.len, Ordering::Release);
        let rows = slots / AT_ONCE;
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
    pub(super) fn release(&mut self, slot: usize) {
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
    pub(super) fn unmap(self) -> &'static Slab {
        debug_assert_eq!(self.count, 0, "a slab with stacks out is unmapped");
        let range = Range {
            start: self.slab.base.load(Ordering::Acquire),
            len: self.slab.bytes(),
        };
        self.slab.len.store(0, Ordering::Release);
        self.slab.base.store(0, Ordering::Release);
        // SAFETY: no slot is out, so nobody has a pointer into it.
        unsafe { memory::unmap(range) };
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

fn wanted_slots(before: usize, geometry: Geometry) -> usize {
    let growth = GROWTH.saturating_pow(before.min(16) as u32);
    let most = (MOST_BYTES / geometry.stride / AT_ONCE).max(1) * AT_ONCE;
    FIRST.saturating_mul(growth).min(MOST).min(most)
}

fn prepare(range: Range, geometry: Geometry, spec: Spec) -> io::Result<Guards> {
    // A huge page would make 2 MiB resident for the first byte touched. A kernel without them refuses: then all is well.
    // SAFETY: a fresh mapping.
    if let Err(error) = unsafe { memory::advise(range, libc::MADV_NOHUGEPAGE) }
        && error.raw_os_error() != Some(libc::EINVAL)
    {
        let what = "the memory of stacks could not be prepared (MADV_NOHUGEPAGE)";
        return Err(memory::explain(error, what));
    }
    if spec.secrets.dont_dump {
        // SAFETY: a fresh mapping.
        unsafe { memory::advise(range, libc::MADV_DONTDUMP) }
            .map_err(|error| memory::explain(error, "stacks could not be left out of core dumps (MADV_DONTDUMP)"))?;
    }
    let first = Range {
        len: geometry.guard,
        ..range
    };
    // SAFETY: a fresh mapping. Should the row's guards not follow, this one harms nobody.
    unsafe { Guards::probe(first) }
}

fn no_memory(error: io::Error, bytes: usize) -> io::Error {
    memory::explain(
        error,
        format_args!(
            "no address space for {AT_ONCE} more stacks ({} KiB): see RLIMIT_AS (ulimit -v), vm.overcommit_memory and \
             vm.max_map_count, or lower the limit of the pool",
            bytes / 1024
        ),
    )
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
