//! Jobs: `ASYNC_start_job` and everything that is called in or about one.
//!
//! ```text
//!                ASYNC_start_job(NULL)                ASYNC_start_job(handle)
//!                         |                             |
//!                         v      ASYNC_pause_job        v
//!       free slot ---> running  -------------------> paused
//!           ^             |     <-------------------    |
//!           |             v                             v
//!           +------- function returns              thread exits: stack quarantined
//!              each end makes the handle stale (crate::handle)
//! ```
//!
//! | state | the job in the slot | the slot is reachable |
//! |---|---|---|
//! | free | `None` | in the free list of its thread |
//! | running | `None` | by its handle, and from the call of `ASYNC_start_job` that the job runs in |
//! | paused | the job | by its handle |
//!
//! A job is a job, whichever language started it. The library knows which one runs this code, and each job has its
//! handle with it. A job of Rust code gets a slot and a handle when C code in it first asks for the current job, and
//! gives them back at its end (`RustJob`). C code cannot resume such a job: its slot has no `paused` job.
//!
//! Only the thread that owns a slot (`crate::slots`) may start, resume or end its job. Any thread may ask for the wait
//! ctx of a job.

use std::ffi::{c_int, c_void};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr::{self, NonNull};

use asyncjob::c_interface::{self, Place};
use asyncjob::{PauseError, Step};

use crate::boundary::guarded;
use crate::handle::Handle;
use crate::libcrypto::{self, Reason};
use crate::slots::{self, Found, JobSlot};
use crate::thread::{self, OUR_EXPORTS, Thread};
use crate::travelling::Travelling;
use crate::wait_ctx::{self, ASYNC_WAIT_CTX};

/// A job, as C programs see it: an opaque handle.
#[allow(non_camel_case_types, reason = "the C interface's name")]
#[derive(Debug)]
#[repr(C)]
pub struct async_job_st {
    _opaque: [u8; 0],
}

/// `ASYNC_JOB` of `<openssl/async.h>`.
pub type ASYNC_JOB = async_job_st;

/// `ASYNC_start_job` failed: see the error queue.
pub const ASYNC_ERR: c_int = 0;
/// The thread has as many jobs as its limit allows: try again when another job has finished.
pub const ASYNC_NO_JOBS: c_int = 1;
/// The job paused.
pub const ASYNC_PAUSE: c_int = 2;
/// The job finished, and its result is in `*ret`.
pub const ASYNC_FINISH: c_int = 3;

/// `ASYNC_is_capable(3)`: returns 1 on every system that this library is built for.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_is_capable() -> c_int {
    c_int::from(asyncjob::is_capable())
}

