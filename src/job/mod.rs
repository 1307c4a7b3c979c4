//! A job: synchronous code on a stack of its own, which can pause.
//!
//! # The states of a job
//!
//! ```text
//!              start_job                       resume
//!                  |                             |
//!                  v        pause_job            v
//!               running  -------------------> paused --- quarantine ------.
//!                  |     <-------------------    |                        |
//!                  |          resume             | cancel, drop,          |
//!                  |                             | force_unwind           |
//!                  |                             v                        |
//!                  |                           ending --- pauses on ------+
//!                  |                             |                        |
//!                  | returns, or panics          | returns, panics        v
//!                  '-----------> finished <------'                   quarantined
//! ```
//!
//! | state | what it is | left by |
//! |---|---|---|
//! | running | The job is in the chain of `CURRENT`, with the jobs that it was resumed in (S37). | a pause, the end |
//! | paused | A [`Job`] is the only handle to it. | a method of the `Job`, its drop |
//! | ending | The job runs, and its pauses fail: CANCELLED is set, or its stack is being unwound. | the end, `pauses_left` at 0 |
//! | finished | The value is in [`Step::Finished`], and the stack is back in the pool. | nothing |
//! | quarantined | The stack is never run, used or freed: something may still write to it (S88). | nothing |
//!
//! A [`Job`] is resumed by value, so that a job cannot be resumed twice or after its end (S33). A `Job` is `!Send`, so
//! that it cannot be resumed on another thread (S34). Both crash a C program, and neither compiles here.
//!
//! # The stack of a job
//!
//! ```text
//!   +---------------------------+ <- the end of the slot, or up to 7 cache lines below it
//!   | StackHeader               |    what an overflow report prints (crate::stack)
//!   +---------------------------+ <- Stack::top
//!   | TypedBlock: ControlBlock, |    what this module knows of the job
//!   |   Coroutine               |    where the job is suspended
//!   +---------------------------+ <- base, as corosensei sees it
//!   | closure of the job        |
//!   | frames of the job ...     |    grow down
//!   ~                           ~
//!   +---------------------------+
//!   | guard                     |
//!   +---------------------------+ <- Stack::limit
//! ```
//!
//! What the library knows of a job lies in the job's slot. When the pool has a stack, a start therefore allocates
//! nothing, unless the closure is larger than `LARGEST_CLOSURE_ON_STACK` or the job has hooks. A resume touches the
//! cache lines next to the frames that run anyway.
//!
//! # Why `pause_job` is small and inline
//!
//! The processor mispredicts a return whose call was made before a switch, which costs 10 ns each time. The fast path
//! of [`pause_job`] is therefore inlined into the job together with corosensei's suspend. Everything else is cold and
//! out of line.

mod block_memory;
pub(crate) mod budget;
mod builder;
#[doc(hidden)]
pub mod c_interface;
mod closure;
mod control_block;
mod current;
mod debugger;
#[cfg(feature = "insight")]
mod frames;
mod id;
mod info;
mod no_pause;
mod shared_closure;

use std::backtrace::Backtrace;
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::NonNull;
use std::thread;

use crate::error::{PauseError, Quarantined, StartError};
use crate::pool;
use crate::stack::depot::Depot;
use crate::stack::{Spec, StackSize};
use crate::sync::contain;
use crate::wait_ctx::WaitCtx;

pub(crate) use block_memory::decay as decay_blocks;
pub use builder::JobBuilder;
pub(crate) use builder::{JobPlan, boxed};
pub(crate) use closure::{HeapClosure, JobMain, LARGEST_CLOSURE_ON_STACK, Wiped};
#[cfg(feature = "insight")]
pub(crate) use control_block::on_spare_stack;
pub use current::{BlockPause, CurrentJob, block_pause, current_job, current_job_id};
pub(crate) use current::{ThisJob, can_pause, is_cancelled, is_in_job, pauses_in, with_current_ctx, with_this_job};
#[cfg(feature = "insight")]
pub(crate) use frames::{Sighting, Walking, address_of_current, end_of_frames, paused_jobs, read_running, walking};
pub use id::JobId;
pub(crate) use info::running_jobs;
pub use info::{JobInfo, JobState, Stats};
pub(crate) use no_pause::report_forbidden_pause;
pub use no_pause::{ForbiddenPause, NoPause, capture_backtraces, no_pause, on_forbidden_pause};
pub(crate) use shared_closure::{HandleSide, JobSide, OwnedClosure, SendClosure, Shared, share, share_send};

