//! What the C interface needs of a job, for `asyncjob-capi-lib`: hidden from the documentation, and no promise to
//! others.
//!
//! The C interface knows a job by a number, its handle. A job that C code starts has its handle from the start. A job
//! of Rust code gets one when C code in it first asks for the current job, together with an attachment: a value that is
//! dropped when the job has ended, so that the handle becomes stale.

use std::any::Any;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::sync::{Mutex, MutexGuard};

use super::closure::LARGEST_CLOSURE_ON_STACK;
use super::control_block::{Attributes, BLOCKED, ControlBlock, Running, StartArgs, prepare, switch};
use super::current::{CURRENT, with_current};
use super::{Job, Step};
use crate::pool;
use crate::sys;
use crate::wait_ctx::WaitCtx;

pub use crate::sys::WhileForking;

/// Locks a mutex that is held while the process forks, in a way that ThreadSanitizer sees.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    crate::stack::lock(mutex)
}

/// Calls `f` with what the C interface keeps for this thread, which is made by `new` if there is nothing.
///
/// # Safety
///
/// All calls in a process must have the same `T`. `f` must not call anything that calls [`forget_thread`] and returns.
#[inline(always)]
pub unsafe fn with_thread<T: 'static, R>(new: fn() -> T, f: impl FnOnce(&T) -> R) -> R {
    // SAFETY: passed on.
    unsafe { sys::with_boxed(|words| &words.c_interface, new, f) }
}

/// Calls `before` with what the C interface keeps for this thread, if there is something, and frees it. Frees the pool
/// of the thread, if that is on the heap.
///
/// # Safety
///
/// All calls in a process must have the same `T`, which is that of [`with_thread`]. The code of this thread that uses
/// the value or the pool now must never run again. The thread exits, for instance, and has left the stacks of its jobs.
pub unsafe fn forget_thread<T: 'static>(before: fn(&T)) {
    // SAFETY: passed on.
    unsafe { sys::free_boxed(|words| &words.c_interface, before) };
    // SAFETY: passed on.
    unsafe { pool::forget_thread() };
}

/// A job of C code that is the current one and has not run yet: it starts, or goes on.
///
/// Starting a job and resuming it meet here because the processor predicts a return by the call that it has seen. The
/// call of a switch is then the same one, whichever way a job has come to its end.
#[must_use]
#[allow(
    missing_debug_implementations,
    reason = "it is there between two lines of one function"
)]
pub struct Entered<T>(Running<T>);

/// Where the closure of a job waits for its start.
#[allow(missing_debug_implementations, reason = "it holds what the job takes")]
pub struct Place<F>(MaybeUninit<StartArgs<F>>);

impl<F> Place<F> {
    /// An empty place.
    #[inline]
    pub const fn empty() -> Self {
        Place(MaybeUninit::uninit())
    }
}

impl<T: 'static> Entered<T> {
    /// A job that starts with this wait ctx, as [`start_job`](crate::start_job) starts one. Returns `None` when there
    /// is no stack.
    ///
    /// # Safety
    ///
    /// The caller must [switch](Self::switch) to the job as the next thing that it does with jobs, while `place` exists
    /// where it is. `ctx` must exist until the job has ended, or until the caller has given the job a count of it
    /// ([`own_ctx`]) after its first pause.
    #[inline(always)]
    pub unsafe fn new<F>(ctx: &WaitCtx, handle: usize, f: F, place: &mut Place<F>) -> Option<Self>
    where
        F: FnOnce() -> T + 'static,
    {
        const { assert!(size_of::<F>() <= LARGEST_CLOSURE_ON_STACK) };
        let stack = pool::take(None).ok()?;
        let attributes = Attributes {
            c_handle: handle,
            ..Attributes::NONE
        };
        // SAFETY: passed on.
        Some(Entered(unsafe { prepare(stack, ctx, attributes, f, &mut place.0) }))
    }

    /// A paused job that goes on, as by [`Job::resume`].
    #[inline(always)]
    pub fn again(job: Job<T>) -> Self {
        job.control().wait_ctx().settle();
        let block = ManuallyDrop::new(job).block;
        // SAFETY: a Job points to the block of a paused job, and this call has consumed the only one that does. A job
        // of C code has no hooks.
        Entered(unsafe { Running::begin(block) })
    }

    /// Runs the job until it pauses or ends.
    #[inline(always)]
    pub fn switch(self) -> Step<T> {
        // SAFETY: the job has not run since the guard was made.
        unsafe { switch::<false, true, T>(self.0) }
    }
}

