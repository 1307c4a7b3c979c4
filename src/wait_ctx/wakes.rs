//! What makes a paused job ready. Drivers say so to the ctx of the job.

use std::os::fd::RawFd;

use super::WaitCtx;

/// What has made a paused job ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "insight"), allow(unreachable_pub, reason = "`insight` exports it"))]
#[non_exhaustive]
pub enum WakeCause {
    /// The callback of the job's wait ctx was called.
    Callback,
    /// This wait fd was ready.
    Fd(RawFd),
    /// The deadline of the job has passed.
    Deadline,
    /// The [watch](crate::job_future::JobFuture::watch) of the job's future said that the job may go on, which waits
    /// for several fds: one of them is ready.
    Watch,
    /// Nothing has happened. The job asked for another try, or has named nothing that it waits for.
    Retry,
    /// The job is to be cancelled.
    Cancel,
}

impl WaitCtx {
    /// The driver has found that the job is ready. Without a feature that wants to know, this does nothing.
    ///
    /// A timer is a [`Deadline`](WakeCause::Deadline), also if it was set for another try. A watch does not say more
    /// than [`Watch`](WakeCause::Watch). What is noted says which it was.
    #[inline]
    pub(crate) fn woken(&self, cause: WakeCause) {
        #[cfg(any(feature = "insight", feature = "tracing"))]
        self.note_wake(cause);
        #[cfg(not(any(feature = "insight", feature = "tracing")))]
        let _ = cause;
    }
}
