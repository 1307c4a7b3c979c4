//! What a job is started with beside its closure: a name, a stack size, hooks, a wait ctx.

use std::any::TypeId;
use std::borrow::Cow;
use std::fmt;

use super::Step;
use super::control_block::{Attributes, start};
use crate::error::{StartError, StartErrorKind};
use crate::hooks::SwitchHooks;
use crate::pool::{self, NoStack};
use crate::stack::StackSize;
use crate::wait_ctx::{ClaimedCtx, WaitCtx};

/// Describes a job, then starts it, spawns it, or makes a future of it.
///
/// | to | call |
/// |---|---|
/// | run the job here, at once | [`start`](Self::start) |
/// | let a scheduler of this thread run it | [`spawn_on`](Self::spawn_on) |
/// | let a scheduler or workers run it, from any thread | [`submit_to`](Self::submit_to) |
/// | let an async runtime run it | [`future`](Self::future), [`in_job`](Self::in_job) |
///
/// When one of these is refused, its error gives the builder and the closure back. The lifetime is that of a borrowed wait
/// ctx. The type parameter is the type of the hooks: a builder is `Send` if they are.
///
/// ```
/// use asyncjob::stack::StackSize;
/// use asyncjob::{JobBuilder, Step};
///
/// let job = JobBuilder::new().name("deep").stack_size(StackSize::at_least(1 << 20));
/// let step = job.start(|| {
///     let large = [1u8; 600_000];
///     std::hint::black_box(&large).iter().map(|&byte| u32::from(byte)).sum::<u32>()
/// })?;
/// let Step::Finished(sum) = step else { panic!() };
/// assert_eq!(sum, 600_000);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Clone, Default)]
#[must_use = "a builder does nothing until it starts or spawns a job"]
pub struct JobBuilder<'c, H = ()> {
    pub(crate) name: Option<Cow<'static, str>>,
    pub(crate) stack_size: Option<StackSize>,
    /// Borrowed until something must keep it: a start that does not pause counts no reference.
    wait_ctx: Option<Cow<'c, WaitCtx>>,
    pub(crate) hooks: H,
}

impl JobBuilder<'_> {
    /// A job without a name or hooks, on a stack of the pool, with a wait ctx of its own.
    #[inline]
    pub fn new() -> Self {
        Self::default()
    }
}

impl<'c, H: SwitchHooks + 'static> JobBuilder<'c, H> {
    /// A name for overflow reports, panics and lists of jobs.
    #[inline]
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// A stack of another size than the pool's. It still counts for the pool's limit.
    #[inline]
    pub fn stack_size(mut self, size: StackSize) -> Self {
        self.stack_size = Some(size);
        self
    }

    /// The wait ctx that the job is bound to until it ends. The default is a new one.
    ///
    /// A scheduler or a future refuses a ctx that belongs to another job which has not ended.
    #[inline]
    pub fn wait_ctx<'n>(self, ctx: &'n WaitCtx) -> JobBuilder<'n, H> {
        JobBuilder {
            name: self.name,
            stack_size: self.stack_size,
            wait_ctx: Some(Cow::Borrowed(ctx)),
            hooks: self.hooks,
        }
    }

    /// Thread state that travels with the job. These hooks take the place of earlier ones; a pair of hooks is a hook.
    #[inline]
    pub fn hooks<N: SwitchHooks + 'static>(self, hooks: N) -> JobBuilder<'c, N> {
        self.map_hooks(|_| hooks)
    }

    /// Runs `f` as a job, at once and on this thread, until it returns or pauses: as [`start_job`](super::start_job).
    ///
    /// # Errors
    ///
    /// [`StartError`], with the builder and `f` in it, when the thread's pool is at its limit or the system has no memory
    /// for a stack.
    ///
    /// # Panics
    ///
    /// As [`start_job`](super::start_job).
    #[inline]
    pub fn start<F, T>(self, f: F) -> Result<Step<T>, StartError<F, JobBuilder<'static, H>>>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        match pool::take(self.stack_size) {
            Ok(stack) => {
                let ctx = self.wait_ctx.unwrap_or_else(|| Cow::Owned(WaitCtx::new()));
                let hooks = boxed(self.hooks).map(|hooks| hooks as Box<dyn SwitchHooks>);
                Ok(start(stack, &ctx, Attributes { name: self.name, hooks }, f))
            }
            Err(refusal) => Err(StartError::new(refusal.into(), self.into_owned(), f)),
        }
    }
}

