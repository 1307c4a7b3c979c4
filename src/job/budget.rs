//! The budget of a job: how much the job may do without a pause, when what it waits for is always there.
//!
//! ```text
//!   an operation begins ---> spend: anything left? -- yes --> the operation
//!                              | no                             ^
//!                              '--> the job gives way once -----'      refill
//! ```
//!
//! A job whose sockets are always ready, or whose futures are, has no reason to pause. It would keep the other jobs of
//! the thread waiting for as long as its peer is faster than the job. So the operations of this crate that may wait
//! count, and after [`OPERATIONS`] of them in a row, or after [`SLICE`], the next one lets the other jobs run first.
//! Any pause of such an operation makes the budget whole again, and so does a driver that resumes the job.
//!
//! Of the 47 ns of a `yield_now` among twenty jobs the budget takes 3 to 4, and of the 21 ns of a wake by callback 0.5
//! (minima of interleaved runs, with a build without the budget beside each).
//!
//! The budget is that of the job that counted last on this thread. A job that runs inside another one counts anew.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::current::{CURRENT, current_job_id};
use super::id::JobId;

/// How many operations a job may do in a row. tokio allows a task as many.
const OPERATIONS: u32 = 128;
/// How many operations there are between two looks at the clock.
const LOOK_AT_CLOCK: u32 = 8;
/// How long a job may do operations in a row. An operation may take a hundred microseconds: a read of a large buffer.
const SLICE: Duration = Duration::from_micros(250);

/// What is left of the budget of a job.
#[derive(Clone, Copy)]
struct Budget {
    job: Option<JobId>,
    operations: u32,
    /// When the clock was looked at first.
    since: Option<Instant>,
}

const NOTHING: Budget = Budget {
    job: None,
    operations: 0,
    since: None,
};

thread_local! {
    static BUDGET: Cell<Budget> = const { Cell::new(NOTHING) };
    /// Whether a budget has run out since a driver asked last.
    static RAN_OUT: Cell<bool> = const { Cell::new(false) };
    /// As `RAN_OUT`, for the hook of a recorder.
    #[cfg(feature = "insight")]
    static GAVE_WAY: Cell<bool> = const { Cell::new(false) };
}

/// Counts an operation of the job that runs this code. Returns whether the job has to give way first. Outside a job
/// nothing counts.
#[inline]
pub(crate) fn spend() -> bool {
    let job = current_job_id();
    let budget = BUDGET.get();
    if budget.job == job && budget.operations > 0 && !budget.operations.is_multiple_of(LOOK_AT_CLOCK) {
        BUDGET.set(Budget {
            operations: budget.operations - 1,
            ..budget
        });
        return false;
    }
    spend_slowly(job, budget)
}

#[cold]
fn spend_slowly(job: Option<JobId>, budget: Budget) -> bool {
    if job.is_none() {
        return false;
    }
    let whole = Budget {
        job,
        operations: OPERATIONS - 1,
        since: None,
    };
    if budget.job != job {
        BUDGET.set(whole);
        return false;
    }
    let now = Instant::now();
    let since = budget.since.unwrap_or(now);
    if budget.operations == 0 || now.saturating_duration_since(since) >= SLICE {
        BUDGET.set(whole);
        RAN_OUT.set(true);
        #[cfg(feature = "insight")]
        GAVE_WAY.set(true);
        return true;
    }
    BUDGET.set(Budget {
        job,
        operations: budget.operations - 1,
        since: Some(since),
    });
    false
}

/// The job that runs this code has paused: its budget is whole again.
#[inline]
pub(crate) fn refill() {
    BUDGET.set(NOTHING);
}

/// A driver is about to run a job. What the last job of the thread had left, and when it began, is not this one's. A
/// driver that runs inside a job does not change the budget of that job.
#[inline]
pub(crate) fn begin() {
    if CURRENT.get().is_none() {
        BUDGET.set(NOTHING);
    }
}

/// Whether the budget of a job has run out on this thread since the last call.
#[inline]
pub(crate) fn has_run_out() -> bool {
    RAN_OUT.get() && RAN_OUT.replace(false)
}

/// Whether a job of this thread has given way since the last call because its budget has run out.
#[cfg(feature = "insight")]
pub(crate) fn has_given_way() -> bool {
    GAVE_WAY.take()
}
