//! A job as a future: synchronous code, or a whole future, on a stack of its own, polled by any runtime.
//!
//! ```text
//!   runtime             JobFuture                                job
//!     poll(cx)  ------>  aim the forwarding waker at cx's waker
//!                        resume  ----------------------------->  ... sign() -> await_future(f) -> f polled with the forwarding waker
//!                        look at the status  <-----------------  pauses
//!     Pending   <------                                            :
//!     wakes the task <-- forwarding waker <------------------------------------- f's driver, an engine's thread: the callback
//! ```
//!
//! The waker of a task is good for the poll that it came with: the next poll may come from another task (a `select`, a set
//! of futures) with another waker. Code in a job may be in the middle of a poll of its own for many polls of the task, so
//! it never sees the task's waker. It sees the *forwarding waker*, one waker for the life of the job, which wakes whoever polled the
//! job last. Nothing of a poll is kept across a pause, and two jobs interleaved on one thread have nothing in common.
//!
//! # When a poll resumes the job
//!
//! | the job paused with | a poll |
//! |---|---|
//! | status `Err` | cancels it: [`JobError::Broken`] |
//! | any other | resumes it if the callback (the forwarding waker) was called since the last resume; if not: |
//! | status `Ok` | waits: the callback will come |
//! | status `Eagain` | resumes it, after the runtime has had a turn |
//! | wait fds, a deadline | asks the [watch](JobFuture::watch); without one, cancels it: [`JobError::Unwatched`] |
//! | none of these | asks the watch, which backs off; without one resumes it, after the runtime has had a turn |

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};

use parking_lot::Mutex;

use crate::error::StartError;
use crate::hooks::SwitchHooks;
use crate::job::{Job, JobBuilder, Step};
use crate::pool::{FreeJob, free_job};
use crate::stack::StackSize;
use crate::wait_ctx::{Status, WaitCtx};
use crate::waiting::{AwaitError, await_future};

/// Runs synchronous code as a job, on any runtime; its output is what the code returns.
///
/// The code starts at the first poll, on the thread that polls, and stays there: the future is `!Send`, so it goes to
/// `spawn_local`, a `LocalSet`, or a `block_on`.
///
/// - At the limit of the thread's pool it waits for a [`free_job`].
/// - Dropping it cancels the job: the pause returns [`Cancelled`](crate::Cancelled), destructors run, the stack goes back.
/// - A panic of the job leaves `poll`.
///
/// Code that waits for fds or for time needs someone who watches these on this runtime: `asyncjob-tokio` does, and
/// [`watch`](Self::watch) takes anything else. Code that waits for futures, or for work on other threads, needs nobody.
///
/// ```
/// use asyncjob::job_future::JobFuture;
/// use asyncjob::waiting::{await_future, await_or_block};
///
/// // Synchronous code, five calls deep in somebody's library, that awaits:
/// fn sign() -> u32 {
///     await_future(async { 6 * 7 }).unwrap()
/// }
/// let signature = JobFuture::new(|| sign());
/// assert_eq!(await_or_block(signature).unwrap().unwrap(), 42);
/// ```
///
/// It stays on its thread:
///
/// ```compile_fail
/// fn send<T: Send>(_: T) {}
/// send(asyncjob::job_future::JobFuture::new(|| ()));
/// ```
#[must_use = "futures do nothing unless polled"]
pub struct JobFuture<T: 'static> {
    state: State<T>,
    ctx: WaitCtx,
    forwarder: Arc<ForwardingWaker>,
    watch: Option<Box<Watch>>,
}

/// See [`JobFuture::watch`].
type Watch = dyn FnMut(&WaitCtx, &mut Context<'_>) -> Poll<()>;

/// What the job returns: an error only from [`in_job`], whose own code is a wait.
type Outcome<T> = Result<T, JobError>;

enum State<T: 'static> {
    /// Not started, maybe in the queue for a job.
    Fresh(JobBuilder, Box<dyn FnOnce() -> Outcome<T>>, FreeJob),
    /// Paused, with the reason in the ctx. The flag: the runtime has had a turn since.
    Paused(Job<Outcome<T>>, bool),
    /// Finished, failed or panicked.
    Ended,
}

/// Polls `future` inside a job, so that synchronous callbacks deep within it can pause instead of blocking.
///
/// This is what makes an unmodified TLS handshake asynchronous in its private key: the handshake's future calls
/// `Signer::sign`, which calls [`await_future`]. To the runtime the result is the future that went in.
///
/// Everything of [`JobFuture`] applies. Put a timeout around it, not into it: while a callback is paused, the future that
/// called it is in the middle of a poll, and so is everything in it.
///
/// ```
/// use asyncjob::job_future::in_job;
/// use asyncjob::waiting::{await_future, await_or_block};
///
/// async fn handshake(sign: fn() -> u32) -> u32 {
///     sign() + 1
/// }
/// let done = in_job(handshake(|| await_future(async { 41 }).unwrap()));
/// assert_eq!(await_or_block(done).unwrap().unwrap(), 42);
/// ```
pub fn in_job<F>(future: F) -> JobFuture<F::Output>
where
    F: Future + 'static,
{
    // On the heap: the stack of the job would hold it once for each call that it is handed down by, and a handshake is large.
    let future = Box::pin(future);
    JobFuture::with(move || await_future(future).map_err(JobError::Await))
}

