//! The default library context travels with the job (S77).
//!
//! ```text
//!   resumer's default   --- start, resume -->   the job's default: the resumer's at its start,
//!                       <-- pause, finish ---   afterwards what it was when the job left
//! ```
//!
//! OpenSSL asks its thread-local storage for this twice in each switch, which costs more than the switch itself (12 ns a
//! call). The default changes by one public function only, so where calls of it reach *ours* first (preloaded, or linked before
//! libcrypto) each thread knows its default, and libcrypto is called only when two contexts really differ:
//!
//! | a thread's mode | when | a switch |
//! |---|---|---|
//! | tracked | calls by name reach ours; also without a libcrypto | compares two pointers |
//! | called ([`UNKNOWN`]) | ours was loaded in a corner (`RTLD_LOCAL`), or the thread has a default that we did not see | two calls |
//!
//! What tracking cannot see is a program that takes the function out of libcrypto by `dlsym` on libcrypto's own handle: it is
//! noticed when that thread next needs memory for jobs.

use std::ptr;

use crate::libcrypto::{self, LibCtx, Libcrypto};
use crate::thread::{self, Thread};

/// In place of a thread's default: ask libcrypto. No context is at this address, and no job's default is this, so every
/// comparison with it fails.
const UNKNOWN: LibCtx = ptr::without_provenance_mut(1);

/// `OSSL_LIB_CTX_set0_default(3)`, on its way to libcrypto: notes the thread's default context.
///
/// # Safety
///
/// As libcrypto's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn OSSL_LIB_CTX_set0_default(ctx: LibCtx) -> LibCtx {
    libcrypto::look_again(ptr::null());
    let Some(libcrypto) = libcrypto::found() else {
        return ptr::null_mut();
    };
    thread::with(|thread| {
        if !ctx.is_null() && thread.default_ctx.get() != UNKNOWN {
            thread.default_ctx.set(ctx);
        }
    });
    libcrypto.replace_default_ctx(ctx)
}

/// Decides for this thread.
#[cold]
pub(crate) fn check(thread: &Thread) {
    let Some(libcrypto) = libcrypto::found() else { return };
    let tracked = concrete(libcrypto, thread.default_ctx.get());
    if !libcrypto.is_interposed() || libcrypto.replace_default_ctx(ptr::null_mut()) != tracked {
        thread.default_ctx.set(UNKNOWN);
    }
}

/// A job starts: it sees the resumer's default, which is returned.
#[inline]
pub(crate) fn start(thread: &Thread) -> LibCtx {
    let resumers = thread.default_ctx.get();
    if resumers == UNKNOWN { ask() } else { resumers }
}

/// A job is resumed with its own default, or comes back and its resumer's is put in place; what it replaces is returned.
#[inline]
pub(crate) fn exchange(thread: &Thread, coming: LibCtx) -> LibCtx {
    let going = thread.default_ctx.get();
    if going == coming {
        return going;
    }
    exchange_different(thread, coming)
}

#[cold]
fn exchange_different(thread: &Thread, coming: LibCtx) -> LibCtx {
    let going = thread.default_ctx.get();
    let replaced = replace(coming);
    if going == UNKNOWN {
        return replaced;
    }
    thread.default_ctx.set(coming);
    going
}

#[cold]
fn ask() -> LibCtx {
    libcrypto::found().map_or(ptr::null_mut(), |libcrypto| {
        libcrypto.replace_default_ctx(ptr::null_mut())
    })
}

/// NULL stands for a default that was never set: the global one.
#[cold]
fn replace(coming: LibCtx) -> LibCtx {
    libcrypto::found().map_or(ptr::null_mut(), |libcrypto| {
        libcrypto.replace_default_ctx(concrete(libcrypto, coming))
    })
}

fn concrete(libcrypto: &Libcrypto, ctx: LibCtx) -> LibCtx {
    if ctx.is_null() {
        libcrypto.global_default_ctx()
    } else {
        ctx
    }
}
