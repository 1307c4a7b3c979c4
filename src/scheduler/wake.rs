//! Callbacks from any thread, to the jobs to resume.
//!
//! ```text
//!   any thread                                       the scheduler's thread
//!
//!   JobWaker::wake                                   take_woken: one lock for all
//!     latched already? nothing to do      inbox        start_resume: unlatch
//!     post(ticket)  ------------------> [t][t][t] ->   nothing left to run?
//!     was it asleep? ring the bell ----> eventfd  ->     fall_asleep, epoll_wait
//! ```
//!
//! The latch is set by the first wake and cleared just before the job is resumed. So a callback that fires before the
//! pause (S64) is kept, one that fires twice costs one resume, and one that fires after the job ended finds a ticket that
//! nobody has.
//!
//! `asleep` is only changed under the inbox's lock, together with the check that the inbox is empty: a wake either is
//! seen by that check or sees `asleep` and rings. While the scheduler is awake a wake costs no system call.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::Wake;

use parking_lot::Mutex;

use super::Scheduler;
use crate::sys::EventFd;

/// Names a task of one scheduler: its place, and which of those that have had the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket {
    pub(super) index: u32,
    pub(super) serial: u32,
}

/// Something for a scheduler to do itself, on its own thread.
pub(super) type Errand = Box<dyn FnOnce(&Scheduler) + Send>;

/// Where other threads leave what concerns one scheduler.
pub(super) struct Mailbox {
    inbox: Mutex<Inbox>,
    /// The inbox may hold something. Saves the lock when not; a wake that is not seen yet is seen at the next turn.
    full: AtomicBool,
    bell: EventFd,
}

#[derive(Default)]
pub(super) struct Inbox {
    pub(super) woken: Vec<Ticket>,
    pub(super) errands: Vec<Errand>,
    /// The scheduler waits in the kernel, or its host does: whoever brings something must ring.
    asleep: bool,
}

impl Mailbox {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Mailbox {
            inbox: Mutex::default(),
            full: AtomicBool::new(false),
            bell: EventFd::new()?,
        })
    }

    /// Leaves word that a task is to be resumed.
    fn post(&self, ticket: Ticket) {
        self.put(|inbox| inbox.woken.push(ticket));
    }

    /// Leaves something to do.
    pub(super) fn send(&self, errand: Errand) {
        self.put(|inbox| inbox.errands.push(errand));
    }

    fn put(&self, put: impl FnOnce(&mut Inbox)) {
        let mut inbox = self.inbox.lock();
        put(&mut inbox);
        self.full.store(true, Ordering::Release);
        let ring = std::mem::take(&mut inbox.asleep);
        drop(inbox);
        if ring {
            self.bell.notify();
        }
    }

    /// Wakes the scheduler if it is asleep, and says whether it was.
    pub(super) fn ring_if_asleep(&self) -> bool {
        let asleep = std::mem::take(&mut self.inbox.lock().asleep);
        if asleep {
            self.bell.notify();
        }
        asleep
    }

    /// Whether there is something to take.
    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Takes everything: the woken into `woken`, which is empty, so that its memory serves again.
    pub(super) fn take(&self, woken: &mut Vec<Ticket>) -> Vec<Errand> {
        debug_assert!(woken.is_empty());
        let mut inbox = self.inbox.lock();
        std::mem::swap(&mut inbox.woken, woken);
        self.full.store(false, Ordering::Relaxed);
        std::mem::take(&mut inbox.errands)
    }

    /// From now on whoever posts rings; `false` if somebody has posted already.
    pub(super) fn fall_asleep(&self) -> bool {
        let mut inbox = self.inbox.lock();
        inbox.asleep = inbox.woken.is_empty() && inbox.errands.is_empty();
        inbox.asleep
    }

    /// Nobody needs to ring any more.
    pub(super) fn wake_up(&self) {
        self.inbox.lock().asleep = false;
    }

    /// The bell has been heard.
    pub(super) fn silence(&self) {
        self.bell.drain();
    }

    pub(super) fn raw_bell(&self) -> RawFd {
        self.bell.raw()
    }
}

/// The callback of one task: the waker of whoever completes what it waits for.
pub(super) struct JobWaker {
    mailbox: Arc<Mailbox>,
    ticket: Ticket,
    flags: AtomicU8,
}

/// A wake has been posted and not been acted on.
const LATCHED: u8 = 1;
/// The job is to be cancelled at its next turn.
const CANCEL: u8 = 2;

impl JobWaker {
    pub(super) fn new(mailbox: Arc<Mailbox>, ticket: Ticket) -> Self {
        JobWaker {
            mailbox,
            ticket,
            flags: AtomicU8::new(0),
        }
    }

    /// The job is about to run: a wake from now on is about its next pause. Whether it is to be cancelled instead.
    pub(super) fn start_resume(&self) -> bool {
        if self.flags.load(Ordering::Relaxed) == 0 {
            return false;
        }
        // A swap and not a store: it makes what the waker's thread did before its wake visible to the job.
        self.flags.swap(0, Ordering::AcqRel) & CANCEL != 0
    }

    /// Whether [`cancel`](Self::cancel) was called since the last resume.
    pub(super) fn is_cancelled(&self) -> bool {
        self.flags.load(Ordering::Acquire) & CANCEL != 0
    }

    /// Has the scheduler cancel the job.
    pub(super) fn cancel(&self) {
        if self.flags.fetch_or(LATCHED | CANCEL, Ordering::AcqRel) & LATCHED == 0 {
            self.mailbox.post(self.ticket);
        }
    }
}

impl Wake for JobWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.flags.fetch_or(LATCHED, Ordering::AcqRel) & LATCHED == 0 {
            self.mailbox.post(self.ticket);
        }
    }
}
