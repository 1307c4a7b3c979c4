//! Wait ctxs: why a job pauses, told to whoever will resume it.
//!
//! ```text
//!   ASYNC_WAIT_CTX *  --->  slot (crate::handle)  --->  lock  --->  Session: asyncjob::WaitCtx, callback
//! ```
//!
//! A program frees a ctx when it likes: under a paused job (S61), while an engine's thread asks for the callback (S47),
//! twice. So every function looks the handle up, takes the slot's lock, and looks whether the handle is still the one.
//! Jobs know their ctx by handle. No lock is held while a cleanup runs.

use std::ffi::{c_int, c_void};
use std::mem;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};

use asyncjob::{Status, WaitCtx, WaitFd, WaitKey};
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

/// What a program waits on.
pub type OSSL_ASYNC_FD = c_int;
/// No fd.
pub const OSSL_BAD_ASYNC_FD: OSSL_ASYNC_FD = -1;

/// What an engine calls when the operation is done.
pub type ASYNC_callback_fn = Option<unsafe extern "C" fn(arg: *mut c_void) -> c_int>;

/// What [`ASYNC_WAIT_CTX_free`] calls for a wait fd.
pub type ASYNC_cleanup_fn = Option<
    unsafe extern "C" fn(ctx: *mut ASYNC_WAIT_CTX, key: *const c_void, fd: OSSL_ASYNC_FD, custom_data: *mut c_void),
>;

/// The engine uses no callback: wait for the fds. The default.
pub const ASYNC_STATUS_UNSUPPORTED: c_int = 0;
/// The engine is broken for this session.
pub const ASYNC_STATUS_ERR: c_int = 1;
/// Submitted: the callback will be called.
pub const ASYNC_STATUS_OK: c_int = 2;
/// Not submitted, a queue was full: resume the job later.
pub const ASYNC_STATUS_EAGAIN: c_int = 3;

/// `ASYNC_WAIT_CTX_new(3)`; NULL when the process has 16 million.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_WAIT_CTX_new() -> *mut ASYNC_WAIT_CTX {
    guarded(ptr::null_mut(), || {
        let Some(slot) = take_slot() else {
            return ptr::null_mut();
        };
        *slot.value().session.lock() = Some(Session::new());
        slot.handle().to_c()
    })
}

/// `ASYNC_WAIT_CTX_free(3)`: calls the cleanups, newest first, with the ctx still readable (S60), and frees the ctx.
///
/// A cleanup may clear its own key or another's (a fix of S60); what it adds is forgotten. Jobs bound to the ctx lose
/// it (a fix of S61). NULL or a ctx that was freed: nothing.
///
/// # Safety
///
/// The cleanups given to [`ASYNC_WAIT_CTX_set_wait_fd`] may be called.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_free(ctx: *mut ASYNC_WAIT_CTX) {
    guarded((), || {
        // A cleanup of the ctx, or another thread, may be freeing it already. The question is asked under the lock:
        // without it, the other could be done before this thread came to mark the ctx, and the slot belong to another
        // ctx.
        let is_ours = with_slot(ctx, |slot, session| {
            let others = mem::replace(&mut session.is_being_freed, true);
            (!others).then_some(slot)
        });
        let Some(slot) = is_ours else { return };
        // SAFETY: passed on.
        unsafe { call_cleanups(ctx) };
        let session = {
            let mut session = slot.value().session.lock();
            slot.end();
            session.take()
        };
        drop(session);
        slot.value().is_unsettled.store(false, Ordering::Relaxed);
        FREE.lock().push(slot);
    });
}

/// `ASYNC_WAIT_CTX_set_wait_fd(3)`: adds a wait fd under `key`, in front of any other under that key. 1, or 0 for a ctx
/// that is NULL or freed.
///
/// # Safety
///
/// `cleanup`, if not NULL, may be called with these values when the ctx is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_set_wait_fd(
    ctx: *mut ASYNC_WAIT_CTX,
    key: *const c_void,
    fd: OSSL_ASYNC_FD,
    custom_data: *mut c_void,
    cleanup: ASYNC_cleanup_fn,
) -> c_int {
    changing(ctx, |session| {
        let serial = session.entries_made;
        session.entries_made += 1;
        let entry = Entry {
            key,
            custom_data,
            cleanup,
            serial,
        };
        session
            .ctx
            .set_wait_fd_with(WaitFd::new(WaitKey::from_ptr(key), fd), Box::new(entry));
        1
    })
}

