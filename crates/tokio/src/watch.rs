//! What a paused job waits for, as tokio's resources.
//!
//! ```text
//!   for each wait fd that counts:
//!
//!     AsyncFd ready? -- no ---> it wakes the task
//!        | yes
//!     poll(2) ready? -- yes --> resume the job
//!        | no: the job has drained the fd since
//!     clear the AsyncFd, ask again
//! ```
//!
//! tokio remembers an fd's readiness until it is told that the fd was drained. The job drains the fd, and the job does
//! not know tokio. So a remembered readiness is checked with `poll(2)`. Resuming without the check would let an engine
//! that reads its fd without `O_NONBLOCK` block the thread.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time;

use asyncjob::{Interest, WaitCtx, WaitFd, Wants};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::give_way;
use crate::raw::{Source, duplicate, register};

/// Watches for one job.
#[derive(Default)]
pub(crate) struct Watch {
    /// The version of the ctx that `registered` is about.
    version: u32,
    registered: Vec<Registered>,
    timer: Option<Pin<Box<Sleep>>>,
    /// The ctx's deadline, if it had not passed when the job paused.
    deadline: Option<time::Instant>,
    next_poll: NextPoll,
    /// How often the job was polled since it was last resumed for a reason.
    polls: u32,
}

/// A wait fd, registered with tokio's driver.
struct Registered {
    fd: WaitFd,
    /// Holds a duplicate of the fd. Two jobs may wait for one fd, which may be registered with tokio already, and the
    /// driver takes a number only once. And when the job has closed its fd, its number may be that of another file:
    /// deregistering the number would then deregister the other file.
    ///
    /// `None` if the system refuses to poll the fd.
    source: Option<Source>,
}

/// When a job that wants to be polled is resumed.
#[derive(Clone, Copy, Default)]
enum NextPoll {
    /// The job has not paused, or it waits for something else.
    #[default]
    Unplanned,
    /// After this turn of the runtime.
    NextTurn,
    At(Instant),
}

impl Watch {
    /// Whether the job may be resumed.
    pub(crate) fn poll(&mut self, ctx: &WaitCtx, task: &mut Context<'_>) -> Poll<()> {
        if ctx.version() != self.version {
            // All of them: a number that is still there may be another file.
            self.registered.clear();
            self.version = ctx.version();
        }
        let (fds, deadline) = (ctx.fds(), ctx.deadline());
        match Wants::of(ctx.status(), !fds.is_empty(), deadline) {
            Wants::Watch => self.poll_events(&fds, deadline, task),
            Wants::Poll => self.poll_later(task),
            // The future of the job acts on these itself.
            Wants::Callback | Wants::Again | Wants::Cancel => Poll::Pending,
        }
    }

    /// Ready when a wait fd is ready or the deadline has passed.
    fn poll_events(&mut self, fds: &[WaitFd], deadline: Option<time::Instant>, task: &mut Context<'_>) -> Poll<()> {
        let mut is_refused = false;
        for fd in fds {
            match &self.register(*fd).source {
                Some(source) if poll_source(source, fd.interest, task).is_ready() => return self.resume(),
                Some(_) => {}
                None => is_refused = true,
            }
        }
        if is_refused {
            return self.poll_later(task);
        }
        let Some(deadline) = deadline else {
            return Poll::Pending;
        };
        if deadline > time::Instant::now() {
            self.deadline = Some(deadline);
        }
        if self.deadline != Some(deadline) {
            // The deadline had passed before the job paused, so the job is polled.
            return self.poll_later(task);
        }
        ready!(self.poll_timer(deadline.into(), task));
        self.resume()
    }

    fn resume(&mut self) -> Poll<()> {
        self.deadline = None;
        self.next_poll = NextPoll::Unplanned;
        self.polls = 0;
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

    /// Ready at the next turn of the runtime a few times, then at growing intervals. tokio's timer rounds each up to a
    /// millisecond.
    fn poll_later(&mut self, task: &mut Context<'_>) -> Poll<()> {
        match self.next_poll {
            NextPoll::NextTurn => {}
            NextPoll::At(at) => ready!(self.poll_timer(at, task)),
            NextPoll::Unplanned => {
                let interval = Wants::poll_interval(self.polls);
                self.polls = self.polls.saturating_add(1);
                let Some(interval) = interval else {
                    self.next_poll = NextPoll::NextTurn;
                    give_way(task);
                    return Poll::Pending;
                };
                let at = Instant::now() + interval;
                self.next_poll = NextPoll::At(at);
                ready!(self.poll_timer(at, task));
            }
        }
        self.next_poll = NextPoll::Unplanned;
        Poll::Ready(())
    }
}

fn source(fd: WaitFd) -> io::Result<Source> {
    let interest = match fd.interest {
        Interest::Readable => tokio::io::Interest::READABLE,
        Interest::Writable => tokio::io::Interest::WRITABLE,
        Interest::Both => tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE,
    };
    register(duplicate(fd.fd)?, interest)
}

/// Ready if the fd is ready now. If it is not, the task is woken when it may be.
fn poll_source(source: &Source, interest: Interest, task: &mut Context<'_>) -> Poll<()> {
    if interest.is_readable() {
        // tokio is asked before poll(2): readiness that comes in between is newer than `ready`, and is not cleared with
        // it.
        while let Poll::Ready(ready) = source.poll_read_ready(task) {
            match ready {
                Ok(mut ready) if !is_ready(source, PollFlags::IN) => ready.clear_ready(),
                // An error says that the runtime is about to end. The job is resumed and finds out by itself.
                Ok(_) | Err(_) => return Poll::Ready(()),
            }
        }
    }
    if interest.is_writable() {
        while let Poll::Ready(ready) = source.poll_write_ready(task) {
            match ready {
                Ok(mut ready) if !is_ready(source, PollFlags::OUT) => ready.clear_ready(),
                Ok(_) | Err(_) => return Poll::Ready(()),
            }
        }
    }
    Poll::Pending
}

/// Whether the fd is ready now, or in an error that a read would report.
fn is_ready(source: &Source, what: PollFlags) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let count = poll(&mut [PollFd::new(source.get_ref(), what)], Some(&now));
    count.is_ok_and(|count| count > 0)
}
