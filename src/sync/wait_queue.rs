//! A line of tasks that wait for capacity: first come, first served.
//!
//! The capacity itself is a count that the owner of the queue keeps: the stacks of a pool, the jobs of a scheduler. The
//! owner tells the queue when a unit becomes free, and gives each call a closure that says whether a unit is free.
//!
//! ```text
//!                          notify_one: it is the first
//!           poll         +-------------------------------> notified
//!   new ----------> in line <------------------------------- | |
//!    |                   |     poll, no unit: its old place    |
//!    |                   |                                     |
//!    | poll, a unit      | poll, a unit, and it is the first   | poll, a unit, and none before it in line
//!    | and no line       v                                     v
//!    +----------------> ready <--------------------------------+
//! ```
//!
//! | state of a waiter | in the queue | left by |
//! |---|---|---|
//! | new | nothing | its first poll |
//! | in line | its number and its waker | a notification, a poll that finds it first, its drop |
//! | notified | nothing: the waiter keeps its number | a poll, its drop |
//! | ready | nothing: the waiter keeps its number | its drop |
//!
//! # A notification is no reservation
//!
//! Another caller may take a unit before the waiter that was told of it is polled. The waiter then goes back to the
//! line under the number that it has, in front of all who came later.
//!
//! A reservation would be a trap. The waiter may be a paused job of a thread that is blocked, or a future that is kept
//! and not polled. The unit would be kept for that waiter, and waiters that could use the unit would wait for ever.
//!
//! # Which waiter may pass
//!
//! A waiter passes if a unit is free and no waiter with a lower number is *in line*. A notified waiter is not in line,
//! so the others do not wait for it. The queue must therefore keep one promise: while a unit is free and the line is
//! not empty, some waiter has been woken and will look. Each step keeps it:
//!
//! | step | which waiter looks |
//! |---|---|
//! | a unit becomes free | [`notify_one`](WaitQueue::notify_one) wakes the first in line |
//! | a waiter lines up | the waiter itself looks again when it is in line, so it sees a unit that became free before |
//! | a waiter finds a unit that is not for it | it wakes the first in line: the one that was told has not come |
//! | a notified waiter is dropped, or takes nothing | [`withdraw`](WaitQueue::withdraw) wakes the first in line |
//! | a waker panics | the next in line is woken in its place |
//!
//! The promise has a limit: a notified waiter that is neither polled nor dropped, such as a quarantined job, does not
//! pass its notification on. The line moves again at the next step of any kind.
//!
//! # A waiter that blocks its thread
//!
//! A waiter that blocks its thread ([`poll_blocking`](super::poll_blocking)) cannot wait for its turn. Those before it
//! may be tasks of the same thread, which are not polled before the thread goes on. Such a waiter therefore passes
//! whenever a unit is free. A notification of a waiter that does not block also wakes the first waiter that blocks. The
//! first of the two to look takes the unit, and the other one keeps its place.
//!
//! # Cost
//!
//! Each call costs a lock and a step in a tree of those in line. [`notify_one`](WaitQueue::notify_one) costs one load
//! where the line is empty. A waiter that is polled again replaces its waker, so memory grows with the waiters only.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
#[cfg(not(asyncjob_loom))]
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

#[cfg(asyncjob_loom)]
use loom::sync::atomic::{AtomicBool, Ordering};
use parking_lot::Mutex;

use super::{contain, is_polled_blocking, wake_all};

/// See the module.
pub(crate) struct WaitQueue {
    line: Mutex<Line>,
    /// The line is not empty. Written under its lock, read without it.
    ///
    /// `SeqCst`, as the owner's count of units must be. A waiter sets this and then reads the count. The thread that
    /// frees a unit changes the count and then reads this. At least one of the two sees what the other did.
    has_waiters: AtomicBool,
}

/// The waiters that have not been notified.
struct Line {
    /// By number, which is the order in which the waiters came.
    waiters: BTreeMap<u64, Waker>,
    /// The numbers of those that block their thread.
    blocking: BTreeSet<u64>,
    next_number: u64,
}

/// What a waiting future holds. The future calls [`WaitQueue::withdraw`] in its drop.
#[derive(Debug, Default)]
pub(crate) struct Waiter {
    /// `None` until the waiter has to line up.
    number: Option<u64>,
}

impl Waiter {
    pub(crate) const fn new() -> Self {
        Waiter { number: None }
    }

    /// Whether it has never been in a line: there is nothing to withdraw.
    #[inline]
    pub(crate) fn is_new(&self) -> bool {
        self.number.is_none()
    }
}

impl WaitQueue {
    #[cfg(not(asyncjob_loom))]
    pub(crate) const fn new() -> Self {
        WaitQueue {
            line: Mutex::new(Line::EMPTY),
            has_waiters: AtomicBool::new(false),
        }
    }

