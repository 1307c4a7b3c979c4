//! The loop of a scheduler: one turn, and what a turn does with a job.
//!
//! ```text
//!   turn:  take_inbox      wakes, calls and jobs from other threads
//!          ask_kernel      fds and deadlines, if it is time to; waits there if there is nothing to run
//!          start_pending   each job for the first time
//!          resume_ready    each ready job once
//!          take_local_wakes  wakes on this thread meanwhile
//!          end_turn        parks for a host
//!
//!   a job has run:  it has ended? retire       it has paused? Core::park; an engine that failed: cancel
//! ```
//!
//! No borrow of the [`Core`](super::tasks::Core) is held while a job runs, or while anything else of the user's does.

use std::any::Any;
use std::cell::RefMut;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::rc::Rc;
use std::time::Duration;

use super::bound_ctx::BoundCtx;
use super::cancel::CancelReason;
use super::current::Turning;
use super::join::SpawnedJob;
use super::tasks::{BATCH, Core, EndKind, Next, Pending};
use super::wake::TaskId;
use super::{Inner, JoinError, Scheduler, Turn};
use crate::error::{Panic, Quarantined, StartErrorKind};
use crate::job::{Job, Step, budget};
#[cfg(feature = "insight")]
use crate::pool;
use crate::sync::contain;
use crate::sys::clock_tick;
use crate::wait_ctx::ClaimedCtx;

impl Scheduler {
    /// Does one round: takes what other threads have sent, looks for ready fds and deadlines, starts up to 64 jobs, and
    /// resumes up to 64 ready jobs.
    ///
    /// If there is nothing to run, the turn first waits for up to `timeout`, and then runs what has become ready.
    /// `None` stands for a wait without limit, which does not wait if there is no job at all.
    ///
    /// To embed the scheduler in another loop, poll its fd ([`AsFd`](std::os::fd::AsFd)) there until it is readable,
    /// and until [`next_deadline`](Self::next_deadline) at the latest. Then call `turn(Some(Duration::ZERO))`. While
    /// [`Turn::ready`] is not 0, poll without waiting and call `turn` again: the fd does not tell of jobs that a turn
    /// has left to the next one. A few turns between two polls are cheaper than one. Their number needs a bound. A job
    /// whose sockets are always ready stays ready, and a loop until `ready` is 0 would never serve the fds of the host.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    pub fn turn(&self, timeout: Option<Duration>) -> io::Result<Turn> {
        let inner = &self.inner;
        inner.inbox.process().check()?;
        let _turning = Turning::enter(inner);
        if inner.parked.replace(false) {
            inner.inbox.unpark();
        }
        let calls = self.take_inbox();
        if calls == 0 && inner.has_nothing_to_run() {
            inner.wait(timeout)?;
            self.take_inbox();
        } else {
            inner.look_at_kernel(calls)?;
        }
        #[cfg(feature = "insight")]
        inner.gauges.turn_begins(|| inner.queues());
        budget::begin();
        let resumed = inner.start_pending() + inner.resume_ready();
        inner.take_local_wakes();
        #[cfg(feature = "insight")]
        inner
            .gauges
            .turn_ends(|| (inner.queues(), inner.stats(), pool::stats()));
        Ok(Turn {
            resumed,
            ready: inner.end_turn(resumed)?,
        })
    }

    /// Takes what other threads have sent: wakes, calls, requests to cancel, and jobs. Returns how many calls there
    /// were.
    #[inline]
    fn take_inbox(&self) -> usize {
        if self.inner.has_incoming() {
            self.take_incoming()
        } else {
            0
        }
    }

    #[inline(never)] // its frame would be that of `turn`
    fn take_incoming(&self) -> usize {
        let inner = &self.inner;
        let mut done = 0;
        if inner.inbox.has_messages() {
            let mut core = inner.core.borrow_mut();
            if let Some(id) = inner.inbox.take_first() {
                core.add_first_woken(id);
            }
            let mut woken = mem::take(&mut core.woken);
            let calls = inner.inbox.take(&mut woken);
            core.add_woken(&mut woken);
            core.woken = woken; // its memory is used again
            drop(core);
            done = calls.len();
            for call in calls {
                contain(|| call(self));
            }
        }
        inner.take_cancelled();
        if inner.shared.has_submissions() {
            inner.shared.take_share(&mut inner.core.borrow_mut().pending);
        }
        done
    }
}

