//! The callback of a wait ctx, of which a thread gets a waker without a lock that others take, and mostly without an
//! atomic read-modify-write.
//!
//! A callback is a block with two counts. The thread that has set the callback is nearly always the one of the job, and
//! of the driver. It counts the wakers that it makes and drops with plain loads and stores, under the lock of their
//! count, of which it is the owner ([`OwnerLock`]). All other threads count theirs with atomic operations.
//!
//! ```text
//!   wait ctx                  Block
//!   +----------+   data     +--------------------------+
//!   | Callback | ---------> | Head                     |  here:  the wakers that the owner made, less those that it
//!   +----------+            |   here, under its lock   |         dropped
//!       ^ one for each      |   others                 |  others: the same of other threads, and BASE as long as the
//!         block             +--------------------------+         wait ctx has the block
//!                           | what is called           |
//!   wakers, on any thread ->+--------------------------+
//! ```
//!
//! A waker may be made on one thread and dropped on another one, so each count alone may be below zero. Together they
//! are the number of wakers. As long as the wait ctx has the block, nobody frees it, so nobody has to know that number.
//! When the wait ctx lets go of the block, it takes the count of the owner away from it, and adds it to the other one
//! in place of [`BASE`]. From then on all threads count there, and who makes it zero frees the block.
//!
//! # The memory orders
//!
//! They are those of an `Arc`: a waker is dropped with `Release`, or under the lock of the count, and the block is
//! freed after an `Acquire`, or with that lock.

use std::mem::{ManuallyDrop, offset_of};
use std::sync::Arc;
#[cfg(not(asyncjob_loom))]
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{RawWaker, RawWakerVTable, Wake, Waker};

#[cfg(asyncjob_loom)]
use loom::sync::atomic::{AtomicI64, Ordering};

use super::owner_lock::{Owner, OwnerLock};
use crate::sys::thread_address;

/// What a callback calls.
pub(super) trait Call: Send + Sync + 'static {
    fn call(&self);

    /// Distinguishes what is called from everything else that exists. 0 stands for unknown.
    fn id(&self) -> usize;
}

/// A waker of the user.
impl Call for Waker {
    #[inline]
    fn call(&self) {
        self.wake_by_ref();
    }

    fn id(&self) -> usize {
        0
    }
}

/// What a driver has made.
impl<W: Wake + Send + Sync + 'static> Call for Arc<W> {
    #[inline]
    fn call(&self) {
        self.wake_by_ref();
    }

    fn id(&self) -> usize {
        Arc::as_ptr(self).addr()
    }
}

/// The part of a block that is the same for all.
struct Head {
    /// The number of wakers of the owner.
    here: OwnerLock<i64>,
    /// The number of wakers of other threads, and [`BASE`].
    others: AtomicI64,
    /// The thread that has set the callback, and may become the owner.
    setter: usize,
    /// See [`Call::id`].
    id: usize,
    /// Frees the block. Nobody uses it any more.
    free: unsafe fn(*const ()),
}

/// More than there can be wakers.
const BASE: i64 = 1 << 40;

#[repr(C)]
struct Block<C> {
    head: Head,
    call: C,
}

/// The callback of a wait ctx. There is one of these for each block.
pub(super) struct Callback {
    /// A waker of a [`Block`], which is not counted.
    waker: ManuallyDrop<Waker>,
}

impl Callback {
    /// A callback that this thread sets.
    pub(super) fn new<C: Call>(call: C) -> Self {
        let block = Box::new(Block {
            head: Head {
                here: OwnerLock::new(0),
                others: AtomicI64::new(BASE),
                setter: thread_address(),
                id: call.id(),
                free: Block::<C>::free,
            },
            call,
        });
        let data = Box::into_raw(block).cast_const().cast();
        // SAFETY: the functions of the table keep the contract of a `RawWaker`, for the data of a block of this type.
        let waker = unsafe { Waker::new(data, Block::<C>::TABLE) };
        Callback {
            waker: ManuallyDrop::new(waker),
        }
    }

