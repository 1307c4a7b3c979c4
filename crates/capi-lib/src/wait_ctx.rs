//! Wait ctxs: a job says here what it waits for, and the caller that will resume the job reads it.
//!
//! ```text
//!   ASYNC_WAIT_CTX *  --->  slot (crate::handle)  --->  asyncjob::WaitCtx, which stays in its slot for ever
//! ```
//!
//! A program may free a ctx at any time: under a paused job (S61), while an engine's thread asks for the callback
//! (S47), or twice. Jobs know their ctx by handle, and every function looks the handle up and compares it again:
//!
//! | function | compares the handle again |
//! |---|---|
//! | reads | after it has made a copy, without a lock (`read_of_program`) |
//! | changes | under the lock of the ctx (`locked`), under which a free makes the handle stale |
//!
//! A freed ctx is made what it was when it was new, and waits in its slot for the next `ASYNC_WAIT_CTX_new`. If a job
//! or Rust code still has the ctx, its slot waits until they have let go of it: nobody who had the old ctx gets the
//! next. A status or a callback that is set to what it is already is a read. No lock is held while a cleanup runs.
//!
//! The ctx may also be one of Rust code (`crate::of_rust`): that of a Rust job in which C code runs. What C code sets
//! there is what the driver of the job sees, whichever driver it is:
//!
//! | C code calls | a ctx of Rust code |
//! |---|---|
//! | `set_wait_fd` | waits for the fd. Its cleanup is called when Rust code drops the ctx |
//! | `get_callback` | gives a function that wakes the driver |
//! | `set_status` | tells the driver |
//! | `free` | does nothing: the ctx belongs to Rust code |
//!
//! A ctx of a C program has the fds and the status of Rust code in it, too, and the program's callback is a waker
//! there.

use std::ffi::{c_int, c_void};
use std::mem;
use std::ptr::{self, NonNull};
use std::sync::atomic::{Ordering, fence};
use std::task::Waker;

use asyncjob::{Fd, Locked, Record, Status, WaitCtx, WaitFd, WaitFdOptions, WaitKey, WaitValue, waker_fn};

use crate::boundary::guarded;
use crate::ctx_slots::{CTXS, CtxSlot, OfProgram};
use crate::handle::Handle;
use crate::of_rust;
use crate::slots;
use crate::thread::{self, Thread};

pub use crate::handle::{ASYNC_WAIT_CTX, async_wait_ctx_st};

/// A descriptor that a program waits for.
pub type OSSL_ASYNC_FD = c_int;
/// No descriptor.
pub const OSSL_BAD_ASYNC_FD: OSSL_ASYNC_FD = -1;

/// An engine calls this function when the operation is done.
pub type ASYNC_callback_fn = Option<unsafe extern "C" fn(arg: *mut c_void) -> c_int>;

/// `ASYNC_WAIT_CTX_free` calls this function for a wait fd.
pub type ASYNC_cleanup_fn = Option<
    unsafe extern "C" fn(ctx: *mut ASYNC_WAIT_CTX, key: *const c_void, fd: OSSL_ASYNC_FD, custom_data: *mut c_void),
>;

/// The engine uses no callback: wait for the fds. The default.
pub const ASYNC_STATUS_UNSUPPORTED: c_int = 0;
/// The engine cannot go on with this session.
pub const ASYNC_STATUS_ERR: c_int = 1;
/// The operation was submitted: the engine will call the callback.
pub const ASYNC_STATUS_OK: c_int = 2;
/// The operation was not submitted because a queue was full: resume the job later.
pub const ASYNC_STATUS_EAGAIN: c_int = 3;

/// `ASYNC_WAIT_CTX_new(3)`: makes a wait ctx. Returns NULL when the process has 16 million.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_WAIT_CTX_new() -> *mut ASYNC_WAIT_CTX {
    guarded(ptr::null_mut(), || {
        let Some(slot) = thread::with(Thread::take_ctx) else {
            return ptr::null_mut();
        };
        // No other thread has the ctx yet.
        slot.value().is_given_out.swap_under_lock(true);
        slot.begin();
        slot.handle().to_c()
    })
}

