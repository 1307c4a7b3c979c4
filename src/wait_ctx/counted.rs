//! A counted reference to a value that is used again: the handle of a wait ctx.
//!
//! It differs from an `Arc` in two ways. The last handle goes without an atomic read-modify-write, because both counts
//! are in one word: one load shows that there is no other handle and no weak one, and then nobody can make one. And the
//! block stays with the thread, for the next value.
//!
//! ```text
//!     Block              counts: u64
//!   +--------+        +------------------+------------------+
//!   | counts |        | weak handles, +1 | handles          |
//!   | next   |        +------------------+------------------+
//!   | value  |           all handles together have one weak count: they keep the block
//!   +--------+
//!
//!   Counted::new <--- the spare blocks of the thread <--- the last handle is dropped, and Renew::renew has returned
//! ```
//!
//! # The memory orders
//!
//! They are those of an `Arc`. A handle is dropped with `Release`, and who finds that it has the last one has read the
//! counts with `Acquire`, or does so after it: what any thread did with the value happens before the value is renewed.
//! (A fence would do, but ThreadSanitizer does not see one.) A new handle is made by who has one, so that needs no
//! order.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Deref;
use std::process::abort;
use std::ptr::NonNull;
#[cfg(not(asyncjob_loom))]
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(asyncjob_loom)]
use loom::sync::atomic::{AtomicU64, Ordering};

/// A value whose block is used again.
pub(super) trait Renew: Sized + 'static {
    fn new() -> Self;

    /// Drops what belongs to the user, and makes the value what it was when it was new. This may run any code of the
    /// user. If it panics, the block is not used again.
    fn renew(&mut self);

    /// Calls `f` with the spare blocks of this thread. Returns `None` if the thread is about to end.
    fn with_spare<R>(f: impl FnOnce(&Spare<Self>) -> R) -> Option<R>;
}

/// A handle to a value.
pub(super) struct Counted<T: Renew> {
    block: NonNull<Block<T>>,
    /// The last handle drops the value.
    _value: PhantomData<T>,
}

/// A handle that does not keep the value from being renewed.
pub(super) struct Weak<T: Renew>(NonNull<Block<T>>);

// SAFETY: as for an `Arc`: the threads that have handles share the value, and any of them may be the one that drops it.
unsafe impl<T: Renew + Send + Sync> Send for Counted<T> {}
// SAFETY: as above.
unsafe impl<T: Renew + Send + Sync> Sync for Counted<T> {}
// SAFETY: as above.
unsafe impl<T: Renew + Send + Sync> Send for Weak<T> {}
// SAFETY: as above.
unsafe impl<T: Renew + Send + Sync> Sync for Weak<T> {}

#[repr(C)]
struct Block<T> {
    counts: AtomicU64,
    /// The next spare block.
    next: Cell<Option<NonNull<Block<T>>>>,
    /// How many spare blocks there are from this one on.
    spare: Cell<u32>,
    value: T,
}

const HANDLE: u64 = 1;
const WEAK: u64 = 1 << 32;
/// There is one handle, and no weak one.
const SOLE: u64 = HANDLE | WEAK;
/// From this many handles on the process is aborted, before the count reaches the other one.
const MOST: u32 = u32::MAX / 2;

#[inline]
fn handles(counts: u64) -> u32 {
    counts as u32
}

impl<T: Renew> Counted<T> {
    /// How far the value is behind what a handle points to.
    pub(super) const VALUE_AT: usize = std::mem::offset_of!(Block<T>, value);

    /// A new value, in a spare block if there is one.
    #[inline]
    pub(super) fn new() -> Self {
        let spare = T::with_spare(Spare::take).flatten();
        Counted {
            block: spare.unwrap_or_else(Self::allocate),
            _value: PhantomData,
        }
    }

    #[cold]
    #[inline(never)]
    fn allocate() -> NonNull<Block<T>> {
        let block = Box::new(Block {
            counts: AtomicU64::new(SOLE),
            next: Cell::new(None),
            spare: Cell::new(0),
            value: T::new(),
        });
        NonNull::from(Box::leak(block))
    }

