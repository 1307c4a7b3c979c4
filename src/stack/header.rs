//! What lies at the top of a stack, and the handles to a stack.
//!
//! # Who may use the memory of a stack
//!
//! A [`Stack`] owns its memory as a `Box` does. There is one handle for each claimed slot, so nothing else reaches the
//! memory, and it is safe to wipe a stack, to give it to the depot or to drop it.
//!
//! Other code writes to the memory through [`Stack::top`], which is a raw pointer. Code that does so must keep the
//! handle for as long as anything uses what it has written. Only `job::control_block` does so: it keeps the handle of a
//! job's stack in a `ManuallyDrop` in the control block. To take the handle out again is unsafe, and allowed when the
//! job has ended or will never run again.

use std::io;
use std::mem::{ManuallyDrop, offset_of};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use corosensei::stack::valgrind::ValgrindStackRegistration;

use super::depot::Depot;
use super::foreign::{self, AllocateStack, FreeStack};
use super::idle::Idle;
use super::memory::{self, Advice, Range, page};
use super::slab::Slab;
use super::{depth, scrub};

/// What the library knows of a stack without its job, and what an overflow report says of the job.
///
/// The header lies in the slot itself, right above the control block of the job, and is one line of the cache.
#[repr(C, align(64))]
pub(crate) struct StackHeader {
    pub(super) id: AtomicU64,
    pub(super) name: AtomicPtr<u8>,
    pub(super) name_len: AtomicUsize,
    /// This and the following fields are written once, when the stack is made.
    limit: NonNull<u8>,
    depot: &'static Depot,
    /// `None` for foreign memory: see `foreign`.
    slab: Option<&'static Slab>,
    /// Without a registration, Valgrind takes each switch for a stack frame of megabytes. Outside Valgrind it costs a
    /// few instructions.
    valgrind: ManuallyDrop<ValgrindStackRegistration>,
    index: u32,
}

const _: () = assert!(size_of::<StackHeader>() == 64);

impl StackHeader {
    /// Makes a stack of a claimed slot.
    ///
    /// # Safety
    ///
    /// The caller must have claimed slot `index` of `slab`, and must not use the claim after this call: the handle that
    /// this returns has it.
    pub(super) unsafe fn write(slab: &'static Slab, index: usize) -> Slot {
        let whole = slab.whole(index);
        let limit = NonNull::new(whole.start as *mut u8).expect("a slab is not at address 0");
        let header = NonNull::new(slab.header(index)).expect("a slab is not at address 0");
        // SAFETY: the claim makes the memory of the slot the caller's. `slab` aligns the address of the header.
        unsafe { StackHeader::put(header, limit, slab.depot, Some((slab, index))) }
    }

    /// Makes a stack of foreign memory.
    ///
    /// # Errors
    ///
    /// When the allocator gives no memory, or too little.
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
        // SAFETY: the memory was just allocated. `foreign` aligns the address of the header.
        Ok(unsafe { StackHeader::put(header, limit, depot, None) })
    }

    /// # Safety
    ///
    /// The caller must own the memory from `limit` to the end of the header, and `header` must be aligned.
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

    /// Stores the id of the job, for an overflow report.
    #[inline]
    pub(crate) fn set_id(&self, id: u64) {
        self.id.store(id, Ordering::Relaxed);
    }

    /// Where in a header the id of the job is, the address of its name, and the length of the name: for what reads the
    /// headers of other threads' jobs from outside.
    pub(crate) const ID_AT: usize = offset_of!(StackHeader, id);
    pub(super) const LIMIT_AT: usize = offset_of!(StackHeader, limit);
    pub(crate) const NAME_AT: [usize; 2] = [offset_of!(StackHeader, name), offset_of!(StackHeader, name_len)];

    /// Stores where the name of the job is, for an overflow report, which reads the name in a signal handler.
    ///
    /// # Safety
    ///
    /// The caller must not move, change or free the bytes of `name` before it calls [`clear_name`](Self::clear_name).
    #[inline]
    pub(crate) unsafe fn set_name(&self, name: &str) {
        self.name.store(name.as_ptr().cast_mut(), Ordering::Relaxed);
        self.name_len.store(name.len(), Ordering::Relaxed);
    }

    /// Ends what [`set_name`](Self::set_name) has begun.
    #[inline]
    pub(crate) fn clear_name(&self) {
        self.name_len.store(0, Ordering::Relaxed);
    }
}

/// An owned stack. Dropping it gives the stack to the depot.
///
/// It is one pointer, so that it moves in a register. A pair with a small second half is stored in parts and loaded
/// whole, and each such load waits for the stores (11 ns a start, measured).
#[repr(transparent)]
pub(crate) struct Stack(pub(super) Slot);

/// An owned stack of which dropping the handle does nothing, as the depot keeps it. A dropped `Slot` stays in use for
/// ever.
pub(crate) struct Slot(NonNull<StackHeader>);

// SAFETY: the handle is the only one of its slot, and no thread is special to a slot. The fields of the header that
// change are atomic.
unsafe impl Send for Slot {}

impl Stack {
    /// One past the highest byte that the job may use, aligned to 64 bytes. The header lies there.
    ///
    /// Code that writes below it must keep the handle: see the documentation of the module.
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

    /// The bytes from the limit to the lowest byte that the job may use. Foreign memory has no guard.
    pub(crate) fn guard_bytes(&self) -> usize {
        let memory = self.0.memory();
        memory.map_or(0, |memory| memory.start - self.limit().addr().get())
    }

