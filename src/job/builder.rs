//! The attributes of a job beside its closure: a name, a stack size, hooks, a wait ctx.

use std::any::TypeId;
use std::borrow::Cow;
use std::fmt;

use super::control_block::{Attributes, start};
use super::{JobMain, Step};
use crate::error::{SpawnErrorKind, StartError, StartErrorKind};
use crate::hooks::SwitchHooks;
use crate::pool::{self, NoStack};
use crate::stack::{Stack, StackSize};
use crate::wait_ctx::{ClaimedCtx, WaitCtx};

/// Describes a job, and then starts it, spawns it, or makes a future of it.
///
/// | to | call |
/// |---|---|
/// | run the job here, at once | [`start`](Self::start) |
/// | let a scheduler of this thread run it | [`spawn_on`](Self::spawn_on) |
/// | let a scheduler or workers run it, from any thread | [`submit_to`](Self::submit_to) |
/// | let an async runtime run it | [`future`](Self::future), [`in_job`](Self::in_job) |
///
/// When `start`, `spawn_on` or `submit_to` refuses the job, the error gives the builder and the closure back. A future
/// reports its errors when it is polled.
///
/// The lifetime parameter is that of a borrowed wait ctx. The type parameter is the type of the hooks. A builder is
/// `Send` if its hooks are `Send`.
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
    /// The ctx is borrowed until something must keep it, so that a start that does not pause counts no reference.
    wait_ctx: Option<Cow<'c, WaitCtx>>,
    pub(crate) hooks: H,
}

impl JobBuilder<'_> {
    /// Describes a job without a name and without hooks, on a stack of the pool's size, with a wait ctx of its own.
    #[inline]
    pub fn new() -> Self {
        Self::default()
    }
}

impl<'c, H: SwitchHooks + 'static> JobBuilder<'c, H> {
    /// Sets the name of the job, which overflow reports, [`Scheduler::jobs`](crate::scheduler::Scheduler::jobs) and
    /// [`Job::name`](super::Job::name) show.
    #[inline]
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Gives the job a stack of this size. The default is the size that the pool of the thread has. The stack counts
    /// for the limit of the pool, whatever its size is.
    #[inline]
    pub fn stack_size(mut self, size: StackSize) -> Self {
        self.stack_size = Some(size);
        self
    }

    /// Binds the job to `ctx` until the job ends. The default is a new ctx for each job.
    ///
    /// A scheduler and a future refuse a ctx that belongs to another job of a scheduler or a future which has not
    /// ended.
    #[inline]
    pub fn wait_ctx<'n>(self, ctx: &'n WaitCtx) -> JobBuilder<'n, H> {
        JobBuilder {
            name: self.name,
            stack_size: self.stack_size,
            wait_ctx: Some(Cow::Borrowed(ctx)),
            hooks: self.hooks,
        }
    }

    /// Gives the job thread state that travels with it: see [`hooks`](crate::hooks). A second call replaces the hooks
    /// of the first. To have several hooks, give a pair of hooks.
    #[inline]
    pub fn hooks<N: SwitchHooks + 'static>(self, hooks: N) -> JobBuilder<'c, N> {
        self.map_hooks(|_| hooks)
    }

    /// Runs `f` as a job, at once and on this thread, until it returns or pauses. [`start_job`](super::start_job) does
    /// the same without a builder.
    ///
    /// # Errors
    ///
    /// [`StartError`], with the builder and `f` in it: the pool of the thread is at its limit, or the system has no
    /// memory for a stack.
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
                Ok(start(
                    stack,
                    &ctx,
                    Attributes {
                        name: self.name,
                        hooks,
                        ..Attributes::NONE
                    },
                    f,
                ))
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

    /// Claims the wait ctx that the builder has set, if it has set one, for a driver.
    ///
    /// # Errors
    ///
    /// The ctx belongs to another job that has not ended.
    #[inline]
    pub(crate) fn claim_ctx(&self) -> Result<Option<ClaimedCtx>, SpawnErrorKind> {
        let claimed = self.wait_ctx.as_ref().map(|ctx| ctx.claim());
        match claimed {
            Some(None) => Err(SpawnErrorKind::WaitCtxInUse),
            Some(claimed) => Ok(claimed),
            None => Ok(None),
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
    /// What a driver of this thread keeps until the job starts: the builder without its type parameter and its wait
    /// ctx.
    #[inline(always)] // a builder that sets nothing is known there, and is never put together
    pub(crate) fn plan(self) -> JobPlan {
        let hooks = boxed(self.hooks);
        JobPlan::new(
            self.name,
            self.stack_size,
            hooks.map(|hooks| hooks as Box<dyn SwitchHooks>),
        )
    }

    #[inline]
    pub(crate) fn plan_and_ctx(mut self) -> (JobPlan, Option<WaitCtx>) {
        let ctx = self.wait_ctx.take().map(Cow::into_owned);
        (self.plan(), ctx)
    }
}

/// Moves the hooks to the heap. Returns `None` for the hooks of a job without hooks.
#[inline]
pub(crate) fn boxed<H: 'static>(hooks: H) -> Option<Box<H>> {
    (TypeId::of::<H>() != TypeId::of::<()>()).then(|| Box::new(hooks))
}

