//! The system calls of Linux: epoll, eventfd, timerfd.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering, fence};
use std::time::Duration;

use super::{Process, Readiness, check, milliseconds, read_clock};

/// An eventfd: readable after [`notify`](Self::notify) until [`drain`](Self::drain). In a child of the process that
/// made it both do nothing, because the file is the parent's.
#[derive(Debug)]
pub(crate) struct Notifier {
    file: File,
    process: Process,
}

impl Notifier {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointers.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the fd is new, so nothing else owns it.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(Notifier {
            file,
            process: Process::current()?,
        })
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// The process that made it.
    pub(crate) fn process(&self) -> Process {
        self.process
    }

    /// Makes the fd readable. The one possible failure does not matter: a full counter is readable already.
    pub(crate) fn notify(&self) {
        if !self.process.is_inherited() {
            let _ = (&self.file).write_all(&1u64.to_ne_bytes()); // tries again after a signal
        }
    }

    /// Makes the fd unreadable, and returns whether it was readable.
    pub(crate) fn drain(&self) -> bool {
        !self.process.is_inherited() && (&self.file).read_exact(&mut [0; 8]).is_ok()
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// What owns the fd of a [`Poller`].
pub(crate) type PollerFd = OwnedFd;

/// A level-triggered epoll instance. An event carries the token that its fd was registered with last.
///
/// In a child of the process that made it every call fails: the instance is the parent's, which would lose its
/// registrations and its events.
#[derive(Debug)]
pub(crate) struct Poller {
    process: Process,
    fd: Rc<PollerFd>,
    /// Another instance, which watches this one for a host. It stays when this one is replaced.
    for_host: Option<Rc<PollerFd>>,
    /// A timer that ends a wait. It is made when it is needed first.
    alarm: Option<File>,
    /// The time that the alarm is set to, if it has not come.
    alarm_at: Option<u64>,
    buffer: Vec<libc::epoll_event>,
}

/// The token of the alarm.
const ALARM: u64 = u64::MAX - 1;

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointers.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        Ok(Poller {
            process: Process::current()?,
            // SAFETY: the fd is new, so nothing else owns it.
            fd: Rc::new(unsafe { OwnedFd::from_raw_fd(fd) }),
            for_host: None,
            alarm: None,
            alarm_at: None,
            buffer: vec![libc::epoll_event { events: 0, u64: 0 }; 256],
        })
    }

    /// The fd of the instance, which is readable when an fd of the instance is ready. It never changes.
    pub(crate) fn fd(&self) -> Rc<PollerFd> {
        Rc::clone(&self.fd)
    }

    /// An fd for a host to watch in an epoll instance of its own, which is readable when an fd of this instance is
    /// ready.
    ///
    /// The host's registration names a file, and a file that is replaced takes it along. So the fd is that of another
    /// instance, whose only registration is this one. It is made at the first call.
    pub(crate) fn for_host(&mut self) -> io::Result<Rc<PollerFd>> {
        if let Some(fd) = &self.for_host {
            return Ok(Rc::clone(fd));
        }
        self.process.check()?;
        let outer = Poller::new()?;
        outer.add(self.fd.as_raw_fd(), 0, true, false)?;
        Ok(Rc::clone(self.for_host.insert(outer.fd)))
    }

    /// Drops every registration. A new epoll instance takes the fd number of the old one. What watches the old one does
    /// not watch the new one, but for a [host](Self::for_host).
    pub(crate) fn replace(&mut self) -> io::Result<()> {
        self.process.check()?;
        let new = Poller::new()?;
        // SAFETY: this value owns both fds. The call closes the old instance, which has no other fd.
        check(unsafe { libc::dup3(new.fd.as_raw_fd(), self.fd.as_raw_fd(), libc::O_CLOEXEC) })?;
        if let Some(outer) = &self.for_host {
            // The close has removed the old one.
            control(outer, libc::EPOLL_CTL_ADD, self.fd.as_raw_fd(), 0, libc::EPOLLIN)?;
        }
        (self.alarm, self.alarm_at) = (None, None);
        Ok(())
    }

    /// Lets a wait end at this time of [`clock_tick`], or before, whatever its time-out is. Returns whether it will.
    ///
    /// A time-out costs 80 ns in each wait, because the kernel reads the clock. The alarm costs a few system calls
    /// until its time comes, however many waits there are. It may be up to 10 ms late, because the tick may be behind.
    #[inline]
    pub(crate) fn set_alarm(&mut self, at: u64) -> bool {
        self.alarm_at.is_some_and(|alarm| alarm <= at) || self.move_alarm(at).is_ok()
    }

    #[cold]
    fn move_alarm(&mut self, at: u64) -> io::Result<()> {
        self.process.check()?;
        let alarm = match &self.alarm {
            Some(alarm) => alarm,
            None => {
                let alarm = timer()?;
                self.add(alarm.as_raw_fd(), ALARM, true, false)?;
                self.alarm.insert(alarm)
            }
        };
        set_timer(alarm, at.saturating_add(LONGEST_TICK))?;
        self.alarm_at = Some(at);
        Ok(())
    }

