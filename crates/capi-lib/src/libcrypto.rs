//! The libcrypto of the process, if there is one.
//!
//! ```text
//!   at the first call, and whenever a thread borrows slots, until one is found:
//!
//!   the object that the job's function lies in  -> its libcrypto     (bundled ones with a name of their own)
//!   the global scope                            -> the program's
//!   libcrypto.so.3, libcrypto.so.4              -> already loaded, perhaps RTLD_LOCAL (Perl)
//!   none                                        -> everything works, without an error queue and library contexts
//! ```
//!
//! This library searches for libcrypto, and neither links nor loads it: a declared dependency would load libcrypto into
//! programs that have none. The search takes place at the first call and not when this library is loaded, because until
//! then a program may still call `CRYPTO_set_mem_functions`.

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU8, Ordering};

/// `OSSL_LIB_CTX`, of which we know nothing but its address.
pub(crate) type LibCtx = *mut c_void;

/// The functions of libcrypto that this library interposes and exports itself. The search must not take them for
/// libcrypto's.
#[derive(Clone, Copy)]
pub(crate) struct OurExports {
    pub(crate) set_default_ctx: unsafe extern "C" fn(LibCtx) -> LibCtx,
    pub(crate) thread_stop: unsafe extern "C" fn(),
    /// What is called once jobs may be started, and after each [`ask`].
    pub(crate) when_asked: fn(),
}

/// Functions of libcrypto. All are public, and exist since 3.0.
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
    is_interposed: bool,
}

/// What went wrong, as libcrypto numbers it (S4).
#[derive(Clone, Copy)]
#[repr(i32)]
pub(crate) enum Reason {
    FailedToSwapContext = 102,
    InvalidPoolSize = 103,
}

impl Reason {
    /// The function that raises errors for this reason. Each reason has one.
    fn place(self) -> &'static CStr {
        match self {
            Reason::FailedToSwapContext => c"ASYNC_start_job",
            Reason::InvalidPoolSize => c"ASYNC_init_thread",
        }
    }
}

const ERR_LIB_ASYNC: c_int = 51;
const OPENSSL_INIT_ASYNC: u64 = 0x100;

static FOUND: AtomicPtr<Libcrypto> = AtomicPtr::new(ptr::null_mut());

/// How far the process has come: one of the values below.
static PHASE: AtomicU8 = AtomicU8::new(UNUSED);
/// No job or pool has been asked for.
const UNUSED: u8 = 0;
/// Jobs may be started.
const READY: u8 = 1;
/// `OPENSSL_cleanup` has run: no call works any more, as in libcrypto itself (S21).
const STOPPED: u8 = 2;
/// Jobs may be started, and the next start or resume of one has something to do before.
const ASKED: u8 = 3;

/// The libcrypto that [`search`] found.
#[inline]
pub(crate) fn found() -> Option<&'static Libcrypto> {
    // SAFETY: NULL, or a value that `search` leaked.
    unsafe { FOUND.load(Ordering::Acquire).as_ref() }
}

/// Whether jobs may be started and pools set up. The first call searches for a libcrypto.
#[inline]
pub(crate) fn is_ready(ours: OurExports) -> bool {
    PHASE.load(Ordering::Relaxed) == READY || get_ready(ours)
}

/// Lets the next start or resume of a job call [`OurExports::when_asked`] first. A signal handler may call this.
#[cfg(feature = "dump")]
pub(crate) fn ask() {
    let _ = PHASE.compare_exchange(READY, ASKED, Ordering::Relaxed, Ordering::Relaxed);
}

/// Whether `OPENSSL_cleanup` has run.
#[inline]
pub(crate) fn is_stopped() -> bool {
    PHASE.load(Ordering::Relaxed) == STOPPED
}

#[cold]
fn get_ready(ours: OurExports) -> bool {
    if PHASE.load(Ordering::Relaxed) == UNUSED {
        search(ptr::null(), ours);
        // Where the signal handlers cannot be installed, an overflow is an ordinary crash.
        let _ = asyncjob::stack::install_overflow_handler();
    }
    for before in [UNUSED, ASKED] {
        let _ = PHASE.compare_exchange(before, READY, Ordering::Relaxed, Ordering::Relaxed);
    }
    (ours.when_asked)();
    !is_stopped()
}

