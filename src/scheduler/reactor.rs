//! The reactor: from ready wait fds to the jobs to resume.
//!
//! The reactor uses one level-triggered epoll instance. It is level-triggered because an engine may leave its fd
//! undrained, and an edge would be reported once only. An fd stays registered for as long as an entry of some ctx names
//! it. A wait for an fd that stays the same therefore costs no `epoll_ctl`, and all jobs that become ready together
//! cost one `epoll_wait`.
//!
//! ```text
//!   places[number] ---> fds[place] = { number, watched, generation, waiting: [(serial, task id, wait fd), ...] }
//!                         ^   ^
//!   a Registration -------'   '------- the token of an event = (place, generation)
//!
//!   event on an fd --> does the entry of some waiting task count now?
//!                        yes: resume these tasks
//!                        no:  let the kernel watch for nothing of this kind until such an entry counts again
//! ```
//!
//! The second case is that of an only-when-armed entry, such as a socket whose job now waits for a signature. Data that
//! arrives at the socket is reported once, and from then on the fd is quiet until the job wants it again.
//!
//! A task keeps a [`Registration`] for each of its entries. A pause and an event find the state of the fd by its place.
//! The number is looked up only when an entry comes or goes, and any number may come: -1, or one that is not open. The
//! memory depends on how many entries there are, and not on the numbers. An fd may have any number of waiting tasks.
//! The time for one of them to come or to go does not depend on that.
//!
//! # What the kernel does not tell
//!
//! * A close takes an fd out of epoll without notice, and the next file gets the same number. So removals are handled
//!   before additions, with their errors ignored. An addition always asks the kernel, whatever `watched` says.
//! * A closed fd whose file lives on in a duplicate is still reported, and cannot be deleted any more. Its number may
//!   name another file by then, which is watched as well. Each registration has a generation of its own, so such an
//!   event is told from one of the new file. The whole epoll instance is replaced then.
//! * Some fds cannot be watched: a regular file (which `poll(2)` reports as always ready), or a number that is not
//!   open. They count as ready, and the scheduler polls their jobs at growing intervals.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::Duration;

use slab::Slab;

use super::wake::TaskId;
use crate::sys::{Poller, PollerFd, Readiness};
use crate::wait_ctx::{Interest, WaitFd};

/// The epoll instance of a scheduler, and the tasks that wait for each fd.
#[derive(Debug)]
pub(super) struct Reactor {
    poller: Poller,
    /// What is known of each fd that some task waits for.
    fds: Slab<FdState>,
    /// Where an fd is in `fds`, by its number.
    places: HashMap<RawFd, u32, BuildHasherDefault<NumberHasher>>,
    /// The fd of the inbox's notifier, which belongs to no task.
    notifier: RawFd,
    last_generation: u32,
    last_serial: u64,
}

/// An entry of a task that the reactor knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registration {
    pub(super) fd: WaitFd,
    place: u32,
    serial: u64,
}

/// What the reactor knows of one fd.
#[derive(Debug)]
struct FdState {
    number: RawFd,
    /// What the kernel watches the fd for, as far as the reactor knows.
    watched: Watch,
    /// Distinguishes what the kernel was told last of the fd from all that it was told before, of this fd and others.
    generation: u32,
    waiting: WaitingTasks,
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

    fn covers(self, interest: Interest) -> bool {
        (self.readable || !interest.is_readable()) && (self.writable || !interest.is_writable())
    }
}

/// The token of the notifier. No fd of a task has it, because no place is that high.
const NOTIFIER: u64 = u64::MAX;

/// What an event of an fd carries.
fn token(place: usize, generation: u32) -> u64 {
    (u64::from(generation) << 32) | place as u64
}

impl Reactor {
    pub(super) fn new(notifier: RawFd) -> io::Result<Self> {
        let poller = Poller::new()?;
        poller.add(notifier, NOTIFIER, true, false)?;
        Ok(Reactor {
            poller,
            fds: Slab::new(),
            places: HashMap::default(),
            notifier,
            last_generation: 0,
            last_serial: 0,
        })
    }

