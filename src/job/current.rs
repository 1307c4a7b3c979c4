//! The job that runs this code: which it is, and whether it may pause.

use std::borrow::Cow;
use std::ptr::NonNull;

use super::JobId;
use super::control_block::{BLOCKED, CANCELLED, ControlBlock};
use crate::pool;
use crate::wait_ctx::WaitCtx;

/// The job that runs this code, if any (`ASYNC_get_current_job(3)`, S46).
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
        // SAFETY: the job runs, so nobody writes its name.
        name: unsafe { &*control.name.get() }.clone(),
        ctx: control.wait_ctx().clone(),
    })
}

/// The id of the job that runs this code, without the cost of a whole [`current_job`].
#[inline]
pub fn current_job_id() -> Option<JobId> {
    with_current(|control| control.id)
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

    /// Its name, if [`JobBuilder::name`](super::JobBuilder::name) gave it one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The ctx that it was started with.
    pub fn wait_ctx(&self) -> &WaitCtx {
        &self.ctx
    }
}

/// Makes [`pause_job`](super::pause_job) do nothing in this job until the guard is dropped (`ASYNC_block_pause(3)`).
///
/// Guards nest. They belong to the job that made them and end with it at the latest (a fix of S43 and S44). Outside a
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
pub fn block_pause() -> BlockPause {
    let job = with_current(|control| {
        control.blocked.set(control.blocked.get() + 1);
        control.set_flag(BLOCKED);
        (NonNull::from(control), control.id)
    });
    BlockPause { job }
}

/// Keeps the job from pausing: see [`block_pause`].
#[must_use = "pauses are blocked only until the guard is dropped"]
#[derive(Debug)]
pub struct BlockPause {
    job: Option<(NonNull<ControlBlock>, JobId)>,
}

impl Drop for BlockPause {
    fn drop(&mut self) {
        let Some((job, id)) = self.job else { return };
        // The guard may have been carried out of the job and outlive it. A job with a guard cannot pause, so if it still
        // exists it is running: look for it there before touching it.
        let mut running = CURRENT.get();
        while let Some(at) = running {
            // SAFETY: every header in the chain belongs to a job that is running, and so exists.
            let control = unsafe { at.as_ref() };
            if at == job && control.id == id {
                control.blocked.set(control.blocked.get() - 1);
                if control.blocked.get() == 0 {
                    control.clear_flag(BLOCKED);
                }
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

/// Whether [`pause_job`](super::pause_job) would pause here, or fail because the job is cancelled.
pub(crate) fn can_pause() -> bool {
    with_current(|control| control.flags.get() & BLOCKED == 0 && !std::thread::panicking()).unwrap_or(false)
}

/// Whether the job that runs this code was cancelled.
pub(crate) fn is_cancelled() -> bool {
    with_current(|control| control.flags.get() & CANCELLED != 0).unwrap_or(false)
}

/// Calls `f` with the ctx of the job that runs this code.
pub(crate) fn with_current_ctx<R>(f: impl FnOnce(&WaitCtx) -> R) -> Option<R> {
    with_current(|control| f(control.wait_ctx()))
}

/// The innermost job that runs on this thread: the variable of the pool, with its type. Only
/// [`Running`](super::control_block::Running) writes it.
///
/// A plain store after a resume would leave it dangling when a panic passes; a guard does not. The compiler may keep the
/// address of the variable across a switch, because a job never changes its thread.
pub(super) struct Current;

pub(super) const CURRENT: Current = Current;

impl Current {
    #[inline(always)]
    pub(super) fn get(&self) -> Option<NonNull<ControlBlock>> {
        pool::CURRENT.get().map(NonNull::cast)
    }

    #[inline(always)]
    pub(super) fn set(&self, job: Option<NonNull<ControlBlock>>) {
        pool::CURRENT.set(job.map(NonNull::cast));
    }

    #[inline(always)]
    pub(super) fn replace(&self, job: Option<NonNull<ControlBlock>>) -> Option<NonNull<ControlBlock>> {
        pool::CURRENT.replace(job.map(NonNull::cast)).map(NonNull::cast)
    }
}

/// Calls `f` with the header of the job that runs this code.
#[inline]
pub(super) fn with_current<R>(f: impl FnOnce(&ControlBlock) -> R) -> Option<R> {
    // SAFETY: CURRENT points to the header of the job that runs this code; `f` cannot end that job.
    CURRENT.get().map(|control| f(unsafe { control.as_ref() }))
}