impl Inner {
    /// Starts the jobs that have not run yet, up to a batch. Returns how many it started.
    #[inline]
    fn start_pending(&self) -> usize {
        if !self.core.borrow().has_unstarted() {
            return 0;
        }
        self.start_some()
    }

    #[inline(never)] // as `resume_some`
    fn start_some(&self) -> usize {
        let mut started = 0;
        if self.inbox.process().is_inherited() {
            return started;
        }
        let mut spare = None;
        for _ in 0..BATCH {
            let Some(pending) = self.core.borrow_mut().start_next() else {
                break;
            };
            started += usize::from(self.start(pending, &mut spare));
            if budget::has_run_out(|| self.inbox.process()) {
                if self.inbox.process().is_inherited() {
                    break; // the job has forked, and this is the child
                }
                // It has taken a while. The other jobs start all the same, before this one goes on.
                self.core.borrow_mut().ask_kernel_soon();
            }
        }
        if let Some(bound) = spare {
            let unkept = self.core.borrow_mut().keep_spare(bound);
            drop_contained(unkept);
        }
        started
    }

    /// Queues the jobs that were woken on this thread since the turn began.
    #[inline]
    fn take_local_wakes(&self) {
        self.core.borrow_mut().add_woken_here();
    }

    /// Takes the requests to cancel, from this thread and from others.
    #[inline]
    fn take_cancelled(&self) {
        if self.inbox.has_cancelled() {
            self.core.borrow_mut().cancel_next(self.inbox.take_cancelled());
        }
    }

    /// Runs a job for the first time. Returns `false` if there was no stack for it, and the job is pending again.
    ///
    /// `spare` is the wait ctx that the job before has left behind. One that ends leaves its ctx there, too, so that
    /// jobs that do not pause hand one on without a look at the list of spare ones.
    #[inline(always)] // a call would save and restore what each switch does not keep
    fn start(&self, pending: Pending, spare: &mut Option<BoundCtx>) -> bool {
        let Pending { main, plan, ctx } = pending;
        let completion = main.side().clone();
        if !completion.shared().starting(self.thread) {
            self.core.borrow_mut().stats.resumes -= 1;
            drop_contained((main, ctx));
            self.never_started(&completion);
            return true;
        }
        let bound = match (ctx, spare.take()) {
            (None, Some(bound)) => bound,
            (given, unused) => {
                *spare = unused;
                self.bind(given)
            }
        };
        let stack = match plan.take_stack() {
            Ok(stack) => stack,
            Err(refusal) => {
                let ctx = bound.into_given();
                return self.put_back(Pending { main, plan, ctx }, completion, refusal);
            }
        };
        self.starting.set(bound.ctx.address());
        let started = catch_unwind(AssertUnwindSafe(|| plan.start_on(stack, &bound.ctx, main)));
        self.starting.set(ptr::null());
        match started {
            Ok(Step::Finished(())) => self.end(bound, completion, spare),
            Ok(Step::Paused(job)) => {
                let (id, refused) = self.core.borrow_mut().park_first(job, bound, completion);
                if let Some((job, reason)) = refused {
                    self.cancel(id, job, reason);
                }
            }
            Err(payload) => {
                completion.fail(JoinError::Panicked(Panic::new(payload)));
                self.end(bound, completion, spare);
            }
        }
        true
    }

    /// The ctx of a job that starts: the one that its spawner has given it, a spare one, or a new one.
    #[inline(never)] // most jobs that start have one at hand
    fn bind(&self, given: Option<ClaimedCtx>) -> BoundCtx {
        let spare = match given {
            None => self.core.borrow_mut().take_spare(),
            Some(_) => None,
        };
        spare.unwrap_or_else(|| BoundCtx::new(given, &self.inbox))
    }

    /// Counts a job that was cancelled before it started.
    #[cold]
    fn never_started(&self, completion: &SpawnedJob) {
        completion.fail(JoinError::Cancelled);
        self.core.borrow_mut().count(EndKind::Cancelled);
        self.shared.ended_here(&self.inbox);
    }

