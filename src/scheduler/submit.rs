//! The queue by which jobs come to a scheduler from other threads. All workers share one queue of jobs that have not
//! started.
//!
//! ```text
//!   Handle::spawn ---> submissions ---> the worker that looks next; one parked worker is notified
//!                                            |           |           |
//!                                        scheduler   scheduler   scheduler     one on each thread
//! ```
//!
//! The queue has no lock. So a submission does not wait for a worker that takes its share, or the other way round.
//!
//! A job stays on the thread that started it: the compiler keeps addresses of thread-locals across a switch, so a job
//! that has started must not move. A job that has not started goes to the thread that is free.

use std::borrow::Cow;
use std::collections::VecDeque;
#[cfg(not(asyncjob_loom))]
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::thread::ThreadId;

use crossbeam_queue::SegQueue;
use crossbeam_utils::CachePadded;
#[cfg(asyncjob_loom)]
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::join::{JoinError, JoinState};
use super::tasks::Pending;
use super::turn::drop_contained;
use super::wake::Inbox;
use crate::error::SpawnErrorKind;
use crate::hooks::SwitchHooks;
use crate::job::{JobPlan, SendClosure};
use crate::stack::StackSize;
use crate::sync::{WaitQueue, Waiter, wake};
use crate::sys::Process;
use crate::wait_ctx::ClaimedCtx;

/// A job that another thread has spawned and no scheduler has taken yet.
pub(super) struct Submission {
    pub(super) main: SendClosure<JoinState>,
    pub(super) name: Option<Cow<'static, str>>,
    pub(super) stack_size: Option<StackSize>,
    pub(super) hooks: Option<Box<dyn SwitchHooks + Send>>,
    pub(super) ctx: Option<ClaimedCtx>,
}

impl From<Submission> for Pending {
    fn from(submission: Submission) -> Self {
        let hooks = submission.hooks.map(|hooks| hooks as Box<dyn SwitchHooks>);
        Pending {
            main: submission.main.into_owned(),
            plan: JobPlan::new(submission.name, submission.stack_size, hooks),
            ctx: submission.ctx,
        }
    }
}

/// How many jobs a worker takes at once while other workers might take them.
const LARGEST_SHARE: usize = 8;

/// What all threads of one scheduler, or of all workers, share.
pub(super) struct WorkerGroup {
    pub(super) inboxes: Vec<Arc<Inbox>>,
    /// The inbox at which the search for a parked scheduler begins. It is written when one was found.
    next: AtomicUsize,
    /// The jobs that no scheduler has taken yet.
    submissions: SegQueue<Submission>,
    /// How many jobs have not ended, without what the inboxes count. Other threads change it with every spawn.
    live: CachePadded<AtomicUsize>,
    /// How many jobs there may be.
    max_jobs: usize,
    /// Whether new jobs are refused.
    closed: AtomicBool,
    /// How many spawns were refused.
    refused: AtomicUsize,
    /// How many schedulers still exist.
    open: AtomicUsize,
    /// Held by a thread from when it takes a job out of the queue to refuse it until the job has the answer.
    refusing: Mutex<()>,
    /// The tasks that wait for capacity.
    waiting: WaitQueue,
    /// The thread of the scheduler or worker, if there is only one.
    pub(super) thread: OnceLock<ThreadId>,
}

impl WorkerGroup {
    pub(super) fn new(inboxes: Vec<Arc<Inbox>>, max_jobs: usize) -> Self {
        WorkerGroup {
            open: AtomicUsize::new(inboxes.len()),
            inboxes,
            next: AtomicUsize::new(0),
            submissions: SegQueue::new(),
            live: CachePadded::new(AtomicUsize::new(0)),
            max_jobs,
            closed: AtomicBool::new(false),
            refused: AtomicUsize::new(0),
            refusing: Mutex::new(()),
            waiting: WaitQueue::new(),
            thread: OnceLock::new(),
        }
    }

    /// The process of the schedulers.
    #[inline]
    pub(super) fn process(&self) -> Process {
        self.inboxes[0].process()
    }