    /// The fd of the instance. It is ready when an fd of a task is.
    pub(super) fn fd(&self) -> Rc<PollerFd> {
        self.poller.fd()
    }

    /// The fd that a host polls, or watches, instead of waiting here.
    pub(super) fn fd_for_host(&mut self) -> io::Result<Rc<PollerFd>> {
        self.poller.for_host()
    }

    /// Lets a wait end at this time of the kernel's clock, whatever its time-out is. Returns whether it will.
    #[inline]
    pub(super) fn set_alarm(&mut self, at: u64) -> bool {
        self.poller.set_alarm(at)
    }

    /// Whether there is an entry of a task.
    #[inline]
    pub(super) fn watches_fds(&self) -> bool {
        !self.fds.is_empty()
    }

    /// Adds an entry of a task.
    pub(super) fn add(&mut self, id: TaskId, fd: WaitFd) -> Registration {
        let place = *self.places.entry(fd.fd).or_insert_with(|| {
            let place = self.fds.insert(FdState {
                number: fd.fd,
                watched: Watch::NOTHING,
                generation: 0,
                waiting: WaitingTasks::default(),
            });
            u32::try_from(place).expect("fewer than 2^32 - 1 fds")
        });
        self.last_serial += 1;
        let serial = self.last_serial;
        self.fds[place as usize].waiting.add(WaitingTask {
            serial,
            id,
            fd,
            is_gone: false,
        });
        self.register(place); // whatever `watched` says: the number may name another file by now
        Registration { fd, place, serial }
    }

    /// Removes an entry of a task. Its fd may be closed already.
    pub(super) fn remove(&mut self, registration: Registration) {
        let place = registration.place as usize;
        let state = &mut self.fds[place];
        state.waiting.remove(registration.serial);
        if state.waiting.count == 0 {
            let state = self.fds.remove(place);
            self.places.remove(&state.number);
            if state.watched != Watch::NOTHING {
                let _ = self.poller.delete(state.number);
            }
        }
    }

    /// Whether the kernel watches the fd of an entry for its interest.
    #[inline]
    pub(super) fn watches(&self, registration: &Registration) -> bool {
        let watched = self.fds[registration.place as usize].watched;
        watched.covers(registration.fd.interest)
    }

    /// Lets the kernel watch the fd of an entry for its interest, if it does not do so yet. Returns whether it can.
    #[inline]
    pub(super) fn ensure(&mut self, registration: &Registration) -> bool {
        self.watches(registration) || self.register(registration.place)
    }

    /// Lets the kernel watch an fd for the interests of all its tasks. Returns whether it can.
    fn register(&mut self, place: u32) -> bool {
        let state = &mut self.fds[place as usize];
        self.last_generation = self.last_generation.wrapping_add(1);
        state.generation = self.last_generation;
        let (token, all) = (token(place as usize, state.generation), state.waiting.interests());
        let watched = match self.poller.add(state.number, token, all.readable, all.writable) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                self.poller.modify(state.number, token, all.readable, all.writable)
            }
            other => other,
        };
        state.watched = if watched.is_ok() { all } else { Watch::NOTHING };
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
        let fds = &self.fds;
        let (mut unwanted, mut unknown) = (Vec::new(), false);
        self.poller.wait(timeout, |event| {
            if event.token == NOTIFIER {
                return notified();
            }
            match state_of(fds, event.token) {
                Some(state) if state.waiting.deliver(event, &mut ready) => {}
                Some(_) => unwanted.push(event),
                None => unknown = true,
            }
        })?;
        for event in unwanted {
            unknown |= self.forget(event).is_err();
        }
        if unknown {
            self.replace_poller(ready)?;
        }
        Ok(())
    }

    /// Stops the kernel from reporting what no task wants now. What the event did not report may still be wanted.
    #[cold]
    fn forget(&mut self, event: Readiness) -> io::Result<()> {
        let place = event.token as u32 as usize;
        let state = &mut self.fds[place];
        let left = Watch {
            readable: state.watched.readable && !event.readable,
            writable: state.watched.writable && !event.writable,
        };
        state.watched = left;
        if left == Watch::NOTHING {
            return self.poller.delete(state.number);
        }
        self.poller
            .modify(state.number, event.token, left.readable, left.writable)
    }

    /// Replaces the epoll instance. Nothing else helps when a file is reported under a number that no longer names it.
    /// Calls `ready` for each task whose fd the new instance refuses: it counts as ready.
    ///
    /// The fd that a host watches stays as it is.
    #[cold]
    fn replace_poller(&mut self, mut ready: impl FnMut(TaskId, &WaitFd) -> bool) -> io::Result<()> {
        self.poller.replace()?;
        self.poller.add(self.notifier, NOTIFIER, true, false)?;
        for (place, state) in &mut self.fds {
            let (watch, token) = (state.watched, token(place, state.generation));
            if watch == Watch::NOTHING {
                continue;
            }
            if self
                .poller
                .add(state.number, token, watch.readable, watch.writable)
                .is_err()
            {
                state.watched = Watch::NOTHING;
                for task in state.waiting.iter() {
                    ready(task.id, &task.fd);
                }
            }
        }
        Ok(())
    }
}