impl<'c, H> JobBuilder<'c, H> {
    /// The same builder, which borrows nothing.
    pub(crate) fn into_owned(self) -> JobBuilder<'static, H> {
        JobBuilder {
            name: self.name,
            stack_size: self.stack_size,
            wait_ctx: self.wait_ctx.map(|ctx| Cow::Owned(ctx.into_owned())),
            hooks: self.hooks,
        }
    }

    /// Takes the job's ctx for its driver. `None`: the ctx belongs to another job that has not ended.
    pub(crate) fn claim_ctx(&self) -> Option<ClaimedCtx> {
        match &self.wait_ctx {
            Some(ctx) => ctx.claim(),
            None => Some(ClaimedCtx::new()),
        }
    }

    /// The same builder with other hooks.
    #[inline]
    pub(crate) fn map_hooks<N>(self, change: impl FnOnce(H) -> N) -> JobBuilder<'c, N> {
        JobBuilder {
            name: self.name,
            stack_size: self.stack_size,
            wait_ctx: self.wait_ctx,
            hooks: change(self.hooks),
        }
    }
}

impl<H: SwitchHooks + 'static> JobBuilder<'_, H> {
    /// The builder without its type parameter and its ctx: what a driver of this thread keeps until the job starts.
    pub(crate) fn plan(self) -> JobPlan {
        let hooks = boxed(self.hooks);
        JobPlan::new(
            self.name,
            self.stack_size,
            hooks.map(|hooks| hooks as Box<dyn SwitchHooks>),
        )
    }

    pub(crate) fn plan_and_ctx(mut self) -> (JobPlan, WaitCtx) {
        let ctx = self.wait_ctx.take().map_or_else(WaitCtx::new, Cow::into_owned);
        (self.plan(), ctx)
    }
}

/// On the heap, unless the job has none.
pub(crate) fn boxed<H: 'static>(hooks: H) -> Option<Box<H>> {
    (TypeId::of::<H>() != TypeId::of::<()>()).then(|| Box::new(hooks))
}

/// A builder whose job has not started, without its type parameter.
pub(crate) struct JobPlan {
    attributes: Attributes,
    stack_size: Option<StackSize>,
}

impl JobPlan {
    pub(crate) fn new(
        name: Option<Cow<'static, str>>,
        stack_size: Option<StackSize>,
        hooks: Option<Box<dyn SwitchHooks>>,
    ) -> Self {
        JobPlan {
            attributes: Attributes { name, hooks },
            stack_size,
        }
    }

    /// Starts the job, or gives back everything.
    pub(crate) fn start<F, T>(self, ctx: &WaitCtx, f: F) -> Result<Step<T>, (Self, F, StartErrorKind)>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        match pool::take(self.stack_size) {
            Ok(stack) => Ok(start(stack, ctx, self.attributes, f)),
            Err(refusal) => Err((self, f, refusal.into())),
        }
    }
}

impl From<NoStack> for StartErrorKind {
    fn from(refusal: NoStack) -> Self {
        match refusal {
            NoStack::Limit(limit) => StartErrorKind::NoJobs { limit },
            NoStack::Memory(source) => StartErrorKind::NoStack(source),
        }
    }
}

impl<H> fmt::Debug for JobBuilder<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobBuilder")
            .field("name", &self.name)
            .field("stack_size", &self.stack_size)
            .field("wait_ctx", &self.wait_ctx)
            .field("hooks", &std::any::type_name::<H>())
            .finish()
    }
}