    /// Counts another job and claims its wait ctx, if there may be another job and the ctx is free.
    pub(super) fn admit<C>(&self, claim: impl FnOnce() -> Result<C, SpawnErrorKind>) -> Result<C, SpawnErrorKind> {
        self.check_open(self.process())?;
        if self.live.fetch_add(1, Ordering::SeqCst) >= self.max_jobs {
            self.take_back_refused();
            let max_jobs = self.max_jobs;
            return Err(SpawnErrorKind::Full { max_jobs });
        }
        claim().inspect_err(|_| self.ended())
    }

    /// Takes back the count of a job that was refused. If a job ended while both were counted, the waiter that it
    /// notified has found no capacity and lined up again, so it is notified here.
    #[cold]
    fn take_back_refused(&self) {
        self.count_refused();
        if self.live.fetch_sub(1, Ordering::SeqCst) <= self.max_jobs {
            self.waiting.notify_one();
        }
    }

    /// As [`admit`](Self::admit), on the thread of the scheduler of this inbox.
    #[inline]
    pub(super) fn admit_here<C>(
        &self,
        inbox: &Inbox,
        claim: impl FnOnce() -> Result<C, SpawnErrorKind>,
    ) -> Result<C, SpawnErrorKind> {
        if self.is_bounded() {
            return self.admit(claim);
        }
        self.check_open(inbox.process())?;
        let ctx = claim()?;
        inbox.count_live(1);
        Ok(ctx)
    }

    /// Counts a job as ended, and lets the next task that waits for capacity try.
    pub(super) fn ended(&self) {
        self.live.fetch_sub(1, Ordering::SeqCst);
        self.waiting.notify_one();
    }

    /// As [`ended`](Self::ended), on the thread of the scheduler of this inbox.
    #[inline]
    pub(super) fn ended_here(&self, inbox: &Inbox) {
        if self.is_bounded() {
            self.ended();
        } else {
            inbox.count_live(usize::MAX);
        }
    }

    /// Whether there is a limit of jobs. Without one nothing compares the number of jobs with anything before it is
    /// changed, so that each thread can count for itself.
    #[inline]
    fn is_bounded(&self) -> bool {
        self.max_jobs != usize::MAX
    }

    /// Fails in a child of the process, and when new jobs are refused.
    #[inline]
    fn check_open(&self, process: Process) -> Result<(), SpawnErrorKind> {
        if process.is_inherited() {
            return Err(SpawnErrorKind::Forked);
        }
        if self.closed.load(Ordering::SeqCst) {
            self.count_refused();
            return Err(SpawnErrorKind::ShuttingDown);
        }
        Ok(())
    }