/// The fd that an event is about. `None`: the event is about a file that the number of its registration no longer
/// names.
fn state_of(fds: &Slab<FdState>, token: u64) -> Option<&FdState> {
    let (place, generation) = (token as u32 as usize, (token >> 32) as u32);
    fds.get(place).filter(|state| state.generation == generation)
}

/// The tasks that wait for one fd, in the order in which they came.
#[derive(Debug, Default)]
struct WaitingTasks {
    /// By serial. A task that leaves is marked at first, so that the others need not move. When more than half of them
    /// are marked, these are removed.
    tasks: Vec<WaitingTask>,
    /// How many tasks are not marked, and how many of them have which interest.
    count: usize,
    readers: usize,
    writers: usize,
}

/// A task with an entry for the fd.
#[derive(Debug)]
struct WaitingTask {
    serial: u64,
    id: TaskId,
    fd: WaitFd,
    is_gone: bool,
}

impl WaitingTasks {
    fn add(&mut self, task: WaitingTask) {
        self.count += 1;
        self.readers += usize::from(task.fd.interest.is_readable());
        self.writers += usize::from(task.fd.interest.is_writable());
        self.tasks.push(task);
    }

    fn remove(&mut self, serial: u64) {
        let Ok(at) = self.tasks.binary_search_by_key(&serial, |task| task.serial) else {
            return;
        };
        let task = &mut self.tasks[at];
        task.is_gone = true;
        self.count -= 1;
        self.readers -= usize::from(task.fd.interest.is_readable());
        self.writers -= usize::from(task.fd.interest.is_writable());
        if self.count < self.tasks.len() / 2 {
            self.tasks.retain(|task| !task.is_gone);
            self.tasks.shrink_to(2 * self.count);
        }
    }

    fn iter(&self) -> impl Iterator<Item = &WaitingTask> {
        self.tasks.iter().filter(|task| !task.is_gone)
    }

    /// The interests of all of them.
    fn interests(&self) -> Watch {
        Watch {
            readable: self.readers != 0,
            writable: self.writers != 0,
        }
    }

    /// Whether some task took the event.
    fn deliver(&self, event: Readiness, ready: &mut impl FnMut(TaskId, &WaitFd) -> bool) -> bool {
        let concerned =
            |interest: Interest| event.readable && interest.is_readable() || event.writable && interest.is_writable();
        let mut taken = false;
        for task in self.iter().filter(|task| concerned(task.fd.interest)) {
            taken |= ready(task.id, &task.fd);
        }
        taken
    }
}

/// Hashes the number of an fd. The kernel gives out the lowest free number, so one multiplication spreads them.
#[derive(Debug, Default)]
struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_i32(i32::from(byte));
        }
    }

    fn write_i32(&mut self, number: i32) {
        self.0 = (self.0 ^ u64::from(number as u32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
