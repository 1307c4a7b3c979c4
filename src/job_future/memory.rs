//! The memory of the future that [`in_job`](crate::in_job) has moved to the heap, which the next future of the thread
//! has if it is of the same layout.
//!
//! ```text
//!   boxed() <--- the memory that the thread keeps, one piece <--- Kept: the future has ended in its job
//! ```
//!
//! A server polls the same kind of future for each of its connections, often one after the other. An allocation and a
//! free of the system's allocator are as many instructions as a start and an end of a job. The memory is always that of
//! a `Box` of the layout that is written down, so that a box which is dropped elsewhere is one like any other.

use std::alloc::{Layout, dealloc};
use std::cell::Cell;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::pin::Pin;
use std::ptr::{self, NonNull};

/// Memory of more bytes than this is not kept.
const MOST_KEPT: usize = 4096;

/// The memory of a box whose value is gone.
struct Last {
    /// Null if there is none.
    at: Cell<*mut u8>,
    layout: Cell<Layout>,
}

thread_local! {
    static LAST: Last = const {
        Last {
            at: Cell::new(ptr::null_mut()),
            layout: Cell::new(Layout::new::<()>()),
        }
    };
}

impl Drop for Last {
    fn drop(&mut self) {
        // SAFETY: what is kept is the memory of a box of this layout, and nothing else has it.
        unsafe { free(self.at.get(), self.layout.get()) };
    }
}

/// Frees the memory of a box, if there is any.
///
/// # Safety
///
/// `at` must be null, or the memory of a box of this layout, which is not 0 bytes. The caller must not use it any more.
#[cold]
#[inline(never)]
unsafe fn free(at: *mut u8, layout: Layout) {
    if !at.is_null() {
        // SAFETY: the caller's promise.
        unsafe { dealloc(at, layout) };
    }
}

const fn may_be_kept<F>() -> bool {
    size_of::<F>() != 0 && size_of::<F>() <= MOST_KEPT
}

/// Moves a future to the heap.
#[inline]
pub(crate) fn boxed<F>(future: F) -> Box<F> {
    if const { !may_be_kept::<F>() } {
        return Box::new(future);
    }
    match take(Layout::new::<F>()) {
        Some(memory) => {
            let at = memory.cast::<MaybeUninit<F>>();
            // SAFETY: the memory is that of a box of this layout, and nothing else has it.
            let memory = unsafe { Box::from_raw(at.as_ptr()) };
            Box::write(memory, future)
        }
        None => Box::new(future),
    }
}

/// The memory that the thread keeps, if it is of this layout.
#[inline]
fn take(layout: Layout) -> Option<NonNull<u8>> {
    let take = |last: &Last| {
        let at = NonNull::new(last.at.get()).filter(|_| last.layout.get() == layout)?;
        last.at.set(ptr::null_mut());
        Some(at)
    };
    LAST.try_with(take).ok().flatten()
}

/// Keeps the memory of a box in place of what the thread has kept so far.
///
/// # Safety
///
/// `at` must be the memory of a box of this layout, which is not 0 bytes. The caller must not use it any more.
#[inline(never)]
unsafe fn keep(at: NonNull<u8>, layout: Layout) {
    let replace = |last: &Last| {
        let (before, layout) = (last.at.replace(at.as_ptr()), last.layout.replace(layout));
        if !before.is_null() {
            // SAFETY: what was kept is the memory of a box of the layout that was kept with it.
            unsafe { free(before, layout) };
        }
    };
    if LAST.try_with(replace).is_err() {
        // SAFETY: the caller's promise. The thread exits, and keeps nothing any more.
        unsafe { free(at.as_ptr(), layout) };
    }
}

/// A future on the heap. The drop drops the future, and keeps its memory for the next one.
pub(crate) struct Kept<F>(ManuallyDrop<Pin<Box<F>>>);

impl<F> Kept<F> {
    #[inline]
    pub(crate) fn new(future: Box<F>) -> Self {
        Kept(ManuallyDrop::new(Box::into_pin(future)))
    }

    #[inline]
    pub(crate) fn as_mut(&mut self) -> Pin<&mut F> {
        self.0.as_mut()
    }
}

impl<F> Drop for Kept<F> {
    #[inline]
    fn drop(&mut self) {
        /// Keeps the memory also if the drop of the future panics.
        struct KeepMemory<F>(NonNull<F>);
        impl<F> Drop for KeepMemory<F> {
            #[inline]
            fn drop(&mut self) {
                // SAFETY: this is made where the box has been given up, whose value is gone when this is dropped.
                unsafe { keep(self.0.cast(), Layout::new::<F>()) };
            }
        }
        // SAFETY: the box is not used after this.
        let future = unsafe { ManuallyDrop::take(&mut self.0) };
        if const { !may_be_kept::<F>() } {
            return drop(future);
        }
        // SAFETY: the future is not moved: it is dropped where it lies.
        let at = NonNull::from(Box::leak(unsafe { Pin::into_inner_unchecked(future) }));
        let _memory = KeepMemory(at);
        // SAFETY: the box has been given up, and the future is not used after this.
        unsafe { at.drop_in_place() };
    }
}

/// A value that may be there. The drop asks for it in line, and is a call only if it is there: the drop of an `Option`
/// has the drop of the value in it, and so the registers to save.
pub(super) struct Maybe<T>(ManuallyDrop<Option<T>>);

impl<T> Maybe<T> {
    #[inline]
    pub(super) fn new(value: T) -> Self {
        Maybe(ManuallyDrop::new(Some(value)))
    }

    #[inline]
    pub(super) fn as_ref(&self) -> Option<&T> {
        Option::as_ref(&self.0)
    }

    #[inline]
    pub(super) fn take(&mut self) -> Option<T> {
        Option::take(&mut self.0)
    }

    #[cold]
    #[inline(never)]
    fn drop_value(&mut self) {
        drop(self.take());
    }
}

impl<T> Drop for Maybe<T> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.0.is_some() {
            self.drop_value();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn the_next_future_of_the_same_layout_has_the_memory() {
        let owned = Rc::new(());
        let first = boxed((1u64, Rc::clone(&owned)));
        let at = (&raw const *first).addr();
        drop(Kept::new(first));
        assert_eq!(Rc::strong_count(&owned), 1, "the first is dropped");
        let larger = boxed([0u64; 3]);
        assert_ne!((&raw const *larger).addr(), at);
        let second = boxed((2u64, Rc::clone(&owned)));
        assert_eq!(((&raw const *second).addr(), second.0), (at, 2));
        let third = boxed((3u64, Rc::clone(&owned)));
        assert_ne!((&raw const *third).addr(), at, "it is in use");
        drop((Kept::new(second), Kept::new(third), Kept::new(larger)));
        assert_eq!(Rc::strong_count(&owned), 1);
    }

    /// Miri and the sanitizers see whether it is freed.
    #[test]
    fn a_future_that_panics_in_its_drop_leaves_its_memory() {
        struct Panics(#[expect(dead_code, reason = "it has a size")] u64);
        impl Drop for Panics {
            fn drop(&mut self) {
                panic!("this panic is part of the test");
            }
        }
        let future = boxed(Panics(7));
        let at = (&raw const *future).addr();
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(Kept::new(future)))).is_err());
        let next = boxed(8u64);
        assert_eq!((&raw const *next).addr(), at);
    }

    #[test]
    fn a_future_without_a_size_and_a_large_one_are_boxes() {
        drop(Kept::new(boxed(())));
        drop(Kept::new(boxed([0u8; MOST_KEPT + 1])));
        assert!(LAST.with(|last| last.at.get().is_null()));
    }
}
