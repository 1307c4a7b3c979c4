//! Handles that can go stale without harm.
//!
//! ```text
//!   63                              24 23            0
//!   +---------------------------------+--------------+
//!   |           generation            |    index     |     ASYNC_JOB *, ASYNC_WAIT_CTX *
//!   +---------------------------------+--------------+
//!                                            |
//!              chunk pointers  [ . | . | . | ...          fixed, zeroed, 2 MiB of address space
//!                                |   |
//!                                v   v
//!                         64 slots a chunk, never freed: each holds the generation that is alive in it
//! ```
//!
//! A C program sees a handle as an opaque pointer, so it need not be one. Looking one up reads two words and can end in one
//! of two ways: the slot whose generation this is, or nothing. A handle that is stale, invented or NULL never leads
//! to memory that was given to somebody else, whichever thread asks, because a slot stays a slot for ever; and it takes
//! a million million jobs in one slot before a generation comes back.

use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

const INDEX_BITS: u32 = 24;
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;
/// Slots that are made together.
pub(crate) const CHUNK: usize = 64;
const CHUNKS: usize = (1 << INDEX_BITS) / CHUNK;
/// Chunk 0 is never made: so no handle is NULL, whatever its generation, and NULL leads to nothing.
const FIRST_CHUNK: usize = 1;

/// The name of an object of kind `T`, as C carries it around.
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

    fn from_bits(bits: u64) -> Self {
        Handle { bits, _of: PhantomData }
    }

    fn index(self) -> usize {
        (self.bits & INDEX_MASK) as usize
    }
}

/// One object, and the handle under which it is alive now. A line of the cache, so that finding it is a shift.
#[repr(align(64))]
pub(crate) struct Slot<T> {
    live: AtomicU64,
    value: T,
}

impl<T> Slot<T> {
    /// The handle of what lives here now, or will next.
    #[inline]
    pub(crate) fn handle(&self) -> Handle<T> {
        Handle::from_bits(self.live.load(Ordering::Relaxed))
    }

    #[inline]
    pub(crate) fn value(&self) -> &T {
        &self.value
    }

    /// Makes every copy of the handle stale. The next one that [`handle`](Self::handle) gives is new.
    ///
    /// Only the owner of the slot calls this, so there is one writer.
    #[inline]
    pub(crate) fn end(&self) {
        let next = self.live.load(Ordering::Relaxed).wrapping_add(1 << INDEX_BITS);
        self.live.store(next, Ordering::Release);
    }
}

/// All objects of one kind in the process.
pub(crate) struct Table<T: 'static> {
    chunks: [AtomicPtr<[Slot<T>; CHUNK]>; CHUNKS],
    made: AtomicUsize,
}

impl<T: Default + Sync> Table<T> {
    pub(crate) const fn new() -> Self {
        Table {
            chunks: [const { AtomicPtr::new(ptr::null_mut()) }; CHUNKS],
            made: AtomicUsize::new(FIRST_CHUNK),
        }
    }

    /// What lives under this handle, if it still does.
    ///
    /// The answer is about now: whoever is not the owner must expect the slot to end at any time after.
    #[inline]
    pub(crate) fn live(&self, handle: Handle<T>) -> Option<&'static Slot<T>> {
        let chunk = self.chunk(handle.index() / CHUNK)?;
        let slot = &chunk[handle.index() % CHUNK];
        (slot.live.load(Ordering::Acquire) == handle.bits).then_some(slot)
    }

    /// Makes 64 slots more; `None` when the process has 16 million.
    #[cold]
    pub(crate) fn grow(&self) -> Option<&'static [Slot<T>; CHUNK]> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let place = self.chunks.get(number)?;
        let chunk = Box::leak(Box::new(std::array::from_fn(|i| Slot {
            live: AtomicU64::new((1 << INDEX_BITS) | (number * CHUNK + i) as u64),
            value: T::default(),
        })));
        place.store(chunk, Ordering::Release);
        Some(chunk)
    }

    #[inline]
    fn chunk(&self, number: usize) -> Option<&'static [Slot<T>; CHUNK]> {
        let chunk = self.chunks.get(number)?.load(Ordering::Acquire);
        // SAFETY: NULL, or a chunk that `grow` leaked.
        unsafe { chunk.as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static TABLE: Table<u32> = Table::new();

    #[test]
    fn a_handle_dies_with_its_object_and_nothing_else_answers_to_it() {
        let chunk = TABLE.grow().unwrap();
        let first = chunk[3].handle();
        assert!(ptr::eq(TABLE.live(first).unwrap(), &chunk[3]));
        chunk[3].end();
        assert!(TABLE.live(first).is_none());
        let second = chunk[3].handle();
        assert!(second != first && TABLE.live(second).is_some());
    }

    #[test]
    fn what_was_never_a_handle_is_not_alive() {
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
