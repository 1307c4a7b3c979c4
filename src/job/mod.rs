//! A job: synchronous code on a stack of its own, which can pause.
//!
//! ```text
//!                     start_job                       resume
//!                         |                             |
//!                         v        pause_job            v
//!                      running  -------------------> paused --- cancel, drop, force_unwind, abandon
//!                         |     <-------------------    |
//!                         | returns, or panics          |
//!                         v                             v
//!                     finished                      finished, or quarantined
//! ```
//!
//! | state | is | left by |
//! |---|---|---|
//! | running | in the chain of `CURRENT`: the job itself, and each job that it was started or resumed in (S37) | the job |
//! | paused | a [`Job`] somebody holds | its holder, in one of the five ways drawn |
//! | finished | a value in [`Step::Finished`]; the stack is back in the pool | nobody |
//! | quarantined | a stack nobody will run, use or free again, because somebody may still write to it (S88) | nobody |
//!
//! A [`Job`] is resumed by value, so a job cannot be resumed twice or after its end (S33), and it is `!Send`, so it
//! cannot be resumed on another thread (S34): what crashes a C program does not compile here.
//!
//! # The stack of a job
//!
//! ```text
//!   +----------------+ <- the slot's end
//!   | StackHeader          |    what an overflow report prints (crate::stack)
//!   +----------------+ <- Stack::top
//!   | TypedBlock: ControlBlock  |    what this module knows of the job
//!   |   + Coroutine  |    where it is suspended
//!   +----------------+ <- base, as corosensei sees it
//!   | closure, then  |
//!   | its frames ... |    grows down
//!   ~                ~
//!   +----------------+
//!   | guard          |
//!   +----------------+ <- Stack::limit
//! ```
//!
//! Everything about a job lies in its slot: a start from a warm pool allocates nothing, and resuming touches the cache
//! lines next to the frames that run anyway.
//!
//! # Why `pause_job` is small and inline
//!
//! A return whose call was made before a switch is mispredicted after it, 10 ns each. The fast path of [`pause_job`] is
//! therefore inlined into the job together with corosensei's suspend; everything else is cold and out of line.

mod builder;
mod control_block;
mod current;
mod id;

use std::any::Any;
use std::backtrace::Backtrace;
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::thread;

use corosensei::CoroutineResult;

use crate::error::{PauseError, Quarantined, StartError};
use crate::pool;
use crate::wait_ctx::WaitCtx;

pub use builder::JobBuilder;
pub(crate) use builder::{JobPlan, boxed};
pub use current::{BlockPause, CurrentJob, block_pause, current_job, current_job_id};
pub(crate) use current::{can_pause, is_cancelled, is_in_job, with_current_ctx};
pub use id::JobId;

use control_block::{
    Attributes, BLOCKED, CANCELLED, CANCELLED_PAUSES, ControlBlock, ENTERED_PANICKING, REPORT, Running, TypedBlock,
    start, switch_to,
};
use current::CURRENT;

/// Whether jobs work on this system: always, on every target this crate compiles for (S8).
pub fn is_capable() -> bool {
    true
}

