//! Inside a job: sockets that pause instead of blocking.
//!
//! ```text
//!   read, write, accept, connect, perform
//!        |
//!        +-> try it  ---- it worked, or failed for another reason ---->  return that
//!        |      | WouldBlock
//!        |      +-- inside a job:  set the wait fd, once; arm it; pause_job()     the thread does other things
//!        |      +-- outside:       poll(2) this one fd                            the thread blocks
//!        |      |
//!        +------+ ready           time over, cancelled  -------------------->  return an error
//! ```
//!
//! Code that was written for blocking sockets runs unchanged over a [`Pausing`] one: a TLS library, an HTTP parser,
//! `std::io::copy`. The same code works outside a job, and where a job may not pause, by blocking.
//!
//! The wait fd is an [on-call](crate::WaitFd::on_call) entry of the job's wait ctx. It stays there from the first wait
//! until the socket is dropped, or used in a job with another ctx, so that the many waits of a connection change nothing
//! in the driver's poll set. It is gone from the ctx before the fd is closed.

use std::cell::Cell;
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::{self as unix, UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::Cancelled;
use crate::job::with_current_ctx;
use crate::sys;
use crate::wait_ctx::{Interest, Status, WaitCtx, WaitFd, WaitKey, WeakWaitCtx};
use crate::waiting::{Interrupted, WaitSpec, current_deadline, earlier, pause_until};

/// A non-blocking value of std (or any with an fd) that pauses the job instead of failing with `WouldBlock`.
///
/// Outside a job, and where the job may not pause, it blocks the thread. It reads and writes if `S` does, and so does
/// `&Pausing<S>` if `&S` does: several jobs may share one, in an `Rc`.
///
/// # Errors
///
/// Those of `S`, and from every operation that has to wait:
/// * [`io::ErrorKind::TimedOut`]: a timeout set here, or a deadline around the call ([`time::with_deadline`]), passed;
/// * an error that holds [`Cancelled`]: the job is to end;
/// * outside a job, what `poll(2)` says.
///
/// [`time::with_deadline`]: crate::time::with_deadline
///
/// ```
/// use asyncjob::io::Pausing;
/// use asyncjob::{Step, WaitCtx, start_job};
/// use std::io::{Read, Write};
/// use std::os::unix::net::UnixStream;
///
/// let (ours, mut theirs) = UnixStream::pair()?;
/// let mut ours = Pausing::new(ours)?;
/// let ctx = WaitCtx::new();
/// let step = start_job(&ctx, move || {
///     let mut greeting = [0; 5];
///     ours.read_exact(&mut greeting).map(|()| greeting)
/// });
/// let Ok(Step::Paused(job)) = step else { panic!("there is nothing to read yet") };
/// assert_eq!(ctx.fds().len(), 1); // what the driver polls
///
/// theirs.write_all(b"hello")?;
/// let Step::Finished(greeting) = job.resume() else { panic!("now there is") };
/// assert_eq!(&greeting?, b"hello");
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Pausing<S> {
    waiter: Waiter, // before `inner`: its key leaves the ctx while the fd is open
    inner: S,
}

impl<S: AsFd> Pausing<S> {
    /// Makes `inner` non-blocking and wraps it.
    ///
    /// Non-blocking is a property of what the fd refers to, not of its number: duplicates (`try_clone`), and the other
    /// processes that share a terminal, become non-blocking too.
    ///
    /// # Errors
    ///
    /// What `ioctl(FIONBIO)` says: the fd is not one that can be made non-blocking.
    pub fn new(inner: S) -> io::Result<Self> {
        sys::set_nonblocking(inner.as_fd())?;
        Ok(Pausing {
            waiter: Waiter::default(),
            inner,
        })
    }

    /// Does `operation`, and again each time that the value is ready, until it gives something other than `WouldBlock`.
    ///
    /// For what [`Read`] and [`Write`] do not cover: datagrams, `peek`, `sendmsg` of another crate. `interest` says what
    /// to wait for in between, and which timeout applies; with [`Interest::Both`] the shorter one.
    ///
    /// # Errors
    ///
    /// Those of `operation` and those of every wait: see [`Pausing`].
    ///
    /// ```
    /// use asyncjob::{Interest, io::Pausing};
    /// use std::net::UdpSocket;
    ///
    /// let here = Pausing::new(UdpSocket::bind("127.0.0.1:0")?)?;
    /// UdpSocket::bind("127.0.0.1:0")?.send_to(b"ping", here.get_ref().local_addr()?)?;
    ///
    /// let mut buffer = [0; 16];
    /// let (length, _from) = here.perform(Interest::Readable, |socket| socket.recv_from(&mut buffer))?;
    /// assert_eq!(&buffer[..length], b"ping");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn perform<T>(&self, interest: Interest, mut operation: impl FnMut(&S) -> io::Result<T>) -> io::Result<T> {
        let mut deadline = OpDeadline::new(&self.waiter, interest);
        loop {
            match operation(&self.inner) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => deadline.wait(&self.waiter, self.inner.as_fd())?,
                other => return other,
            }
        }
    }

    /// As [`perform`](Self::perform), for operations that need `&mut`.
    fn perform_mut<T>(
        &mut self,
        interest: Interest,
        mut operation: impl FnMut(&mut S) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut deadline = OpDeadline::new(&self.waiter, interest);
        loop {
            match operation(&mut self.inner) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => deadline.wait(&self.waiter, self.inner.as_fd())?,
                other => return other,
            }
        }
    }
}

