//! The depot: where all threads get stacks from, and where they leave those that they have too many of.
//!
//! ```text
//!   pool of thread 1 --+                      +-- warm: stacks as their last job left them, a bounded number
//!   pool of thread 2 --+-- take / give_all -- |
//!   pool of thread 3 --+   (one lock)         +-- slabs: slots without memory, see `slab`
//! ```
//!
//! There is one depot for each [`Spec`], for the life of the process. Pools come here when theirs is empty or full only,
//! and leave many stacks at a time: the lock is rarely taken and never held while memory is given back.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::header::{Slot, Stack, StackHeader};
use super::memory::{self, Range};
use super::size::Spec;
use super::slab::{Geometry, Slab};
use super::slots::SlotBitmap;
use super::{depth, foreign};

/// The memory of all stacks of one [`Spec`].
pub(crate) struct Depot {
    pub(super) spec: Spec,
    state: Mutex<State>,
    /// The most bytes that a job on one of these stacks was seen to use.
    pub(super) deepest: AtomicUsize,
    quarantined: AtomicUsize,
    next: AtomicPtr<Depot>,
    #[cfg(test)]
    caches_nothing: std::sync::atomic::AtomicBool,
}

#[derive(Default)]
struct State {
    cached: Vec<Slot>,
    /// Oldest first, which is where slots are taken from.
    bitmaps: Vec<SlotBitmap>,
    /// Slabs mapped so far.
    mapped: usize,
    /// Records of slabs that were unmapped.
    retired: Vec<&'static Slab>,
}

/// What one size and configuration takes of the process: see [`stats`](super::stats).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StackStats {
    /// Usable bytes of each stack.
    pub size: usize,
    /// Bytes of the guard below each.
    pub guard: usize,
    /// Mappings made for them.
    pub slabs: usize,
    /// Address space of those, in bytes: not memory.
    pub reserved: usize,
    /// Stacks that exist: under a job, idle in the pool of a thread, idle in the depot, or in quarantine.
    pub stacks: usize,
    /// Of those: idle in the depot.
    pub in_depot: usize,
    /// Of those: kept out of reuse because somebody may still write to them.
    pub quarantined: usize,
    /// The most bytes of stack that any job has used: in whole pages, or in words where
    /// [`exact_high_water`](crate::PoolConfig::exact_high_water) was asked for.
    pub high_water: usize,
}

static DEPOTS: AtomicPtr<Depot> = AtomicPtr::new(ptr::null_mut());

/// How many idle stacks each depot keeps with their memory.
static MAX_CACHED: AtomicUsize = AtomicUsize::new(512);

/// Bounds the idle stacks that are kept with their memory for any thread, of each size: 512 unless set. What threads keep
/// for themselves is [`PoolConfig::idle`](crate::PoolConfig::idle).
pub fn set_max_cached(stacks: usize) {
    MAX_CACHED.store(stacks, Ordering::Relaxed);
}

pub(super) fn all() -> impl Iterator<Item = &'static Depot> {
    // SAFETY: depots are leaked boxes, published whole.
    let mut next = unsafe { DEPOTS.load(Ordering::Acquire).as_ref() };
    std::iter::from_fn(move || {
        let depot = next?;
        // SAFETY: as above.
        next = unsafe { depot.next.load(Ordering::Acquire).as_ref() };
        Some(depot)
    })
}