/// Searches the process for a libcrypto, unless one was found before. `near` is an address of code or data in the
/// object that uses jobs, or NULL.
#[cold]
pub(crate) fn search(near: *const c_void, ours: OurExports) {
    if found().is_some() {
        return;
    }
    let Some(libcrypto) = find(near, ours) else { return };
    let libcrypto = Box::into_raw(Box::new(libcrypto));
    let null = ptr::null_mut();
    if FOUND
        .compare_exchange(null, libcrypto, Ordering::AcqRel, Ordering::Acquire)
        .is_err()
    {
        // SAFETY: another thread was first. This value was made above, and no other thread has seen it.
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
    PHASE.store(STOPPED, Ordering::Relaxed);
}

impl Libcrypto {
    fn start(&self) {
        // SAFETY: OpenSSL's own ASYNC functions make this call before all else. (Without an option it would do
        // nothing.)
        if unsafe { (self.init)(OPENSSL_INIT_ASYNC, ptr::null()) } == 0 {
            return stop();
        }
        // SAFETY: `stop` takes no arguments, and libcrypto keeps the library that it lies in loaded from this call on.
        unsafe { (self.at_exit)(stop) };
    }

    fn raise(&self, reason: Reason) {
        // SAFETY: begins an error on the queue of this thread. No preconditions.
        unsafe { (self.err_new)() };
        // SAFETY: an error was begun, and the strings are static.
        unsafe { (self.err_set_debug)(c"libasyncjob".as_ptr(), 0, reason.place().as_ptr()) };
        // SAFETY: an error was begun. There is no format, and there are no arguments.
        unsafe { (self.err_set_error)(ERR_LIB_ASYNC, reason as c_int, ptr::null()) };
    }

    /// Whether every call of `OSSL_LIB_CTX_set0_default` by name passes through ours.
    pub(crate) fn is_interposed(&self) -> bool {
        self.is_interposed
    }

    /// The default context of this thread.
    pub(crate) fn default_ctx(&self) -> LibCtx {
        // SAFETY: NULL changes nothing, the function only returns the default.
        unsafe { (self.set_default_ctx)(ptr::null_mut()) }
    }

    /// Makes `ctx` the default context of this thread, unless it is NULL. Returns the default of before.
    ///
    /// # Safety
    ///
    /// `ctx` must be NULL or a library context, and the program must not free that context while it is the default.
    pub(crate) unsafe fn set_default_ctx(&self, ctx: LibCtx) -> LibCtx {
        // SAFETY: passed on.
        unsafe { (self.set_default_ctx)(ctx) }
    }

    pub(crate) fn global_default_ctx(&self) -> LibCtx {
        // SAFETY: no preconditions.
        unsafe { (self.global_default_ctx)() }
    }

    /// Frees what libcrypto keeps for this thread.
    ///
    /// # Safety
    ///
    /// The program must have called `OPENSSL_thread_stop` on this thread, and thereby promised that the thread does not
    /// use what libcrypto keeps for it at this time.
    pub(crate) unsafe fn stop_thread(&self) {
        // SAFETY: the program asked for this call.
        unsafe { (self.thread_stop)() };
    }
}

/// A handle of the loader's, in which symbols are looked up.
#[derive(Clone, Copy)]
struct Scope(*mut c_void);

impl Scope {
    /// All objects that the program was linked with or preloads.
    const GLOBAL: Scope = Scope(libc::RTLD_DEFAULT);
    /// The same, from the object after this library on.
    const AFTER_US: Scope = Scope(libc::RTLD_NEXT);

    /// A loaded object, found by name. Its dependencies come after it.
    fn loaded(name: &CStr) -> Option<Scope> {
        // SAFETY: RTLD_NOLOAD loads nothing. The reference that it takes is kept, so that the object stays.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        (!handle.is_null()).then_some(Scope(handle))
    }

    /// The object that an address lies in.
    fn around(address: *const c_void) -> Option<Scope> {
        Scope::loaded(object_name(address)?)
    }

    fn symbol(self, name: &CStr) -> Option<*mut c_void> {
        // SAFETY: every `Scope` is a handle that dlopen gave, or one of the loader's two constants.
        let symbol = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        (!symbol.is_null()).then_some(symbol)
    }
}

/// What a call by name reaches, from most objects of the process.
pub(crate) fn symbol(name: &CStr) -> Option<*mut c_void> {
    Scope::GLOBAL.symbol(name)
}

/// The file of the object that an address lies in.
pub(crate) fn object_of(address: *const c_void) -> Option<PathBuf> {
    object_name(address).map(|name| OsStr::from_bytes(name.to_bytes()).into())
}

/// The loader's name for the object that an address lies in.
fn object_name<'a>(address: *const c_void) -> Option<&'a CStr> {
    let mut info = MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: dladdr reads no memory at `address`.
    if address.is_null() || unsafe { libc::dladdr(address, info.as_mut_ptr()) } == 0 {
        return None;
    }
    // SAFETY: dladdr reported success, so it has filled this in.
    let info = unsafe { info.assume_init() };
    // SAFETY: the loader's string for an object, which stays while the object does. The callers use it at once, for
    // objects that this call of theirs keeps loaded.
    Some(unsafe { CStr::from_ptr(info.dli_fname) })
}

fn find(near: *const c_void, ours: OurExports) -> Option<Libcrypto> {
    let scopes = [
        Scope::around(near),
        Some(Scope::GLOBAL),
        Scope::loaded(c"libcrypto.so.3"),
        Scope::loaded(c"libcrypto.so.4"),
    ];
    scopes.into_iter().flatten().find_map(|scope| {
        let a_function = scope.symbol(c"OPENSSL_init_crypto")?;
        // Symbols are taken from libcrypto's own scope and not from the one that led to it: in the scope of a program,
        // our exports may come first.
        let libcrypto = Scope::around(a_function).unwrap_or(Scope::AFTER_US);
        functions_in(libcrypto, ours)
    })
}

/// The functions of the libcrypto in this scope. `None` if one is missing (before 3.0) or is ours.
fn functions_in(scope: Scope, ours: OurExports) -> Option<Libcrypto> {
    let set_default_ctx = scope.symbol(c"OSSL_LIB_CTX_set0_default")?;
    let thread_stop = scope.symbol(c"OPENSSL_thread_stop")?;
    let our_set_default_ctx = ours.set_default_ctx as *mut c_void;
    if set_default_ctx == our_set_default_ctx || thread_stop == ours.thread_stop as *mut c_void {
        return None;
    }
    let reached_first = Scope::GLOBAL.symbol(c"OSSL_LIB_CTX_set0_default");
    Some(Libcrypto {
        // SAFETY: the public function of that name has this type since 3.0. The same is true of all below.
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
        is_interposed: reached_first == Some(our_set_default_ctx),
    })
}

/// A symbol as a function.
///
/// # Safety
///
/// `F` must be the function pointer type of the symbol.
unsafe fn typed<F: Copy>(symbol: *mut c_void) -> F {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    // SAFETY: the caller's promise; the sizes are equal.
    unsafe { std::mem::transmute_copy::<*mut c_void, F>(&symbol) }
}