impl<S> Pausing<S> {
    /// How long one read, or one `accept`, may wait. `None`, as at first: for ever.
    ///
    /// Unlike std's, a timeout of zero is allowed: what is not there now has timed out.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) {
        self.waiter.read_timeout.set(timeout);
    }

    /// How long one write may wait. `None`, as at first: for ever.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) {
        self.waiter.write_timeout.set(timeout);
    }

    /// As set.
    pub fn read_timeout(&self) -> Option<Duration> {
        self.waiter.read_timeout.get()
    }

    /// As set.
    pub fn write_timeout(&self) -> Option<Duration> {
        self.waiter.write_timeout.get()
    }

    /// The value itself: `local_addr`, `set_nodelay`. Its own reads and writes do not wait.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The value itself, which may be replaced: the wait fd is forgotten, and set again by the next wait.
    pub fn get_mut(&mut self) -> &mut S {
        self.waiter.entry.set(None);
        &mut self.inner
    }

    /// The value itself, still non-blocking.
    pub fn into_inner(self) -> S {
        drop(self.waiter);
        self.inner
    }
}

impl Pausing<TcpListener> {
    /// Listens at `address`.
    ///
    /// # Errors
    ///
    /// As [`TcpListener::bind`].
    pub fn bind<A: ToSocketAddrs>(address: A) -> io::Result<Self> {
        Pausing::new(TcpListener::bind(address)?)
    }

    /// Waits for a connection, up to the read timeout.
    ///
    /// # Errors
    ///
    /// Those of `accept(2)` and those of every wait. When the process is out of fds it is the number `EMFILE` or
    /// `ENFILE`; the connection stays queued, so accept again when an fd has become free.
    pub fn accept(&self) -> io::Result<(Pausing<TcpStream>, SocketAddr)> {
        let (stream, from) = self.perform(Interest::Readable, TcpListener::accept)?;
        Ok((Pausing::new(stream)?, from))
    }
}

