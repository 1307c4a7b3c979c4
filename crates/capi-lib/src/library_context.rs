//! The default library context travels with the job (S77).
//!
//! ```text
//!   resumer's default   --- start, resume -->   the job's default: at its start that of its resumer,
//!                       <-- pause, finish ---   at each resume what it was when the job paused
//! ```
//!
//! OpenSSL asks its thread-local storage for the default twice in each switch. That costs more than the switch itself
//! (12 ns a call). Only one public function changes the default, `OSSL_LIB_CTX_set0_default`, and this library
//! interposes it ([`crate::thread`]). Where calls of that function reach ours first (preloaded, or linked before
//! libcrypto), each thread knows its default, and libcrypto is called only if the job's default and its resumer's
//! differ.
//!
//! | what is known of a thread | when | a switch |
//! |---|---|---|
//! | that it never set one | the same, and the thread has not called ours | asks one flag ([`crate::travelling`]) |
//! | its default | calls by name reach ours; also if there is no libcrypto | compares two pointers |
//! | nothing: `UNKNOWN` | ours is `RTLD_LOCAL`, or libcrypto has a default that we did not see | two calls |
//!
//! A program that takes the function from libcrypto's own handle with `dlsym` escapes this. [`ThreadDefault::check`]
//! notices it when the thread next borrows slots.

use std::cell::Cell;
use std::ptr;

use crate::libcrypto::{self, LibCtx, Libcrypto};

/// Stands for a default that is not known. No context is at this address and no job's default is equal to it, so every
/// comparison with it fails.
const UNKNOWN: LibCtx = ptr::without_provenance_mut(1);

/// The default library context of one thread: NULL if the thread never set one, `UNKNOWN` if libcrypto has to be asked.
pub(crate) struct ThreadDefault(Cell<LibCtx>);

impl ThreadDefault {
    pub(crate) const fn new() -> Self {
        ThreadDefault(Cell::new(ptr::null_mut()))
    }

    /// Whether the thread has set a default, or may have set one.
    pub(crate) fn is_set(&self) -> bool {
        !self.0.get().is_null()
    }

    /// The program sets the default of this thread, or reads it if `ctx` is NULL.
    pub(crate) fn note(&self, ctx: LibCtx) {
        if !ctx.is_null() && self.0.get() != UNKNOWN {
            self.0.set(ctx);
        }
    }

    /// Finds out whether the noted default is the one that libcrypto has for this thread.
    #[cold]
    pub(crate) fn check(&self) {
        let Some(libcrypto) = libcrypto::found() else { return };
        let noted = or_global(libcrypto, self.0.get());
        if !libcrypto.is_interposed() || libcrypto.default_ctx() != noted {
            self.0.set(UNKNOWN);
        }
    }

    /// A job starts with the default of its resumer, which is returned.
    #[inline]
    pub(crate) fn at_start(&self) -> LibCtx {
        let resumers = self.0.get();
        if resumers == UNKNOWN { ask() } else { resumers }
    }

    /// Makes `next` the default of this thread, and returns the default that it replaces. Called when a job is resumed,
    /// with the job's default, and when a job has paused or finished, with its resumer's.
    ///
    /// # Safety
    ///
    /// `next` must come from [`at_start`](Self::at_start) or from this function, and the program must not have freed
    /// that context.
    #[inline]
    pub(crate) unsafe fn exchange(&self, next: LibCtx) -> LibCtx {
        let replaced = self.0.get();
        if replaced == next {
            return replaced;
        }
        // SAFETY: passed on.
        unsafe { self.exchange_different(next) }
    }

    /// # Safety
    ///
    /// As for [`exchange`](Self::exchange).
    #[cold]
    unsafe fn exchange_different(&self, next: LibCtx) -> LibCtx {
        let noted = self.0.get();
        // SAFETY: passed on.
        let replaced = unsafe { set(next) };
        if noted == UNKNOWN {
            return replaced;
        }
        self.0.set(next);
        noted
    }
}

#[cold]
fn ask() -> LibCtx {
    libcrypto::found().map_or(ptr::null_mut(), Libcrypto::default_ctx)
}

/// Sets the default that libcrypto has for this thread, and returns the one before.
///
/// # Safety
///
/// As for [`ThreadDefault::exchange`].
#[cold]
unsafe fn set(next: LibCtx) -> LibCtx {
    let Some(libcrypto) = libcrypto::found() else {
        return ptr::null_mut();
    };
    // SAFETY: the global default, which always exists, or a default of the program's that the caller vouches for.
    unsafe { libcrypto.set_default_ctx(or_global(libcrypto, next)) }
}

/// NULL stands for a default that the thread never set: the global one.
fn or_global(libcrypto: &Libcrypto, ctx: LibCtx) -> LibCtx {
    if ctx.is_null() {
        libcrypto.global_default_ctx()
    } else {
        ctx
    }
}
