//! What lies on a job's stack above its code, and every switch into it and out of it.
//!
//! [`start`] writes a [`TypedBlock`] to the top of a stack; [`Running`] is the job while it runs, as its resumer sees it; the
//! methods of [`ControlBlock`] are the job's own side. The drawing is in the documentation of the parent module.

use std::backtrace::Backtrace;
use std::borrow::Cow;
use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, offset_of};
use std::ptr::{self, NonNull};
use std::thread;

use corosensei::stack::StackPointer;
use corosensei::{Coroutine, CoroutineResult, Yielder};

use super::current::CURRENT;
use super::{Job, JobId, Step};
use crate::error::PauseError;
use crate::hooks::SwitchHooks;
use crate::pool;
use crate::stack::{MAX_ABOVE_TOP, Stack, StackSize};
use crate::wait_ctx::WaitCtx;

/// The job is to end: its pauses fail.
pub(super) const CANCELLED: u32 = 1;
/// `blocked` is not 0: its pauses do nothing.
pub(super) const BLOCKED: u32 = 2;
/// It has hooks, to be called at each switch.
const HOOKS: u32 = 4;
/// It was resumed to report where it is, and pauses again.
pub(super) const REPORT: u32 = 8;
/// It holds a count of its ctx. Until its first pause it borrows the one of `start_job`'s caller instead, so that a job
/// that never pauses costs no atomic operation.
const OWNS_CTX: u32 = 16;
/// It has a name, which the plate of its stack points to.
const NAMED: u32 = 32;
/// Whoever cancelled it was panicking, so that its own stack need not be.
pub(super) const ENTERED_PANICKING: u32 = 64;

/// How many pauses a cancelled job may still try before it is given up.
pub(super) const CANCELLED_PAUSES: usize = 1000;

/// What this module knows of a job, at the top of its slot.
#[repr(C, align(16))]
pub(super) struct ControlBlock {
    pub(super) flags: Cell<u32>,
    pub(super) blocked: Cell<u32>,
    yielder: Cell<*const Yielder<(), ()>>,
    pub(super) parent: Cell<Option<NonNull<ControlBlock>>>,
    ctx: ManuallyDrop<WaitCtx>,
    pub(super) id: JobId,
    pub(super) stack: ManuallyDrop<Stack>,
    pub(super) pauses_left: Cell<usize>,
    pub(super) report: Cell<*mut Backtrace>,
    hooks: UnsafeCell<Option<Box<dyn SwitchHooks>>>,
    pub(super) name: UnsafeCell<Option<Cow<'static, str>>>,
}

/// A header and the coroutine whose result is a `T`. The size is the same for every `T`.
#[repr(C)]
pub(super) struct TypedBlock<T> {
    control: ControlBlock,
    coroutine: ManuallyDrop<Coroutine<(), (), T, Bounds>>,
}

const _: () = assert!(
    offset_of!(TypedBlock<()>, control) == 0,
    "a block is cast to its control"
);
const _: () = assert!(
    MAX_ABOVE_TOP + size_of::<TypedBlock<()>>() <= StackSize::MAX_RESERVED,
    "the documentation of `StackSize::bytes` has the figure"
);

/// A job's stack, as corosensei sees it: everything below the frame.
pub(super) struct Bounds {
    base: StackPointer,
    limit: StackPointer,
}

// SAFETY: the range is part of a `Stack`, which has a guard at its lower end and at least 16 KiB above it, less one
// frame; `start_on` makes the only `Bounds` of a stack and keeps the stack until the coroutine has ended.
unsafe impl corosensei::stack::Stack for Bounds {
    #[inline]
    fn base(&self) -> StackPointer {
        self.base
    }

    #[inline]
    fn limit(&self) -> StackPointer {
        self.limit
    }
}

/// What a builder sets.
#[derive(Default)]
pub(super) struct Attributes {
    pub(super) name: Option<Cow<'static, str>>,
    pub(super) hooks: Option<Box<dyn SwitchHooks>>,
}

impl Attributes {
    pub(super) const NONE: Attributes = Attributes {
        name: None,
        hooks: None,
    };
}

