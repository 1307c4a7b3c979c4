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
//! | state | `paused` of the slot | who may touch it |
//! |---|---|---|
//! | free | `None` | the thread that borrowed the slot's chunk |
//! | running | `None` | the same; the slot is in the chain of `Thread::current` |
//! | paused | the job | the same |
//!
//! Any other thread may only ask for the wait ctx: handle and ctx are atomic, and the answer is checked again after reading.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use asyncjob::{Job, Step, WaitCtx};
use parking_lot::Mutex;

use crate::boundary::guarded;
use crate::handle::{CHUNK, Handle, Slot, Table};
use crate::libcrypto::{self, LibCtx, Reason};
use crate::library_context;
use crate::thread::{self, Thread};
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
/// The pool of the thread is at its limit: try again when another job has finished.
pub const ASYNC_NO_JOBS: c_int = 1;
/// The job paused.
pub const ASYNC_PAUSE: c_int = 2;
/// The job finished, and its result is in `*ret`.
pub const ASYNC_FINISH: c_int = 3;

/// `ASYNC_is_capable(3)`: 1, on every system that this is built for.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_is_capable() -> c_int {
    c_int::from(asyncjob::is_capable())
}

/// `ASYNC_start_job(3)`: starts a job if `*job` is NULL, else resumes that job, and returns when it pauses or finishes.
///
/// `ctx`, `func`, `args` and `size` count at the start only. A job may start and resume others (a fix of S37). A handle that is
/// stale, of a running job or of another thread gives `ASYNC_ERR`, raises an error and runs nothing (fixes of S33, S34); of
/// these only a stale one sets `*job` to NULL.
///
/// # Safety
///
/// `job` points to a handle. `ret`, if not NULL, may be written until the job has finished. `func` is a function that does not
/// unwind; `args`, if not NULL, points to `size` readable bytes. The job is resumed from wherever its function may run.
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
    if !libcrypto::is_ready() {
        return ASYNC_ERR;
    }
    let outputs = Outputs { job, ret };
    // SAFETY: the caller's promise.
    let handle = unsafe { outputs.handle() };
    thread::with(|thread| match func {
        // SAFETY: the caller's promise about `job` and `ret`.
        _ if !handle.is_null() => unsafe { resume(thread, Handle::from_c(handle), outputs) },
        // SAFETY: the caller's promise about all of them.
        Some(func) => unsafe { start(thread, ctx, func, args, size, outputs) },
        // SAFETY: as above.
        None => unsafe { outputs.nothing_to_run() },
    })
}

/// `ASYNC_pause_job(3)`: gives control back to whoever started or resumed this job, until they resume it. Outside a job and
/// while blocked it does nothing. 1; 0 is never returned.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_pause_job() -> c_int {
    let may_pause = thread::with(|thread| thread.current.get().is_some_and(|slot| slot.value().blocked.get() == 0));
    if may_pause && !libcrypto::is_stopped() {
        return c_int::from(asyncjob::pause_job().is_ok());
    }
    1
}

/// `ASYNC_get_current_job(3)`: the job that runs this code, or NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_get_current_job() -> *mut ASYNC_JOB {
    if libcrypto::is_stopped() {
        return ptr::null_mut();
    }
    let current = thread::with(|thread| thread.current.get());
    current.map_or(ptr::null_mut(), |slot| slot.handle().to_c())
}

/// `ASYNC_get_wait_ctx(3)`: the wait ctx that the job was started with, or NULL: when it has been freed, when the job has
/// ended, when `job` is NULL (fixes of S47 and S61). From any thread.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_get_wait_ctx(job: *mut ASYNC_JOB) -> *mut ASYNC_WAIT_CTX {
    let handle = Handle::from_c(job);
    let Some(slot) = JOBS.live(handle) else {
        return ptr::null_mut();
    };
    let ctx = slot.value().wait_ctx.load(Ordering::Acquire);
    // Asked again: the job may have ended between the two, and the ctx be the next job's.
    if slot.handle() == handle {
        wait_ctx::if_alive(ctx)
    } else {
        ptr::null_mut()
    }
}

