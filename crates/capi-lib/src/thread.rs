//! What a thread keeps for its jobs, and what happens to it when the thread ends.
//!
//! ```text
//!   Thread ---- slots ---------> the slots that the thread has borrowed (crate::slots)
//!          ---- ctxs ----------> the free wait ctxs that the thread keeps (crate::ctx_slots)
//!          ---- travelling ----> what travels with its jobs (crate::travelling)
//! ```
//!
//! | event | idle stacks, limit | paused jobs |
//! |---|---|---|
//! | [`ASYNC_cleanup_thread`], [`OPENSSL_thread_stop`] | freed, forgotten | stay resumable |
//! | the thread exits | freed, forgotten | stale handles, stacks in quarantine (S88) |
//!
//! The destructor of a pthread key notices the exit. The key is our own because libcrypto does not export its hook for
//! a thread's end. The key is set on each thread that has a `Thread`. glibc calls the destructor even if Rust's
//! thread-locals are gone already, and calls it again if a later destructor starts another job.

use std::ffi::{c_int, c_void};
use std::ptr;

use asyncjob::c_interface;
use asyncjob::pool::{self, PoolConfig};

use crate::boundary::guarded;
use crate::ctx_slots::{self, CtxSlot, KeptSlots};
use crate::fork::Shared;
use crate::libcrypto::{self, LibCtx, OurExports, Reason};
use crate::slots::{JobSlot, ThreadSlots};
use crate::travelling::ThreadTravelling;

/// `ASYNC_init_thread(3)`: allows this thread at most `max_size` jobs (0: no limit), and makes `init_size` stacks now.
///
/// Returns 1, or 0 if `init_size` is above `max_size`. A `max_size` of 0 is not exempt from that.
///
/// A second call replaces the limit. Jobs that exist stay counted. See S11, S15.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_init_thread(max_size: usize, init_size: usize) -> c_int {
    guarded(0, || {
        if init_size > max_size {
            libcrypto::is_ready(OUR_EXPORTS);
            libcrypto::raise(Reason::InvalidPoolSize);
            return 0;
        }
        if !libcrypto::is_ready(OUR_EXPORTS) {
            return 0;
        }
        with(|_| ()); // which sees to the end of the pool
        let limit = (max_size != 0).then_some(max_size);
        let config = PoolConfig::new().limit(limit).precreate(init_size);
        c_int::from(pool::init_thread(config).is_ok())
    })
}

/// `ASYNC_cleanup_thread(3)`: frees the idle stacks of this thread and forgets its limit.
///
/// Paused jobs stay valid and can finish. Inside a job this function does nothing. See S49, S50.
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_cleanup_thread() {
    guarded((), || {
        with(|_| ()); // as above
        let _refused_inside_a_job = pool::cleanup_thread();
    });
}

/// `OPENSSL_thread_stop(3)`, interposed: does what [`ASYNC_cleanup_thread`] does and calls libcrypto's function.
/// libcrypto does not export its own hook for the ASYNC part of it.
///
/// # Safety
///
/// The caller must keep the contract of libcrypto's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn OPENSSL_thread_stop() {
    ASYNC_cleanup_thread();
    guarded((), || libcrypto::search(ptr::null(), OUR_EXPORTS));
    if let Some(libcrypto) = libcrypto::found() {
        // SAFETY: passed on.
        unsafe { libcrypto.stop_thread() };
    }
}

/// `OSSL_LIB_CTX_set0_default(3)`, interposed: notes the default context of this thread and calls libcrypto's function.
///
/// # Safety
///
/// The caller must keep the contract of libcrypto's function: `ctx` is NULL or a library context, and the program does
/// not free that context while it is the default of a thread or of a paused job.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn OSSL_LIB_CTX_set0_default(ctx: LibCtx) -> LibCtx {
    libcrypto::search(ptr::null(), OUR_EXPORTS);
    let Some(libcrypto) = libcrypto::found() else {
        return ptr::null_mut();
    };
    with(|thread| thread.travelling.note_default(ctx));
    // SAFETY: passed on.
    unsafe { libcrypto.set_default_ctx(ctx) }
}

/// The two functions of libcrypto that this library interposes.
pub(crate) const OUR_EXPORTS: OurExports = OurExports {
    set_default_ctx: OSSL_LIB_CTX_set0_default,
    thread_stop: OPENSSL_thread_stop,
    #[cfg(feature = "dump")]
    when_asked: crate::dump::answer,
    #[cfg(not(feature = "dump"))]
    when_asked: || (),
};

/// What a thread keeps. It is on the heap, and exists until [`at_exit`]. If the thread comes back after that, from the
/// destructor of another pthread key, it has a new one.
pub(crate) struct Thread {
    pub(crate) slots: ThreadSlots,
    pub(crate) travelling: ThreadTravelling,
    ctxs: KeptSlots,
    /// `at_exit` will be called.
    ends: bool,
}

