//! A spawned job in one block of memory: its closure until it starts, its result once it has ended, and what its
//! scheduler and its handle share.
//!
//! ```text
//!   +------------------------------ SharedClosure -----------------------------+
//!   | sides | local | the shared value | the result | the waker | the closure  |
//!   +--------------------------------------------------------------------------+
//!       ^                                    ^            ^            ^
//!       |   JobSide: any number of them,     |            |            |  OwnedClosure: one JobSide
//!       |   on the thread of the job --------+            |
//!       '-- HandleSide: one, on any thread ---------------'
//! ```
//!
//! One block is one allocation for each job, of memory that a thread [keeps](super::block_memory). The closure may be
//! of a type that must stay on its thread, and the block is freed wherever its last side goes. So the block itself
//! never touches the closure: the one [`OwnedClosure`] calls it or drops it.
//!
//! # Two sides
//!
//! The block has two sides, and the last of them that goes frees it. The side of the job is on one thread, so it counts
//! its [`JobSide`]s without an atomic operation. The side of the handle is one [`HandleSide`]. Both meet in the word
//! `sides`:
//!
//! | flag | set by | means |
//! |---|---|---|
//! | `FULL` | the job's side | The result belongs to the handle's side from now on. |
//! | `WAITING` | the handle's side | The waker is that of a task that waits. The job's side takes it when it sets `FULL`. |
//! | `LEFT` | the first side that goes | The other side frees the block. |
//!
//! The job's side hands the result over when its last `JobSide` goes: `FULL` and `LEFT` are one exchange. A spawn and
//! its join have no other atomic operation that reads and writes, unless a task waits. Until then the result belongs to
//! the job's side. [`fail`](JobSide::fail) hands it over at once, because a job that is quarantined keeps a `JobSide`
//! for ever.
//!
//! `WAITING` is cleared by the handle's side before it touches the waker again. If it finds `FULL` in that operation,
//! the job's side has the waker. All operations on `sides` are exchanges that acquire and release, or loads that
//! acquire, so each side sees what the other one did before it set the flag.

#[cfg(asyncjob_loom)]
use loom::{
    cell::UnsafeCell,
    sync::atomic::{AtomicU8, Ordering},
};
use std::alloc::Layout;
use std::cell::{self, Cell};
use std::mem::{self, ManuallyDrop, MaybeUninit};
use std::ptr::{self, NonNull};
use std::task::{Context, Poll, Waker};
#[cfg(not(asyncjob_loom))]
use std::{
    cell::UnsafeCell,
    sync::atomic::{AtomicU8, Ordering},
};

use super::block_memory::{self, Source};
use super::closure::{HeapClosure, JobMain, LARGEST_CLOSURE_ON_STACK, Wipe, Wiped};
use crate::sync::{contain, wake};

/// The result belongs to the handle's side.
const FULL: u8 = 1;
/// The waker is that of a task that waits.
const WAITING: u8 = 2;
/// One of the two sides is gone.
const LEFT: u8 = 4;

/// What a job, its scheduler and its handle share beside the closure and the result.
pub(crate) trait Shared {
    /// Why a job has no value.
    type Error: 'static;

    /// Calls the closure of the job, and passes its result on to `keep`, whose two calls are where the result is known:
    /// so it is written once. A panic of the closure is a result, too.
    fn run<T>(&self, f: impl FnOnce() -> T, keep: impl FnOnce(Result<T, Self::Error>));

    /// The job ends without a value.
    fn failing(&self);
}

/// The block: see the module.
#[repr(C)] // a block is cast to what it begins with
struct SharedClosure<S: Shared, T, F> {
    begin: Begin<S, T>,
    closure: PlaceOf<F>,
}

/// What a block begins with, whatever its closure is. A drop of it drops all of the block but the closure, which is
/// gone by then.
#[repr(C)] // as above
struct Begin<S: Shared, T> {
    head: Head<S>,
    /// Belongs to the job's side until FULL is set, and to the handle's side after that.
    result: UnsafeCell<Option<Result<T, S::Error>>>,
}

/// What a block begins with, whatever its job returns.
#[repr(C)]
struct Head<S> {
    sides: AtomicU8,
    /// The job's side has a result, or had one. Only this side uses it.
    has_result: Cell<bool>,
    /// How many `JobSide`s there are. Only they use it.
    local: Cell<usize>,
    /// Where the block is.
    source: Source,
    /// Belongs to the handle's side while WAITING is not set, and to the job's side once it has set FULL and found
    /// WAITING.
    waker: UnsafeCell<Option<Waker>>,
    shared: S,
}

