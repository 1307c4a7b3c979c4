//! The control block of a job, which lies on the job's stack above its code, and every switch into a job and out of it.
//!
//! [`start`] writes a [`TypedBlock`] to the top of a stack. [`Running`] is a job that runs, as its resumer sees it. The
//! methods of [`ControlBlock`] are the job's own side. The drawing is in the documentation of the parent module.
//!
//! # Who may reach a control block
//!
//! A control block exists from [`start`] until [`ControlBlock::release`]. Three parties reach it:
//!
//! * the [`Job`], which is the only handle of a paused job;
//! * the [`Running`] guard, which the resumer of a running job holds in place of the `Job`;
//! * code that runs in the job, or in another job that runs inside it, by way of [`CURRENT`].
//!
//! All of them are on one thread, as no handle is `Send`. The fields that they share are cells.

use std::any::Any;
use std::backtrace::Backtrace;
use std::borrow::Cow;
use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::mem::{self, ManuallyDrop, MaybeUninit, offset_of};
use std::ops::Range;
#[cfg(feature = "insight")]
use std::panic::AssertUnwindSafe;
use std::panic::{catch_unwind, resume_unwind};
use std::ptr::{self, NonNull};
use std::thread;

use corosensei::stack::StackPointer;
use corosensei::{Coroutine, CoroutineResult, Yielder};

use super::closure::LARGEST_CLOSURE_ON_STACK;
use super::current::CURRENT;
use super::no_pause::report_forbidden_pause;
use super::{HeapClosure, Job, JobId, Step, Wiped};
use crate::error::PauseError;
#[cfg(feature = "insight")]
use crate::hooks::LookAtJob;
use crate::hooks::{self, HookedJob, SwitchHooks};
use crate::pool;
use crate::stack::depot::Depot;
use crate::stack::{MAX_ABOVE_TOP, Spec, Stack, StackSize};
use crate::sync::contain;
use crate::wait_ctx::WaitCtx;

// The flags of a control block. HOOKS and NAMED are set at the start. OWNS_CTX is set after the first pause. CANCELLED
// is set when a paused job is cancelled, and with it perhaps ENTERED_PANICKING. ATTACHED is set when the C interface
// first sees the job. None of these is cleared.
//
// BLOCKED and REPORT come and go. They exclude each other, and REPORT excludes CANCELLED: REPORT is set only while a
// method of `Job` has the handle of a paused job, and a job with BLOCKED does not pause. UNPAUSED comes and goes, too.

/// The job has been cancelled: its pauses fail.
pub(super) const CANCELLED: u32 = 1;
/// `blocked` or `blocked_by_c` is not 0: the job's pauses do nothing.
pub(super) const BLOCKED: u32 = 2;
/// The job has hooks, which are called at each switch.
const HOOKS: u32 = 4;
/// `Job::backtrace` or `Job::trim` has resumed the job: the job writes the report that it is asked for and pauses
/// again. The call that set the flag clears it.
pub(super) const REPORT: u32 = 8;
/// The control block holds a count of the wait ctx. Until its first pause a job borrows the handle of `start_job`'s
/// caller instead, so that a job that never pauses costs no atomic operation.
const OWNS_CTX: u32 = 16;
/// The job has a name, to which the header of its stack points.
const NAMED: u32 = 32;
/// The thread was panicking when the job was cancelled, so `thread::panicking` does not say that the job itself panics.
pub(super) const ENTERED_PANICKING: u32 = 64;
/// `pauses_in` has set the flag, and the job has not paused since.
pub(super) const UNPAUSED: u32 = 256;

/// The job has an attachment of the C interface, which is dropped at its end.
const ATTACHED: u32 = 512;

/// `Job::force_unwind` ends the job: the pause in which the job is unwinds the job's stack. Set with CANCELLED.
pub(super) const UNWIND: u32 = 128;

/// What unwinds the stack of a job for `Job::force_unwind`.
pub(super) struct ForcedUnwind;

/// How many pauses a cancelled job may still try before it is quarantined.
pub(super) const CANCELLED_PAUSES: u32 = 1000;

/// What the library knows of a job.
#[repr(C, align(16))]
pub(super) struct ControlBlock {
    pub(super) flags: Cell<u32>,
    /// How many `BlockPause` guards the job has.
    pub(super) blocked: Cell<u32>,
    /// The lowest address of the job's stack. `is_on_own_stack` reads it at each pause, and finds it in the line of the
    /// flags.
    limit: usize,
    /// The way out of the job. `job_main` stores it.
    yielder: Cell<*const Yielder<(), ()>>,
    /// The job that was current when this one was last started or resumed.
    pub(super) parent: Cell<Option<NonNull<ControlBlock>>>,
    pub(super) ctx: ManuallyDrop<WaitCtx>,
    pub(super) id: JobId,
    pub(super) stack: ManuallyDrop<Stack>,
    /// How many pauses a cancelled job may still try.
    pub(super) pauses_left: Cell<u32>,
    /// How many calls of C code have blocked the job's pauses, and not been taken back.
    pub(super) blocked_by_c: Cell<u32>,
    /// What the C interface knows the job by, or 0.
    pub(super) c_handle: Cell<usize>,
    /// What the job fills in while REPORT is set.
    pub(super) report: Cell<*mut Report>,
    /// What the C interface keeps with a job of Rust code. It is there if ATTACHED is set: most jobs write nothing
    /// here.
    attachment: Cell<MaybeUninit<Box<dyn Any>>>,
    /// They are there if HOOKS is set, as above.
    hooks: UnsafeCell<MaybeUninit<Box<dyn SwitchHooks>>>,
    pub(super) name: UnsafeCell<Option<Cow<'static, str>>>,
}