    #[inline]
    fn counts(&self) -> &AtomicU64 {
        // SAFETY: a handle keeps the block.
        unsafe { &(*self.block.as_ptr()).counts }
    }

    /// Whether there is another handle.
    #[inline]
    pub(super) fn is_shared(&self) -> bool {
        // Acquire: who learns that there is none may go on with what the others did.
        handles(self.counts().load(Ordering::Acquire)) > 1
    }

    /// Whether there is neither another handle nor a weak one.
    #[inline]
    pub(super) fn is_sole(&self) -> bool {
        self.counts().load(Ordering::Acquire) == SOLE
    }

    /// The value, if there is neither another handle nor a weak one.
    #[inline]
    pub(super) fn get_mut(&mut self) -> Option<&mut T> {
        if !self.is_sole() {
            return None;
        }
        // SAFETY: this is the only handle and it is borrowed exclusively, so nobody else uses the value or makes
        // another handle meanwhile.
        Some(unsafe { &mut (*self.block.as_ptr()).value })
    }

    /// The value, without a borrow of the handle.
    #[inline]
    pub(super) fn as_ptr(&self) -> *const T {
        // SAFETY: a handle keeps the block, and this makes no reference.
        unsafe { &raw const (*self.block.as_ptr()).value }
    }

    #[inline]
    pub(super) fn downgrade(&self) -> Weak<T> {
        let before = self.counts().fetch_add(WEAK, Ordering::Relaxed);
        if (before >> 32) as u32 > MOST {
            abort();
        }
        Weak(self.block)
    }
}

impl<T: Renew> Clone for Counted<T> {
    #[inline]
    fn clone(&self) -> Self {
        let before = self.counts().fetch_add(HANDLE, Ordering::Relaxed);
        if handles(before) > MOST {
            abort();
        }
        Counted {
            block: self.block,
            _value: PhantomData,
        }
    }
}

impl<T: Renew> Deref for Counted<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: a handle keeps the value, and only who has the last one borrows the value exclusively.
        unsafe { &(*self.block.as_ptr()).value }
    }
}

impl<T: Renew> Drop for Counted<T> {
    #[inline]
    fn drop(&mut self) {
        let counts = self.counts();
        if counts.load(Ordering::Acquire) == SOLE {
            // SAFETY: this is the last handle, it is not used any more, and there is no weak one.
            return unsafe { Block::end(self.block) };
        }
        if handles(counts.fetch_sub(HANDLE, Ordering::Release)) == 1 {
            counts.load(Ordering::Acquire);
            // SAFETY: this was the last handle. The weak count of all handles keeps the block.
            unsafe { Block::end_beside_weak(self.block) };
        }
    }
}

impl<T: Renew> Weak<T> {
    /// A handle, unless the last one is gone.
    #[inline]
    pub(super) fn upgrade(&self) -> Option<Counted<T>> {
        // SAFETY: a weak handle keeps the block.
        let counts = unsafe { &(*self.0.as_ptr()).counts };
        let add = |counts| (handles(counts) != 0 && handles(counts) <= MOST).then_some(counts + HANDLE);
        // Acquire on success, as `Arc` has it: what was done before the weak handle was made is seen through it.
        counts.fetch_update(Ordering::Acquire, Ordering::Relaxed, add).ok()?;
        Some(Counted {
            block: self.0,
            _value: PhantomData,
        })
    }

    /// Whether this is a weak handle to the value of `handle`.
    pub(super) fn is_of(&self, handle: &Counted<T>) -> bool {
        self.0 == handle.block
    }
}

impl<T: Renew> Drop for Weak<T> {
    fn drop(&mut self) {
        // SAFETY: this weak handle has a weak count, which goes here.
        unsafe { Block::drop_weak(self.0) };
    }
}

/// A block that nobody uses any more. To drop it frees the block.
struct Unused<T>(NonNull<Block<T>>);

