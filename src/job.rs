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
//!   | Plate          |    what an overflow report prints (crate::stack)
//!   +----------------+ <- Stack::top
//!   | Frame: Header  |    what this module knows of the job
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

use std::any::Any;
use std::backtrace::Backtrace;
use std::borrow::Cow;
use std::cell::{Cell, UnsafeCell};
use std::fmt;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, offset_of};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::thread;

use corosensei::stack::StackPointer;
use corosensei::{Coroutine, CoroutineResult, Yielder};

use crate::error::{Cancelled, StartError};
use crate::hooks::SwitchHooks;
use crate::pool::{self, NoStack};
use crate::stack::{Stack, StackSize};
use crate::wait_ctx::WaitCtx;

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
        Err(refusal) => return Err(refused(refusal, f)),
    };
    Ok(launch(stack, ctx, Attributes::NONE, f))
}

/// Gives control back to whoever started or resumed this job last, until they resume it (`ASYNC_pause_job(3)`).
///
/// It may return without a reason, so pause in a loop that checks what you wait for. Outside a job, and while
/// [`block_pause`] is in force, it does nothing and says so (S40).
///
/// # Errors
///
/// [`Cancelled`] when the job is to end. Later calls give it again, without pausing, so that cleaning up needs no
/// special case; a job that goes on for a thousand pauses is taken off its stack for good.
///
/// # Thread-locals
///
/// While this job is paused other code runs on the thread. Do not pause inside `LocalKey::with` on a value that others
/// use, with a `RefCell` borrow or a lock guard that they need, or inside `tokio`'s enter guards: [`block_pause`] stops
/// code that you do not control from pausing there, and [`SwitchHooks`] swap state that should travel with the job.
/// Soundness cannot be kept for a library that hands out a reference into a thread-local and relies on leaving the call
/// before anything else runs (`scoped_tls` does): do not pause below such a call.
#[inline]
pub fn pause_job() -> Result<Pause, Cancelled> {
    let Some(header) = CURRENT.get() else {
        return Ok(Pause::NotInJob);
    };
    // SAFETY: CURRENT points to the header of the job that runs this code, which lies on the job's own slot.
    let header = unsafe { header.as_ref() };
    if header.flags.get() & (CANCELLED | BLOCKED) != 0 || thread::panicking() {
        return header.pause_cold();
    }
    header.suspend();
    if header.flags.get() & (CANCELLED | REPORT) != 0 {
        return header.resumed_cold();
    }
    Ok(Pause::Resumed)
}

/// What [`pause_job`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// Paused, and somebody resumed the job.
    Resumed,
    /// Nothing: this code runs outside any job.
    NotInJob,
    /// Nothing: [`block_pause`] is in force.
    Blocked,
    /// Nothing: the thread is panicking, and whoever would run next would run with `std::thread::panicking()` true.
    Panicking,
}

/// The job that runs this code, if any (`ASYNC_get_current_job(3)`, S46).
///
/// ```
/// use asyncjob::{JobBuilder, Step, WaitCtx, current_job};
///
/// assert!(current_job().is_none());
/// let ctx = WaitCtx::new();
/// let step = JobBuilder::new().name("signer").start(&ctx, || current_job().unwrap());
/// let Ok(Step::Finished(job)) = step else { panic!() };
/// assert_eq!(job.name(), Some("signer"));
/// assert!(job.wait_ctx().ptr_eq(&ctx));
/// ```
pub fn current_job() -> Option<CurrentJob> {
    with_current(|header| CurrentJob {
        id: header.id,
        // SAFETY: the job runs, so nobody writes its name.
        name: unsafe { &*header.name.get() }.clone(),
        ctx: header.wait_ctx().clone(),
    })
}

/// The id of the job that runs this code, without the cost of a whole [`current_job`].
#[inline]
pub fn current_job_id() -> Option<JobId> {
    with_current(|header| header.id)
}

/// What a job knows of itself: see [`current_job`].
#[derive(Clone, Debug)]
pub struct CurrentJob {
    id: JobId,
    name: Option<Cow<'static, str>>,
    ctx: WaitCtx,
}

