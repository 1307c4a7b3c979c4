//! Wait ctxs: a job says here what it waits for, and the caller that will resume the job reads it.
//!
//! ```text
//!   ASYNC_WAIT_CTX *  --->  slot (crate::handle)  --->  lock  --->  LiveCtx: asyncjob::WaitCtx, callback
//! ```
//!
//! A program may free a ctx at any time: under a paused job (S61), while an engine's thread asks for the callback
//! (S47), or twice. Every function therefore looks the handle up, takes the lock of the slot, and compares the handle
//! again. Jobs know their ctx by handle. No lock is held while a cleanup runs.

use std::ffi::{c_int, c_void};
use std::mem;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};

use asyncjob::{Status, WaitCtx, WaitFd, WaitFdOptions, WaitKey};
use parking_lot::Mutex;

use crate::boundary::guarded;
use crate::handle::{Handle, Slot, Table};

/// A wait ctx, as C programs see it: an opaque handle.
#[allow(non_camel_case_types, reason = "the C interface's name")]
#[derive(Debug)]
#[repr(C)]
pub struct async_wait_ctx_st {
    _opaque: [u8; 0],
}

/// `ASYNC_WAIT_CTX` of `<openssl/async.h>`.
pub type ASYNC_WAIT_CTX = async_wait_ctx_st;

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
        let Some(slot) = take_slot() else {
            return ptr::null_mut();
        };
        *slot.value().content.lock() = Some(LiveCtx::new());
        slot.handle().to_c()
    })
}

/// `ASYNC_WAIT_CTX_free(3)`: calls the cleanups, newest first, and frees the ctx.
///
/// A cleanup may read the ctx, and may clear its own key or another. A wait fd that a cleanup adds is forgotten. Jobs
/// that were started with this ctx have none from now on. Nothing happens if `ctx` is NULL or was freed before. See
/// S60, S61.
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
        let marked = with_slot(ctx, |slot, live| {
            let was_marked = mem::replace(&mut live.is_being_freed, true);
            (!was_marked).then_some(slot)
        });
        let Some(slot) = marked else { return };
        // SAFETY: passed on.
        unsafe { call_cleanups(ctx) };
        let freed = {
            let mut content = slot.value().content.lock();
            slot.end();
            content.take()
        };
        drop(freed);
        slot.value().is_unsettled.store(false, Ordering::Relaxed);
        FREE.lock().push(slot);
    });
}

