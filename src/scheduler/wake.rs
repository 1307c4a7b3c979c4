//! Wakes: from callbacks on any thread to the jobs to resume.
//!
//! ```text
//!   any thread                                            the scheduler's thread
//!
//!   JobWaker::wake                        first           Inbox::take_first: the task is marked as woken
//!     is `first` empty?  -----------------> [id] ----->   Inbox::take: the messages, under one lock
//!     latched already? nothing to do                      JobWaker::start_resume: clears the latch and `first`
//!     sets the latch, Inbox::post  -------> [id][id] ->   nothing left to run?
//!     was the inbox parked? notify -----> eventfd  ---->    Inbox::park, epoll_wait
//!
//!   JoinHandle::request_cancel
//!     Inbox::post_cancel(id)  ---------> [id]  ------->   Inbox::take_cancelled: looked at before each resume
//! ```
//!
//! A wake is in `first`, or has made the task ready, or has set the latch. All three end just before the job is
//! resumed. So a wake that comes before the pause (S64) is kept, and two wakes cost one resume. A wake that comes after
//! the job has ended has the id of a task that does not exist any more.
//!
//! # From another processor
//!
//! A wake from another processor costs what it moves of cache lines from one to the other. The first wake since the
//! scheduler looked goes to `first`, which is in the line that the scheduler looks at in each turn. So a wake moves
//! this line and no other: the line of the waker is only read, on both sides. A wake that finds another one there, or
//! an earlier one of the same job, sets the latch and goes to the list of messages, under a lock. The latch bounds the
//! list to one message for each job.
//!
//! The latch is set and cleared by an exchange, so that the resume sees what came before each wake that found it set. A
//! wake never relies on what it finds in `first`: the scheduler takes that by a load and a store, which is enough only
//! because no one else changes a task that is there.
//!
//! A thread looks at `parked` after it has sent something, and the scheduler looks for what was sent after it has set
//! `parked`. These operations are sequentially consistent, so one of the two sees the other.
//!
//! # From the same thread
//!
//! A wake on the scheduler's own thread during a turn goes to a list of that thread ([`LocalWakes`]), and has a latch
//! of its own: neither needs a lock, or an atomic operation that reads and writes. A waker finds out that it is called
//! there by the address of the thread, which is in a register. The scheduler takes the list before its turn ends, and
//! before it queues a job that gives way: the jobs that this one has woken go on before it.
//!
//! # When the scheduler sleeps
//!
//! A scheduler parks before it sleeps, and is unparked when it has slept. Between two turns it is parked only if a host
//! has asked for its fd, because nothing else can sleep there. So a wake or a spawn costs no system call while the
//! scheduler is awake.

use std::mem;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::Arc;
// Of std for loom, too: one thread alone uses what has these types.
use std::sync::atomic::{AtomicBool as OwnBool, AtomicU64 as OwnU64, AtomicUsize as OwnUsize};
#[cfg(not(asyncjob_loom))]
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Wake;

use crossbeam_utils::CachePadded;
#[cfg(asyncjob_loom)]
use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use parking_lot::Mutex;

use super::Scheduler;
use crate::sync::contain;
use crate::sys::{Notifier, Process, thread_address};

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
    front: CachePadded<Front>,
    /// How many jobs the scheduler has spawned itself, less how many have ended. It wraps around. The scheduler's
    /// thread alone changes it.
    live: CachePadded<AtomicUsize>,
    pub(super) local: CachePadded<LocalWakes>,
    messages: Mutex<Messages>,
    notifier: Notifier,
}

/// What the scheduler looks at in each turn, in a cache line of its own.
struct Front {
    /// The first woken task since the scheduler looked, or [`EMPTY`], from which alone another thread changes it.
    first: AtomicU64,
    /// Whether the scheduler waits in the kernel, or its host does. What is sent must notify it then.
    parked: AtomicBool,
    /// Whether there may be messages, which saves the lock when there are none. A message that is not seen yet is seen
    /// at the next turn.
    has_messages: AtomicBool,
    /// Whether there may be jobs to cancel among the messages.
    has_cancelled: AtomicBool,
}

/// There is no woken task in `first`.
const EMPTY: u64 = NO_TASK;

/// The messages of an inbox.
#[derive(Default)]
pub(super) struct Messages {
    pub(super) woken: Vec<TaskId>,
    pub(super) cancelled: Vec<TaskId>,
    pub(super) calls: Vec<RemoteCall>,
    /// Whether the scheduler is gone. It makes no more calls then.
    closed: bool,
}

