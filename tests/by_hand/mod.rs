//! Helpers for tests that drive jobs by hand.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use asyncjob::pool;
use asyncjob::stack::set_max_cached;
use asyncjob::{Job, Step, WaitCtx, WaitFd, WaitFdOptions, WaitKey, start_job};

/// Adds a raw fd number as a wait fd, with any value.
#[allow(
    unsafe_code,
    reason = "a test keeps its fds open, or uses numbers that no driver polls"
)]
pub(crate) fn add_number<V: Send + 'static>(ctx: &WaitCtx, fd: WaitFd, value: V) {
    // SAFETY: the test keeps the fd open, or no driver polls the number.
    unsafe { ctx.add_raw_wait_fd(fd, value) };
}

/// A wait fd that is always armed and waits until the fd is readable.
pub(crate) fn number(key: WaitKey, fd: std::os::fd::RawFd) -> WaitFd {
    WaitFd::new(key, fd, WaitFdOptions::new())
}

/// Starts a job, which must pause.
#[track_caller]
pub(crate) fn paused<T: 'static>(f: impl FnOnce() -> T + 'static) -> Job<T> {
    paused_with(&WaitCtx::new(), f)
}

/// Starts a job with the wait ctx `ctx`, which must pause.
#[track_caller]
pub(crate) fn paused_with<T: 'static>(ctx: &WaitCtx, f: impl FnOnce() -> T + 'static) -> Job<T> {
    count_own_stacks_only();
    match start_job(ctx, f) {
        Ok(step) => still_paused(step),
        Err(error) => panic!("{error}"),
    }
}

/// The job of a step, which must be a pause.
#[track_caller]
pub(crate) fn still_paused<T>(step: Step<T>) -> Job<T> {
    match step {
        Step::Paused(job) => job,
        Step::Finished(_) => panic!("the job finished instead of pausing"),
    }
}

/// The value of a step, which must be the last one of its job.
#[track_caller]
pub(crate) fn finished<T>(step: Step<T>) -> T {
    match step {
        Step::Finished(value) => value,
        Step::Paused(_) => panic!("the job paused instead of finishing"),
    }
}

/// Runs a job, which must finish without a pause.
#[track_caller]
pub(crate) fn run<T: 'static>(f: impl FnOnce() -> T + 'static) -> T {
    count_own_stacks_only();
    match start_job(&WaitCtx::new(), f) {
        Ok(step) => finished(step),
        Err(error) => panic!("{error}"),
    }
}

/// Turns off the sharing of idle stacks between threads. Tests run in parallel, and shared stacks would change what
/// they count.
fn count_own_stacks_only() {
    set_max_cached(0);
}

/// The number of stacks of this thread: (idle, in use).
pub(crate) fn stacks() -> (usize, usize) {
    let stats = pool::stats();
    (stats.idle, stats.in_use)
}

/// The number of stacks in use on this thread: those of live jobs and the quarantined ones. The number of idle stacks
/// depends on what other threads have given back.
pub(crate) fn in_use() -> usize {
    pool::stats().in_use
}

/// A log of events, in the order in which they happened.
#[derive(Clone, Default)]
pub(crate) struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    pub(crate) fn say(&self, event: impl Into<String>) {
        self.0.borrow_mut().push(event.into());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// The events since the last call.
    pub(crate) fn take(&self) -> Vec<String> {
        self.0.take()
    }

    /// A value that logs `event` when it is dropped.
    pub(crate) fn at_drop(&self, event: impl Into<String>) -> AtDrop {
        AtDrop(self.clone(), event.into())
    }
}

pub(crate) struct AtDrop(Log, String);

impl Drop for AtDrop {
    fn drop(&mut self) {
        self.0.say(self.1.clone());
    }
}

/// Counts the drops of its [`Counted`] values.
#[derive(Clone, Default)]
pub(crate) struct Drops(Rc<Cell<u32>>);

impl Drops {
    pub(crate) fn count(&self) -> u32 {
        self.0.get()
    }

    pub(crate) fn counted(&self) -> Counted {
        Counted(self.clone())
    }
}

pub(crate) struct Counted(Drops);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.set(self.0.0.get() + 1);
    }
}
