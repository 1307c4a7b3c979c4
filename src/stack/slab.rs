//! A slab: one mapping that holds many stacks. The word is from Bonwick, "The Slab Allocator: An Object-Caching Kernel
//! Memory Allocator" (USENIX Summer 1994).
//!
//! ```text
//!   base                                                                                  base + slots * stride
//!   | guard | stack 0        | guard | stack 1        | ...                    | guard | stack n-1 |
//!           |<---- size ---->|<----- stride ----->|
//!                          ^ ^
//!                          | one StackHeader, then 0 to 7 lines of 64 bytes (STAGGER_STEPS)
//!                          top: the control block of the job lies right below
//! ```
//!
//! The overflow handler has to find the guard that contains an address. It computes that from the numbers in a
//! [`Slab`], which neither moves nor is freed, so it can do so in a signal handler.

use std::io;
use std::mem::offset_of;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use super::depot::Depot;
use super::guard::Guards;
use super::header::StackHeader;
use super::memory::{self, Advice, Range, page};
use super::size::Spec;

/// Neighbouring slots whose guards are made and removed together. The slots of a slab are a multiple of this, or fewer.
pub(super) const GROUP_SLOTS: usize = 64;
/// Slots of the first slab of a depot.
const FIRST_SLAB_SLOTS: usize = GROUP_SLOTS;
/// Each further slab of a depot has this many times the slots of the one before it. Eight slabs hold a million stacks.
const SLAB_GROWTH: usize = 4;
/// Slots of the first slab where the kernel makes each page of a new mapping resident (`mlockall(2)`): 1.25 MiB with
/// the default sizes.
const FIRST_LOCKED_SLAB_SLOTS: usize = 4;
/// The most slots of a slab.
const MAX_SLAB_SLOTS: usize = 1 << 20;
/// The most address space of a slab, in bytes. A 47-bit address space has 128 times as much.
const MAX_SLAB_BYTES: usize = 1 << 40;
/// The tops of neighbouring stacks differ by up to this many steps of 64 bytes. Without the steps, the same line of
/// every stack falls into the same set of the cache: with 10,000 jobs a round trip in random order took 567 ns instead
/// of 266. Sixteen steps made it 233, at the cost of 512 more bytes of the page that a job may use. With 1,000 jobs and
/// 1 MiB of L2 the steps made no difference.
const STAGGER_STEPS: usize = 8;
/// One of those steps, in bytes.
const STAGGER: usize = 64;
/// The most bytes from the top of a stack to the end of its slot.
pub(crate) const MAX_ABOVE_TOP: usize = size_of::<StackHeader>() + STAGGER * (STAGGER_STEPS - 1);

/// The shape of a slot: a [`Spec`] in whole pages of this machine.
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

    /// The stacks of whole slots, without their guards.
    pub(super) fn stacks(self, slots: &[Range]) -> impl Iterator<Item = Range> {
        let stacks = move |slots: &Range| {
            let starts = (slots.start..slots.start + slots.len).step_by(self.stride);
            starts.map(move |start| Range {
                start: start + self.guard,
                len: self.stride - self.guard,
            })
        };
        slots.iter().flat_map(stacks)
    }

    /// The distance of the header of slot `index` from the start of the slab.
    fn header(self, index: usize) -> usize {
        (index + 1) * self.stride - size_of::<StackHeader>() - STAGGER * (index % STAGGER_STEPS)
    }
}

/// One mapping, as the overflow handler sees it.
///
/// A `Slab` is never freed. When its mapping is gone it is retired, and its depot uses it again for another mapping.
pub(crate) struct Slab {
    /// 0 when the slab is retired.
    base: AtomicUsize,
    len: AtomicUsize,
    /// The number of the mapping in its depot: higher is newer.
    number: AtomicUsize,
    geometry: Geometry,
    pub(super) depot: &'static Depot,
    next: AtomicPtr<Slab>,
}

