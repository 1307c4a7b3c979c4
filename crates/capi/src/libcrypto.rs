//! The libcrypto of the process, if there is one.
//!
//! ```text
//!   first call, and whenever a thread needs memory for jobs, until one is found:
//!
//!   the object that the job's function lies in  -> its libcrypto     (bundled ones with a name of their own)
//!   the global scope                            -> the program's
//!   libcrypto.so.3, libcrypto.so.4              -> already loaded, perhaps RTLD_LOCAL (Perl)
//!   none                                        -> everything works, without an error queue and library contexts
//! ```
//!
//! It is looked for, never linked or loaded: a declared need would drag it into programs that have none. It is looked for at
//! the first call and not at load, because a program may still call `CRYPTO_set_mem_functions` then.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU8, Ordering};

use crate::{library_context, thread};

/// `OSSL_LIB_CTX`, of which we know nothing but its address.
pub(crate) type LibCtx = *mut c_void;

/// Functions of libcrypto, all public and there since 3.0.
pub(crate) struct Libcrypto {
    set_default_ctx: unsafe extern "C" fn(LibCtx) -> LibCtx,
    global_default_ctx: unsafe extern "C" fn() -> LibCtx,
    init: unsafe extern "C" fn(u64, *const c_void) -> c_int,
    at_exit: unsafe extern "C" fn(extern "C" fn()) -> c_int,
    thread_stop: unsafe extern "C" fn(),
    err_new: unsafe extern "C" fn(),
    err_set_debug: unsafe extern "C" fn(*const c_char, c_int, *const c_char),
    err_set_error: unsafe extern "C" fn(c_int, c_int, *const c_char, ...),
    /// Calls of `OSSL_LIB_CTX_set0_default` by name reach ours first.
    interposed: bool,
}

/// What went wrong, as libcrypto names it (S4).
#[derive(Clone, Copy)]
#[repr(i32)]
pub(crate) enum Reason {
    FailedToSwapContext = 102,
    InvalidPoolSize = 103,
}

const ERR_LIB_ASYNC: c_int = 51;
const OPENSSL_INIT_ASYNC: u64 = 0x100;

static FOUND: AtomicPtr<Libcrypto> = AtomicPtr::new(ptr::null_mut());

/// Whether jobs may be started.
static STATE: AtomicU8 = AtomicU8::new(UNUSED);
/// Nobody has asked yet.
const UNUSED: u8 = 0;
/// They may.
const READY: u8 = 1;
/// `OPENSSL_cleanup` has run: nothing works any more, as in libcrypto itself (S21).
const STOPPED: u8 = 2;

/// The libcrypto that [`prepare`] found.
#[inline]
pub(crate) fn found() -> Option<&'static Libcrypto> {
    // SAFETY: NULL, or a value that `adopt` leaked.
    unsafe { FOUND.load(Ordering::Acquire).as_ref() }
}

/// Whether jobs may be started and pools set up; the first call looks for a libcrypto.
#[inline]
pub(crate) fn is_ready() -> bool {
    STATE.load(Ordering::Relaxed) == READY || first_use()
}

/// Whether `OPENSSL_cleanup` has run.
#[inline]
pub(crate) fn is_stopped() -> bool {
    STATE.load(Ordering::Relaxed) == STOPPED
}

#[cold]
fn first_use() -> bool {
    look_again(ptr::null());
    // A program may refuse signal handlers; then an overflow is an ordinary crash.
    let _ = asyncjob::stack::install_overflow_handler();
    let _ = STATE.compare_exchange(UNUSED, READY, Ordering::Relaxed, Ordering::Relaxed);
    !is_stopped()
}

/// Looks for a libcrypto that was not there before. `near` is code or data of the object that uses jobs, or NULL.
#[cold]
pub(crate) fn look_again(near: *const c_void) {
    if found().is_some() {
        return;
    }
    let Some(libcrypto) = find(near) else { return };
    let libcrypto = Box::into_raw(Box::new(libcrypto));
    let null = ptr::null_mut();
    if FOUND
        .compare_exchange(null, libcrypto, Ordering::AcqRel, Ordering::Acquire)
        .is_err()
    {
        // SAFETY: another thread was first; this one was made above and shown to nobody.
        drop(unsafe { Box::from_raw(libcrypto) });
        return;
    }
    found().into_iter().for_each(Libcrypto::start);
}

/// Puts an error onto the queue of this thread, if there is a libcrypto.
#[cold]
pub(crate) fn raise(reason: Reason) {
    if let Some(libcrypto) = found() {
        libcrypto.raise(reason);
    }
}

extern "C" fn stop() {
    STATE.store(STOPPED, Ordering::Relaxed);
}

impl Libcrypto {
    fn start(&self) {
        // SAFETY: what OpenSSL's own ASYNC functions call before all else. (Without an option it would do nothing.)
        if unsafe { (self.init)(OPENSSL_INIT_ASYNC, ptr::null()) } == 0 {
            return stop();
        }
        // SAFETY: `stop` is a plain function of a library that libcrypto pins by this call.
        unsafe { (self.at_exit)(stop) };
    }

