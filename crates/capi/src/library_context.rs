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
//! | mode | when | a switch |
//! |---|---|---|
//! | tracked | calls by name reach ours; also without a libcrypto | compares two pointers |
//! | called | ours was loaded in a corner (`RTLD_LOCAL`), or a thread turns out to have a default that we did not see | two calls |
//!
//! What tracking cannot see is a program that takes the function out of libcrypto by `dlsym` on libcrypto's own handle: it is
//! noticed at that thread's next need of memory for jobs, and the process changes to *called*.

use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::libcrypto::{self, LibCtx, Libcrypto};
use crate::thread::{self, Thread};

static CALLED: AtomicBool = AtomicBool::new(false);

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
    if !ctx.is_null() {
        thread::with(|thread| thread.default_ctx.set(ctx));
    }
    libcrypto.replace_default_ctx(ctx)
}

/// Decides for this process, and looks whether this thread's default is what tracking believes.
#[cold]
pub(crate) fn check(thread: &Thread) {
    let Some(libcrypto) = libcrypto::found() else { return };
    let tracked = concrete(libcrypto, thread.default_ctx.get());
    if !libcrypto.is_interposed() || libcrypto.replace_default_ctx(ptr::null_mut()) != tracked {
        CALLED.store(true, Ordering::Relaxed);
    }
}

/// A job starts: it sees the resumer's default, which is returned.
#[inline]
pub(crate) fn start(thread: &Thread) -> LibCtx {
    if CALLED.load(Ordering::Relaxed) {
        return exchange(ptr::null_mut());
    }
    thread.default_ctx.get()
}

/// A job is resumed: its default is put in place, the resumer's is returned.
#[inline]
pub(crate) fn enter(thread: &Thread, jobs: LibCtx) -> LibCtx {
    if CALLED.load(Ordering::Relaxed) {
        return called_enter(jobs);
    }
    let resumers = thread.default_ctx.get();
    if jobs != resumers {
        put_in_place(thread, jobs);
    }
    resumers
}

/// A job paused or ended: the resumer's default is put back, the job's is returned.
#[inline]
pub(crate) fn leave(thread: &Thread, resumers: LibCtx) -> LibCtx {
    if CALLED.load(Ordering::Relaxed) {
        return called_enter(resumers);
    }
    let jobs = thread.default_ctx.get();
    if jobs != resumers {
        put_in_place(thread, resumers);
    }
    jobs
}

#[cold]
fn put_in_place(thread: &Thread, ctx: LibCtx) {
    thread.default_ctx.set(ctx);
    called_enter(ctx);
}

#[cold]
fn called_enter(ctx: LibCtx) -> LibCtx {
    libcrypto::found().map_or(ptr::null_mut(), |libcrypto| {
        libcrypto.replace_default_ctx(concrete(libcrypto, ctx))
    })
}

#[cold]
fn exchange(ctx: LibCtx) -> LibCtx {
    libcrypto::found().map_or(ptr::null_mut(), |libcrypto| libcrypto.replace_default_ctx(ctx))
}

/// NULL stands for a default that was never set, which is the global one.
fn concrete(libcrypto: &Libcrypto, ctx: LibCtx) -> LibCtx {
    if ctx.is_null() {
        return libcrypto.global_default_ctx();
    }
    ctx
}