/// `ASYNC_WAIT_CTX_get_fd(3)`: the newest wait fd under `key`. 1; or 0, with nothing written, if there is none.
///
/// # Safety
///
/// `fd` and `custom_data` are NULL or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_get_fd(
    ctx: *mut ASYNC_WAIT_CTX,
    key: *const c_void,
    fd: *mut OSSL_ASYNC_FD,
    custom_data: *mut *mut c_void,
) -> c_int {
    let found = reading(ctx, |session| session.ctx.copied_value::<Entry>(WaitKey::from_ptr(key)));
    let Some((wait_fd, entry)) = found else { return 0 };
    // SAFETY: the caller's promise.
    unsafe { put(fd, wait_fd.fd) };
    // SAFETY: the caller's promise.
    unsafe { put(custom_data, entry.custom_data) };
    1
}

/// `ASYNC_WAIT_CTX_get_all_fds(3)`: how many wait fds there are, and if `fd` is not NULL, which, newest first. 1, or 0
/// for a ctx that is NULL or freed.
///
/// # Safety
///
/// `fd` is NULL or has room for all of them; `numfds` is NULL or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_get_all_fds(
    ctx: *mut ASYNC_WAIT_CTX,
    fd: *mut OSSL_ASYNC_FD,
    numfds: *mut usize,
) -> c_int {
    let Some(fds) = reading(ctx, |session| Some(session.ctx.fds())) else {
        return 0;
    };
    // SAFETY: the caller's promise.
    unsafe { put_list(fd, numfds, &fds) };
    1
}

/// `ASYNC_WAIT_CTX_get_changed_fds(3)`: the wait fds added and deleted since a job with this ctx was last resumed,
/// newest first, each list if its array is not NULL. 1, or 0 for a ctx that is NULL or freed.
///
/// # Safety
///
/// The arrays are NULL or have room; the counts are NULL or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_get_changed_fds(
    ctx: *mut ASYNC_WAIT_CTX,
    addfd: *mut OSSL_ASYNC_FD,
    numaddfds: *mut usize,
    delfd: *mut OSSL_ASYNC_FD,
    numdelfds: *mut usize,
) -> c_int {
    let Some(changes) = reading(ctx, |session| Some(session.ctx.changes())) else {
        return 0;
    };
    // SAFETY: the caller's promise.
    unsafe { put_list(addfd, numaddfds, &changes.added) };
    // SAFETY: the caller's promise.
    unsafe { put_list(delfd, numdelfds, &changes.removed) };
    1
}

/// `ASYNC_WAIT_CTX_clear_fd(3)`: forgets the newest wait fd under `key`, without calling its cleanup. 1, or 0 if there
/// is none.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_WAIT_CTX_clear_fd(ctx: *mut ASYNC_WAIT_CTX, key: *const c_void) -> c_int {
    changing(ctx, |session| {
        c_int::from(session.ctx.clear_fd(WaitKey::from_ptr(key)).is_some())
    })
}

/// `ASYNC_WAIT_CTX_set_callback(3)`. 1, or 0 for a ctx that is NULL or freed.
///
/// # Safety
///
/// An engine may call `callback` with `callback_arg`, from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_set_callback(
    ctx: *mut ASYNC_WAIT_CTX,
    callback: ASYNC_callback_fn,
    callback_arg: *mut c_void,
) -> c_int {
    reading(ctx, |session| {
        session.callback = callback;
        session.callback_arg = callback_arg;
        1
    })
}

/// `ASYNC_WAIT_CTX_get_callback(3)`: 1; or 0, with nothing written, if none is set (S63).
///
/// # Safety
///
/// `callback` and `callback_arg` are NULL or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_WAIT_CTX_get_callback(
    ctx: *mut ASYNC_WAIT_CTX,
    callback: *mut ASYNC_callback_fn,
    callback_arg: *mut *mut c_void,
) -> c_int {
    let set = reading(ctx, |session| {
        session.callback.map(|_| (session.callback, session.callback_arg))
    });
    let Some((function, argument)) = set else { return 0 };
    // SAFETY: the caller's promise.
    unsafe { put(callback, function) };
    // SAFETY: the caller's promise.
    unsafe { put(callback_arg, argument) };
    1
}

/// `ASYNC_WAIT_CTX_set_status(3)`: any number (S65). 1, or 0 for a ctx that is NULL or freed.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_WAIT_CTX_set_status(ctx: *mut ASYNC_WAIT_CTX, status: c_int) -> c_int {
    reading(ctx, |session| {
        session.ctx.set_status(Status::from_raw(status));
        1
    })
}

/// `ASYNC_WAIT_CTX_get_status(3)`: what was set last, or `ASYNC_STATUS_UNSUPPORTED`.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_WAIT_CTX_get_status(ctx: *mut ASYNC_WAIT_CTX) -> c_int {
    reading(ctx, |session| session.ctx.status().raw())
}

/// A ctx, as it lives in its slot.
struct Session {
    ctx: WaitCtx,
    callback: ASYNC_callback_fn,
    callback_arg: *mut c_void,
    entries_made: u64,
    /// A call of [`ASYNC_WAIT_CTX_free`] calls its cleanups, and will free it.
    is_being_freed: bool,
}

