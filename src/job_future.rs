//! A job as a future: synchronous code, or a whole future, on a stack of its own, which any runtime polls.
//!
//! ```text
//!   runtime             JobFuture                                job
//!     poll(cx)  ------>  cx's waker becomes the forwarder's task
//!                        resume  ----------------------------->  ... sign() -> await_future(f) -> f.poll(forwarder)
//!                        read the wait ctx <-------------------  pauses
//!     Pending   <------                                            :
//!     wakes the task <-- forwarder <------------------------------------- the callback: f's driver, an engine's thread
//! ```
//!
//! The waker of a task is valid for the poll that it came with. The next poll may come from another task (a `select`, a
//! set of futures) with another waker. The code in the job may be in the middle of a poll of its own during many polls
//! of the task, so it never sees the task's waker. It sees the forwarder, which is one waker for the life of the job,
//! and which wakes the task that polled the job last. Nothing of a poll is kept across a pause.
//!
//! The forwarder gets its first task when the job has paused for the first time. A job that ends before that needs
//! none, and the task's waker is not cloned for it.
//!
//! # When a poll resumes the job
//!
//! The first row that applies counts.
//!
//! | the job [wants](Wants) | the forwarder was called since the last resume | a poll |
//! |---|---|---|
//! | `Cancel` | yes or no | cancels the job and fails with [`JobError::EngineFailed`] |
//! | anything else | yes | resumes the job |
//! | `Again` | no | resumes the job, after the runtime has had a turn |
//! | `Callback` | no | waits |
//! | `Watch` | no | asks the [watch](JobFuture::watch), or without one cancels the job: [`JobError::Unwatched`] |
//! | `Poll` | no | asks the watch, which backs off, or without one resumes the job after a turn of the runtime |
//!
//! There is one exception to the row of `Watch`: without a watch, a job whose status is `Ok` and whose ctx has no
//! deadline waits for its callback.
//!
//! A job that waits for its callback is not looked at while nothing happens: a poll by the task that polled last
//! compares the wakers and reads the two words of the forwarder. So what another thread writes into the ctx meanwhile
//! counts from its next call of the callback.

#[allow(unsafe_code, reason = "moves a pair of handles out of a value that is dropped")]
mod bound_ctx;
mod forwarder;
#[allow(
    unsafe_code,
    reason = "uses the memory of a box again, and drops what is not always there"
)]
mod memory;
#[cfg(feature = "insight")]
mod parked;

use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::error::{AwaitError, NO_STACK, StartErrorKind, WAIT_CTX_IN_USE};
use crate::hooks::SwitchHooks;
use crate::job::{HeapClosure, Job, JobBuilder, JobPlan, LARGEST_CLOSURE_ON_STACK, Step, Wiped, budget};
use crate::pool::{Available, available, has_capacity, take_available};
use crate::wait_ctx::{Status, WaitCtx, WakeCause, Wants};
use bound_ctx::{BoundCtx, LastTask};
use memory::Maybe;
pub(crate) use memory::{Kept, boxed};

/// Runs synchronous code as a job, on any async runtime. The output is what the code returns.
///
/// The code starts at the first poll, on the thread that polls, and stays on that thread. The future is therefore
/// neither `Send` nor `Sync`. It goes to `spawn_local`, a `LocalSet` or a `block_on`: [`JobStaysOnItsThread`] says
/// more.
///
/// * **Dropping the future cancels the job.** The pause of the job fails with
///   [`Cancelled`](crate::PauseError::Cancelled), destructors run, and the stack goes back to the pool.
/// * At the limit of the thread's pool the future waits until a job is [`available`].
/// * A panic of the job leaves `poll`.
/// * A poll without a reason resumes nothing: an unchanged waker and a word that no wake has touched are all that it
///   looks at while the job waits for its [callback](WaitCtx::callback). An engine that changes the wait ctx of a
///   paused job, to report [`Status::Err`] for instance, calls the callback after that.
///
/// # Errors
///
/// The output is a [`JobError`] when the code could not start, or was cancelled because of what its wait ctx says.
///
/// ```
/// use asyncjob::job_future::JobFuture;
/// use asyncjob::waiting::{await_future, await_or_block};
///
/// // Synchronous code, five calls deep in a library, that awaits:
/// fn sign() -> u32 {
///     await_future(async { 6 * 7 }).unwrap()
/// }
/// let signature = JobFuture::new(|| sign());
/// assert_eq!(await_or_block(signature).unwrap().unwrap(), 42);
/// ```
///
/// [`JobBuilder::future`](crate::JobBuilder::future) also gives the job a name, a stack size, hooks or a wait ctx. Code
/// that waits for fds or for time needs a watch for these on the runtime: `asyncjob-tokio` has one, and
/// [`watch`](Self::watch) sets any other. Code that waits for futures, or for work on other threads, needs none.
#[must_use = "futures do nothing unless polled"]
pub struct JobFuture<T: 'static> {
    _not_send: PhantomData<dyn JobStaysOnItsThread>, // first, so that the compiler's first error is about this
    // The job is dropped before what it may still use: the fields stand in the order in which they are dropped.
    //
    /// What is to be run, until the job starts.
    pending: Maybe<Pending<T>>,
    /// The place in the line, if the job has come to a pool at its limit.
    available: Option<Available>,
    /// The job, while it is paused. A job that has finished, failed or panicked is in neither place.
    paused: Option<Job<Returned<T>>>,
    #[cfg(feature = "insight")]
    parked: parked::Parked,
    bound: BoundCtx,
    watch: Watching,
    yield_by: fn(&mut Context<'_>),
}