impl CurrentJob {
    /// Its id.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Its name, if [`JobBuilder::name`] gave it one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The ctx that it was started with.
    pub fn wait_ctx(&self) -> &WaitCtx {
        &self.ctx
    }
}

/// Makes [`pause_job`] do nothing in this job until the guard is dropped (`ASYNC_block_pause(3)`).
///
/// Guards nest. They belong to the job that made them and end with it at the latest (a fix of S43 and S44). Outside a
/// job a guard does nothing.
///
/// ```
/// use asyncjob::{Pause, Step, WaitCtx, block_pause, pause_job, start_job};
///
/// let step = start_job(&WaitCtx::new(), || {
///     let _lock_is_held = block_pause();
///     pause_job()
/// });
/// let Ok(Step::Finished(pause)) = step else { panic!("it cannot have paused") };
/// assert_eq!(pause, Ok(Pause::Blocked));
/// ```
pub fn block_pause() -> BlockPause {
    let job = with_current(|header| {
        header.blocked.set(header.blocked.get() + 1);
        header.set_flag(BLOCKED);
        (NonNull::from(header), header.id)
    });
    BlockPause { job }
}

/// Keeps the job from pausing: see [`block_pause`].
#[must_use = "pauses are blocked only until the guard is dropped"]
#[derive(Debug)]
pub struct BlockPause {
    job: Option<(NonNull<Header>, JobId)>,
}

impl Drop for BlockPause {
    fn drop(&mut self) {
        let Some((job, id)) = self.job else { return };
        // The guard may have been carried out of the job and outlive it. A job with a guard cannot pause, so if it still
        // exists it is running: look for it there before touching it.
        let mut running = CURRENT.get();
        while let Some(at) = running {
            // SAFETY: every header in the chain belongs to a job that is running, and so exists.
            let header = unsafe { at.as_ref() };
            if at == job && header.id == id {
                header.blocked.set(header.blocked.get() - 1);
                if header.blocked.get() == 0 {
                    header.clear_flag(BLOCKED);
                }
                return;
            }
            running = header.parent.get();
        }
    }
}

/// Starts a job with a name, a stack of its own size, or hooks.
///
/// ```
/// use asyncjob::{JobBuilder, StackSize, Step, WaitCtx};
///
/// let job = JobBuilder::new().name("deep").stack_size(StackSize::at_least(1 << 20));
/// let Ok(Step::Finished(sum)) = job.start(&WaitCtx::new(), || {
///     let large = [1u8; 600_000];
///     std::hint::black_box(&large).iter().map(|&byte| u32::from(byte)).sum::<u32>()
/// }) else { panic!() };
/// assert_eq!(sum, 600_000);
/// ```
#[derive(Default)]
#[must_use = "a builder does nothing until `start`"]
pub struct JobBuilder {
    attributes: Attributes,
    stack_size: Option<StackSize>,
}

impl JobBuilder {
    /// A job without a name or hooks, on a stack of the pool.
    pub fn new() -> Self {
        JobBuilder {
            attributes: Attributes::NONE,
            stack_size: None,
        }
    }

    /// A name for overflow reports, panics and lists of jobs.
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.attributes.name = Some(name.into());
        self
    }

    /// A stack of another size than the pool's. It still counts for the pool's limit.
    pub fn stack_size(mut self, size: StackSize) -> Self {
        self.stack_size = Some(size);
        self
    }

    /// Thread state that travels with the job.
    pub fn hooks(mut self, hooks: impl SwitchHooks + 'static) -> Self {
        self.attributes.hooks = Some(Box::new(hooks));
        self
    }

    /// As [`start_job`].
    ///
    /// # Errors
    ///
    /// As [`start_job`]. The hooks are dropped, not called.
    ///
    /// # Panics
    ///
    /// As [`start_job`].
    pub fn start<F, T>(self, ctx: &WaitCtx, f: F) -> Result<Step<T>, StartError<F>>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        self.try_start(ctx, f).map_err(|(_, refused)| refused)
    }

    /// As `start`, but nothing is lost.
    pub(crate) fn try_start<F, T>(self, ctx: &WaitCtx, f: F) -> Result<Step<T>, (Self, StartError<F>)>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        match pool::take(self.stack_size) {
            Ok(stack) => Ok(launch(stack, ctx, self.attributes, f)),
            Err(refusal) => Err((self, refused(refusal, f))),
        }
    }
}