/// `ASYNC_start_job(3)`: starts a job if `*job` is NULL, else resumes that job. Returns when the job pauses or
/// finishes.
///
/// `ctx`, `func`, `args` and `size` are used when a job starts, and ignored when it is resumed. A job may start and
/// resume other jobs.
///
/// A handle that is stale, that names a running job, or that belongs to another thread gives `ASYNC_ERR`: an error is
/// raised and no function is run. `*job` becomes NULL if the handle was stale, and keeps its value otherwise. See S33,
/// S34, S37.
///
/// # Safety
///
/// `job` must point to a handle or to NULL. `ret` must be NULL or point to an int that may be written to during this
/// call. `args` must be NULL or point to `size` bytes that may be read until the job first pauses or finishes. `func`
/// must be a function that may be called with a copy of these bytes, and it must not unwind. The program must resume a
/// job only at a point at which its function may continue. The program must not free a library context while it is the
/// default of a job.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_start_job(
    job: *mut *mut ASYNC_JOB,
    ctx: *mut ASYNC_WAIT_CTX,
    ret: *mut c_int,
    func: Option<unsafe extern "C" fn(*mut c_void) -> c_int>,
    args: *mut c_void,
    size: usize,
) -> c_int {
    let Some(job) = NonNull::new(job) else {
        return ASYNC_ERR;
    };
    if !libcrypto::is_ready(OUR_EXPORTS) {
        return ASYNC_ERR;
    }
    // SAFETY: the caller's promise about `job` and `ret`. The outputs are used during this call only.
    let outputs = unsafe { Outputs::new(job, ret) };
    let handle = outputs.handle();
    thread::with(|thread| {
        let mut place = Place::empty();
        // What belongs to the resumer while the job runs.
        let mut away = Travelling::NOTHING;
        let call;
        let entered = if handle.is_null() {
            let Some(func) = func else {
                return outputs.nothing_to_run();
            };
            // SAFETY: the caller's promise about `func`, `args` and `size`.
            call = match unsafe { Call::new(func, args, size) } {
                Some(call) => call,
                None => return outputs.nothing_to_run(),
            };
            // The closure carries one word. The job reads the rest from here, where this function waits for its first
            // pause.
            let at = &raw const call;
            // SAFETY: the caller's promise. `call` lives until the job has copied from it.
            let run = move || unsafe { Call::run(at) };
            // SAFETY: the switch below is the next thing, and `place` is of this call.
            match unsafe { start(thread, ctx, func as *const c_void, run, &mut place, &mut away) } {
                Some(entered) => entered,
                None => {
                    // SAFETY: no job was started, so none runs the call.
                    unsafe { call.release() };
                    return ASYNC_NO_JOBS; // S17: also when there is no memory for a stack
                }
            }
        } else {
            // SAFETY: the caller's promise about library contexts.
            match unsafe { resume(thread, Handle::from_c(handle), &mut away) } {
                Ok(entered) => entered,
                Err(Refused::NotNow) => return refuse(),
                Err(Refused::NoJob) => return outputs.nothing_to_run(),
            }
        };
        let Entered { job, slot } = entered;
        let step = job.switch();
        if thread.travelling.has_any() {
            // SAFETY: the caller promises that the program has not freed the library context of the resumer.
            unsafe { thread.travelling.exchange(&mut away) };
            slot.travelling().set(away);
        }
        outputs.report(thread, slot, step, handle.is_null())
    })
}

/// `ASYNC_pause_job(3)`: pauses this job. Control returns to the caller that started or last resumed the job, and comes
/// back when the job is resumed.
///
/// Outside a job, and in a job that is blocked, this function does nothing and returns 1. It returns 0 when the job is
/// to end without the result that it waits for. Only Rust code cancels a job, so this happens in its jobs only. The
/// caller then reports an error, and does not wait again: later calls return 0 at once.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_pause_job() -> c_int {
    if libcrypto::is_stopped() {
        return 1;
    }
    // The other errors are like a block. `Panicking`: this code runs while a panic unwinds. `OffStack`: it runs on
    // another stack than that of its job.
    c_int::from(asyncjob::pause_job() != Err(PauseError::Cancelled))
}

/// `ASYNC_get_current_job(3)`: returns the job that runs this code, or NULL outside a job.
///
/// The job may be one of Rust code. Every function but `ASYNC_start_job` then works on it, and on its wait ctx.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_get_current_job() -> *mut ASYNC_JOB {
    if libcrypto::is_stopped() {
        return ptr::null_mut();
    }
    match c_interface::current_handle() {
        None => ptr::null_mut(),
        Some(0) => guarded(ptr::null_mut(), RustJob::begin),
        Some(handle) => ptr::without_provenance_mut(handle),
    }
}

/// `ASYNC_get_wait_ctx(3)`: returns the wait ctx that the job was started with. Any thread may call this function.
///
/// Returns NULL if the program has freed that wait ctx, if the job has ended, and if `job` is NULL. See S47, S61.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_get_wait_ctx(job: *mut ASYNC_JOB) -> *mut ASYNC_WAIT_CTX {
    wait_ctx::if_alive(slots::wait_ctx_of(Handle::from_c(job)))
}

/// `ASYNC_block_pause(3)`: until `ASYNC_unblock_pause` was called as many times, this job does not pause. The count
/// ends with the job. Outside a job this function does nothing. See S43, S44.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_block_pause() {
    c_interface::block_pause();
}

