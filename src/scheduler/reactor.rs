//! The reactor: from ready wait fds to the jobs to resume.
//!
//! The reactor uses one level-triggered epoll instance. It is level-triggered because an engine may leave its fd
//! undrained, and an edge would be reported once only. An fd stays registered for as long as an entry of some ctx names
//! it. A wait for an fd that stays the same therefore costs no `epoll_ctl`, and all jobs that become ready together
//! cost one `epoll_wait`.
//!
//! ```text
//!   fds[number] = { registered: what the kernel watches, waiting: [(task id, wait fd), ...] }
//!
//!   event on an fd --> does the entry of some waiting task count now?
//!                        yes: resume these tasks
//!                        no:  delete the fd from epoll until such an entry counts again
//! ```
//!
//! The second case is that of an only-when-armed entry, such as a socket whose job now waits for a signature. Data that
//! arrives at the socket is reported once, and from then on the fd is quiet until the job wants it again.
//!
//! # What the kernel does not tell
//!
//! * A close takes an fd out of epoll without notice, and the next file gets the same number. So removals are handled
//!   before additions, with their errors ignored. An addition always asks the kernel, whatever `registered` says.
//! * A closed fd whose file lives on in a duplicate is still reported under its old number, and cannot be deleted any
//!   more. The whole epoll instance is replaced then.
//! * Some fds cannot be watched: a regular file (which `poll(2)` reports as always ready), or a number that is not
//!   open. They count as ready, and the scheduler polls their jobs at growing intervals.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use super::wake::TaskId;
use crate::sys::{Epoll, Readiness};
use crate::wait_ctx::{Interest, WaitFd};

/// The epoll instance of a scheduler, and the tasks that wait for each fd.
#[derive(Debug)]
pub(super) struct Reactor {
    epoll: Epoll,
    /// What is known of each fd, indexed by its number.
    fds: Vec<FdState>,
    /// The fd of the inbox's notifier, which belongs to no task.
    notifier: RawFd,
}

/// What the reactor knows of one fd.
#[derive(Debug, Default)]
struct FdState {
    registered: Watch,
    waiting: Vec<WaitingTask>,
}

/// A task with an entry for the fd.
#[derive(Debug)]
struct WaitingTask {
    id: TaskId,
    fd: WaitFd,
}

/// What the kernel watches an fd for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Watch {
    readable: bool,
    writable: bool,
}

impl Watch {
    const NOTHING: Watch = Watch {
        readable: false,
        writable: false,
    };

    fn with(self, interest: Interest) -> Watch {
        Watch {
            readable: self.readable || interest.is_readable(),
            writable: self.writable || interest.is_writable(),
        }
    }
}

/// An fd of this number or a higher one is not watched, because the table grows to the highest number. A process has no
/// such fd unless its administrator has raised `fs.nr_open`, which is 2^20 by default.
const MOST_FDS: usize = 1 << 24;

