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
//! Of the 47 ns of a `yield_now` among twenty jobs the budget takes 3 to 4 (minima of interleaved runs, with a build
//! without the budget beside each). For a job without such operations the scheduler looks at one flag.
//!
//! The budget is that of the job that counted last on this thread. A job that runs inside another one counts anew.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::current::{CURRENT, ThisJob};
use super::id::JobId;
use crate::sys::{ForkHandlers, Process};

/// How many operations a job may do in a row. tokio allows a task as many.
const OPERATIONS: u32 = 128;
/// How many operations there are between two looks at the clock.
const LOOK_AT_CLOCK: u32 = 8;
/// How long a job may do operations in a row. An operation may take a hundred microseconds: a read of a large buffer.
const SLICE: Duration = Duration::from_micros(250);

/// What is left of the budget of a job.
struct Budget {
    /// The job that counted last. With `None` the next one has a whole budget, whatever the other fields are.
    job: Cell<Option<JobId>>,
    operations: Cell<u32>,
    /// When the clock was looked at first.
    since: Cell<Option<Instant>>,
    /// Whether a job has begun a budget, or forked, since a driver asked last whether to go on. As long as neither has
    /// happened, the budget of the next job is whole.
    has_begun: Cell<bool>,
    /// Whether a budget has run out since a driver asked last.
    ran_out: Cell<bool>,
    /// As `ran_out`, for the hook of a recorder.
    #[cfg(feature = "insight")]
    gave_way: Cell<bool>,
}

thread_local! {
    static BUDGET: Budget = const {
        Budget {
            job: Cell::new(None),
            operations: Cell::new(0),
            since: Cell::new(None),
            has_begun: Cell::new(false),
            ran_out: Cell::new(false),
            #[cfg(feature = "insight")]
            gave_way: Cell::new(false),
        }
    };
}

/// Counts an operation of the job that runs this code. Returns whether the job has to give way first.
#[inline]
pub(crate) fn spend(job: ThisJob<'_>) -> bool {
    let job = job.id();
    BUDGET.with(|budget| {
        if budget.job.get() != Some(job) {
            budget.make_whole(job);
            return false;
        }
        let operations = budget.operations.get();
        if operations > 0 && !operations.is_multiple_of(LOOK_AT_CLOCK) {
            budget.operations.set(operations - 1);
            return false;
        }
        budget.spend_slowly(job)
    })
}

impl Budget {
    #[cold]
    fn spend_slowly(&self, job: JobId) -> bool {
        let now = Instant::now();
        let since = self.since.get().unwrap_or(now);
        if self.operations.get() == 0 || now.saturating_duration_since(since) >= SLICE {
            self.make_whole(job);
            self.ran_out.set(true);
            #[cfg(feature = "insight")]
            self.gave_way.set(true);
            return true;
        }
        self.operations.set(self.operations.get() - 1);
        self.since.set(Some(since));
        false
    }

    #[inline]
    fn make_whole(&self, job: JobId) {
        self.job.set(Some(job));
        self.operations.set(OPERATIONS - 1);
        self.since.set(None);
        self.has_begun.set(true);
    }

    #[cold]
    fn end_slowly(&self, driver: Process) -> bool {
        if driver.is_inherited() {
            return true; // and so it stays for the driver of the job that this one runs in
        }
        if CURRENT.get().is_none() {
            self.has_begun.set(false);
            self.job.set(None);
        }
        self.ran_out.take()
    }
}

/// The job that runs this code has paused: its budget is whole again.
#[inline]
pub(crate) fn refill() {
    BUDGET.with(|budget| budget.job.set(None));
}

/// A driver is about to run jobs: one, or several with a call of [`has_run_out`] after each. What the last job of the
/// thread had left, and when it began, is not the next one's. A driver that runs inside a job does not change the
/// budget of that job.
#[inline]
pub(crate) fn begin() {
    if CURRENT.get().is_none() {
        refill();
    }
}

/// Whether the driver that was made in this process has to stop after the job that has run: because its budget has run
/// out since the last call, or because it has forked, and this is the child. The next job of the driver has a whole
/// budget.
#[inline]
pub(crate) fn has_run_out(driver: impl FnOnce() -> Process) -> bool {
    BUDGET.with(|budget| budget.has_begun.get() && budget.end_slowly(driver()))
}

/// From now on [`has_run_out`] notices forks.
pub(crate) fn notice_forks() {
    static HANDLERS: ForkHandlers = ForkHandlers::new();
    extern "C" fn nothing() {}
    extern "C" fn in_child() {
        BUDGET.with(|budget| budget.has_begun.set(true));
    }
    HANDLERS.register(nothing, nothing, in_child);
}

/// Whether a job of this thread has given way since the last call because its budget has run out.
#[cfg(feature = "insight")]
pub(crate) fn has_given_way() -> bool {
    BUDGET.with(|budget| budget.gave_way.take())
}