/// `ASYNC_WAIT_CTX_free(3)`: calls the cleanups, newest first, and frees the ctx.
///
/// A cleanup may read the ctx, and may clear its own key or another. A wait fd that a cleanup adds is forgotten. Jobs
/// that were started with this ctx have none from now on. Nothing happens if `ctx` is NULL or was freed before, and if
/// it belongs to Rust code. See S60, S61.
///
/// # Safety
///
/// Every cleanup that the program gave to `ASYNC_WAIT_CTX_set_wait_fd` for this ctx must be callable now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_free(ctx: *mut ASYNC_WAIT_CTX) {
    guarded((), || {
        // A cleanup of this ctx, or another thread, may be freeing it. The mark is set under the lock, after the handle
        // was compared: without the lock, another thread could free the ctx first, and the mark would be that of the
        // next ctx.
        let Some((slot, live)) = locked(ctx) else { return };
        if slot.value().is_being_freed.swap_under_lock(true) {
            return;
        }
        // SAFETY: passed on.
        let live = unsafe { call_cleanups(slot, live) };
        slot.value().is_being_freed.swap_under_lock(false);
        slot.value().is_given_out.swap_under_lock(false);
        slot.end();
        live.reset();
        let last_job = slot.value().last_job.load(Ordering::Relaxed);
        thread::with(|thread| {
            if thread.give_ctx(slot) {
                thread.slots.set_aside(Handle::from_number(last_job), ctx);
            }
        });
    });
}

/// `ASYNC_WAIT_CTX_set_wait_fd(3)`: adds a wait fd under `key`. It hides an earlier one under that key. Returns 1, or 0
/// if `ctx` is NULL or was freed.
///
/// # Safety
///
/// `cleanup` must be NULL or a function that may be called with these values when the program frees the ctx, or when
/// Rust code drops it, on any thread. In a job of Rust code, `fd` must stay open until its key is cleared, or until its
/// cleanup is called.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_set_wait_fd(
    ctx: *mut ASYNC_WAIT_CTX,
    key: *const c_void,
    fd: OSSL_ASYNC_FD,
    custom_data: *mut c_void,
    cleanup: ASYNC_cleanup_fn,
) -> c_int {
    guarded(0, || {
        let wait_fd = WaitFd::new(WaitKey::from_ptr(key), fd, WaitFdOptions::new());
        let data = custom_data.expose_provenance();
        if let Some((_, mut live)) = locked(ctx) {
            let cleanup = cleanup.map_or(0, |cleanup| (cleanup as *const ()).expose_provenance());
            // SAFETY: the C program drives the jobs of this ctx. Its own rule is when the fd has to be open. A driver
            // of Rust code sees this ctx only if Rust code takes it from a job of the program for a job of its own, and
            // then the caller's promise is about that job.
            unsafe { live.add_words(wait_fd, data, cleanup) };
            return 1;
        }
        let Some(found) = of_rust(ctx) else { return 0 };
        let value = OwnedByC {
            ctx: ctx.expose_provenance(),
            wait_fd,
            data,
            cleanup,
        };
        // SAFETY: the caller's promise about a job of Rust code.
        unsafe { found.lock().add_with_data(wait_fd, data, WaitValue::new(value)) };
        1
    })
}

/// `ASYNC_WAIT_CTX_get_fd(3)`: writes the newest wait fd under `key` and its custom data. Returns 1; or 0, with nothing
/// written, if there is none.
///
/// # Safety
///
/// `fd` and `custom_data` must be NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_get_fd(
    ctx: *mut ASYNC_WAIT_CTX,
    key: *const c_void,
    fd: *mut OSSL_ASYNC_FD,
    custom_data: *mut *mut c_void,
) -> c_int {
    match read_of_program(ctx, |ctx| ctx.newest_fd_now(WaitKey::from_ptr(key))).flatten() {
        // SAFETY: the caller's promise.
        Some(found) => unsafe { write_fd(found, fd, custom_data) },
        // SAFETY: passed on.
        None => unsafe { get_fd_slowly(ctx, key, fd, custom_data) },
    }
}

