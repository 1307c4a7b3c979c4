//! Wakes: from callbacks on any thread to the jobs to resume.
//!
//! ```text
//!   any thread                                            the scheduler's thread
//!
//!   JobWaker::wake                                        Inbox::take: takes all messages under one lock
//!     latched already? nothing to do      messages        JobWaker::start_resume: clears the latch
//!     Inbox::post(id)  ----------------> [id][id] ---->   nothing left to run?
//!     was the inbox parked? notify ----> eventfd  ---->     Inbox::park, epoll_wait
//!
//!   JoinHandle::request_cancel
//!     Inbox::post_cancel(id)  ---------> [id]  ------->   Inbox::take_cancelled: looked at before each resume
//! ```
//!
//! The first wake sets the latch, which is cleared just before the job is resumed. So a wake that comes before the
//! pause (S64) is kept, and two wakes cost one resume. A wake that comes after the job has ended has the id of a task
//! that does not exist any more.
//!
//! `parked` is set only under the lock of the messages, together with the check that there are none. A message is
//! therefore either seen by that check, or its sender sees `parked` and notifies.
//!
//! A wake on the scheduler's own thread during a turn goes to a list of the thread ([`LocalWakes`]), which needs no
//! lock: nothing else looks at the list, and the scheduler does so before its turn ends.
//!
//! A scheduler parks before it sleeps, and is unparked when it has slept. Between two turns it is parked only if a host
//! has asked for its fd, because nothing else can sleep there. So a wake or a spawn costs no system call while the
//! scheduler is awake.

use std::cell::{Cell, RefCell};
use std::mem::{self, ManuallyDrop};
use std::os::fd::RawFd;
use std::ptr;
use std::sync::Arc;
#[cfg(not(asyncjob_loom))]
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Wake;

#[cfg(asyncjob_loom)]
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use parking_lot::Mutex;

use super::Scheduler;
use crate::sync::contain;
use crate::sys::{Notifier, Process};

/// Identifies a task of one scheduler: its index, and a serial that distinguishes the tasks that have had this index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TaskId {
    pub(super) index: u32,
    pub(super) serial: u32,
}

/// A function that another thread asks a scheduler to call on its own thread.
pub(super) type RemoteCall = Box<dyn FnOnce(&Scheduler) + Send>;

/// What other threads send to one scheduler.
pub(super) struct Inbox {
    messages: Mutex<Messages>,
    /// Whether there may be messages, which saves the lock when there are none. A message that is not seen yet is seen
    /// at the next turn.
    has_messages: AtomicBool,
    /// Whether there may be jobs to cancel among the messages.
    has_cancelled: AtomicBool,
    notifier: Notifier,
}

/// The messages of an inbox, and whether the scheduler sleeps.
#[derive(Default)]
pub(super) struct Messages {
    pub(super) woken: Vec<TaskId>,
    pub(super) cancelled: Vec<TaskId>,
    pub(super) calls: Vec<RemoteCall>,
    /// Whether the scheduler waits in the kernel, or its host does. A message must notify it then.
    parked: bool,
    /// Whether the scheduler is gone. It makes no more calls then.
    closed: bool,
}