use control_block::{
    Attributes, BLOCKED, CANCELLED, CANCELLED_PAUSES, ControlBlock, ENTERED_PANICKING, ForcedUnwind, FramesReport,
    REPORT, Report, Running, TypedBlock, UNPAUSED, UNWIND, USED_BELOW_POINTER, start, switch_to,
};
use current::CURRENT;

/// Whether jobs work on this system. They do on every target that this crate compiles for
/// ([S8](crate::docs::openssl_behaviour#s8)).
pub fn is_capable() -> bool {
    true
}

/// Runs `f` as a job, at once and on this thread, until it returns or pauses (`ASYNC_start_job(3)`).
///
/// The job is bound to `ctx` until it ends ([S27](crate::docs::openssl_behaviour#s27)). It runs on a stack from the
/// pool of the thread ([`pool`](crate::pool)). A [`JobBuilder`] also gives a job a name, hooks or a stack of another
/// size.
///
/// # The states of a job
///
/// | state | you have | what happens next |
/// |---|---|---|
/// | running | the call of `start_job` or [`Job::resume`], which has not returned | the job pauses, returns or panics |
/// | paused | [`Step::Paused`] with the [`Job`] | you resume, cancel, unwind, quarantine or drop the `Job` |
/// | finished | [`Step::Finished`] with the value, or the panic of the job | nothing: the stack is back in the pool |
/// | quarantined | [`Quarantined`], or you called [`Job::quarantine`] | nothing: the stack is never used again |
///
/// A job may start and resume other jobs. Each job pauses to the code that resumed it last. In OpenSSL a start inside a
/// job mostly crashes ([S37](crate::docs::openssl_behaviour#s37)).
///
/// # Errors
///
/// [`StartError`], with `f` in it: the pool of the thread is at its limit, or the system has no memory for a stack.
///
/// # Panics
///
/// When the job panics, the panic leaves the call that ran the job: `start_job` or [`Job::resume`]. The job has ended
/// then.
///
/// ```
/// use asyncjob::{Step, WaitCtx, pause_job, start_job};
///
/// let ctx = WaitCtx::new();
/// let step = start_job(&ctx, || {
///     let mut sum = 1;
///     pause_job().unwrap();
///     sum += 1;
///     sum
/// });
/// let Ok(Step::Paused(job)) = step else { panic!("it pauses first") };
/// let Step::Finished(sum) = job.resume() else { panic!("then it ends") };
/// assert_eq!(sum, 2);
/// ```
#[inline]
pub fn start_job<F, T>(ctx: &WaitCtx, f: F) -> Result<Step<T>, StartError<F>>
where
    F: FnOnce() -> T + 'static,
    T: 'static,
{
    let stack = match pool::take(None) {
        Ok(stack) => stack,
        Err(refusal) => return Err(StartError::new(refusal.into(), (), f)),
    };
    Ok(start(stack, ctx, Attributes::NONE, f))
}

/// Gives control back to the code that started or resumed this job last, until the job is resumed
/// (`ASYNC_pause_job(3)`).
///
/// A pause may return although nothing has happened, so pause in a loop that checks what you wait for.
/// [`pause_until`](crate::waiting::pause_until) is that loop, and it also works outside jobs.
///
/// # Errors
///
/// * [`PauseError::Cancelled`]: the job is to end. Later calls fail in the same way without pausing, so code that
///   cleans up needs no special case. After a thousand such calls the job is quarantined ([`Job::cancel`]).
/// * [`PauseError::NotInJob`]: the code runs outside a job.
/// * [`PauseError::Blocked`]: a guard of [`block_pause`] exists.
/// * [`PauseError::Panicking`]: the thread is panicking.
/// * [`PauseError::OffStack`]: the code runs on another stack than the job's own, inside `stacker::grow` for instance.
///
/// OpenSSL's function does nothing and succeeds outside a job and while pauses are blocked
/// ([S40](crate::docs::openssl_behaviour#s40)). Here it fails, because a loop around a pause that succeeds without
/// waiting would be a busy wait.
///
/// ```
/// use asyncjob::{PauseError, Step, WaitCtx, pause_job, start_job};
///
/// let step = start_job(&WaitCtx::new(), || pause_job())?;
/// let Step::Paused(job) = step else { panic!() };
/// let Step::Finished(pause) = job.resume() else { panic!() };
/// assert_eq!(pause, Ok(()));
///
/// assert_eq!(pause_job(), Err(PauseError::NotInJob)); // this code is in no job
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
///
/// # Thread-locals
///
/// While this job is paused, other code runs on the thread. Do not pause while you hold what that code needs: a
/// reference that `LocalKey::with` gave out, a `RefCell` borrow, a lock guard, or one of tokio's `enter` guards.
/// [`no_pause`] reports code that does. [`block_pause`] keeps code that you do not control from pausing there.
/// [`SwitchHooks`](crate::hooks::SwitchHooks) swap state that should travel with the job.
/// [`docs::soundness`](crate::docs::soundness) says what safe code could still do.
#[inline]
pub fn pause_job() -> Result<(), PauseError> {
    let Some(control) = CURRENT.get() else {
        return Err(PauseError::NotInJob);
    };
    // SAFETY: CURRENT points to the control block of the job that runs this code, which exists until the job has ended.
    let control = unsafe { control.as_ref() };
    if control.flags.get() & (CANCELLED | BLOCKED) != 0 || thread::panicking() || !control.is_on_own_stack() {
        // SAFETY: this code runs on the stack of the job that CURRENT points to.
        return unsafe { control.pause_cold() };
    }
    // SAFETY: as above.
    unsafe { control.suspend() };
    if control.flags.get() & (CANCELLED | REPORT | UNPAUSED) != 0 {
        // SAFETY: as above.
        return unsafe { control.resumed_cold() };
    }
    Ok(())
}