impl Depot {
    /// The depot of a [`Spec`], made at its first use. A program uses few of them, so a list is enough.
    pub(crate) fn of(spec: Spec) -> &'static Depot {
        if let Some(depot) = all().find(|depot| depot.spec == spec) {
            return depot;
        }
        static MAKING: Mutex<()> = Mutex::new(());
        let _making = MAKING.lock();
        if let Some(depot) = all().find(|depot| depot.spec == spec) {
            return depot;
        }
        let depot = Box::leak(Box::new(Depot {
            spec,
            state: Mutex::new(State::default()),
            deepest: AtomicUsize::new(0),
            quarantined: AtomicUsize::new(0),
            next: AtomicPtr::new(DEPOTS.load(Ordering::Acquire)),
            #[cfg(test)]
            caches_nothing: false.into(),
        }));
        DEPOTS.store(depot, Ordering::Release);
        depot
    }

    #[inline]
    pub(crate) fn spec(&self) -> Spec {
        self.spec
    }

    /// A stack: a warm one if there is any, or the lowest free slot. One at a time: what a pool has is what its thread has
    /// used, and the lock is held for a few instructions.
    ///
    /// # Errors
    ///
    /// What the kernel refused, and what can be done about it.
    pub(crate) fn take(&'static self) -> io::Result<Stack> {
        if let Some((allocate, free)) = foreign::functions() {
            // SAFETY: the pair comes from `functions`.
            return unsafe { StackHeader::write_foreign(self, allocate, free) }.map(Stack);
        }
        let mut state = self.state.lock();
        if let Some(slot) = state.cached.pop() {
            return Ok(Stack(slot));
        }
        let (slab, index) = state.claim(self)?;
        drop(state);
        // SAFETY: claimed above.
        unsafe { self.make_stack(slab, index) }
    }

    /// Takes stacks that a pool has too many of. What is above the bound loses its memory here and now.
    pub(crate) fn give_all(&'static self, stacks: impl Iterator<Item = Stack>) {
        let mut slots: Vec<Slot> = stacks.map(Stack::into_slot).collect();
        for foreign in slots.extract_if(.., |slot| slot.memory().is_none()) {
            // SAFETY: the slot came from a `Stack`, whose owner has left it.
            unsafe { foreign.release_memory() };
        }
        self.keep_cached(&mut slots);
        if !slots.is_empty() {
            self.retire(slots);
        }
    }

    /// Takes one stack that may not have been wiped.
    ///
    /// # Safety
    ///
    /// No code may run on the stack any more, and nothing that lies on it may be used after this call.
    pub(super) unsafe fn give(&'static self, mut slot: Slot) {
        // SAFETY: the caller's promise.
        unsafe { slot.wipe() };
        self.give_all(std::iter::once(Stack(slot)));
    }

    /// The slot stays out for ever.
    pub(super) fn quarantine(&self, slot: &Slot) {
        self.note_depth(slot.high_water());
        self.quarantined.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn quarantined(&self) -> usize {
        self.quarantined.load(Ordering::Relaxed)
    }

    pub(super) fn note_depth(&self, bytes: usize) {
        self.deepest.fetch_max(bytes, Ordering::Relaxed);
    }

    /// Counts everything, and looks at every stack that exists.
    pub(super) fn stats(&self) -> StackStats {
        let state = self.state.lock();
        if !self.spec.exact {
            for bitmap in &state.bitmaps {
                let slots = merged(bitmap.slots_in_use().map(|slot| bitmap.slab.whole(slot)));
                self.note_depth(depth::deepest(slots.into_iter(), Geometry::of(self.spec)));
            }
        }
        StackStats {
            size: self.spec.size.bytes(),
            guard: self.spec.guard as usize,
            slabs: state.bitmaps.len(),
            reserved: state.bitmaps.iter().map(|bitmap| bitmap.slab.bytes()).sum(),
            stacks: state.bitmaps.iter().map(SlotBitmap::out).sum(),
            in_depot: state.cached.len(),
            quarantined: self.quarantined(),
            high_water: self.deepest.load(Ordering::Relaxed),
        }
    }

    /// Turns a claimed slot into a stack, or puts it back.
    ///
    /// # Safety
    ///
    /// As [`StackHeader::write`].
    unsafe fn make_stack(&'static self, slab: &'static Slab, index: usize) -> io::Result<Stack> {
        if self.spec.secrets.mlock {
            memory::lock(slab.whole(index)).map_err(|error| {
                // SAFETY: the caller's claim ends here.
                unsafe { self.state.lock().release(slab, index) };
                memory::explain(
                    error,
                    "a stack could not be locked in memory (mlock2): raise RLIMIT_MEMLOCK (ulimit -l), or ask for smaller \
                     stacks and guards",
                )
            })?;
        }
        // SAFETY: the caller's promise.
        Ok(Stack(unsafe { StackHeader::write(slab, index) }))
    }

    /// Of what is warm and what has come, the stacks from the oldest slabs stay.
    fn keep_cached(&self, slots: &mut Vec<Slot>) {
        let mut state = self.state.lock();
        state.cached.append(slots);
        let surplus = state.cached.len().saturating_sub(self.max_cached());
        if surplus > 0 {
            *slots = newest(&mut state.cached, surplus, Slot::order);
        }
    }

    fn max_cached(&self) -> usize {
        #[cfg(test)]
        if self.caches_nothing.load(Ordering::Relaxed) {
            return 0;
        }
        MAX_CACHED.load(Ordering::Relaxed)
    }

    /// Other tests of this process keep theirs.
    #[cfg(test)]
    pub(super) fn cache_nothing(&self) {
        self.caches_nothing.store(true, Ordering::Relaxed);
    }

    /// Gives the memory of these stacks back, then their slots. Neighbours are done in one call: what was used together is
    /// mostly given back together.
    #[cold]
    fn retire(&self, mut slots: Vec<Slot>) {
        slots.sort_unstable_by_key(Slot::start);
        let places: Vec<(&'static Slab, usize)> = slots
            .into_iter()
            // SAFETY: each slot came from a `Stack`, whose owner has left it.
            .filter_map(|slot| unsafe { slot.release_memory() })
            .collect();
        let ranges = merged(places.iter().map(|(slab, index)| slab.whole(*index)));
        if !self.spec.exact {
            self.note_depth(depth::deepest(ranges.iter().copied(), Geometry::of(self.spec)));
        }
        // SAFETY: the ranges are those of the slots, which no stack uses any more.
        unsafe { self.give_back(&ranges) };
        let mut state = self.state.lock();
        for (slab, index) in places {
            // SAFETY: the slot was claimed for the stack that is gone.
            unsafe { state.release(slab, index) };
        }
    }

    /// # Safety
    ///
    /// The ranges must be claimed slots of this depot that no stack uses any more.
    unsafe fn give_back(&self, ranges: &[Range]) {
        let advice = if self.spec.secrets.mlock {
            memory::DONTNEED_LOCKED
        } else {
            libc::MADV_DONTNEED
        };
        // A refusal leaves the pages as they are: resident, and scrubbed if that was asked for.
        // SAFETY: the caller's promise; guards between the stacks survive this advice.
        let _ = unsafe { memory::advise_all(ranges, advice) };
        if self.spec.secrets.mlock {
            ranges.iter().copied().for_each(memory::unlock);
        }
    }
}

impl State {
    fn claim(&mut self, depot: &'static Depot) -> io::Result<(&'static Slab, usize)> {
        for bitmap in &mut self.bitmaps {
            if let Some(index) = bitmap.claim()? {
                return Ok((bitmap.slab, index));
            }
        }
        let retired = self.retired.pop();
        self.mapped += 1;
        let mut bitmap = match SlotBitmap::map(depot, self.bitmaps.len(), self.mapped, retired) {
            Ok(bitmap) => bitmap,
            Err(error) => {
                self.retired.extend(retired);
                return Err(error);
            }
        };
        match bitmap.claim() {
            Ok(index) => {
                let slab = bitmap.slab;
                self.bitmaps.push(bitmap);
                Ok((slab, index.expect("a new slab has free slots")))
            }
            Err(error) => {
                // SAFETY: the only claim has failed.
                self.retired.push(unsafe { bitmap.unmap() });
                Err(error)
            }
        }
    }

    /// # Safety
    ///
    /// As [`SlotBitmap::release`].
    unsafe fn release(&mut self, slab: &'static Slab, index: usize) {
        let at = self
            .bitmaps
            .iter()
            .position(|bitmap| ptr::eq(bitmap.slab, slab))
            .expect("a slot belongs to a mapped slab of its depot");
        // SAFETY: the caller's promise.
        unsafe { self.bitmaps[at].release(index) };
        if self.bitmaps[at].out() == 0 {
            let bitmap = self.bitmaps.remove(at);
            // SAFETY: no slot is out: each one that was claimed has been released.
            self.retired.push(unsafe { bitmap.unmap() });
        }
    }
}

/// Takes out the `count` items that come last in `order`, and leaves the others as they stand.
pub(crate) fn newest<T>(items: &mut Vec<T>, count: usize, order: impl Fn(&T) -> u64) -> Vec<T> {
    let keep = items.len() - count;
    if keep == 0 {
        return std::mem::take(items);
    }
    let mut orders: Vec<u64> = items.iter().map(&order).collect();
    let (_, last_kept, _) = orders.select_nth_unstable(keep - 1);
    let last_kept = *last_kept;
    items.extract_if(.., |item| order(item) > last_kept).collect()
}

/// Neighbouring ranges made one. The argument is sorted.
fn merged(ranges: impl Iterator<Item = Range>) -> Vec<Range> {
    let mut merged: Vec<Range> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.start + last.len == range.start => last.len += range.len,
            _ => merged.push(range),
        }
    }
    merged
}