/// Lets loom check that both sides are done with the block when it is freed.
#[cfg(asyncjob_loom)]
impl<S> Drop for Head<S> {
    fn drop(&mut self) {
        self.waker.with_mut(|_| ());
    }
}

/// Where the closure is. Nothing but its [`OwnedClosure`] reaches it, and dropping the place does nothing.
struct PlaceOf<F>(cell::UnsafeCell<MaybeUninit<F>>);

/// A [`SharedClosure`], whatever the types of its closure and of its result are.
trait ErasedClosure<S: Shared> {
    /// Moves the closure out, overwrites what is left behind, calls it, and keeps its result.
    ///
    /// # Safety
    ///
    /// Only the owner of the closure may call this, and only once. It must not drop the closure after that. It must
    /// have a `JobSide` until this has returned.
    unsafe fn call_closure(&self);

    /// Drops the closure, and overwrites it.
    ///
    /// # Safety
    ///
    /// As [`call_closure`](Self::call_closure).
    unsafe fn drop_closure(&self);

    /// Makes the error the result.
    ///
    /// # Safety
    ///
    /// The caller must have a `JobSide`, and the side must not have had a result.
    unsafe fn set_error(&self, error: S::Error);
}

impl<S: Shared, T, F: FnOnce() -> T> ErasedClosure<S> for SharedClosure<S, T, F> {
    #[inline]
    unsafe fn call_closure(&self) {
        let wipe = Wipe(self.closure.0.get().cast::<F>());
        // SAFETY: the caller owns the closure, which is there, and which nothing uses in this place after this.
        let f = unsafe { wipe.0.read() };
        drop(wipe);
        self.begin.head.shared.run(f, |result| {
            if !self.begin.head.has_result.get() {
                // SAFETY: this is the job's side, which has had no result.
                unsafe { self.begin.set_result(result) };
            }
        });
    }

    unsafe fn drop_closure(&self) {
        let wipe = Wipe(self.closure.0.get().cast::<F>());
        // SAFETY: as above.
        unsafe { wipe.0.drop_in_place() };
    }

    unsafe fn set_error(&self, error: S::Error) {
        // SAFETY: the caller's promise.
        unsafe { self.begin.set_result(Err(error)) };
    }
}

impl<S: Shared, T> Begin<S, T> {
    /// # Safety
    ///
    /// As [`ErasedClosure::set_error`].
    #[inline]
    unsafe fn set_result(&self, result: Result<T, S::Error>) {
        // SAFETY: FULL is not set, as the side has had no result. So the place belongs to this side.
        let replaced = unsafe { access(&self.result, |place| place.replace(result)) };
        debug_assert!(replaced.is_none(), "the first result counts");
        mem::forget(replaced); // so that it is not read
        self.head.has_result.set(true);
    }
}

/// Drops a block, or what it begins with, and frees its memory.
///
/// # Safety
///
/// The block must come from [`share_small`], with memory from this source, and must not be used after this call.
#[inline]
unsafe fn free<B: ?Sized>(block: NonNull<B>, source: Source) {
    /// Frees the memory also if a drop panics: that of a result is the user's.
    struct Memory(NonNull<u8>, Source);

    impl Drop for Memory {
        #[inline]
        fn drop(&mut self) {
            // SAFETY: the block has been dropped. Its memory was from there.
            unsafe { block_memory::free(self.0, self.1) };
        }
    }

    let _memory = Memory(block.cast(), source);
    // SAFETY: the caller's promise.
    unsafe { block.drop_in_place() };
}

/// As [`free`], for the side of the handle.
///
/// # Safety
///
/// As [`free`].
#[inline(never)] // so that its caller has no frame for it
unsafe fn free_begin<S: Shared, T>(block: NonNull<Begin<S, T>>) {
    // SAFETY: the block is there.
    let source = unsafe { block.as_ref() }.head.source;
    // SAFETY: the caller's promise.
    unsafe { free(block, source) };
}