    #[inline]
    fn head(&self) -> &Head {
        // SAFETY: the data are those of a block, which begins with its head and exists as long as this does.
        unsafe { &*self.waker.data().cast::<Head>() }
    }

    /// A waker that calls the callback. No code of the user runs here.
    #[inline]
    pub(super) fn waker(&self) -> Waker {
        self.head().add_first();
        // SAFETY: the waker was counted, so it is one for itself.
        unsafe { Waker::new(self.waker.data(), self.waker.vtable()) }
    }

    pub(super) fn is_set_by_this_thread(&self) -> bool {
        self.head().setter == thread_address()
    }

    /// Whether it calls what has this id, and there is no waker. Where another thread counts, this may be `false` in
    /// both cases.
    #[inline]
    pub(super) fn is_alone_and_of(&self, id: usize) -> bool {
        let head = self.head();
        let here = match head.here.owner() {
            Owner::Nobody => 0,
            _ => match head.here.lock_if_owner() {
                Some(here) => *here,
                None => return false,
            },
        };
        // Acquire: what other threads did with their wakers happens before what the caller does.
        head.id == id && here + head.others.load(Ordering::Acquire) == BASE
    }
}

impl Drop for Callback {
    fn drop(&mut self) {
        let data = self.waker.data();
        let head = self.head();
        let free = head.free;
        // From here on nobody is the owner. Nobody becomes it now: only a wait ctx that has the block makes an owner.
        let here = match head.here.owner() {
            Owner::Nobody => 0,
            Owner::ThisThread => {
                let here = *head.here.lock();
                head.here.end_owning();
                here
            }
            Owner::Others => *head.here.lock(),
        };
        let change = here - BASE;
        // Acquire: as in `Head::remove`. If there is no waker, nobody can make one, so that a load is enough.
        let is_last = head.others.load(Ordering::Acquire) + change == 0
            || head.others.fetch_add(change, Ordering::AcqRel) + change == 0;
        if is_last {
            // SAFETY: the data are those of the block, which neither the wait ctx nor a waker has any more.
            unsafe { free(data) };
        }
    }
}

impl Head {
    /// Counts a waker that the wait ctx makes.
    #[inline]
    fn add_first(&self) {
        match self.here.lock_if_owner() {
            Some(mut here) => *here += 1,
            None => self.add_first_as_other(),
        }
    }