/// What a paused job is asked for. The job fills it in and pauses again.
pub(super) enum Report {
    /// For `Job::backtrace`.
    Frames(FramesReport),
    /// The stack pointer of the job, for `Job::trim`. The job has pushed a few call frames more when it is paused
    /// again.
    StackPointer(usize),
}

/// What `Job::backtrace` gives a job, and gets from it.
pub(super) struct FramesReport {
    /// The job captures on this stack. Its own may be nearly full, and a capture takes several KiB.
    stack: Stack,
    pub(super) backtrace: Backtrace,
    /// The return addresses on the job's own stack, if they are asked for in place of the backtrace.
    #[cfg(feature = "insight")]
    pub(super) frames: Option<Vec<usize>>,
}

impl FramesReport {
    pub(super) fn new(stack: Stack) -> Self {
        FramesReport {
            stack,
            backtrace: Backtrace::disabled(),
            #[cfg(feature = "insight")]
            frames: None,
        }
    }

    /// Captures the backtrace of the caller, on the stack of the report. A panic gives a disabled one.
    ///
    /// `own_stack` is where the frames of the job are.
    #[cfg_attr(
        not(feature = "insight"),
        expect(unused_variables, reason = "std captures all frames")
    )]
    fn capture(&mut self, own_stack: Range<usize>) {
        let bounds = Bounds {
            base: self.stack.top().addr(),
            limit: self.stack.limit().addr(),
        };
        #[cfg(feature = "insight")]
        if let Some(frames) = &mut self.frames {
            // A panic leaves the frames that were found before it.
            let walk = || {
                let _walking = super::frames::walking();
                backtrace::trace(|frame| super::frames::add(frames, frame, &own_stack));
            };
            let walked = corosensei::on_stack(bounds, || catch_unwind(AssertUnwindSafe(walk)));
            return mem::forget(walked);
        }
        let captured = corosensei::on_stack(bounds, || catch_unwind(Backtrace::force_capture));
        self.backtrace = captured.unwrap_or_else(|payload| {
            mem::forget(payload);
            Backtrace::disabled()
        });
    }
}

/// Calls `f` on a stack of its own, which is as large as that of most jobs. Returns `None` if there is no memory for
/// it, and if `f` panics: the panic hook has reported that.
pub(crate) fn on_spare_stack<R>(f: impl FnOnce() -> R) -> Option<R> {
    let stack = Depot::of(Spec::new(StackSize::DEFAULT)).take().ok()?;
    let bounds = Bounds {
        base: stack.top().addr(),
        limit: stack.limit().addr(),
    };
    let mut returned = None;
    corosensei::on_stack(bounds, || {
        contain(|| returned = Some(f()));
    });
    returned
}

const PAUSES_AGAIN: &str = "a job that reports pauses again";

/// How far below the [`StackPointer`](Report::StackPointer) of a paused job its stack may be in use: the call frames of
/// the pause in which it waits, of a build without optimization, and 128 bytes that code may use below its pointer.
pub(super) const USED_BELOW_POINTER: usize = 4096 + 128;

/// How many bytes of its own stack a job needs to get to the stack of the report and back: the frames of a pause, and
/// the handler of a signal.
const ROOM_TO_REPORT: usize = 2048;

/// A control block, and the coroutine whose result is a `T`. The size is the same for every `T`.
#[repr(C)]
pub(super) struct TypedBlock<T> {
    control: ControlBlock,
    pub(super) coroutine: ManuallyDrop<Coroutine<(), (), T, Bounds>>,
}

const _: () = assert!(
    offset_of!(TypedBlock<()>, control) == 0,
    "a block is cast to its control"
);
/// The stack of a job as corosensei sees it: everything below the [`TypedBlock`].
pub(super) struct Bounds {
    base: StackPointer,
    limit: StackPointer,
}

// SAFETY: the range is part of a `Stack`. It has a guard at its lower end, but for foreign memory, whose provider
// promised to do without (`stack::set_stack_memory`). Above the guard it has at least 16 KiB less
// `StackSize::MAX_RESERVED` bytes. `start_on` makes the only `Bounds` of a stack, and the control block keeps the stack
// until the coroutine has ended.
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

/// What a builder sets beside the stack size.
#[derive(Default)]
pub(super) struct Attributes {
    pub(super) name: Option<Cow<'static, str>>,
    pub(super) hooks: Option<Box<dyn SwitchHooks>>,
    /// [`ControlBlock::c_handle`] of a job that C code starts.
    pub(super) c_handle: usize,
}