impl Inbox {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Inbox {
            messages: Mutex::default(),
            has_messages: AtomicBool::new(false),
            has_cancelled: AtomicBool::new(false),
            notifier: Notifier::new()?,
        })
    }

    /// Lets the scheduler resume a task.
    pub(super) fn post(&self, id: TaskId) {
        self.put(|messages| messages.woken.push(id));
    }

    /// Lets the scheduler cancel a task.
    pub(super) fn post_cancel(&self, id: TaskId) {
        self.put(|messages| {
            messages.cancelled.push(id);
            self.has_cancelled.store(true, Ordering::Release);
        });
    }

    /// Lets the scheduler make a call. The call is dropped if the scheduler is gone.
    pub(super) fn send(&self, call: RemoteCall) {
        let mut call = Some(call);
        self.put(|messages| {
            if !messages.closed {
                messages.calls.extend(call.take());
            }
        });
        drop(call); // after the lock is released: the drop of what the call owns may run any code
    }

    /// The process of the scheduler. A child of it has a copy of the messages, and sends nothing.
    #[inline]
    pub(super) fn process(&self) -> Process {
        self.notifier.process()
    }

    /// Marks the scheduler as gone. The calls that it has not made are dropped, so that nothing waits for their
    /// results.
    pub(super) fn close(&self) {
        if self.process().is_inherited() {
            return;
        }
        let mut messages = self.messages.lock();
        messages.closed = true;
        let calls = std::mem::take(&mut messages.calls);
        drop(messages);
        contain(|| drop(calls));
    }

    /// Changes the messages, and notifies the scheduler if it is parked.
    fn put(&self, put: impl FnOnce(&mut Messages)) {
        if self.process().is_inherited() {
            return; // also because a thread of the parent may have held the lock
        }
        let mut messages = self.messages.lock();
        put(&mut messages);
        self.has_messages.store(true, Ordering::Release);
        let was_parked = std::mem::take(&mut messages.parked);
        drop(messages);
        if was_parked {
            self.notifier.notify();
        }
    }

    /// Wakes the scheduler if it is parked. Returns whether it was.
    pub(super) fn notify_if_parked(&self) -> bool {
        if self.process().is_inherited() {
            return false;
        }
        let parked = std::mem::take(&mut self.messages.lock().parked);
        if parked {
            self.notifier.notify();
        }
        parked
    }

    /// Makes the fd of the scheduler readable, for a host that may sleep on it.
    pub(super) fn notify(&self) {
        self.notifier.notify();
    }

    /// Whether there is something to take.
    pub(super) fn has_messages(&self) -> bool {
        self.has_messages.load(Ordering::Acquire)
    }

    /// Takes all messages. The woken tasks go to `woken`, which is empty, so that its memory is used again.
    pub(super) fn take(&self, woken: &mut Vec<TaskId>) -> Vec<RemoteCall> {
        debug_assert!(woken.is_empty());
        let mut messages = self.messages.lock();
        std::mem::swap(&mut messages.woken, woken);
        self.has_messages.store(false, Ordering::Relaxed);
        std::mem::take(&mut messages.calls)
    }

    /// Whether there may be tasks to cancel.
    #[inline]
    pub(super) fn has_cancelled(&self) -> bool {
        self.has_cancelled.load(Ordering::Acquire)
    }

    /// Takes the tasks to cancel.
    #[cold]
    pub(super) fn take_cancelled(&self) -> Vec<TaskId> {
        let mut messages = self.messages.lock();
        self.has_cancelled.store(false, Ordering::Relaxed);
        std::mem::take(&mut messages.cancelled)
    }

    /// Marks the scheduler as parked: from now on a message notifies it. Returns `false` if there is a message already.
    pub(super) fn park(&self) -> bool {
        let mut messages = self.messages.lock();
        messages.parked = messages.woken.is_empty() && messages.cancelled.is_empty() && messages.calls.is_empty();
        messages.parked
    }

    /// Marks the scheduler as awake: from now on a message need not notify it.
    pub(super) fn unpark(&self) {
        self.messages.lock().parked = false;
    }

    /// Clears the notification, which the scheduler has seen.
    pub(super) fn clear_notifier(&self) {
        self.notifier.drain();
    }

    /// The fd of the notifier, for the reactor.
    pub(super) fn raw_notifier(&self) -> RawFd {
        self.notifier.raw()
    }
}

/// The callback of the ctx of one job. What completes the wait of the job calls it.
pub(super) struct JobWaker {
    inbox: Arc<Inbox>,
    /// The latch, and the id of the task. They are one word, so that a wake either sees the task or is seen when the
    /// task is made.
    state: AtomicU64,
}