impl<T: 'static> JobFuture<T> {
    /// A future that runs `f` as a job when it is polled.
    pub fn new(f: impl FnOnce() -> T + 'static) -> Self {
        Self::with(move || Ok(f()))
    }

    /// A name for overflow reports, panics and lists of jobs.
    ///
    /// # Panics
    ///
    /// If it has been polled, as the other methods that return `Self`.
    pub fn name(self, name: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        self.building(|builder| builder.name(name))
    }

    /// A stack of another size than the pool's.
    pub fn stack_size(self, size: StackSize) -> Self {
        self.building(|builder| builder.stack_size(size))
    }

    /// Thread state that travels with the job. With the feature `tracing` its spans do so without this.
    pub fn hooks(self, hooks: impl SwitchHooks + 'static) -> Self {
        #[cfg(feature = "tracing")]
        let hooks = (crate::hooks::Spans::default(), hooks);
        self.building(|builder| builder.hooks(hooks))
    }

    /// Who looks after the wait fds and the deadline of the job.
    ///
    /// Called after each pause that is not only for a callback, and at each later poll. It returns `Ready` when the job may
    /// be resumed: a wait fd is ready *now* (an engine may read it and block), or the deadline has passed, or, where the ctx
    /// has neither, when it is time to try. Otherwise it arranges for the task to be woken.
    pub fn watch(mut self, watch: impl FnMut(&WaitCtx, &mut Context<'_>) -> Poll<()> + 'static) -> Self {
        self.watch = Some(Box::new(watch));
        self
    }

    /// The ctx that the job is bound to.
    pub fn wait_ctx(&self) -> &WaitCtx {
        &self.ctx
    }

    fn with(f: impl FnOnce() -> Outcome<T> + 'static) -> Self {
        let ctx = WaitCtx::new();
        let forwarder = Arc::new(ForwardingWaker::default());
        ctx.set_callback(Some(Waker::from(Arc::clone(&forwarder))));
        let builder = JobBuilder::new();
        #[cfg(feature = "tracing")]
        let builder = builder.hooks(crate::hooks::Spans::default());
        JobFuture {
            state: State::Fresh(builder, Box::new(f), free_job()),
            ctx,
            forwarder,
            watch: None,
        }
    }

    fn building(mut self, change: impl FnOnce(JobBuilder) -> JobBuilder) -> Self {
        let State::Fresh(builder, f, free) = self.state.take() else {
            panic!("a JobFuture was configured after its first poll: its job runs already");
        };
        self.state = State::Fresh(change(builder), f, free);
        self
    }

    /// What the rules in the module's table say about the paused job.
    fn next_step(&mut self, had_turn: bool, task: &mut Context<'_>) -> NextStep {
        let status = self.ctx.status();
        match status {
            Status::Err => return NextStep::End(JobError::Broken),
            _ if self.forwarder.called.load(Ordering::Acquire) => return NextStep::Resume,
            // Without fds and deadline a callback is all there is, and the lists need not be looked at.
            Status::Ok if self.ctx.version() == 0 && self.ctx.deadline().is_none() => return NextStep::Wait,
            Status::Eagain if had_turn => return NextStep::Resume,
            Status::Eagain => return NextStep::Yield,
            _ => {}
        }
        if let Some(watch) = &mut self.watch {
            return match watch(&self.ctx, task) {
                Poll::Ready(()) => NextStep::Resume,
                Poll::Pending => NextStep::Wait,
            };
        }
        match status {
            _ if self.ctx.deadline().is_some() => NextStep::End(JobError::Unwatched),
            Status::Ok => NextStep::Wait,
            _ if !self.ctx.fds().is_empty() => NextStep::End(JobError::Unwatched),
            _ if had_turn => NextStep::Resume,
            _ => NextStep::Yield,
        }
    }

    fn end(&mut self, outcome: Outcome<T>) -> Poll<Outcome<T>> {
        self.forwarder.forget();
        Poll::Ready(outcome)
    }
}

impl<T: 'static> Future for JobFuture<T> {
    type Output = Outcome<T>;

    /// # Panics
    ///
    /// With the panic of the job; and when it is polled after it has ended.
    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Outcome<T>> {
        let this = &mut *self;
        if let State::Fresh(.., free) = &mut this.state {
            ready!(Pin::new(free).poll(task));
        }
        this.forwarder.aim(task.waker());
        // Until the job has paused again it counts as ended: that is what a panic leaves behind.
        let step = match this.state.take() {
            State::Fresh(builder, f, _free) => match builder.start(&this.ctx, f) {
                Ok(step) => step,
                Err(StartError::NoStack { source, .. }) => return this.end(Err(JobError::NoStack(source))),
                Err(StartError::NoJobs { .. }) => unreachable!("a free job was there, and nothing ran since"),
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
            State::Fresh(..) => "not started",
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
    Broken,
    /// The job waits for an fd or a deadline, and nobody watches these here. The job was cancelled.
    Unwatched,
    /// The future that [`in_job`] polls was not ready when its wait ended.
    Await(AwaitError),
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JobError::NoStack(source) => write!(f, "no memory for the stack of another job: {source}"),
            JobError::Broken => f.write_str("the engine in the job is broken for this session: close it"),
            JobError::Unwatched => f.write_str(
                "the job waits for an fd or a deadline that nobody watches: use the function of the same name of \
                 asyncjob-tokio, or give the JobFuture a watch",
            ),
            JobError::Await(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for JobError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            JobError::NoStack(source) => Some(source),
            JobError::Await(error) => Some(error),
            JobError::Broken | JobError::Unwatched => None,
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

/// The waker that a job sees: wakes whoever polled the job last.
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