    /// The depot that the stack came from. It has the [`Spec`](super::Spec) of the stack.
    #[inline]
    pub(crate) fn depot(&self) -> &'static Depot {
        self.header().depot
    }

    /// How many bytes of the stack its present and earlier jobs have used: in whole pages, unless the `Spec` is exact.
    /// One system call.
    pub(crate) fn high_water(&self) -> usize {
        self.0.high_water()
    }

    /// Gives the pages that lie wholly below `lowest_used` back to the kernel. Returns how many of their bytes were
    /// resident: 0 also when the kernel refuses, and for foreign memory. Two system calls.
    ///
    /// # Safety
    ///
    /// Nothing that lies below `lowest_used` may be used after this call. No code may run on the stack during this
    /// call.
    pub(crate) unsafe fn release_below(&self, lowest_used: usize) -> usize {
        let Some(stack) = self.0.memory() else { return 0 };
        let end = lowest_used - lowest_used % page();
        let Some(len) = end.checked_sub(stack.start).filter(|len| *len != 0) else {
            return 0;
        };
        let depot = self.depot();
        if depot.spec.secrets.mlock && !memory::RELEASE_KEEPS_MAPPING {
            return 0; // what is mapped anew is not locked
        }
        // The pages are the record of how deep the stack has been used.
        let resident = depth::resident(stack, end);
        let depth = if depot.spec.exact {
            self.high_water()
        } else {
            resident.depth
        };
        depot.note_depth(depth);
        let range = Range {
            start: stack.start,
            len,
        };
        // Pages that were swapped out are not resident, and go with the others.
        // SAFETY: the caller's promise. The range has no part of the guard, which lies below `stack.start`.
        let released = unsafe { memory::advise(range, Advice::Release(depot.spec.secrets)) };
        released.map_or(0, |()| resident.below)
    }

    /// A key to sort stacks by. The stacks of older slabs come first.
    pub(crate) fn order(&self) -> u64 {
        self.0.order()
    }

    /// Zeroes what has been used of the stack, if the `Spec` asks for it.
    pub(crate) fn wipe(&mut self) {
        // SAFETY: this is the only handle of the stack. Code that uses the stack keeps the handle: see the module.
        unsafe { self.0.wipe() };
    }

    /// Keeps the memory as it is for ever, and counts the stack as quarantined.
    pub(crate) fn quarantine(self) {
        self.depot().quarantine(&self.into_slot());
    }

    pub(super) fn into_slot(self) -> Slot {
        let stack = ManuallyDrop::new(self);
        Slot(stack.0.0)
    }
}

impl Idle for Slot {
    fn last_use(&self) -> (usize, u64) {
        (self.0.as_ptr() as usize, self.header().id.load(Ordering::Relaxed))
    }
}

impl Idle for Stack {
    fn last_use(&self) -> (usize, u64) {
        self.0.last_use()
    }
}

impl Drop for Stack {
    #[inline]
    fn drop(&mut self) {
        let slot = Slot(self.0.0);
        // SAFETY: this was the only handle of the stack. Code that uses the stack keeps the handle: see the module.
        unsafe { self.depot().give(slot) };
    }
}

impl Slot {
    #[inline]
    fn header(&self) -> &StackHeader {
        // SAFETY: a `Slot` is made with its header, which exists until `release_memory` takes the `Slot`.
        unsafe { self.0.as_ref() }
    }

    pub(super) fn start(&self) -> usize {
        self.header().limit.as_ptr() as usize
    }

    pub(super) fn order(&self) -> u64 {
        let header = self.header();
        header.slab.map_or(0, |slab| slab.order(header.index as usize))
    }

    /// Marks the stack as one without a job. What reads stacks from outside takes the job for a paused one otherwise,
    /// because nothing changes the memory of a stack in quarantine.
    pub(super) fn disown(&self) {
        self.header().set_id(0);
    }

    /// The stack without its guard. `None` for foreign memory, of which the library knows nothing.
    pub(super) fn memory(&self) -> Option<Range> {
        let header = self.header();
        Some(header.slab?.stack(header.index as usize))
    }

    pub(super) fn high_water(&self) -> usize {
        let Some(stack) = self.memory() else { return 0 };
        let resident = depth::resident_depth(stack);
        if !self.header().depot.spec.exact {
            return resident;
        }
        // SAFETY: the range is readable memory of this stack. A job on it belongs to this thread, so it does not run
        // now.
        let lowest = unsafe { depth::lowest_used_word(stack.start + stack.len - resident, self.0.as_ptr() as usize) };
        self.0.as_ptr() as usize - lowest
    }

    /// # Safety
    ///
    /// No code may run on the stack any more, and nothing that lies on it may be used after this call.
    pub(super) unsafe fn wipe(&mut self) {
        let depot = self.header().depot;
        if let Some(stack) = self.memory().filter(|_| depot.spec.wipes()) {
            // SAFETY: the caller's promise. The header lies in the highest page of the slot.
            let used = unsafe { scrub::scrub(stack, self.0.as_ptr() as usize, depot.spec.secrets) };
            depot.note_depth(used);
        }
    }

    /// Ends the header. Gives foreign memory back to its allocator, and returns the claim of any other slot, whose
    /// memory the caller gives back to the kernel.
    ///
    /// # Safety
    ///
    /// No code may run on the stack any more, and nothing that lies on it may be used after this call.
    pub(super) unsafe fn release_memory(self) -> Option<(&'static Slab, usize)> {
        // SAFETY: the header exists until here, and is not used after this.
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
            // SAFETY: foreign memory begins at its limit. The caller does not use the memory after this.
            unsafe { foreign::free(limit) };
        }
        Some((slab?, index as usize))
    }
}