// SAFETY: the pointers are the program's, carried and never followed.
unsafe impl Send for Session {}

/// What a wait fd owns in its ctx.
#[derive(Clone, Copy)]
struct Entry {
    key: *const c_void,
    custom_data: *mut c_void,
    cleanup: ASYNC_cleanup_fn,
    /// Goes up with each entry of the ctx: keys are not unique, and a cleanup may change the list.
    serial: u64,
}

// SAFETY: as for `Session`.
unsafe impl Send for Entry {}

#[derive(Default)]
pub(crate) struct CtxRecord {
    session: Mutex<Option<Session>>,
    /// Some entry was added or removed since the last resume: read without the lock at every resume.
    is_unsettled: AtomicBool,
}

type CtxSlot = &'static Slot<CtxRecord>;

static CTXS: Table<CtxRecord> = Table::new();
static FREE: Mutex<Vec<CtxSlot>> = Mutex::new(Vec::new());

impl Session {
    fn new() -> Self {
        Session {
            ctx: WaitCtx::new(),
            callback: None,
            callback_arg: ptr::null_mut(),
            entries_made: 0,
            is_being_freed: false,
        }
    }
}

/// The ctx itself while it is alive, else NULL.
pub(crate) fn if_alive(ctx: *mut ASYNC_WAIT_CTX) -> *mut ASYNC_WAIT_CTX {
    if CTXS.live(Handle::from_c(ctx)).is_some() {
        ctx
    } else {
        ptr::null_mut()
    }
}

/// A job with this ctx is resumed (S42). Costs two loads when nothing has changed.
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
    with_slot(ctx, |slot, session| {
        slot.value().is_unsettled.store(false, Ordering::Relaxed);
        session.ctx.settle();
    });
}

/// Calls `f` with what is behind `ctx`, under its lock. If that is nothing: 0, NULL, none.
fn with_slot<R: Default>(ctx: *mut ASYNC_WAIT_CTX, f: impl FnOnce(CtxSlot, &mut Session) -> R) -> R {
    guarded(R::default(), || {
        let handle = Handle::from_c(ctx);
        let Some(slot) = CTXS.live(handle) else {
            return R::default();
        };
        let mut session = slot.value().session.lock();
        match &mut *session {
            // The handle again: between the lookup and the lock the ctx may have been freed, and the slot used for
            // another.
            Some(session) if slot.handle() == handle => f(slot, session),
            _ => R::default(),
        }
    })
}

/// Everything but the wait fds may be changed by this, too: only those settle.
fn reading<R: Default>(ctx: *mut ASYNC_WAIT_CTX, f: impl FnOnce(&mut Session) -> R) -> R {
    with_slot(ctx, |_, session| f(session))
}

fn changing(ctx: *mut ASYNC_WAIT_CTX, f: impl FnOnce(&mut Session) -> c_int) -> c_int {
    with_slot(ctx, |slot, session| {
        slot.value().is_unsettled.store(true, Ordering::Relaxed);
        f(session)
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
/// The cleanups may be called.
unsafe fn call_cleanups(ctx: *mut ASYNC_WAIT_CTX) {
    let mut done_down_to = u64::MAX;
    while let Some((wait_fd, entry)) = newest_below(ctx, done_down_to) {
        done_down_to = entry.serial;
        if let Some(cleanup) = entry.cleanup {
            // SAFETY: the caller's promise.
            unsafe { cleanup(ctx, entry.key, wait_fd.fd, entry.custom_data) };
        }
    }
}

fn newest_below(ctx: *mut ASYNC_WAIT_CTX, serial: u64) -> Option<(WaitFd, Entry)> {
    let entries = reading(ctx, |session| session.ctx.copied_values::<Entry>());
    entries.into_iter().find(|(_, entry)| entry.serial < serial)
}

/// # Safety
///
/// `place` is NULL or may be written to.
unsafe fn put<T>(place: *mut T, value: T) {
    if let Some(place) = NonNull::new(place) {
        // SAFETY: the caller's promise.
        unsafe { place.write(value) };
    }
}

/// # Safety
///
/// `list` is NULL or has room for `fds`; `count` is NULL or may be written to.
unsafe fn put_list(list: *mut OSSL_ASYNC_FD, count: *mut usize, fds: &[WaitFd]) {
    // SAFETY: the caller's promise.
    unsafe { put(count, fds.len()) };
    let Some(list) = NonNull::new(list) else { return };
    for (i, wait_fd) in fds.iter().enumerate() {
        // SAFETY: there is room for `fds.len()`.
        let place = unsafe { list.add(i) };
        // SAFETY: as above.
        unsafe { place.write(wait_fd.fd) };
    }
}