impl Attributes {
    pub(super) const NONE: Attributes = Attributes {
        name: None,
        hooks: None,
        c_handle: 0,
    };
}

/// Runs `f` as a job on `stack` until its first pause or its end.
#[inline(always)] // what is known of the attributes is known here, too
pub(super) fn start<F, T>(stack: Stack, ctx: &WaitCtx, attributes: Attributes, f: F) -> Step<T>
where
    F: FnOnce() -> T + 'static,
    T: 'static,
{
    if const { size_of::<F>() > LARGEST_CLOSURE_ON_STACK } {
        let f = Wiped::boxed(f);
        start_on(stack, ctx, attributes, move || f.call())
    } else {
        start_on(stack, ctx, attributes, f)
    }
}

/// Writes the control block of a job to the top of its stack and switches to the job.
#[inline(always)] // as above
fn start_on<F, T>(stack: Stack, ctx: &WaitCtx, attributes: Attributes, f: F) -> Step<T>
where
    F: FnOnce() -> T + 'static,
    T: 'static,
{
    let mut args = MaybeUninit::uninit();
    // SAFETY: `args` lives until the switch below has returned. The caller's borrow of `ctx` lasts as long as this
    // call. A job that outlives the call is one for which `switch` returned `Paused`: then `own_ctx` gives it a count
    // before this function returns.
    let running = unsafe { prepare(stack, ctx, attributes, f, &mut args) };
    // SAFETY: the guard is new.
    let step = unsafe { switch::<true, true, T>(running) };
    if let Step::Paused(job) = &step {
        job.own_ctx();
    }
    step
}

impl<T> Job<T> {
    /// The job may outlive the borrow of the wait ctx that it was started with, so its handle gets a count. For a job
    /// that has just paused for the first time.
    #[inline]
    pub(super) fn own_ctx(&self) {
        mem::forget(self.control().wait_ctx().clone());
        self.control().set_flag(OWNS_CTX);
    }
}

/// Writes the control block of a job to the top of its stack and makes the job the current one.
///
/// # Safety
///
/// The caller must [`switch`] to the job as the next thing, and neither use `args` nor let it go before that. The job
/// has a handle of `ctx` without a count. `ctx` must exist until the job has ended, or until the caller has called
/// [`Job::own_ctx`].
#[inline(always)]
pub(super) unsafe fn prepare<F, T>(
    stack: Stack,
    ctx: &WaitCtx,
    attributes: Attributes,
    f: F,
    args: &mut MaybeUninit<StartArgs<F>>,
) -> Running<T>
where
    F: FnOnce() -> T + 'static,
    T: 'static,
{
    const {
        assert!(
            MAX_ABOVE_TOP + size_of::<TypedBlock<()>>() <= StackSize::MAX_RESERVED,
            "the documentation of `StackSize::bytes` has the figure"
        );
    }
    // SAFETY: `top` is one past the end of memory that `stack` owns, of which there is much more than a block.
    let block = unsafe { stack.top().byte_sub(size_of::<TypedBlock<T>>()) }.cast::<TypedBlock<T>>();
    let bounds = Bounds {
        base: block.addr(),
        limit: stack.limit().addr(),
    };

    let mut attributes = attributes;
    let id = JobId::next();
    let stack = match &mut attributes.hooks {
        Some(hooks) => {
            let job = HookedJob {
                id: id.get(),
                name: attributes.name.as_deref(),
                wait_ctx: ctx,
                #[cfg(feature = "insight")]
                look: &NotStarted,
            };
            enter_first(stack, hooks.as_mut(), job)
        }
        None => stack,
    };
    let mut flags = 0;
    stack.header().set_id(id.get());
    if attributes.hooks.is_some() {
        flags |= HOOKS;
    }
    if let Some(name) = &attributes.name {
        flags |= NAMED;
        // SAFETY: the control block takes the name below. Moving a `Cow` does not move the bytes of the string, and
        // nothing changes them. `release` clears the name before it drops the string.
        unsafe { stack.header().set_name(name) };
    }
    let control = ControlBlock {
        flags: Cell::new(flags),
        blocked: Cell::new(0),
        limit: stack.limit().addr().get(),
        yielder: Cell::new(ptr::null()),
        parent: Cell::new(None),
        // SAFETY: this is a second handle without a count of its own, for which the caller answers. As long as OWNS_CTX
        // is not set, `release` does not drop it.
        ctx: ManuallyDrop::new(unsafe { ptr::read(ctx) }),
        id,
        stack: ManuallyDrop::new(stack),
        pauses_left: Cell::new(0),
        blocked_by_c: Cell::new(0),
        c_handle: Cell::new(attributes.c_handle),
        report: Cell::new(ptr::null_mut()),
        attachment: Cell::new(MaybeUninit::uninit()),
        hooks: UnsafeCell::new(match attributes.hooks {
            Some(hooks) => MaybeUninit::new(hooks),
            None => MaybeUninit::uninit(),
        }),
        name: UnsafeCell::new(attributes.name),
    };
    let at = block.cast::<ControlBlock>();
    let from = ptr::from_ref(args.write(StartArgs {
        control: at,
        f: ManuallyDrop::new(f),
    }));
    // SAFETY: the coroutine calls its closure once, in the caller's switch, while `args` still exists.
    let coroutine = Coroutine::with_stack(bounds, move |yielder, ()| unsafe { job_main(from, yielder) });
    let coroutine = ManuallyDrop::new(coroutine);
    // SAFETY: the block is aligned, as `top` and the size of the block are multiples of 16. It is memory of the stack,
    // and the coroutine uses only what lies below it.
    unsafe { block.write(TypedBlock { control, coroutine }) };
    // SAFETY: the block was written above, its job has not run yet, and no other pointer to it exists. The hooks have
    // been called.
    unsafe { Running::begin(block) }
}