/// [`ASYNC_WAIT_CTX_get_fd`] of a ctx of Rust code, and of one that cannot be read without its lock. As a call at the
/// end it leaves nothing to be saved in the other one.
///
/// # Safety
///
/// As [`ASYNC_WAIT_CTX_get_fd`].
#[cold]
unsafe extern "C" fn get_fd_slowly(
    ctx: *mut ASYNC_WAIT_CTX,
    key: *const c_void,
    fd: *mut OSSL_ASYNC_FD,
    custom_data: *mut *mut c_void,
) -> c_int {
    let found = read(ctx, |ctx| ctx.newest_fd(WaitKey::from_ptr(key))).flatten();
    // SAFETY: passed on.
    unsafe { write_fd(found, fd, custom_data) }
}

/// # Safety
///
/// `fd` and `custom_data` must be NULL or valid for writes.
#[inline]
unsafe fn write_fd(found: Option<(Fd, usize)>, fd: *mut OSSL_ASYNC_FD, custom_data: *mut *mut c_void) -> c_int {
    let Some((found, data)) = found else { return 0 };
    // SAFETY: the caller's promise.
    unsafe { write(fd, found.raw()) };
    // SAFETY: the caller's promise.
    unsafe { write(custom_data, ptr::with_exposed_provenance_mut(data)) };
    1
}

/// `ASYNC_WAIT_CTX_get_all_fds(3)`: writes the number of wait fds and, if `fd` is not NULL, the wait fds, newest first.
/// Returns 1, or 0 if `ctx` is NULL or was freed.
///
/// # Safety
///
/// `fd` must be NULL or point to an array with room for all of them. `numfds` must be NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_get_all_fds(
    ctx: *mut ASYNC_WAIT_CTX,
    fd: *mut OSSL_ASYNC_FD,
    numfds: *mut usize,
) -> c_int {
    match read_of_program(ctx, WaitCtx::fds_now).flatten() {
        Some(fds) if Fd::count_always(fds.1) => {
            // SAFETY: the caller's promise.
            unsafe { write_list(fd, numfds, newest_first(fds), |fd| !fd.is_removed()) };
            1
        }
        // SAFETY: passed on.
        _ => unsafe { get_all_fds_slowly(ctx, fd, numfds) },
    }
}

/// [`ASYNC_WAIT_CTX_get_all_fds`], as [`get_fd_slowly`], and for fds that do not always count.
///
/// # Safety
///
/// As [`ASYNC_WAIT_CTX_get_all_fds`].
#[cold]
unsafe extern "C" fn get_all_fds_slowly(ctx: *mut ASYNC_WAIT_CTX, fd: *mut OSSL_ASYNC_FD, numfds: *mut usize) -> c_int {
    let write = |ctx: &WaitCtx, records: &[Record]| {
        let armed = ctx.armed();
        let counting = records.iter().rev().filter(|record| record.counts(armed));
        // SAFETY: the caller's promise.
        unsafe { write_list(fd, numfds, counting.map(Record::fd_of), |fd| !fd.is_removed()) };
    };
    c_int::from(read_into(ctx, write))
}

/// `ASYNC_WAIT_CTX_get_changed_fds(3)`: writes the wait fds that were added and those that were removed since a job
/// with this ctx was last resumed.
///
/// Both lists are newest first. NULL stands for a list or a number that the program does not want. Returns 1, or 0 if
/// `ctx` is NULL or was freed. See S42.
///
/// # Safety
///
/// `addfd` and `delfd` must be NULL or point to arrays with room for the lists. `numaddfds` and `numdelfds` must be
/// NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_get_changed_fds(
    ctx: *mut ASYNC_WAIT_CTX,
    addfd: *mut OSSL_ASYNC_FD,
    numaddfds: *mut usize,
    delfd: *mut OSSL_ASYNC_FD,
    numdelfds: *mut usize,
) -> c_int {
    match read_of_program(ctx, WaitCtx::fds_now).flatten() {
        Some(fds) => {
            // SAFETY: the caller's promise.
            unsafe { write_list(addfd, numaddfds, newest_first(fds), Fd::is_addition) };
            // SAFETY: the caller's promise.
            unsafe { write_list(delfd, numdelfds, newest_first(fds), Fd::is_removal) };
            1
        }
        // SAFETY: passed on.
        None => unsafe { get_changed_fds_slowly(ctx, addfd, numaddfds, delfd, numdelfds) },
    }
}

