//! Wait fds, to the jobs to resume.
//!
//! One level-triggered epoll instance. Level-triggered, because an engine may leave its fd undrained, and an edge is
//! reported once. An fd stays registered for as long as an entry of some ctx names it: a wait on a stable fd costs one
//! `epoll_wait` for all jobs that become ready with it, and no `epoll_ctl`.
//!
//! ```text
//!   slots[fd] = { registered: what the kernel watches, waiters: [ticket, entry] ... }
//!
//!   event on fd --> a waiter's entry counts now?   resume its task
//!                   none does?                     take it out of the kernel's hands until one does
//! ```
//!
//! That second case is an on-call entry (a socket, whose job now waits for a signature): data arrives, once, and from
//! then on the fd is quiet until the job wants it again.
//!
//! # What the kernel does not tell
//!
//! * Closing an fd takes it out of epoll silently, and the next file gets the same number. So removals are handled before
//!   additions with their errors ignored, and an addition always asks the kernel, whatever the slot says.
//! * A closed fd whose file lives on in a duplicate keeps reporting under its old number and cannot be deleted any more.
//!   Then the whole epoll instance is replaced.
//! * Some fds cannot be watched: a regular file (always ready, as in `poll(2)`), a number that is not open. They count as
//!   ready, with a back-off.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use super::wake::TaskId;
use crate::sys::{Epoll, Readiness};
use crate::wait_ctx::{Interest, WaitFd};

#[derive(Debug)]
pub(super) struct Reactor {
    epoll: Epoll,
    /// Indexed by fd.
    slots: Vec<Slot>,
    /// The inbox's bell, which belongs to no task.
    notifier: RawFd,
}

#[derive(Debug, Default)]
struct Slot {
    registered: Watch,
    waiters: Vec<Waiter>,
}

#[derive(Debug)]
struct Waiter {
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

/// Higher numbers than any Linux allows (`fs.nr_open` is at most 2^31, by default 2^20) would only grow the table.
const MOST_FDS: usize = 1 << 24;

impl Reactor {
    pub(super) fn new(notifier: RawFd) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(notifier, true, false)?;
        Ok(Reactor {
            epoll,
            slots: Vec::new(),
            notifier,
        })
    }

    /// What a host polls instead of waiting here.
    pub(super) fn fd(&self) -> Rc<OwnedFd> {
        self.epoll.fd()
    }

    /// `ticket` has a new entry. Whether the kernel can watch it.
    pub(super) fn add(&mut self, id: TaskId, fd: WaitFd) -> bool {
        let Some(slot) = self.slot_mut(fd.fd) else { return false };
        slot.waiters.push(Waiter { id, fd });
        // Whatever the slot says is registered, the file behind the number may be another one by now.
        slot.registered = Watch::NOTHING;
        self.ensure(fd)
    }

    /// An entry of `ticket` is gone. Its fd may be closed already.
    pub(super) fn remove(&mut self, id: TaskId, fd: WaitFd) {
        let Some(slot) = self.slot_mut(fd.fd) else { return };
        if let Some(at) = slot.waiters.iter().position(|w| w.id == id && w.fd == fd) {
            slot.waiters.swap_remove(at);
        }
        if slot.waiters.is_empty() && slot.registered != Watch::NOTHING {
            slot.registered = Watch::NOTHING;
            let _ = self.epoll.delete(fd.fd);
        }
    }

    /// Has the kernel watch `fd` for its interest, if it does not yet. Whether it can.
    pub(super) fn ensure(&mut self, fd: WaitFd) -> bool {
        let Some(slot) = self.slots.get_mut(fd.fd as usize) else {
            return false;
        };
        let wanted = slot.registered.with(fd.interest);
        if wanted == slot.registered {
            return true;
        }
        // Other waiters of this fd, which may be registered in the kernel though this slot has just been reset.
        let all = slot.waiters.iter().fold(wanted, |watch, w| watch.with(w.fd.interest));
        let watched = match self.epoll.add(fd.fd, all.readable, all.writable) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => self.epoll.modify(fd.fd, all.readable, all.writable),
            other => other,
        };
        slot.registered = if watched.is_ok() { all } else { Watch::NOTHING };
        watched.is_ok()
    }

    /// Waits for events and calls `ready` for each waiter that an event may concern; it answers whether the waiter
    /// takes it. `bell` is called if the bell rings.
    pub(super) fn wait(
        &mut self,
        timeout: Option<Duration>,
        mut ready: impl FnMut(TaskId, &WaitFd) -> bool,
        mut notifier: impl FnMut(),
    ) -> io::Result<()> {
        let (slots, own_bell) = (&mut self.slots, self.notifier);
        let mut unwanted = Vec::new();
        self.epoll.wait(timeout, |event| {
            if event.fd == own_bell {
                notifier();
            } else if !deliver(slots, event, &mut ready) {
                unwanted.push(event.fd);
            }
        })?;
        unwanted.into_iter().try_for_each(|fd| self.forget(fd))
    }

    /// Nobody wants this fd now: the kernel is to stop reporting it.
    #[cold]
    fn forget(&mut self, fd: RawFd) -> io::Result<()> {
        if let Some(slot) = self.slots.get_mut(fd as usize) {
            slot.registered = Watch::NOTHING;
        }
        match self.epoll.delete(fd) {
            Ok(()) => Ok(()),
            Err(_) => self.replace_epoll(),
        }
    }

    /// A file reports under a number that no longer names it. Only leaving it behind with the whole instance helps.
    ///
    /// The fd that a host polls stays the same number, and what it names changes: the new instance takes its place.
    fn replace_epoll(&mut self) -> io::Result<()> {
        self.epoll.replace()?;
        self.epoll.add(self.notifier, true, false)?;
        for (fd, slot) in self.slots.iter_mut().enumerate() {
            let watch = slot.registered;
            if watch != Watch::NOTHING && self.epoll.add(fd as RawFd, watch.readable, watch.writable).is_err() {
                slot.registered = Watch::NOTHING;
            }
        }
        Ok(())
    }

    fn slot_mut(&mut self, fd: RawFd) -> Option<&mut Slot> {
        let at = usize::try_from(fd).ok().filter(|&at| at < MOST_FDS)?;
        if at >= self.slots.len() {
            self.slots.resize_with(at + 1, Slot::default);
        }
        self.slots.get_mut(at)
    }
}

/// Whether some waiter took the event.
fn deliver(slots: &[Slot], event: Readiness, ready: &mut impl FnMut(TaskId, &WaitFd) -> bool) -> bool {
    let Some(slot) = slots.get(event.fd as usize) else {
        return false;
    };
    let concerned =
        |interest: Interest| event.readable && interest.is_readable() || event.writable && interest.is_writable();
    let mut taken = false;
    for waiter in slot.waiters.iter().filter(|w| concerned(w.fd.interest)) {
        taken |= ready(waiter.id, &waiter.fd);
    }
    taken
}
