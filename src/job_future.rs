//! A job as a future: synchronous code, or a whole future, on a stack of its own, polled by any runtime.
//!
//! ```text
//!   runtime             JobFuture                                job
//!     poll(cx)  ------>  aim the forwarder at cx's waker
//!                        resume  ----------------------------->  ... sign() -> await_future(f) -> f.poll(forwarder)
//!                        look at the wait ctx <----------------  pauses
//!     Pending   <------                                            :
//!     wakes the task <-- forwarder <------------------------------------- f's driver, an engine's thread: the callback
//! ```
//!
//! The waker of a task is good for the poll that it came with. The next poll may come from another task (a `select`, a set of
//! futures) with another waker. Code in a job may be in the middle of a poll of its own for many polls of the task, so it
//! never sees the task's waker. It sees the forwarder: one waker for the life of the job, which wakes the task that
//! polled the job last. Nothing of a poll is kept across a pause.
//!
//! # When a poll resumes the job
//!
//! | the job [wants](Wants) | a poll |
//! |---|---|
//! | `Cancel` | cancels it: [`JobError::EngineFailed`] |
//! | anything else | resumes it if the forwarder was called since the last resume; if not: |
//! | `Callback` | waits |
//! | `Again` | resumes it, after the runtime has had a turn |
//! | `Watch` | asks the [watch](JobFuture::watch); without one, cancels it: [`JobError::Unwatched`] |
//! | `Poll` | asks the watch, which backs off; without one resumes it, after the runtime has had a turn |

use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};

use parking_lot::Mutex;

use crate::error::{AwaitError, StartErrorKind, WAIT_CTX_IN_USE};
use crate::hooks::SwitchHooks;
use crate::job::{Job, JobBuilder, JobPlan, Step};
use crate::pool::{Available, available};
use crate::wait_ctx::{ClaimedCtx, Status, WaitCtx, Wants};

/// Runs synchronous code as a job, on any runtime. Its output is what the code returns.
///
/// The code starts at the first poll, on the thread that polls, and stays there: the future is not `Send`
/// ([`JobStaysOnItsThread`] says what to do), so it goes to `spawn_local`, a `LocalSet`, or a `block_on`.
///
/// - At the limit of the thread's pool it waits for a [`available`](crate::pool::available).
/// - Dropping it cancels the job: the pause fails with [`Cancelled`](crate::PauseError::Cancelled), destructors run, the stack
///   goes back.
/// - A panic of the job leaves `poll`.
///
/// Code that waits for fds or for time needs a watch for these on this runtime. `asyncjob-tokio` has one, and
/// [`watch`](Self::watch) takes any other. Code that waits for futures, or for work on other threads, needs none.
///
/// A name, a stack size, hooks or a wait ctx of your own come from [`JobBuilder::future`](crate::JobBuilder::future).
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
#[must_use = "futures do nothing unless polled"]
pub struct JobFuture<T: 'static> {
    _not_send: PhantomData<dyn JobStaysOnItsThread>, // first, so that the compiler's first error is about this
    state: State<T>,
    ctx: WaitCtx,
    /// `None` if the ctx belongs to another job.
    claim: Option<ClaimedCtx>,
    forwarder: Arc<ForwardingWaker>,
    watch: Option<Box<Watch>>,
}

/// Why a future with a job in it is not `Send`: a job stays on the thread that started it.
///
/// If the compiler says that `dyn JobStaysOnItsThread` cannot be sent between threads, a job was given to `tokio::spawn` or to
/// another function for tasks that move between threads. There are two ways out:
///
/// * `tokio::task::spawn_local`, on a `LocalSet` or a current-thread runtime;
/// * `asyncjob_tokio::Workers`: threads for jobs, behind a handle that is `Send`. For TLS handshakes that is
///   `asyncjob_rustls::TlsAcceptor::pinned`.
///
/// Nothing implements this trait. It is a trait because the compiler names a trait object that is not `Send`, and does not
/// name a struct whose fields are not.
///
/// ```compile_fail,E0277
/// fn spawn<T: Send>(_: T) {}
/// spawn(asyncjob::job_future::JobFuture::new(|| ()));
/// ```
pub trait JobStaysOnItsThread {}

/// See [`JobFuture::watch`].
type Watch = dyn FnMut(&WaitCtx, &mut Context<'_>) -> Poll<()>;

/// What the job returns: an error only if the job's own code is a wait, as in [`in_job`](crate::in_job).
type Outcome<T> = Result<T, JobError>;

enum State<T: 'static> {
    /// Not started, maybe in the queue for a job.
    Pending(JobPlan, Box<dyn FnOnce() -> Outcome<T>>, Available),
    /// Paused. The flag: the runtime has had a turn since.
    Paused(Job<Outcome<T>>, bool),
    /// Finished, failed or panicked.
    Ended,
}

