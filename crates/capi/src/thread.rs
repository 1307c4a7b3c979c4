//! What a thread keeps for its jobs, and what happens to it when the thread ends.
//!
//! ```text
//!   Thread ---- current ----> the slot of the innermost running job
//!          ---- free -------> slots without a job, last in, first out
//!          ---- chunks -----> 64 slots each, borrowed from the process (crate::job), given back at the end
//! ```
//!
//! A thread ends in three ways, and in each its idle stacks are freed and its paused jobs lose nothing that somebody may still
//! write to: by exiting (the destructor of a pthread key), by `OPENSSL_thread_stop`, by [`ASYNC_cleanup_thread`]. Only the
//! first gives the jobs up: their handles become stale, and their stacks stay as they are for ever (S88).
//!
//! The key belongs to us because libcrypto's own hook is not exported, and is set on each thread that has slots: glibc calls
//! the destructor even if Rust's thread-locals are gone already, and again if a later destructor starts another job.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::mem::ManuallyDrop;
use std::ptr;
use std::sync::OnceLock;

use asyncjob::{PoolConfig, WaitCtx};

use crate::boundary::guarded;
use crate::job::{self, FreeSlots, JobChunk, JobSlot};
use crate::libcrypto::{self, LibCtx, Reason};
use crate::library_context;

/// `ASYNC_init_thread(3)`: at most `max_size` jobs on this thread (0: no limit), `init_size` stacks made now. 1, or 0 for an
/// `init_size` above `max_size`, also above an unlimited one (S11).
///
/// A second call changes the limit; jobs that exist stay counted (a fix of S15).
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_init_thread(max_size: usize, init_size: usize) -> c_int {
    guarded(0, || {
        if init_size > max_size {
            libcrypto::is_ready();
            libcrypto::raise(Reason::InvalidPoolSize);
            return 0;
        }
        if !libcrypto::is_ready() {
            return 0;
        }
        let mut config = PoolConfig::new().precreate(init_size);
        config.limit = (max_size != 0).then_some(max_size);
        c_int::from(asyncjob::init_thread(config).is_ok())
    })
}

/// `ASYNC_cleanup_thread(3)`: frees the idle stacks of this thread and forgets its limit.
///
/// Paused jobs stay valid and can finish (a fix of S49). Inside a job it does nothing (a fix of S50).
#[unsafe(no_mangle)]
pub extern "C" fn ASYNC_cleanup_thread() {
    guarded((), || {
        let _refused_inside_a_job = asyncjob::cleanup_thread();
    });
}

/// `OPENSSL_thread_stop(3)`, on its way to libcrypto, whose own hook for our part of it is not exported.
///
/// # Safety
///
/// As libcrypto's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn OPENSSL_thread_stop() {
    ASYNC_cleanup_thread();
    guarded((), || libcrypto::look_again(ptr::null()));
    if let Some(libcrypto) = libcrypto::found() {
        libcrypto.stop_thread();
    }
}

/// The state of a thread. It has no destructor, so that it can be reached until the thread is gone, in one step.
pub(crate) struct Thread {
    pub(crate) current: Cell<Option<JobSlot>>,
    /// The default library context of this thread, NULL if it was never set: see [`library_context`].
    pub(crate) default_ctx: Cell<LibCtx>,
    pub(crate) free: FreeSlots,
    chunks: ManuallyDrop<RefCell<Vec<JobChunk>>>,
    unbound: Cell<Option<&'static WaitCtx>>,
}

thread_local! {
    static THREAD: Thread = const {
        Thread {
            current: Cell::new(None),
            default_ctx: Cell::new(ptr::null_mut()),
            free: FreeSlots::new(),
            chunks: ManuallyDrop::new(RefCell::new(Vec::new())),
            unbound: Cell::new(None),
        }
    };
}

/// Calls `f` with the state of this thread.
#[inline]
pub(crate) fn with<R>(f: impl FnOnce(&Thread) -> R) -> R {
    THREAD.with(f)
}

impl Thread {
    /// Distinguishes this thread from every other that lives.
    #[inline]
    pub(crate) fn token(&self) -> usize {
        ptr::from_ref(self).addr()
    }

    /// A slot for a job whose function is at `near`; `None` when the process has 16 million jobs.
    #[inline]
    pub(crate) fn take_slot(&self, near: *const c_void) -> Option<JobSlot> {
        self.free.pop().or_else(|| self.more_slots(near))
    }

    /// What the library is given as the wait ctx of every job here: there is one as soon as there is a slot. A C program's own
    /// ctx may be freed under a paused job, so its job knows it by handle ([`crate::wait_ctx`]) and this one never changes.
    #[inline]
    pub(crate) fn unbound(&self) -> Option<&'static WaitCtx> {
        self.unbound.get()
    }

    #[cold]
    fn more_slots(&self, near: *const c_void) -> Option<JobSlot> {
        libcrypto::look_again(near);
        library_context::check(self);
        let chunk = job::take_chunk(self.token())?;
        call_at_exit();
        self.unbound.set(Some(chunk.unbound));
        chunk.slots.iter().rev().for_each(|slot| self.free.push(slot));
        self.chunks.borrow_mut().push(chunk);
        self.free.pop()
    }

    /// Gives back what a thread has that is about to be gone.
    fn end(&self) {
        self.free.clear();
        self.unbound.set(None);
        for chunk in self.chunks.take() {
            job::give_chunk(chunk);
        }
    }
}

/// Has [`at_exit`] called when this thread exits, unless the process is out of keys: then its slots stay with it.
fn call_at_exit() {
    static KEY: OnceLock<Option<libc::pthread_key_t>> = OnceLock::new();
    let key = KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: stores a new key. The destructor outlives every thread: build.rs links this object as one that is never unloaded.
        (unsafe { libc::pthread_key_create(&mut key, Some(at_exit)) } == 0).then_some(key)
    });
    if let Some(key) = *key {
        // SAFETY: a key of ours; the value only has to differ from NULL.
        unsafe { libc::pthread_setspecific(key, ptr::from_ref(&KEY).cast()) };
    }
}

/// The destructor of the key.
unsafe extern "C" fn at_exit(_: *mut c_void) {
    guarded((), || with(Thread::end));
}