/// The latch: a wake has come, and the job has not been resumed since.
const LATCHED: u64 = 1 << 63;
/// The job has not paused yet, so it has no task.
const NO_TASK: u64 = u32::MAX as u64;

impl JobWaker {
    /// Makes the waker of a job that starts.
    pub(super) fn new(inbox: Arc<Inbox>) -> Self {
        JobWaker {
            inbox,
            state: AtomicU64::new(NO_TASK),
        }
    }

    /// Stores the task, which a wake is posted for from now on. Returns whether a wake has come already.
    pub(super) fn set_task(&self, id: TaskId) -> bool {
        let without_latch = NO_TASK ^ id.to_bits();
        // AcqRel: what a thread did before its wake is visible to the job.
        self.state.fetch_xor(without_latch, Ordering::AcqRel) & LATCHED != 0
    }

    /// Clears the latch when the job is about to run: a wake from now on is about its next pause.
    pub(super) fn start_resume(&self) {
        if self.state.load(Ordering::Relaxed) & LATCHED != 0 {
            // Not a store: it makes what the waking thread did before its wake visible to the job.
            self.state.fetch_and(!LATCHED, Ordering::AcqRel);
        }
    }

    /// Makes the waker that of another job that starts.
    ///
    /// The caller makes sure that nobody else has the waker: a late call would wake a job that it is not about.
    pub(super) fn renew(&self) {
        // Relaxed: who calls the waker has got it after this.
        self.state.store(NO_TASK, Ordering::Relaxed);
    }
}

/// The wakes of one turn that come on the thread of the scheduler.
pub(super) struct LocalWakes {
    /// The inbox of the scheduler that takes the turn, or null.
    inbox: Cell<*const Inbox>,
    /// Empty, without memory, between turns: it need not be dropped.
    woken: ManuallyDrop<RefCell<Vec<TaskId>>>,
}

thread_local! {
    static LOCAL: LocalWakes = const {
        LocalWakes {
            inbox: Cell::new(ptr::null()),
            woken: ManuallyDrop::new(RefCell::new(Vec::new())),
        }
    };
}

/// The list of the turn around another turn, and the inbox.
pub(super) type OuterWakes = (*const Inbox, Vec<TaskId>);

impl LocalWakes {
    /// Adds a wake, if the scheduler of this inbox takes a turn on this thread.
    #[inline]
    fn take(inbox: &Arc<Inbox>, id: TaskId) -> bool {
        LOCAL.with(|local| {
            let is_here = local.inbox.get() == Arc::as_ptr(inbox);
            if is_here {
                local.woken.borrow_mut().push(id);
            }
            is_here
        })
    }

    /// A turn begins, with this list, which is empty, or goes on with what it had.
    pub(super) fn enter(inbox: *const Inbox, woken: Vec<TaskId>) -> OuterWakes {
        LOCAL.with(|local| (local.inbox.replace(inbox), local.woken.replace(woken)))
    }

    /// Takes the list of the turn in exchange for `woken`, which is empty.
    #[inline]
    pub(super) fn swap(woken: &mut Vec<TaskId>) {
        LOCAL.with(|local| mem::swap(&mut *local.woken.borrow_mut(), woken));
    }
}

impl TaskId {
    /// The highest serial: the bit above it is that of the latch.
    pub(super) const LAST_SERIAL: u32 = u32::MAX >> 1;

    fn to_bits(self) -> u64 {
        u64::from(self.index) | u64::from(self.serial) << 32
    }

    fn from_bits(bits: u64) -> Self {
        TaskId {
            index: bits as u32,
            serial: (bits >> 32) as u32,
        }
    }
}

impl Wake for JobWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let before = self.state.fetch_or(LATCHED, Ordering::AcqRel);
        if before & LATCHED == 0 && before != NO_TASK {
            let id = TaskId::from_bits(before);
            if !LocalWakes::take(&self.inbox, id) {
                self.inbox.post(id);
            }
        }
    }
}