/// What [`start_job`] and [`Job::resume`] return: how far the job got.
#[derive(Debug)]
#[must_use = "dropping a paused job cancels it"]
pub enum Step<T> {
    /// The job returned this value (`ASYNC_FINISH`).
    Finished(T),
    /// The job paused (`ASYNC_PAUSE`).
    Paused(Job<T>),
}

/// A paused job, which returns a `T`.
///
/// **Dropping a `Job` runs the code of the job.** The drop [cancels](Self::cancel) the job: its pause fails, and the
/// job returns through its own code.
///
/// | to | call | the closure of the job |
/// |---|---|---|
/// | go on with the job | [`resume`](Self::resume) | goes on after its pause |
/// | end the job | [`cancel`](Self::cancel), or drop the `Job` | goes on with an error from its pause |
/// | end the job without the code after its pause | [`force_unwind`](Self::force_unwind) | is unwound: its destructors run |
/// | give up a job whose stack may be written to | [`quarantine`](Self::quarantine) | neither runs again nor is dropped |
///
/// All of these but a drop consume the `Job`. The states of a job are listed at [`start_job`].
///
/// # What does not compile
///
/// These are mistakes that crash a C program or corrupt its memory.
///
/// A job stays on its thread, so `Job` is not `Send` ([S34](crate::docs::openssl_behaviour#s34)):
///
/// ```compile_fail,E0277
/// fn send<T: Send>() {}
/// send::<asyncjob::Job<()>>();
/// ```
///
/// `Job` is not `Sync` either:
///
/// ```compile_fail,E0277
/// fn sync<T: Sync>() {}
/// sync::<asyncjob::Job<()>>();
/// ```
///
/// The guard that keeps a job from pausing stays on its thread, too:
///
/// ```compile_fail,E0277
/// fn send<T: Send>() {}
/// send::<asyncjob::BlockPause>();
/// ```
///
/// A job is resumed once for each pause ([S33](crate::docs::openssl_behaviour#s33)):
///
/// ```compile_fail,E0382
/// # use asyncjob::*;
/// # let Ok(Step::Paused(job)) = start_job(&WaitCtx::new(), || pause_job().unwrap()) else { panic!() };
/// let first = job.resume();
/// let again = job.resume();
/// ```
///
/// A job borrows nothing from the code that starts it, because the job may outlive that code:
///
/// ```compile_fail,E0597
/// # use asyncjob::*;
/// let message = String::from("Hello world!");
/// let step = start_job(&WaitCtx::new(), || println!("{}", &message));
/// ```
#[must_use = "dropping a paused job cancels it"]
pub struct Job<T> {
    block: NonNull<TypedBlock<T>>,
    _not_send: PhantomData<*mut T>,
}