/// Runs `f` as a job, at once and on this thread, until it returns or pauses (`ASYNC_start_job(3)`).
///
/// The job is bound to `ctx` until it ends (S27). A job may start and resume jobs itself; each pauses to whoever
/// resumed it last (a fix of S37).
///
/// # Errors
///
/// [`StartError`], with `f` in it, when the thread's pool is at its limit or the system has no memory for a stack.
///
/// # Panics
///
/// A panic in the job leaves the call that ran it: this one, or [`Job::resume`]. The job has ended then.
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
/// The pause may return without a reason, so pause in a loop that checks what you wait for.
/// [`pause_until`](crate::waiting::pause_until) is that loop, and it also works outside jobs.
///
/// # Errors
///
/// [`PauseError::Cancelled`] when the job is to end. Later calls fail in the same way without pausing, so that cleaning up
/// needs no special case. A job that goes on for a thousand pauses is taken off its stack for good.
///
/// [`PauseError::NotInJob`] outside a job and [`PauseError::Blocked`] while [`block_pause`] is in force. OpenSSL's function
/// does nothing and succeeds there ([S40](crate::docs::openssl_behaviour#s40)); an error ends the loop that a bare success
/// would turn into a busy wait. [`PauseError::Panicking`] while the thread panics.
///
/// # Thread-locals
///
/// While this job is paused, other code runs on the thread. Do not pause inside `LocalKey::with` on a value that others
/// use, with a `RefCell` borrow or a lock guard that they need, or inside `tokio`'s enter guards. [`block_pause`] stops
/// code that you do not control from pausing there, and [`SwitchHooks`](crate::hooks::SwitchHooks) swap state that should
/// travel with the job. [`docs::soundness`](crate::docs::soundness) says what safe code could still do.
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
#[inline]
pub fn pause_job() -> Result<(), PauseError> {
    let Some(control) = CURRENT.get() else {
        return Err(PauseError::NotInJob);
    };
    // SAFETY: CURRENT points to the header of the job that runs this code, which lies on the job's own slot.
    let control = unsafe { control.as_ref() };
    if control.flags.get() & (CANCELLED | BLOCKED) != 0 || thread::panicking() {
        // SAFETY: this code runs on the stack of the job that CURRENT points to.
        return unsafe { control.pause_cold() };
    }
    // SAFETY: as above.
    unsafe { control.suspend() };
    if control.flags.get() & (CANCELLED | REPORT) != 0 {
        // SAFETY: as above.
        return unsafe { control.resumed_cold() };
    }
    Ok(())
}

/// How far a job got: what [`start_job`] and [`Job::resume`] return.
#[derive(Debug)]
#[must_use = "dropping a paused job cancels it"]
pub enum Step<T> {
    /// It returned this (`ASYNC_FINISH`).
    Finished(T),
    /// It paused (`ASYNC_PAUSE`).
    Paused(Job<T>),
}