/// Lends out the value in a cell.
///
/// # Safety
///
/// Nothing else may use the value before `f` has returned.
#[inline]
unsafe fn access<T, R>(cell: &UnsafeCell<T>, f: impl FnOnce(&mut T) -> R) -> R {
    #[cfg(asyncjob_loom)]
    // SAFETY: the caller's promise.
    return cell.with_mut(|value| f(unsafe { &mut *value }));
    #[cfg(not(asyncjob_loom))]
    // SAFETY: as above.
    return f(unsafe { &mut *cell.get() });
}

/// Makes the block of a job.
///
/// The shared value is made when the block is there: a value that is put together in one place and moved to another one
/// is stored in pieces and loaded in larger ones, and each such load waits until all stores before it are done.
///
/// A large closure has a box of its own, and is called in it. Otherwise the job would copy it to its stack.
#[inline]
pub(crate) fn share<S, T, F>(shared: impl FnOnce() -> S, f: F) -> (HandleSide<S, T>, OwnedClosure<S>)
where
    S: Shared + 'static,
    T: 'static,
    F: FnOnce() -> T + 'static,
{
    if const { size_of::<F>() > LARGEST_CLOSURE_ON_STACK } {
        let f = Wiped::boxed(f);
        share_small(shared, move || f.call())
    } else {
        share_small(shared, f)
    }
}

#[inline(always)] // so that each field of the shared value is stored once, where it stays
fn share_small<S, T, F>(shared: impl FnOnce() -> S, f: F) -> (HandleSide<S, T>, OwnedClosure<S>)
where
    S: Shared + 'static,
    T: 'static,
    F: FnOnce() -> T + 'static,
{
    let (block, source) = block_memory::allocate(Layout::new::<SharedClosure<S, T, F>>());
    let block = block.cast::<SharedClosure<S, T, F>>();
    // SAFETY: the memory has the layout of the block, and nothing else knows of it.
    unsafe {
        block.write(SharedClosure {
            begin: Begin {
                head: Head {
                    sides: AtomicU8::new(0),
                    has_result: Cell::new(false),
                    local: Cell::new(1),
                    source,
                    waker: UnsafeCell::new(None),
                    shared: shared(),
                },
                result: UnsafeCell::new(None),
            },
            closure: PlaceOf(cell::UnsafeCell::new(MaybeUninit::new(f))),
        });
    }
    let of_handle = HandleSide(block.cast());
    let of_job = JobSide(block);
    (of_handle, OwnedClosure(of_job))
}

/// As [`share`], for an owner of the closure that may go to another thread.
pub(crate) fn share_send<S, T, F>(shared: impl FnOnce() -> S, f: F) -> (HandleSide<S, T>, SendClosure<S>)
where
    S: Shared + Send + Sync + 'static,
    S::Error: Send,
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let (handle, owned) = share(shared, f);
    (handle, SendClosure(owned))
}

/// The job's side of a block. It stays on its thread.
pub(crate) struct JobSide<S: Shared>(NonNull<dyn ErasedClosure<S>>);

impl<S: Shared> JobSide<S> {
    #[inline]
    fn head(&self) -> &Head<S> {
        // SAFETY: the block exists while this side does, and begins with its head.
        unsafe { self.0.cast::<Head<S>>().as_ref() }
    }

    #[inline]
    pub(crate) fn shared(&self) -> &S {
        &self.head().shared
    }

    /// Makes this the result, and hands it over at once. The first result counts.
    pub(crate) fn fail(&self, error: S::Error) {
        self.fail_quietly(error).map(wake);
    }

    /// As [`fail`](Self::fail), but the caller has to wake the task that waits for the result.
    #[must_use = "wake it"]
    pub(crate) fn fail_quietly(&self, error: S::Error) -> Option<Waker> {
        self.shared().failing();
        if !self.head().has_result.get() {
            // SAFETY: the block exists while this side does.
            let block = unsafe { self.0.as_ref() };
            // SAFETY: this is the job's side, which has had no result.
            unsafe { block.set_error(error) };
        }
        self.hand_over()
    }

    /// Drops the side. A panic of a result's drop ends here.
    #[inline]
    pub(crate) fn let_go(self) {
        let this = ManuallyDrop::new(self);
        if !this.goes() {
            Self::let_go_slowly(this);
        }
    }

    #[inline(never)] // as `leave_slowly`
    fn let_go_slowly(this: ManuallyDrop<Self>) {
        // SAFETY: the side is not used after this.
        contain(|| unsafe { this.leave_slowly() });
    }