/// A builder whose job has not started, without its type parameter. It is one word, because a driver moves it a few
/// times, and most builders set nothing.
pub(crate) struct JobPlan(Option<Box<Set>>);

/// What a builder has set.
struct Set {
    attributes: Attributes,
    stack_size: Option<StackSize>,
}

impl JobPlan {
    /// That of a builder that sets nothing.
    pub(crate) const NONE: JobPlan = JobPlan(None);

    #[inline]
    pub(crate) fn new(
        name: Option<Cow<'static, str>>,
        stack_size: Option<StackSize>,
        hooks: Option<Box<dyn SwitchHooks>>,
    ) -> Self {
        if name.is_none() && stack_size.is_none() && hooks.is_none() {
            return JobPlan::NONE;
        }
        JobPlan::of_set(name, stack_size, hooks)
    }

    #[inline(never)]
    fn of_set(
        name: Option<Cow<'static, str>>,
        stack_size: Option<StackSize>,
        hooks: Option<Box<dyn SwitchHooks>>,
    ) -> Self {
        let attributes = Attributes {
            name,
            hooks,
            ..Attributes::NONE
        };
        JobPlan(Some(Box::new(Set { attributes, stack_size })))
    }

    /// The size of the stack that the builder has set.
    pub(crate) fn stack_size(&self) -> Option<StackSize> {
        self.0.as_ref()?.stack_size
    }

    /// A stack for the job.
    #[inline]
    pub(crate) fn take_stack(&self) -> Result<Stack, StartErrorKind> {
        Ok(pool::take(self.stack_size())?)
    }

    /// Starts the job on a stack that this plan has [taken](Self::take_stack).
    #[inline]
    pub(crate) fn start_on<M, T>(self, stack: Stack, ctx: &WaitCtx, main: M) -> Step<T>
    where
        M: JobMain<T> + 'static,
        T: 'static,
    {
        let f = move || main.call_main();
        // Two switches: that of a job without attributes moves none.
        match self.0 {
            None => start(stack, ctx, Attributes::NONE, f),
            Some(set) => set.start(stack, ctx, f),
        }
    }

    /// Starts the job. If that fails, gives back the plan and the closure.
    pub(crate) fn start<M, T>(self, ctx: &WaitCtx, main: M) -> Result<Step<T>, (Self, M, StartErrorKind)>
    where
        M: JobMain<T> + 'static,
        T: 'static,
    {
        match self.take_stack() {
            Ok(stack) => Ok(self.start_on(stack, ctx, main)),
            Err(refusal) => Err((self, main, refusal)),
        }
    }
}

impl Set {
    #[inline(never)]
    fn start<F, T>(self, stack: Stack, ctx: &WaitCtx, f: F) -> Step<T>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        start(stack, ctx, self.attributes, f)
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
