//! What lies at the top of a stack, and the handles to a stack.
//!
//! # Who may use the memory of a stack
//!
//! A [`Stack`] owns its memory as a `Box` does. There is one handle for each claimed slot, so nothing else reaches the
//! memory, and it is safe to wipe a stack, to give it to the depot or to drop it. Other code writes to the memory through
//! [`Stack::top`], which is a raw pointer. Code that does so must keep the handle for as long as anything uses what it has
//! written. `job::control_block` is the one that does: it keeps the handle of a job's stack in a `ManuallyDrop` in the
//! control block. To take the handle out again is unsafe, and allowed when the job has ended or will never run again.

use std::io;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use corosensei::stack::valgrind::ValgrindStackRegistration;

use super::depot::Depot;
use super::foreign::{self, AllocateStack, FreeStack};
use super::memory::Range;
use super::slab::Slab;
use super::{depth, scrub};

/// What is known of a stack without knowing its job, and what the overflow report knows of the job. It lies in the slot
/// itself, right above the job's header, and is one line of the cache.
#[repr(C, align(64))]
pub(crate) struct StackHeader {
    pub(super) id: AtomicU64,
    pub(super) name: AtomicPtr<u8>,
    pub(super) name_len: AtomicUsize,
    /// The rest is written once, when the slot is furnished with memory.
    limit: NonNull<u8>,
    depot: &'static Depot,
    /// `None`: the memory is somebody else's, see `foreign`.
    slab: Option<&'static Slab>,
    /// Without it, Valgrind takes each switch for a frame of megabytes. Outside Valgrind it costs a few instructions.
    valgrind: ManuallyDrop<ValgrindStackRegistration>,
    index: u32,
}

const _: () = assert!(size_of::<StackHeader>() == 64);

impl StackHeader {
    /// Makes a stack of a slot that has been claimed.
    ///
    /// # Safety
    ///
    /// The caller must have claimed slot `index` of `slab`, and must not use the claim after this call: the handle that this
    /// returns has it.
    pub(super) unsafe fn write(slab: &'static Slab, index: usize) -> Slot {
        let whole = slab.whole(index);
        let limit = NonNull::new(whole.start as *mut u8).expect("a slab is not at address 0");
        let header = NonNull::new(slab.header(index)).expect("a slab is not at address 0");
        // SAFETY: the claim makes the memory of the slot the caller's; `slab` aligns it.
        unsafe { StackHeader::put(header, limit, slab.depot, Some((slab, index))) }
    }

    /// Makes a stack of memory that is somebody else's.
    ///
    /// # Errors
    ///
    /// What the allocator refused.
    ///
    /// # Safety
    ///
    /// As [`foreign::allocate`].
    pub(super) unsafe fn write_foreign(
        depot: &'static Depot,
        allocate: AllocateStack,
        free: FreeStack,
    ) -> io::Result<Slot> {
        // SAFETY: the caller's promise.
        let (limit, header) = unsafe { foreign::allocate(allocate, free)? };
        // SAFETY: just allocated, and `foreign` aligns it.
        Ok(unsafe { StackHeader::put(header, limit, depot, None) })
    }