    pub(crate) fn add(&self, fd: RawFd, token: u64, readable: bool, writable: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, readable, writable)
    }

    pub(crate) fn modify(&self, fd: RawFd, token: u64, readable: bool, writable: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, readable, writable)
    }

    pub(crate) fn delete(&self, fd: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, false, false)
    }

    fn control(&self, op: i32, fd: RawFd, token: u64, readable: bool, writable: bool) -> io::Result<()> {
        self.process.check()?;
        let mut events = 0;
        if readable {
            events |= libc::EPOLLIN | libc::EPOLLRDHUP;
        }
        if writable {
            events |= libc::EPOLLOUT;
        }
        control(&self.fd, op, fd, token, events)
    }

    /// Waits until an fd is ready or `timeout` (`None`: no limit) has passed, and calls `each` with every ready fd.
    /// A signal ends the wait without a ready fd, and so does the alarm.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>, mut each: impl FnMut(Readiness)) -> io::Result<()> {
        self.process.check()?;
        let count = match epoll_wait(self.fd.as_raw_fd(), &mut self.buffer, timeout) {
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
            Err(e) => return Err(e),
        };
        for event in &self.buffer[..count] {
            if event.u64 == ALARM {
                self.alarm_at = None;
                if let Some(mut alarm) = self.alarm.as_ref() {
                    let _ = alarm.read_exact(&mut [0; 8]); // makes it unreadable
                }
                continue;
            }
            let events = event.events as i32;
            // After an error or a hang-up every operation returns at once, so the fd is ready for all of them.
            let ended = events & (libc::EPOLLERR | libc::EPOLLHUP) != 0;
            each(Readiness {
                token: event.u64,
                readable: ended || events & (libc::EPOLLIN | libc::EPOLLRDHUP) != 0,
                writable: ended || events & libc::EPOLLOUT != 0,
            });
        }
        Ok(())
    }
}

/// `epoll_wait(2)` with an exact time-out, where the kernel has one (since 5.11) and no sandbox refuses it. Otherwise
/// the time-out is rounded up to whole milliseconds.
fn epoll_wait(epoll: RawFd, buffer: &mut [libc::epoll_event], timeout: Option<Duration>) -> io::Result<usize> {
    static IS_REFUSED: AtomicBool = AtomicBool::new(false);
    let (events, length) = (buffer.as_mut_ptr(), buffer.len() as i32);
    let exact = timeout.filter(|timeout| !timeout.is_zero() && !IS_REFUSED.load(Ordering::Relaxed));
    // One of more than 2^63 seconds is none, as one of more than 24 days is below.
    if let Some((timeout, seconds)) = exact.and_then(|timeout| Some((timeout, timeout.as_secs().try_into().ok()?))) {
        let timeout = libc::timespec {
            tv_sec: seconds,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let mask = ptr::null::<libc::sigset_t>(); // stays as it is
        // SAFETY: the buffer may be written to, and the length is that of the buffer. The time is read during the call.
        let waited = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                epoll,
                events,
                length,
                &raw const timeout,
                mask,
                0_usize,
            )
        };
        match check(waited as i32) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                IS_REFUSED.store(true, Ordering::Relaxed); // an fd that is no epoll instance is EINVAL
            }
            result => return result.map(|count| count as usize),
        }
    }
    // SAFETY: the buffer may be written to, and the length is that of the buffer.
    let waited = unsafe { libc::epoll_wait(epoll, events, length, timeout.map_or(-1, milliseconds)) };
    check(waited).map(|count| count as usize)
}

/// A timer that goes by the clock of [`clock_tick`].
fn timer() -> io::Result<File> {
    let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
    // SAFETY: the call takes no pointers.
    let fd = check(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) })?;
    // SAFETY: the fd is new, so nothing else owns it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Makes the timer readable at this time, in nanoseconds, and unreadable until then.
fn set_timer(timer: &File, at: u64) -> io::Result<()> {
    let once = libc::itimerspec {
        it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: libc::timespec {
            tv_sec: (at / 1_000_000_000) as i64, // `libc::time_t` on each target; for musl the name is deprecated
            tv_nsec: (at % 1_000_000_000) as libc::c_long,
        },
    };
    // SAFETY: the time is valid during the call, which writes no old time.
    check(unsafe { libc::timerfd_settime(timer.as_raw_fd(), libc::TFD_TIMER_ABSTIME, &once, ptr::null_mut()) })?;
    Ok(())
}

fn control(epoll: &OwnedFd, op: i32, fd: RawFd, token: u64, events: i32) -> io::Result<()> {
    let mut event = libc::epoll_event {
        events: events as u32,
        u64: token,
    };
    // SAFETY: the event is valid during the call.
    check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), op, fd, &mut event) })?;
    Ok(())
}

