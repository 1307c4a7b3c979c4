//! Wakers for code that waits, under every driver and outside jobs.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Wake, Waker};

use super::unpark::Unpark;
use super::{Blocking, WaitSpec};
use crate::job::{JobId, can_pause, current_job_id, with_current_ctx};
use crate::sys::Notifier;
use crate::wait_ctx::{Status, WaitCtx, WaitFd, WaitFdOptions, WaitKey, WaitValue};

/// Makes a waker that wakes the code which made the source, from any thread: see [`pause_until`](super::pause_until).
///
/// | the source was made | its waker |
/// |---|---|
/// | in a job whose driver has set a callback | is that callback |
/// | in a job of another driver | makes an eventfd readable, which is a wait fd of the job's ctx |
/// | outside a job, or where the job cannot pause | unparks the thread that made the source |
///
/// Use a source in the job, or on the thread, that made it: its wakes go there. A wake does not promise that what the
/// code waits for is there. It makes the code look again.
///
/// The waker may go to another thread, and the source may not:
///
/// ```compile_fail,E0277
/// fn send<T: Send>(_: T) {}
/// send(asyncjob::waiting::WakeSource::new().unwrap());
/// ```
pub struct WakeSource {
    waker: Waker,
    route: Route,
    _not_send: PhantomData<*const ()>,
}

/// The way that a wake takes to the code that waits.
enum Route {
    /// Through the callback of the driver.
    Callback(WaitCtx),
    /// Through a wait fd of the ctx, under this key.
    Notifier(WaitCtx, WaitKey, Arc<Notifier>),
    /// To the thread, which parks. The id is that of the job that made the source, if that job could not pause.
    Thread(Arc<Unpark>, Option<JobId>),
}

/// The waker for the polls of a future inside the job of a ctx: the callback of the driver. It is what a source would
/// have, without a handle to the ctx.
pub(super) struct CallbackWaker<'a> {
    ctx: &'a WaitCtx,
    /// Of which version of the callback the waker is.
    version: u32,
    waker: Waker,
}

impl WakeSource {
    /// Makes a source for the code that calls this.
    ///
    /// # Errors
    ///
    /// In a job whose driver has set no callback: the process has no fd left for an eventfd.
    pub fn new() -> io::Result<Self> {
        match with_current_ctx(WaitCtx::clone) {
            Some(ctx) if can_pause() => Self::of_job(ctx),
            _ => Ok(Self::of_thread()),
        }
    }

    /// A source for the job of this ctx, which is the job that runs this code.
    fn of_job(ctx: WaitCtx) -> io::Result<Self> {
        match ctx.callback() {
            Some(waker) => Ok(Self::with(waker, Route::Callback(ctx))),
            None => Self::of_notifier(ctx),
        }
    }

    /// As [`of_job`](Self::of_job), where the driver has set no callback.
    pub(super) fn of_notifier(ctx: WaitCtx) -> io::Result<Self> {
        let fd = Arc::new(Notifier::new()?);
        let key = WaitKey::unique();
        let entry = WaitFd::new(key, fd.raw(), WaitFdOptions::new().only_when_armed());
        ctx.add_entry(entry, WaitValue::new(Arc::clone(&fd)));
        let waker = Waker::from(Arc::new(NotifierWaker(Arc::clone(&fd))));
        Ok(Self::with(waker, Route::Notifier(ctx, key, fd)))
    }

    /// A source for this thread, which blocks while it waits.
    pub(super) fn of_thread() -> Self {
        let unpark = Arc::new(Unpark::of_this_thread());
        Self::with(
            Waker::from(Arc::clone(&unpark)),
            Route::Thread(unpark, current_job_id()),
        )
    }

    fn with(waker: Waker, route: Route) -> Self {
        WakeSource {
            waker,
            route,
            _not_send: PhantomData,
        }
    }

    /// The waker. Give a clone of it to the code that will complete the request.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    /// The spec of a wait for this source: see [`WaitSpec::woken_by`].
    pub(super) fn spec(&self) -> WaitSpec<'_> {
        assert!(
            self.route.leads_here(),
            concat!(
                "a WakeSource was used elsewhere than it was made, and its wakes go there: make the source in the job \
                 that waits",
                guide_page!("engine")
            )
        );
        self.route.spec()
    }

    /// The spec of a wait for a future, which fails where the code cannot pause. That of a source of a thread blocks
    /// all the same.
    pub(super) fn spec_of_polls(&self) -> WaitSpec<'_> {
        let spec = self.route.spec();
        let blocking = match spec.blocking {
            Blocking::Park(unpark) => Blocking::Park(unpark),
            _ => Blocking::Refused,
        };
        WaitSpec { blocking, ..spec }
    }

    /// The waker for the next poll of a future: a wake that comes from now on is about that poll.
    pub(super) fn refreshed(&self) -> &Waker {
        if let Route::Notifier(_, _, fd) = &self.route {
            fd.drain();
        }
        &self.waker
    }
}

impl Route {
    /// Whether a wake reaches the code that calls this.
    fn leads_here(&self) -> bool {
        match self {
            Route::Callback(ctx) | Route::Notifier(ctx, ..) => with_current_ctx(|own| own.ptr_eq(ctx)) == Some(true),
            Route::Thread(_, made_in) => current_job_id() == *made_in,
        }
    }

    fn spec(&self) -> WaitSpec<'_> {
        match self {
            // If the job cannot pause after all, a wake reaches the driver and not the thread, so the thread looks by
            // itself.
            Route::Callback(..) => WaitSpec::by(Status::Ok, Blocking::Retry),
            Route::Notifier(_, key, fd) => WaitSpec {
                armed: Some(*key),
                ..WaitSpec::by(Status::Unsupported, Blocking::Drain(fd))
            },
            Route::Thread(unpark, _) => WaitSpec::by(Status::Ok, Blocking::Park(unpark)),
        }
    }
}

impl<'a> CallbackWaker<'a> {
    /// `None` if the driver has set no callback.
    #[inline(always)] // a job that polls a future begins with it, and it is mostly two locks of the thread alone
    pub(super) fn of(ctx: &'a WaitCtx) -> Option<Self> {
        let version = ctx.callback_version(); // before the callback: a change that comes between is seen later
        let waker = ctx.callback_in_line()?;
        Some(CallbackWaker { ctx, version, waker })
    }

    /// The waker for the next poll. A driver that is a task itself may have set another callback since the last poll.
    #[inline]
    pub(super) fn refreshed(&mut self) -> &Waker {
        let now = self.ctx.callback_version();
        if now != self.version {
            self.refresh(now);
        }
        &self.waker
    }

    #[cold]
    fn refresh(&mut self, now: u32) {
        self.version = now;
        if let Some(waker) = self.ctx.callback() {
            self.waker = waker;
        }
    }
}

impl Drop for WakeSource {
    fn drop(&mut self) {
        if let Route::Notifier(ctx, key, _) = &self.route {
            ctx.clear_fd(*key);
        }
    }
}

impl fmt::Debug for WakeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let route = match &self.route {
            Route::Callback(..) => "callback",
            Route::Notifier(..) => "eventfd",
            Route::Thread(..) => "thread",
        };
        f.debug_tuple("WakeSource").field(&route).finish()
    }
}

/// Wakes by making an eventfd readable.
struct NotifierWaker(Arc<Notifier>);

impl Wake for NotifierWaker {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify();
    }
}
