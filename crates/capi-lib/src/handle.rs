//! Handles, which may be stale without harm.
//!
//! ```text
//!   63   62   61                    24 23            0
//!   +----+----+-----------------------+--------------+
//!   | of | 0  |      generation       |    index     |     ASYNC_JOB *, ASYNC_WAIT_CTX *
//!   |Rust|    |                       |              |
//!   +----+----+-----------------------+--------------+
//!                                            |
//!              chunk pointers  [ . | . | . | ...          fixed, zeroed, 2 MiB of address space
//!                                |   |
//!                                v   v
//!                         64 slots a chunk, never freed: each holds the generation that is alive in it
//! ```
//!
//! A chunk also has what is seldom needed of each object, behind its slots: of very many objects the slots alone are
//! few cache lines and pages.
//!
//! A C program sees a handle as an opaque pointer, so a handle need not be an address. A lookup reads two words. It
//! gives the slot if the generation of the handle is alive in it, and nothing otherwise. Any thread may look up any
//! value: a handle that is stale, invented or NULL leads to no memory with another use, because a slot stays a slot for
//! ever. A slot without an object holds a word that is no handle of it, as its index is that of the neighbour: a lookup
//! needs no check of its own to refuse the handle that the slot will have next. A generation comes back after 250,000
//! million jobs in one slot.

use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

const INDEX_BITS: u32 = 24;
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;
/// The number of slots that are made together.
pub(crate) const CHUNK: usize = 64;
const CHUNKS: usize = (1 << INDEX_BITS) / CHUNK;
/// Chunk 0 is never made. No handle is therefore NULL, whatever its generation, and NULL leads to nothing.
const FIRST_CHUNK: usize = 1;

/// The bit that tells the wait ctxs of Rust code, which are in a table of their own, from those of C programs. No
/// generation has it.
const OF_RUST: u64 = 1 << 63;
/// The slot has no object. No handle has this bit, and the index beside it is that of the neighbour.
const UNUSED: u64 = 1 << 62;
const NEIGHBOUR: u64 = 1;

/// A wait ctx, as C programs see it: an opaque handle.
#[allow(non_camel_case_types, reason = "the C interface's name")]
#[derive(Debug)]
#[repr(C)]
pub struct async_wait_ctx_st {
    _opaque: [u8; 0],
}

/// `ASYNC_WAIT_CTX` of `<openssl/async.h>`.
pub type ASYNC_WAIT_CTX = async_wait_ctx_st;

/// A handle of an object of kind `T`.
pub(crate) struct Handle<T> {
    bits: u64,
    _of: PhantomData<fn() -> T>,
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Handle<T> {}

impl<T> PartialEq for Handle<T> {
    fn eq(&self, other: &Self) -> bool {
        self.bits == other.bits
    }
}

impl<T> Handle<T> {
    /// The handle that C passed in.
    pub(crate) fn from_c<C>(pointer: *mut C) -> Self {
        Handle::from_bits(pointer.addr() as u64)
    }

    pub(crate) fn to_c<C>(self) -> *mut C {
        ptr::without_provenance_mut(self.bits as usize)
    }

    pub(crate) fn from_number(number: usize) -> Self {
        Handle::from_bits(number as u64)
    }

    pub(crate) fn to_number(self) -> usize {
        self.bits as usize
    }

    /// The handle as C code sees it, if it names an object of Rust code.
    pub(crate) fn to_c_of_rust<C>(self) -> *mut C {
        ptr::without_provenance_mut((self.bits | OF_RUST) as usize)
    }

    /// The reverse of [`to_c_of_rust`](Self::to_c_of_rust). `None` for every other value.
    pub(crate) fn of_rust_from_c<C>(pointer: *mut C) -> Option<Self> {
        let bits = pointer.addr() as u64;
        (bits & OF_RUST != 0).then(|| Handle::from_bits(bits & !OF_RUST))
    }

    fn from_bits(bits: u64) -> Self {
        Handle { bits, _of: PhantomData }
    }

    fn index(self) -> usize {
        (self.bits & INDEX_MASK) as usize
    }
}

/// What is in a slot.
pub(crate) trait InSlot: Default + Sync {
    /// A type without a size whose alignment is that of the slot, which is a power of two so that a shift finds it: at
    /// least a [`Line`] where neighbours belong to different threads.
    type Alignment;
}

/// The alignment of a cache line.
#[repr(align(64))]
pub(crate) struct Line;

/// The alignment of half a cache line.
#[repr(align(32))]
pub(crate) struct HalfLine;

/// One object, and the handle under which it is alive now.
#[repr(C)]
pub(crate) struct Slot<T: InSlot> {
    live: AtomicU64,
    value: T,
    _alignment: [T::Alignment; 0],
}

impl<T: InSlot> Slot<T> {
    /// The handle of the object that is in this slot now. Without an object it is one that leads to nothing.
    #[inline]
    pub(crate) fn handle(&self) -> Handle<T> {
        Handle::from_bits(self.live.load(Ordering::Relaxed))
    }

    #[inline]
    pub(crate) fn value(&self) -> &T {
        &self.value
    }

    /// Gives the slot an object: from now on [`handle`](Self::handle) leads to it.
    ///
    /// As [`end`](Self::end), this is for one thread at a time.
    #[inline]
    pub(crate) fn begin(&self) {
        let live = self.live.load(Ordering::Relaxed);
        if live & UNUSED != 0 {
            self.live.store((live ^ NEIGHBOUR) & !UNUSED, Ordering::Release);
        }
    }