    /// Handles a job for which there was no stack. The job waits until another job has ended. If there is no other job,
    /// it fails.
    #[cold]
    fn put_back(&self, job: Pending, completion: SpawnedJob, refusal: StartErrorKind) -> bool {
        let mut core = self.core.borrow_mut();
        core.stats.resumes -= 1;
        if core.tasks.is_empty() {
            drop(core);
            drop_contained(job);
            self.shared.ended_here(&self.inbox);
            completion.fail(JoinError::NoStack(refusal.into()));
            return true;
        }
        core.wait_for_stack(job, &refusal);
        false
    }

    /// Resumes the jobs that were ready at the start of the call, each once, up to a batch. Returns how many it
    /// resumed.
    #[inline]
    fn resume_ready(&self) -> usize {
        let batch = self.core.borrow().batch();
        if batch == 0 || self.inbox.process().is_inherited() {
            return 0;
        }
        self.resume_some(batch)
    }

    #[inline(never)] // so small, it has the switch in line
    fn resume_some(&self, batch: usize) -> usize {
        let mut core = self.core.borrow_mut();
        let mut left = batch;
        while left != 0 {
            if self.inbox.has_cancelled() {
                core.cancel_next(self.inbox.take_cancelled());
            }
            let next = core.next_ready();
            left -= 1; // before the switch, which keeps nothing in registers
            core = match next {
                Next::Resume(id, job) => {
                    drop(core);
                    self.resume(id, job)
                }
                Next::Cancel(id, job) => {
                    drop(core);
                    self.cancel(id, job, CancelReason::Asked);
                    self.core.borrow_mut()
                }
                Next::Nothing => {
                    left += 1;
                    break;
                }
            };
            if budget::has_run_out(|| self.inbox.process()) {
                core.ask_kernel_soon(); // the job has taken a while, or has forked, so the turn ends early
                break;
            }
        }
        batch - left
    }