/// A job without a control block, for its hook.
#[cfg(feature = "insight")]
struct NotStarted;

#[cfg(feature = "insight")]
impl LookAtJob for NotStarted {
    fn is_cancelled(&self) -> bool {
        false
    }

    fn high_water(&self) -> usize {
        0
    }

    fn copy_stack(&self, _: fn(usize, &mut [u8]) -> Option<()>) -> Option<(usize, Vec<u8>)> {
        None
    }
}

#[cfg(feature = "insight")]
impl LookAtJob for ControlBlock {
    fn is_cancelled(&self) -> bool {
        self.flags.get() & CANCELLED != 0
    }

    fn high_water(&self) -> usize {
        self.stack.high_water()
    }

    fn copy_stack(&self, read: fn(usize, &mut [u8]) -> Option<()>) -> Option<(usize, Vec<u8>)> {
        let (header, limit) = (self.stack.top().addr().get(), self.stack.limit().addr().get());
        super::frames::copy_of_stack(header, limit, &read)
    }
}

/// Calls the hook of a job that is about to start. If the hook panics, there is no job yet: the pool gets the stack
/// back, and the closure is dropped.
#[cold]
fn enter_first(stack: Stack, hooks: &mut dyn SwitchHooks, job: HookedJob<'_>) -> Stack {
    struct GiveBack(Option<Stack>);
    impl Drop for GiveBack {
        fn drop(&mut self) {
            self.0.take().into_iter().for_each(pool::give);
        }
    }
    let mut kept = GiveBack(Some(stack));
    hooks.starting(job);
    hooks.enter();
    kept.0.take().expect("the stack was put there above")
}

/// What a job starts with. It lies on the stack of the caller of [`prepare`], which does not go on before the job's
/// first pause.
///
/// corosensei moves one pointer to the new stack. It could move the closure itself, but it would load pieces of 16
/// bytes that were stored in pieces of 8, and each such load waits until the stores have reached the cache.
pub(super) struct StartArgs<F> {
    control: NonNull<ControlBlock>,
    f: ManuallyDrop<F>,
}

/// The first function on a job's stack.
///
/// # Safety
///
/// `from` must point to the [`StartArgs`] of the job whose coroutine calls this. The caller must not use the closure in
/// them after this call, which takes it.
#[inline]
unsafe fn job_main<F: FnOnce() -> T, T>(from: *const StartArgs<F>, yielder: &Yielder<(), ()>) -> T {
    // SAFETY: the caller's promise.
    let args = unsafe { from.read() };
    // SAFETY: the control block lies above the frame of this function, and exists until the coroutine has ended.
    unsafe { args.control.as_ref() }.yielder.set(yielder);
    ManuallyDrop::into_inner(args.f)()
}

/// Switches into the job until it pauses or ends.
///
/// # Safety
///
/// `block` must belong to a job that is paused or has not run yet. The caller must own the job: no [`Job`] of it may be
/// used after this call but the one that this function returns.
#[inline(always)] // as a call, it returns with a guess that the job has used up, in every switch
pub(super) unsafe fn switch_to<T>(block: NonNull<TypedBlock<T>>) -> Step<T> {
    // SAFETY: the caller's promise.
    let running = unsafe { Running::enter_owned(block) };
    // SAFETY: the guard is new.
    unsafe { switch::<true, false, T>(running) }
}

/// As [`switch_to`], for a job that has been made the current one. A job that C code has started has no hooks, so that
/// `MAY_HAVE_HOOKS` is false for it. `ENDS_IN_LINE` is for a switch that a job often ends in, as the first one.
///
/// # Safety
///
/// The job of the guard must not have run since the guard was made.
#[inline(always)] // see `switch_to`
pub(super) unsafe fn switch<const MAY_HAVE_HOOKS: bool, const ENDS_IN_LINE: bool, T>(
    mut running: Running<T>,
) -> Step<T> {
    match running.coroutine().resume(()) {
        CoroutineResult::Return(value) => {
            if ENDS_IN_LINE {
                // SAFETY: the coroutine has returned.
                unsafe { running.finished::<MAY_HAVE_HOOKS>() };
            } else {
                // SAFETY: as above.
                unsafe { running.finished_after_pause::<MAY_HAVE_HOOKS>() };
            }
            Step::Finished(value)
        }
        // SAFETY: the coroutine has yielded.
        CoroutineResult::Yield(()) => Step::Paused(unsafe { running.paused::<MAY_HAVE_HOOKS>() }),
    }
}