/// The list of all slabs of the process, newest first. Slabs are only added, at its front.
pub(crate) static SLABS: &AtomicPtr<Slab> = {
    static FIRST: AtomicPtr<Slab> = AtomicPtr::new(ptr::null_mut());
    &FIRST
};

/// Where a debugger finds what in a slab and in the header of a stack: see `job::debugger`.
pub(crate) const LAYOUT: [usize; 12] = [
    offset_of!(Slab, base),
    offset_of!(Slab, len),
    offset_of!(Slab, next),
    offset_of!(Slab, geometry) + offset_of!(Geometry, stride),
    offset_of!(Slab, geometry) + offset_of!(Geometry, guard),
    STAGGER_STEPS,
    STAGGER,
    size_of::<StackHeader>(),
    StackHeader::ID_AT,
    StackHeader::LIMIT_AT,
    StackHeader::NAME_AT[0],
    StackHeader::NAME_AT[1],
];

/// All slabs of the process, mapped and retired. Usable in a signal handler.
pub(super) fn all() -> impl Iterator<Item = &'static Slab> {
    let first = SLABS.load(Ordering::Acquire);
    // SAFETY: slabs are leaked boxes, and are written before they are published.
    let mut next = unsafe { first.as_ref() };
    std::iter::from_fn(move || {
        let slab = next?;
        // SAFETY: as above.
        next = unsafe { slab.next.load(Ordering::Acquire).as_ref() };
        Some(slab)
    })
}

impl Slab {
    /// Maps a slab for a depot that has mapped `before` slabs at present. Where address space is limited, or all memory
    /// is locked, the slab is smaller than it would be otherwise: one slot if need be. `number` counts all mappings of
    /// the depot so far. A `retired` slab is used again.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the memory, or what has to be prepared in it.
    pub(super) fn map(
        depot: &'static Depot,
        before: usize,
        number: usize,
        retired: Option<&'static Slab>,
    ) -> io::Result<(&'static Slab, Guards)> {
        let geometry = Geometry::of(depot.spec);
        let mut slots = if memory::maps_resident() {
            wanted_locked_slots(before)
        } else {
            wanted_slots(before, geometry)
        };
        let base = loop {
            match memory::map(slots * geometry.stride) {
                Ok(base) => break base,
                Err(_) if slots > 1 => slots = (slots / SLAB_GROWTH).max(1),
                Err(error) => return Err(no_memory(error, geometry.stride)),
            }
        };
        let range = Range {
            start: base,
            len: slots * geometry.stride,
        };
        let guards = prepare(range, geometry, depot.spec).inspect_err(|_| {
            // SAFETY: the range was mapped above, and nothing else knows of it.
            unsafe { memory::unmap(range) }
        })?;
        let slab = retired.unwrap_or_else(|| Slab::publish(depot, geometry));
        slab.number.store(number, Ordering::Release);
        slab.base.store(base, Ordering::Release);
        slab.len.store(range.len, Ordering::Release);
        Ok((slab, guards))
    }

