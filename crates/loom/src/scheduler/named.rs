//! What the queue of submissions names, as far as it uses it: a job is an object that is told that it fails.

pub(crate) mod error {
    /// As in `asyncjob`.
    #[derive(Debug)]
    #[allow(dead_code, reason = "no test looks at it")]
    pub(crate) enum SpawnErrorKind {
        Forked,
        ShuttingDown,
        Full { max_jobs: usize },
    }
}

pub(crate) mod hooks {
    /// No job has hooks here.
    pub(crate) trait SwitchHooks {}
}

pub(crate) mod stack {
    /// No job has a size of its own here.
    pub(crate) struct StackSize;
}

pub(crate) mod wait_ctx {
    /// No job has a ctx of its own here.
    pub(crate) struct ClaimedCtx;
}

pub(crate) mod job {
    use std::borrow::Cow;
    use std::marker::PhantomData;

    use super::error::SpawnErrorKind;
    use super::hooks::SwitchHooks;
    use super::stack::StackSize;
    use super::wait_ctx::ClaimedCtx;

    /// A builder that sets nothing.
    pub(crate) struct JobBuilder<'a, H>(pub(crate) PhantomData<(&'a (), H)>);

    impl<H> JobBuilder<'_, H> {
        pub(crate) fn claim_ctx(&self) -> Result<Option<ClaimedCtx>, SpawnErrorKind> {
            Ok(None)
        }
    }

    /// What a builder has set: nothing.
    pub(crate) struct JobPlan;

    impl JobPlan {
        pub(crate) fn new(_: Option<Cow<'_, str>>, _: Option<StackSize>, _: Option<Box<dyn SwitchHooks>>) -> Self {
            JobPlan
        }
    }

    /// The job itself.
    pub(crate) struct SendClosure<J>(pub(crate) J);

    impl<J> SendClosure<J> {
        pub(crate) fn into_owned(self) -> Self {
            self
        }

        pub(crate) fn side(&self) -> &J {
            &self.0
        }
    }
}

pub(super) mod join {
    use std::task::Waker;

    use loom::sync::atomic::{AtomicUsize, Ordering};

    /// As in `asyncjob`.
    pub(crate) enum JoinError {
        Cancelled,
    }

    /// A job that was spawned, which counts in these.
    pub(crate) struct JoinState(pub(crate) loom::sync::Arc<Jobs>);

    /// Counts the jobs that have run, and those that were told that nothing runs them.
    #[derive(Default)]
    pub(crate) struct Jobs {
        pub(crate) run: AtomicUsize,
        pub(crate) failed: AtomicUsize,
    }

    impl JoinState {
        /// Ends the job without a result. No task waits for it.
        pub(crate) fn fail_quietly(&self, JoinError::Cancelled: JoinError) -> Option<Waker> {
            self.0.failed.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

pub(super) mod tasks {
    use super::job::{JobPlan, SendClosure};
    use super::join::JoinState;
    use super::wait_ctx::ClaimedCtx;

    /// A job that a worker has taken.
    #[allow(dead_code, reason = "no test looks at all of it")]
    pub(crate) struct Pending {
        pub(crate) main: SendClosure<JoinState>,
        pub(crate) plan: JobPlan,
        pub(crate) ctx: Option<ClaimedCtx>,
    }
}

pub(super) mod turn {
    pub(crate) use std::mem::drop as drop_contained;
}