    /// The types of loom have no `const` functions.
    #[cfg(asyncjob_loom)]
    pub(crate) fn new() -> Self {
        WaitQueue {
            line: Mutex::new(Line::EMPTY),
            has_waiters: AtomicBool::new(false),
        }
    }

    /// Whether the line is not empty: one load.
    #[inline]
    pub(crate) fn has_waiters(&self) -> bool {
        self.has_waiters.load(Ordering::SeqCst)
    }

    /// Ready when a unit is free and it is the waiter's turn. Reserves nothing.
    ///
    /// `has_capacity` is called under the lock of the queue. It may read counts, and nothing else.
    #[inline]
    pub(crate) fn poll(
        &self,
        waiter: &mut Waiter,
        task: &mut Context<'_>,
        has_capacity: impl Fn() -> bool,
    ) -> Poll<()> {
        if waiter.number.is_none() && !self.has_waiters() && has_capacity() {
            return Poll::Ready(());
        }
        self.poll_in_line(waiter, task, has_capacity)
    }

    #[cold]
    fn poll_in_line(&self, waiter: &mut Waiter, task: &mut Context<'_>, has_capacity: impl Fn() -> bool) -> Poll<()> {
        let blocks = is_polled_blocking();
        let waker = task.waker().clone();
        let mut line = self.line.lock();
        let number = *waiter.number.get_or_insert_with(|| line.number());
        let replaced = line.insert(number, waker, blocks);
        self.has_waiters.store(true, Ordering::SeqCst);
        let (polled, own, others) = if !has_capacity() {
            (Poll::Pending, None, None)
        } else if blocks || line.first() == Some(number) {
            (Poll::Ready(()), line.remove(number), None)
        } else {
            (Poll::Pending, None, Some(line.take_next()))
        };
        self.publish(&line);
        drop(line);
        drop((replaced, own));
        // If the wakers panic, the next in line is woken in their place.
        if others.is_some_and(|others| !wake_all(others.into_iter().flatten())) {
            self.notify_one();
        }
        polled
    }

    /// A unit has become free: wakes the waiters that are to look for it.
    #[inline]
    pub(crate) fn notify_one(&self) {
        if self.has_waiters() {
            self.notify_first();
        }
    }

    #[cold]
    fn notify_first(&self) {
        loop {
            let mut line = self.line.lock();
            let next = line.take_next();
            self.publish(&line);
            drop(line);
            if next.iter().all(Option::is_none) || wake_all(next.into_iter().flatten()) {
                return;
            }
        }
    }

    /// Many units may have become free, or waiting has no point any more: wakes all in line.
    pub(crate) fn notify_all(&self) {
        wake_all(self.take_all().into_values());
    }

    /// Drops the wakers of all in line, which will not be polled any more.
    pub(crate) fn clear(&self) {
        for waker in self.take_all().into_values() {
            contain(|| drop(waker));
        }
    }

    /// The waiter leaves. If it was notified and a unit is still free, the first in line is woken.
    pub(crate) fn withdraw(&self, waiter: &mut Waiter, has_capacity: impl Fn() -> bool) {
        let Some(number) = waiter.number.take() else { return };
        let mut line = self.line.lock();
        let own = line.remove(number);
        self.publish(&line);
        drop(line);
        if own.is_none() && has_capacity() {
            self.notify_one();
        }
        drop(own);
    }

    fn take_all(&self) -> BTreeMap<u64, Waker> {
        let mut line = self.line.lock();
        line.blocking.clear();
        let all = mem::take(&mut line.waiters);
        self.publish(&line);
        all
    }

    /// Sets what [`has_waiters`](Self::has_waiters) reads.
    fn publish(&self, line: &Line) {
        self.has_waiters.store(!line.waiters.is_empty(), Ordering::SeqCst);
    }
}

impl Line {
    const EMPTY: Line = Line {
        waiters: BTreeMap::new(),
        blocking: BTreeSet::new(),
        next_number: 0,
    };

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn first(&self) -> Option<u64> {
        self.waiters.keys().next().copied()
    }

    /// Returns the waker that was there under this number.
    fn insert(&mut self, number: u64, waker: Waker, blocks: bool) -> Option<Waker> {
        if blocks {
            self.blocking.insert(number);
        } else {
            self.blocking.remove(&number);
        }
        self.waiters.insert(number, waker)
    }

    fn remove(&mut self, number: u64) -> Option<Waker> {
        self.blocking.remove(&number);
        self.waiters.remove(&number)
    }

    /// Takes the waiters out of the line that are to look for one unit: the first, and the first that blocks, if that
    /// is another one.
    fn take_next(&mut self) -> [Option<Waker>; 2] {
        let first = self.first();
        let first_waker = first.and_then(|number| self.waiters.remove(&number));
        if first.is_some_and(|number| self.blocking.remove(&number)) {
            return [first_waker, None];
        }
        let blocking = self.blocking.pop_first();
        [first_waker, blocking.and_then(|number| self.waiters.remove(&number))]
    }
}
