//! asyncjob through its Rust API, in the forms that it may have in a program.

use std::marker::PhantomData;

use asyncjob::{Job, JobBuilder, StartError, Step, WaitCtx, pause_job, start_job};

use crate::depth::pause_often;
use crate::peer::{Absent, Peer};

/// How a program starts and pauses its jobs.
pub(crate) trait Form: 'static {
    /// What a refused start gives back beside its closure.
    type Builder: 'static;

    fn start<F, T>(ctx: &WaitCtx, body: F) -> Result<Step<T>, StartError<F, Self::Builder>>
    where
        F: FnOnce() -> T + 'static,
        T: 'static;

    fn pause();
}

/// `start_job` and `pause_job`, inlined as the compiler does it by itself.
pub(crate) struct Inlined;

/// The pause in a function of its own, as in a program whose pause is reached through a pointer or a library.
pub(crate) struct OutOfLine;

/// `JobBuilder` with a name.
pub(crate) struct Built;

impl Form for Inlined {
    type Builder = ();

    #[inline(always)]
    fn start<F: FnOnce() -> T + 'static, T: 'static>(ctx: &WaitCtx, body: F) -> Result<Step<T>, StartError<F>> {
        start_job(ctx, body)
    }

    #[inline(always)]
    fn pause() {
        let _ = pause_job(); // these jobs are never cancelled
    }
}

impl Form for OutOfLine {
    type Builder = ();

    #[inline(never)]
    fn start<F: FnOnce() -> T + 'static, T: 'static>(ctx: &WaitCtx, body: F) -> Result<Step<T>, StartError<F>> {
        start_job(ctx, body)
    }

    #[inline(never)]
    fn pause() {
        let _ = pause_job();
    }
}

impl Form for Built {
    type Builder = JobBuilder<'static>;

    #[inline(always)]
    fn start<F, T>(ctx: &WaitCtx, body: F) -> Result<Step<T>, StartError<F, JobBuilder<'static>>>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        JobBuilder::new().name("bench").wait_ctx(ctx).start(body)
    }

    #[inline(always)]
    fn pause() {
        let _ = pause_job();
    }
}

/// asyncjob in one of its forms.
pub(crate) struct Ours<F> {
    ctx: WaitCtx,
    form: PhantomData<F>,
}

impl<F> Default for Ours<F> {
    fn default() -> Self {
        Ours {
            ctx: WaitCtx::new(),
            form: PhantomData,
        }
    }
}

impl<F: Form> Peer for Ours<F> {
    /// `None` when the job has ended.
    type Job = Option<Job<()>>;

    fn start<const FRAMES: u32>(&mut self, pauses: u64) -> Result<Self::Job, Absent> {
        let body = move || pause_often::<FRAMES>(pauses, F::pause);
        let step = F::start(&self.ctx, body).map_err(|refused| Absent::new(refused.to_string()))?;
        Ok(paused(step))
    }

    #[inline(always)]
    fn resume(&mut self, job: &mut Self::Job) -> bool {
        *job = job.take().and_then(|job| paused(job.resume()));
        job.is_some()
    }

    #[inline(always)]
    fn empty(&mut self) {
        let step = F::start(&self.ctx, || ());
        debug_assert!(matches!(step, Ok(Step::Finished(()))));
    }
}

#[inline(always)]
fn paused(step: Step<()>) -> Option<Job<()>> {
    match step {
        Step::Paused(job) => Some(job),
        Step::Finished(()) => None,
    }
}
