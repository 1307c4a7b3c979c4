//! Closures on the heap, which leave nothing behind when their memory is freed.
//!
//! A closure may hold a secret: a PIN, a key, the plain text of a request. The pool can be told to overwrite the stack
//! of a job that has ended ([`SecretPolicy`](crate::stack::SecretPolicy)). The heap is not part of any stack, so a
//! closure that waits there is overwritten with zeros here, in every program: it costs a few nanoseconds.
//!
//! ```text
//!   heap          closure   --- copy --->   stack of the job   (the pool scrubs it)
//!                 zeros
//! ```
//!
//! A closure for which the stack has no room is called where it lies. Only the `FnOnce` of a `Box` can do that, and it
//! frees the memory itself, so such a closure is not overwritten. [`SecretPolicy`](crate::stack::SecretPolicy) says so.

use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr;

use super::current::with_current;

/// The size in bytes above which a closure stays on the heap. A smaller one moves to the job's stack.
pub(crate) const LARGEST_CLOSURE_ON_STACK: usize = 4096;

/// A [`Wiped`] closure, whatever its type is.
pub(crate) trait HeapClosure<R> {
    /// Calls the closure.
    fn call(self: Box<Self>) -> R;
}

/// What a job runs, from wherever it waits.
pub(crate) trait JobMain<R> {
    /// Moves the closure to the stack of the caller and calls it.
    fn call_main(self) -> R;
}

impl<R, F: HeapClosure<R> + ?Sized> JobMain<R> for Box<F> {
    #[inline]
    fn call_main(self) -> R {
        self.call()
    }
}

/// A closure that is overwritten with zeros before its memory is freed, whether it was called or not.
#[repr(transparent)]
pub(crate) struct Wiped<F>(ManuallyDrop<F>);

impl<F> Wiped<F> {
    /// Moves the closure to the heap.
    pub(crate) fn boxed(f: F) -> Box<Self> {
        Box::new(Wiped(ManuallyDrop::new(f)))
    }
}

impl<F: FnOnce() -> R, R> HeapClosure<R> for Wiped<F> {
    #[inline]
    fn call(self: Box<Self>) -> R {
        let f: *mut F = Box::into_raw(self).cast();
        if size_of::<F>() > LARGEST_CLOSURE_ON_STACK && !has_room_for(size_of::<F>()) {
            // SAFETY: `Wiped<F>` has the layout of `F`, and its box has been given up.
            return unsafe { Box::from_raw(f) }();
        }
        if const { size_of::<F>() > LARGEST_CLOSURE_ON_STACK } {
            // SAFETY: the closure is there, and its box has been given up.
            return unsafe { copy_and_call(f) };
        }
        // SAFETY: as above.
        let closure = unsafe { move_out(f) };
        closure()
    }
}

/// A function of its own, because its frame has room for the closure.
///
/// # Safety
///
/// As [`move_out`].
#[inline(never)]
unsafe fn copy_and_call<F: FnOnce() -> R, R>(f: *mut F) -> R {
    // SAFETY: the caller's promise.
    let closure = unsafe { move_out(f) };
    closure()
}

/// Moves a closure out of its box, overwrites what is left behind, and frees the box.
///
/// # Safety
///
/// `f` must come from a `Box<F>`, or a box of the same layout, which the caller must not use after this call.
#[inline]
unsafe fn move_out<F>(f: *mut F) -> F {
    // SAFETY: the caller's promise; what is left behind is not used as a closure.
    let closure = unsafe { f.read() };
    drop(Wipe(f));
    // SAFETY: `MaybeUninit<F>` has the layout of `F`, and the box of this memory has been given up.
    drop(unsafe { Box::from_raw(f.cast::<MaybeUninit<F>>()) });
    closure
}

/// Whether a closure of this size can be copied to the stack of the job that runs this code. A build without
/// optimization copies it more than once.
fn has_room_for(bytes: usize) -> bool {
    with_current(|control| control.room()).is_some_and(|room| bytes <= room / 4)
}

impl<F> Drop for Wiped<F> {
    fn drop(&mut self) {
        let wipe = Wipe(ptr::from_mut(&mut *self.0));
        // SAFETY: the closure was not called, and is not used after this. (All goes through one pointer: a new
        // reference would end its right to write.)
        unsafe { wipe.0.drop_in_place() };
    }
}

/// Overwrites the memory of a value when it is dropped. The value must be gone then.
pub(super) struct Wipe<F>(pub(super) *mut F);

impl<F> Drop for Wipe<F> {
    fn drop(&mut self) {
        // SAFETY: each place that makes a `Wipe` owns the memory, has moved or dropped the value, and frees the memory
        // only after this.
        unsafe { self.0.write_bytes(0, 1) };
        if const { size_of::<F>() == 0 } {
            return; // nothing was written
        }
        // The compiler must not drop the write because it sees no read.
        std::hint::black_box(self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    /// Each way moves or drops what the closure owns once: a small closure, and one that is called where it lies,
    /// because this code runs in no job.
    #[test]
    fn what_a_closure_owns_is_dropped_once() {
        fn boxed<const BYTES: usize>(owned: &Rc<()>) -> Box<dyn HeapClosure<usize>> {
            let (owned, bytes) = (owned.clone(), [1u8; BYTES]);
            Wiped::boxed(move || bytes.iter().map(|byte| usize::from(*byte)).sum::<usize>() + Rc::strong_count(&owned))
        }
        let owned = Rc::new(());
        assert_eq!(boxed::<100>(&owned).call(), 102);
        assert_eq!(boxed::<5000>(&owned).call(), 5002);
        drop(boxed::<100>(&owned));
        drop(boxed::<5000>(&owned));
        assert_eq!(Rc::strong_count(&owned), 1);
    }
}