/// `ASYNC_block_pause(3)`: until unblocked as many times, or until it ends (a fix of S44), this job does not pause. Nothing
/// outside a job.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_block_pause() {
    with_blocked(|count| count.saturating_add(1));
}

/// `ASYNC_unblock_pause(3)`: takes one `ASYNC_block_pause` back, if there is one.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_unblock_pause() {
    with_blocked(|count| count.saturating_sub(1));
}

/// What is known of a job outside its stack.
pub(crate) struct Record {
    /// [`Thread::token`] of the thread whose job it is.
    owner: AtomicUsize,
    wait_ctx: AtomicPtr<ASYNC_WAIT_CTX>,
    /// Never dropped, which would cancel it: that is no way for a C program's job to end.
    paused: Cell<Option<ManuallyDrop<Job<c_int>>>>,
    /// The job's default library context while it is paused.
    default_ctx: Cell<LibCtx>,
    blocked: Cell<u32>,
    /// The free slot below this one.
    next_free: Cell<Option<JobSlot>>,
}

// SAFETY: the cells are touched by the thread that borrowed the chunk only: it is the one that finds itself in `owner`, which
// is written by the owner itself, and chunks change hands under a lock.
unsafe impl Sync for Record {}

pub(crate) type JobSlot = &'static Slot<Record>;

/// Slots that a thread borrows from the process.
pub(crate) struct JobChunk {
    pub(crate) slots: &'static [Slot<Record>; CHUNK],
    /// For [`Thread::unbound`]: it comes with the slots, so that a thread that ends has nothing to free.
    pub(crate) unbound: &'static WaitCtx,
}

static JOBS: Table<Record> = Table::new();
/// Chunks of threads that have ended.
static SPARE: Mutex<Vec<JobChunk>> = Mutex::new(Vec::new());

impl Default for Record {
    fn default() -> Self {
        Record {
            owner: AtomicUsize::new(0),
            wait_ctx: AtomicPtr::new(ptr::null_mut()),
            paused: Cell::new(None),
            default_ctx: Cell::new(ptr::null_mut()),
            blocked: Cell::new(0),
            next_free: Cell::new(None),
        }
    }
}

/// Free slots for the thread with this token.
pub(crate) fn take_chunk(token: usize) -> Option<JobChunk> {
    let spare = SPARE.lock().pop();
    let chunk = spare.or_else(|| {
        Some(JobChunk {
            slots: JOBS.grow()?,
            unbound: Box::leak(Box::new(WaitCtx::new())),
        })
    })?;
    for slot in chunk.slots {
        slot.value().owner.store(token, Ordering::Relaxed);
    }
    Some(chunk)
}

/// The slots of a thread that ends. Its paused jobs are given up: nobody may resume them any more, and an engine may still
/// write to their stacks (S88).
pub(crate) fn give_chunk(chunk: JobChunk) {
    for slot in chunk.slots {
        if let Some(job) = slot.value().paused.take() {
            slot.end();
            ManuallyDrop::into_inner(job).abandon();
        }
        slot.value().owner.store(0, Ordering::Relaxed);
    }
    SPARE.lock().push(chunk);
}

/// A stack of free slots, linked through the slots themselves.
pub(crate) struct FreeSlots(Cell<Option<JobSlot>>);

impl FreeSlots {
    pub(crate) const fn new() -> Self {
        FreeSlots(Cell::new(None))
    }

    #[inline]
    pub(crate) fn push(&self, slot: JobSlot) {
        slot.value().next_free.set(self.0.replace(Some(slot)));
    }

    #[inline]
    pub(crate) fn pop(&self) -> Option<JobSlot> {
        let slot = self.0.get()?;
        self.0.set(slot.value().next_free.get());
        Some(slot)
    }

    pub(crate) fn clear(&self) {
        self.0.set(None);
    }
}