impl<T> Job<T> {
    /// Runs the job until it returns or pauses again.
    ///
    /// The wait fds that have changed since the last resume are settled first: [`WaitCtx::changes`] is empty when the
    /// job goes on ([S42](crate::docs::openssl_behaviour#s42)).
    ///
    /// # Panics
    ///
    /// When the job panics, the panic leaves this call. The job has ended then.
    ///
    /// ```
    /// use asyncjob::{Step, WaitCtx, pause_job, start_job};
    ///
    /// let Ok(Step::Paused(job)) = start_job(&WaitCtx::new(), || pause_job().map(|()| 7)) else { panic!() };
    /// let Step::Finished(value) = job.resume() else { panic!() };
    /// assert_eq!(value, Ok(7));
    /// ```
    #[inline(always)] // see `switch_to`
    pub fn resume(self) -> Step<T> {
        self.control().wait_ctx().settle();
        let block = ManuallyDrop::new(self).block;
        // SAFETY: a Job points to the block of a paused job, and this call has consumed the only one that does.
        unsafe { switch_to(block) }
    }

    /// Ends the job. Its pause fails with [`PauseError::Cancelled`], and the job returns through its own code during
    /// this call.
    ///
    /// Each further pause of the job fails in the same way. The job may try a thousand of them.
    ///
    /// # Errors
    ///
    /// [`Quarantined`]: the job tried to pause once more. Nothing that lies on its stack is dropped, and the stack is
    /// never used again.
    ///
    /// # Panics
    ///
    /// When the job panics, the panic leaves this call. The job has ended then.
    ///
    /// ```
    /// use asyncjob::{PauseError, Step, WaitCtx, pause_job, start_job};
    ///
    /// let Ok(Step::Paused(job)) = start_job(&WaitCtx::new(), pause_job) else { panic!() };
    /// assert_eq!(job.cancel(), Ok(Err(PauseError::Cancelled))); // the job ended, and returned what its pause gave it
    /// ```
    pub fn cancel(self) -> Result<T, Quarantined> {
        self.control().set_flag(CANCELLED);
        if thread::panicking() {
            self.control().set_flag(ENTERED_PANICKING);
        }
        self.control().pauses_left.set(CANCELLED_PAUSES);
        match self.resume() {
            Step::Finished(value) => Ok(value),
            Step::Paused(job) => {
                job.quarantine();
                Err(Quarantined)
            }
        }
    }

    /// Ends the job by unwinding its stack from its pause. The destructors on the stack run, and the code after the
    /// pause does not.
    ///
    /// Use this for jobs that are Rust code throughout. If the unwinding reaches an `extern "C"` frame, the process
    /// aborts. A mutex that the job has locked is poisoned. For these two reasons [`cancel`](Self::cancel) and the drop
    /// of a `Job` never unwind.
    ///
    /// A job that catches the unwinding with `catch_unwind` goes on as a [cancelled](Self::cancel) job: its pauses
    /// fail. When it returns, its value is dropped. When it does not end within a thousand pauses, its stack is
    /// quarantined, which [`quarantined`](crate::stack::quarantined) counts.
    ///
    /// # Panics
    ///
    /// * When the job catches the unwinding and then panics itself, that panic leaves this call.
    /// * In a program that is built with `panic = "abort"`, which cannot unwind. The message says so before the process
    ///   aborts. [`cancel`](Self::cancel) works there.
    pub fn force_unwind(self) {
        if cfg!(panic = "abort") {
            panic!(concat!(
                "Job::force_unwind cannot unwind a job in a program that is built with panic = \"abort\": use \
                 Job::cancel, or drop the Job",
                guide_page!("cancel")
            ));
        }
        self.control().set_flag(UNWIND);
        match catch_unwind(AssertUnwindSafe(|| self.cancel())) {
            Ok(Ok(value)) => drop(value),
            Ok(Err(Quarantined)) => {}
            Err(payload) if payload.is::<ForcedUnwind>() => {}
            Err(payload) => resume_unwind(payload),
        }
    }

    /// Gives the job up without running it again. Use this when something may still write to its stack: an engine's
    /// completion record, or a buffer of a C library ([S88](crate::docs::openssl_behaviour#s88)).
    ///
    /// The stack stays mapped and is not used again for the life of the process.
    /// [`stack::quarantined`](crate::stack::quarantined) counts it, and it keeps counting for the limit of its pool.
    /// Nothing that lies on the stack is dropped. The job no longer holds its wait ctx.
    pub fn quarantine(self) {
        let block = ManuallyDrop::new(self).block;
        // SAFETY: this call has consumed the only handle, and nothing touches the paused coroutine again.
        unsafe { ControlBlock::release(block.cast(), pool::quarantine) };
    }

    /// The id of the job.
    pub fn id(&self) -> JobId {
        self.control().id
    }