impl<T: 'static> JobFuture<T> {
    /// A future that runs `f` as a job when it is polled.
    pub fn new(f: impl FnOnce() -> T + 'static) -> Self {
        JobBuilder::new().future(f)
    }

    /// Gives the job a watch: a function that looks after its wait fds and its deadline.
    ///
    /// The function is called after each pause that is not only for a callback, and at each later poll. It returns `Ready`
    /// when the job may be resumed: a wait fd is ready *now* (an engine may read it and block), or the deadline has passed,
    /// or, where the ctx has neither, when it is time to try. Otherwise it arranges for the task to be woken.
    pub fn watch(mut self, watch: impl FnMut(&WaitCtx, &mut Context<'_>) -> Poll<()> + 'static) -> Self {
        self.watch = Some(Box::new(watch));
        self
    }

    /// The ctx that the job is bound to.
    pub fn wait_ctx(&self) -> &WaitCtx {
        &self.ctx
    }

    /// Makes the future of a job whose code may fail by itself.
    pub(crate) fn of<H: SwitchHooks + 'static>(
        builder: JobBuilder<'_, H>,
        f: impl FnOnce() -> Outcome<T> + 'static,
    ) -> Self {
        #[cfg(feature = "tracing")]
        let builder = builder.map_hooks(|hooks| (crate::hooks::Spans::default(), hooks));
        let (plan, ctx) = builder.plan_and_ctx();
        let claim = ctx.claim();
        let forwarder = Arc::new(ForwardingWaker::default());
        if claim.is_some() {
            ctx.set_callback(Some(Waker::from(Arc::clone(&forwarder))));
        }
        JobFuture {
            _not_send: PhantomData,
            state: State::Pending(plan, Box::new(f), available()),
            ctx,
            claim,
            forwarder,
            watch: None,
        }
    }

    /// What the rules in the module's table say about the paused job.
    fn next_step(&mut self, had_turn: bool, task: &mut Context<'_>) -> NextStep {
        // A ctx that never had a wait fd has none now, and need not be locked.
        let never_had_fds = self.ctx.version() == 0;
        let wants = if never_had_fds {
            Wants::of(self.ctx.status(), false, self.ctx.deadline())
        } else {
            self.ctx.wants()
        };
        match wants {
            Wants::Cancel => return NextStep::End(JobError::EngineFailed),
            _ if self.forwarder.called.load(Ordering::Acquire) => return NextStep::Resume,
            Wants::Again if had_turn => return NextStep::Resume,
            Wants::Again => return NextStep::Yield,
            Wants::Callback if never_had_fds => return NextStep::Wait,
            // The watch hears of every change of the wait fds, so that it lets go of those that are gone.
            Wants::Callback | Wants::Watch | Wants::Poll => {}
        }
        if let Some(watch) = &mut self.watch {
            let may_resume = watch(&self.ctx, task).is_ready() && wants != Wants::Callback;
            return if may_resume { NextStep::Resume } else { NextStep::Wait };
        }
        match wants {
            Wants::Watch if self.ctx.deadline().is_none() && self.ctx.status() == Status::Ok => NextStep::Wait,
            Wants::Watch => NextStep::End(JobError::Unwatched),
            Wants::Poll if had_turn => NextStep::Resume,
            Wants::Poll => NextStep::Yield,
            _ => NextStep::Wait,
        }
    }

    fn end(&mut self, outcome: Outcome<T>) -> Poll<Outcome<T>> {
        self.forwarder.forget();
        self.claim = None;
        Poll::Ready(outcome)
    }
}

impl<H: SwitchHooks + 'static> JobBuilder<'_, H> {
    /// A future that runs `f` as a job when it is polled.
    ///
    /// ```
    /// use asyncjob::JobBuilder;
    /// use asyncjob::waiting::await_or_block;
    ///
    /// let job = JobBuilder::new().name("signer").future(|| asyncjob::current_job().unwrap().name().map(str::len));
    /// assert_eq!(await_or_block(job).unwrap().unwrap(), Some(6));
    /// ```
    pub fn future<T: 'static>(self, f: impl FnOnce() -> T + 'static) -> JobFuture<T> {
        JobFuture::of(self, move || Ok(f()))
    }
}