/// `ASYNC_unblock_pause(3)`: takes one call of `ASYNC_block_pause` back, if there is one.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_unblock_pause() {
    c_interface::unblock_pause();
}

/// A job that is about to run.
struct Entered {
    job: c_interface::Entered<c_int>,
    slot: JobSlot,
}

/// Makes a job that runs `run`. `None` when there is no place for it.
///
/// # Safety
///
/// The caller must switch to the job as the next thing that it does with jobs, while `place` exists, and report to the
/// slot that the job has paused or ended. It must keep the contract of [`ASYNC_start_job`] about library contexts.
#[inline(always)]
unsafe fn start<F: FnOnce() -> c_int + 'static>(
    thread: &Thread,
    ctx: *mut ASYNC_WAIT_CTX,
    near: *const c_void,
    run: F,
    place: &mut Place<F>,
    away: &mut Travelling,
) -> Option<Entered> {
    let slot = thread.take_slot(near)?;
    slot.begin(ctx);
    let handle = slot.handle().to_number();
    let job = match wait_ctx::for_job(ctx, slot.handle()) {
        Some(ctx) => {
            slot.starts_with(ctx);
            // SAFETY: passed on. The ctx of a program exists for ever.
            unsafe { c_interface::Entered::new(ctx, handle, run, place) }
        }
        None => {
            let ctx = wait_ctx::of_rust_or_new(ctx);
            // SAFETY: passed on. The slot keeps the ctx until the job has a count of it, or has ended.
            let job = unsafe { c_interface::Entered::new(&ctx, handle, run, place) };
            slot.starts_with_other(ctx);
            job
        }
    };
    let Some(job) = job else {
        slot.end();
        slot.job_ended();
        thread.slots.push(slot);
        return None;
    };
    if thread.travelling.has_any() {
        *away = thread.travelling.start();
    }
    Some(Entered { job, slot })
}

/// Why a job is not resumed.
enum Refused {
    /// It runs: it is this one, or one that started this one. Or it belongs to Rust code, or to another thread.
    NotNow,
    /// The handle names no job.
    NoJob,
}

/// # Safety
///
/// The caller must keep the contract of [`ASYNC_start_job`] about resuming and about library contexts.
#[inline(always)]
unsafe fn resume(thread: &Thread, handle: Handle<slots::Record>, away: &mut Travelling) -> Result<Entered, Refused> {
    let slot = match thread.slots.find(handle) {
        Found::Own(slot) => slot,
        Found::OnOtherThread => return Err(Refused::NotNow),
        Found::Nothing => return Err(Refused::NoJob),
    };
    let Some(job) = slot.take_paused(thread.slots.has_many()).or_else(|| slot.take_back()) else {
        return Err(Refused::NotNow);
    };
    if thread.travelling.has_any() {
        *away = slot.travelling().get();
        // SAFETY: the slot has what `exchange` gave when the job paused, and the caller promises that the program has
        // not freed the library context in it.
        unsafe { thread.travelling.exchange(away) };
    }
    Ok(Entered {
        job: c_interface::Entered::again(ManuallyDrop::into_inner(job)),
        slot,
    })
}

/// The handle names a job that this call may not resume. The handle stays good, so `*job` keeps it.
#[cold]
fn refuse() -> c_int {
    libcrypto::raise(Reason::FailedToSwapContext);
    ASYNC_ERR
}

/// Where `ASYNC_start_job` writes its results. The job may have these addresses too, so no references are made.
#[derive(Clone, Copy)]
struct Outputs {
    job: NonNull<*mut ASYNC_JOB>,
    ret: *mut c_int,
}

impl Outputs {
    /// # Safety
    ///
    /// As long as the value or a copy of it is used, `job` must be valid for reads and writes, and `ret` must be NULL
    /// or valid for writes.
    #[inline]
    unsafe fn new(job: NonNull<*mut ASYNC_JOB>, ret: *mut c_int) -> Self {
        Outputs { job, ret }
    }