/// [`ASYNC_WAIT_CTX_get_changed_fds`], as [`get_fd_slowly`].
///
/// # Safety
///
/// As [`ASYNC_WAIT_CTX_get_changed_fds`].
#[cold]
unsafe extern "C" fn get_changed_fds_slowly(
    ctx: *mut ASYNC_WAIT_CTX,
    addfd: *mut OSSL_ASYNC_FD,
    numaddfds: *mut usize,
    delfd: *mut OSSL_ASYNC_FD,
    numdelfds: *mut usize,
) -> c_int {
    let write = |_: &WaitCtx, records: &[Record]| {
        let fds = || records.iter().rev().map(Record::fd_of);
        // SAFETY: the caller's promise.
        unsafe { write_list(addfd, numaddfds, fds(), Fd::is_addition) };
        // SAFETY: the caller's promise.
        unsafe { write_list(delfd, numdelfds, fds(), Fd::is_removal) };
    };
    c_int::from(read_into(ctx, write))
}

/// `ASYNC_WAIT_CTX_clear_fd(3)`: removes the newest wait fd under `key` without calling its cleanup. Returns 1, or 0 if
/// there is none.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_WAIT_CTX_clear_fd(ctx: *mut ASYNC_WAIT_CTX, key: *const c_void) -> c_int {
    guarded(0, || {
        let key = WaitKey::from_ptr(key);
        if let Some((_, live)) = locked(ctx) {
            return c_int::from(live.remove(key));
        }
        let Some(removed) = of_rust(ctx).and_then(|ctx| ctx.lock().take(key)) else {
            return 0;
        };
        if let Some(value) = removed {
            match value.downcast::<OwnedByC>() {
                Ok(owned) => mem::forget(owned), // without its cleanup
                Err(of_rust_code) => drop(of_rust_code),
            }
        }
        1
    })
}

/// `ASYNC_WAIT_CTX_set_callback(3)`: sets the callback; NULL removes it. Returns 1, or 0 if `ctx` is NULL or was freed.
///
/// # Safety
///
/// `callback` must be NULL or a function that an engine may call with `callback_arg`, from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_set_callback(
    ctx: *mut ASYNC_WAIT_CTX,
    callback: ASYNC_callback_fn,
    callback_arg: *mut c_void,
) -> c_int {
    let function = callback.map_or(0, |function| (function as *const ()).expose_provenance());
    let new = [function, callback_arg.expose_provenance()];
    if read(ctx, WaitCtx::c_callback) == Some(new) {
        return 1;
    }
    guarded(0, || {
        let changed = change(ctx, |live| live.set_c_callback(new, waker_of));
        c_int::from(changed)
    })
}