    #[cold]
    fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// How many spawns were refused, because there were too many jobs or the scheduler was shutting down.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed) as u64
    }

    /// How many jobs no scheduler has taken yet.
    #[cfg(feature = "insight")]
    pub(super) fn submitted(&self) -> usize {
        self.submissions.len()
    }

    /// Ready when there is capacity and it is the turn of this waiter.
    pub(super) fn poll_capacity(&self, waiter: &mut Waiter, task: &mut Context<'_>) -> Poll<()> {
        if self.process().is_inherited() {
            return Poll::Ready(()); // and the spawn says why it is refused
        }
        self.waiting.poll(waiter, task, || self.has_capacity())
    }

    /// Removes a waiter for capacity from the queue.
    pub(super) fn withdraw(&self, waiter: &mut Waiter) {
        if self.process().is_inherited() {
            return; // a thread of the parent may have held the lock
        }
        self.waiting.withdraw(waiter, || self.has_capacity());
    }

    /// How many jobs have not ended.
    ///
    /// A job that another thread submits is counted there, and its end by the inbox of its scheduler, which is
    /// therefore read first: a job that ends meanwhile counts as one that has not ended.
    pub(super) fn live(&self) -> usize {
        let here = self
            .inboxes
            .iter()
            .map(|inbox| inbox.live())
            .fold(0, usize::wrapping_add);
        here.wrapping_add(self.live.load(Ordering::SeqCst))
    }

    /// Whether another job would be accepted. This is also true when there will never be capacity again, so that
    /// nothing waits for it.
    pub(super) fn has_capacity(&self) -> bool {
        self.live() < self.max_jobs || self.closed.load(Ordering::SeqCst)
    }

    /// Refuses new jobs from now on.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.waiting.notify_all();
    }

    /// Counts a scheduler as gone. After the last one nothing is left to take jobs.
    pub(super) fn close_one(&self) {
        if self.open.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.close();
        }
    }

    /// Puts a job into the queue and wakes a parked scheduler.
    ///
    /// What this reads after the push, and what a scheduler writes before it looks at the queue for the last time
    /// before it sleeps or goes, are sequentially consistent. So either this sees that, or the scheduler sees the job.
    pub(super) fn submit(&self, submission: Submission) {
        self.submissions.push(submission);
        if self.open.load(Ordering::SeqCst) == 0 {
            return self.refuse_rest();
        }
        // A scheduler that is awake looks at the queue by itself.
        let (first, count) = (self.next.load(Ordering::Relaxed), self.inboxes.len());
        let parked = (0..count)
            .map(|n| (first + n) % count)
            .find(|at| self.inboxes[*at].notify_if_parked());
        if let Some(at) = parked {
            self.next.store(at + 1, Ordering::Relaxed);
        }
    }

    /// Fails the jobs that were admitted before the last scheduler was closed, and submitted after that scheduler had
    /// looked at the queue. One of these may be in the hands of another thread: when this returns, it has its answer.
    #[cold]
    fn refuse_rest(&self) {
        let refusing = self.refusing.lock();
        let rest = std::iter::from_fn(|| self.submissions.pop()).map(|submission| {
            let refused = Pending::from(submission);
            let waker = refused.main.side().fail_quietly(JoinError::Cancelled);
            (refused, waker)
        });
        let rest: Vec<_> = rest.collect();
        drop(refusing); // before any code of the user runs
        for (refused, waker) in rest {
            waker.map(wake);
            self.ended();
            drop_contained(refused);
        }
    }

    /// Whether the queue has jobs.
    #[inline]
    pub(super) fn has_submissions(&self) -> bool {
        !self.submissions.is_empty()
    }

    /// Takes one worker's share of the queue. The share is small, because no other worker can run what this one has
    /// taken, however long its next job computes.
    pub(super) fn take_share(&self, pending: &mut VecDeque<Pending>) {
        let mut share = self.submissions.len().div_ceil(self.inboxes.len());
        if self.inboxes.len() > 1 {
            share = share.min(LARGEST_SHARE);
        }
        let taken = std::iter::from_fn(|| self.submissions.pop()).take(share);
        pending.extend(taken.map(Pending::from));
    }

    /// Takes the whole queue. A job that another thread has taken to refuse it has its answer when this returns.
    pub(super) fn take_all(&self, pending: &mut VecDeque<Pending>) {
        let refusing = self.refusing.lock();
        pending.extend(std::iter::from_fn(|| self.submissions.pop()).map(Pending::from));
        drop(refusing);
    }
}

#[cfg(all(test, not(asyncjob_loom)))]
mod tests {
    use std::future::{Future, poll_fn};
    use std::pin::pin;
    use std::sync::atomic::AtomicU32;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicU32);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_job_that_ends_during_a_refusal_is_not_hidden_from_the_waiter() {
        let shared = WorkerGroup::new(vec![Arc::new(Inbox::new().unwrap())], 1);
        let (wakes, mut waiter) = (Arc::new(Wakes::default()), Waiter::new());
        let waker = Arc::clone(&wakes).into();
        let mut task = Context::from_waker(&waker);
        let mut capacity = pin!(poll_fn(|task| shared.poll_capacity(&mut waiter, task)));

        shared.admit(|| Ok(())).unwrap();
        assert!(capacity.as_mut().poll(&mut task).is_pending());
        shared.live.fetch_add(1, Ordering::SeqCst); // another thread is in the middle of an `admit` that fails
        shared.ended();
        assert!(
            capacity.as_mut().poll(&mut task).is_pending(),
            "the refused job is still counted"
        );
        let wakes_before = wakes.0.load(Ordering::SeqCst);
        shared.take_back_refused();
        assert_eq!(wakes.0.load(Ordering::SeqCst), wakes_before + 1);
        assert!(capacity.as_mut().poll(&mut task).is_ready());
    }
}