impl<T> Drop for Unused<T> {
    fn drop(&mut self) {
        // SAFETY: the block is from a `Box`, and nobody uses it, as the one who made this promises.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl<T: Renew> Block<T> {
    /// Renews the value, and keeps the block for the next one.
    ///
    /// # Safety
    ///
    /// The counts are those of one handle, which is not used any more.
    #[inline(never)]
    unsafe fn end(block: NonNull<Self>) {
        let if_it_panics = Unused(block);
        // SAFETY: nobody else uses the block, as the caller promises.
        unsafe { (*block.as_ptr()).value.renew() };
        std::mem::forget(if_it_panics);
        // SAFETY: as above. The value is as good as new.
        unsafe { Self::give(block) };
    }

    /// As [`end`](Self::end), where there are weak handles, or were a moment ago.
    ///
    /// # Safety
    ///
    /// The last handle is gone, and its weak count is still there. The caller gives it away.
    #[cold]
    #[inline(never)]
    unsafe fn end_beside_weak(block: NonNull<Self>) {
        /// The weak count goes in a panic, too.
        struct DropWeak<T: Renew>(NonNull<Block<T>>);
        impl<T: Renew> Drop for DropWeak<T> {
            fn drop(&mut self) {
                // SAFETY: the weak count of the handles goes here.
                unsafe { Block::drop_weak(self.0) };
            }
        }
        let _weak = DropWeak(block);
        // SAFETY: no handle is left, and a weak one makes none any more and does not use the value.
        unsafe { (*block.as_ptr()).value.renew() };
    }

    /// # Safety
    ///
    /// The caller has a weak count and gives it away.
    unsafe fn drop_weak(block: NonNull<Self>) {
        // SAFETY: the weak count keeps the block.
        let counts = unsafe { &(*block.as_ptr()).counts };
        if counts.fetch_sub(WEAK, Ordering::Release) == WEAK {
            counts.load(Ordering::Acquire);
            // The handles are gone, too. Their value may have panicked when it was renewed, so the block is not kept.
            drop(Unused(block));
        }
    }

    /// Gives a block to the spare ones of this thread, or frees it.
    ///
    /// # Safety
    ///
    /// The counts are those of one handle, which is not used any more. The value is as good as new.
    #[inline]
    unsafe fn give(block: NonNull<Self>) {
        // SAFETY: the caller's promise.
        let is_kept = T::with_spare(|spare| unsafe { spare.give(block) });
        if is_kept != Some(true) {
            drop(Unused(block));
        }
    }
}

/// The spare blocks of a thread, last in, first out. Their counts are those of one handle, and their values are new.
///
/// This is one word, because a shared object that is loaded late has little room for thread-locals.
pub(super) struct Spare<T>(Cell<Option<NonNull<Block<T>>>>);

/// How many a thread keeps.
const MOST_SPARE: u32 = 16;

impl<T> Spare<T> {
    pub(super) const fn new() -> Self {
        Spare(Cell::new(None))
    }

    #[inline]
    fn take(&self) -> Option<NonNull<Block<T>>> {
        let block = self.0.get()?;
        // SAFETY: the list owns the block.
        self.0.set(unsafe { (*block.as_ptr()).next.get() });
        Some(block)
    }

    #[inline]
    fn length(&self) -> u32 {
        // SAFETY: the list owns the block.
        self.0.get().map_or(0, |first| unsafe { (*first.as_ptr()).spare.get() })
    }