    /// Hands the result over, and returns the waker of the task that waits for it.
    #[inline(never)]
    fn hand_over(&self) -> Option<Waker> {
        let head = self.head();
        let before = head.sides.fetch_or(FULL, Ordering::AcqRel);
        if before & (FULL | WAITING) != WAITING {
            return None;
        }
        // SAFETY: this has set FULL and found WAITING, so the waker belongs to this side.
        unsafe { access(&head.waker, Option::take) }
    }

    /// Counts this one as gone. Returns `false` if it was the last one and [`has_left`](Self::has_left) returned
    /// `false`. It is called once, and the side must not be used after `true`.
    #[inline(always)]
    fn goes(&self) -> bool {
        let local = &self.head().local;
        let left = local.get() - 1;
        local.set(left);
        left != 0 || self.has_left()
    }

    /// The last of this side goes. Returns `false`, and has done nothing, if the other side has gone before, waits, or
    /// has the result already: [`leave_slowly`](Self::leave_slowly) is to be called then. After `true` the side must
    /// not be used.
    #[inline]
    fn has_left(&self) -> bool {
        let head = self.head();
        let leaving = if head.has_result.get() { LEFT | FULL } else { LEFT };
        head.sides.load(Ordering::Relaxed) == 0
            && (head.sides)
                .compare_exchange(0, leaving, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    /// The last of this side goes, whatever the other side has done.
    ///
    /// # Safety
    ///
    /// The caller must not use this side after this call.
    #[inline(never)] // what it saves and restores, most jobs would save and restore, too
    unsafe fn leave_slowly(&self) {
        let mut before = self.head().sides.load(Ordering::Acquire);
        while before & LEFT == 0 {
            let mut leaving = LEFT;
            if self.head().has_result.get() {
                if before & (FULL | WAITING) == WAITING {
                    // While the block is there for sure, which the other side might free after LEFT.
                    self.hand_over().map(wake);
                    before = self.head().sides.load(Ordering::Acquire);
                    continue;
                }
                leaving |= FULL;
            }
            let sides = &self.head().sides;
            match sides.compare_exchange(before, before | leaving, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(now) => before = now,
            }
        }
        let source = self.head().source;
        // SAFETY: both sides are gone.
        unsafe { free(self.0, source) };
    }
}

impl<S: Shared> Clone for JobSide<S> {
    #[inline]
    fn clone(&self) -> Self {
        let local = &self.head().local;
        local.set(local.get() + 1); // as many as there is memory for: none is forgotten but that of a quarantined job
        JobSide(self.0)
    }
}

impl<S: Shared> Drop for JobSide<S> {
    #[inline]
    fn drop(&mut self) {
        if !self.goes() {
            // SAFETY: this side is being dropped.
            unsafe { self.leave_slowly() };
        }
    }
}

/// The handle's side of a block, which has the result in the end.
pub(crate) struct HandleSide<S: Shared, T>(NonNull<Begin<S, T>>);

// SAFETY: this side gives access to the shared value, to the waker, and to the result, which it may take and drop. It
// gives none to the closure, which its owner has called or dropped before the job's side goes.
unsafe impl<S: Shared<Error: Send> + Send + Sync, T: Send> Send for HandleSide<S, T> {}
// SAFETY: a shared reference gives access to the shared value only.
unsafe impl<S: Shared<Error: Send> + Send + Sync, T: Send> Sync for HandleSide<S, T> {}

impl<S: Shared, T> HandleSide<S, T> {
    #[inline]
    fn block(&self) -> &Begin<S, T> {
        // SAFETY: the block exists while this side does. The fields that the other side uses are cells.
        unsafe { self.0.as_ref() }
    }

    #[inline]
    pub(crate) fn shared(&self) -> &S {
        &self.block().head.shared
    }

    /// Whether the job has ended.
    #[inline]
    pub(crate) fn is_finished(&self) -> bool {
        self.block().head.sides.load(Ordering::Acquire) & FULL != 0
    }

    /// Takes the result, if the job has ended. The inner `None`: it was taken before.
    #[inline]
    pub(crate) fn try_take(&mut self) -> Option<Option<Result<T, S::Error>>> {
        self.is_finished().then(|| {
            // SAFETY: FULL is set, so the result belongs to this side, which is borrowed exclusively.
            unsafe { access(&self.block().result, Option::take) }
        })
    }

    /// As [`try_take`](Self::try_take). If the job has not ended, `task` is woken then.
    pub(crate) fn poll_take(&mut self, task: &mut Context<'_>) -> Poll<Option<Result<T, S::Error>>> {
        if let Some(taken) = self.try_take() {
            return Poll::Ready(taken);
        }
        let head = &self.block().head;
        // Relaxed: only this side sets the flag.
        let is_waiting = head.sides.load(Ordering::Relaxed) & WAITING != 0;
        if !is_waiting || head.sides.fetch_and(!WAITING, Ordering::AcqRel) & FULL == 0 {
            // The clone and the drop of a waker may run any code, which may panic. WAITING is not set then.
            // SAFETY: WAITING is not set, so the waker belongs to this side, which is borrowed exclusively.
            unsafe {
                access(&head.waker, |waker| match waker {
                    Some(waker) => waker.clone_from(task.waker()),
                    None => *waker = Some(task.waker().clone()),
                });
            }
            if head.sides.fetch_or(WAITING, Ordering::AcqRel) & FULL == 0 {
                return Poll::Pending;
            }
        }
        Poll::Ready(self.try_take().expect("FULL is set"))
    }
}

impl<S: Shared, T> Drop for HandleSide<S, T> {
    #[inline]
    fn drop(&mut self) {
        let sides = &self.block().head.sides;
        if sides.load(Ordering::Acquire) & LEFT == 0 && sides.fetch_or(LEFT, Ordering::AcqRel) & LEFT == 0 {
            return;
        }
        // SAFETY: both sides are gone.
        unsafe { free_begin(self.0) };
    }
}

/// The right to call the closure of a block. Dropping it drops the closure.
pub(crate) struct OwnedClosure<S: Shared>(JobSide<S>);

impl<S: Shared> OwnedClosure<S> {
    /// The job's side of the block, for what the shared value does beside the closure.
    #[inline]
    pub(crate) fn side(&self) -> &JobSide<S> {
        &self.0
    }
}

impl<S: Shared> JobMain<()> for OwnedClosure<S> {
    #[inline]
    fn call_main(self) {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is not used after this, so the side is moved out once.
        let side = unsafe { ptr::read(&raw const this.0) };
        // SAFETY: the block exists while this side does.
        let block = unsafe { side.0.as_ref() };
        // SAFETY: the owner has given up its right, so this is the one use of the closure. The side stays until then.
        unsafe { block.call_closure() };
    }
}

impl<S: Shared> Drop for OwnedClosure<S> {
    fn drop(&mut self) {
        // SAFETY: the block exists while this side does.
        let block = unsafe { self.0.0.as_ref() };
        // SAFETY: `call_main`, which is the only other use, forgets the owner.
        unsafe { block.drop_closure() };
    }
}

/// An [`OwnedClosure`] that may go to another thread.
pub(crate) struct SendClosure<S: Shared>(OwnedClosure<S>);

// SAFETY: `share_send` has made it, of a closure, a result and an error that are `Send`, and of a shared value that is
// `Send` and `Sync`. There is no other `JobSide`, because this one gives none out before it is taken apart.
unsafe impl<S: Shared + Send + Sync> Send for SendClosure<S> {}

impl<S: Shared> SendClosure<S> {
    /// The right to call the closure on this thread, where it stays from now on.
    #[inline]
    pub(crate) fn into_owned(self) -> OwnedClosure<S> {
        self.0
    }
}

#[cfg(all(test, not(asyncjob_loom)))]
mod tests {
    use std::cell::RefCell;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::rc::Rc;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    /// Calls the closure. Whether it panicked is the error.
    struct Calls;

    impl Shared for Calls {
        type Error = &'static str;

        fn run<T>(&self, f: impl FnOnce() -> T, keep: impl FnOnce(Result<T, &'static str>)) {
            keep(catch_unwind(AssertUnwindSafe(f)).map_err(|_| "panicked"));
        }

        fn failing(&self) {}
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_closure_is_called_or_dropped_once_whoever_keeps_the_block() {
        let calls = Rc::new(RefCell::new(0));
        let make = || {
            let calls = Rc::clone(&calls);
            share(|| Calls, move || *calls.borrow_mut() += 1)
        };
        let (first, called) = make();
        let (second, dropped) = make();
        assert_eq!(Rc::strong_count(&calls), 3);
        called.call_main();
        assert_eq!((*calls.borrow(), Rc::strong_count(&calls)), (1, 2));
        drop(dropped);
        assert_eq!((*calls.borrow(), Rc::strong_count(&calls)), (1, 1));
        assert_eq!((first.is_finished(), second.is_finished()), (true, false));
        drop((first, second));
        assert_eq!(Rc::strong_count(&calls), 1);
    }

    #[test]
    fn a_closure_that_panics_is_gone() {
        let owned_by_it = Rc::new(());
        let in_closure = Rc::clone(&owned_by_it);
        let (mut handle, owned) = share(
            || Calls,
            move || {
                let _in_closure = in_closure;
                resume_unwind(Box::new(7))
            },
        );
        owned.call_main();
        assert_eq!(handle.try_take(), Some(Some(Err::<(), _>("panicked"))));
        assert_eq!(Rc::strong_count(&owned_by_it), 1);
    }

    /// The scheduler has a side while the job runs, so that the result comes when both are done.
    #[test]
    fn the_result_comes_when_the_last_of_the_jobs_side_goes_and_is_taken_once() {
        let (mut handle, owned) = share(|| Calls, || 7);
        let (one, two) = (owned.side().clone(), owned.side().clone());
        owned.call_main();
        drop(one);
        assert_eq!(handle.try_take(), None);
        drop(two);
        assert_eq!(handle.try_take(), Some(Some(Ok(7))));
        assert_eq!(handle.try_take(), Some(None));
    }

    #[test]
    fn an_error_comes_at_once_and_the_first_result_counts() {
        let (mut handle, owned) = share(|| Calls, || 7);
        let side = owned.side().clone();
        side.fail("first");
        assert_eq!(handle.try_take(), Some(Some(Err("first"))));
        side.fail("second");
        owned.call_main();
        drop(side);
        assert_eq!(handle.try_take(), Some(None));

        let (mut handle, owned) = share(|| Calls, || 7);
        let side = owned.side().clone();
        owned.call_main();
        side.fail("after the result");
        assert_eq!(handle.try_take(), Some(Some(Ok(7))));
    }

    /// A result that nothing takes is dropped by the side that goes last.
    #[test]
    fn what_a_result_owns_is_dropped_once() {
        let owned_by_it = Rc::new(());
        for handle_goes_first in [false, true] {
            let result = Rc::clone(&owned_by_it);
            let (handle, owned) = share(|| Calls, move || result);
            if handle_goes_first {
                drop(handle);
                owned.call_main();
            } else {
                owned.call_main();
                assert_eq!(Rc::strong_count(&owned_by_it), 2);
                drop(handle);
            }
            assert_eq!(Rc::strong_count(&owned_by_it), 1);
        }
    }

    #[test]
    fn the_task_that_polled_last_is_woken_once() {
        let (mut handle, owned) = share(|| Calls, || 7);
        let wakes = [(); 2].map(|()| Arc::new(Wakes::default()));
        for task in [0, 0, 1, 1] {
            let waker = Arc::clone(&wakes[task]).into();
            assert!(handle.poll_take(&mut Context::from_waker(&waker)).is_pending());
        }
        assert_eq!(Arc::strong_count(&wakes[0]), 1, "the waker was replaced");
        owned.call_main();
        let woken = wakes.each_ref().map(|wakes| wakes.0.load(Ordering::Relaxed));
        assert_eq!(woken, [0, 1]);
        let taken = handle.poll_take(&mut Context::from_waker(Waker::noop()));
        assert_eq!(taken, Poll::Ready(Some(Ok(7))));
    }

    /// The side of the job ends on another thread, beside a handle that takes the result, or that goes.
    #[test]
    fn the_two_sides_meet_on_two_threads() {
        for round in 0..if cfg!(miri) { 10 } else { 1000 } {
            let (mut handle, owned) = share_send(|| Calls, move || Box::new(round));
            std::thread::scope(|scope| {
                scope.spawn(move || owned.into_owned().call_main());
                if round % 2 == 0 {
                    let taken = loop {
                        if let Some(taken) = handle.try_take() {
                            break taken;
                        }
                        std::thread::yield_now();
                    };
                    assert_eq!(taken, Some(Ok(Box::new(round))));
                }
                drop(handle);
            });
        }
    }
}