/// A non-blocking socket that connects to `address`. The socket is writable when it is connected or has failed.
pub(crate) fn start_connect(address: &SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the call takes no pointers.
    let fd = check(unsafe { libc::socket(family, kind, 0) })?;
    // SAFETY: the fd is new, so nothing else owns it.
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
            // SAFETY: the name is valid during the call, and the length is that of the name.
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
/// [`io::ErrorKind::WouldBlock`] while the queue of the listener is full, and every other error of `connect(2)`.
pub(crate) fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let bytes = path.as_os_str().as_bytes();
    let mut name = libc::sockaddr_un {
        sun_family: libc::AF_UNIX as libc::sa_family_t,
        sun_path: [0; 108],
    };
    if bytes.len() >= name.sun_path.len() || bytes.contains(&0) {
        let what = "the path of a socket has at most 107 bytes, and no zero byte";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    for (to, from) in name.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the call takes no pointers.
    let fd = check(unsafe { libc::socket(libc::AF_UNIX, kind, 0) })?;
    // SAFETY: the fd is new, so nothing else owns it.
    let stream = UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let length = size_of_val(&name) as libc::socklen_t;
    // SAFETY: the name is valid during the call, and the length is that of the name.
    check(unsafe { libc::connect(fd, (&raw const name).cast(), length) })?;
    Ok(stream)
}

/// How far [`clock_tick`] may be behind, in nanoseconds.
const LONGEST_TICK: u64 = 10_000_000;

/// The monotonic clock of the kernel's timer tick, in nanoseconds. It moves every few milliseconds, and to read it
/// costs much less than `Instant::now`.
pub(crate) fn clock_tick() -> u64 {
    read_clock(libc::CLOCK_MONOTONIC_COARSE)
}

/// The commands of `membarrier(2)`, which libc does not name.
mod membarrier {
    pub(super) const QUERY: i32 = 0;
    pub(super) const PRIVATE_EXPEDITED: i32 = 1 << 3;
    pub(super) const REGISTER_PRIVATE_EXPEDITED: i32 = 1 << 4;

    pub(super) fn call(command: i32) -> i64 {
        // SAFETY: the call takes no pointers, and has no effect on memory but its order.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }
    }
}

/// Whether [`order_all_threads`] works here. Some sandboxes do not let `membarrier(2)` through.
pub(crate) fn can_order_all_threads() -> bool {
    const UNKNOWN: u8 = 0;
    const NO: u8 = 1;
    const YES: u8 = 2;
    static ANSWER: AtomicU8 = AtomicU8::new(UNKNOWN);
    if cfg!(miri) {
        return true;
    }
    let mut answer = ANSWER.load(Ordering::Relaxed); // each thread that asks gets the same answer
    if answer == UNKNOWN {
        let commands = membarrier::call(membarrier::QUERY);
        let has_it = commands > 0 && commands & i64::from(membarrier::PRIVATE_EXPEDITED) != 0;
        answer = if has_it { YES } else { NO };
        ANSWER.store(answer, Ordering::Relaxed);
    }
    answer == YES
}

/// Runs a fence on every thread of this process: the stores before it and the loads after it, in the program of each,
/// stay in that order. What this thread stored before, the loads after that see. The call takes some microseconds.
///
/// Call it only where [`can_order_all_threads`] says so. If the kernel refuses it nevertheless, and again, the process
/// ends: a sandbox was entered since then.
#[cold]
pub(crate) fn order_all_threads() {
    if cfg!(miri) {
        return fence(Ordering::SeqCst);
    }
    // A process registers once. A registration is waited for up to some ten milliseconds, so it is made when it is
    // first needed.
    for _ in 0..3 {
        if membarrier::call(membarrier::PRIVATE_EXPEDITED) == 0 {
            return;
        }
        membarrier::call(membarrier::REGISTER_PRIVATE_EXPEDITED); // the next turn tells whether this has worked
    }
    eprintln!(
        "asyncjob: the kernel refuses membarrier(2), which it offered before: allow it in the sandbox that the process \
         has entered, or enter the sandbox before the first job"
    );
    std::process::abort();
}

/// Copies memory of this process, which another thread may change or unmap meanwhile: the kernel reads it, so that a
/// page that is gone is an error and not a fault.
///
/// # Errors
///
/// When the memory is not readable as a whole, and when the system refuses to read (a seccomp filter, and no `/proc`).
#[cfg(feature = "insight")]
pub(crate) fn read_memory(at: usize, bytes: &mut [u8]) -> io::Result<()> {
    let len = bytes.len();
    let to = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: len,
    };
    let from = libc::iovec {
        iov_base: std::ptr::without_provenance_mut(at),
        iov_len: len,
    };
    // SAFETY: the kernel writes to `bytes` only, which this call borrows. It does not trust the other address.
    let read = unsafe { libc::process_vm_readv(std::process::id().cast_signed(), &to, 1, &from, 1, 0) };
    match usize::try_from(read) {
        Ok(read) if read == len => Ok(()),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(_) if io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT) => {
            Err(io::Error::from_raw_os_error(libc::EFAULT))
        }
        Err(_) => std::os::unix::fs::FileExt::read_exact_at(&File::open("/proc/self/mem")?, bytes, at as u64),
    }
}