/// `ASYNC_WAIT_CTX_get_callback(3)`: writes the callback and its argument. Returns 1; or 0, with nothing written, if no
/// callback is set. See S63.
///
/// # Safety
///
/// `callback` and `callback_arg` must be NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_get_callback(
    ctx: *mut ASYNC_WAIT_CTX,
    callback: *mut ASYNC_callback_fn,
    callback_arg: *mut *mut c_void,
) -> c_int {
    let set = read(ctx, |ctx| (ctx.c_callback(), ctx.has_callback()));
    let (function, argument) = match set {
        Some(([function, argument], _)) if function != 0 => (function, argument),
        // The driver is Rust code. The handle is good as an argument for as long as an engine may keep it.
        Some((_, true)) => ((wake as *const ()).expose_provenance(), ctx.expose_provenance()),
        _ => return 0,
    };
    let function = ptr::with_exposed_provenance::<()>(function);
    // SAFETY: `ASYNC_WAIT_CTX_set_callback` made the number of a function of this type, or it is that of `wake`. 0, for
    // NULL, was left out.
    let function = unsafe { mem::transmute::<*const (), ASYNC_callback_fn>(function) };
    // SAFETY: the caller's promise.
    unsafe { write(callback, function) };
    // SAFETY: the caller's promise.
    unsafe { write(callback_arg, ptr::with_exposed_provenance_mut(argument)) };
    1
}

/// `ASYNC_WAIT_CTX_set_status(3)`: sets the status, which may be any number. Returns 1, or 0 if `ctx` is NULL or was
/// freed. See S65.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_WAIT_CTX_set_status(ctx: *mut ASYNC_WAIT_CTX, status: c_int) -> c_int {
    if read(ctx, |ctx| ctx.status().to_raw()) == Some(status) {
        return 1;
    }
    guarded(0, || {
        let changed = change(ctx, |live| live.set_status(Status::from_raw(status)));
        c_int::from(changed)
    })
}

/// `ASYNC_WAIT_CTX_get_status(3)`: returns the status that was set last, or `ASYNC_STATUS_UNSUPPORTED`.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_WAIT_CTX_get_status(ctx: *mut ASYNC_WAIT_CTX) -> c_int {
    read(ctx, |ctx| ctx.status().to_raw()).unwrap_or(ASYNC_STATUS_UNSUPPORTED)
}

/// Returns `ctx`, or NULL if it was freed.
pub(crate) fn if_alive(ctx: *mut ASYNC_WAIT_CTX) -> *mut ASYNC_WAIT_CTX {
    if of_program(ctx).is_some() || of_rust(ctx).is_some() {
        ctx
    } else {
        ptr::null_mut()
    }
}

/// The ctx of a C program that this handle names.
#[inline]
pub(crate) fn of_program(ctx: *mut ASYNC_WAIT_CTX) -> Option<&'static WaitCtx> {
    CTXS.live(Handle::from_c(ctx)).map(|slot| &slot.value().ctx)
}

/// The ctx of a C program that this handle names, for a job that starts with it.
#[inline]
pub(crate) fn for_job(ctx: *mut ASYNC_WAIT_CTX, job: Handle<slots::Record>) -> Option<&'static WaitCtx> {
    let record = CTXS.live(Handle::from_c(ctx))?.value();
    record.last_job.store(job.to_number(), Ordering::Relaxed);
    Some(&record.ctx)
}

/// The ctx of Rust code that this handle names.
#[cold]
fn of_rust(ctx: *mut ASYNC_WAIT_CTX) -> Option<WaitCtx> {
    of_rust::find(Handle::of_rust_from_c(ctx)?)
}

/// The ctx of Rust code that this handle names, or a new one for a job without a ctx.
#[cold]
pub(crate) fn of_rust_or_new(ctx: *mut ASYNC_WAIT_CTX) -> WaitCtx {
    of_rust(ctx).unwrap_or_default()
}

/// The handle of this ctx for C code. It is NULL if the ctx is that of a C program which has freed it.
pub(crate) fn handle_of(ctx: &WaitCtx) -> *mut ASYNC_WAIT_CTX {
    let mut live = ctx.lock();
    let attachment = live.attachment();
    match attachment {
        Some(known) => {
            if let Some(OfProgram(slot)) = known.downcast_ref() {
                let is_given_out = slot.value().is_given_out.is_set();
                return if is_given_out {
                    slot.handle().to_c()
                } else {
                    ptr::null_mut()
                };
            }
            let name = known.downcast_ref::<of_rust::Name>();
            name.map_or(ptr::null_mut(), |name| name.handle().to_c_of_rust())
        }
        None => {
            let Some(name) = of_rust::Name::new(ctx.downgrade()) else {
                return ptr::null_mut();
            };
            let handle = name.handle().to_c_of_rust();
            *attachment = Some(Box::new(name));
            handle
        }
    }
}