/// What of a wait ctx the resume of its job reads.
#[inline]
pub fn read_by_resume(ctx: &WaitCtx) -> *const u8 {
    ctx.read_by_resume()
}

/// Asks the processor for what the resume of this job will touch, and for this line of its wait ctx.
#[inline]
pub fn fetch<T>(job: &Job<T>, near: *const u8) {
    job.fetch::<8>(near);
}

/// Gives a job that has paused for the first time a count of its wait ctx.
pub fn own_ctx<T>(job: &Job<T>) {
    job.own_ctx();
}

/// The handle of the job that runs this code, or 0 if the job has none. Returns `None` outside a job.
#[inline]
pub fn current_handle() -> Option<usize> {
    with_current(|control| control.c_handle.get())
}

/// Calls `f` with the wait ctx of the job that runs this code. Returns `None` outside a job.
pub fn with_current_ctx<R>(f: impl FnOnce(&WaitCtx) -> R) -> Option<R> {
    super::with_current_ctx(f)
}

/// Whether a job that runs on this thread was started with this ctx. Such a job need not have a count of the ctx.
pub fn runs_with(ctx: &WaitCtx) -> bool {
    let mut running = CURRENT.get();
    while let Some(at) = running {
        // SAFETY: every control block in the chain belongs to a job that is running, and so exists.
        let control = unsafe { at.as_ref() };
        if control.wait_ctx().ptr_eq(ctx) {
            return true;
        }
        running = control.parent.get();
    }
    false
}

/// Gives a handle to the job that runs this code. The attachment is dropped when the job has ended, or is quarantined.
pub fn attach(handle: usize, attachment: Box<dyn Any>) {
    with_current(|control| {
        control.c_handle.set(handle);
        control.attach(attachment);
    });
}

/// Gives up the jobs that run on this thread, innermost first: their stacks are in quarantine, and outside all jobs is
/// where this thread is then.
///
/// # Safety
///
/// No code of these jobs may run after this call. The thread exits, for instance, and has left their stacks without
/// unwinding them.
pub unsafe fn abandon_running() {
    while let Some(at) = CURRENT.get() {
        // SAFETY: every control block in the chain belongs to a job that has not ended, and so exists.
        CURRENT.set(unsafe { at.as_ref() }.parent.get());
        // SAFETY: the caller's promise. The job is out of the chain, and the guard of its resumer is never dropped.
        unsafe { ControlBlock::release(at, pool::quarantine) };
    }
}

/// A paused job of this thread that is unlikely to be resumed: it gives back the memory below its stack pointer, and
/// its place in the limit of the pool. Returns the bytes.
pub fn set_aside<T>(job: &mut Job<T>) -> usize {
    pool::uncount();
    job.trim()
}

/// The job is resumed after all: it has its place in the limit again. Call this once for each [`set_aside`].
pub fn take_back<T>(_job: &Job<T>) {
    pool::count_again();
}

/// Blocks the pauses of the job that runs this code, until [`unblock_pause`] was called as many times.
pub fn block_pause() {
    with_current(|control| {
        control.blocked_by_c.set(control.blocked_by_c.get().saturating_add(1));
        control.set_flag(BLOCKED);
    });
}

/// Takes one call of [`block_pause`] back, if there is one. It leaves the guards of Rust code in force.
pub fn unblock_pause() {
    with_current(|control| {
        control.blocked_by_c.set(control.blocked_by_c.get().saturating_sub(1));
        control.unblock_if_free();
    });
}

impl ControlBlock {
    /// Lets the job pause again, if neither Rust code nor C code blocks it any more.
    pub(super) fn unblock_if_free(&self) {
        if self.blocked.get() == 0 && self.blocked_by_c.get() == 0 {
            self.clear_flag(BLOCKED);
        }
    }
}
