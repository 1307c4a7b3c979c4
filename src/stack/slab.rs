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

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use super::depot::Depot;
use super::guard::Guards;
use super::header::StackHeader;
use super::memory::page;
use super::memory::{self, Range};
use super::size::Spec;

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
    /// Maps a slab for the depot that has `before` mapped ones, the `number`-th of all. Where address space is limited it
    /// settles for a smaller slab.
    pub(super) fn map(
        depot: &'static Depot,
        before: usize,
        number: usize,
        retired: Option<&'static Slab>,
    ) -> io::Result<(&'static Slab, Guards)> {
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
        Ok((slab, guards))
    }

    /// Gives the mapping back. The record stays for the next one.
    ///
    /// # Safety
    ///
    /// No slot is out.
    pub(super) unsafe fn unmap(&self) {
        let range = Range {
            start: self.base.load(Ordering::Acquire),
            len: self.bytes(),
        };
        self.len.store(0, Ordering::Release);
        self.base.store(0, Ordering::Release);
        // SAFETY: no slot is out, so nobody has a pointer into it.
        unsafe { memory::unmap(range) };
    }

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

    pub(super) fn row(&self, row: usize) -> Range {
        Range {
            start: self.base.load(Ordering::Acquire) + row * AT_ONCE * self.geometry.stride,
            len: AT_ONCE * self.geometry.stride,
        }
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