    /// The name of the job, if [`JobBuilder::name`] gave it one.
    pub fn name(&self) -> Option<&str> {
        // SAFETY: the name is written only at the start and at the end of the job, and the job is paused.
        unsafe { &*self.control().name.get() }.as_deref()
    }

    /// The wait ctx that the job was started with.
    pub fn wait_ctx(&self) -> &WaitCtx {
        self.control().wait_ctx()
    }

    /// Asks the processor to bring the top of the job's stack into its caches, for a [`resume`](Self::resume) that
    /// follows some hundred nanoseconds later.
    ///
    /// Call it before you resume another job, for instance. The call has no effect that the program could see.
    ///
    /// ```
    /// use asyncjob::{Job, Step};
    ///
    /// fn resume_all(mut ready: Vec<Job<()>>) -> Vec<Job<()>> {
    ///     let mut paused = Vec::new();
    ///     while let Some(job) = ready.pop() {
    ///         if let Some(next) = ready.last() {
    ///             next.prefetch();
    ///         }
    ///         if let Step::Paused(job) = job.resume() {
    ///             paused.push(job);
    ///         }
    ///     }
    ///     paused
    /// }
    /// # let step = asyncjob::start_job(&asyncjob::WaitCtx::new(), || { let _ = asyncjob::pause_job(); });
    /// # let Ok(Step::Paused(job)) = step else { panic!() };
    /// # assert_eq!(resume_all(vec![job]).len(), 0);
    /// ```
    ///
    /// With more jobs than the caches hold, most of a round trip is a wait for memory. `examples/million.rs` measures
    /// it with and without this call.
    #[inline]
    pub fn prefetch(&self) {
        fetch_value(self.block.as_ptr());
    }

    /// Asks the processor for what a resume will touch: the control block, this line of the wait ctx, and so many lines
    /// of frames at the top of the stack.
    #[inline]
    pub(crate) fn fetch<const FRAME_LINES: usize>(&self, near: *const u8) {
        fetch_line(near);
        self.prefetch();
        let block = self.block.as_ptr().cast::<u8>();
        for line in 1..=FRAME_LINES {
            fetch_line(block.wrapping_sub(line * 64));
        }
    }

    /// How many bytes of its stack the job has used so far.
    ///
    /// The figure counts whole pages, or words if the pool [measures
    /// exactly](crate::pool::PoolConfig::exact_high_water). If the stack has served other jobs before, the figure is
    /// that of the deepest of them. The call makes one system call; if the kernel refuses it, the figure is 0.
    ///
    /// ```
    /// use asyncjob::{Step, WaitCtx, pause_job, start_job};
    ///
    /// let step = start_job(&WaitCtx::new(), || {
    ///     std::hint::black_box([1u8; 20_000]);
    ///     pause_job()
    /// });
    /// let Ok(Step::Paused(job)) = step else { panic!() };
    /// assert!(job.high_water() >= 20_000);
    /// # drop(job);
    /// ```
    pub fn high_water(&self) -> usize {
        self.control().stack.high_water()
    }

    /// The backtrace of the pause in which the job is. The frames of this call follow below those of the job.
    ///
    /// The job captures the backtrace itself: it is resumed inside its pause, captures on another stack, and pauses
    /// again. Its hooks are not called, and its code does not notice. The job's own stack may be nearly full.
    ///
    /// The backtrace is [`Disabled`](std::backtrace::BacktraceStatus::Disabled) when there is no memory for the other
    /// stack, and when fewer than 2 KiB of the job's own stack are left: it would overflow on the way.
    ///
    /// ```
    /// use asyncjob::{Step, WaitCtx, pause_job, start_job};
    ///
    /// let Ok(Step::Paused(mut job)) = start_job(&WaitCtx::new(), pause_job) else { panic!() };
    /// let frames = job.backtrace().to_string();
    /// assert!(frames.contains("pause_job"), "{frames}");
    /// # drop(job);
    /// ```
    pub fn backtrace(&mut self) -> Backtrace {
        let Ok(stack) = Depot::of(Spec::new(StackSize::DEFAULT)).take() else {
            return Backtrace::disabled();
        };
        self.report_frames(FramesReport::new(stack)).backtrace
    }

    /// Lets the paused job write where it is.
    fn report_frames(&mut self, report: FramesReport) -> FramesReport {
        let mut report = Report::Frames(report);
        let request = ReportRequest::new(self.control(), &mut report);
        // SAFETY: the block belongs to a paused job, and the request has set the flag. `self` is the only handle of the
        // job, and is borrowed during this call.
        unsafe { Running::report_unhooked(self.block) };
        drop(request);
        let Report::Frames(report) = report else {
            unreachable!("a job fills a report in")
        };
        report
    }