    /// Resumes the job. Returns the core, which is borrowed for a job that has paused anyway.
    #[inline(always)] // a call would save and restore what each switch does not keep
    fn resume(&self, id: TaskId, job: Job<()>) -> RefMut<'_, Core> {
        match catch_unwind(AssertUnwindSafe(|| job.resume())) {
            Ok(Step::Paused(job)) => {
                let mut core = self.core.borrow_mut();
                let Some((job, reason)) = core.park(id, job) else {
                    return core;
                };
                drop(core);
                self.cancel(id, job, reason);
            }
            Ok(Step::Finished(())) => self.retire(id, EndKind::Finished),
            Err(payload) => self.hook_panicked(id, payload),
        }
        self.core.borrow_mut()
    }

    /// Cancels a paused job, for this reason.
    #[cold]
    fn cancel(&self, id: TaskId, job: Job<()>, reason: CancelReason) {
        let completion = self.core.borrow_mut().completion(id);
        if let Some(completion) = &completion {
            completion.shared().cancelling(reason);
        }
        match catch_unwind(AssertUnwindSafe(|| job.cancel())) {
            Ok(Ok(())) => {
                drop(completion); // the task has another one, which gives the result when it is retired
                self.retire(id, EndKind::Cancelled);
            }
            Ok(Err(Quarantined)) => {
                if let Some(completion) = completion {
                    completion.fail(JoinError::Quarantined);
                }
                self.retire(id, EndKind::Quarantined);
            }
            Err(payload) => self.hook_panicked(id, payload),
        }
    }

    /// Handles a panic that came out of a switch hook, and not out of the job's closure.
    #[cold]
    fn hook_panicked(&self, id: TaskId, payload: Box<dyn Any + Send>) {
        let completion = self.core.borrow_mut().completion(id);
        if let Some(completion) = completion {
            completion.fail(JoinError::Panicked(Panic::new(payload)));
        }
        self.retire(id, EndKind::Finished);
    }

    /// Removes the task of a job that has ended.
    #[inline(never)] // its frame would be that of `resume_some`
    fn retire(&self, id: TaskId, end: EndKind) {
        let retired = self.core.borrow_mut().retire(id, end);
        self.shared.ended_here(&self.inbox);
        drop_contained(retired); // after the borrow has ended: the ctx may own values whose drop runs any code
    }

    /// As [`retire`](Self::retire), for a job that has finished without a pause, and so has no task. Its ctx is the
    /// spare one after this, if it is as good as new.
    #[inline(always)] // as `start`
    fn end(&self, mut bound: BoundCtx, completion: SpawnedJob, spare: &mut Option<BoundCtx>) {
        self.core.borrow_mut().ended(EndKind::Finished);
        self.shared.ended_here(&self.inbox);
        if spare.is_none() && bound.renew() {
            mem::forget(spare.replace(bound)); // there was none, which needs no second look
            completion.let_go();
        } else {
            drop_contained((completion, bound)); // as above
        }
    }

    /// Whether no job can start or go on, as far as this thread knows. What other threads have sent since it was taken
    /// is seen before the scheduler sleeps.
    fn has_nothing_to_run(&self) -> bool {
        self.core.borrow().runnable() == 0
    }

    /// Asks the kernel for ready fds, and waits there until there is something to do.
    fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        let is_parked = timeout != Some(Duration::ZERO) && self.park();
        let mut core = self.core.borrow_mut();
        // A worker that stops has nothing to wait for when its own jobs have ended: another worker may have taken the
        // last submission since this one saw it, and nothing would notify this one then.
        let has_stopped = self.stop_at.get().is_some() && core.tasks.is_empty() && !core.has_unstarted();
        let has_no_jobs = timeout.is_none() && self.shared.live() == 0;
        let timeout = if !is_parked || has_no_jobs || has_stopped {
            Some(Duration::ZERO)
        } else {
            timeout
        };
        let timeout = core.until_next_timer(timeout);
        let waited = core.wait(timeout);
        if is_parked {
            self.inbox.unpark();
        }
        // What runs next runs now.
        core.turn_began = core.asked_at;
        waited
    }

    /// Asks the kernel for ready fds, if it is time to and there are any.
    fn look_at_kernel(&self, calls: usize) -> io::Result<()> {
        let mut core = self.core.borrow_mut();
        core.turn_began = clock_tick();
        if !core.kernel_is_due(calls) {
            return Ok(());
        }
        // What other threads have sent is in the inbox, with or without a notification. A notification that has come
        // too late for the wait that it is for makes the fd of a host readable, so it is cleared then.
        if core.watches_fds() || self.is_hosted() {
            return core.wait(Some(Duration::ZERO));
        }
        core.look_at_clock();
        Ok(())
    }

    /// Parks for a host, if there is nothing left to do. Returns how much there is: the jobs that can run, and one for
    /// what other threads have sent.
    fn end_turn(&self, resumed: usize) -> io::Result<usize> {
        self.inbox.process().check()?;
        let mut core = self.core.borrow_mut();
        core.resumed_since += resumed;
        let ready = core.runnable() + usize::from(self.has_incoming());
        if self.is_hosted() {
            // The host may sleep on the fd next.
            self.parked.set(ready == 0);
            if ready == 0 && !self.park() {
                return Ok(1);
            }
        }
        Ok(ready)
    }

    /// Cancels every job, started or not.
    pub(super) fn cancel_all(self: &Rc<Self>) {
        let _turning = Turning::enter(self);
        self.shared.take_all(&mut self.core.borrow_mut().pending);
        loop {
            let Some(pending) = self.core.borrow_mut().take_unstarted() else {
                break;
            };
            let completion = pending.main.side().clone();
            drop_contained(pending);
            self.never_started(&completion);
            drop_contained(completion);
        }
        let ids = self.core.borrow().ids();
        for id in ids {
            let job = self.core.borrow_mut().take_job(id);
            if let Some(job) = job {
                self.cancel(id, job, CancelReason::Asked);
            }
        }
    }
}

/// Drops what belongs to the user. A panic of a destructor ends here, after the panic hook has reported it, so that it
/// stops no other job.
pub(super) fn drop_contained<T>(value: T) {
    contain(|| drop(value));
}