    #[inline]
    fn handle(self) -> *mut ASYNC_JOB {
        // SAFETY: valid for reads, as `new` was promised.
        unsafe { self.job.read() }
    }

    #[inline]
    fn set_handle(self, handle: *mut ASYNC_JOB) {
        // SAFETY: valid for writes, as `new` was promised.
        unsafe { self.job.write(handle) };
    }

    /// A job paused or finished. The call has started it, or has resumed it.
    #[inline]
    fn report(self, thread: &Thread, slot: JobSlot, step: Step<c_int>, has_started: bool) -> c_int {
        match step {
            Step::Paused(job) => {
                if has_started {
                    slot.first_paused(&job);
                }
                slot.keep(job);
                self.set_handle(slot.handle().to_c());
                ASYNC_PAUSE
            }
            Step::Finished(value) => {
                slot.end();
                slot.job_ended();
                thread.slots.push(slot);
                self.set_handle(ptr::null_mut());
                if let Some(ret) = NonNull::new(self.ret) {
                    // SAFETY: valid for writes, as `new` was promised.
                    unsafe { ret.write(value) };
                }
                ASYNC_FINISH
            }
        }
    }

    /// The handle names no job, or there is no function, or no memory for its arguments.
    #[cold]
    fn nothing_to_run(self) -> c_int {
        libcrypto::raise(Reason::FailedToSwapContext);
        self.set_handle(ptr::null_mut());
        ASYNC_ERR
    }
}

type Function = unsafe extern "C" fn(*mut c_void) -> c_int;

/// A job's function and its arguments (S22, S23).
struct Call {
    func: Function,
    /// NULL, or the program's bytes. Above [`SMALL`](Self::SMALL) it is a copy on the heap, which the job frees.
    args: *mut c_void,
    size: usize,
}

impl Call {
    /// Arguments of at most this size are copied to the job's stack, while the caller of `ASYNC_start_job` still waits.
    const SMALL: usize = 512;

    /// `None` when there is no memory.
    ///
    /// # Safety
    ///
    /// `args` must be NULL or point to `size` bytes that may be read until the job first pauses or finishes.
    #[inline]
    unsafe fn new(func: Function, args: *mut c_void, size: usize) -> Option<Self> {
        let mut call = Call { func, args, size };
        if args.is_null() || size == 0 {
            call.args = ptr::null_mut();
            call.size = 0;
        } else if size > Self::SMALL {
            // SAFETY: passed on.
            call.args = unsafe { heap_copy(args, size) }?;
        }
        Some(call)
    }

    /// Calls the function with a copy of the arguments. The job does this.
    ///
    /// # Safety
    ///
    /// `call` must point to what [`new`](Self::new) returned, and the promise that `new` was given must still hold.
    /// `func` must be a function that may be called with a copy of these bytes. The caller must not use the value after
    /// this call, nor make this call twice.
    #[inline]
    unsafe fn run(call: *const Self) -> c_int {
        // SAFETY: the caller's promise.
        let Call { func, args, size } = unsafe { call.read() };
        match size {
            // SAFETY: the caller's promise.
            0 => unsafe { call_without(func) },
            // SAFETY: passed on, and the size is within the limit.
            1..=64 => unsafe { call_with_copy::<64>(func, args, size) },
            // SAFETY: passed on, and the size is within the limit.
            65..=Self::SMALL => unsafe { call_with_copy::<{ Self::SMALL }>(func, args, size) },
            // SAFETY: passed on. `new` made the copy.
            _ => unsafe { call_and_free(func, args) },
        }
    }

    /// Frees the copy of the arguments.
    ///
    /// # Safety
    ///
    /// No job may run the call, before or after.
    #[cold]
    unsafe fn release(self) {
        if self.size > Self::SMALL {
            // SAFETY: `new` made the copy, and no job frees it.
            unsafe { libc::free(self.args) };
        }
    }
}