    /// Gives the mapping back to the kernel, which makes this a retired slab.
    ///
    /// # Safety
    ///
    /// No slot of the slab may be in use.
    pub(super) unsafe fn unmap(&self) {
        let range = Range {
            start: self.base.load(Ordering::Acquire),
            len: self.bytes(),
        };
        self.len.store(0, Ordering::Release);
        self.base.store(0, Ordering::Release);
        // SAFETY: the range is the mapping of this slab. The caller's promise: no slot of it is in use.
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

    /// The index of the slot whose range, guard included, contains `address`. Usable in a signal handler.
    pub(super) fn index_at(&self, address: usize) -> Option<usize> {
        let offset = address.checked_sub(self.base.load(Ordering::Acquire))?;
        (offset < self.len.load(Ordering::Acquire)).then(|| offset / self.geometry.stride)
    }

    pub(super) fn slots(&self) -> usize {
        self.len.load(Ordering::Acquire) / self.geometry.stride
    }

    pub(super) fn bytes(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// The guard and the stack of a slot.
    pub(super) fn whole(&self, index: usize) -> Range {
        Range {
            start: self.base.load(Ordering::Acquire) + index * self.geometry.stride,
            len: self.geometry.stride,
        }
    }

    pub(super) fn guard(&self, index: usize) -> Range {
        Range {
            len: self.geometry.guard,
            ..self.whole(index)
        }
    }

    pub(super) fn stack(&self, index: usize) -> Range {
        let whole = self.whole(index);
        Range {
            start: whole.start + self.geometry.guard,
            len: whole.len - self.geometry.guard,
        }
    }

    /// The address of the header of a slot. The header exists only if the slot is in use.
    pub(super) fn header(&self, index: usize) -> *mut StackHeader {
        (self.base.load(Ordering::Acquire) + self.geometry.header(index)) as *mut StackHeader
    }

    /// A key to sort slots by. The slots of older slabs come first, and lower slots of a slab before higher ones.
    pub(super) fn order(&self, index: usize) -> u64 {
        (self.number.load(Ordering::Relaxed) as u64) << 32 | index as u64
    }

    /// All slots of a group.
    pub(super) fn group(&self, group: usize) -> Range {
        Range {
            start: self.whole(group * GROUP_SLOTS).start,
            len: self.slots_of(group) * self.geometry.stride,
        }
    }

    /// How many slots a group has. Only a slab of less than one group has fewer than [`GROUP_SLOTS`] of them.
    pub(super) fn slots_of(&self, group: usize) -> usize {
        (self.slots() - group * GROUP_SLOTS).min(GROUP_SLOTS)
    }
}

fn wanted_slots(before: usize, geometry: Geometry) -> usize {
    let growth = SLAB_GROWTH.saturating_pow(before.min(16) as u32);
    let affordable = (MAX_SLAB_BYTES / geometry.stride / GROUP_SLOTS).max(1) * GROUP_SLOTS;
    FIRST_SLAB_SLOTS
        .saturating_mul(growth)
        .min(MAX_SLAB_SLOTS)
        .min(affordable)
}

/// As [`wanted_slots`] where each slot costs memory at once: slabs double with every second one, and stay small.
fn wanted_locked_slots(before: usize) -> usize {
    (FIRST_LOCKED_SLAB_SLOTS << (before / 2).min(8)).min(GROUP_SLOTS)
}

/// Sets up a fresh mapping, and finds out which kind of guard it can have.
fn prepare(range: Range, geometry: Geometry, spec: Spec) -> io::Result<Guards> {
    // A huge page would make 2 MiB resident for the first byte that is touched. A kernel without huge pages refuses the
    // advice with EINVAL and needs none. Under a sandbox that refuses it, stacks take more memory than they need.
    // SAFETY: no slot of a fresh mapping is in use.
    if let Err(error) = unsafe { memory::advise(range, Advice::NoHugePages) }
        && !memory::is_unavailable(&error)
    {
        let what = "the memory of stacks could not be prepared (MADV_NOHUGEPAGE)";
        return Err(memory::explain(error, what));
    }
    if spec.secrets.dont_dump {
        // SAFETY: as above.
        unsafe { memory::advise(range, Advice::DontDump) }
            .map_err(|error| memory::explain(error, "stacks could not be left out of core dumps (MADV_DONTDUMP)"))?;
    }
    let first = Range {
        len: geometry.guard,
        ..range
    };
    // SAFETY: as above. If the other guards of the group cannot be made, this one does no harm.
    unsafe { Guards::probe(first) }
}

fn no_memory(error: io::Error, bytes: usize) -> io::Error {
    memory::explain(
        error,
        format_args!(
            "no address space for one more stack ({} KiB with its guard): see RLIMIT_AS (ulimit -v), RLIMIT_MEMLOCK \
             (ulimit -l) if the process locks its memory (mlockall), vm.overcommit_memory and vm.max_map_count, or \
             lower the limit of the pool",
            bytes / 1024
        ),
    )
}
