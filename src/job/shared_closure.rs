//! A value that threads share, and a closure that waits in the same block of memory until it is called.
//!
//! ```text
//!   +------------------------ SharedClosure -----------------------+
//!   | counts | the shared value                  | the closure     |
//!   +--------------------------------------------------------------+
//!        ^              ^                              ^
//!        |              |  Arc: any number of them     |  OwnedClosure: one, on the thread of the closure
//! ```
//!
//! A spawned job needs a place for its result, which its handle and its scheduler share, and a place for its closure,
//! until it starts. One block for both is one allocation for each job. The closure may be of a type that must stay on
//! its thread, and the block is dropped wherever its last handle is. So the block itself never touches the closure: the
//! one [`OwnedClosure`] calls it or drops it.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr;
use std::sync::Arc;

use super::closure::{JobMain, Wipe};

/// The block: see the module.
pub(crate) struct SharedClosure<S, C: ?Sized = dyn Place + Send + Sync> {
    pub(crate) shared: S,
    closure: C,
}

/// Where the closure is. Nothing but its [`OwnedClosure`] reaches it, and dropping the place does nothing.
pub(crate) struct PlaceOf<F>(UnsafeCell<MaybeUninit<F>>);

/// A [`PlaceOf`] a closure, whatever its type is.
pub(crate) trait Place {}

impl<F> Place for PlaceOf<F> {}

// SAFETY: a reference to the place gives no access to the closure. The `OwnedClosure` has it, and goes to another
// thread only in a `SendClosure`, which is made of closures that are `Send`.
unsafe impl<F> Send for PlaceOf<F> {}
// SAFETY: as above.
unsafe impl<F> Sync for PlaceOf<F> {}

/// What the shared value does with the closure.
pub(crate) trait RunsClosure<F> {
    fn run(&self, f: F);
}

/// A [`SharedClosure`], whatever the type of its closure is.
pub(crate) trait ErasedClosure {
    /// Moves the closure out, overwrites what is left behind, and lets the shared value run it.
    ///
    /// # Safety
    ///
    /// Only the owner of the closure may call this, and only once. It must not drop the closure after that.
    unsafe fn call_closure(&self);

    /// Drops the closure, and overwrites it.
    ///
    /// # Safety
    ///
    /// As [`call_closure`](Self::call_closure).
    unsafe fn drop_closure(&self);
}

impl<S: RunsClosure<F>, F> ErasedClosure for SharedClosure<S, PlaceOf<F>> {
    #[inline]
    unsafe fn call_closure(&self) {
        let wipe = Wipe(self.closure.0.get().cast::<F>());
        // SAFETY: the caller owns the closure, which is there, and which nothing uses in this place after this.
        let f = unsafe { wipe.0.read() };
        drop(wipe);
        self.shared.run(f);
    }

    unsafe fn drop_closure(&self) {
        let wipe = Wipe(self.closure.0.get().cast::<F>());
        // SAFETY: as above.
        unsafe { wipe.0.drop_in_place() };
    }
}

impl<S, F> SharedClosure<S, PlaceOf<F>>
where
    S: RunsClosure<F> + 'static,
    F: 'static,
{
    /// Moves both to the heap. `erase` makes the type of the owner's handle to the block.
    ///
    /// # Panics
    ///
    /// If `erase` returns another block.
    pub(crate) fn new<W>(shared: S, f: F, erase: impl FnOnce(Arc<Self>) -> Arc<W>) -> (Arc<Self>, OwnedClosure<W>)
    where
        W: ErasedClosure + ?Sized,
    {
        let block = Arc::new(SharedClosure {
            shared,
            closure: PlaceOf(UnsafeCell::new(MaybeUninit::new(f))),
        });
        let owned = OwnedClosure::of(&block, erase);
        (block, owned)
    }

    /// As [`new`](Self::new), for an owner that may go to another thread.
    pub(crate) fn new_send<W>(shared: S, f: F, erase: impl FnOnce(Arc<Self>) -> Arc<W>) -> (Arc<Self>, SendClosure<W>)
    where
        W: ErasedClosure + ?Sized,
        F: Send,
    {
        let (block, owned) = SharedClosure::new(shared, f, erase);
        (block, SendClosure(owned))
    }
}

/// The right to call the closure of a block. Dropping it drops the closure.
pub(crate) struct OwnedClosure<W: ErasedClosure + ?Sized> {
    block: Arc<W>,
    /// The closure may have to stay on its thread.
    _not_send: PhantomData<*const ()>,
}