/// Names the reason why a future with a job in it is not `Send`: a job stays on the thread that started it.
///
/// If the compiler says that `dyn JobStaysOnItsThread` cannot be sent between threads, a job was given to
/// `tokio::spawn` or to another function for tasks that move between threads. Use one of these instead:
///
/// * `tokio::task::spawn_local`, on a `LocalSet` or a current-thread runtime;
/// * `asyncjob_tokio::Workers`, which are threads for jobs behind a handle that is `Send`. For TLS handshakes that is
///   `asyncjob_rustls::TlsAcceptor::pinned`.
///
/// The [guide's page about tokio](https://github.com/asyncjob/asyncjob/blob/HEAD/docs/guide/tokio.md) has a program for
/// each. The compiler cannot print that address with its error: what is missing is `Send`, whose texts are the standard
/// library's.
///
/// ```compile_fail,E0277
/// fn spawn<T: Send>(_: T) {}
/// spawn(asyncjob::job_future::JobFuture::new(|| ()));
/// ```
///
/// Nothing implements this trait. It is a trait because the compiler names a trait object that is not `Send`, but not a
/// struct whose fields are not `Send`.
pub trait JobStaysOnItsThread {}

/// The function that [`JobFuture::watch`] sets.
#[doc(hidden)] // for asyncjob-tokio
pub type Watch = dyn FnMut(&WaitCtx, &mut Context<'_>) -> Poll<()>;

/// What looks after the wait fds of a job and its deadline.
enum Watching {
    Nothing,
    /// A watch that this makes when it is needed.
    Later(fn() -> Box<Watch>),
    By(Box<Watch>),
}

/// The output of the future.
type JobOutput<T> = Result<T, JobError>;

/// What the job returns. It is an error only if the code of the job is itself a wait, as in [`in_job`](crate::in_job).
///
/// The error is in a box, because what a job returns is moved several times until it is the output of the future.
pub(crate) type Returned<T> = Result<T, Box<AwaitError>>;

/// A job that has not started. It may be in the queue for a stack.
struct Pending<T: 'static> {
    plan: JobPlan,
    f: Box<dyn HeapClosure<Returned<T>>>,
}