/// A copy with the alignment of malloc; `None` when there is no memory.
///
/// # Safety
///
/// `bytes` must point to `size` bytes that may be read.
#[cold]
unsafe fn heap_copy(bytes: *const c_void, size: usize) -> Option<*mut c_void> {
    // SAFETY: malloc takes any size.
    let copy = unsafe { libc::malloc(size) };
    if copy.is_null() {
        return None;
    }
    // SAFETY: the caller's promise. The copy was just allocated, with this size.
    unsafe { ptr::copy_nonoverlapping(bytes.cast::<u8>(), copy.cast(), size) };
    Some(copy)
}

/// # Safety
///
/// `func` must be a function that may be called with `copy`. `copy` must come from malloc, and this function frees it.
#[inline(never)]
unsafe fn call_and_free(func: Function, copy: *mut c_void) -> c_int {
    end_of_stack();
    // SAFETY: the caller's promise.
    let value = unsafe { func(copy) };
    // SAFETY: the caller's promise.
    unsafe { libc::free(copy) };
    value
}

/// # Safety
///
/// `from` must point to `size` bytes that may be read, `size` must be at most `N`, and `func` must be a function that
/// may be called with a copy of them.
#[inline(never)]
unsafe fn call_with_copy<const N: usize>(func: Function, from: *const c_void, size: usize) -> c_int {
    #[repr(align(16))]
    struct Aligned<const N: usize>([MaybeUninit<u8>; N]);

    let mut copy = Aligned([MaybeUninit::uninit(); N]);
    let to = copy.0.as_mut_ptr().cast::<c_void>();
    // SAFETY: the caller's promise. The copy has room for `N` bytes.
    unsafe { ptr::copy_nonoverlapping(from.cast::<u8>(), to.cast(), size) };
    end_of_stack();
    // SAFETY: the caller's promise.
    unsafe { func(to) }
}

/// # Safety
///
/// `func` must be a function that may be called with NULL.
#[inline(never)]
unsafe fn call_without(func: Function) -> c_int {
    end_of_stack();
    // SAFETY: the caller's promise.
    let value = unsafe { func(ptr::null_mut()) };
    end_of_stack(); // after the call, so that this function has a frame during it, and does not jump to `func`
    value
}

/// Says in the unwind information of the function that this is inlined into: its caller is not known from here on.
///
/// `pthread_exit` and `pthread_cancel` unwind the stack to its end, and then jump to the first function of the thread.
/// On the stack of a job they would meet the catch of panics that every job of Rust begins with, which ends the
/// process. So a job ends for them where its C code does, as one of OpenSSL. The functions with this mark own nothing
/// that would have to be dropped, and no panic passes through them, because C code calls no Rust code that lets one
/// out.
#[inline(always)]
fn end_of_stack() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the directive describes the code, and is none itself.
    unsafe {
        std::arch::asm!(".cfi_undefined rip", options(nostack, preserves_flags));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!(".cfi_undefined x30", options(nostack, preserves_flags));
    }
}

/// The handle of a job of Rust code, which is attached to the job and dropped at its end.
struct RustJob(Handle<slots::Record>);

impl RustJob {
    /// Gives the job that runs this code a handle. Returns NULL when the process has 16 million jobs.
    #[cold]
    fn begin() -> *mut ASYNC_JOB {
        libcrypto::is_ready(OUR_EXPORTS);
        let Some(slot) = thread::with(|thread| thread.take_slot(ptr::null())) else {
            return ptr::null_mut();
        };
        slot.begin(c_interface::with_current_ctx(wait_ctx::handle_of).unwrap_or(ptr::null_mut()));
        slot.is_rust().set(true);
        c_interface::attach(slot.handle().to_number(), Box::new(RustJob(slot.handle())));
        slot.handle().to_c()
    }
}

impl Drop for RustJob {
    fn drop(&mut self) {
        // The slot is looked for: the thread may have returned its slots, if the job is dropped while the thread exits.
        thread::with(|thread| {
            if let Found::Own(slot) = thread.slots.find(self.0) {
                slot.is_rust().set(false);
                slot.end();
                thread.slots.push(slot);
            }
        });
    }
}
