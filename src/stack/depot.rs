//! The depot: the stacks that threads share.
//!
//! ```text
//!   pool of thread 1 --+                      +-- cached: stacks as their last jobs left them, a bounded number
//!   pool of thread 2 --+-- take / give_all -- |
//!   pool of thread 3 --+   (one lock)         |-- leaving: above that number, for a second (`Surplus::Later`)
//!                                             +-- slabs: free slots, without memory (`slots`)
//! ```
//!
//! The pools of the threads and the depot are the magazines and the depot of Bonwick and Adams, "Magazines and Vmem:
//! Extending the Slab Allocator to Many CPUs and Arbitrary Resources" (USENIX ATC 2001). A pool comes here only when it
//! is empty or full, and gives many stacks at a time. The lock is therefore rarely taken. It is never held while memory
//! is given back to the kernel.
//!
//! There is one depot for each [`Spec`], for the life of the process.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::fork::{self, lock};
use super::header::{Slot, Stack, StackHeader};
use super::idle::{IdleMarks, idle_time};
use super::memory::{self, Advice, Range};
#[cfg(feature = "insight")]
use super::places::Place;
use super::size::Spec;
use super::slab::{Geometry, Slab};
use super::slots::{SlotBitmap, TakenGroup};
use super::{depth, foreign};
use crate::sys::clock_tick;

/// The stacks of one [`Spec`].
pub(crate) struct Depot {
    pub(super) spec: Spec,
    state: Mutex<DepotState>,
    /// The most bytes that a job was seen to use on one of these stacks.
    pub(super) deepest: AtomicUsize,
    quarantined: AtomicUsize,
    next: AtomicPtr<Depot>,
    #[cfg(test)]
    caches_nothing: std::sync::atomic::AtomicBool,
}

struct DepotState {
    cached: Vec<Slot>,
    /// Stacks above the maximum that still have their memory.
    leaving: Vec<Slot>,
    /// When a stack came to `leaving` last, by the kernel's clock.
    last_left: u64,
    idle: IdleMarks,
    /// The mapped slabs, oldest first. Slots are claimed from the oldest slab that has one.
    bitmaps: Vec<SlotBitmap>,
    /// How many slabs have been mapped so far.
    mappings: usize,
    /// Slabs that were unmapped, to be used again.
    retired: Vec<&'static Slab>,
}

/// What the stacks of one size and configuration take of the process: see [`stats`](super::stats).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StackStats {
    /// The usable bytes of each stack.
    pub size: usize,
    /// The bytes of the guard below each stack.
    pub guard: usize,
    /// How many slabs are mapped. A slab is one mapping that holds many stacks.
    pub slabs: usize,
    /// The address space of those slabs, in bytes. Only pages that were touched take memory.
    pub reserved: usize,
    /// How many bytes of those stacks are in memory. Pages that were swapped out do not count.
    pub resident: usize,
    /// How many stacks exist: under a job, idle in the pool of a thread, idle in the depot that threads share, or in
    /// quarantine.
    pub stacks: usize,
    /// How many of the stacks are idle in the depot.
    pub in_depot: usize,
    /// How many of the stacks are in quarantine: see [`quarantined`](super::quarantined).
    pub quarantined: usize,
    /// The most bytes of stack that any job has used. The figure is in whole pages, or in words if the pool measures
    /// [exactly](crate::pool::PoolConfig::exact_high_water).
    pub high_water: usize,
}

/// When the memory of stacks above the maximum goes back to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Surplus {
    /// Before the call returns.
    Now,
    /// Some time after the last of them came, by calls of [`decay`](super::decay) or [`decay_surplus`], which the
    /// caller sees to. Until then new jobs can have them. With an idle time of zero it is before the call returns.
    Later,
}

/// The longest time for which stacks above the maximum keep their memory after the last of them came, in nanoseconds.
pub(crate) const LEAVE_AFTER: u64 = 1_000_000_000;
/// How many of them one call of [`decay`](super::decay) gives back: it takes half a millisecond.
const LEAVE_AT_ONCE: usize = 256;
/// How many groups are cleared in one call. Other threads that map memory wait for it: a tenth of a millisecond.
const GROUPS_AT_ONCE: usize = 4;
/// How long it is until the next of them go.
const LEAVE_AGAIN: Duration = Duration::from_millis(1);

/// Held while a depot is made.
static MAKING: Mutex<()> = Mutex::new(());