impl<T: 'static> JobFuture<T> {
    /// Makes a future that runs `f` as a job when it is polled.
    pub fn new(f: impl FnOnce() -> T + 'static) -> Self {
        JobBuilder::new().future(f)
    }

    /// Gives the job a watch: a function that looks after its wait fds and its deadline.
    ///
    /// The function is called after a pause in which the job waits for fds or a deadline, or wants to be polled, and at
    /// each later poll until the job is resumed. It returns `Ready` when the job may be resumed:
    ///
    /// * a wait fd is ready *now* (an engine may read it and block);
    /// * the deadline has passed;
    /// * the ctx has neither, and it is time to try again.
    ///
    /// Otherwise it returns `Pending` and arranges that the task is woken.
    ///
    /// When the job waits for its callback only and its ctx has had wait fds, the function is called, too, so that it
    /// lets go of those that were removed. What it returns does not count then. It is dropped when the job has ended.
    pub fn watch(mut self, watch: impl FnMut(&WaitCtx, &mut Context<'_>) -> Poll<()> + 'static) -> Self {
        self.watch = Watching::By(Box::new(watch));
        self
    }

    /// As [`watch`](Self::watch), with a watch that is made when it is needed. Most jobs wait for futures only.
    #[doc(hidden)] // for asyncjob-tokio
    pub fn watch_made_by(mut self, make: fn() -> Box<Watch>) -> Self {
        self.watch = Watching::Later(make);
        self
    }

    /// Sets how the future gives way: a function that has the task polled again after the runtime has looked at its
    /// other tasks, its fds and its timers. The default wakes the task at once, which some runtimes poll again before
    /// they look at anything else.
    ///
    /// The function is called when the job pauses and wants to go on after the others. Every job does so from time to
    /// time that never has to wait, because its sockets are always ready.
    pub fn yield_by(mut self, yield_by: fn(&mut Context<'_>)) -> Self {
        self.yield_by = yield_by;
        self
    }

    /// The wait ctx that the job is bound to.
    pub fn wait_ctx(&self) -> &WaitCtx {
        if self.has_ended() {
            self.bound.let_go();
        }
        &self.bound.ctx
    }

    /// Whether the future was ready, or its job has panicked.
    fn has_ended(&self) -> bool {
        self.pending.as_ref().is_none() && self.paused.is_none()
    }

    /// Makes the future of a job whose code may return an error of its own.
    #[inline]
    pub(crate) fn of<H: SwitchHooks + 'static>(
        builder: JobBuilder<'_, H>,
        f: Box<dyn HeapClosure<Returned<T>>>,
    ) -> Self {
        #[cfg(feature = "tracing")]
        let builder = builder.map_hooks(|hooks| (crate::hooks::Spans::default(), hooks));
        let (plan, ctx) = builder.plan_and_ctx();
        Self::of_plan(plan, BoundCtx::new(ctx), f)
    }

    /// As [`of`](Self::of), with a builder that sets nothing.
    #[inline]
    pub(crate) fn plain(f: Box<dyn HeapClosure<Returned<T>>>) -> Self {
        #[cfg(feature = "tracing")]
        return Self::of(JobBuilder::new(), f);
        #[cfg(not(feature = "tracing"))]
        Self::of_plan(JobPlan::new(None, None, None), BoundCtx::own(), f)
    }

    #[inline(always)] // so that the future is written to its place, and not moved there
    fn of_plan(plan: JobPlan, bound: BoundCtx, f: Box<dyn HeapClosure<Returned<T>>>) -> Self {
        JobFuture {
            _not_send: PhantomData,
            pending: Maybe::new(Pending { plan, f }),
            available: None,
            paused: None,
            #[cfg(feature = "insight")]
            parked: parked::Parked::default(),
            bound,
            watch: Watching::Nothing,
            yield_by: |task| task.waker().wake_by_ref(),
        }
    }

    /// Whether the second row of the table in the documentation of the module applies to the paused job: its next step
    /// is a resume, for [`WakeCause::Callback`].
    #[inline]
    fn is_called(&self) -> bool {
        self.bound.forwarder.was_called() && self.bound.ctx.status() != Status::Err
    }

    /// What the other rows of the table say. `had_turn`: the runtime has had a turn since the pause.
    #[inline(always)] // all but the first line is a call
    fn next_step(&mut self, had_turn: bool, task: &mut Context<'_>) -> NextStep {
        if self.bound.ctx.wants_only_callback() {
            self.bound.forwarder.wait_for_call();
            return NextStep::Wait;
        }
        self.bound.forwarder.look();
        self.next_step_of_others(had_turn, task)
    }

    /// The next step of a job that may wait for something else than its callback.
    #[inline(never)]
    fn next_step_of_others(&mut self, had_turn: bool, task: &mut Context<'_>) -> NextStep {
        // A ctx that never had a wait fd has none now, so its entries need not be read.
        let never_had_fds = self.bound.ctx.version() == 0;
        let wants = if never_had_fds {
            Wants::of(self.bound.ctx.status(), false, self.bound.ctx.deadline())
        } else {
            self.bound.ctx.wants()
        };
        match wants {
            Wants::Cancel => NextStep::End(JobError::EngineFailed),
            _ if self.bound.forwarder.was_called() => NextStep::Resume(WakeCause::Callback),
            Wants::Again if had_turn => NextStep::Resume(WakeCause::Retry),
            Wants::Again => NextStep::Yield,
            Wants::Callback if never_had_fds => NextStep::Wait,
            // The watch is told of every change of the wait fds, so that it lets go of those that were removed.
            Wants::Callback | Wants::Watch | Wants::Poll => self.ask_watch(wants, had_turn, task),
        }
    }

    /// The rows of the table in which nothing has called the forwarder and the watch counts.
    fn ask_watch(&mut self, wants: Wants, had_turn: bool, task: &mut Context<'_>) -> NextStep {
        if let Watching::Later(make) = self.watch {
            self.watch = Watching::By(make());
        }
        if let Watching::By(watch) = &mut self.watch {
            let may_resume = watch(&self.bound.ctx, task).is_ready() && wants != Wants::Callback;
            return if may_resume {
                NextStep::Resume(WakeCause::Watch)
            } else {
                NextStep::Wait
            };
        }
        match wants {
            Wants::Watch if self.bound.ctx.deadline().is_none() && self.bound.ctx.status() == Status::Ok => {
                NextStep::Wait
            }
            Wants::Watch => NextStep::End(JobError::Unwatched),
            Wants::Poll if had_turn => NextStep::Resume(WakeCause::Retry),
            Wants::Poll => NextStep::Yield,
            _ => NextStep::Wait,
        }
    }

    /// A poll by another task than the last one, or the first poll.
    #[cold]
    fn poll_by_another(&mut self, task: &mut Context<'_>) -> Poll<JobOutput<T>> {
        if self.paused.is_none() {
            return self.start(task);
        }
        self.poll_by_new(task)
    }

    #[inline(never)] // so that the first poll gets to `start` by jumps
    fn poll_by_new(&mut self, task: &mut Context<'_>) -> Poll<JobOutput<T>> {
        self.set_task(task);
        self.poll_on(task)
    }

    /// A poll for which there is something to do, by the task that the forwarder has.
    #[cold] // so that what comes without it has no jump
    fn poll_on(&mut self, task: &mut Context<'_>) -> Poll<JobOutput<T>> {
        #[cfg(feature = "insight")]
        self.answer_requests();
        if self.is_called()
            && let Some(job) = self.paused.take()
        {
            return self.resume(job, WakeCause::Callback, task);
        }
        self.poll_uncalled(task)
    }

    /// A poll that comes without a call of the forwarder, or after the job has panicked.
    #[inline(never)]
    fn poll_uncalled(&mut self, task: &mut Context<'_>) -> Poll<JobOutput<T>> {
        if self.paused.is_none() {
            return self.start(task);
        }
        match self.next_step(true, task) {
            NextStep::Resume(cause) => match self.paused.take() {
                Some(job) => self.resume(job, cause, task),
                None => unreachable!("it was there above"),
            },
            NextStep::Wait | NextStep::Yield => Poll::Pending,
            NextStep::End(error) => {
                drop(self.paused.take());
                self.end(Err(error))
            }
        }
    }

    /// The first poll, or one of a future that waits for a stack.
    #[inline(never)]
    fn start(&mut self, task: &mut Context<'_>) -> Poll<JobOutput<T>> {
        if let Some(pending) = self.pending.as_ref()
            && self.available.is_none()
            && pending.plan.stack_size().is_none()
            && self.bound.is_bound()
            && let Some(stack) = take_available()
            && let Some(Pending { plan, f }) = self.pending.take()
        {
            self.begin();
            let running = self.bound.forwarder.start();
            let step = plan.start_on(stack, &self.bound.ctx, f);
            drop(running);
            return self.started(step, task);
        }
        self.start_slowly(task)
    }

    /// As [`start`](Self::start), where there may be no stack.
    #[cold]
    #[inline(never)]
    fn start_slowly(&mut self, task: &mut Context<'_>) -> Poll<JobOutput<T>> {
        if self.pending.as_ref().is_none() {
            panic!(concat!(
                "a JobFuture was polled after it had ended",
                guide_page!("tokio")
            ));
        }
        if !self.bound.is_bound() {
            drop(self.pending.take());
            return self.end(Err(JobError::WaitCtxInUse));
        }
        ready!(Pin::new(self.available.get_or_insert_with(available)).poll(task));
        if !has_capacity() {
            // Wakers are code of the user. The one that was in the line has started a job when it was dropped: take a
            // place in the line in the next poll.
            task.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some(Pending { plan, f }) = self.pending.take() else {
            unreachable!("it was there above")
        };
        let _available = self.available.take();
        self.begin();
        let running = self.bound.forwarder.start();
        let started = plan.start(&self.bound.ctx, f);
        drop(running);
        match started {
            Ok(step) => self.started(step, task),
            Err((.., StartErrorKind::NoStack(source))) => self.end(Err(JobError::NoStack(source))),
            Err(_) => unreachable!("the pool had a free job, and no other code has run since"),
        }
    }

    /// The job is about to start.
    #[inline(always)]
    fn begin(&mut self) {
        #[cfg(feature = "insight")]
        self.parked.start(&self.bound.forwarder);
        budget::begin();
    }

    /// The job has run until its first pause or its end.
    #[inline(always)]
    fn started(&mut self, step: Step<Returned<T>>, task: &mut Context<'_>) -> Poll<JobOutput<T>> {
        match step {
            Step::Finished(returned) => self.finished(returned),
            Step::Paused(job) => self.first_pause(job, task),
        }
    }

    /// The job has paused for the first time. Until now there was no task to wake, because a job that never pauses
    /// needs none. A wake of another thread has found none, then. It has set its flag before it looked for the task,
    /// and the next step looks at the flag after the task is there.
    fn first_pause(&mut self, job: Job<Returned<T>>, task: &mut Context<'_>) -> Poll<JobOutput<T>> {
        // The clone of a waker is code of the user. If it panics, the job is paused.
        self.paused = Some(job);
        #[cfg(feature = "insight")]
        self.parked.paused();
        self.set_task(task);
        #[cfg(feature = "insight")]
        if self.bound.forwarder.is_asked() {
            task.waker().wake_by_ref(); // as a wake, a request has found no task
        }
        match self.paused.take() {
            Some(job) => self.after(Step::Paused(job), task),
            None => unreachable!("it was put there above"),
        }
    }

    /// Resumes the paused job. A panic of the job leaves a future behind that has ended.
    #[inline(always)] // `poll_uncalled` has a copy
    fn resume(&mut self, job: Job<Returned<T>>, cause: WakeCause, task: &mut Context<'_>) -> Poll<JobOutput<T>> {
        self.bound.ctx.woken(cause);
        budget::begin();
        let running = self.bound.forwarder.start_resume();
        let step = job.resume();
        drop(running);
        self.after(step, task)
    }

    /// Tells the dumps that have asked about the paused job.
    #[cfg(feature = "insight")]
    fn answer_requests(&mut self) {
        if let Some(job) = &mut self.paused {
            self.parked.answer(&self.bound.forwarder, job);
        }
    }

    /// The job has run until its end or a pause.
    #[inline(always)] // `first_pause` has a copy, and most polls resume
    fn after(&mut self, step: Step<Returned<T>>, task: &mut Context<'_>) -> Poll<JobOutput<T>> {
        let job = match step {
            Step::Finished(returned) => return self.finished(returned),
            Step::Paused(job) => job,
        };
        if self.is_called() {
            // A resume here would starve the other tasks of the thread if the job always has a reason to go on.
            task.waker().wake_by_ref();
            return self.pending(job);
        }
        match self.next_step(false, task) {
            NextStep::Resume(_) => task.waker().wake_by_ref(), // as above
            NextStep::Yield => (self.yield_by)(task),
            NextStep::Wait => {}
            NextStep::End(error) => {
                drop(job);
                return self.end(Err(error));
            }
        }
        self.pending(job)
    }

    #[inline(always)]
    fn pending(&mut self, job: Job<Returned<T>>) -> Poll<JobOutput<T>> {
        self.paused = Some(job);
        #[cfg(feature = "insight")]
        self.parked.paused();
        Poll::Pending
    }

    /// The task that polls is the one that the forwarder wakes.
    fn set_task(&mut self, task: &Context<'_>) {
        self.bound.last = LastTask::new(self.bound.forwarder.set_task(task.waker()));
    }

    /// The job has returned.
    #[inline(always)] // as a call, it would have the value in memory
    fn finished(&mut self, returned: Returned<T>) -> Poll<JobOutput<T>> {
        self.let_go();
        Poll::Ready(returned.map_err(|error| JobError::Await(*error)))
    }

    /// The future is ready without a value.
    fn end(&mut self, output: JobOutput<T>) -> Poll<JobOutput<T>> {
        self.let_go();
        Poll::Ready(output)
    }

    /// Lets go of the task and the ctx, and of what the watch holds: duplicates of fds, for example, which the other
    /// side of a connection would see as open. A future may be kept after it was ready.
    #[inline(always)] // a job that has not paused has hardly anything of it
    fn let_go(&mut self) {
        #[cfg(feature = "insight")]
        self.parked.end();
        self.bound.clear_task();
        self.bound.end();
        if let Watching::By(_) = self.watch {
            self.drop_watch();
        }
    }

    #[cold]
    fn drop_watch(&mut self) {
        self.watch = Watching::Nothing;
    }
}

impl<H: SwitchHooks + 'static> JobBuilder<'_, H> {
    /// Makes a future that runs `f` as a job, with this builder's name, stack size, hooks and wait ctx, when it is
    /// polled.
    ///
    /// If the wait ctx belongs to another job of a scheduler or a future, the output is [`JobError::WaitCtxInUse`].
    ///
    /// ```
    /// use asyncjob::JobBuilder;
    /// use asyncjob::waiting::await_or_block;
    ///
    /// let job = JobBuilder::new().name("signer").future(|| asyncjob::current_job().unwrap().name().map(str::len));
    /// assert_eq!(await_or_block(job).unwrap().unwrap(), Some(6));
    /// ```
    #[inline]
    pub fn future<T: 'static>(self, f: impl FnOnce() -> T + 'static) -> JobFuture<T> {
        if size_of_val(&f) > LARGEST_CLOSURE_ON_STACK {
            let f = Wiped::boxed(f); // is called in its box: `Ok(f())` would first copy it to the stack
            return JobFuture::of(self, Wiped::boxed(move || Ok(f.call())));
        }
        JobFuture::of(self, Wiped::boxed(move || Ok(f())))
    }
}