/// A closure that is larger than this goes to the heap: it would move to the job's stack, which has other uses for the room.
const LARGEST_CLOSURE_ON_STACK: usize = 4096;

/// Runs `f` as a job on this stack for the first time.
#[inline]
pub(super) fn start<F, T>(stack: Stack, ctx: &WaitCtx, attributes: Attributes, f: F) -> Step<T>
where
    F: FnOnce() -> T + 'static,
    T: 'static,
{
    if const { size_of::<F>() > LARGEST_CLOSURE_ON_STACK } {
        start_on(stack, ctx, attributes, Box::new(f))
    } else {
        start_on(stack, ctx, attributes, f)
    }
}

/// Writes the frame of a job to the top of its stack and switches to it.
#[inline]
fn start_on<F, T>(stack: Stack, ctx: &WaitCtx, attributes: Attributes, f: F) -> Step<T>
where
    F: FnOnce() -> T + 'static,
    T: 'static,
{
    // SAFETY: `top` is one past the end of memory that the stack owns, at least 16 KiB of it.
    let block = unsafe { stack.top().byte_sub(size_of::<TypedBlock<T>>()) }.cast::<TypedBlock<T>>();
    let bounds = Bounds {
        base: block.addr(),
        limit: stack.limit().addr(),
    };

    let id = JobId(pool::next_id());
    let mut flags = 0;
    stack.header().set_id(id.0);
    if attributes.hooks.is_some() {
        flags |= HOOKS;
    }
    if let Some(name) = &attributes.name {
        flags |= NAMED;
        stack.header().set_name(name);
    }
    let control = ControlBlock {
        flags: Cell::new(flags),
        blocked: Cell::new(0),
        yielder: Cell::new(ptr::null()),
        parent: Cell::new(None),
        // SAFETY: a second handle without a count of its own: `switch_to` adds the count before the caller's borrow ends, and
        // `release` drops the handle only if it did.
        ctx: ManuallyDrop::new(unsafe { ptr::read(ctx) }),
        id,
        stack: ManuallyDrop::new(stack),
        pauses_left: Cell::new(0),
        report: Cell::new(ptr::null_mut()),
        hooks: UnsafeCell::new(attributes.hooks),
        name: UnsafeCell::new(attributes.name),
    };
    let at = block.cast::<ControlBlock>();
    let args = StartArgs {
        control: at,
        f: ManuallyDrop::new(f),
    };
    let from = &raw const args;
    // SAFETY: `switch_to` below enters the closure, once, while `takeoff` is still here.
    let coroutine = Coroutine::with_stack(bounds, move |yielder, ()| unsafe { job_main(from, yielder) });
    let coroutine = ManuallyDrop::new(coroutine);
    // SAFETY: aligned, as top and the frame's size are multiples of 16, and within the stack, whose first frame starts
    // below it.
    unsafe { block.write(TypedBlock { control, coroutine }) };
    // SAFETY: the frame was just written and nobody else knows of it.
    let step = unsafe { switch_to(block) };
    if let Step::Paused(job) = &step {
        // From here on the job outlives the caller's borrow.
        std::mem::forget(job.control().wait_ctx().clone());
        job.control().set_flag(OWNS_CTX);
    }
    step
}

/// What a job starts with, on the stack of whoever starts it and waits for its first pause.
///
/// One pointer to it is all that corosensei moves to the new stack. It would move the closure itself, but in pieces of 16 bytes
/// that were stored in pieces of 8, and each such load waits for the stores to reach the cache.
struct StartArgs<F> {
    control: NonNull<ControlBlock>,
    f: ManuallyDrop<F>,
}

/// The first thing that runs on a job's stack.
///
/// # Safety
///
/// `from` points to the job's takeoff, whose closure is taken.
#[inline]
unsafe fn job_main<F: FnOnce() -> T, T>(from: *const StartArgs<F>, yielder: &Yielder<(), ()>) -> T {
    // SAFETY: the caller's promise.
    let args = unsafe { from.read() };
    // SAFETY: the header lies above this very frame, until the coroutine has ended.
    unsafe { args.control.as_ref() }.yielder.set(yielder);
    ManuallyDrop::into_inner(args.f)()
}

