//! What other Unix systems have instead: kqueue, through the crate `polling`, and pipes.
//!
//! On Linux, which has both, `--cfg asyncjob_portable` chooses this file, so that tests can run it. `polling` uses
//! epoll there.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use polling::{Event, Events, PollMode};
use socket2::{Domain, SockAddr, Socket, Type};

#[cfg(feature = "insight")]
use super::Registers;
use super::{Process, Readiness, check, read_clock, set_nonblocking};

/// A pipe: readable after [`notify`](Self::notify) until [`drain`](Self::drain). In a child of the process that made it
/// both do nothing, because the pipe is the parent's.
#[derive(Debug)]
pub(crate) struct Notifier {
    reader: PipeReader,
    writer: PipeWriter,
    process: Process,
}

impl Notifier {
    pub(crate) fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        set_nonblocking(reader.as_fd())?;
        set_nonblocking(writer.as_fd())?;
        Ok(Notifier {
            reader,
            writer,
            process: Process::current()?,
        })
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.reader.as_raw_fd()
    }

    /// The process that made it.
    pub(crate) fn process(&self) -> Process {
        self.process
    }

    /// Makes the fd readable. The one possible failure does not matter: a full pipe is readable already.
    pub(crate) fn notify(&self) {
        if !self.process.is_inherited() {
            let _ = (&self.writer).write_all(&[0]); // tries again after a signal
        }
    }

    /// Makes the fd unreadable, and returns whether it was readable.
    pub(crate) fn drain(&self) -> bool {
        let mut was_readable = false;
        while !self.process.is_inherited() {
            match (&self.reader).read(&mut [0; 64]) {
                Ok(0) => break,
                Ok(_) => was_readable = true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break, // it is empty
            }
        }
        was_readable
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

/// What owns the fd of a [`Poller`].
pub(crate) type PollerFd = polling::Poller;

/// A level-triggered instance of kqueue. An event carries the token that its fd was registered with last. An fd that is
/// both readable and writable may have an event for each.
///
/// In a child of the process that made it every call fails: the child has no copy of the instance.
#[derive(Debug)]
pub(crate) struct Poller {
    process: Process,
    instance: Rc<PollerFd>,
    /// Another instance, which watches this one for a host. It stays when this one is replaced.
    for_host: Option<Rc<PollerFd>>,
    events: Events,
}

/// How many events one call takes at most.
const EVENTS: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// The longest wait that macOS takes (`itimerfix`): three years. A longer one ends early, as after a signal.
const LONGEST_WAIT: Duration = Duration::from_secs(100_000_000);

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Poller {
            process: Process::current()?,
            instance: Rc::new(PollerFd::new()?),
            for_host: None,
            events: Events::with_capacity(EVENTS),
        })
    }

    /// The fd of the instance, which is readable when an fd of the instance is ready. It stays until the instance is
    /// [replaced](Self::replace).
    pub(crate) fn fd(&self) -> Rc<PollerFd> {
        Rc::clone(&self.instance)
    }

    /// An fd for a host to watch in an instance of its own, which is readable when an fd of this instance is ready.
    ///
    /// It is that of another instance, whose only registration is this one, so that it stays the same when this one is
    /// replaced. It is made at the first call.
    pub(crate) fn for_host(&mut self) -> io::Result<Rc<PollerFd>> {
        if let Some(fd) = &self.for_host {
            return Ok(Rc::clone(fd));
        }
        self.process.check()?;
        let outer = PollerFd::new()?;
        add(&outer, self.instance.as_raw_fd(), event(0, true, false))?;
        Ok(Rc::clone(self.for_host.insert(Rc::new(outer))))
    }

    /// Drops every registration. What watches the instance does not watch the new one, but for a
    /// [host](Self::for_host).
    pub(crate) fn replace(&mut self) -> io::Result<()> {
        self.process.check()?;
        let new = PollerFd::new()?;
        if let Some(outer) = &self.for_host {
            add(outer, new.as_raw_fd(), event(0, true, false))?;
            let _ = outer.delete(&*self.instance);
        }
        self.instance = Rc::new(new);
        Ok(())
    }

    /// Fails with [`io::ErrorKind::AlreadyExists`] for an fd that was added before and not deleted. It may be closed,
    /// and its number may name another file: [`modify`](Self::modify) registers that one.
    pub(crate) fn add(&self, fd: RawFd, token: u64, readable: bool, writable: bool) -> io::Result<()> {
        self.process.check()?;
        // kqueue reports a regular file as readable until its end, and then not at all.
        if is_regular_file(fd)? {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        add(&self.instance, fd, event(token, readable, writable))
    }

    pub(crate) fn modify(&self, fd: RawFd, token: u64, readable: bool, writable: bool) -> io::Result<()> {
        self.process.check()?;
        self.instance
            .modify_with_mode(borrow(fd)?, event(token, readable, writable), PollMode::Level)
    }

    pub(crate) fn delete(&self, fd: RawFd) -> io::Result<()> {
        self.process.check()?;
        self.instance.delete(borrow(fd)?)
    }

    /// Lets a wait end at this time, if the system has a way that is cheaper than a time-out.
    pub(crate) fn set_alarm(&mut self, _at: u64) -> bool {
        false
    }

    /// Waits until an fd is ready or `timeout` (`None`: no limit) has passed, and calls `each` with every event.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>, mut each: impl FnMut(Readiness)) -> io::Result<()> {
        self.process.check()?;
        self.events.clear();
        self.instance
            .wait(&mut self.events, timeout.map(|timeout| timeout.min(LONGEST_WAIT)))?;
        for event in self.events.iter() {
            each(Readiness {
                token: event.key as u64 ^ FLIP,
                readable: event.readable,
                writable: event.writable,
            });
        }
        Ok(())
    }
}