    /// Makes every copy of the handle stale. After the next [`begin`](Self::begin), the handle is a new one.
    ///
    /// Two threads must not end the same slot at the same time: a stale handle could become alive again. It would still
    /// lead to this slot, so this is a rule about handles and not about memory. For jobs only the owner of the slot
    /// makes this call, for wait ctxs only the thread that has marked the ctx.
    #[inline]
    pub(crate) fn end(&self) {
        let live = self.live.load(Ordering::Relaxed);
        if live & UNUSED == 0 {
            let next = live.wrapping_add(1 << INDEX_BITS) & !(OF_RUST | UNUSED);
            self.live.store((next ^ NEIGHBOUR) | UNUSED, Ordering::Release);
        }
    }
}

/// Slots that are made together, and a `U` for each of them.
#[repr(C, align(64))]
pub(crate) struct Chunk<T: InSlot, U> {
    pub(crate) slots: [Slot<T>; CHUNK],
    pub(crate) more: [U; CHUNK],
}

/// All objects of one kind in the process. A new table is zeros only, so a static one takes no place in the file.
pub(crate) struct Table<T: InSlot + 'static, U: 'static = ()> {
    chunks: [AtomicPtr<Chunk<T, U>>; CHUNKS],
    /// The number of chunks that were made, so that the next one has this number and `FIRST_CHUNK`.
    made: AtomicUsize,
}

impl<T: InSlot, U: Default + Sync> Table<T, U> {
    pub(crate) const fn new() -> Self {
        Table {
            chunks: [const { AtomicPtr::new(ptr::null_mut()) }; CHUNKS],
            made: AtomicUsize::new(0),
        }
    }

    /// The slot in which this handle is alive, if there is one.
    ///
    /// The answer is about this moment. A caller that does not own the slot must expect that the handle becomes stale
    /// at any time afterwards.
    #[inline]
    pub(crate) fn live(&self, handle: Handle<T>) -> Option<&'static Slot<T>> {
        self.live_with_more(handle).map(|(slot, _)| slot)
    }

    /// As [`live`](Self::live), with what else belongs to the slot.
    #[inline]
    pub(crate) fn live_with_more(&self, handle: Handle<T>) -> Option<(&'static Slot<T>, &'static U)> {
        let chunk = self.chunk(handle.index() / CHUNK)?;
        let at = handle.index() % CHUNK;
        let slot = &chunk.slots[at];
        (slot.live.load(Ordering::Acquire) == handle.bits).then_some((slot, &chunk.more[at]))
    }

    /// Makes 64 slots more. `None` when the process has 16 million.
    #[cold]
    pub(crate) fn grow(&self) -> Option<&'static Chunk<T, U>> {
        let number = FIRST_CHUNK + self.made.fetch_add(1, Ordering::Relaxed);
        let chunk_pointer = self.chunks.get(number)?;
        let chunk = Box::leak(Box::new(Chunk {
            slots: std::array::from_fn(|i| Slot {
                live: AtomicU64::new(UNUSED | (1 << INDEX_BITS) | ((number * CHUNK + i) as u64 ^ NEIGHBOUR)),
                value: T::default(),
                _alignment: [],
            }),
            more: std::array::from_fn(|_| U::default()),
        }));
        chunk_pointer.store(chunk, Ordering::Release);
        Some(chunk)
    }

    #[inline]
    fn chunk(&self, number: usize) -> Option<&'static Chunk<T, U>> {
        let chunk = self.chunks.get(number)?.load(Ordering::Acquire);
        // SAFETY: NULL, or a chunk that `grow` leaked.
        unsafe { chunk.as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl InSlot for u32 {
        type Alignment = Line;
    }

    static TABLE: Table<u32> = Table::new();

    #[test]
    fn a_handle_becomes_stale_with_its_object_and_leads_to_no_other() {
        let chunk = &TABLE.grow().unwrap().slots;
        chunk[3].begin();
        let first = chunk[3].handle();
        assert!(ptr::eq(TABLE.live(first).unwrap(), &chunk[3]));
        chunk[3].end();
        assert!(TABLE.live(first).is_none());
        chunk[3].begin();
        let second = chunk[3].handle();
        assert!(second != first && TABLE.live(second).is_some());
    }

    /// The handle that a slot will have next, and every word that a slot holds.
    #[test]
    fn nothing_leads_to_a_slot_without_an_object() {
        let chunk = &TABLE.grow().unwrap().slots;
        for slot in &chunk[..8] {
            slot.begin();
            let first = slot.handle();
            slot.end();
            let next = Handle::<u32>::from_bits(first.bits + (1 << INDEX_BITS));
            assert!(TABLE.live(next).is_none());
            slot.begin();
            assert!(slot.handle() == next && TABLE.live(next).is_some());
            slot.end();
        }
        for slot in chunk {
            assert!(TABLE.live(slot.handle()).is_none());
            let unused = Handle::<u32>::from_bits(slot.handle().bits & !UNUSED);
            assert!(TABLE.live(unused).is_none());
            let first = Handle::<u32>::from_bits(unused.bits ^ NEIGHBOUR);
            assert!(TABLE.live(first).is_none());
        }
    }

    #[test]
    fn a_value_that_was_never_a_handle_leads_to_nothing() {
        for bits in [
            0,
            1,
            INDEX_MASK,
            u64::MAX,
            1 << INDEX_BITS | 0xff_ffff,
            0x7fff_0000_1230,
        ] {
            assert!(TABLE.live(Handle::from_bits(bits)).is_none(), "{bits:#x}");
        }
    }
}