/// A job that runs, as its resumer sees it.
///
/// Every switch goes through this guard. It puts the job into the chain of [`CURRENT`] and takes it out again, and
/// calls the hooks. When the job has ended, by return, panic or unwinding, the guard releases its control block.
///
/// From [`begin`](Self::begin) to [`finish`](Self::finish), `block` points to a block that exists.
pub(super) struct Running<T> {
    block: NonNull<TypedBlock<T>>,
}

impl<T> Running<T> {
    /// Makes the job the current one. If a hook panics, the job is cancelled, as a dropped one. If it is cancelled
    /// already, it is quarantined: the hook may panic each time.
    ///
    /// # Safety
    ///
    /// `block` must belong to a job that is paused or has not run yet. The caller must own the job, and must not use a
    /// [`Job`] of it as long as the guard exists. When the coroutine has ended, the guard releases the block, and the
    /// caller must not use a `Job` of it ever again.
    #[inline(always)]
    pub(super) unsafe fn enter_owned(block: NonNull<TypedBlock<T>>) -> Self {
        // SAFETY: the caller's promise: a job that has not ended has a control block.
        let control = unsafe { block.cast::<ControlBlock>().as_ref() };
        if control.flags.get() & HOOKS != 0 {
            let owner = Job {
                block,
                _not_send: PhantomData,
            };
            enter_hooks(owner);
        }
        // SAFETY: the caller's promise, and the hooks have been called.
        unsafe { Running::begin(block) }
    }

    /// Lets a paused job fill in the report that it was asked for. Its hooks are not called, so nothing of the user's
    /// runs (an allocator may), and nothing panics.
    ///
    /// # Safety
    ///
    /// `block` must belong to a paused job whose flag REPORT is set. No guard of the job may exist.
    pub(super) unsafe fn report_unhooked(block: NonNull<TypedBlock<T>>) {
        let mut running = ManuallyDrop::new(Running { block });
        // The job is not made the current one: it runs only the loop of `resumed_cold`, which does not ask.
        let result = running.coroutine().resume(());
        debug_assert!(matches!(result, CoroutineResult::Yield(())), "{PAUSES_AGAIN}");
    }

    /// As [`enter_owned`](Self::enter_owned), without a call of the hooks.
    ///
    /// # Safety
    ///
    /// As [`enter_owned`](Self::enter_owned). The caller must have called the hooks.
    #[inline(always)]
    pub(super) unsafe fn begin(block: NonNull<TypedBlock<T>>) -> Self {
        let at = block.cast::<ControlBlock>();
        // SAFETY: the caller's promise: a job that has not ended has a control block.
        let control = unsafe { at.as_ref() };
        control.parent.set(CURRENT.replace(Some(at)));
        Running { block }
    }

    /// Turns the guard into the handle of a paused job. It does what `drop` does, without asking whether the job has
    /// ended.
    ///
    /// The address of the block comes from [`CURRENT`], not from `self`. The compiler would read `self` from the stack
    /// that was just switched to, and everything after this switch, the next one included, would wait for that load
    /// (2.5 instead of 1.9 times corosensei).
    ///
    /// # Safety
    ///
    /// The coroutine must have yielded to this guard.
    #[inline(always)]
    unsafe fn paused<const MAY_HAVE_HOOKS: bool>(self) -> Job<T> {
        // SAFETY: `enter` set it, and every guard since then has put back what it found.
        let at = unsafe { CURRENT.with(Cell::get).unwrap_unchecked() };
        debug_assert_eq!(at, self.block.cast());
        let block = at.cast();
        mem::forget(self);
        // SAFETY: a job that has paused has a control block.
        let control = unsafe { at.as_ref() };
        CURRENT.set(control.parent.get());
        if MAY_HAVE_HOOKS && control.flags.get() & HOOKS != 0 {
            let paused = Job {
                block,
                _not_send: PhantomData,
            };
            leave_hooks(paused);
        }
        Job {
            block,
            _not_send: PhantomData,
        }
    }

    /// Ends the guard of a job that has returned. It does what `drop` does, in line.
    ///
    /// # Safety
    ///
    /// The coroutine must have returned.
    #[inline(always)]
    unsafe fn finished<const MAY_HAVE_HOOKS: bool>(self) {
        let mut ended = ManuallyDrop::new(self);
        // SAFETY: the block exists until `finish`.
        let control = unsafe { ended.block.cast::<ControlBlock>().as_ref() };
        if MAY_HAVE_HOOKS && control.flags.get() & HOOKS != 0 {
            // SAFETY: the coroutine has returned.
            return unsafe { ManuallyDrop::into_inner(ended).finished_with_hooks() };
        }
        CURRENT.set(control.parent.get());
        // SAFETY: the coroutine has returned; the guard goes out of scope here, without its `drop`.
        unsafe { ended.finish() };
    }