    /// # Safety
    ///
    /// From `limit` to the end of `plate` the memory is the caller's, and `plate` is aligned.
    unsafe fn put(
        header: NonNull<StackHeader>,
        limit: NonNull<u8>,
        depot: &'static Depot,
        slot: Option<(&'static Slab, usize)>,
    ) -> Slot {
        let len = header.as_ptr() as usize + size_of::<StackHeader>() - limit.as_ptr() as usize;
        let value = StackHeader {
            id: AtomicU64::new(0),
            name: AtomicPtr::default(),
            name_len: AtomicUsize::new(0),
            limit,
            depot,
            slab: slot.map(|(slab, _)| slab),
            valgrind: ManuallyDrop::new(ValgrindStackRegistration::new(limit.as_ptr(), len)),
            index: slot.map_or(0, |(_, index)| index as u32),
        };
        // SAFETY: the caller's promise.
        unsafe { header.write(value) };
        Slot(header)
    }

    #[inline]
    pub(crate) fn set_id(&self, id: u64) {
        self.id.store(id, Ordering::Relaxed);
    }

    /// Stores where the name of the job is, for an overflow report. The report reads it in a signal handler.
    ///
    /// # Safety
    ///
    /// The caller must not move, change or free the bytes of `name` before it calls [`clear_name`](Self::clear_name).
    #[inline]
    pub(crate) unsafe fn set_name(&self, name: &str) {
        self.name.store(name.as_ptr().cast_mut(), Ordering::Relaxed);
        self.name_len.store(name.len(), Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn clear_name(&self) {
        self.name_len.store(0, Ordering::Relaxed);
    }
}

/// A stack, owned: dropping it leaves it in the depot. Whoever drops it has left it.
///
/// One pointer, so that it moves in a register: a pair with a small second half is stored in parts and loaded whole, and
/// each such load waits for the stores (11 ns a start, measured).
#[repr(transparent)]
pub(crate) struct Stack(pub(super) Slot);

/// The pointer in a [`Stack`]. It does nothing when it is dropped: the depot keeps these.
pub(crate) struct Slot(NonNull<StackHeader>);

// SAFETY: a slot belongs to whoever holds it and to no thread; what it points to is atomic or written once.
unsafe impl Send for Slot {}

impl Stack {
    /// One past the highest byte that the job may use, aligned to 64 bytes. The plate lies there.
    #[inline]
    pub(crate) fn top(&self) -> NonNull<u8> {
        self.0.0.cast()
    }

    #[inline]
    pub(crate) fn header(&self) -> &StackHeader {
        self.0.header()
    }

    /// The lowest address of the slot, guard included.
    #[inline]
    pub(crate) fn limit(&self) -> NonNull<u8> {
        self.header().limit
    }

    /// Where this stack came from, which says everything that it has in common with others.
    #[inline]
    pub(crate) fn depot(&self) -> &'static Depot {
        self.header().depot
    }

    /// How many bytes of this stack have been used, by its job or by one before it: whole pages, unless the stack is of an
    /// exact kind. One system call.
    pub(crate) fn high_water(&self) -> usize {
        self.0.high_water()
    }

    /// Stacks from older slabs come first.
    pub(crate) fn order(&self) -> u64 {
        self.0.order()
    }

    /// Overwrites what has been used, if that was asked for. No job is on the stack any more.
    pub(crate) fn wipe(&mut self) {
        // SAFETY: this is the only handle of the stack, and code that uses the stack keeps it: see the module.
        unsafe { self.0.wipe() };
    }

    /// Keeps the memory as it is for ever, and counts it.
    pub(crate) fn quarantine(self) {
        self.depot().quarantine(&self.into_slot());
    }

    pub(super) fn into_slot(self) -> Slot {
        let stack = ManuallyDrop::new(self);
        Slot(stack.0.0)
    }
}

impl Drop for Stack {
    #[inline]
    fn drop(&mut self) {
        let slot = Slot(self.0.0);
        // SAFETY: this was the only handle of the stack, and code that uses the stack keeps it: see the module.
        unsafe { self.depot().give(slot) };
    }
}

impl Slot {
    #[inline]
    fn header(&self) -> &StackHeader {
        // SAFETY: a plate was written there, and stays for as long as the slot is out.
        unsafe { self.0.as_ref() }
    }

    pub(super) fn start(&self) -> usize {
        self.header().limit.as_ptr() as usize
    }

    pub(super) fn order(&self) -> u64 {
        let header = self.header();
        header.slab.map_or(0, |slab| slab.order(header.index as usize))
    }

    /// `None` for somebody else's memory, of which we know nothing.
    pub(super) fn memory(&self) -> Option<Range> {
        let header = self.header();
        Some(header.slab?.stack(header.index as usize))
    }

    pub(super) fn high_water(&self) -> usize {
        let Some(stack) = self.memory() else { return 0 };
        if !self.header().depot.spec.exact {
            return depth::resident_depth(stack);
        }
        let resident = depth::resident_depth(stack);
        // SAFETY: readable memory of this stack. A job that runs on it is this thread's, and stands still meanwhile.
        let lowest = unsafe { depth::lowest_used_word(stack.start + stack.len - resident, self.0.as_ptr() as usize) };
        self.0.as_ptr() as usize - lowest
    }

    /// # Safety
    ///
    /// No code may run on the stack any more, and nothing that lies on it may be used after this call.
    pub(super) unsafe fn wipe(&mut self) {
        let depot = self.header().depot;
        if let Some(stack) = self.memory().filter(|_| depot.spec.wipes()) {
            // SAFETY: the caller's promise; the header lies in the highest page of the slot.
            let used = unsafe { scrub::scrub(stack, self.0.as_ptr() as usize, depot.spec.secrets.mlock) };
            depot.note_depth(used);
        }
    }

    /// Ends the plate. What remains is a claimed slot; or nothing, as somebody else's memory is given back.
    ///
    /// # Safety
    ///
    /// No code may run on the stack any more, and nothing that lies on it may be used after this call.
    pub(super) unsafe fn release_memory(self) -> Option<(&'static Slab, usize)> {
        // SAFETY: the plate is not used after this.
        let header = unsafe { self.0.read() };
        let StackHeader {
            limit,
            slab,
            index,
            valgrind,
            ..
        } = header;
        drop(ManuallyDrop::into_inner(valgrind));
        if slab.is_none() {
            // SAFETY: a header without a slab is that of foreign memory, which begins at its limit. The caller does not
            // use the memory after this.
            unsafe { foreign::free(limit) };
        }
        Some((slab?, index as usize))
    }
}