impl fmt::Debug for JobBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobBuilder")
            .field("name", &self.attributes.name)
            .field("stack_size", &self.stack_size)
            .field("hooks", &self.attributes.hooks.is_some())
            .finish()
    }
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

/// Identifies a job for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(u64);

impl JobId {
    /// As a number, never 0.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// A paused job. Dropping it cancels it.
///
/// What is misuse in C does not compile. A job stays on its thread (S34):
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
    frame: NonNull<Frame<T>>,
    _not_send: PhantomData<*mut T>,
}

impl<T> Job<T> {
    /// Runs the job until it returns or pauses again.
    ///
    /// # Panics
    ///
    /// With the panic of the job, which has ended then.
    #[inline(always)] // see `run`
    pub fn resume(self) -> Step<T> {
        self.header().wait_ctx().settle();
        let frame = ManuallyDrop::new(self).frame;
        // SAFETY: a Job points to the frame of a paused job, and this consumed the only one that does.
        unsafe { run(frame) }
    }

    /// Asks the job to end: its pause returns [`Cancelled`], and the job returns through its own code.
    ///
    /// `None` if it does not end: it paused a thousand times more. Its stack is quarantined then, and nothing on it is
    /// dropped.
    ///
    /// # Panics
    ///
    /// With the panic of the job, which has ended then.
    pub fn cancel(self) -> Option<T> {
        self.header().set_flag(CANCELLED);
        if thread::panicking() {
            self.header().set_flag(ENTERED_PANICKING);
        }
        self.header().pauses_left.set(CANCELLED_PAUSES);
        match self.resume() {
            Step::Finished(value) => Some(value),
            Step::Paused(job) => {
                job.abandon();
                None
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
        self.header().wait_ctx().settle(); // it runs again
        let frame = ManuallyDrop::new(self).frame;
        let mut running = Running::enter(frame);
        running.coroutine().force_unwind();
    }

    /// Gives the job up without running it again, because something may still write to its stack: an engine's
    /// completion record, a C library's buffer (S88).
    ///
    /// The stack stays mapped and out of use for the life of the process, counted by
    /// [`quarantined`](crate::stack::quarantined) and for the limit of its pool. Nothing on it is dropped. The job's
    /// hold on its wait ctx ends.
    pub fn abandon(self) {
        let frame = ManuallyDrop::new(self).frame;
        // SAFETY: nobody can reach the frame any more, and the paused coroutine is never touched again.
        unsafe { Header::dismantle(frame.cast(), pool::quarantine) };
    }

    /// Its id.
    pub fn id(&self) -> JobId {
        self.header().id
    }

    /// Its name, if [`JobBuilder::name`] gave it one.
    pub fn name(&self) -> Option<&str> {
        // SAFETY: a name is written at the start and the end of a job only.
        unsafe { &*self.header().name.get() }.as_deref()
    }

    /// The ctx that it was started with.
    pub fn wait_ctx(&self) -> &WaitCtx {
        self.header().wait_ctx()
    }

    /// How many bytes of its stack were used so far: whole pages, or words if the pool measures
    /// [exactly](crate::PoolConfig::exact_high_water). A stack that served other jobs before keeps the mark of the deepest.
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
        self.header().stack.high_water()
    }

    /// Where the job is paused, with the frames of this call below it.
    ///
    /// The job captures it itself: it wakes inside its pause, looks around, and pauses again. To the job nothing
    /// happened.
    pub fn backtrace(&mut self) -> Backtrace {
        let mut backtrace = Backtrace::disabled();
        let header = self.header();
        header.report.set(&raw mut backtrace);
        header.set_flag(REPORT);
        let mut running = Running::enter(self.frame);
        let result = running.coroutine().resume(());
        debug_assert!(matches!(result, CoroutineResult::Yield(())), "a report pauses again");
        drop(running);
        self.header().clear_flag(REPORT);
        backtrace
    }

    fn header(&self) -> &Header {
        // SAFETY: a Job points to the frame of a paused job, which begins with its header; the header's fields are cells.
        unsafe { self.frame.cast::<Header>().as_ref() }
    }
}

impl<T> Drop for Job<T> {
    /// Cancels the job. A panic of it has been reported by the panic hook and goes no further: whoever drops a job did
    /// not ask for its result.
    fn drop(&mut self) {
        let job = Job {
            frame: self.frame,
            _not_send: PhantomData,
        };
        // The result is dropped in there too: it may panic itself.
        let _: Result<(), Box<dyn Any + Send>> = catch_unwind(AssertUnwindSafe(|| drop(job.cancel())));
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

/// Whether this code runs inside a job.
pub(crate) fn is_in_job() -> bool {
    CURRENT.get().is_some()
}

/// Calls `f` with the ctx of the job that runs this code.
pub(crate) fn with_current_ctx<R>(f: impl FnOnce(&WaitCtx) -> R) -> Option<R> {
    with_current(|header| f(header.wait_ctx()))
}

thread_local! {
    /// The innermost job that runs on this thread. Only [`Running`] writes it.
    ///
    /// A plain store after a resume would leave it dangling when a panic passes; a guard does not. The compiler may keep
    /// the address of this variable across a switch: right, because a job never changes its thread.
    static CURRENT: Cell<Option<NonNull<Header>>> = const { Cell::new(None) };
}

/// The job is to end: its pauses fail.
const CANCELLED: u32 = 1;
/// `blocked` is not 0: its pauses do nothing.
const BLOCKED: u32 = 2;
/// It has hooks, to be called at each switch.
const HOOKS: u32 = 4;
/// It was resumed to report where it is, and pauses again.
const REPORT: u32 = 8;
/// It holds a count of its ctx. Until its first pause it borrows the one of `start_job`'s caller instead, so that a job
/// that never pauses costs no atomic operation.
const OWNS_CTX: u32 = 16;
/// It has a name, which the plate of its stack points to.
const NAMED: u32 = 32;
/// Whoever cancelled it was panicking, so that its own stack need not be.
const ENTERED_PANICKING: u32 = 64;

/// How many pauses a cancelled job may still try before it is given up.
const CANCELLED_PAUSES: usize = 1000;

/// What this module knows of a job, at the top of its slot.
#[repr(C, align(16))]
pub(crate) struct Header {
    flags: Cell<u32>,
    blocked: Cell<u32>,
    yielder: Cell<*const Yielder<(), ()>>,
    parent: Cell<Option<NonNull<Header>>>,
    ctx: ManuallyDrop<WaitCtx>,
    id: JobId,
    stack: ManuallyDrop<Stack>,
    pauses_left: Cell<usize>,
    report: Cell<*mut Backtrace>,
    hooks: UnsafeCell<Option<Box<dyn SwitchHooks>>>,
    name: UnsafeCell<Option<Cow<'static, str>>>,
}

/// A header and the coroutine whose result is a `T`. The size is the same for every `T`.
#[repr(C)]
struct Frame<T> {
    header: Header,
    coroutine: ManuallyDrop<Coroutine<(), (), T, Bounds>>,
}

const _: () = assert!(offset_of!(Frame<()>, header) == 0, "a frame is cast to its header");

/// A job's stack, as corosensei sees it: everything below the frame.
struct Bounds {
    base: StackPointer,
    limit: StackPointer,
}

// SAFETY: the range is part of a `Stack`, which has a guard at its lower end and at least 16 KiB above it, less one
// frame; `launch` makes the only `Bounds` of a stack and keeps the stack until the coroutine has ended.
unsafe impl corosensei::stack::Stack for Bounds {
    #[inline]
    fn base(&self) -> StackPointer {
        self.base
    }

    #[inline]
    fn limit(&self) -> StackPointer {
        self.limit
    }
}

/// What a builder sets.
#[derive(Default)]
struct Attributes {
    name: Option<Cow<'static, str>>,
    hooks: Option<Box<dyn SwitchHooks>>,
}

impl Attributes {
    const NONE: Attributes = Attributes {
        name: None,
        hooks: None,
    };
}

#[cold]
fn refused<F>(refusal: NoStack, closure: F) -> StartError<F> {
    match refusal {
        NoStack::Limit(limit) => StartError::NoJobs { closure, limit },
        NoStack::Memory(source) => StartError::NoStack { closure, source },
    }
}

/// Calls `f` with the header of the job that runs this code.
#[inline]
fn with_current<R>(f: impl FnOnce(&Header) -> R) -> Option<R> {
    // SAFETY: CURRENT points to the header of the job that runs this code; `f` cannot end that job.
    CURRENT.get().map(|header| f(unsafe { header.as_ref() }))
}

/// Writes the frame of a job to the top of its stack and runs it for the first time.
#[inline]
fn launch<F, T>(stack: Stack, ctx: &WaitCtx, attributes: Attributes, f: F) -> Step<T>
where
    F: FnOnce() -> T + 'static,
    T: 'static,
{
    // SAFETY: `top` is one past the end of memory that the stack owns, at least 16 KiB of it.
    let frame = unsafe { stack.top().byte_sub(size_of::<Frame<T>>()) }.cast::<Frame<T>>();
    let bounds = Bounds {
        base: frame.addr(),
        limit: stack.limit().addr(),
    };

    let id = JobId(pool::next_id());
    let mut flags = 0;
    stack.plate().set_id(id.0);
    if attributes.hooks.is_some() {
        flags |= HOOKS;
    }
    if let Some(name) = &attributes.name {
        flags |= NAMED;
        stack.plate().set_name(name);
    }
    let header = Header {
        flags: Cell::new(flags),
        blocked: Cell::new(0),
        yielder: Cell::new(ptr::null()),
        parent: Cell::new(None),
        // SAFETY: a second handle without a count of its own: `run` adds the count before the caller's borrow ends, and
        // `dismantle` drops the handle only if it did.
        ctx: ManuallyDrop::new(unsafe { ptr::read(ctx) }),
        id,
        stack: ManuallyDrop::new(stack),
        pauses_left: Cell::new(0),
        report: Cell::new(ptr::null_mut()),
        hooks: UnsafeCell::new(attributes.hooks),
        name: UnsafeCell::new(attributes.name),
    };
    let at = frame.cast::<Header>();
    let takeoff = Takeoff {
        header: at,
        f: ManuallyDrop::new(f),
    };
    let from = &raw const takeoff;
    // SAFETY: `run` below enters the closure, once, while `takeoff` is still here.
    let coroutine = Coroutine::with_stack(bounds, move |yielder, ()| unsafe { job_main(from, yielder) });
    let coroutine = ManuallyDrop::new(coroutine);
    // SAFETY: aligned, as top and the frame's size are multiples of 16, and within the stack, whose first frame starts
    // below it.
    unsafe { frame.write(Frame { header, coroutine }) };
    // SAFETY: the frame was just written and nobody else knows of it.
    let step = unsafe { run(frame) };
    if let Step::Paused(job) = &step {
        // From here on the job outlives the caller's borrow.
        std::mem::forget(job.header().wait_ctx().clone());
        job.header().set_flag(OWNS_CTX);
    }
    step
}

/// What a job starts with, on the stack of whoever starts it and waits for its first pause.
///
/// One pointer to it is all that corosensei moves to the new stack. It would move the closure itself, but in pieces of 16 bytes
/// that were stored in pieces of 8, and each such load waits for the stores to reach the cache.
struct Takeoff<F> {
    header: NonNull<Header>,
    f: ManuallyDrop<F>,
}

/// The first thing that runs on a job's stack.
///
/// # Safety
///
/// `from` points to the job's takeoff, whose closure is taken.
#[inline]
unsafe fn job_main<F: FnOnce() -> T, T>(from: *const Takeoff<F>, yielder: &Yielder<(), ()>) -> T {
    // SAFETY: the caller's promise.
    let takeoff = unsafe { from.read() };
    // SAFETY: the header lies above this very frame, until the coroutine has ended.
    unsafe { takeoff.header.as_ref() }.yielder.set(yielder);
    ManuallyDrop::into_inner(takeoff.f)()
}

/// Switches into the job until it pauses or ends.
///
/// # Safety
///
/// `frame` is the frame of a job that is paused or has not run yet, and the caller owns it.
#[inline(always)] // as a call, it returns with a guess that the job has used up, in every switch
unsafe fn run<T>(frame: NonNull<Frame<T>>) -> Step<T> {
    let mut running = Running::enter(frame);
    match running.coroutine().resume(()) {
        CoroutineResult::Return(value) => {
            running.finished();
            Step::Finished(value)
        }
        CoroutineResult::Yield(()) => Step::Paused(running.paused()),
    }
}

/// A job that is running, as its resumer sees it. Every switch goes through this guard: it puts the job into the chain
/// of [`CURRENT`] and takes it out again, calls the hooks, and when the job has ended, by return, panic or unwinding,
/// takes its frame apart.
struct Running<T> {
    frame: NonNull<Frame<T>>,
}

impl<T> Running<T> {
    #[inline]
    fn enter(frame: NonNull<Frame<T>>) -> Self {
        let at = frame.cast::<Header>();
        // SAFETY: the frame exists until `drop` takes it apart.
        let header = unsafe { at.as_ref() };
        if header.flags.get() & HOOKS != 0 {
            header.call_hooks(|hooks| hooks.enter());
        }
        header.parent.set(CURRENT.replace(Some(at)));
        Running { frame }
    }

    /// The job has paused: what `drop` would do, without looking whether it has ended.
    ///
    /// Its address comes from [`CURRENT`], not from `self`: that one is read from the stack that was just switched to, so
    /// everything after this switch, the next one included, would wait for it (2.5 instead of 1.9 times corosensei).
    #[inline(always)]
    fn paused(self) -> Job<T> {
        // SAFETY: `enter` set it, and every guard since then has put back what it found.
        let at = unsafe { CURRENT.get().unwrap_unchecked() };
        debug_assert_eq!(at, self.frame.cast());
        let frame = at.cast();
        std::mem::forget(self);
        let job = Job {
            frame,
            _not_send: PhantomData,
        };
        ManuallyDrop::new(Running { frame }).leave(); // if a hook panics, `job` is cancelled
        job
    }

    /// The job has returned: what `drop` would do, in line.
    #[inline(always)]
    fn finished(self) {
        let mut running = ManuallyDrop::new(self);
        running.leave();
        running.take_apart();
    }

    /// The coroutine has ended: its stack goes back to the pool. Nothing uses the guard afterwards.
    #[inline(always)]
    fn take_apart(&mut self) {
        let ended = self.field();
        // SAFETY: a coroutine that is done owns nothing; its drop undoes what a sanitizer was told of the stack.
        unsafe { ptr::drop_in_place(ended) };
        // SAFETY: the job has ended, so nobody else reaches its frame, and the guard is not used after this.
        unsafe { Header::dismantle(self.frame.cast(), pool::give) };
    }

    /// The job does not run any more.
    #[inline]
    fn leave(&self) {
        // SAFETY: the frame exists until `drop` takes it apart.
        let header = unsafe { self.frame.cast::<Header>().as_ref() };
        CURRENT.set(header.parent.get());
        if header.flags.get() & HOOKS != 0 {
            header.call_hooks(|hooks| hooks.leave());
        }
    }

    #[inline]
    fn coroutine(&mut self) -> &mut Coroutine<(), (), T, Bounds> {
        let coroutine = self.field();
        // SAFETY: only the guard reaches the coroutine of a running job; the job reaches its header and its yielder.
        unsafe { &mut *coroutine }
    }

    #[inline]
    fn field(&self) -> *mut Coroutine<(), (), T, Bounds> {
        // SAFETY: the frame exists; no reference to the whole of it is made, as the header is shared with the job.
        let coroutine = unsafe { &raw mut (*self.frame.as_ptr()).coroutine };
        coroutine.cast() // ManuallyDrop is transparent
    }
}

impl<T> Drop for Running<T> {
    #[cold]
    fn drop(&mut self) {
        self.leave();
        // `done` is also true while the job runs, but this is outside.
        if self.coroutine().done() {
            self.take_apart();
        }
    }
}

impl Header {
    #[inline]
    fn wait_ctx(&self) -> &WaitCtx {
        &self.ctx
    }

    fn set_flag(&self, flag: u32) {
        self.flags.set(self.flags.get() | flag);
    }

    fn clear_flag(&self, flag: u32) {
        self.flags.set(self.flags.get() & !flag);
    }

    #[inline]
    fn suspend(&self) {
        let yielder = self.yielder.get();
        // SAFETY: `job_main` stored the yielder, which lives as long as the coroutine, and this runs inside it.
        unsafe { &*yielder }.suspend(());
    }

    #[cold]
    fn call_hooks(&self, call: impl FnOnce(&mut dyn SwitchHooks)) {
        let hooks = self.hooks.get();
        // SAFETY: only the guard of a running job calls its hooks, one at a time: a job runs in one place.
        if let Some(hooks) = unsafe { &mut *hooks } {
            call(hooks.as_mut());
        }
    }

    /// A pause that does not switch, or does for the last time.
    #[cold]
    #[inline(never)]
    fn pause_cold(&self) -> Result<Pause, Cancelled> {
        if self.flags.get() & CANCELLED != 0 {
            return self.cancelled_pause();
        }
        if self.flags.get() & BLOCKED != 0 {
            return Ok(Pause::Blocked);
        }
        Ok(Pause::Panicking)
    }

    fn cancelled_pause(&self) -> Result<Pause, Cancelled> {
        match self.pauses_left.get().checked_sub(1) {
            Some(left) => self.pauses_left.set(left),
            // A panic of the job's own forbids the switch: the canceller would inherit it. Then the job spins, as it would
            // have without us.
            None if thread::panicking() && self.flags.get() & ENTERED_PANICKING == 0 => {}
            // The canceller abandons a job that comes back here.
            None => self.suspend(),
        }
        Err(Cancelled)
    }

    /// A resume with a purpose other than "go on".
    #[cold]
    #[inline(never)]
    fn resumed_cold(&self) -> Result<Pause, Cancelled> {
        while self.flags.get() & REPORT != 0 {
            let report = self.report.get();
            let backtrace = Backtrace::force_capture();
            // SAFETY: `Job::backtrace` waits for this on its resumer's stack, with the pointer to a value of its own.
            unsafe { *report = backtrace };
            self.suspend();
        }
        if self.flags.get() & CANCELLED != 0 {
            return Err(Cancelled);
        }
        Ok(Pause::Resumed)
    }

    /// Hands the stack that the header stands on to `receive`, then drops what the header owned: a destructor of the
    /// user's that panics, or uses jobs, finds everything in order.
    ///
    /// # Safety
    ///
    /// The job has ended or will never run again, and nothing uses the header afterwards.
    #[inline(always)] // see `run`
    unsafe fn dismantle(header: NonNull<Header>, receive: impl FnOnce(Stack)) {
        // SAFETY: the caller's promise: nobody else uses it.
        let header = unsafe { &mut *header.as_ptr() };
        // SAFETY: as above; the header's own handle is not used again.
        let stack = unsafe { ManuallyDrop::take(&mut header.stack) };
        let flags = header.flags.get();
        // SAFETY: the flag says that this handle has a count, and the header is not used again.
        let ctx = (flags & OWNS_CTX != 0).then(|| unsafe { ManuallyDrop::take(&mut header.ctx) });
        if flags & (HOOKS | NAMED) == 0 {
            receive(stack);
        } else {
            header.give_with_attributes(stack, receive);
        }
        drop(ctx);
    }

    #[cold]
    #[inline(never)]
    fn give_with_attributes(&mut self, stack: Stack, receive: impl FnOnce(Stack)) {
        let attributes = Attributes {
            name: self.name.get_mut().take(),
            hooks: self.hooks.get_mut().take(),
        };
        stack.plate().clear_name();
        receive(stack);
        drop(attributes);
    }
}