/// Calls `f` with what this thread keeps.
#[inline]
pub(crate) fn with<R>(f: impl FnOnce(&Thread) -> R) -> R {
    // SAFETY: this is the one call. Only `at_exit` frees the value. If it is called inside `f`, from a job whose
    // function has called `pthread_exit`, then `f` never goes on.
    unsafe { c_interface::with_thread(Thread::new, f) }
}

impl Thread {
    fn new() -> Self {
        Thread {
            slots: ThreadSlots::new(),
            travelling: ThreadTravelling::new(),
            ctxs: KeptSlots::new(),
            ends: call_at_exit(),
        }
    }

    /// A slot for a job whose function is at `near`. `None` when the process has 16 million jobs.
    #[inline]
    pub(crate) fn take_slot(&self, near: *const c_void) -> Option<JobSlot> {
        self.slots.pop().or_else(|| self.more_slots(near))
    }

    #[cold]
    fn more_slots(&self, near: *const c_void) -> Option<JobSlot> {
        libcrypto::search(near, OUR_EXPORTS);
        self.travelling.search();
        self.slots.add_chunk()?;
        #[cfg(feature = "dump")]
        crate::dump::arrange();
        self.slots.pop()
    }

    /// A free slot for a wait ctx. `None` when the process has 16 million.
    #[inline]
    pub(crate) fn take_ctx(&self) -> Option<CtxSlot> {
        self.ctxs.pop().or_else(ctx_slots::take_shared)
    }

    /// Makes a slot free whose ctx the program has freed. Returns whether a job or Rust code still has the ctx, so that
    /// the slot has to wait.
    #[inline]
    pub(crate) fn give_ctx(&self, slot: CtxSlot) -> bool {
        let is_in_use = ctx_slots::is_in_use(slot);
        if is_in_use {
            ctx_slots::hold(slot);
        } else if !self.ctxs.push(slot) {
            self.give_ctx_slowly(slot);
        }
        is_in_use
    }

    fn end(&self) {
        // SAFETY: `at_exit` is the caller. The calls that hold a slot are on the stacks of jobs that never run again.
        unsafe { self.slots.return_chunks() };
        self.ctxs.return_all();
    }

    #[cold]
    fn give_ctx_slowly(&self, slot: CtxSlot) {
        // Slots that are kept have to be returned when the thread exits.
        let is_kept = self.ends && self.ctxs.make_room() && self.ctxs.push(slot);
        if !is_kept {
            ctx_slots::share(slot);
        }
    }
}

/// Arranges that [`at_exit`] is called when this thread exits. If the process is out of pthread keys, it is not called,
/// and what the thread has stays out of use. Returns whether it will be called.
fn call_at_exit() -> bool {
    exit_key().is_some_and(|key| {
        // SAFETY: the key is ours. Its value only has to differ from NULL.
        unsafe { libc::pthread_setspecific(key, ptr::without_provenance(1)) == 0 }
    })
}

/// The key of [`call_at_exit`], once a thread has made it. (A `OnceLock` would do,
/// but ThreadSanitizer does not see the half of it that is in the compiled standard library.)
static KEY: Shared<Option<libc::pthread_key_t>> = Shared::new(None);

fn exit_key() -> Option<libc::pthread_key_t> {
    let mut key = KEY.lock();
    if key.is_none() {
        // A libcrypto reads the key of number 0 until it has made its own, and follows what it finds there. So nobody
        // gets that key.
        *key = make_key().and_then(|first| if first == 0 { make_key() } else { Some(first) });
    }
    *key
}

fn make_key() -> Option<libc::pthread_key_t> {
    let mut new = 0;
    // SAFETY: stores a new key. The destructor outlives every thread: build.rs links this object as one that the loader
    // never unloads.
    (unsafe { libc::pthread_key_create(&mut new, Some(at_exit)) } == 0).then_some(new)
}

/// The destructor of the key.
unsafe extern "C" fn at_exit(_: *mut c_void) {
    guarded((), || {
        // SAFETY: the thread has left all stacks of its jobs: `pthread_exit` in a job jumps to the end of its thread.
        unsafe { c_interface::abandon_running() };
        // SAFETY: the handles are stale after this call, and the thread's next call of this library begins with
        // nothing. The calls that use what it had are on the stacks of jobs that can never be resumed.
        unsafe { c_interface::forget_thread(Thread::end) };
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `ASYNC_pause_job` of a libcrypto that has not made its key crashed.
    #[test]
    fn the_key_is_not_the_one_that_a_libcrypto_reads_before_it_has_its_own() {
        assert!(exit_key().is_some_and(|key| key != 0));
    }
}