    /// Gives the memory below the pause of the job back to the kernel. Returns how many bytes of it were resident.
    ///
    /// A job that has been deep in calls leaves pages behind which it needs again only when it gets that deep again.
    /// Call this for a job that will be paused for long. The kernel fills the pages with zeros when the job touches
    /// them the next time. [`high_water`](Self::high_water) starts anew; [`stack::stats`](crate::stack::stats) keeps
    /// the deepest figure.
    ///
    /// The job writes its stack pointer down itself: it is resumed inside its pause for a moment, and pauses again. Its
    /// hooks are not called, and its code does not notice. The call makes two system calls. It gives nothing back of a
    /// stack that comes from [`ASYNC_set_mem_functions`](crate::docs::openssl_behaviour), and of locked memory
    /// ([`SecretPolicy::mlock`](crate::stack::SecretPolicy::mlock)) before Linux 5.18.
    ///
    /// [`SchedulerBuilder::trim_after`](crate::scheduler::SchedulerBuilder::trim_after) does this for each job that has
    /// been paused for a time that you choose.
    ///
    /// ```
    /// use asyncjob::{Step, WaitCtx, pause_job, start_job};
    ///
    /// #[inline(never)]
    /// fn parse() {
    ///     std::hint::black_box([1u8; 100_000]);
    /// }
    ///
    /// let step = start_job(&WaitCtx::new(), || {
    ///     parse();
    ///     pause_job() // the connection is idle from here on
    /// });
    /// let Ok(Step::Paused(mut job)) = step else { panic!() };
    /// assert!(job.trim() >= 80_000);
    /// assert_eq!(job.trim(), 0);
    /// # drop(job);
    /// ```
    pub fn trim(&mut self) -> usize {
        let mut report = Report::StackPointer(0);
        let request = ReportRequest::new(self.control(), &mut report);
        // SAFETY: the block belongs to a paused job, and the request has set the flag. `self` is the only handle of the
        // job, and is borrowed during this call.
        unsafe { Running::report_unhooked(self.block) };
        drop(request);
        let Report::StackPointer(pointer) = report else {
            unreachable!("a job fills a report in")
        };
        let lowest_used = pointer.saturating_sub(USED_BELOW_POINTER);
        // SAFETY: the job is paused, in the call in which it has read its stack pointer. Nothing is in use below that,
        // but for what the constant stands for.
        unsafe { self.control().stack.release_below(lowest_used) }
    }

    fn control(&self) -> &ControlBlock {
        // SAFETY: a Job points to the block of a paused job, which begins with the control block. Its fields are cells.
        unsafe { self.block.cast::<ControlBlock>().as_ref() }
    }
}

impl<T> Drop for Job<T> {
    /// Cancels the job. The panic hook has reported a panic of the job by then, and the panic ends here: the code that
    /// drops a `Job` did not ask for its result.
    fn drop(&mut self) {
        let job = Job {
            block: self.block,
            _not_send: PhantomData,
        };
        // The result is dropped inside the closure, too, because its drop may panic. So may that of a panic's payload.
        contain(|| drop(job.cancel()));
    }
}

/// Asks a paused job for a report. The drop withdraws the request, also when a panic passes.
struct ReportRequest<'a>(&'a ControlBlock);

impl<'a> ReportRequest<'a> {
    fn new(control: &'a ControlBlock, report: &mut Report) -> Self {
        control.report.set(report);
        control.set_flag(REPORT);
        ReportRequest(control)
    }
}

impl Drop for ReportRequest<'_> {
    fn drop(&mut self) {
        self.0.clear_flag(REPORT);
        self.0.report.set(std::ptr::null_mut());
    }
}

/// Asks the processor to bring all lines of a value near, which may be none.
#[inline]
pub(crate) fn fetch_value<T>(value: *const T) {
    for line in (0..size_of::<T>()).step_by(64) {
        fetch_line(value.cast::<u8>().wrapping_add(line));
    }
}

/// Asks the processor to bring a cache line near. It has no effect that a program could see.
#[inline]
fn fetch_line(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint and accesses nothing, whatever the address is.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
}

impl<T> fmt::Debug for Job<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id())
            .field("name", &self.name())
            .field("wait_ctx", self.wait_ctx())
            .finish()
    }
}