/// # Safety
///
/// As [`ASYNC_start_job`] says of `func`, `args`, `size` and the outputs.
#[inline]
unsafe fn start(
    thread: &Thread,
    ctx: *mut ASYNC_WAIT_CTX,
    func: Function,
    args: *mut c_void,
    size: usize,
    outputs: Outputs,
) -> c_int {
    // SAFETY: passed on.
    let Some(call) = (unsafe { Call::new(func, args, size) }) else {
        // SAFETY: passed on.
        return unsafe { outputs.nothing_to_run() };
    };
    let slot = thread.take_slot(func as *const c_void);
    let (Some(slot), Some(unbound)) = (slot, thread.unbound()) else {
        call.forget();
        return ASYNC_NO_JOBS;
    };
    let record = slot.value();
    record.wait_ctx.store(ctx, Ordering::Relaxed);
    record.blocked.set(0);
    let resumer = thread.current.replace(Some(slot));
    let resumers_ctx = library_context::start(thread);
    // One word moves. The rest is read from here, where this call waits for the job's first pause.
    let at = &raw const call;
    // SAFETY: the caller's promise; `call` lives until the job has copied from it.
    let step = asyncjob::start_job(unbound, move || unsafe { Call::run(at) });
    thread.current.set(resumer);
    let jobs_ctx = library_context::exchange(thread, resumers_ctx);
    match step {
        // SAFETY: passed on.
        Ok(step) => unsafe { outputs.put(thread, slot, step, jobs_ctx) },
        Err(_no_stack) => {
            thread.free.push(slot);
            call.forget();
            ASYNC_NO_JOBS // S17: also when there is no memory for a stack
        }
    }
}

/// # Safety
///
/// As [`ASYNC_start_job`] says of the outputs.
#[inline]
unsafe fn resume(thread: &Thread, handle: Handle<Record>, outputs: Outputs) -> c_int {
    let Some(slot) = JOBS.live(handle) else {
        // SAFETY: passed on.
        return unsafe { outputs.nothing_to_run() };
    };
    let record = slot.value();
    if record.owner.load(Ordering::Relaxed) != thread.token() {
        return misused();
    }
    wait_ctx::settle(record.wait_ctx.load(Ordering::Relaxed));
    let Some(job) = record.paused.take() else {
        return misused(); // it is running: this is it, or one that it started
    };
    let resumer = thread.current.replace(Some(slot));
    let resumers_ctx = library_context::exchange(thread, record.default_ctx.get());
    let step = ManuallyDrop::into_inner(job).resume();
    thread.current.set(resumer);
    let jobs_ctx = library_context::exchange(thread, resumers_ctx);
    // SAFETY: passed on.
    unsafe { outputs.put(thread, slot, step, jobs_ctx) }
}

/// The handle names a job that this call may not resume. It stays good, so `*job` does too.
#[cold]
fn misused() -> c_int {
    libcrypto::raise(Reason::FailedToSwapContext);
    ASYNC_ERR
}

/// Where `ASYNC_start_job` writes. The job writes there too, perhaps, so no reference is made.
#[derive(Clone, Copy)]
struct Outputs {
    job: NonNull<*mut ASYNC_JOB>,
    ret: *mut c_int,
}

/// # Safety
///
/// Of each function: `job` is readable and writable, and so is `ret` if it is not NULL.
impl Outputs {
    unsafe fn handle(self) -> *mut ASYNC_JOB {
        // SAFETY: the caller's promise.
        unsafe { self.job.read() }
    }

    /// A job came back.
    #[inline(always)] // one copy where a job starts and one where it resumes: neither looks twice at what came back
    unsafe fn put(self, thread: &Thread, slot: JobSlot, step: Step<c_int>, jobs_ctx: LibCtx) -> c_int {
        match step {
            Step::Paused(job) => {
                let record = slot.value();
                record.paused.set(Some(ManuallyDrop::new(job)));
                record.default_ctx.set(jobs_ctx);
                // SAFETY: the caller's promise.
                unsafe { self.job.write(slot.handle().to_c()) };
                ASYNC_PAUSE
            }
            Step::Finished(value) => {
                slot.end();
                thread.free.push(slot);
                // SAFETY: the caller's promise.
                unsafe { self.job.write(ptr::null_mut()) };
                if let Some(ret) = NonNull::new(self.ret) {
                    // SAFETY: the caller's promise.
                    unsafe { ret.write(value) };
                }
                ASYNC_FINISH
            }
        }
    }

