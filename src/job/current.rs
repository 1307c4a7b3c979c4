//! The job that runs this code: its attributes, and whether it may pause.

use std::borrow::Cow;
use std::cell::Cell;
use std::ptr::{self, NonNull};

use super::JobId;
use super::control_block::{BLOCKED, CANCELLED, ControlBlock, UNPAUSED};
use crate::sys::ThreadWords;
use crate::wait_ctx::WaitCtx;

/// The job that runs this code, or `None` outside a job (`ASYNC_get_current_job(3)`,
/// [S46](crate::docs::openssl_behaviour#s46)).
///
/// When a job has started another one, the current job is the innermost of them.
///
/// ```
/// use asyncjob::{JobBuilder, Step, WaitCtx, current_job};
///
/// assert!(current_job().is_none());
/// let ctx = WaitCtx::new();
/// let step = JobBuilder::new().name("signer").wait_ctx(&ctx).start(|| current_job().unwrap());
/// let Ok(Step::Finished(job)) = step else { panic!() };
/// assert_eq!(job.name(), Some("signer"));
/// assert!(job.wait_ctx().ptr_eq(&ctx));
/// ```
pub fn current_job() -> Option<CurrentJob> {
    with_current(|control| CurrentJob {
        id: control.id,
        // SAFETY: the name is written only at the start and at the end of the job, and the job runs.
        name: unsafe { &*control.name.get() }.clone(),
        ctx: control.wait_ctx().clone(),
    })
}

/// The id of the job that runs this code, or `None` outside a job. It costs less than [`current_job`].
#[inline]
pub fn current_job_id() -> Option<JobId> {
    with_current(|control| control.id)
}

/// What [`current_job`] says about a job: its id, its name and its wait ctx.
#[derive(Clone, Debug)]
pub struct CurrentJob {
    id: JobId,
    name: Option<Cow<'static, str>>,
    ctx: WaitCtx,
}

impl CurrentJob {
    /// The id of the job.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// The name of the job, if [`JobBuilder::name`](super::JobBuilder::name) gave it one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The wait ctx that the job was started with.
    pub fn wait_ctx(&self) -> &WaitCtx {
        &self.ctx
    }
}

/// Keeps this job from pausing until the guard is dropped (`ASYNC_block_pause(3)`).
///
/// While a guard exists, [`pause_job`](super::pause_job) fails with
/// [`PauseError::Blocked`](crate::PauseError::Blocked), and the functions that can wait in another way block the
/// thread. Guards nest. A guard belongs to the job that made it, and loses its effect at the end of that job. Outside a
/// job a guard does nothing.
///
/// ```
/// use asyncjob::{PauseError, Step, WaitCtx, block_pause, pause_job, start_job};
///
/// let step = start_job(&WaitCtx::new(), || {
///     let _lock_is_held = block_pause();
///     pause_job()
/// });
/// let Ok(Step::Finished(pause)) = step else { panic!("it cannot have paused") };
/// assert_eq!(pause, Err(PauseError::Blocked));
/// ```
///
/// OpenSSL counts blocked pauses for the thread, so a job that ends while it is blocked blocks every later job of the
/// thread. Here the count belongs to the job ([S43](crate::docs::openssl_behaviour#s43),
/// [S44](crate::docs::openssl_behaviour#s44)).
pub fn block_pause() -> BlockPause {
    let job = with_current(|control| {
        control.blocked.set(control.blocked.get() + 1);
        control.set_flag(BLOCKED);
        (NonNull::from(control), control.id)
    });
    BlockPause { job }
}

/// The guard that [`block_pause`] returns. The job does not pause while the guard exists.
///
/// The guard is neither `Send` nor `Sync`.
#[must_use = "pauses are blocked only until the guard is dropped"]
#[derive(Debug)]
pub struct BlockPause {
    job: Option<(NonNull<ControlBlock>, JobId)>,
}

impl Drop for BlockPause {
    fn drop(&mut self) {
        let Some((job, id)) = self.job else { return };
        // The guard may have been moved out of the job, and may outlive it. A job that has a guard cannot pause, so if
        // the job still exists, it is running. The loop looks for it among the running jobs before it touches its
        // control block.
        let mut running = CURRENT.get();
        while let Some(at) = running {
            // SAFETY: every control block in the chain belongs to a job that is running, and so exists.
            let control = unsafe { at.as_ref() };
            if at == job && control.id == id {
                control.blocked.set(control.blocked.get() - 1);
                control.unblock_if_free();
                return;
            }
            running = control.parent.get();
        }
    }
}