/// A wait fd of C code in a ctx of Rust code. The drop calls its cleanup.
struct OwnedByC {
    ctx: usize,
    wait_fd: WaitFd,
    data: usize,
    cleanup: ASYNC_cleanup_fn,
}

impl Drop for OwnedByC {
    fn drop(&mut self) {
        if let Some(cleanup) = self.cleanup {
            let ctx = ptr::with_exposed_provenance_mut(self.ctx);
            let key = ptr::with_exposed_provenance(self.wait_fd.key.to_addr());
            let data = ptr::with_exposed_provenance_mut(self.data);
            // SAFETY: the promise that `ASYNC_WAIT_CTX_set_wait_fd` was given.
            unsafe { cleanup(ctx, key, self.wait_fd.fd, data) };
        }
    }
}

/// The callback of a ctx whose driver is Rust code: wakes the driver. `argument` is the handle of the ctx. An engine
/// may call this at any time, on any thread.
unsafe extern "C" fn wake(argument: *mut c_void) -> c_int {
    guarded(0, || {
        let ctx = argument.cast::<ASYNC_WAIT_CTX>();
        let waker = read(ctx, WaitCtx::callback).flatten();
        waker.map_or(0, |waker| {
            waker.wake();
            1
        })
    })
}

/// A waker that calls the callback of a C program, for the code of Rust in its jobs.
fn waker_of([function, argument]: [usize; 2]) -> Waker {
    waker_fn(move || {
        let function = ptr::with_exposed_provenance::<()>(function);
        // SAFETY: `ASYNC_WAIT_CTX_set_callback` made the number of a function of this type, or of NULL.
        let function = unsafe { mem::transmute::<*const (), ASYNC_callback_fn>(function) };
        if let Some(function) = function {
            // SAFETY: the promise that `ASYNC_WAIT_CTX_set_callback` was given: any thread may call it.
            unsafe { function(ptr::with_exposed_provenance_mut(argument)) };
        }
    })
}

/// What `f` reads, without a lock. `None` if the handle names no ctx of a C program.
///
/// `f` only copies. The copy is thrown away if the handle has become stale meanwhile: it may be of the next ctx then.
#[inline]
fn read_of_program<R>(ctx: *mut ASYNC_WAIT_CTX, f: impl FnOnce(&WaitCtx) -> R) -> Option<R> {
    let handle = Handle::from_c(ctx);
    let slot = CTXS.live(handle)?;
    let copied = f(&slot.value().ctx);
    // A free ends the handle before the next ctx is changed. If the copy has anything of the next ctx, then this load,
    // which the fence keeps behind those of `f`, sees the end: each change is a Release, or follows one.
    fence(Ordering::Acquire);
    (slot.handle() == handle).then_some(copied)
}

/// What `f` reads, of a ctx of a C program or of Rust code.
#[inline]
fn read<R>(ctx: *mut ASYNC_WAIT_CTX, f: impl Fn(&WaitCtx) -> R) -> Option<R> {
    read_of_program(ctx, &f).or_else(|| read_of_rust(ctx, f))
}

/// What `f` reads, if the handle names a ctx of Rust code.
#[cold]
#[inline(never)]
fn read_of_rust<R>(ctx: *mut ASYNC_WAIT_CTX, f: impl FnOnce(&WaitCtx) -> R) -> Option<R> {
    // The last handle may be dropped here, and with it values of Rust code.
    guarded(None, || of_rust(ctx).map(|ctx| f(&ctx)))
}