impl Reactor {
    pub(super) fn new(notifier: RawFd) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(notifier, true, false)?;
        Ok(Reactor {
            epoll,
            fds: Vec::new(),
            notifier,
        })
    }

    /// The fd that a host polls instead of waiting here.
    pub(super) fn fd(&self) -> Rc<OwnedFd> {
        self.epoll.fd()
    }

    /// Adds an entry of a task. Returns whether the kernel can watch its fd.
    pub(super) fn add(&mut self, id: TaskId, fd: WaitFd) -> bool {
        let Some(state) = self.state_mut(fd.fd) else {
            return false;
        };
        state.waiting.push(WaitingTask { id, fd });
        // Whatever `registered` says, the number may name another file by now.
        state.registered = Watch::NOTHING;
        self.ensure(fd)
    }

    /// Removes an entry of a task. Its fd may be closed already.
    pub(super) fn remove(&mut self, id: TaskId, fd: WaitFd) {
        let Some(state) = self.state_mut(fd.fd) else { return };
        if let Some(at) = state.waiting.iter().position(|task| task.id == id && task.fd == fd) {
            state.waiting.swap_remove(at);
        }
        if state.waiting.is_empty() && state.registered != Watch::NOTHING {
            state.registered = Watch::NOTHING;
            let _ = self.epoll.delete(fd.fd);
        }
    }

    /// Lets the kernel watch the fd for its interest, if it does not do so yet. Returns whether it can.
    pub(super) fn ensure(&mut self, fd: WaitFd) -> bool {
        let Some(state) = self.fds.get_mut(fd.fd as usize) else {
            return false;
        };
        let wanted = state.registered.with(fd.interest);
        if wanted == state.registered {
            return true;
        }
        // The interests of the other tasks are added: the kernel may watch the fd for them although `registered` was
        // just reset.
        let all = state
            .waiting
            .iter()
            .fold(wanted, |watch, task| watch.with(task.fd.interest));
        let watched = match self.epoll.add(fd.fd, all.readable, all.writable) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => self.epoll.modify(fd.fd, all.readable, all.writable),
            other => other,
        };
        state.registered = if watched.is_ok() { all } else { Watch::NOTHING };
        watched.is_ok()
    }

    /// Waits for events. Calls `ready` for each task that an event may concern, which returns whether the task takes
    /// the event. Calls `notified` if the inbox's notifier is ready.
    pub(super) fn wait(
        &mut self,
        timeout: Option<Duration>,
        mut ready: impl FnMut(TaskId, &WaitFd) -> bool,
        mut notified: impl FnMut(),
    ) -> io::Result<()> {
        let (fds, own_notifier) = (&mut self.fds, self.notifier);
        let mut unwanted = Vec::new();
        self.epoll.wait(timeout, |event| {
            if event.fd == own_notifier {
                notified();
            } else if !deliver(fds, event, &mut ready) {
                unwanted.push(event.fd);
            }
        })?;
        unwanted.into_iter().try_for_each(|fd| self.forget(fd))
    }

    /// Stops the kernel from reporting an fd that no task wants now.
    #[cold]
    fn forget(&mut self, fd: RawFd) -> io::Result<()> {
        if let Some(state) = self.fds.get_mut(fd as usize) {
            state.registered = Watch::NOTHING;
        }
        match self.epoll.delete(fd) {
            Ok(()) => Ok(()),
            Err(_) => self.replace_epoll(),
        }
    }

    /// Replaces the epoll instance. Nothing else helps when a file is reported under a number that no longer names it.
    ///
    /// The fd that a host polls keeps its number. The new instance takes the place of the old one behind it.
    fn replace_epoll(&mut self) -> io::Result<()> {
        self.epoll.replace()?;
        self.epoll.add(self.notifier, true, false)?;
        for (fd, state) in self.fds.iter_mut().enumerate() {
            let watch = state.registered;
            if watch != Watch::NOTHING && self.epoll.add(fd as RawFd, watch.readable, watch.writable).is_err() {
                state.registered = Watch::NOTHING;
            }
        }
        Ok(())
    }

    fn state_mut(&mut self, fd: RawFd) -> Option<&mut FdState> {
        let at = usize::try_from(fd).ok().filter(|&at| at < MOST_FDS)?;
        if at >= self.fds.len() {
            self.fds.resize_with(at + 1, FdState::default);
        }
        self.fds.get_mut(at)
    }
}

/// Whether some task took the event.
fn deliver(fds: &[FdState], event: Readiness, ready: &mut impl FnMut(TaskId, &WaitFd) -> bool) -> bool {
    let Some(state) = fds.get(event.fd as usize) else {
        return false;
    };
    let concerned =
        |interest: Interest| event.readable && interest.is_readable() || event.writable && interest.is_writable();
    let mut taken = false;
    for task in state.waiting.iter().filter(|task| concerned(task.fd.interest)) {
        taken |= ready(task.id, &task.fd);
    }
    taken
}