impl<W: ErasedClosure + ?Sized> OwnedClosure<W> {
    /// The block, for what the shared value does beside the closure.
    #[inline]
    pub(crate) fn block(&self) -> &Arc<W> {
        &self.block
    }

    /// # Panics
    ///
    /// If `erase` returns another block, whose closure would have two owners then.
    #[inline]
    fn of<V: ?Sized>(block: &Arc<V>, erase: impl FnOnce(Arc<V>) -> Arc<W>) -> Self {
        let erased = erase(Arc::clone(block));
        assert!(ptr::addr_eq(Arc::as_ptr(block), Arc::as_ptr(&erased)));
        OwnedClosure {
            block: erased,
            _not_send: PhantomData,
        }
    }

    /// Gives up the right to the closure.
    fn into_block(self) -> Arc<W> {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is not used after this.
        unsafe { ptr::read(&raw const this.block) }
    }
}

impl<V: ErasedClosure + ?Sized> JobMain<()> for OwnedClosure<V> {
    #[inline]
    fn call_main(self) {
        let block = self.into_block();
        // SAFETY: the owner has given up its right, so this is the one use of the closure.
        unsafe { block.call_closure() };
    }
}

impl<V: ErasedClosure + ?Sized> Drop for OwnedClosure<V> {
    fn drop(&mut self) {
        // SAFETY: `into_block`, which comes before each other use, forgets the owner.
        unsafe { self.block.drop_closure() };
    }
}

/// An [`OwnedClosure`] that may go to another thread.
pub(crate) struct SendClosure<V: ErasedClosure + ?Sized>(OwnedClosure<V>);

// SAFETY: the closure is `Send`, as `new` asks. The block goes along, so it must be `Send` and `Sync`.
unsafe impl<V: ErasedClosure + Send + Sync + ?Sized> Send for SendClosure<V> {}

impl<V: ErasedClosure + ?Sized> SendClosure<V> {
    /// The right to call the closure on this thread. `erase` is as for [`SharedClosure::new`].
    #[inline]
    pub(crate) fn into_owned<W: ErasedClosure + ?Sized>(self, erase: impl FnOnce(Arc<V>) -> Arc<W>) -> OwnedClosure<W> {
        let block = self.0.into_block();
        OwnedClosure::of(&block, erase)
    }

    #[inline]
    pub(crate) fn block(&self) -> &Arc<V> {
        self.0.block()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    /// Calls the closure.
    struct Calls;

    impl<F: FnOnce()> RunsClosure<F> for Calls {
        fn run(&self, f: F) {
            f();
        }
    }

    #[test]
    fn a_closure_is_called_or_dropped_once_whoever_keeps_the_block() {
        let calls = Rc::new(RefCell::new(0));
        let make = || {
            let calls = Rc::clone(&calls);
            SharedClosure::new(Calls, move || *calls.borrow_mut() += 1, |block| block)
        };
        let (first, called) = make();
        let (second, dropped) = make();
        assert_eq!(Rc::strong_count(&calls), 3);
        called.call_main();
        assert_eq!((*calls.borrow(), Rc::strong_count(&calls)), (1, 2));
        drop(dropped);
        assert_eq!((*calls.borrow(), Rc::strong_count(&calls)), (1, 1));
        drop((first, second));
        assert_eq!(Rc::strong_count(&calls), 1);
    }

    #[test]
    #[should_panic(expected = "addr_eq")]
    fn a_closure_has_one_owner() {
        let (other, _its_closure) = SharedClosure::new(Calls, || {}, |block| block);
        let _two = SharedClosure::new(Calls, || {}, |_| other as Arc<dyn ErasedClosure>);
    }

    #[test]
    fn a_closure_that_panics_is_gone() {
        let owned_by_it = Rc::new(());
        let (in_closure, outer) = (Rc::clone(&owned_by_it), Rc::clone(&owned_by_it));
        drop(outer);
        let panics = move || {
            let _in_closure = in_closure;
            std::panic::resume_unwind(Box::new(7))
        };
        let (_block, owned) = SharedClosure::new(Calls, panics, |block| block);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| owned.call_main()));
        assert!(panicked.is_err());
        assert_eq!(Rc::strong_count(&owned_by_it), 1);
    }
}