impl<T: 'static> Future for JobFuture<T> {
    type Output = JobOutput<T>;

    /// # Panics
    ///
    /// With the panic of the job. Also when the future is polled after it was ready.
    #[inline]
    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<JobOutput<T>> {
        // Nothing has happened since this task polled last: the rest of its futures is polled for something else. There
        // is a task only while the job is paused or runs, and this is not looked at while it runs.
        if !self.bound.last.is(task) {
            return self.poll_by_another(task);
        }
        if self.bound.forwarder.waits_for_call() {
            return Poll::Pending;
        }
        self.poll_on(task)
    }
}

// Nothing in the future is pinned: the job is behind a pointer.
impl<T: 'static> Unpin for JobFuture<T> {}

impl<T: 'static> fmt::Debug for JobFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match (self.pending.as_ref(), &self.paused) {
            (Some(_), _) => "not started",
            (None, Some(_)) => "paused",
            (None, None) => "ended",
        };
        f.debug_struct("JobFuture")
            .field("state", &state)
            .field("wait_ctx", &self.bound.ctx)
            .finish_non_exhaustive()
    }
}

/// What a poll does with a paused job.
enum NextStep {
    /// Resumes the job, for this reason.
    Resume(WakeCause),
    /// Returns `Pending`. The callback or the watch will wake the task.
    Wait,
    /// Wakes the task itself, so that the runtime does other things and then polls again. The job is resumed then.
    Yield,
    /// Cancels the job and returns the error.
    End(JobError),
}