/// All locks of this file: see [`fork`].
#[allow(dead_code, reason = "what is held is not looked at")]
pub(super) struct Held(Vec<MutexGuard<'static, DepotState>>, MutexGuard<'static, ()>);

pub(super) fn hold() -> Held {
    let making = lock(&MAKING);
    Held(all().map(|depot| lock(&depot.state)).collect(), making)
}

/// The list of all depots, newest first. Depots are only added, at its front.
static DEPOTS: AtomicPtr<Depot> = AtomicPtr::new(ptr::null_mut());

/// How many idle stacks each depot keeps with their memory.
static MAX_CACHED: AtomicUsize = AtomicUsize::new(512);

/// Sets how many idle stacks of each size and configuration stay in memory for all threads: 512 unless you set it.
///
/// A stack that exceeds the number gives its memory back to the kernel about a second after the last such stack came,
/// so that a crowd of jobs ends quickly and the next one starts quickly. The turns of a
/// [`Scheduler`](crate::scheduler::Scheduler) see to that, or the end of its `run`, and so do the `Workers` of
/// `asyncjob-tokio`. Where something else runs the jobs, the next jobs that end on the thread do, at most 256 stacks
/// each, and the thread gives all back when it exits. If no other job may come for long, call
/// [`pool::decay`](crate::pool::decay) by a timer. With a [`set_idle_time`] of zero each such stack gives its memory
/// back at once.
///
/// Stacks that a thread keeps for itself do not count: [`PoolConfig::max_idle`](crate::pool::PoolConfig::max_idle)
/// bounds those.
///
/// [`set_idle_time`]: super::set_idle_time
pub fn set_max_cached(stacks: usize) {
    MAX_CACHED.store(stacks, Ordering::Relaxed);
}

/// All depots of the process.
pub(super) fn all() -> impl Iterator<Item = &'static Depot> {
    // SAFETY: depots are leaked boxes, and are written before they are published.
    let mut next = unsafe { DEPOTS.load(Ordering::Acquire).as_ref() };
    std::iter::from_fn(move || {
        let depot = next?;
        // SAFETY: as above.
        next = unsafe { depot.next.load(Ordering::Acquire).as_ref() };
        Some(depot)
    })
}

/// Locks what the parent of this process had locked. A child of `fork(2)` has the memory of its parent, with what lies
/// on its stacks, and none of the locks on it.
pub(super) fn lock_again() {
    all()
        .filter(|depot| depot.spec.secrets.mlock)
        .for_each(Depot::lock_again);
}

/// How many stacks are `leaving`, in all depots. Changed under the lock of the depot.
static LEAVING: AtomicUsize = AtomicUsize::new(0);

/// Whether there are stacks above the maximum that still have their memory.
pub(crate) fn has_surplus() -> bool {
    LEAVING.load(Ordering::Relaxed) != 0
}

/// Gives the memory of all stacks back that threads share and that exceed [`set_max_cached`]. Returns whether there
/// were any.
pub(crate) fn release_surplus() -> bool {
    has_surplus() && all().filter(|depot| depot.release_surplus()).count() != 0
}

/// As [`decay`](super::decay), of the stacks above the maximum only.
pub(crate) fn decay_surplus(now: u64) -> Option<Duration> {
    all().filter_map(|depot| depot.decay_surplus(now)).min()
}

/// How long stacks above the maximum keep their memory after the last of them came, in nanoseconds.
pub(crate) fn leave_after() -> u64 {
    idle_time().min(LEAVE_AFTER)
}

