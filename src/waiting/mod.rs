//! Inside a job: the one loop that everything of ours that pauses waits in.
//!
//! ```text
//!   remember the ctx's status, armed key and deadline; set those of this wait
//!      |
//!      +-> ready? ---- yes ----> put back what was there, return it
//!      |     no
//!      |   time over? -- yes --> put back, TimedOut
//!      |     no
//!      +-- pause_job()  -- Cancelled --> put back, Cancelled
//! ```
//!
//! What was there is put back because the ctx is shared with engines that rely on it: a status stays until it is set
//! again (S65). Resumes without a reason are legal, so the loop asks `ready` each time.

mod future;

use std::cell::Cell;
use std::time::Instant;

use crate::job::{Pause, pause_job, with_current_ctx};
use crate::wait_ctx::{Status, WaitCtx, WaitKey};
pub use future::{AwaitError, await_future, await_or_block};
pub(crate) use future::{WakeVia, await_or_block_by};

/// Why a wait ended without what it waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interrupted {
    /// The job is to end.
    Cancelled,
    /// The deadline passed: this wait's own or one around it.
    TimedOut,
    /// The job may not pause now: wait by blocking the thread, as outside a job.
    MustBlock,
}

/// What a pause says to the driver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitSpec {
    /// `Ok` where a callback will come, `Unsupported` where the fds count, `Eagain` to be resumed after the others.
    pub(crate) status: Status,
    /// The on-call entry that counts.
    pub(crate) armed: Option<WaitKey>,
    /// When to give up. The ctx's own deadline, where it is earlier, stays in force.
    pub(crate) deadline: Option<Instant>,
}

/// Pauses the current job, which is bound to `ctx`, until `ready` has something.
pub(crate) fn pause_until<T>(
    ctx: &WaitCtx,
    spec: WaitSpec,
    mut ready: impl FnMut() -> Option<T>,
) -> Result<T, Interrupted> {
    let scope = WaitScope::new(ctx, spec);
    loop {
        if let Some(value) = ready() {
            return Ok(value);
        }
        if scope.deadline.is_some_and(|at| at <= Instant::now()) {
            return Err(Interrupted::TimedOut);
        }
        match pause_job() {
            Ok(Pause::Resumed) => {}
            Ok(Pause::NotInJob | Pause::Blocked | Pause::Panicking) => return Err(Interrupted::MustBlock),
            Err(_) => return Err(Interrupted::Cancelled),
        }
    }
}

/// A reason, in force in a ctx until it is dropped.
struct WaitScope<'a> {
    ctx: &'a WaitCtx,
    /// The earlier one of the reason and the ctx.
    deadline: Option<Instant>,
    before: WaitSpec,
}

impl<'a> WaitScope<'a> {
    fn new(ctx: &'a WaitCtx, spec: WaitSpec) -> Self {
        let before = WaitSpec {
            status: ctx.status(),
            armed: ctx.arm(spec.armed),
            deadline: ctx.deadline(),
        };
        ctx.set_status(spec.status);
        let deadline = earlier(before.deadline, spec.deadline);
        if deadline != before.deadline {
            ctx.set_deadline(deadline);
        }
        WaitScope { ctx, deadline, before }
    }
}

impl Drop for WaitScope<'_> {
    fn drop(&mut self) {
        self.ctx.set_status(self.before.status);
        self.ctx.arm(self.before.armed);
        if self.deadline != self.before.deadline {
            self.ctx.set_deadline(self.before.deadline);
        }
    }
}

/// The earlier of two deadlines, where `None` is never.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

thread_local! {
    /// The deadline of code outside any job. A job's deadline stands in its ctx: it must not leak to the other jobs of
    /// the thread.
    static OUTSIDE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The deadline in force for the code that asks: of its job, or outside a job of its thread.
pub(crate) fn current_deadline() -> Option<Instant> {
    with_current_ctx(WaitCtx::deadline).unwrap_or_else(|| OUTSIDE.get())
}

/// Sets the deadline of this thread's code outside any job.
pub(crate) fn set_thread_deadline(deadline: Option<Instant>) {
    OUTSIDE.set(deadline);
}
