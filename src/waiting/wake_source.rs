//! What wakes the code that waits, whatever drives its job.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread::{self, Thread};

use super::{Blocking, WaitSpec};
use crate::job::{can_pause, with_current_ctx};
use crate::sys::EventFd;
use crate::wait_ctx::{Status, WaitCtx, WaitFd, WaitFdOptions, WaitKey};

/// A way to wake the code that made it, from any thread: see [`pause_until`](super::pause_until).
///
/// | made | its waker |
/// |---|---|
/// | in a job whose driver has set a callback | is that callback |
/// | in a job of another driver | makes an eventfd readable, which is a wait fd of the job's ctx |
/// | outside a job, or where the job may not pause | unparks the thread |
///
/// Waking is not a promise that what was waited for is there: it makes the code look again.
pub struct WakeSource {
    waker: Waker,
    route: Route,
}

/// How a wake arrives.
enum Route {
    /// By the driver's callback.
    Callback(WaitCtx),
    /// By a wait fd of the ctx, under this key.
    EventFd(WaitCtx, WaitKey, Arc<EventFd>),
    /// At the parked thread.
    Thread,
}

impl WakeSource {
    /// A way to wake the code that calls this.
    ///
    /// # Errors
    ///
    /// In a job whose driver has set no callback, when the process has no fd left for an eventfd.
    pub fn new() -> io::Result<Self> {
        match with_current_ctx(WaitCtx::clone) {
            Some(ctx) if can_pause() => Self::of_job(ctx),
            _ => Ok(Self::of_thread()),
        }
    }

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

    pub(super) fn of_thread() -> Self {
        WakeSource {
            waker: Waker::from(Arc::new(Unpark(thread::current()))),
            route: Route::Thread,
        }
    }

    /// What wakes the code. Clone it, and give the clone to what will complete the request.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    pub(super) fn spec(&self) -> WaitSpec<'_> {
        match &self.route {
            // Where the job cannot pause after all, the driver hears the callback and the thread does not.
            Route::Callback(_) => WaitSpec::by(Status::Ok, Blocking::Retry),
            Route::EventFd(_, key, fd) => WaitSpec {
                armed: Some(*key),
                ..WaitSpec::by(Status::Unsupported, Blocking::Drain(fd))
            },
            Route::Thread => WaitSpec::by(Status::Ok, Blocking::Park),
        }
    }

    /// The same as [`spec`](Self::spec) for a wait that fails where it cannot pause. It borrows nothing, so that the source
    /// can be [refreshed](Self::refresh) during the wait.
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

    /// Prepares the next look at what is waited for: a wake that comes from now on is about that look. A driver that is a
    /// task itself may have another callback than at the last look.
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

struct EventFdWaker(Arc<EventFd>);

impl Wake for EventFdWaker {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify();
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}