    /// As [`finished`](Self::finished), for a job that has paused before. A job pauses more often than it ends, so what
    /// its end needs takes no registers from the switch.
    ///
    /// # Safety
    ///
    /// As [`finished`](Self::finished).
    #[inline(never)]
    unsafe fn finished_after_pause<const MAY_HAVE_HOOKS: bool>(self) {
        // SAFETY: passed on.
        unsafe { self.finished::<MAY_HAVE_HOOKS>() };
    }

    /// As [`finished`](Self::finished), for a job with hooks.
    ///
    /// # Safety
    ///
    /// As [`finished`](Self::finished).
    #[cold]
    #[inline(never)]
    unsafe fn finished_with_hooks(self) {
        /// Finishes the job also if its hook panics in `leave`.
        struct Finish<T>(ManuallyDrop<Running<T>>);
        impl<T> Drop for Finish<T> {
            #[inline(always)]
            fn drop(&mut self) {
                // SAFETY: the coroutine has returned; the guard goes out of scope here, without its `drop`.
                unsafe { self.0.finish() };
            }
        }
        let ended = Finish(ManuallyDrop::new(self));
        // SAFETY: the coroutine is not resumed after this.
        unsafe { ended.0.leave(hooks::end) };
    }

    /// Gives the stack of a job that has ended back to the pool. The guard dangles after this call.
    ///
    /// # Safety
    ///
    /// The coroutine must have ended. The caller must not use the guard after this call, nor drop it.
    #[inline(always)]
    unsafe fn finish(&mut self) {
        let ended = self.field();
        // SAFETY: a coroutine that has ended owns nothing. Its drop undoes what a sanitizer was told of the stack.
        unsafe { ptr::drop_in_place(ended) };
        // SAFETY: the job has ended, so only this guard reaches the control block, and the guard is not used after
        // this.
        unsafe { ControlBlock::release(self.block.cast(), pool::give) };
    }