impl Pausing<TcpStream> {
    /// Connects to the first of the addresses that takes the connection, each up to the write timeout.
    ///
    /// A host name is looked up as [`ToSocketAddrs`] does, which blocks the thread: inside a job give an address, or look
    /// it up through [`offload`](crate::offload).
    ///
    /// # Errors
    ///
    /// What `connect(2)` said of the last address, and those of every wait.
    pub fn connect<A: ToSocketAddrs>(address: A) -> io::Result<Self> {
        let mut last = io::Error::new(
            io::ErrorKind::InvalidInput,
            "the name stands for no address to connect to",
        );
        for address in address.to_socket_addrs()? {
            match Self::connect_one(&address) {
                Ok(stream) => return Ok(stream),
                Err(e) if is_cancelled(&e) => return Err(e),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    fn connect_one(address: &SocketAddr) -> io::Result<Self> {
        let stream = Pausing {
            waiter: Waiter::default(),
            inner: sys::start_connect(address)?,
        };
        stream.perform(Interest::Writable, connected)?;
        Ok(stream)
    }
}

impl Pausing<UnixListener> {
    /// Listens at `path`.
    ///
    /// # Errors
    ///
    /// As [`UnixListener::bind`].
    pub fn bind<P: AsRef<Path>>(path: P) -> io::Result<Self> {
        Pausing::new(UnixListener::bind(path)?)
    }

    /// Waits for a connection, up to the read timeout.
    ///
    /// # Errors
    ///
    /// As for a [`TcpListener`].
    pub fn accept(&self) -> io::Result<(Pausing<UnixStream>, unix::SocketAddr)> {
        let (stream, from) = self.perform(Interest::Readable, UnixListener::accept)?;
        Ok((Pausing::new(stream)?, from))
    }
}

impl<S: Read + AsFd> Read for Pausing<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.perform_mut(Interest::Readable, |inner| inner.read(buffer))
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.perform_mut(Interest::Readable, |inner| inner.read_vectored(buffers))
    }
}

impl<S: Write + AsFd> Write for Pausing<S> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.perform_mut(Interest::Writable, |inner| inner.write(buffer))
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        self.perform_mut(Interest::Writable, |inner| inner.write_vectored(buffers))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.perform_mut(Interest::Writable, S::flush)
    }
}

impl<S: AsFd> Read for &Pausing<S>
where
    for<'a> &'a S: Read,
{
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.perform(Interest::Readable, |mut inner| inner.read(buffer))
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.perform(Interest::Readable, |mut inner| inner.read_vectored(buffers))
    }
}

impl<S: AsFd> Write for &Pausing<S>
where
    for<'a> &'a S: Write,
{
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.perform(Interest::Writable, |mut inner| inner.write(buffer))
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        self.perform(Interest::Writable, |mut inner| inner.write_vectored(buffers))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.perform(Interest::Writable, |mut inner| inner.flush())
    }
}

impl<S: AsFd> AsFd for Pausing<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl<S: fmt::Debug> fmt::Debug for Pausing<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pausing").field(&self.inner).finish()
    }
}

/// Waits for one fd.
#[derive(Default)]
struct Waiter {
    /// Out of the cell while somebody waits with it: a second job that waits meanwhile makes one of its own.
    entry: Cell<Option<Entry>>,
    read_timeout: Cell<Option<Duration>>,
    write_timeout: Cell<Option<Duration>>,
}

impl Waiter {
    fn timeout(&self, interest: Interest) -> Option<Duration> {
        match interest {
            Interest::Readable => self.read_timeout.get(),
            Interest::Writable => self.write_timeout.get(),
            Interest::Both => match (self.read_timeout.get(), self.write_timeout.get()) {
                (Some(read), Some(write)) => Some(read.min(write)),
                (read, write) => read.or(write),
            },
        }
    }

    /// Pauses the current job until it is resumed; `None` if there is no job that could pause.
    fn pause(&self, fd: RawFd, interest: Interest, deadline: Option<Instant>) -> Option<io::Result<()>> {
        with_current_ctx(|ctx| {
            let entry = self.entry_in(ctx, fd, interest);
            let outcome = entry.pause(ctx, deadline);
            self.entry.set(Some(entry));
            match outcome {
                Ok(()) => Some(Ok(())),
                Err(Interrupted::MustBlock) => None,
                Err(Interrupted::Cancelled) => Some(Err(Cancelled.into())),
                Err(Interrupted::TimedOut) => Some(Err(timed_out())),
            }
        })?
    }

