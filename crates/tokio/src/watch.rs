//! What a paused job waits for, as tokio's resources.
//!
//! ```text
//!   for each wait fd that counts:
//!
//!     AsyncFd ready? -- no ---> it wakes the task
//!        | yes
//!     poll(2) ready? -- yes --> resume the job
//!        | no: the job has drained it since
//!     clear the AsyncFd, ask again
//! ```
//!
//! tokio's readiness is an edge that it remembers until it is told otherwise, and the one who reads the fd is the job, which
//! does not know tokio. So each remembered edge is checked against the level. Resuming on the memory alone would let an
//! engine that reads its fd without `O_NONBLOCK` block the thread.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use asyncjob::{Interest, Status, WaitCtx, WaitFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::raw::{duplicate, register};

/// How often a job that pauses without a reason is resumed before the pauses get longer.
const TURNS: u32 = 16;

/// Looks after one job.
#[derive(Default)]
pub(crate) struct Watch {
    /// The version of the ctx that `registered` is about.
    version: u32,
    registered: Vec<Registered>,
    timer: Option<Pin<Box<Sleep>>>,
    backoff: Backoff,
    /// How often the job was resumed on backoff since it was last resumed for a reason.
    attempts: u32,
}

/// A wait fd and its place in tokio's driver.
struct Registered {
    fd: WaitFd,
    /// Of a duplicate. With the job's own number two jobs could not wait for the same fd, nor for one that tokio knows
    /// already; and once the job has closed it, the number may be somebody else's: removing ours would remove theirs.
    /// Nothing if the system refuses to poll it.
    source: Option<AsyncFd<OwnedFd>>,
}

/// A job that waits for nothing that we know of is resumed to see whether it can go on.
#[derive(Clone, Copy, Default)]
enum Backoff {
    #[default]
    None,
    /// After this turn of the runtime.
    NextTurn,
    /// At the timer.
    AtTimer,
}

impl Watch {
    /// Whether the job may be resumed.
    pub(crate) fn poll(&mut self, ctx: &WaitCtx, task: &mut Context<'_>) -> Poll<()> {
        if ctx.version() != self.version {
            // All of them: a number that is still there may be another file.
            self.registered.clear();
            self.version = ctx.version();
        }
        let fds = ctx.fds();
        let mut is_refused = false;
        for fd in &fds {
            match &self.register(*fd).source {
                Some(source) if poll_source(source, fd.interest, task).is_ready() => return self.resume(),
                Some(_) => {}
                None => is_refused = true,
            }
        }
        if let Some(deadline) = ctx.deadline() {
            self.backoff = Backoff::None;
            ready!(self.poll_timer(deadline.into(), task));
            return self.resume();
        }
        match is_refused || (fds.is_empty() && ctx.status() != Status::Ok) {
            true => self.poll_trial(task),
            false => Poll::Pending,
        }
    }

    fn resume(&mut self) -> Poll<()> {
        self.backoff = Backoff::None;
        self.attempts = 0;
        Poll::Ready(())
    }

    fn register(&mut self, fd: WaitFd) -> &Registered {
        let known = self.registered.iter().position(|known| known.fd == fd);
        let at = known.unwrap_or_else(|| {
            self.registered.push(Registered {
                fd,
                source: source(fd).ok(),
            });
            self.registered.len() - 1
        });
        &self.registered[at]
    }

    fn poll_timer(&mut self, at: Instant, task: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(task)
    }

    /// Every turn for a while, then ever more seldom.
    fn poll_trial(&mut self, task: &mut Context<'_>) -> Poll<()> {
        match (self.backoff, &self.timer) {
            (Backoff::NextTurn, _) => {}
            (Backoff::AtTimer, Some(timer)) => {
                let at = timer.deadline();
                ready!(self.poll_timer(at, task));
            }
            _ => {
                self.attempts += 1;
                if self.attempts <= TURNS {
                    self.backoff = Backoff::NextTurn;
                    task.waker().wake_by_ref();
                    return Poll::Pending;
                }
                self.backoff = Backoff::AtTimer;
                ready!(self.poll_timer(Instant::now() + pause_before(self.attempts), task));
            }
        }
        self.backoff = Backoff::None;
        Poll::Ready(())
    }
}

/// 1 ms, doubled with each backoff: tokio's timer is not finer than that.
fn pause_before(backoff: u32) -> Duration {
    Duration::from_millis(1 << (backoff - TURNS - 1).min(4))
}

fn source(fd: WaitFd) -> io::Result<AsyncFd<OwnedFd>> {
    let interest = match fd.interest {
        Interest::Readable => tokio::io::Interest::READABLE,
        Interest::Writable => tokio::io::Interest::WRITABLE,
        Interest::Both => tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE,
    };
    register(duplicate(fd.fd)?, interest)
}

/// Ready if the fd is ready now; otherwise it wakes the task.
fn poll_source(source: &AsyncFd<OwnedFd>, interest: Interest, task: &mut Context<'_>) -> Poll<()> {
    if interest.is_readable() {
        // The edge is taken before the level is looked at: one that comes in between is not cleared with this one.
        while let Poll::Ready(edge) = source.poll_read_ready(task) {
            match edge {
                Ok(mut edge) if !is_ready(source, PollFlags::IN) => edge.clear_ready(),
                // An error says that the runtime is about to end: the job may as well see for itself.
                Ok(_) | Err(_) => return Poll::Ready(()),
            }
        }
    }
    if interest.is_writable() {
        while let Poll::Ready(edge) = source.poll_write_ready(task) {
            match edge {
                Ok(mut edge) if !is_ready(source, PollFlags::OUT) => edge.clear_ready(),
                Ok(_) | Err(_) => return Poll::Ready(()),
            }
        }
    }
    Poll::Pending
}

/// The level: whether the fd is ready, or in an error that a read would report.
fn is_ready(source: &AsyncFd<OwnedFd>, what: PollFlags) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(source.get_ref(), what)], Some(&now));
    ready.is_ok_and(|ready| ready > 0)
}