/// Whether this code runs inside a job.
pub(crate) fn is_in_job() -> bool {
    CURRENT.get().is_some()
}

/// Whether this code runs in a job that may pause. In a cancelled job that is so, too: its pause fails with
/// `Cancelled`.
pub(crate) fn can_pause() -> bool {
    with_current(|control| control.flags.get() & BLOCKED == 0 && !std::thread::panicking() && control.is_on_own_stack())
        .unwrap_or(false)
}

/// Whether the job that runs this code was cancelled.
pub(crate) fn is_cancelled() -> bool {
    with_current(|control| control.flags.get() & CANCELLED != 0).unwrap_or(false)
}

/// The job that runs this code, for code of the job that asks more than once: it reads the word of the thread once.
#[derive(Clone, Copy)]
pub(crate) struct ThisJob<'a>(&'a ControlBlock);

impl<'a> ThisJob<'a> {
    #[inline]
    pub(crate) fn id(self) -> JobId {
        self.0.id
    }

    #[inline]
    pub(crate) fn wait_ctx(self) -> &'a WaitCtx {
        self.0.wait_ctx()
    }
}

/// Calls `f`, and also returns whether the job that runs this code has paused meanwhile. If `f` panics the next pause
/// forgets the question.
///
/// Calls nest. A pause in an inner call is one of the outer call, too.
#[inline(always)] // a wait calls it for each pause
pub(crate) fn pauses_in<R>(job: ThisJob<'_>, f: impl FnOnce() -> R) -> (R, bool) {
    let ThisJob(control) = job;
    let is_nested = control.flags.get() & UNPAUSED != 0;
    control.set_flag(UNPAUSED);
    let returned = f();
    let has_paused = control.flags.get() & UNPAUSED == 0;
    if !is_nested {
        control.clear_flag(UNPAUSED);
    }
    (returned, has_paused)
}

/// Calls `f` with the job that runs this code. Returns `None` outside a job.
#[inline]
pub(crate) fn with_this_job<R>(f: impl FnOnce(ThisJob<'_>) -> R) -> Option<R> {
    with_current(|control| f(ThisJob(control)))
}

/// Calls `f` with the wait ctx of the job that runs this code. Returns `None` outside a job.
#[inline]
pub(crate) fn with_current_ctx<R>(f: impl FnOnce(&WaitCtx) -> R) -> Option<R> {
    with_current(|control| f(control.wait_ctx()))
}

/// The innermost job that runs on this thread: a word of the thread, with its type. Only
/// [`Running`](super::control_block::Running) writes it.
///
/// A plain store after a resume would leave this pointer dangling when a panic passes through, and a guard does not.
/// The compiler may keep the address of the variable across a switch. The address stays right, because a job never
/// changes its thread.
pub(super) struct Current;

pub(super) const CURRENT: Current = Current;

impl Current {
    #[inline(always)]
    pub(super) fn with<R>(&self, f: impl FnOnce(&Cell<Option<NonNull<ControlBlock>>>) -> R) -> R {
        ThreadWords::with(|words| {
            // SAFETY: a pointer of one type has the layout of a pointer of any other, the null one for `None` included.
            f(unsafe { &*ptr::from_ref(&words.current_job).cast::<Cell<Option<NonNull<ControlBlock>>>>() })
        })
    }

    #[inline(always)]
    pub(super) fn get(&self) -> Option<NonNull<ControlBlock>> {
        ThreadWords::current_job().map(NonNull::cast)
    }

    #[inline(always)]
    pub(super) fn set(&self, job: Option<NonNull<ControlBlock>>) {
        self.with(|cell| cell.set(job));
    }

    #[inline(always)]
    pub(super) fn replace(&self, job: Option<NonNull<ControlBlock>>) -> Option<NonNull<ControlBlock>> {
        self.with(|cell| cell.replace(job))
    }
}

/// Calls `f` with the control block of the job that runs this code.
#[inline]
pub(super) fn with_current<R>(f: impl FnOnce(&ControlBlock) -> R) -> Option<R> {
    // SAFETY: CURRENT points to the control block of the job that runs this code, and `f` cannot end that job.
    CURRENT.get().map(|control| f(unsafe { control.as_ref() }))
}