/// A paused job.
///
/// **Dropping a paused job runs its code**: the job is [cancelled](Self::cancel), so its pause fails and it returns through
/// its own code, which may pause in vain up to a thousand times more.
///
/// What is misuse in C does not compile. A job stays on its thread ([S34](crate::docs::openssl_behaviour#s34)):
///
/// ```compile_fail,E0277
/// fn send<T: Send>() {}
/// send::<asyncjob::Job<()>>();
/// ```
///
/// nor is it shared with another one, nor is the guard that keeps it from pausing:
///
/// ```compile_fail,E0277
/// fn sync<T: Sync>() {}
/// sync::<asyncjob::Job<()>>();
/// ```
///
/// ```compile_fail,E0277
/// fn send<T: Send>() {}
/// send::<asyncjob::BlockPause>();
/// ```
///
/// It is resumed once for each pause (S33):
///
/// ```compile_fail,E0382
/// # use asyncjob::*;
/// # let Ok(Step::Paused(job)) = start_job(&WaitCtx::new(), || pause_job().unwrap()) else { panic!() };
/// let first = job.resume();
/// let again = job.resume();
/// ```
///
/// It borrows nothing from whoever starts it, because it may outlive them:
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
    /// # Panics
    ///
    /// With the panic of the job, which has ended then.
    #[inline(always)] // see `switch_to`
    pub fn resume(self) -> Step<T> {
        self.control().wait_ctx().settle();
        let block = ManuallyDrop::new(self).block;
        // SAFETY: a Job points to the frame of a paused job, and this consumed the only one that does.
        unsafe { switch_to(block) }
    }

    /// Ends the job: its pause fails with [`PauseError::Cancelled`], and the job returns through its own code, in this call.
    ///
    /// # Errors
    ///
    /// [`Quarantined`] if the job does not end: it paused a thousand times more. Its stack is quarantined then, and nothing
    /// on it is dropped.
    ///
    /// # Panics
    ///
    /// With the panic of the job, which has ended then.
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

    /// Ends the job by unwinding its stack from its pause: destructors run, code after the pause does not.
    ///
    /// For jobs that are Rust all the way. Through an `extern "C"` frame this aborts the process, and a mutex that the
    /// job holds is poisoned: that is why [`cancel`](Self::cancel) and drop never do it.
    ///
    /// # Panics
    ///
    /// With another panic, if a destructor of the job panics and something on its stack catches it.
    pub fn force_unwind(self) {
        self.control().wait_ctx().settle(); // it runs again
        let block = ManuallyDrop::new(self).block;
        // SAFETY: a Job points to the block of a paused job, and this consumed the only one that does.
        let mut running = unsafe { Running::enter(block) };
        running.coroutine().force_unwind();
    }

    /// Gives the job up without running it again, because something may still write to its stack: an engine's
    /// completion record, a C library's buffer ([S88](crate::docs::openssl_behaviour#s88)).
    ///
    /// The stack stays mapped and out of use for the life of the process. [`quarantined`](crate::stack::quarantined) counts
    /// it, and so does the limit of its pool. Nothing on it is dropped. The job's hold on its wait ctx ends.
    pub fn quarantine(self) {
        let block = ManuallyDrop::new(self).block;
        // SAFETY: nobody can reach the frame any more, and the paused coroutine is never touched again.
        unsafe { ControlBlock::release(block.cast(), pool::quarantine) };
    }

    /// Its id.
    pub fn id(&self) -> JobId {
        self.control().id
    }

    /// Its name, if [`JobBuilder::name`] gave it one.
    pub fn name(&self) -> Option<&str> {
        // SAFETY: a name is written at the start and the end of a job only.
        unsafe { &*self.control().name.get() }.as_deref()
    }

    /// The ctx that it was started with.
    pub fn wait_ctx(&self) -> &WaitCtx {
        self.control().wait_ctx()
    }

    /// Asks the processor to bring the top of the job's stack near, for a [`resume`](Self::resume) some hundred nanoseconds
    /// from now: after resuming another job, say. With more jobs than the caches hold, a round trip is mostly waiting for
    /// memory (`examples/million.rs` measures it with and without).
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
    #[inline]
    pub fn prefetch(&self) {
        let block = self.block.as_ptr().cast::<u8>();
        for line in (0..size_of::<TypedBlock<T>>()).step_by(64) {
            fetch_line(block.wrapping_add(line));
        }
    }

    /// How many bytes of its stack were used so far: whole pages, or words if the pool measures
    /// [exactly](crate::pool::PoolConfig::exact_high_water). A stack that served other jobs before keeps the mark of the deepest.
    /// One system call.
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

    /// Where the job is paused, with the frames of this call below it.
    ///
    /// The job captures the backtrace itself, on its own stack: it wakes inside its pause, looks around, and pauses again.
    /// To the job nothing happened. A backtrace takes a few KiB of the job's stack.
    ///
    /// # Panics
    ///
    /// With the panic of a hook. The job is paused as before.
    pub fn backtrace(&mut self) -> Backtrace {
        let mut backtrace = Backtrace::disabled();
        let request = ReportRequest::new(self.control(), &mut backtrace);
        // A panic can leave these lines from a hook only: the job catches its own while it reports. Then the guard marks the
        // job as not running, the request is withdrawn, and the job is as paused as it was.
        // SAFETY: the block is that of a paused job, which `self` keeps paused and alone reaches.
        let mut running = unsafe { Running::enter(self.block) };
        let result = running.coroutine().resume(());
        debug_assert!(matches!(result, CoroutineResult::Yield(())), "a report pauses again");
        drop(running);
        drop(request);
        backtrace
    }

    fn control(&self) -> &ControlBlock {
        // SAFETY: a Job points to the frame of a paused job, which begins with its header; the header's fields are cells.
        unsafe { self.block.cast::<ControlBlock>().as_ref() }
    }
}

impl<T> Drop for Job<T> {
    /// Cancels the job. A panic of it has been reported by the panic hook and goes no further: whoever drops a job did
    /// not ask for its result.
    fn drop(&mut self) {
        let job = Job {
            block: self.block,
            _not_send: PhantomData,
        };
        // The result is dropped in there too: it may panic itself.
        let _: Result<(), Box<dyn Any + Send>> = catch_unwind(AssertUnwindSafe(|| drop(job.cancel())));
    }
}

/// Asks a paused job for its backtrace, and takes the request back when it is dropped, however the call ended.
struct ReportRequest<'a>(&'a ControlBlock);

impl<'a> ReportRequest<'a> {
    fn new(control: &'a ControlBlock, backtrace: &mut Backtrace) -> Self {
        control.report.set(backtrace);
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

/// A hint without an effect that a program could see.
#[inline]
fn fetch_line(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing, whatever the address.
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