    /// Returns whether the block was taken.
    ///
    /// # Safety
    ///
    /// The caller gives the block away if it was.
    #[inline]
    unsafe fn give(&self, block: NonNull<Block<T>>) -> bool {
        let length = self.length();
        if length == MOST_SPARE {
            return false;
        }
        // SAFETY: nobody else uses the block.
        let spare = unsafe { &*block.as_ptr() };
        spare.next.set(self.0.get());
        spare.spare.set(length + 1);
        self.0.set(Some(block));
        true
    }
}

impl<T> Drop for Spare<T> {
    fn drop(&mut self) {
        while let Some(block) = self.take() {
            drop(Unused(block));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts how often it is renewed. What it holds under loom tells it of two uses at a time.
    #[derive(Default)]
    struct Value {
        #[cfg(asyncjob_loom)]
        used: loom::cell::UnsafeCell<u32>,
        renewals: u32,
    }

    // SAFETY: the value is changed through `&mut` only.
    unsafe impl Sync for Value {}

    #[cfg(not(asyncjob_loom))]
    thread_local! {
        static SPARE: Spare<Value> = const { Spare::new() };
    }

    impl Renew for Value {
        fn new() -> Self {
            Value::default()
        }

        fn renew(&mut self) {
            #[cfg(asyncjob_loom)]
            self.used.with_mut(|_| ());
            self.renewals += 1;
        }

        fn with_spare<R>(f: impl FnOnce(&Spare<Self>) -> R) -> Option<R> {
            #[cfg(not(asyncjob_loom))]
            return SPARE.try_with(f).ok();
            #[cfg(asyncjob_loom)]
            {
                let _ = f;
                None
            }
        }
    }

    #[cfg(not(asyncjob_loom))]
    #[test]
    fn a_block_is_used_again_when_its_last_handle_is_gone() {
        let mut first = Counted::<Value>::new();
        let at = first.as_ptr();
        assert!(first.get_mut().is_some() && !first.is_shared());
        let other = first.clone();
        assert!(first.get_mut().is_none() && first.is_shared());
        drop(first);
        assert_ne!(Counted::<Value>::new().as_ptr(), at, "a handle is left");
        drop(other);
        let again = Counted::<Value>::new();
        assert_eq!((again.as_ptr(), again.renewals), (at, 1));
    }

    #[cfg(not(asyncjob_loom))]
    #[test]
    fn a_weak_handle_keeps_the_block_and_not_the_value() {
        let mut handle = Counted::<Value>::new();
        let weak = handle.downgrade();
        assert!(handle.get_mut().is_none(), "the weak handle may become one");
        let other = weak.upgrade().unwrap();
        assert!(weak.is_of(&other));
        drop(handle);
        assert!(weak.upgrade().is_some());
        drop(other);
        assert!(weak.upgrade().is_none());
        assert!(!weak.is_of(&Counted::new()), "the block is not used again yet");
    }

    #[cfg(not(asyncjob_loom))]
    #[test]
    fn a_thread_keeps_some_blocks_and_frees_them_at_its_end() {
        std::thread::spawn(|| {
            let many: Vec<_> = (0..2 * MOST_SPARE).map(|_| Counted::<Value>::new()).collect();
            drop(many);
            assert_eq!(SPARE.with(Spare::length), MOST_SPARE);
        })
        .join()
        .unwrap();
    }

    /// Every order in which handles can go. `cargo test -p asyncjob-loom` runs them, and finds a block that is not
    /// freed.
    #[cfg(asyncjob_loom)]
    #[test]
    fn the_last_of_several_handles_has_the_value_for_itself() {
        loom::model(|| {
            let handle = Counted::<Value>::new();
            let others = [handle.clone(), handle.clone()].map(|other| {
                loom::thread::spawn(move || {
                    other.used.with(|_| ());
                    drop(other);
                })
            });
            handle.used.with(|_| ());
            drop(handle);
            others.into_iter().for_each(|other| other.join().unwrap());
        });
    }

    #[cfg(asyncjob_loom)]
    #[test]
    fn a_weak_handle_becomes_one_or_finds_none() {
        loom::model(|| {
            let handle = Counted::<Value>::new();
            let weak = handle.downgrade();
            let other = loom::thread::spawn(move || {
                if let Some(handle) = weak.upgrade() {
                    drop(weak);
                    handle.used.with(|_| ());
                }
            });
            handle.used.with(|_| ());
            drop(handle);
            other.join().unwrap();
        });
    }
}
