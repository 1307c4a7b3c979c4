//! A wait ctx whose callback is the waker of a job, and which jobs use one after the other.
//!
//! A job whose spawner gave it no wait ctx gets one when it starts. Most such jobs leave the ctx as they got it, and
//! nobody else keeps it, so that the next job can have it. That saves three allocations for each job.

use std::sync::Arc;

use super::wake::{Inbox, JobWaker};
use crate::sync::contain;
use crate::wait_ctx::ClaimedCtx;

/// A wait ctx, and the waker that is its callback.
pub(super) struct BoundCtx {
    pub(super) ctx: ClaimedCtx,
    pub(super) waker: Arc<JobWaker>,
}

/// How many a scheduler keeps. Jobs that run to their end without a pause use one after another.
pub(super) const MOST_SPARE: usize = 256;

impl BoundCtx {
    /// Sets the callback of a ctx that the spawner has given, or of a new one. This drops a callback that the user may
    /// have set before.
    pub(super) fn new(given: Option<ClaimedCtx>, inbox: &Arc<Inbox>) -> Self {
        let waker = Arc::new(JobWaker::new(Arc::clone(inbox), given.is_some()));
        let ctx = given.unwrap_or_else(ClaimedCtx::new);
        contain(|| ctx.set_callback_of(Arc::clone(&waker)));
        BoundCtx { ctx, waker }
    }

    /// The ctx if the spawner has given it.
    pub(super) fn into_given(self) -> Option<ClaimedCtx> {
        self.waker.is_of_given_ctx().then_some(self.ctx)
    }

    /// Makes the ctx and its waker as good as new for another job. Returns `false` if they are the user's, if somebody
    /// else has a handle to one of them, or if the ctx has had wait fds or another callback.
    #[inline]
    pub(super) fn renew(&mut self) -> bool {
        if self.waker.is_of_given_ctx() || !self.ctx.renew(&self.waker) {
            return false;
        }
        self.waker.renew();
        true
    }
}

#[cfg(all(test, not(asyncjob_loom)))]
mod tests {
    use super::*;

    /// Also if the spawner has let go of it. It may know the ctx by its address, which another job must not have then.
    #[test]
    fn a_ctx_that_the_spawner_has_given_is_not_the_next_jobs() {
        let inbox = Arc::new(Inbox::new().unwrap());
        let mut given = BoundCtx::new(Some(ClaimedCtx::new()), &inbox);
        assert!(!given.renew());
        assert!(given.into_given().is_some());
        let mut own = BoundCtx::new(None, &inbox);
        assert!(own.renew());
        assert!(own.into_given().is_none());
    }
}