/// Switches into the job until it pauses or ends.
///
/// # Safety
///
/// `frame` is the frame of a job that is paused or has not run yet, and the caller owns it.
#[inline(always)] // as a call, it returns with a guess that the job has used up, in every switch
pub(super) unsafe fn switch_to<T>(block: NonNull<TypedBlock<T>>) -> Step<T> {
    let mut running = Running::enter(block);
    match running.coroutine().resume(()) {
        CoroutineResult::Return(value) => {
            running.finished();
            Step::Finished(value)
        }
        CoroutineResult::Yield(()) => Step::Paused(running.paused()),
    }
}

/// A job that is running, as its resumer sees it. Every switch goes through this guard: it puts the job into the chain
/// of [`CURRENT`] and takes it out again, calls the hooks, and when the job has ended, by return, panic or unwinding,
/// takes its frame apart.
pub(super) struct Running<T> {
    block: NonNull<TypedBlock<T>>,
}

impl<T> Running<T> {
    #[inline]
    pub(super) fn enter(block: NonNull<TypedBlock<T>>) -> Self {
        let at = block.cast::<ControlBlock>();
        // SAFETY: the frame exists until `drop` takes it apart.
        let control = unsafe { at.as_ref() };
        if control.flags.get() & HOOKS != 0 {
            control.call_hooks(|hooks| hooks.enter());
        }
        control.parent.set(CURRENT.replace(Some(at)));
        Running { block }
    }

    /// The job has paused: what `drop` would do, without looking whether it has ended.
    ///
    /// Its address comes from [`CURRENT`], not from `self`: that one is read from the stack that was just switched to, so
    /// everything after this switch, the next one included, would wait for it (2.5 instead of 1.9 times corosensei).
    #[inline(always)]
    fn paused(self) -> Job<T> {
        // SAFETY: `enter` set it, and every guard since then has put back what it found.
        let at = unsafe { CURRENT.get().unwrap_unchecked() };
        debug_assert_eq!(at, self.block.cast());
        let block = at.cast();
        std::mem::forget(self);
        let job = Job {
            block,
            _not_send: PhantomData,
        };
        ManuallyDrop::new(Running { block }).leave(); // if a hook panics, `job` is cancelled
        job
    }

    /// The job has returned: what `drop` would do, in line.
    #[inline(always)]
    fn finished(self) {
        let mut running = ManuallyDrop::new(self);
        running.leave();
        running.finish();
    }

    /// The coroutine has ended: its stack goes back to the pool. Nothing uses the guard afterwards.
    #[inline(always)]
    fn finish(&mut self) {
        let ended = self.field();
        // SAFETY: a coroutine that is done owns nothing; its drop undoes what a sanitizer was told of the stack.
        unsafe { ptr::drop_in_place(ended) };
        // SAFETY: the job has ended, so nobody else reaches its frame, and the guard is not used after this.
        unsafe { ControlBlock::release(self.block.cast(), pool::give) };
    }

    /// The job does not run any more.
    #[inline]
    fn leave(&self) {
        // SAFETY: the frame exists until `drop` takes it apart.
        let control = unsafe { self.block.cast::<ControlBlock>().as_ref() };
        CURRENT.set(control.parent.get());
        if control.flags.get() & HOOKS != 0 {
            control.call_hooks(|hooks| hooks.leave());
        }
    }

    #[inline]
    pub(super) fn coroutine(&mut self) -> &mut Coroutine<(), (), T, Bounds> {
        let coroutine = self.field();
        // SAFETY: only the guard reaches the coroutine of a running job; the job reaches its header and its yielder.
        unsafe { &mut *coroutine }
    }

    #[inline]
    fn field(&self) -> *mut Coroutine<(), (), T, Bounds> {
        // SAFETY: the frame exists; no reference to the whole of it is made, as the header is shared with the job.
        let coroutine = unsafe { &raw mut (*self.block.as_ptr()).coroutine };
        coroutine.cast() // ManuallyDrop is transparent
    }
}