impl<T: 'static> Future for JobFuture<T> {
    type Output = Outcome<T>;

    /// # Panics
    ///
    /// With the panic of the job, and when the future is polled after it has ended.
    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Outcome<T>> {
        let this = &mut *self;
        if let State::Pending(.., free) = &mut this.state {
            if this.claim.is_none() {
                drop(this.state.take());
                return this.end(Err(JobError::WaitCtxInUse));
            }
            ready!(Pin::new(free).poll(task));
        }
        this.forwarder.aim(task.waker());
        // Until the job has paused again it counts as ended: that is what a panic leaves behind.
        let step = match this.state.take() {
            State::Pending(plan, f, _free) => match plan.start(&this.ctx, f) {
                Ok(step) => step,
                Err((.., StartErrorKind::NoStack(source))) => return this.end(Err(JobError::NoStack(source))),
                Err(_) => unreachable!("a free job was there, and nothing ran since"),
            },
            State::Paused(job, had_turn) => match this.next_step(had_turn, task) {
                NextStep::Resume => {
                    this.forwarder.act();
                    job.resume()
                }
                NextStep::End(error) => {
                    drop(job);
                    return this.end(Err(error));
                }
                NextStep::Wait | NextStep::Yield => {
                    this.state = State::Paused(job, true);
                    return Poll::Pending;
                }
            },
            State::Ended => panic!("a JobFuture was polled after it had ended"),
        };
        match step {
            Step::Finished(outcome) => this.end(outcome),
            Step::Paused(job) => {
                match this.next_step(false, task) {
                    // Resuming here would starve the other tasks of the thread if the job always has a reason.
                    NextStep::Resume | NextStep::Yield => task.waker().wake_by_ref(),
                    NextStep::Wait => {}
                    NextStep::End(error) => {
                        drop(job);
                        return this.end(Err(error));
                    }
                }
                this.state = State::Paused(job, true);
                Poll::Pending
            }
        }
    }
}

// Nothing is pinned in it: the job is behind a pointer.
impl<T: 'static> Unpin for JobFuture<T> {}

impl<T: 'static> Drop for JobFuture<T> {
    /// The job first: it may still use everything else.
    fn drop(&mut self) {
        drop(self.state.take());
        self.forwarder.forget();
        self.claim = None;
    }
}

impl<T: 'static> State<T> {
    fn take(&mut self) -> Self {
        std::mem::replace(self, State::Ended)
    }
}

impl<T: 'static> fmt::Debug for JobFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Pending(..) => "not started",
            State::Paused(..) => "paused",
            State::Ended => "ended",
        };
        f.debug_struct("JobFuture")
            .field("state", &state)
            .field("wait_ctx", &self.ctx)
            .finish_non_exhaustive()
    }
}

/// What to do with a paused job.
enum NextStep {
    Resume,
    /// Somebody will wake the task.
    Wait,
    /// Nobody will: let the runtime do other things, then resume.
    Yield,
    End(JobError),
}

/// Why a [`JobFuture`] has no value.
#[derive(Debug)]
#[non_exhaustive]
pub enum JobError {
    /// The system has no memory for another stack.
    NoStack(io::Error),
    /// The job set [`Status::Err`]: its engine is broken for this session. The job was cancelled.
    EngineFailed,
    /// The job waits for an fd or a deadline, and the future has no watch for these. The job was cancelled.
    Unwatched,
    /// The builder's wait ctx belongs to another job that has not ended. Each would take the other's wakes.
    WaitCtxInUse,
    /// The future that [`in_job`](crate::in_job) polls was not ready when its wait ended.
    Await(AwaitError),
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JobError::NoStack(_) => f.write_str("there is no memory for the stack of another job"),
            JobError::EngineFailed => f.write_str("the engine that the job waited for failed: end its session"),
            JobError::Unwatched => f.write_str(
                "the job waits for an fd or a deadline, and its future has no watch for these: use the function of the same \
                 name of asyncjob-tokio, or JobFuture::watch",
            ),
            JobError::WaitCtxInUse => f.write_str(WAIT_CTX_IN_USE),
            JobError::Await(error) => error.fmt(f),
        }
    }
}

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

/// The waker that a job sees: it wakes the task that polled the job last.
#[derive(Default)]
struct ForwardingWaker {
    /// Woken since the last resume. A wake may come before the job has paused (S64).
    called: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl ForwardingWaker {
    /// The poll that begins now is the one to wake.
    fn aim(&self, waker: &Waker) {
        let mut task = self.task.lock();
        if task.as_ref().is_some_and(|task| task.will_wake(waker)) {
            return;
        }
        let old = task.replace(waker.clone());
        drop(task);
        drop(old); // after the lock: dropping a waker may run anything
    }

    /// The job is about to be resumed: a wake from now on is about its next pause.
    fn act(&self) {
        // A swap and not a store: a wake that came since the check is acted on as well, so what its thread did before must be
        // visible to the job, or the wake is lost.
        if self.called.load(Ordering::Relaxed) {
            self.called.swap(false, Ordering::AcqRel);
        }
    }

    /// There is nothing to wake any more.
    fn forget(&self) {
        let old = self.task.lock().take();
        drop(old);
    }
}

impl Wake for ForwardingWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Before the wake: the poll that follows it has to see this.
        // A swap again, so that of two wakes at once both are visible to whoever acts on them.
        self.called.swap(true, Ordering::AcqRel);
        let task = self.task.lock().clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}
