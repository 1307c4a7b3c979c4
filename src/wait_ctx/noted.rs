//! The wake that has made a paused job ready, and when it came: for the hooks of `insight` and `tracing`.
//!
//! ```text
//!   a hook, at the start of its job      any thread, or the driver           the hook, at the next resume
//!     observe_wakes()                      the callback, or woken(cause)       wake()
//!                                            the first one is noted     --->   forget_wake(), after all hooks
//! ```
//!
//! Nothing is noted in a ctx that no hook observes. In one that is observed, the callback is behind a waker that notes
//! the time and the thread of the call. A driver notes what it finds out itself: that an fd is ready, say.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::thread::{self, Thread};
use std::time::Instant;

use parking_lot::Mutex;

use super::{WaitCtx, WakeCause, waker_fn};

/// The wake that has made a paused job ready.
#[derive(Clone, Debug)]
pub(crate) struct NotedWake {
    /// When it came. For a deadline this is the deadline, which may have passed before the job paused.
    pub(crate) at: Instant,
    /// What it was.
    pub(crate) cause: WakeCause,
    /// The thread that called the callback, or the one of the driver.
    #[cfg_attr(not(feature = "insight"), expect(dead_code, reason = "only a timeline has threads"))]
    pub(crate) thread: Thread,
}

/// The first wake since the last resume. Empty and unused unless a hook observes it.
#[derive(Default)]
pub(super) struct Wakes(OnceLock<Arc<First>>);

/// The wake itself, and whether there is one: a resume without a wake takes no lock.
#[derive(Default)]
struct First {
    is_noted: AtomicBool,
    wake: Mutex<Option<NotedWake>>,
}

impl Wakes {
    pub(super) fn are_observed(&self) -> bool {
        self.0.get().is_some()
    }

    /// A callback that notes its calls, if they are observed.
    pub(super) fn noting(&self, callback: Waker) -> Waker {
        let Some(first) = self.0.get() else { return callback };
        let first = Arc::clone(first);
        waker_fn(move || {
            note(&first, WakeCause::Callback, None);
            callback.wake_by_ref();
        })
    }
}

/// Notes a wake that came at `at`, or now.
fn note(first: &First, cause: WakeCause, at: Option<Instant>) {
    if first.is_noted.load(Ordering::Relaxed) {
        return; // a later wake
    }
    let mut wake = first.wake.lock();
    if wake.is_none() {
        *wake = Some(NotedWake {
            at: at.unwrap_or_else(Instant::now),
            cause,
            thread: thread::current(),
        });
        first.is_noted.store(true, Ordering::Release);
    }
}

impl WaitCtx {
    /// Lets the ctx note the first wake after each resume, from now on.
    pub(crate) fn observe_wakes(&self) {
        let wakes = &self.inner.wakes.0;
        if wakes.get().is_some() {
            return; // another hook has asked
        }
        wakes.get_or_init(Arc::default);
        // The driver has set its callback before the job starts.
        if self.has_callback() {
            self.set_callback(self.callback());
        }
    }

    /// Notes a wake that the driver has found out, if wakes are observed.
    pub(super) fn note_wake(&self, cause: WakeCause) {
        let Some(first) = self.inner.wakes.0.get() else { return };
        let over = self.deadline().filter(|at| *at <= Instant::now());
        match (cause, over) {
            // The driver may see it long after it has passed.
            (WakeCause::Deadline | WakeCause::Watch, Some(deadline)) => {
                note(first, WakeCause::Deadline, Some(deadline));
            }
            (WakeCause::Deadline, None) => note(first, WakeCause::Retry, None),
            (WakeCause::Watch, None) => {
                let cause = match self.fds()[..] {
                    [] => WakeCause::Retry,
                    [fd] => WakeCause::Fd(fd.fd),
                    _ => WakeCause::Watch,
                };
                note(first, cause, None);
            }
            (other, _) => note(first, other, None),
        }
    }

    /// The first wake since the last resume.
    pub(crate) fn wake(&self) -> Option<NotedWake> {
        let first = self.inner.wakes.0.get()?;
        let is_noted = first.is_noted.load(Ordering::Acquire);
        is_noted.then(|| first.wake.lock().clone()).flatten()
    }

    /// The job is resumed: the next wake is the first one.
    pub(crate) fn forget_wake(&self) {
        let Some(first) = self.inner.wakes.0.get() else { return };
        if first.is_noted.load(Ordering::Acquire) {
            let mut wake = first.wake.lock();
            first.is_noted.store(false, Ordering::Relaxed);
            let forgotten = wake.take();
            drop(wake);
            drop(forgotten);
        }
    }
}