    /// The entry that is set already, if it is this ctx's; else a new one.
    fn entry_in(&self, ctx: &WaitCtx, fd: RawFd, interest: Interest) -> Entry {
        let here = self.entry.take().filter(|entry| entry.ctx.is(ctx));
        let mut entry = here.unwrap_or_else(|| Entry::new(ctx, fd, interest));
        entry.want(ctx, interest);
        entry
    }
}

/// An fd's entry in a wait ctx, for as long as this value lives.
struct Entry {
    /// Weak: a socket does not keep the ctx, and with it the fds of engines, from being cleaned up.
    ctx: WeakWaitCtx,
    key: WaitKey,
    interest: Interest,
}

impl Entry {
    fn new(ctx: &WaitCtx, fd: RawFd, interest: Interest) -> Self {
        let key = WaitKey::unique();
        let on_call = WaitFd {
            interest,
            on_call: true,
            ..WaitFd::new(key, fd)
        };
        ctx.set_wait_fd_with(on_call, Box::new(()));
        Entry {
            ctx: ctx.downgrade(),
            key,
            interest,
        }
    }

    fn want(&mut self, ctx: &WaitCtx, interest: Interest) {
        if self.interest != interest {
            ctx.set_interest(self.key, interest);
            self.interest = interest;
        }
    }

    /// Returns at the first resume, whatever its reason: the caller finds out by trying again.
    fn pause(&self, ctx: &WaitCtx, deadline: Option<Instant>) -> Result<(), Interrupted> {
        let spec = WaitSpec {
            status: Status::Unsupported,
            armed: Some(self.key),
            deadline,
        };
        let mut resumed = false;
        pause_until(ctx, spec, || std::mem::replace(&mut resumed, true).then_some(()))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(ctx) = self.ctx.upgrade() {
            ctx.clear_fd(self.key);
        }
    }
}

/// How long one operation goes on waiting. The clock is read at its first wait, so that one which need not wait costs
/// nothing.
struct OpDeadline {
    interest: Interest,
    timeout: Option<Duration>,
    deadline: Option<Instant>,
}

impl OpDeadline {
    fn new(waiter: &Waiter, interest: Interest) -> Self {
        OpDeadline {
            interest,
            timeout: waiter.timeout(interest),
            deadline: None,
        }
    }

    fn wait(&mut self, waiter: &Waiter, fd: BorrowedFd<'_>) -> io::Result<()> {
        if let Some(timeout) = self.timeout.take() {
            self.deadline = Instant::now().checked_add(timeout);
        }
        match waiter.pause(fd.as_raw_fd(), self.interest, self.deadline) {
            Some(outcome) => outcome,
            None => block(fd, self.interest, earlier(self.deadline, current_deadline())),
        }
    }
}

/// Blocks the thread until `fd` is ready.
fn block(fd: BorrowedFd<'_>, interest: Interest, deadline: Option<Instant>) -> io::Result<()> {
    loop {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        if sys::poll_one(fd, interest.is_readable(), interest.is_writable(), left)? {
            return Ok(());
        }
        if left == Some(Duration::ZERO) {
            return Err(timed_out());
        }
    }
}

fn timed_out() -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        "the peer was not ready before the timeout or deadline of this operation",
    )
}

fn is_cancelled(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Cancelled>())
}

/// Whether a connection that was started stands. It may be asked too early, as any resume may come without a reason.
fn connected(stream: &TcpStream) -> io::Result<()> {
    if let Some(refused) = stream.take_error()? {
        return Err(refused);
    }
    match stream.peer_addr() {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotConnected => Err(io::ErrorKind::WouldBlock.into()),
        Err(e) => Err(e),
    }
}