/// Calls `write` with a copy of the records of the ctx, unless the handle names no ctx. Returns whether it names one.
#[inline]
fn read_into(ctx: *mut ASYNC_WAIT_CTX, write: impl FnOnce(&WaitCtx, &[Record])) -> bool {
    let handle = Handle::from_c(ctx);
    let Some(slot) = CTXS.live(handle) else {
        return read_of_rust(ctx, |ctx| ctx.with_records(|records| write(ctx, records))).is_some();
    };
    let ctx = &slot.value().ctx;
    ctx.with_records(|records| {
        fence(Ordering::Acquire); // as in `read_of_program`
        let is_live = slot.handle() == handle;
        if is_live {
            write(ctx, records);
        }
        is_live
    })
}

/// Changes a ctx under its lock. Returns whether the handle names one.
#[inline]
fn change(ctx: *mut ASYNC_WAIT_CTX, f: impl FnOnce(&mut Locked<'_>)) -> bool {
    if let Some((_, mut live)) = locked(ctx) {
        f(&mut live);
        return true;
    }
    of_rust(ctx).map(|ctx| f(&mut ctx.lock())).is_some()
}

/// Takes the lock of the ctx. `None` if the handle names no ctx of a C program.
#[inline]
fn locked(ctx: *mut ASYNC_WAIT_CTX) -> Option<(CtxSlot, Locked<'static>)> {
    let handle = Handle::from_c(ctx);
    let slot = CTXS.live(handle)?;
    let live = slot.value().ctx.lock();
    // The program may have freed the ctx after the lookup, and made another in the slot.
    (slot.handle() == handle).then_some((slot, live))
}

/// Calls the cleanups, newest first. The lock is released during each, and held again at the end.
///
/// # Safety
///
/// The cleanups of this ctx must be callable now.
#[inline]
unsafe fn call_cleanups(slot: CtxSlot, mut live: Locked<'static>) -> Locked<'static> {
    let mut done_down_to = u64::MAX;
    while let Some((record, cleanup)) = live.cleanup_before(done_down_to) {
        drop(live);
        done_down_to = record.serial();
        let cleanup = ptr::with_exposed_provenance::<()>(cleanup);
        // SAFETY: `ASYNC_WAIT_CTX_set_wait_fd` made the number of a function of this type.
        let cleanup = unsafe { mem::transmute::<*const (), ASYNC_cleanup_fn>(cleanup) };
        let key = ptr::with_exposed_provenance(record.fd().key.to_addr());
        let custom_data = ptr::with_exposed_provenance_mut(record.data());
        if let Some(cleanup) = cleanup {
            // SAFETY: the caller's promise.
            unsafe { cleanup(slot.handle().to_c(), key, record.raw_fd(), custom_data) };
        }
        live = slot.value().ctx.lock();
    }
    live
}

/// Writes an output, unless the program passed NULL for it.
///
/// # Safety
///
/// `output` must be NULL or valid for writes.
unsafe fn write<T>(output: *mut T, value: T) {
    if let Some(output) = NonNull::new(output) {
        // SAFETY: the caller's promise.
        unsafe { output.write(value) };
    }
}

/// The fds of at most two entries. They stay in registers: as an array they would be loaded together, and the load
/// would wait until both stores have reached the cache.
#[inline]
fn newest_first((length, [first, second]): (usize, [Fd; 2])) -> impl Iterator<Item = Fd> {
    let newest = (length > 1).then_some(second);
    newest.into_iter().chain((length > 0).then_some(first))
}

/// Writes those of the fds that `counts` picks, newest first, and their number.
///
/// # Safety
///
/// `list` must be NULL or point to an array with room for them. `count` must be NULL or valid for writes.
#[inline]
unsafe fn write_list(
    list: *mut OSSL_ASYNC_FD,
    count: *mut usize,
    fds: impl Iterator<Item = Fd>,
    counts: impl Fn(Fd) -> bool,
) {
    let mut written = 0;
    for fd in fds.filter(|fd| counts(*fd)) {
        if let Some(list) = NonNull::new(list) {
            // SAFETY: the array has room for all of them.
            let element = unsafe { list.add(written) };
            // SAFETY: as above.
            unsafe { element.write(fd.raw()) };
        }
        written += 1;
    }
    // SAFETY: the caller's promise.
    unsafe { write(count, written) };
}