    /// Makes the job that was current before this one current again, and lets `last` call the hooks: [`hooks::pause`]
    /// or [`hooks::end`] says why the job leaves.
    ///
    /// # Safety
    ///
    /// The caller must call this once for each guard. It must not resume the coroutine after this call: the job would
    /// take its parent for itself.
    #[inline(always)]
    unsafe fn leave(&self, last: impl FnOnce(&mut dyn SwitchHooks, HookedJob<'_>)) {
        // SAFETY: the block exists until `finish`.
        let control = unsafe { self.block.cast::<ControlBlock>().as_ref() };
        CURRENT.set(control.parent.get());
        if control.flags.get() & HOOKS != 0 {
            // SAFETY: this is the job's guard.
            unsafe { control.call_hooks(|hooks| last(hooks, control.hooked())) };
        }
    }

    /// The coroutine of the job, to resume or to unwind it.
    #[inline]
    pub(super) fn coroutine(&mut self) -> &mut Coroutine<(), (), T, Bounds> {
        let coroutine = self.field();
        // SAFETY: only the guard reaches the coroutine of a running job. The job reaches its control block and its
        // yielder.
        unsafe { &mut *coroutine }
    }

    #[inline]
    fn field(&self) -> *mut Coroutine<(), (), T, Bounds> {
        // SAFETY: the block exists until `finish`. This makes no reference to the whole block, as the guard shares the
        // control block with the job.
        let coroutine = unsafe { &raw mut (*self.block.as_ptr()).coroutine };
        coroutine.cast() // ManuallyDrop is transparent
    }
}

/// Calls the hook of a paused job that is about to run. The caller has the job again when this returns.
#[cold]
fn enter_hooks<T>(job: Job<T>) {
    let hooked = Hooked(ManuallyDrop::new(job));
    // SAFETY: `hooked` is the only handle of the job, so no other call of its hooks is in progress.
    unsafe { hooked.0.control().call_hooks(|hooks| hooks.enter()) };
    #[cfg(any(feature = "insight", feature = "tracing"))]
    hooked.0.wait_ctx().forget_wake();
    mem::forget(hooked);
}

/// Calls the hooks of a job that has paused. The caller has the job again when this returns.
#[cold]
fn leave_hooks<T>(job: Job<T>) {
    let hooked = Hooked(ManuallyDrop::new(job));
    let control = hooked.0.control();
    // SAFETY: `hooked` is the only handle of the job, so no other call of its hooks is in progress.
    unsafe { control.call_hooks(|hooks| hooks::pause(hooks, control.hooked())) };
    mem::forget(hooked);
}

/// A paused job whose hook is being called. If the hook panics, the job is cancelled, as a dropped one. If it is
/// cancelled already, it is quarantined: the hook may panic each time.
struct Hooked<T>(ManuallyDrop<Job<T>>);

impl<T> Drop for Hooked<T> {
    fn drop(&mut self) {
        // SAFETY: the job is not used after this.
        let job = unsafe { ManuallyDrop::take(&mut self.0) };
        if job.control().flags.get() & CANCELLED != 0 {
            job.quarantine();
        } else {
            drop(job);
        }
    }
}

impl<T> Drop for Running<T> {
    #[cold]
    fn drop(&mut self) {
        // `done` is also true while the job runs, but this code runs outside the job.
        let has_ended = self.coroutine().done();
        let last = if has_ended {
            hooks::end
        } else {
            |hooks: &mut dyn SwitchHooks, _: HookedJob<'_>| hooks.leave()
        };
        // SAFETY: `paused` and `finished`, which leave as well, keep a guard from being dropped. The coroutine is not
        // resumed after this.
        let leave = || unsafe { self.leave(last) };
        // While the panic of the job passes, a panic of its hook would abort the process. It ends here.
        if thread::panicking() {
            contain(leave);
        } else {
            leave();
        }
        if has_ended {
            // SAFETY: the coroutine has ended, and a guard is not used after its drop.
            unsafe { self.finish() };
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

    /// Whether this code runs on the stack of the job, and not on one that code of the job has changed to.
    ///
    /// `stacker::grow` runs a closure on a stack of its own, and keeps the limit of that stack in a thread-local until
    /// the closure returns. A pause in between would leave that limit to the code of other jobs, which would overflow
    /// the stack that it really has. A coroutine of another library and a signal handler with its own stack have the
    /// same problem.
    #[inline(always)]
    pub(super) fn is_on_own_stack(&self) -> bool {
        // The control block lies above the frames of the job.
        let top = ptr::from_ref(self).addr();
        stack_pointer().wrapping_sub(self.limit) < top - self.limit
    }

    /// How many bytes of the job's stack are left below this code, without the guard.
    pub(super) fn room(&self) -> usize {
        stack_pointer().saturating_sub(self.limit + self.stack.guard_bytes())
    }

    /// Switches from the job to its resumer. Returns when the job is resumed.
    ///
    /// # Safety
    ///
    /// The caller must run on this job's stack, in the innermost job: [`CURRENT`] must point to `self`.
    #[inline]
    pub(super) unsafe fn suspend(&self) {
        let yielder = self.yielder.get();
        // SAFETY: `job_main` stored the yielder, which exists until the coroutine has ended. The caller is code of that
        // coroutine, so the coroutine has not ended.
        unsafe { &*yielder }.suspend(());
    }

    /// The job as its hooks see it.
    fn hooked(&self) -> HookedJob<'_> {
        HookedJob {
            id: self.id.get(),
            // SAFETY: the name is written only at the start and at the end of the job, and the job is paused or runs.
            name: unsafe { &*self.name.get() }.as_deref(),
            wait_ctx: self.wait_ctx(),
            #[cfg(feature = "insight")]
            look: self,
        }
    }

    /// Calls a hook of the job.
    ///
    /// # Safety
    ///
    /// The caller must hold or make the [`Running`] guard of this job: no other call of the job's hooks may be in
    /// progress.
    #[cold]
    unsafe fn call_hooks(&self, call: impl FnOnce(&mut dyn SwitchHooks)) {
        if self.flags.get() & HOOKS == 0 {
            return;
        }
        let hooks = self.hooks.get();
        // SAFETY: the caller's promise. A hook cannot call a hook of its own job, because the guard stands in place of
        // the only handle.
        let hooks = unsafe { &mut *hooks };
        // SAFETY: the flag says that they are there.
        call(unsafe { hooks.assume_init_mut() }.as_mut());
    }

    /// Keeps this with the job until its end. It replaces what was kept before.
    pub(super) fn attach(&self, attachment: Box<dyn Any>) {
        let before = self.attachment.replace(MaybeUninit::new(attachment));
        let had_one = self.flags.get() & ATTACHED != 0;
        self.set_flag(ATTACHED);
        if had_one {
            // SAFETY: the flag said that it was there.
            drop(unsafe { before.assume_init() });
        }
    }

    /// A pause that does not switch, or that switches for the last time.
    ///
    /// # Safety
    ///
    /// As [`suspend`](Self::suspend).
    #[cold]
    #[inline(never)]
    pub(super) unsafe fn pause_cold(&self) -> Result<(), PauseError> {
        let flags = self.flags.get();
        if flags & UNWIND != 0 && flags & ENTERED_PANICKING == 0 && thread::panicking() {
            return Err(PauseError::Panicking); // in a destructor that `Job::force_unwind` runs
        }
        if flags & CANCELLED != 0 {
            // SAFETY: the caller's promise.
            return unsafe { self.cancelled_pause() };
        }
        if self.flags.get() & BLOCKED != 0 {
            report_forbidden_pause();
            return Err(PauseError::Blocked);
        }
        if thread::panicking() {
            return Err(PauseError::Panicking);
        }
        Err(PauseError::OffStack)
    }

    /// # Safety
    ///
    /// As [`suspend`](Self::suspend).
    unsafe fn cancelled_pause(&self) -> Result<(), PauseError> {
        match self.pauses_left.get().checked_sub(1) {
            Some(left) => self.pauses_left.set(left),
            // The job itself panics, so it may not switch: `thread::panicking` would stay true for the code that
            // cancelled the job. The job then loops for as long as its own code does.
            None if thread::panicking() && self.flags.get() & ENTERED_PANICKING == 0 => {}
            // Neither may it switch while its code runs on another stack.
            None if !self.is_on_own_stack() => {}
            // `Job::cancel` quarantines a job that comes back here.
            // SAFETY: the caller's promise.
            None => unsafe { self.suspend() },
        }
        Err(PauseError::Cancelled)
    }

    /// The end of a pause after which the job does not simply go on: it reports where it is, it has been cancelled, or
    /// [`pauses_in`](super::current::pauses_in) asks whether it pauses.
    ///
    /// # Safety
    ///
    /// As [`suspend`](Self::suspend).
    #[cold]
    #[inline(never)]
    pub(super) unsafe fn resumed_cold(&self) -> Result<(), PauseError> {
        while self.flags.get() & REPORT != 0 {
            // No panic may leave this loop. The call that asks keeps its handle of the job while its guard exists. A
            // panic would unwind the job's stack, the coroutine would end, the guard would release the control block,
            // and the handle would dangle. Neither the capture nor a drop of the payload, which is leaked, can unwind
            // from here.
            let report = self.report.get();
            // SAFETY: the call that set the flag waits on its resumer's stack, where the pointer leads to a value of
            // its own. It withdraws the request before that value is gone.
            match unsafe { &mut *report } {
                Report::StackPointer(pointer) => *pointer = stack_pointer(),
                Report::Frames(frames) if self.room() >= ROOM_TO_REPORT => {
                    frames.capture(self.limit..ptr::from_ref(self).addr());
                }
                Report::Frames(_) => {}
            }
            // SAFETY: the caller's promise.
            unsafe { self.suspend() };
        }
        self.clear_flag(UNPAUSED);
        if self.flags.get() & UNWIND != 0 && self.pauses_left.get() == CANCELLED_PAUSES {
            resume_unwind(Box::new(ForcedUnwind)); // the panic hook is not called
        }
        if self.flags.get() & CANCELLED != 0 {
            return Err(PauseError::Cancelled);
        }
        Ok(())
    }

    /// Hands the stack on which the control block lies to `receive`, then drops what the control block owned. A
    /// destructor of the user's that panics, or that uses jobs, finds the pool in order.
    ///
    /// # Safety
    ///
    /// The job must have ended, or never run again. The caller must not use the control block after this call, and
    /// `receive` must not let another job have the stack unless the job has ended.
    #[inline(always)] // see `switch_to`
    pub(super) unsafe fn release(at: NonNull<ControlBlock>, receive: impl FnOnce(Stack)) {
        // SAFETY: the caller's promise: nothing else reaches the control block.
        let control = unsafe { &mut *at.as_ptr() };
        // SAFETY: the handle in the control block is not used again.
        let stack = unsafe { ManuallyDrop::take(&mut control.stack) };
        let flags = control.flags.get();
        // SAFETY: the flag says that this handle has a count, and the handle is not used again.
        let ctx = (flags & OWNS_CTX != 0).then(|| unsafe { ManuallyDrop::take(&mut control.ctx) });
        if flags & (HOOKS | NAMED | ATTACHED) == 0 {
            receive(stack);
        } else {
            // SAFETY: the caller's promise.
            unsafe { ControlBlock::release_with_attributes(at, stack, receive) };
        }
        drop(ctx);
    }

    /// The rest of [`release`](Self::release) for a job with a name, hooks or an attachment.
    ///
    /// It takes a pointer, as `receive` may unmap the memory of a `&mut self`.
    ///
    /// # Safety
    ///
    /// As [`release`](Self::release). `stack` must be the stack on which the control block lies.
    #[cold]
    #[inline(never)]
    unsafe fn release_with_attributes(at: NonNull<ControlBlock>, stack: Stack, receive: impl FnOnce(Stack)) {
        // SAFETY: the caller's promise: nothing else reaches the control block.
        let control = unsafe { &mut *at.as_ptr() };
        let flags = control.flags.get();
        let attachment = control.attachment.replace(MaybeUninit::uninit());
        // SAFETY: the flag says that it is there, and the control block is not used again.
        let attachment = (flags & ATTACHED != 0).then(|| unsafe { attachment.assume_init() });
        let name = control.name.get_mut().take();
        // SAFETY: as above.
        let hooks = (flags & HOOKS != 0).then(|| unsafe { control.hooks.get_mut().assume_init_read() });
        stack.header().clear_name();
        receive(stack);
        drop(attachment); // before the code of the user that follows
        drop(name);
        drop(hooks);
    }
}

/// The stack pointer, or an address near it.
#[inline(always)]
fn stack_pointer() -> usize {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    {
        let pointer: usize;
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instruction reads a register.
        unsafe {
            std::arch::asm!("mov {}, rsp", out(reg) pointer, options(nomem, nostack, preserves_flags));
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        unsafe {
            std::arch::asm!("mov {}, sp", out(reg) pointer, options(nomem, nostack, preserves_flags));
        }
        pointer
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let local = 0u8;
        ptr::from_ref(std::hint::black_box(&local)).addr()
    }
}
