//! Wakers for code that waits, under every driver and outside jobs.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread::{self, Thread};

use super::{Blocking, WaitSpec};
use crate::job::{can_pause, with_current_ctx};
use crate::sys::EventFd;
use crate::wait_ctx::{Status, WaitCtx, WaitFd, WaitFdOptions, WaitKey};

/// Makes a waker that wakes the code which made the source, from any thread: see [`pause_until`](super::pause_until).
///
/// | the source was made | its waker |
/// |---|---|
/// | in a job whose driver has set a callback | is that callback |
/// | in a job of another driver | makes an eventfd readable, which is a wait fd of the job's ctx |
/// | outside a job, or where the job cannot pause | unparks the thread that made the source |
///
/// Use a source in the job, or on the thread, that made it. A wake does not promise that what the code waits for is
/// there. It makes the code look again.
pub struct WakeSource {
    waker: Waker,
    route: Route,
}

/// The way that a wake takes to the code that waits.
enum Route {
    /// Through the callback of the driver.
    Callback(WaitCtx),
    /// Through a wait fd of the ctx, under this key.
    EventFd(WaitCtx, WaitKey, Arc<EventFd>),
    /// To the thread, which parks.
    Thread,
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
    pub(super) fn of_job(ctx: WaitCtx) -> io::Result<Self> {
        if let Some(waker) = ctx.callback() {
            return Ok(WakeSource {
                waker,
                route: Route::Callback(ctx),
            });
        }
        let fd = Arc::new(EventFd::new()?);
        let key = WaitKey::unique();
        let entry = WaitFd::new(key, fd.raw(), WaitFdOptions::new().only_when_armed());
        ctx.add_entry(entry, Box::new(Arc::clone(&fd)));
        Ok(WakeSource {
            waker: Waker::from(Arc::new(EventFdWaker(Arc::clone(&fd)))),
            route: Route::EventFd(ctx, key, fd),
        })
    }

    /// A source for this thread, which blocks while it waits.
    pub(super) fn of_thread() -> Self {
        WakeSource {
            waker: Waker::from(Arc::new(Unpark(thread::current()))),
            route: Route::Thread,
        }
    }

    /// The waker. Give a clone of it to the code that will complete the request.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    /// The spec of a wait for this source: see [`WaitSpec::woken_by`].
    pub(super) fn spec(&self) -> WaitSpec<'_> {
        match &self.route {
            // If the job cannot pause after all, a wake reaches the driver and not the thread, so the thread looks by
            // itself.
            Route::Callback(_) => WaitSpec::by(Status::Ok, Blocking::Retry),
            Route::EventFd(_, key, fd) => WaitSpec {
                armed: Some(*key),
                ..WaitSpec::by(Status::Unsupported, Blocking::Drain(fd))
            },
            Route::Thread => WaitSpec::by(Status::Ok, Blocking::Park),
        }
    }

    /// The spec of a wait that fails where the job cannot pause. The spec of a source of a thread blocks all the same.
    ///
    /// The spec borrows nothing, so that the source can be [refreshed](Self::refresh) during the wait.
    pub(super) fn pausing_spec(&self) -> WaitSpec<'static> {
        let spec = self.spec();
        WaitSpec {
            blocking: match spec.blocking {
                Blocking::Park => Blocking::Park,
                _ => Blocking::Refused,
            },
            ..spec
        }
    }

    /// Prepares the next poll of a future: a wake that comes from now on is about that poll. A driver that is a task
    /// itself may have set another callback since the last poll.
    pub(super) fn refresh(&mut self) {
        match &self.route {
            Route::Callback(ctx) => {
                if !ctx.callback_will_wake(&self.waker)
                    && let Some(waker) = ctx.callback()
                {
                    self.waker = waker;
                }
            }
            Route::EventFd(_, _, fd) => {
                fd.drain();
            }
            Route::Thread => {}
        }
    }
}

impl Drop for WakeSource {
    fn drop(&mut self) {
        if let Route::EventFd(ctx, key, _) = &self.route {
            ctx.clear_fd(*key);
        }
    }
}

impl fmt::Debug for WakeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let route = match &self.route {
            Route::Callback(_) => "callback",
            Route::EventFd(..) => "eventfd",
            Route::Thread => "thread",
        };
        f.debug_tuple("WakeSource").field(&route).finish()
    }
}

/// Wakes by making an eventfd readable.
struct EventFdWaker(Arc<EventFd>);

impl Wake for EventFdWaker {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify();
    }
}

/// Wakes by unparking a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}