/// `polling` keeps the key of all ones for itself. No token becomes that key by this: the low half of a token is a
/// place in the reactor, and no place is that high.
const FLIP: u64 = 1 << 63;

fn event(token: u64, readable: bool, writable: bool) -> Event {
    Event::new((token ^ FLIP) as usize, readable, writable)
}

fn add(instance: &PollerFd, fd: RawFd, event: Event) -> io::Result<()> {
    borrow(fd)?;
    // SAFETY: the instance only hands the number to the kernel. The contract asks for a file that stays open until it
    // is deleted, because the kernel forgets a closed one; the reactor expects that.
    unsafe { instance.add_with_mode(fd, event, PollMode::Level) }
}

/// The fd as `polling` takes it.
fn borrow<'fd>(fd: RawFd) -> io::Result<BorrowedFd<'fd>> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the number is not -1. It may be that of a closed file: the callers hand it to the kernel, which refuses
    // it then, and nothing else relies on it.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

fn is_regular_file(fd: RawFd) -> io::Result<bool> {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the call writes the struct, which is valid during the call.
    check(unsafe { libc::fstat(fd, status.as_mut_ptr()) })?;
    // SAFETY: the call has succeeded, so it has written the struct.
    let mode = unsafe { status.assume_init() }.st_mode;
    Ok(mode & libc::S_IFMT == libc::S_IFREG)
}

/// A non-blocking socket that connects to `address`. The socket is writable when it is connected or has failed.
pub(crate) fn start_connect(address: &SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(*address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::from(*address)) {
        Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) || e.kind() == io::ErrorKind::Interrupted => {
            Ok(socket.into())
        }
        other => other.map(|()| socket.into()),
    }
}

/// A non-blocking socket that is connected to `path`.
///
/// # Errors
///
/// Every error of `connect(2)`. While the queue of the listener is full, that is [`io::ErrorKind::ConnectionRefused`]
/// on some systems.
pub(crate) fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let address = SockAddr::unix(path).ok();
    let Some(address) = address.filter(|_| !path.as_os_str().as_bytes().contains(&0)) else {
        let what = "the path of a socket has at most 103 bytes, 107 on some systems, and no zero byte";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    };
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&address)?;
    Ok(OwnedFd::from(socket).into())
}

/// Whether [`order_all_threads`] works here. There is no portable way.
pub(crate) fn can_order_all_threads() -> bool {
    false
}

/// Runs a fence on every thread of this process: see [`can_order_all_threads`].
#[cold]
pub(crate) fn order_all_threads() {
    unreachable!("it is called only where it works");
}

/// The monotonic clock, in nanoseconds.
pub(crate) fn clock_tick() -> u64 {
    read_clock(libc::CLOCK_MONOTONIC)
}

/// Copies memory of this process, which another thread may change or unmap meanwhile: the kernel takes it into a pipe,
/// so that a page that is gone is an error and not a fault.
///
/// # Errors
///
/// When the memory is not readable as a whole, and when the system has no pipe.
#[cfg(feature = "insight")]
pub(crate) fn read_memory(at: usize, bytes: &mut [u8]) -> io::Result<()> {
    const AT_ONCE: usize = 512; // of which a pipe has room, however little memory the kernel has for it
    let (mut reader, writer) = io::pipe()?;
    set_nonblocking(writer.as_fd())?;
    let mut done = 0;
    while done < bytes.len() {
        let len = AT_ONCE.min(bytes.len() - done);
        let from = std::ptr::without_provenance(at.wrapping_add(done));
        // SAFETY: the kernel does not trust the address, and writes to no memory.
        let taken = unsafe { libc::write(writer.as_raw_fd(), from, len) };
        let taken = match usize::try_from(taken) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(taken) => taken,
            Err(_) => return Err(io::Error::last_os_error()),
        };
        reader.read_exact(&mut bytes[done..done + taken])?;
        done += taken;
    }
    Ok(())
}

/// A signal that stops a thread: there is none. What a handler finds of the registers differs with each system.
#[cfg(feature = "insight")]
#[derive(Clone, Copy, Debug)]
pub(crate) enum Interrupt {}

#[cfg(feature = "insight")]
impl Interrupt {
    pub(crate) fn stop<R>(self, _: ThreadNumber, _: impl FnOnce(Registers) -> R) -> Option<R> {
        match self {}
    }
}

/// What a thread that stops another one holds. Here none does.
#[cfg(feature = "insight")]
pub(crate) struct Looking;

#[cfg(feature = "insight")]
pub(crate) fn looking() -> Looking {
    Looking
}

/// Which thread to stop.
#[cfg(feature = "insight")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadNumber;

#[cfg(feature = "insight")]
impl ThreadNumber {
    pub(crate) fn current() -> Self {
        ThreadNumber
    }
}