impl Depot {
    /// The depot of a [`Spec`], which is made at its first use. A program uses few of them, so a list is enough.
    pub(crate) fn of(spec: Spec) -> &'static Depot {
        if let Some(depot) = all().find(|depot| depot.spec == spec) {
            return depot;
        }
        fork::prepare_for_forks();
        let _making = lock(&MAKING);
        if let Some(depot) = all().find(|depot| depot.spec == spec) {
            return depot;
        }
        let depot = Box::leak(Box::new(Depot {
            spec,
            state: Mutex::new(DepotState {
                cached: Vec::new(),
                leaving: Vec::new(),
                last_left: 0,
                idle: IdleMarks::NONE,
                bitmaps: Vec::new(),
                mappings: 0,
                retired: Vec::new(),
            }),
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

    /// A cached stack, or a new one in the lowest free slot.
    ///
    /// A pool takes one stack at a time, and so gets no more stacks than its thread uses. The lock is held for a few
    /// instructions, unless a slab or guards have to be made.
    ///
    /// # Errors
    ///
    /// When the kernel refuses memory. The error says what the reader can do.
    pub(crate) fn take(&'static self) -> io::Result<Stack> {
        if let Some((allocate, free)) = foreign::functions() {
            // SAFETY: the pair comes from `functions`.
            return unsafe { StackHeader::write_foreign(self, allocate, free) }.map(Stack);
        }
        let mut state = lock(&self.state);
        let DepotState { cached, leaving, .. } = &mut *state;
        if let Some(slot) = cached.pop() {
            return Ok(Stack(slot));
        }
        if let Some(slot) = leaving.pop() {
            LEAVING.fetch_sub(1, Ordering::Relaxed);
            return Ok(Stack(slot));
        }
        let (slab, index) = state.claim(self)?;
        drop(state);
        // SAFETY: the slot was claimed above.
        unsafe { self.make_stack(slab, index) }
    }

    /// Takes back stacks that need no wiping. The depot keeps up to its maximum, and gives the memory of the others
    /// back to the kernel.
    pub(crate) fn give_all(&'static self, stacks: impl Iterator<Item = Stack>, surplus: Surplus) {
        let mut slots: Vec<Slot> = stacks.map(Stack::into_slot).collect();
        for foreign in slots.extract_if(.., |slot| slot.memory().is_none()) {
            // SAFETY: the slot was a `Stack`. Code that uses a stack keeps its handle.
            unsafe { foreign.release_memory() };
        }
        self.keep_cached(&mut slots, surplus);
        self.release_all(slots);
    }

    /// Gives the memory of all stacks above the maximum back. Returns whether there were any.
    fn release_surplus(&self) -> bool {
        let leaving = lock(&self.state).take_last_leaving(usize::MAX, self.max_cached());
        let had_some = !leaving.is_empty();
        self.release_all(leaving);
        had_some
    }

    /// Takes back stacks that need no wiping, and gives their memory back to the kernel.
    pub(crate) fn release_idle(&self, stacks: impl Iterator<Item = Stack>) {
        self.release_all(stacks.map(Stack::into_slot).collect());
    }

    /// Gives the memory of all idle stacks back. Returns whether there was one.
    pub(super) fn release_cached(&self) -> bool {
        let idle = {
            let mut state = lock(&self.state);
            let mut idle = std::mem::take(&mut state.cached);
            LEAVING.fetch_sub(state.leaving.len(), Ordering::Relaxed);
            idle.append(&mut state.leaving);
            idle
        };
        let has_any = !idle.is_empty();
        self.release_all(idle);
        has_any
    }

    /// Gives the memory of the stacks back that have been idle here for the [`idle_time`](super::idle_time), by the
    /// time `now`, and of some stacks above the maximum if it is time. Returns how long it is until there may be more.
    pub(super) fn decay(&self, now: u64) -> Option<Duration> {
        let mut state = lock(&self.state);
        let DepotState { cached, idle, .. } = &mut *state;
        let (mut unused, again) = idle.take_unused(now, cached, 0);
        let (piece, leave) = state.take_leaving(now, self.max_cached());
        unused.extend(piece);
        drop(state);
        self.release_all(unused);
        again.into_iter().chain(leave).min()
    }

    /// As [`decay`](Self::decay), of the stacks above the maximum only.
    fn decay_surplus(&self, now: u64) -> Option<Duration> {
        let (piece, leave) = lock(&self.state).take_leaving(now, self.max_cached());
        self.release_all(piece);
        leave
    }

    /// Takes back one stack, and wipes it if the `Spec` asks for it.
    ///
    /// # Safety
    ///
    /// No code may run on the stack any more, and nothing that lies on it may be used after this call.
    pub(super) unsafe fn give(&'static self, mut slot: Slot) {
        // SAFETY: the caller's promise.
        unsafe { slot.wipe() };
        self.give_all(std::iter::once(Stack(slot)), Surplus::Now);
    }

    /// Counts a stack whose slot stays in use for ever.
    pub(super) fn quarantine(&self, slot: &Slot) {
        self.note_depth(slot.high_water());
        slot.disown();
        self.quarantined.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn quarantined(&self) -> usize {
        self.quarantined.load(Ordering::Relaxed)
    }

    pub(super) fn note_depth(&self, bytes: usize) {
        self.deepest.fetch_max(bytes, Ordering::Relaxed);
    }

    /// Counts the stacks, and measures each of them.
    pub(super) fn stats(&self) -> StackStats {
        let state = lock(&self.state);
        let mut resident = 0;
        for bitmap in &state.bitmaps {
            let slots = merged(bitmap.slots_in_use().map(|index| bitmap.slab.whole(index)));
            let survey = depth::survey(slots, Geometry::of(self.spec));
            resident += survey.resident;
            if !self.spec.exact {
                self.note_depth(survey.deepest);
            }
        }
        StackStats {
            size: self.spec.size.bytes(),
            guard: self.spec.guard as usize,
            slabs: state.bitmaps.len(),
            reserved: state.bitmaps.iter().map(|bitmap| bitmap.slab.bytes()).sum(),
            resident,
            stacks: state.bitmaps.iter().map(SlotBitmap::in_use_count).sum(),
            in_depot: state.cached.len() + state.leaving.len(),
            quarantined: self.quarantined(),
            high_water: self.deepest.load(Ordering::Relaxed),
        }
    }

    /// The stacks of this depot, those of jobs and idle ones. Foreign stacks are not among them.
    #[cfg(feature = "insight")]
    pub(super) fn places(&self) -> Vec<Place> {
        let state = lock(&self.state);
        let places = state.bitmaps.iter().flat_map(|bitmap| {
            bitmap.slots_in_use().map(|index| Place {
                header: bitmap.slab.header(index).addr(),
                whole: bitmap.slab.whole(index),
                memory: bitmap.slab.stack(index),
            })
        });
        places.collect()
    }

    /// Locks the memory of all stacks again, in a child of `fork(2)`.
    fn lock_again(&self) {
        let state = lock(&self.state);
        for bitmap in &state.bitmaps {
            let slots = bitmap.slots_in_use().map(|index| locked_part(bitmap.slab, index));
            // The kernel may refuse it in a child whose limit is lower than that of its parent was. The child has
            // inherited the stacks all the same.
            merged(slots).for_each(|range| drop(memory::lock(range)));
        }
    }

    /// Makes a stack of a claimed slot, or releases the slot.
    ///
    /// # Safety
    ///
    /// As [`StackHeader::write`].
    unsafe fn make_stack(&'static self, slab: &'static Slab, index: usize) -> io::Result<Stack> {
        if self.spec.secrets.mlock {
            memory::lock(locked_part(slab, index)).map_err(|error| {
                // SAFETY: the claim is the caller's, which gave it to this function. No stack was made of the slot.
                unsafe { self.release(vec![(slab, index)]) };
                memory::explain(
                    error,
                    "a stack could not be locked in memory (mlock2): raise RLIMIT_MEMLOCK (ulimit -l), or ask for \
                     smaller stacks and guards",
                )
            })?;
        }
        // SAFETY: the caller's promise.
        Ok(Stack(unsafe { StackHeader::write(slab, index) }))
    }

    /// Caches `slots`, up to the maximum. What is to leave now is in `slots` then: the stacks from the newest slabs.
    /// What is to leave later is not looked at here, in the end of a job: `take_leaving` chooses.
    fn keep_cached(&self, slots: &mut Vec<Slot>, when: Surplus) {
        let mut state = lock(&self.state);
        let max_cached = self.max_cached();
        if when == Surplus::Now || leave_after() == 0 {
            state.cached.append(slots);
            let surplus = state.cached.len().saturating_sub(max_cached);
            if surplus != 0 {
                *slots = newest(&mut state.cached, surplus, Slot::order);
            }
            return;
        }
        let fitting = max_cached.saturating_sub(state.cached.len()).min(slots.len());
        state.cached.extend(slots.drain(..fitting));
        if !slots.is_empty() {
            LEAVING.fetch_add(slots.len(), Ordering::Relaxed);
            state.leaving.append(slots);
            state.last_left = clock_tick();
        }
    }

    fn max_cached(&self) -> usize {
        #[cfg(test)]
        if self.caches_nothing.load(Ordering::Relaxed) {
            return 0;
        }
        MAX_CACHED.load(Ordering::Relaxed)
    }

    /// As `set_max_cached(0)`, for this depot only: other tests run in the same process.
    #[cfg(test)]
    pub(super) fn cache_nothing(&self) {
        self.caches_nothing.store(true, Ordering::Relaxed);
    }

    /// Gives the memory of stacks back to the kernel, then releases their slots. The memory of neighbours is given back
    /// in one call. Most slots have neighbours here, as stacks that were used together are given together.
    #[cold]
    fn release_all(&self, mut slots: Vec<Slot>) {
        if slots.is_empty() {
            return;
        }
        slots.sort_unstable_by_key(Slot::start);
        let claims: Vec<(&'static Slab, usize)> = slots
            .into_iter()
            // SAFETY: each slot was a `Stack`. Code that uses a stack keeps its handle.
            .filter_map(|slot| unsafe { slot.release_memory() })
            .collect();
        if !self.spec.exact {
            let ranges = merged(claims.iter().map(|(slab, index)| slab.whole(*index)));
            self.note_depth(depth::survey(ranges, Geometry::of(self.spec)).deepest);
        }
        // SAFETY: these are the claims of stacks that are gone.
        unsafe { self.release(claims) };
    }

    /// Gives the memory of claimed slots back to the kernel and releases them. A group of which no other slot is in use
    /// goes with its guards, and a slab of which none is used is unmapped. The claims must be sorted by address.
    ///
    /// # Safety
    ///
    /// As [`SlotBitmap::release`], for each slot. No stack may be in them.
    unsafe fn release(&self, claims: Vec<(&'static Slab, usize)>) {
        let (mut groups, claims) = lock(&self.state).take_emptied(claims);
        let ranges: Vec<Range> = merged(claims.iter().map(|(slab, index)| slab.whole(*index))).collect();
        // SAFETY: the ranges are claimed slots, of which the caller says that no stack is in them.
        unsafe { self.release_pages(&ranges) };
        // SAFETY: all slots of the groups are claimed: by the caller, or by the taker for this function.
        unsafe { self.clear(&groups) };
        let mut state = lock(&self.state);
        let mut empty = Vec::new();
        for (slab, index) in claims {
            // SAFETY: the caller's promise.
            empty.extend(unsafe { state.release(slab, index) });
        }
        loop {
            for TakenGroup { slab, group, .. } in groups {
                empty.extend(state.change(slab, |bitmap| bitmap.give_group(group)));
            }
            groups = state.bitmaps.iter_mut().flat_map(SlotBitmap::take_spare).collect();
            if groups.is_empty() {
                break;
            }
            drop(state);
            // SAFETY: as above.
            unsafe { self.clear(&groups) };
            state = lock(&self.state);
        }
        drop(state);
        if empty.is_empty() {
            return;
        }
        // SAFETY: no slot is in use, so each slot that was claimed has been released. The depot does not have these
        // bitmaps any more, so none is claimed.
        let retired: Vec<&'static Slab> = empty.into_iter().map(|bitmap| unsafe { bitmap.unmap() }).collect();
        lock(&self.state).retired.extend(retired);
    }

    /// Removes the guards of groups, and gives all their memory back to the kernel. A refusal leaves it as it is.
    ///
    /// # Safety
    ///
    /// The caller must own all slots of the groups, and no stack may be in them.
    unsafe fn clear(&self, groups: &[TakenGroup]) {
        let same_kind = |a: &TakenGroup, b: &TakenGroup| a.guards == b.guards;
        for groups in groups
            .chunk_by(same_kind)
            .flat_map(|groups| groups.chunks(GROUPS_AT_ONCE))
        {
            for range in merged(groups.iter().map(|taken| taken.slab.group(taken.group))) {
                // SAFETY: the caller's promise.
                let _ = unsafe { groups[0].guards.clear(range, self.spec.secrets) };
            }
        }
    }

    /// Gives the pages of claimed slots back to the kernel.
    ///
    /// # Safety
    ///
    /// The caller must own the slots in the ranges, and no stack may be in them.
    unsafe fn release_pages(&self, ranges: &[Range]) {
        let stacks: Vec<Range>;
        let ranges = if memory::RELEASE_KEEPS_MAPPING {
            ranges
        } else {
            stacks = Geometry::of(self.spec).stacks(ranges).collect();
            &stacks
        };
        // A refusal leaves the pages as they are: resident, and wiped if the `Spec` asks for it.
        // SAFETY: the caller's promise. Guards in the ranges survive this advice.
        let _ = unsafe { memory::advise_all(ranges, Advice::Release(self.spec.secrets)) };
        if self.spec.secrets.mlock {
            ranges.iter().copied().for_each(memory::unlock);
        }
    }
}

impl DepotState {
    /// Takes a piece of the stacks above the maximum, if it is time. Also returns how long it is until there may be
    /// more.
    fn take_leaving(&mut self, now: u64, max_cached: usize) -> (Vec<Slot>, Option<Duration>) {
        let left = leave_after().saturating_sub(now.saturating_sub(self.last_left));
        let piece = if left == 0 {
            self.take_last_leaving(LEAVE_AT_ONCE, max_cached)
        } else {
            Vec::new()
        };
        let leave = (!self.leaving.is_empty()).then(|| Duration::from_nanos(left).max(LEAVE_AGAIN));
        (piece, leave)
    }

    /// Takes as many stacks as this above the maximum, or all there are. Those that came last go, but each of them that
    /// is from an older slab is cached, and one from a newer slab goes instead.
    fn take_last_leaving(&mut self, count: usize, max_cached: usize) -> Vec<Slot> {
        let piece = self.leaving.split_off(self.leaving.len().saturating_sub(count));
        if piece.is_empty() {
            return piece;
        }
        LEAVING.fetch_sub(piece.len(), Ordering::Relaxed);
        if self.leaving.is_empty() {
            self.leaving = Vec::new(); // the list of a crowd is memory of the crowd, too
        }
        self.cached.extend(piece);
        let surplus = self.cached.len().saturating_sub(max_cached);
        if surplus == 0 {
            return Vec::new(); // new jobs have taken what was cached
        }
        newest(&mut self.cached, surplus, Slot::order)
    }

    /// Claims the lowest free slot of the oldest slab that has one, or of a new slab.
    fn claim(&mut self, depot: &'static Depot) -> io::Result<(&'static Slab, usize)> {
        for bitmap in &mut self.bitmaps {
            if let Some(index) = bitmap.claim()? {
                return Ok((bitmap.slab, index));
            }
        }
        let retired = self.retired.pop();
        self.mappings += 1;
        let mut bitmap = match SlotBitmap::map(depot, self.bitmaps.len(), self.mappings, retired) {
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

    /// Releases a slot. Takes out its slab, for the caller to unmap, if no other slot of it is in use.
    ///
    /// # Safety
    ///
    /// As [`SlotBitmap::release`].
    unsafe fn release(&mut self, slab: &'static Slab, index: usize) -> Option<SlotBitmap> {
        // SAFETY: the caller's promise.
        self.change(slab, |bitmap| unsafe { bitmap.release(index) })
    }

    /// Changes the bitmap of a slab. Takes it out if no slot is in use then.
    fn change(&mut self, slab: &'static Slab, change: impl FnOnce(&mut SlotBitmap)) -> Option<SlotBitmap> {
        let at = self.position(slab);
        change(&mut self.bitmaps[at]);
        (self.bitmaps[at].in_use_count() == 0).then(|| self.bitmaps.remove(at))
    }

    fn position(&self, slab: &'static Slab) -> usize {
        let at = self.bitmaps.iter().position(|bitmap| ptr::eq(bitmap.slab, slab));
        at.expect("a slot belongs to a mapped slab of its depot")
    }

    /// Takes groups of which no other slots are in use than the claimed ones. Also returns the claims that are in none
    /// of them.
    fn take_emptied(&mut self, claims: Vec<(&'static Slab, usize)>) -> (Vec<TakenGroup>, Vec<(&'static Slab, usize)>) {
        let (mut groups, mut left) = (Vec::new(), Vec::new());
        for same in claims.chunk_by(|(a, _), (b, _)| ptr::eq(*a, *b)) {
            let slab = same[0].0;
            let at = self.position(slab);
            let indices: Vec<usize> = same.iter().map(|(_, index)| *index).collect();
            let (taken, others) = self.bitmaps[at].take_emptied(&indices);
            groups.extend(taken);
            left.extend(others.into_iter().map(|index| (slab, index)));
        }
        (groups, left)
    }
}

/// What [`SecretPolicy::mlock`](super::SecretPolicy::mlock) locks of a slot.
fn locked_part(slab: &Slab, index: usize) -> Range {
    if memory::RELEASE_KEEPS_MAPPING {
        slab.whole(index) // neighbours stay one mapping
    } else {
        slab.stack(index)
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

/// The ranges, with neighbours joined. The argument must be sorted by address. It allocates nothing, so that a child of
/// `fork(2)` may call it before the fork has returned.
fn merged(ranges: impl Iterator<Item = Range>) -> impl Iterator<Item = Range> {
    let mut ranges = ranges.peekable();
    std::iter::from_fn(move || {
        let mut merged = ranges.next()?;
        while let Some(next) = ranges.next_if(|next| next.start == merged.start + merged.len) {
            merged.len += next.len;
        }
        Some(merged)
    })
}
