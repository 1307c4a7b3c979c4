//! The locks of this library that threads share, and `fork(2)`.
//!
//! A child of a process has one thread. A lock that another thread held at the moment of the fork would stay locked in
//! the child for ever. So the thread that forks takes them all before, and parent and child let go of them after.
//! Nothing takes one of them while it holds another, so their order does not matter. The locks are those of `std`,
//! which consist of one word: `parking_lot` has a table for the whole process, with locks of its own.
//!
//! The lock of a single wait ctx is not among them: in a child nothing uses the ctxs of the threads that are not there.

use std::cell::RefCell;
use std::sync::{MutexGuard, Once};

pub(crate) use asyncjob::c_interface::lock;

use crate::{of_rust, slots, thread, wait_ctx};

/// The locks, while the process forks.
#[allow(dead_code, reason = "what is held is not looked at")]
struct Held(
    MutexGuard<'static, slots::Spare>,
    MutexGuard<'static, wait_ctx::Free>,
    MutexGuard<'static, wait_ctx::Held>,
    MutexGuard<'static, of_rust::Free>,
    MutexGuard<'static, thread::Key>,
);

thread_local! {
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
}

extern "C" fn before_fork() {
    let held = Held(
        lock(&slots::SPARE),
        lock(&wait_ctx::FREE),
        lock(&wait_ctx::HELD),
        lock(&of_rust::FREE),
        lock(&thread::KEY),
    );
    // A thread whose locals are gone forks without the locks.
    let _ = HELD.try_with(|kept| *kept.borrow_mut() = Some(held));
}

extern "C" fn after_fork() {
    drop(HELD.try_with(RefCell::take));
}

/// Makes forks safe from now on. A failure has no effect but the old danger.
pub(crate) fn prepare() {
    static PREPARED: Once = Once::new();
    PREPARED.call_once(|| {
        // SAFETY: the handlers take and release locks. The loader never unloads this object (build.rs).
        unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(after_fork)) };
    });
}
