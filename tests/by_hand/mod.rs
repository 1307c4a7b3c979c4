//! Jobs driven by hand: what every test of the job model begins with.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use asyncjob::pool;
use asyncjob::stack::set_max_cached;
use asyncjob::{Job, Step, WaitCtx, WaitFd, WaitFdOptions, WaitKey, start_job};

/// Adds a bare number as a wait fd, with any value.
#[allow(
    unsafe_code,
    reason = "a test keeps its fds open, or uses numbers that no driver polls"
)]
pub(crate) fn add_number<V: Send + 'static>(ctx: &WaitCtx, fd: WaitFd, value: V) {
    // SAFETY: as the reason says.
    unsafe { ctx.add_raw_wait_fd(fd, Box::new(value)) };
}

/// A wait fd for readable, at every pause.
pub(crate) fn number(key: WaitKey, fd: std::os::fd::RawFd) -> WaitFd {
    WaitFd::new(key, fd, WaitFdOptions::new())
}

/// Starts a job that is to pause.
#[track_caller]
pub(crate) fn paused<T: 'static>(f: impl FnOnce() -> T + 'static) -> Job<T> {
    paused_with(&WaitCtx::new(), f)
}

/// Starts a job, bound to `ctx`, that is to pause.
#[track_caller]
pub(crate) fn paused_with<T: 'static>(ctx: &WaitCtx, f: impl FnOnce() -> T + 'static) -> Job<T> {
    count_own_stacks_only();
    match start_job(ctx, f) {
        Ok(step) => still_paused(step),
        Err(error) => panic!("{error}"),
    }
}

/// The job of a step that is to be a pause.
#[track_caller]
pub(crate) fn still_paused<T>(step: Step<T>) -> Job<T> {
    match step {
        Step::Paused(job) => job,
        Step::Finished(_) => panic!("the job was to pause, and finished"),
    }
}

/// The result of a step that is to be the last.
#[track_caller]
pub(crate) fn finished<T>(step: Step<T>) -> T {
    match step {
        Step::Finished(value) => value,
        Step::Paused(_) => panic!("the job was to finish, and paused"),
    }
}

/// Runs a job that is to finish without a pause.
#[track_caller]
pub(crate) fn run<T: 'static>(f: impl FnOnce() -> T + 'static) -> T {
    count_own_stacks_only();
    match start_job(&WaitCtx::new(), f) {
        Ok(step) => finished(step),
        Err(error) => panic!("{error}"),
    }
}

/// Tests that count stacks run side by side: what a thread has left warm for the others would change their counts.
fn count_own_stacks_only() {
    set_max_cached(0);
}

/// Stacks of this thread: (idle, in use).
pub(crate) fn stacks() -> (usize, usize) {
    let stats = pool::stats();
    (stats.idle, stats.in_use)
}

/// Stacks of jobs of this thread that have not ended, and quarantined ones. How many are idle depends on what other
/// threads have given back.
pub(crate) fn in_use() -> usize {
    pool::stats().in_use
}

/// Events, in the order in which they happened.
#[derive(Clone, Default)]
pub(crate) struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    pub(crate) fn say(&self, event: impl Into<String>) {
        self.0.borrow_mut().push(event.into());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// What was said since the last call.
    pub(crate) fn take(&self) -> Vec<String> {
        self.0.take()
    }

    /// Says `event` when it is dropped.
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

/// Counts what is dropped.
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
