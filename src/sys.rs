//! System calls as safe functions.
//!
//! Each takes and returns std's types, so that nobody above needs `unsafe` or a raw errno.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// An eventfd: readable after [`notify`](Self::notify) until [`drain`](Self::drain).
#[derive(Debug)]
pub(crate) struct EventFd(File);

impl EventFd {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointers.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the fd is new and nobody else's.
        Ok(EventFd(unsafe { OwnedFd::from_raw_fd(fd) }.into()))
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Makes it readable. Cannot fail in a way that matters: a full counter is readable already.
    pub(crate) fn notify(&self) {
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    /// Makes it unreadable, and says whether it was readable.
    pub(crate) fn drain(&self) -> bool {
        (&self.0).read(&mut [0; 8]).is_ok()
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What an fd is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Readiness {
    pub(crate) fd: RawFd,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

/// A level-triggered epoll instance whose events carry the fd's number.
#[derive(Debug)]
pub(crate) struct Epoll {
    fd: Rc<OwnedFd>,
    buffer: Vec<libc::epoll_event>,
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointers.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        Ok(Epoll {
            // SAFETY: the fd is new and nobody else's.
            fd: Rc::new(unsafe { OwnedFd::from_raw_fd(fd) }),
            buffer: vec![libc::epoll_event { events: 0, u64: 0 }; 256],
        })
    }

    /// The fd, readable when an event is there. It stays the same one for the life of the instance.
    pub(crate) fn fd(&self) -> Rc<OwnedFd> {
        Rc::clone(&self.fd)
    }

    /// Forgets every registration: a new instance takes the place, and the fd number, of the old one.
    pub(crate) fn replace(&mut self) -> io::Result<()> {
        let new = Epoll::new()?;
        // SAFETY: both fds are open and ours; the old instance is closed by the call.
        check(unsafe { libc::dup3(new.fd.as_raw_fd(), self.fd.as_raw_fd(), libc::O_CLOEXEC) })?;
        Ok(())
    }

    pub(crate) fn add(&self, fd: RawFd, readable: bool, writable: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, readable, writable)
    }

    pub(crate) fn modify(&self, fd: RawFd, readable: bool, writable: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, readable, writable)
    }

    pub(crate) fn delete(&self, fd: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, false, false)
    }

    fn control(&self, op: i32, fd: RawFd, readable: bool, writable: bool) -> io::Result<()> {
        let mut events = 0;
        if readable {
            events |= libc::EPOLLIN | libc::EPOLLRDHUP;
        }
        if writable {
            events |= libc::EPOLLOUT;
        }
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: fd as u64,
        };
        // SAFETY: the event is a valid value for the length of the call.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), op, fd, &mut event) })?;
        Ok(())
    }

    /// Waits up to `timeout` (`None`: for ever) and calls `each` with every ready fd. A signal counts as no event.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>, mut each: impl FnMut(Readiness)) -> io::Result<usize> {
        // SAFETY: the buffer is valid for writes of the length given.
        let waited = unsafe {
            libc::epoll_wait(
                self.fd.as_raw_fd(),
                self.buffer.as_mut_ptr(),
                self.buffer.len() as i32,
                timeout.map_or(-1, milliseconds),
            )
        };
        let count = match check(waited) {
            Ok(count) => count as usize,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
            Err(e) => return Err(e),
        };
        for event in &self.buffer[..count] {
            let events = event.events as i32;
            // An error or a hang-up makes every operation return, which is what "ready" means.
            let over = events & (libc::EPOLLERR | libc::EPOLLHUP) != 0;
            each(Readiness {
                fd: event.u64 as RawFd,
                readable: over || events & (libc::EPOLLIN | libc::EPOLLRDHUP) != 0,
                writable: over || events & libc::EPOLLOUT != 0,
            });
        }
        Ok(count)
    }
}

/// Blocks the thread until `fd` is ready or `timeout` (`None`: never) is over, and says which.
pub(crate) fn poll_one(
    fd: BorrowedFd<'_>,
    readable: bool,
    writable: bool,
    timeout: Option<Duration>,
) -> io::Result<bool> {
    let mut events = 0;
    if readable {
        events |= libc::POLLIN;
    }
    if writable {
        events |= libc::POLLOUT;
    }
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: one valid pollfd, and a count of one.
    match check(unsafe { libc::poll(&mut poll, 1, timeout.map_or(-1, milliseconds)) }) {
        Ok(ready) => Ok(ready > 0),
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(e) => Err(e),
    }
}

/// Makes what `fd` refers to non-blocking, in one system call where `fcntl` needs two.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut yes: libc::c_int = 1;
    // SAFETY: FIONBIO reads one int.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONBIO, &mut yes) })?;
    Ok(())
}

/// A non-blocking socket on its way to `address`: writable when it is there, or has failed.
pub(crate) fn start_connect(address: &SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the call takes no pointers.
    let fd = check(unsafe { libc::socket(family, kind, 0) })?;
    // SAFETY: the fd is new and nobody else's.
    let stream = TcpStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    match connect(fd, address) {
        Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) || e.kind() == io::ErrorKind::Interrupted => Ok(stream),
        other => other.map(|()| stream),
    }
}

fn connect(fd: RawFd, address: &SocketAddr) -> io::Result<()> {
    let result = match address {
        SocketAddr::V4(v4) => {
            let name = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(v4.ip().octets()),
                },
                sin_zero: [0; 8],
            };
            let length = size_of_val(&name) as libc::socklen_t;
            // SAFETY: a valid name, and its length.
            unsafe { libc::connect(fd, (&raw const name).cast(), length) }
        }
        SocketAddr::V6(v6) => {
            let name = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr {
                    s6_addr: v6.ip().octets(),
                },
                sin6_scope_id: v6.scope_id(),
            };
            let length = size_of_val(&name) as libc::socklen_t;
            // SAFETY: as above.
            unsafe { libc::connect(fd, (&raw const name).cast(), length) }
        }
    };
    check(result).map(drop)
}

/// A non-blocking socket that is connected to `path`.
///
/// # Errors
///
/// [`io::ErrorKind::WouldBlock`] while the listener's queue is full, and what the system says otherwise.
pub(crate) fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let bytes = path.as_os_str().as_bytes();
    let mut name = libc::sockaddr_un {
        sun_family: libc::AF_UNIX as libc::sa_family_t,
        sun_path: [0; 108],
    };
    if bytes.len() >= name.sun_path.len() || bytes.contains(&0) {
        let sentence = "the path of a socket has at most 107 bytes, and no zero byte";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, sentence));
    }
    for (to, from) in name.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the call takes no pointers.
    let fd = check(unsafe { libc::socket(libc::AF_UNIX, kind, 0) })?;
    // SAFETY: the fd is new and nobody else's.
    let stream = UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let length = size_of_val(&name) as libc::socklen_t;
    // SAFETY: a valid name, and its length.
    check(unsafe { libc::connect(fd, (&raw const name).cast(), length) })?;
    Ok(stream)
}

/// The kernel's clock tick: moves every few milliseconds, and reading it is several times cheaper than `Instant::now`.
pub(crate) fn clock_tick() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the timespec is valid for the length of the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Rounded up: to be woken just before a deadline, to find that it is not over, would be a busy loop.
fn milliseconds(timeout: Duration) -> i32 {
    let rounded = timeout.as_nanos().div_ceil(1_000_000);
    i32::try_from(rounded).unwrap_or(i32::MAX)
}

/// The result of a system call that returns -1 and sets `errno` when it fails.
pub(crate) fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