/// `ASYNC_WAIT_CTX_set_wait_fd(3)`: adds a wait fd under `key`. It hides an earlier one under that key. Returns 1, or 0
/// if `ctx` is NULL or was freed.
///
/// # Safety
///
/// `cleanup` must be NULL or a function that may be called with these values when the program frees the ctx.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_set_wait_fd(
    ctx: *mut ASYNC_WAIT_CTX,
    key: *const c_void,
    fd: OSSL_ASYNC_FD,
    custom_data: *mut c_void,
    cleanup: ASYNC_cleanup_fn,
) -> c_int {
    change_wait_fds(ctx, |live| {
        let serial = live.entries_made;
        live.entries_made += 1;
        let entry = Entry {
            key,
            custom_data,
            cleanup,
            serial,
        };
        let wait_fd = WaitFd::new(WaitKey::from_ptr(key), fd, WaitFdOptions::new());
        // SAFETY: the fd need not stay open, because no driver sees this ctx: only the functions of this module reach
        // it, and they return the number and do nothing with it.
        unsafe { live.ctx.add_raw_wait_fd(wait_fd, Box::new(entry)) };
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
    let found = with_ctx(ctx, |live| live.ctx.copied_value::<Entry>(WaitKey::from_ptr(key)));
    let Some((wait_fd, entry)) = found else { return 0 };
    // SAFETY: the caller's promise.
    unsafe { write(fd, wait_fd.fd) };
    // SAFETY: the caller's promise.
    unsafe { write(custom_data, entry.custom_data) };
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
    let Some(fds) = with_ctx(ctx, |live| Some(live.ctx.fds())) else {
        return 0;
    };
    // SAFETY: the caller's promise.
    unsafe { write_list(fd, numfds, &fds) };
    1
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
    let Some(changes) = with_ctx(ctx, |live| Some(live.ctx.changes())) else {
        return 0;
    };
    // SAFETY: the caller's promise.
    unsafe { write_list(addfd, numaddfds, &changes.added) };
    // SAFETY: the caller's promise.
    unsafe { write_list(delfd, numdelfds, &changes.removed) };
    1
}

/// `ASYNC_WAIT_CTX_clear_fd(3)`: removes the newest wait fd under `key` without calling its cleanup. Returns 1, or 0 if
/// there is none.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_WAIT_CTX_clear_fd(ctx: *mut ASYNC_WAIT_CTX, key: *const c_void) -> c_int {
    change_wait_fds(ctx, |live| {
        c_int::from(live.ctx.clear_fd(WaitKey::from_ptr(key)).is_some())
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
    with_ctx(ctx, |live| {
        live.callback = callback;
        live.callback_arg = callback_arg;
        1
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
    let set = with_ctx(ctx, |live| live.callback.map(|_| (live.callback, live.callback_arg)));
    let Some((function, argument)) = set else { return 0 };
    // SAFETY: the caller's promise.
    unsafe { write(callback, function) };
    // SAFETY: the caller's promise.
    unsafe { write(callback_arg, argument) };
    1
}

/// `ASYNC_WAIT_CTX_set_status(3)`: sets the status, which may be any number. Returns 1, or 0 if `ctx` is NULL or was
/// freed. See S65.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_WAIT_CTX_set_status(ctx: *mut ASYNC_WAIT_CTX, status: c_int) -> c_int {
    with_ctx(ctx, |live| {
        live.ctx.set_status(Status::from_raw(status));
        1
    })
}

/// `ASYNC_WAIT_CTX_get_status(3)`: returns the status that was set last, or `ASYNC_STATUS_UNSUPPORTED`.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_WAIT_CTX_get_status(ctx: *mut ASYNC_WAIT_CTX) -> c_int {
    with_ctx(ctx, |live| live.ctx.status().to_raw())
}

/// The content of a slot between `ASYNC_WAIT_CTX_new` and `ASYNC_WAIT_CTX_free`.
struct LiveCtx {
    ctx: WaitCtx,
    callback: ASYNC_callback_fn,
    callback_arg: *mut c_void,
    entries_made: u64,
    /// A call of [`ASYNC_WAIT_CTX_free`] is at the cleanups, and will free the ctx.
    is_being_freed: bool,
}

// SAFETY: the pointers belong to the program. This library carries them and does not follow them.
unsafe impl Send for LiveCtx {}

/// The value that a wait fd has in its ctx.
#[derive(Clone, Copy)]
struct Entry {
    key: *const c_void,
    custom_data: *mut c_void,
    cleanup: ASYNC_cleanup_fn,
    /// Goes up with each entry of the ctx. It tells entries apart: keys are not unique, and a cleanup may change the
    /// list.
    serial: u64,
}

// SAFETY: as for `LiveCtx`.
unsafe impl Send for Entry {}

/// What a slot for a wait ctx holds.
#[derive(Default)]
pub(crate) struct CtxRecord {
    content: Mutex<Option<LiveCtx>>,
    /// A wait fd was added or removed since the last resume. Every resume reads this, without the lock.
    is_unsettled: AtomicBool,
}

type CtxSlot = &'static Slot<CtxRecord>;

static CTXS: Table<CtxRecord> = Table::new();
/// The slots without a ctx.
static FREE: Mutex<Vec<CtxSlot>> = Mutex::new(Vec::new());

impl LiveCtx {
    fn new() -> Self {
        LiveCtx {
            ctx: WaitCtx::new(),
            callback: None,
            callback_arg: ptr::null_mut(),
            entries_made: 0,
            is_being_freed: false,
        }
    }
}

/// Returns `ctx`, or NULL if it was freed.
pub(crate) fn if_alive(ctx: *mut ASYNC_WAIT_CTX) -> *mut ASYNC_WAIT_CTX {
    if CTXS.live(Handle::from_c(ctx)).is_some() {
        ctx
    } else {
        ptr::null_mut()
    }
}

/// A job with this ctx is resumed: its wait fds no longer count as changed (S42). Costs two loads if none was changed.
#[inline]
pub(crate) fn settle(ctx: *mut ASYNC_WAIT_CTX) {
    if let Some(slot) = CTXS.live(Handle::from_c(ctx))
        && slot.value().is_unsettled.load(Ordering::Relaxed)
    {
        settle_changes(ctx);
    }
}

#[cold]
fn settle_changes(ctx: *mut ASYNC_WAIT_CTX) {
    with_slot(ctx, |slot, live| {
        slot.value().is_unsettled.store(false, Ordering::Relaxed);
        live.ctx.settle();
    });
}

/// Calls `f` under the lock of the ctx. Returns 0, NULL or `None` if the handle names no ctx.
fn with_slot<R: Default>(ctx: *mut ASYNC_WAIT_CTX, f: impl FnOnce(CtxSlot, &mut LiveCtx) -> R) -> R {
    guarded(R::default(), || {
        let handle = Handle::from_c(ctx);
        let Some(slot) = CTXS.live(handle) else {
            return R::default();
        };
        let mut content = slot.value().content.lock();
        match &mut *content {
            // The program may have freed the ctx after the lookup, and made another in the slot.
            Some(live) if slot.handle() == handle => f(slot, live),
            _ => R::default(),
        }
    })
}

/// As [`with_slot`], to read a ctx and to change its callback or its status.
fn with_ctx<R: Default>(ctx: *mut ASYNC_WAIT_CTX, f: impl FnOnce(&mut LiveCtx) -> R) -> R {
    with_slot(ctx, |_, live| f(live))
}

/// As [`with_slot`], to change the wait fds. The next resume settles the change.
fn change_wait_fds(ctx: *mut ASYNC_WAIT_CTX, f: impl FnOnce(&mut LiveCtx) -> c_int) -> c_int {
    with_slot(ctx, |slot, live| {
        slot.value().is_unsettled.store(true, Ordering::Relaxed);
        f(live)
    })
}

fn take_slot() -> Option<CtxSlot> {
    let free = FREE.lock().pop();
    free.or_else(|| {
        let chunk = CTXS.grow()?;
        let (first, others) = chunk.split_first()?;
        FREE.lock().extend(others);
        Some(first)
    })
}

/// # Safety
///
/// The cleanups of this ctx must be callable now.
unsafe fn call_cleanups(ctx: *mut ASYNC_WAIT_CTX) {
    let mut done_down_to = u64::MAX;
    while let Some((wait_fd, entry)) = newest_before(ctx, done_down_to) {
        done_down_to = entry.serial;
        if let Some(cleanup) = entry.cleanup {
            // SAFETY: the caller's promise.
            unsafe { cleanup(ctx, entry.key, wait_fd.fd, entry.custom_data) };
        }
    }
}

fn newest_before(ctx: *mut ASYNC_WAIT_CTX, serial: u64) -> Option<(WaitFd, Entry)> {
    let entries = with_ctx(ctx, |live| live.ctx.copied_values::<Entry>());
    entries.into_iter().find(|(_, entry)| entry.serial < serial)
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

/// # Safety
///
/// `list` must be NULL or point to an array with room for `fds`. `count` must be NULL or valid for writes.
unsafe fn write_list(list: *mut OSSL_ASYNC_FD, count: *mut usize, fds: &[WaitFd]) {
    // SAFETY: the caller's promise.
    unsafe { write(count, fds.len()) };
    let Some(list) = NonNull::new(list) else { return };
    for (i, wait_fd) in fds.iter().enumerate() {
        // SAFETY: the array has room for `fds.len()`.
        let element = unsafe { list.add(i) };
        // SAFETY: as above.
        unsafe { element.write(wait_fd.fd) };
    }
}