    fn raise(&self, reason: Reason) {
        // SAFETY: begins an error on this thread's queue.
        unsafe { (self.err_new)() };
        // SAFETY: static strings.
        unsafe { (self.err_set_debug)(c"libasyncjob".as_ptr(), 0, c"ASYNC_start_job".as_ptr()) };
        // SAFETY: an error was begun; no format and no arguments.
        unsafe { (self.err_set_error)(ERR_LIB_ASYNC, reason as c_int, ptr::null()) };
    }

    /// Whether nobody can change the default context of a thread without our `OSSL_LIB_CTX_set0_default` seeing it.
    pub(crate) fn is_interposed(&self) -> bool {
        self.interposed
    }

    /// The default context of this thread, which becomes `ctx` unless that is NULL.
    pub(crate) fn replace_default_ctx(&self, ctx: LibCtx) -> LibCtx {
        // SAFETY: NULL only reads; any other value was this thread's or a job's default before (the program keeps those alive).
        unsafe { (self.set_default_ctx)(ctx) }
    }

    pub(crate) fn global_default_ctx(&self) -> LibCtx {
        // SAFETY: no preconditions.
        unsafe { (self.global_default_ctx)() }
    }

    pub(crate) fn stop_thread(&self) {
        // SAFETY: the caller was called to do exactly this.
        unsafe { (self.thread_stop)() };
    }
}

/// Where to look for libcrypto's symbols.
#[derive(Clone, Copy)]
struct Scope(*mut c_void);

impl Scope {
    /// A loaded object, found by name; its own dependencies come after it.
    fn loaded(name: &CStr) -> Option<Scope> {
        // SAFETY: NOLOAD only looks. The reference it takes is kept: whoever is found must stay.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        (!handle.is_null()).then_some(Scope(handle))
    }

    /// The object that an address lies in.
    fn around(address: *const c_void) -> Option<Scope> {
        let mut info = MaybeUninit::<libc::Dl_info>::uninit();
        // SAFETY: dladdr looks at no memory at `address`.
        if address.is_null() || unsafe { libc::dladdr(address, info.as_mut_ptr()) } == 0 {
            return None;
        }
        // SAFETY: it said that it filled this in.
        let info = unsafe { info.assume_init() };
        // SAFETY: a string of the loader's, which stays while the object does.
        Scope::loaded(unsafe { CStr::from_ptr(info.dli_fname) })
    }

    fn symbol(self, name: &CStr) -> Option<*mut c_void> {
        // SAFETY: a handle that dlopen gave, or one of the two constants.
        let symbol = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        (!symbol.is_null()).then_some(symbol)
    }
}

fn find(near: *const c_void) -> Option<Libcrypto> {
    let scopes = [
        Scope::around(near),
        Some(Scope(libc::RTLD_DEFAULT)),
        Scope::loaded(c"libcrypto.so.3"),
        Scope::loaded(c"libcrypto.so.4"),
    ];
    scopes.into_iter().flatten().find_map(|scope| {
        let a_function = scope.symbol(c"OPENSSL_init_crypto")?;
        // The libcrypto itself comes before the scope that led to it: in the scope of a program, our own exports are first.
        let itself = Scope::around(a_function).unwrap_or(Scope(libc::RTLD_NEXT));
        adopt(itself)
    })
}

/// The functions of the libcrypto in this scope; `None` if one is missing (before 3.0) or is ours.
fn adopt(scope: Scope) -> Option<Libcrypto> {
    let set_default_ctx = scope.symbol(c"OSSL_LIB_CTX_set0_default")?;
    let thread_stop = scope.symbol(c"OPENSSL_thread_stop")?;
    let ours = library_context::OSSL_LIB_CTX_set0_default as *mut c_void;
    if set_default_ctx == ours || thread_stop == thread::OPENSSL_thread_stop as *mut c_void {
        return None;
    }
    let reached_first = Scope(libc::RTLD_DEFAULT).symbol(c"OSSL_LIB_CTX_set0_default");
    Some(Libcrypto {
        // SAFETY: the public function of that name has this type since 3.0. So have all below.
        set_default_ctx: unsafe { typed(set_default_ctx) },
        // SAFETY: as above.
        global_default_ctx: unsafe { typed(scope.symbol(c"OSSL_LIB_CTX_get0_global_default")?) },
        // SAFETY: as above.
        init: unsafe { typed(scope.symbol(c"OPENSSL_init_crypto")?) },
        // SAFETY: as above.
        at_exit: unsafe { typed(scope.symbol(c"OPENSSL_atexit")?) },
        // SAFETY: as above.
        thread_stop: unsafe { typed(thread_stop) },
        // SAFETY: as above.
        err_new: unsafe { typed(scope.symbol(c"ERR_new")?) },
        // SAFETY: as above.
        err_set_debug: unsafe { typed(scope.symbol(c"ERR_set_debug")?) },
        // SAFETY: as above.
        err_set_error: unsafe { typed(scope.symbol(c"ERR_set_error")?) },
        interposed: reached_first == Some(ours),
    })
}

/// A symbol as a function.
///
/// # Safety
///
/// `F` is its function pointer type.
unsafe fn typed<F: Copy>(symbol: *mut c_void) -> F {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    // SAFETY: the caller's promise; the sizes are equal.
    unsafe { std::mem::transmute_copy::<*mut c_void, F>(&symbol) }
}