/// Why a [`JobFuture`] has no value.
#[non_exhaustive]
pub enum JobError {
    /// The system has no memory for another stack.
    NoStack(io::Error),
    /// The job set [`Status::Err`]: its engine is broken for this session. The job was cancelled.
    EngineFailed,
    /// The job waits for an fd or a deadline, and the future has no [watch](JobFuture::watch) for these. The job was
    /// cancelled.
    Unwatched,
    /// The builder's wait ctx belongs to another job that has not ended. One of the two would take the other's wakes.
    WaitCtxInUse,
    /// The wait for the future that [`in_job`](crate::in_job) polls ended before the future was ready.
    Await(AwaitError),
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JobError::NoStack(_) => f.write_str(NO_STACK),
            JobError::EngineFailed => f.write_str("the engine that the job waited for failed: end its session"),
            JobError::Unwatched => f.write_str(concat!(
                "the job waits for an fd or a deadline, and its future has no watch for these: use the function of the \
                 same name of asyncjob-tokio, or JobFuture::watch",
                guide_page!("tokio")
            )),
            JobError::WaitCtxInUse => f.write_str(WAIT_CTX_IN_USE),
            JobError::Await(error) => error.fmt(f),
        }
    }
}

debug_with_sentence!(JobError: NoStack, EngineFailed, Unwatched, WaitCtxInUse, Await);

impl std::error::Error for JobError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            JobError::NoStack(source) => Some(source),
            JobError::Await(error) => error.source(),
            _ => None,
        }
    }
}

impl From<JobError> for io::Error {
    fn from(error: JobError) -> Self {
        match error {
            JobError::NoStack(source) => io::Error::new(source.kind(), JobError::NoStack(source)),
            JobError::Await(error) => error.into(),
            other => io::Error::other(other),
        }
    }
}