    #[cold]
    #[inline(never)]
    fn add_first_as_other(&self) {
        // The wait ctx has the block meanwhile, and does not let go of it.
        if self.setter == thread_address() && self.here.own_if_nobodys() {
            *self.here.lock() += 1;
        } else {
            self.others.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a waker that is made of another one.
    #[inline]
    fn add(&self) {
        match self.here.lock_if_owner() {
            Some(mut here) => *here += 1,
            None => {
                self.others.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// A waker is gone. Frees the block if it was the last one.
    ///
    /// # Safety
    ///
    /// The head is that of a block, and the caller gives a waker away. Another thread may free the block as soon as the
    /// waker is counted as gone, so there is no reference to all of it.
    #[inline]
    unsafe fn remove(head: *const Head) {
        // SAFETY: the waker keeps the block until it is counted as gone.
        let here = unsafe { &(*head).here };
        if let Some(mut here) = here.lock_if_owner() {
            *here -= 1;
            return; // a block that has an owner is that of a wait ctx
        }
        // SAFETY: passed on.
        unsafe { Self::remove_as_other(head) }
    }

    /// # Safety
    ///
    /// As [`remove`](Self::remove).
    #[inline(never)] // so that the owner has no register to save
    unsafe fn remove_as_other(head: *const Head) {
        // SAFETY: as in `remove`.
        let others = unsafe { &(*head).others };
        // SAFETY: as in `remove`. It is read before the waker is counted as gone.
        let free = unsafe { (*head).free };
        if others.fetch_sub(1, Ordering::Release) == 1 {
            // Instead of a fence, which ThreadSanitizer does not see.
            others.load(Ordering::Acquire);
            // SAFETY: the head is that of a block. This was the last waker, and no wait ctx has the block.
            unsafe { free(head.cast()) };
        }
    }
}

impl<C: Call> Block<C> {
    const TABLE: &'static RawWakerVTable = {
        assert!(offset_of!(Self, head) == 0);
        &RawWakerVTable::new(Self::clone, Self::wake, Self::wake_by_ref, Self::drop)
    };

    // The data of these four are those of a block that the waker keeps, as `Callback::new` and `Callback::waker` see
    // to.

    unsafe fn clone(data: *const ()) -> RawWaker {
        // SAFETY: see above.
        unsafe { &*data.cast::<Head>() }.add();
        RawWaker::new(data, Self::TABLE)
    }

    unsafe fn wake(data: *const ()) {
        // The drop of this waker is that of the one that is used up, also if the call panics.
        // SAFETY: see above.
        let waker = unsafe { Waker::new(data, Self::TABLE) };
        waker.wake_by_ref();
    }

    unsafe fn wake_by_ref(data: *const ()) {
        // SAFETY: see above.
        unsafe { &*data.cast::<Self>() }.call.call();
    }

    unsafe fn drop(data: *const ()) {
        // SAFETY: see above.
        unsafe { Head::remove(data.cast()) };
    }

    /// # Safety
    ///
    /// The data are those of such a block, which nobody uses any more.
    unsafe fn free(data: *const ()) {
        // SAFETY: the block is from a `Box`.
        drop(unsafe { Box::from_raw(data.cast_mut().cast::<Self>()) });
    }
}

#[cfg(all(test, not(asyncjob_loom)))]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::sys::can_order_all_threads;

    #[derive(Default)]
    struct Calls(AtomicUsize);

    impl Wake for Calls {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn callback() -> (Arc<Calls>, Callback) {
        let calls = Arc::<Calls>::default();
        (Arc::clone(&calls), Callback::new(calls))
    }

    #[test]
    fn a_waker_calls_after_its_wait_ctx_is_gone() {
        let (calls, callback) = callback();
        let wakers = [callback.waker(), callback.waker(), callback.waker().clone()];
        drop(callback);
        for waker in wakers {
            waker.wake_by_ref();
            let clone = waker.clone();
            assert!(waker.will_wake(&clone));
            drop(waker);
            clone.wake();
        }
        assert_eq!(calls.0.load(Ordering::Relaxed), 6);
        assert_eq!(Arc::strong_count(&calls), 1, "the block is freed");
    }

    #[test]
    fn the_thread_that_has_set_it_counts_for_itself() {
        let (calls, callback) = callback();
        let waker = callback.waker();
        let others = || callback.head().others.load(Ordering::Relaxed) - BASE;
        assert_eq!(others(), i64::from(!can_order_all_threads()));
        std::thread::scope(|scope| {
            scope.spawn(|| drop((callback.waker(), waker)));
        });
        assert_eq!(others(), if can_order_all_threads() { -1 } else { 0 });
        let id = Arc::as_ptr(&calls).addr();
        assert!(callback.is_alone_and_of(id) && !callback.is_alone_and_of(id + 1));
        let waker = callback.waker();
        assert!(!callback.is_alone_and_of(id));
        drop(waker);
        std::thread::scope(|scope| {
            scope.spawn(|| drop(callback)); // counts for the other thread, too
        });
        assert_eq!(Arc::strong_count(&calls), 1);
    }

    #[test]
    fn a_waker_that_panics_is_dropped() {
        let callback = Callback::new(Waker::from(Arc::new(Panics)));
        struct Panics;
        impl Wake for Panics {
            fn wake(self: Arc<Self>) {
                panic!("this panic is part of the test");
            }
        }
        let waker = callback.waker();
        assert!(std::panic::catch_unwind(|| waker.wake()).is_err());
        let here = callback.head().here.lock();
        assert_eq!(*here + callback.head().others.load(Ordering::Relaxed), BASE);
    }
}

/// Every order in which wakers and the wait ctx can let go of a callback. `cargo test -p asyncjob-loom` runs them.
#[cfg(all(test, asyncjob_loom))]
mod tests {
    use loom::alloc::Track;
    use loom::cell::UnsafeCell;
    use loom::thread;

    use super::*;

    /// What is called. loom reports a use beside its drop, and a drop that does not come.
    struct Called(Track<UnsafeCell<()>>);

    // SAFETY: the cell is used through `&` only, until the drop.
    unsafe impl Sync for Called {}
    // SAFETY: as above.
    unsafe impl Send for Called {}

    impl Call for Called {
        fn call(&self) {
            self.0.get_ref().with(|_| ());
        }

        fn id(&self) -> usize {
            7
        }
    }

    impl Drop for Called {
        fn drop(&mut self) {
            self.0.get_ref().with_mut(|_| ());
        }
    }

    /// A wait ctx, as far as it matters here.
    type Ctx = OwnerLock<u32, Option<Callback>>;

    fn ctx() -> loom::sync::Arc<Ctx> {
        let ctx = loom::sync::Arc::new(Ctx::new(0));
        let called = Called(Track::new(UnsafeCell::new(())));
        drop(ctx.replace_beside(Some(Callback::new(called))));
        ctx
    }

    fn waker(ctx: &Ctx) -> Option<Waker> {
        let waker = |callback: &Option<Callback>| callback.as_ref().map(Callback::waker);
        ctx.beside_as_owner(waker).unwrap_or_else(|| ctx.beside_as_other(waker))
    }

    #[test]
    fn another_thread_uses_the_callback_while_its_thread_sets_another_one() {
        loom::model(|| {
            let ctx = ctx();
            let engine = loom::sync::Arc::clone(&ctx);
            let engine = thread::spawn(move || {
                if let Some(waker) = waker(&engine) {
                    waker.wake();
                }
            });
            ctx.own_if_nobodys();
            waker(&ctx).expect("it is set").wake();
            drop(ctx.replace_beside(None));
            engine.join().unwrap();
        });
    }

    /// The wakers of both threads are dropped on the other one.
    #[test]
    fn wakers_go_from_thread_to_thread() {
        loom::model(|| {
            let ctx = ctx();
            let waker = waker(&ctx).expect("it is set");
            let other = thread::spawn(move || {
                let clone = waker.clone();
                drop(waker);
                clone
            });
            drop(ctx.replace_beside(None));
            let clone = other.join().unwrap();
            clone.wake_by_ref();
        });
    }

    /// Another thread ends the counting of the owner.
    #[test]
    fn the_owner_has_a_waker_while_another_thread_takes_the_callback_away() {
        loom::model(|| {
            let ctx = ctx();
            let waker = waker(&ctx).expect("it is set");
            let other = loom::sync::Arc::clone(&ctx);
            let other = thread::spawn(move || drop(other.replace_beside(None)));
            drop(waker.clone());
            waker.wake();
            other.join().unwrap();
        });
    }

    /// As an engine's thread that reads the callback while the job's thread changes the wait fds.
    #[test]
    fn a_reader_and_the_owner_meet() {
        loom::model(|| {
            let ctx = ctx();
            let engine = loom::sync::Arc::clone(&ctx);
            let engine = thread::spawn(move || drop(waker(&engine)));
            *ctx.lock() += 1;
            drop(waker(&ctx));
            *ctx.lock() += 1;
            engine.join().unwrap();
            assert_eq!(*ctx.lock(), 2);
        });
    }
}