impl<T> Drop for Running<T> {
    #[cold]
    fn drop(&mut self) {
        self.leave();
        // `done` is also true while the job runs, but this is outside.
        if self.coroutine().done() {
            self.finish();
        }
    }
}

impl ControlBlock {
    #[inline]
    pub(super) fn wait_ctx(&self) -> &WaitCtx {
        &self.ctx
    }

    pub(super) fn set_flag(&self, flag: u32) {
        self.flags.set(self.flags.get() | flag);
    }

    pub(super) fn clear_flag(&self, flag: u32) {
        self.flags.set(self.flags.get() & !flag);
    }

    #[inline]
    pub(super) fn suspend(&self) {
        let yielder = self.yielder.get();
        // SAFETY: `job_main` stored the yielder, which lives as long as the coroutine, and this runs inside it.
        unsafe { &*yielder }.suspend(());
    }

    #[cold]
    fn call_hooks(&self, call: impl FnOnce(&mut dyn SwitchHooks)) {
        let hooks = self.hooks.get();
        // SAFETY: only the guard of a running job calls its hooks, one at a time: a job runs in one place.
        if let Some(hooks) = unsafe { &mut *hooks } {
            call(hooks.as_mut());
        }
    }

    /// A pause that does not switch, or does for the last time.
    #[cold]
    #[inline(never)]
    pub(super) fn pause_cold(&self) -> Result<(), PauseError> {
        if self.flags.get() & CANCELLED != 0 {
            return self.cancelled_pause();
        }
        if self.flags.get() & BLOCKED != 0 {
            return Err(PauseError::Blocked);
        }
        Err(PauseError::Panicking)
    }

    fn cancelled_pause(&self) -> Result<(), PauseError> {
        match self.pauses_left.get().checked_sub(1) {
            Some(left) => self.pauses_left.set(left),
            // A panic of the job's own forbids the switch: the canceller would inherit it. Then the job spins, as it would
            // have without us.
            None if thread::panicking() && self.flags.get() & ENTERED_PANICKING == 0 => {}
            // The canceller abandons a job that comes back here.
            None => self.suspend(),
        }
        Err(PauseError::Cancelled)
    }

    /// A resume with a purpose other than "go on".
    #[cold]
    #[inline(never)]
    pub(super) fn resumed_cold(&self) -> Result<(), PauseError> {
        while self.flags.get() & REPORT != 0 {
            let report = self.report.get();
            let backtrace = Backtrace::force_capture();
            // SAFETY: `Job::backtrace` waits for this on its resumer's stack, with the pointer to a value of its own.
            unsafe { *report = backtrace };
            self.suspend();
        }
        if self.flags.get() & CANCELLED != 0 {
            return Err(PauseError::Cancelled);
        }
        Ok(())
    }

    /// Hands the stack that the header stands on to `receive`, then drops what the header owned: a destructor of the
    /// user's that panics, or uses jobs, finds everything in order.
    ///
    /// # Safety
    ///
    /// The job has ended or will never run again, and nothing uses the header afterwards.
    #[inline(always)] // see `switch_to`
    pub(super) unsafe fn release(control: NonNull<ControlBlock>, receive: impl FnOnce(Stack)) {
        // SAFETY: the caller's promise: nobody else uses it.
        let control = unsafe { &mut *control.as_ptr() };
        // SAFETY: as above; the header's own handle is not used again.
        let stack = unsafe { ManuallyDrop::take(&mut control.stack) };
        let flags = control.flags.get();
        // SAFETY: the flag says that this handle has a count, and the header is not used again.
        let ctx = (flags & OWNS_CTX != 0).then(|| unsafe { ManuallyDrop::take(&mut control.ctx) });
        if flags & (HOOKS | NAMED) == 0 {
            receive(stack);
        } else {
            control.give_with_attributes(stack, receive);
        }
        drop(ctx);
    }

    #[cold]
    #[inline(never)]
    fn give_with_attributes(&mut self, stack: Stack, receive: impl FnOnce(Stack)) {
        let attributes = Attributes {
            name: self.name.get_mut().take(),
            hooks: self.hooks.get_mut().take(),
        };
        stack.header().clear_name();
        receive(stack);
        drop(attributes);
    }
}