impl Inbox {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Inbox {
            front: CachePadded::new(Front {
                first: AtomicU64::new(EMPTY),
                parked: AtomicBool::new(false),
                has_messages: AtomicBool::new(false),
                has_cancelled: AtomicBool::new(false),
            }),
            live: CachePadded::new(AtomicUsize::new(0)),
            local: CachePadded::new(LocalWakes::new()),
            messages: Mutex::default(),
            notifier: Notifier::new()?,
        })
    }

    /// Adds to the number of jobs, on the scheduler's thread.
    #[inline]
    pub(super) fn count_live(&self, change: usize) {
        let live = self.live.load(Ordering::Relaxed).wrapping_add(change);
        // Release: who sees that a job has ended sees what it did.
        self.live.store(live, Ordering::Release);
    }

    /// The number of jobs that the scheduler has counted. It wraps around.
    pub(super) fn live(&self) -> usize {
        self.live.load(Ordering::Acquire)
    }

    /// Lets the scheduler resume a task, if this is the first wake since the scheduler looked. Returns `false` if it is
    /// not.
    pub(super) fn post_first(&self, id: TaskId) -> bool {
        if self.process().is_inherited() {
            return true;
        }
        // A read before the exchange would move the cache line twice.
        let first = &self.front.first;
        let posted = first.compare_exchange(EMPTY, id.to_bits(), Ordering::SeqCst, Ordering::Relaxed);
        if posted.is_ok() {
            self.notify_if_parked();
        }
        posted.is_ok()
    }

    /// Lets the scheduler resume a task whose latch is set.
    pub(super) fn post(&self, id: TaskId) {
        self.put(|messages| messages.woken.push(id));
    }

    /// Lets the scheduler cancel a task.
    pub(super) fn post_cancel(&self, id: TaskId) {
        self.put(|messages| {
            messages.cancelled.push(id);
            self.front.has_cancelled.store(true, Ordering::Release);
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
        let calls = mem::take(&mut messages.calls);
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
        self.front.has_messages.store(true, Ordering::SeqCst);
        drop(messages);
        self.notify_if_parked();
    }

    /// Wakes the scheduler if it is parked. Returns whether it was.
    ///
    /// The caller has stored what the scheduler looks for after it has parked, by a sequentially consistent operation.
    pub(super) fn notify_if_parked(&self) -> bool {
        if self.process().is_inherited() {
            return false;
        }
        fence_of_loom();
        let parked = &self.front.parked;
        let was_parked = parked.load(Ordering::SeqCst) && parked.swap(false, Ordering::SeqCst);
        if was_parked {
            self.notifier.notify();
        }
        was_parked
    }

    /// Makes the fd of the scheduler readable, for a host that may sleep on it.
    pub(super) fn notify(&self) {
        self.notifier.notify();
    }

    /// Whether there is something to take.
    #[inline]
    pub(super) fn has_messages(&self) -> bool {
        is_task(self.front.first.load(Ordering::Relaxed)) || self.front.has_messages.load(Ordering::Relaxed)
    }

    /// Takes the first woken task. Its latch is not set, so the scheduler has to mark it as woken.
    pub(super) fn take_first(&self) -> Option<TaskId> {
        // Acquire: the job sees what the waking thread did before.
        let first = self.front.first.load(Ordering::Acquire);
        is_task(first).then(|| {
            // No other thread changes a task there, so this needs no exchange, which would wait for the cache line.
            self.front.first.store(EMPTY, Ordering::Relaxed);
            TaskId::from_bits(first)
        })
    }

    /// Takes the messages. The woken tasks go to `woken`, which is empty, so that its memory is used again.
    pub(super) fn take(&self, woken: &mut Vec<TaskId>) -> Vec<RemoteCall> {
        debug_assert!(woken.is_empty());
        if !self.front.has_messages.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let mut messages = self.messages.lock();
        mem::swap(&mut messages.woken, woken);
        self.front.has_messages.store(false, Ordering::Relaxed);
        mem::take(&mut messages.calls)
    }

    /// Whether there may be tasks to cancel.
    #[inline]
    pub(super) fn has_cancelled(&self) -> bool {
        self.front.has_cancelled.load(Ordering::Acquire)
    }

    /// Takes the tasks to cancel.
    #[cold]
    pub(super) fn take_cancelled(&self) -> Vec<TaskId> {
        let mut messages = self.messages.lock();
        self.front.has_cancelled.store(false, Ordering::Relaxed);
        mem::take(&mut messages.cancelled)
    }

    /// Marks the scheduler as parked: from now on what is sent notifies it. Returns `false` if there is something
    /// already.
    pub(super) fn park(&self) -> bool {
        self.front.parked.store(true, Ordering::SeqCst);
        fence_of_loom();
        let front = &self.front;
        let is_empty = !is_task(front.first.load(Ordering::SeqCst)) && !front.has_messages.load(Ordering::SeqCst);
        if !is_empty {
            self.unpark();
        }
        is_empty
    }

    /// Marks the scheduler as awake: from now on what is sent need not notify it.
    #[inline]
    pub(super) fn unpark(&self) {
        // Not an exchange: a thread that sees the value before notifies, which is allowed.
        self.front.parked.store(false, Ordering::Relaxed);
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

/// loom takes a sequentially consistent access for one that acquires and releases, and knows sequential consistency of
/// fences only. So there is a fence here for it, between two such accesses.
#[inline]
fn fence_of_loom() {
    #[cfg(asyncjob_loom)]
    loom::sync::atomic::fence(Ordering::SeqCst);
}

/// The callback of the ctx of one job. What completes the wait of the job calls it.
pub(super) struct JobWaker {
    inbox: Arc<Inbox>,
    /// The latch, and the id of the task. A wake that goes to `first` does not set it. They are one word, so that a
    /// wake either sees the task or is seen when the task is made.
    state: AtomicU64,
    /// The scheduler's own thread, which has made the waker.
    home: usize,
    /// The latch of the wakes on that thread, which alone reads and writes it.
    is_woken_here: OwnBool,
    /// Whether the spawner of the job has given the ctx.
    is_of_given_ctx: bool,
}

/// The latch: a wake has come, and the job has not been resumed since.
const LATCHED: u64 = 1 << 63;
/// The job has not paused yet, so it has no task.
const NO_TASK: u64 = u32::MAX as u64;

/// Whether there is a task in these bits.
#[inline]
fn is_task(bits: u64) -> bool {
    bits as u32 != u32::MAX
}

impl JobWaker {
    /// Makes the waker of a job that starts, on the scheduler's own thread.
    pub(super) fn new(inbox: Arc<Inbox>, is_of_given_ctx: bool) -> Self {
        JobWaker {
            inbox,
            state: AtomicU64::new(NO_TASK),
            home: thread_address(),
            is_woken_here: OwnBool::new(false),
            is_of_given_ctx,
        }
    }

    /// Whether the spawner of the job has given the ctx whose callback this is.
    #[inline]
    pub(super) fn is_of_given_ctx(&self) -> bool {
        self.is_of_given_ctx
    }

    /// Stores the task, which a wake is posted for from now on. Returns whether a wake has come already.
    pub(super) fn set_task(&self, id: TaskId) -> bool {
        let without_latch = NO_TASK ^ id.to_bits();
        // AcqRel: what a thread did before its wake is visible to the job.
        let is_latched = self.state.fetch_xor(without_latch, Ordering::AcqRel) & LATCHED != 0;
        is_latched || self.is_woken_here.load(Ordering::Relaxed)
    }

    /// Whether a latch says that a wake has come since the job was resumed last.
    #[inline]
    pub(super) fn is_woken(&self) -> bool {
        self.is_woken_here.load(Ordering::Relaxed) || self.state.load(Ordering::Relaxed) & LATCHED != 0
    }

    /// Clears the latches, and takes a wake of the task from `first`, when the job is about to run: a wake from now on
    /// is about its next pause. Returns whether there was a wake.
    ///
    /// The inbox is that of the waker, which the caller has at hand.
    #[inline]
    pub(super) fn start_resume(&self, inbox: &Inbox) -> bool {
        debug_assert!(ptr::eq(inbox, &*self.inbox));
        let state = self.state.load(Ordering::Relaxed);
        debug_assert!(is_task(state));
        if state & LATCHED != 0 || inbox.front.first.load(Ordering::Relaxed) == state {
            self.take_remote_wake(state);
            return true;
        }
        self.take_local_wake()
    }

    /// Clears the latch of this thread. Returns whether it was set.
    #[inline]
    fn take_local_wake(&self) -> bool {
        let is_woken_here = self.is_woken_here.load(Ordering::Relaxed);
        if is_woken_here {
            // Not otherwise: the cache line may be that of other processors, too, as long as it is only read.
            self.is_woken_here.store(false, Ordering::Relaxed);
        }
        is_woken_here
    }

    /// As [`start_resume`](Self::start_resume), if another thread has woken the task.
    #[cold]
    fn take_remote_wake(&self, state: u64) {
        self.take_local_wake();
        // Acquire, and the store: as in `take_first`.
        let first = &self.inbox.front.first;
        if first.load(Ordering::Acquire) == state & !LATCHED {
            first.store(EMPTY, Ordering::Relaxed);
        }
        if state & LATCHED != 0 {
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
        self.is_woken_here.store(false, Ordering::Relaxed);
    }

    /// A wake on the thread of the scheduler, during its turn, when so many tasks are in the list of local wakes.
    #[inline]
    fn wake_here(&self, listed: usize) {
        let state = self.state.load(Ordering::Relaxed);
        if self.is_woken_here.load(Ordering::Relaxed) || state & LATCHED != 0 {
            return;
        }
        self.is_woken_here.store(true, Ordering::Relaxed);
        if is_task(state) {
            self.inbox.local.add(listed, state);
        }
    }
}

/// How many local wakes there are before they are moved on.
const MOST_LISTED: usize = 64;
/// What is in place of their number between two turns.
const CLOSED: usize = usize::MAX;

/// The wakes of one turn that come on the thread of the scheduler. That thread alone reads and writes them.
pub(super) struct LocalWakes {
    /// How many tasks are listed, or [`CLOSED`].
    len: OwnUsize,
    listed: [OwnU64; MOST_LISTED],
    /// Whether the list was full and the tasks in it were moved to `earlier`. There is one in the list since then.
    has_earlier: OwnBool,
    earlier: Mutex<Vec<TaskId>>,
}

impl LocalWakes {
    fn new() -> Self {
        LocalWakes {
            len: OwnUsize::new(CLOSED),
            listed: [const { OwnU64::new(0) }; MOST_LISTED],
            has_earlier: OwnBool::new(false),
            earlier: Mutex::default(),
        }
    }

    /// Adds a task to those that are listed.
    #[inline]
    fn add(&self, listed: usize, task: u64) {
        self.listed[listed].store(task, Ordering::Relaxed);
        self.len.store(listed + 1, Ordering::Relaxed);
    }

    /// Moves the tasks that are listed on, so that there is room for others.
    fn move_on(&self) {
        self.move_to(&mut self.earlier.lock(), MOST_LISTED);
        self.has_earlier.store(true, Ordering::Relaxed);
    }

    fn move_to(&self, tasks: &mut Vec<TaskId>, listed: usize) {
        tasks.extend(
            self.listed[..listed]
                .iter()
                .map(|task| TaskId::from_bits(task.load(Ordering::Relaxed))),
        );
        self.len.store(0, Ordering::Relaxed);
    }

    /// A turn begins.
    #[inline]
    pub(super) fn open(&self) {
        self.len.store(0, Ordering::Relaxed);
    }

    /// A turn ends. Returns `false` if there are wakes that the turn has not taken: it takes them first.
    #[inline]
    pub(super) fn close(&self) -> bool {
        let is_empty = self.len.load(Ordering::Relaxed) == 0;
        if is_empty {
            self.len.store(CLOSED, Ordering::Relaxed);
        }
        is_empty
    }

    /// Moves the tasks that were woken since the turn began, or since the last call, to the end of `tasks`.
    #[inline]
    pub(super) fn take(&self, tasks: &mut Vec<TaskId>) {
        let listed = self.len.load(Ordering::Relaxed);
        if listed == 0 {
            return;
        }
        if self.has_earlier.load(Ordering::Relaxed) {
            self.take_earlier(tasks);
        }
        self.move_to(tasks, listed);
    }

    #[cold]
    #[inline(never)]
    fn take_earlier(&self, tasks: &mut Vec<TaskId>) {
        self.has_earlier.store(false, Ordering::Relaxed);
        tasks.append(&mut self.earlier.lock());
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

    #[inline]
    fn wake_by_ref(self: &Arc<Self>) {
        if self.home == thread_address() {
            let listed = self.inbox.local.len.load(Ordering::Relaxed);
            if listed < MOST_LISTED {
                return self.wake_here(listed);
            }
        }
        self.wake_slowly(); // the only call, and at the end: nothing is saved before it
    }
}

impl JobWaker {
    /// A wake on another thread, or between the turns of the scheduler, or one that finds the list full.
    #[inline(never)]
    fn wake_slowly(&self) {
        let local = &self.inbox.local;
        if self.home == thread_address() && local.len.load(Ordering::Relaxed) != CLOSED {
            local.move_on();
            self.wake_here(0);
        } else {
            self.wake_elsewhere();
        }
    }

    /// A wake on another thread, or between the turns of the scheduler.
    fn wake_elsewhere(&self) {
        // Relaxed: who reads the task here may post it, and who does not read it yet goes on to the exchange.
        let state = self.state.load(Ordering::Relaxed);
        if state & LATCHED == 0 && is_task(state) && self.inbox.post_first(TaskId::from_bits(state)) {
            return;
        }
        let before = self.state.fetch_or(LATCHED, Ordering::AcqRel);
        if before & LATCHED == 0 && is_task(before) {
            self.inbox.post(TaskId::from_bits(before));
        }
    }
}