    /// The handle names nothing, or there is no function, or no memory for its arguments.
    #[cold]
    unsafe fn nothing_to_run(self) -> c_int {
        libcrypto::raise(Reason::FailedToSwapContext);
        // SAFETY: the caller's promise.
        unsafe { self.job.write(ptr::null_mut()) };
        ASYNC_ERR
    }
}

type Function = unsafe extern "C" fn(*mut c_void) -> c_int;

/// A job's function and what it is called with (S22, S23).
#[derive(Clone, Copy)]
struct Call {
    func: Function,
    /// NULL, or the program's bytes: above [`SMALL`](Self::SMALL) a copy on the heap, which the job frees.
    args: *mut c_void,
    size: usize,
}

impl Call {
    /// Up to here arguments are copied to the job's stack, while the caller of `ASYNC_start_job` still waits.
    const SMALL: usize = 512;

    /// `None` when there is no memory.
    ///
    /// # Safety
    ///
    /// `args` is NULL or points to `size` readable bytes, until the job first pauses or ends.
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

    /// # Safety
    ///
    /// `call` came from [`new`](Self::new), whose promise still holds; `func` may be called with these bytes. Called once.
    #[inline]
    unsafe fn run(call: *const Self) -> c_int {
        // SAFETY: the caller's promise.
        let Call { func, args, size } = unsafe { call.read() };
        match size {
            // SAFETY: the caller's promise.
            0 => unsafe { func(ptr::null_mut()) },
            // SAFETY: passed on.
            1..=64 => unsafe { call_with_copy::<64>(func, args, size) },
            // SAFETY: passed on.
            65..=Self::SMALL => unsafe { call_with_copy::<{ Self::SMALL }>(func, args, size) },
            // SAFETY: passed on; `new` made the copy.
            _ => unsafe { call_and_free(func, args) },
        }
    }

    /// It was not run.
    #[cold]
    fn forget(&self) {
        if self.size > Self::SMALL {
            // SAFETY: `new` made the copy.
            unsafe { libc::free(self.args) };
        }
    }
}

/// A copy with the alignment of malloc; `None` when there is no memory.
///
/// # Safety
///
/// `size` readable bytes.
#[cold]
unsafe fn heap_copy(bytes: *const c_void, size: usize) -> Option<*mut c_void> {
    // SAFETY: any size.
    let copy = unsafe { libc::malloc(size) };
    if copy.is_null() {
        return None;
    }
    // SAFETY: the caller's promise, and just allocated.
    unsafe { ptr::copy_nonoverlapping(bytes.cast::<u8>(), copy.cast(), size) };
    Some(copy)
}

/// # Safety
///
/// `func` may be called with `copy`, which came from malloc.
#[inline(never)]
unsafe fn call_and_free(func: Function, copy: *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    let value = unsafe { func(copy) };
    // SAFETY: the caller's promise.
    unsafe { libc::free(copy) };
    value
}

/// # Safety
///
/// `func` may be called with a copy of the `size` bytes at `from`, and `size` is at most `N`.
#[inline(never)]
unsafe fn call_with_copy<const N: usize>(func: Function, from: *const c_void, size: usize) -> c_int {
    #[repr(align(16))]
    struct Aligned<const N: usize>([MaybeUninit<u8>; N]);

    let mut copy = Aligned([MaybeUninit::uninit(); N]);
    let to = copy.0.as_mut_ptr().cast::<c_void>();
    // SAFETY: the caller's promise.
    unsafe { ptr::copy_nonoverlapping(from.cast::<u8>(), to.cast(), size) };
    // SAFETY: the caller's promise.
    unsafe { func(to) }
}

fn with_blocked(change: impl FnOnce(u32) -> u32) {
    guarded((), || {
        if let Some(slot) = thread::with(|thread| thread.current.get()) {
            let blocked = &slot.value().blocked;
            blocked.set(change(blocked.get()));
        }
    });
}
