//! Wakes through the kernel without any job: the floor of a wake by fd.
//!
//! ```text
//!   write(fd) x n  -->  epoll_wait, once  -->  read(fd) x n
//! ```

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::measure::Candidate;

/// A kind of fd that one side writes to and the other side waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Eventfd,
    Pipe,
}

/// Both ends of such an fd.
pub(crate) struct Pair {
    write: File,
    read: File,
}

impl Pair {
    pub(crate) fn new(kind: Kind) -> Self {
        let pair = match kind {
            Kind::Eventfd => eventfd().and_then(|fd| Ok((fd.try_clone()?, fd))),
            Kind::Pipe => io::pipe().map(|(read, write)| (OwnedFd::from(write), OwnedFd::from(read))),
        };
        let (write, read) = pair.expect("a few fds are left");
        Pair {
            write: write.into(),
            read: read.into(),
        }
    }

    pub(crate) fn split(self) -> (File, File) {
        (self.write, self.read)
    }
}

/// The end that reads.
impl AsFd for Pair {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}

/// Makes the other end readable, with eight bytes, as an eventfd demands.
#[inline(always)]
pub(crate) fn notify(mut write: &File) {
    write.write_all(&1u64.to_ne_bytes()).expect("the fd is not full");
}

/// Reads what `notify` wrote.
#[inline(always)]
pub(crate) fn drain(mut read: &File) {
    read.read_exact(&mut [0; 8]).expect("the fd is readable");
}

fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: takes two numbers, gives a new fd or -1.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the fd is new and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Level-triggered epoll over a few fds for reading.
pub(crate) struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    pub(crate) fn new(capacity: usize) -> Self {
        // SAFETY: takes a number, gives a new fd or -1.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        assert_ne!(fd, -1, "no epoll fd: {}", io::Error::last_os_error());
        Epoll {
            // SAFETY: the fd is new and has no other owner.
            fd: unsafe { OwnedFd::from_raw_fd(fd) },
            events: vec![libc::epoll_event { events: 0, u64: 0 }; capacity],
        }
    }

    pub(crate) fn add(&self, fd: &impl AsFd, name: u64) {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: name,
        };
        let (epoll, fd) = (self.fd.as_raw_fd(), fd.as_fd().as_raw_fd());
        // SAFETY: both fds are open, the event is read during the call only.
        let failed = unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &mut event) };
        assert_eq!(failed, 0, "epoll_ctl: {}", io::Error::last_os_error());
    }

    /// Waits until an fd is ready, and gives the names of those that are.
    #[inline(always)]
    pub(crate) fn wait(&mut self) -> impl Iterator<Item = u64> {
        let capacity = self.events.len() as i32;
        // SAFETY: the pointer is to `capacity` events.
        let got = unsafe { libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), capacity, -1) };
        self.events[..got.max(0) as usize].iter().map(|event| event.u64)
    }
}

/// A batch of writes, one `epoll_wait`, and as many reads. Measures the share of one wake.
pub(crate) fn wake(name: &str, kind: Kind, batch: usize) -> Candidate {
    let mut epoll = Epoll::new(batch);
    let pairs: Vec<Pair> = (0..batch).map(|_| Pair::new(kind)).collect();
    pairs
        .iter()
        .enumerate()
        .for_each(|(at, pair)| epoll.add(pair, at as u64));
    Candidate::new(name, move |n| {
        let clock = Instant::now();
        for _ in 0..rounds(n, batch) {
            pairs.iter().for_each(|pair| notify(&pair.write));
            for at in epoll.wait() {
                drain(&pairs[at as usize].read);
            }
        }
        per_wake(clock.elapsed(), n, batch)
    })
}

/// The number of rounds of a batch that make at least `n` wakes.
pub(crate) fn rounds(n: u64, batch: usize) -> u64 {
    n.div_ceil(batch as u64)
}

/// The time for `n` wakes, from the time for whole rounds.
pub(crate) fn per_wake(took: Duration, n: u64, batch: usize) -> Duration {
    took.mul_f64(n as f64 / (rounds(n, batch) * batch as u64) as f64)
}
