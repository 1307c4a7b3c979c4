//! Inside a job: sockets that pause the job instead of blocking the thread.
//!
//! ```text
//!   read, write, accept, connect, perform
//!        |
//!        +-> try it ------- success, or another error ------------>  return that
//!        |     | WouldBlock
//!        |     +-- in a job that can pause: add the wait fd, once; arm its key; pause  (the thread does other things)
//!        |     +-- elsewhere:               poll(2) this fd                            (the thread blocks)
//!        |     |
//!        +-----+ ready, or resumed without a reason
//!              |
//!              '-- deadline passed, or cancelled ----------------->  return an error
//! ```
//!
//! Code that was written for blocking sockets runs unchanged with a [`Pausing`] socket: a TLS library, an HTTP parser,
//! `std::io::copy`. Outside a job, and where a job cannot pause, the same code works by blocking the thread.
//!
//! The wait fd is an entry of the job's wait ctx that counts only while it is [armed](crate::WaitCtx::arm). The entry
//! stays in the ctx from the first wait until the socket is dropped, or is used in a job with another ctx. The many
//! waits of a connection therefore change nothing in the set of fds that the driver polls. The entry leaves the ctx
//! before the fd is closed.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::{self as unix, UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{Cancelled, Interrupted};
use crate::job::{can_pause, with_current_ctx};
use crate::sync::{Closed, oneshot};
use crate::sys;
use crate::wait_ctx::{Interest, WaitCtx, WaitFd, WaitFdOptions, WaitKey, WaitValue, WeakWaitCtx};
use crate::waiting::{WaitSpec, await_or_block, give_way, pause_until};

/// A non-blocking value with an fd, a socket of the standard library, say, that pauses the job where the value alone
/// fails with `WouldBlock`.
///
/// Outside a job, and where the job cannot pause, the value blocks the thread. `Pausing<S>` reads and writes if `S`
/// does, and `&Pausing<S>` does if `&S` does, so that several jobs can share one socket in an `Rc`. `Pausing<S>` is
/// `Send` if `S` is, and `Sync` if `S` is: custom transports of synchronous HTTP clients need that.
///
/// # Errors
///
/// Every operation fails as the operation of `S` does. An operation that has to wait also fails with
///
/// * [`io::ErrorKind::TimedOut`], when a timeout that was set here, or a deadline around the call
///   ([`time::with_deadline`](crate::time::with_deadline)), has passed;
/// * an error that holds [`Cancelled`], when the job is to end.
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
    fd_wait: FdWait, // dropped before `inner`: the entry leaves the ctx while the fd is open
    inner: S,
}

impl<S: AsFd> Pausing<S> {
    /// Makes `inner` non-blocking and wraps it.
    ///
    /// Non-blocking is a property of the open file and not of the fd. Duplicates of the fd (`try_clone`), and other
    /// processes that share a terminal, find the file non-blocking, too.
    ///
    /// # Errors
    ///
    /// The error of `ioctl(FIONBIO)`: the file cannot be made non-blocking.
    pub fn new(inner: S) -> io::Result<Self> {
        sys::set_nonblocking(inner.as_fd())?;
        Ok(Pausing {
            fd_wait: FdWait::default(),
            inner,
        })
    }

    /// Calls `operation` with the value, and calls it again each time that the value is ready, until the result is
    /// something other than `WouldBlock`.
    ///
    /// Use it for what [`Read`] and [`Write`] do not cover: datagrams, `peek`, or `sendmsg` from another crate.
    /// `interest` says which readiness to wait for, and which timeout applies. With [`Interest::Both`] the shorter
    /// timeout applies.
    ///
    /// # Errors
    ///
    /// The errors of `operation`, and those of every wait: see [`Pausing`].
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
        give_way();
        let mut deadline = OpDeadline::new(&self.fd_wait, interest);
        loop {
            match operation(&self.inner) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => deadline.wait(&self.fd_wait, self.inner.as_fd())?,
                other => return other,
            }
        }
    }

    /// Does what [`perform`](Self::perform) does, for operations that need `&mut`.
    fn perform_mut<T>(
        &mut self,
        interest: Interest,
        mut operation: impl FnMut(&mut S) -> io::Result<T>,
    ) -> io::Result<T> {
        give_way();
        let mut deadline = OpDeadline::new(&self.fd_wait, interest);
        loop {
            match operation(&mut self.inner) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => deadline.wait(&self.fd_wait, self.inner.as_fd())?,
                other => return other,
            }
        }
    }
}

impl<S> Pausing<S> {
    /// Sets how long one read, or one `accept`, may wait. `None` stands for no limit, which is the default.
    ///
    /// A timeout of zero is allowed, unlike in the standard library. An operation that would have to wait fails at once
    /// then.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) {
        self.fd_wait.read_timeout.set(timeout);
    }

    /// Sets how long one write may wait. `None` stands for no limit, which is the default.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) {
        self.fd_wait.write_timeout.set(timeout);
    }

    /// The timeout of a read, if one is set.
    pub fn read_timeout(&self) -> Option<Duration> {
        self.fd_wait.read_timeout.get()
    }

    /// The timeout of a write, if one is set.
    pub fn write_timeout(&self) -> Option<Duration> {
        self.fd_wait.write_timeout.get()
    }

    /// The value itself, to call `local_addr` or `set_nodelay`, for instance. Its own reads and writes do not wait.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The value itself, which you may replace. The wait fd leaves the wait ctx. The next wait adds it again.
    pub fn get_mut(&mut self) -> &mut S {
        drop(self.fd_wait.entry.get_mut().take());
        &mut self.inner
    }

    /// Takes the value out. It stays non-blocking.
    pub fn into_inner(self) -> S {
        drop(self.fd_wait);
        self.inner
    }
}

impl Pausing<TcpListener> {
    /// Makes a listener at `address`.
    ///
    /// # Errors
    ///
    /// As [`TcpListener::bind`].
    pub fn bind<A: ToSocketAddrs>(address: A) -> io::Result<Self> {
        Pausing::new(TcpListener::bind(address)?)
    }

    /// Waits for a connection, for the read timeout at most. Returns the connection and the address of the peer.
    ///
    /// # Errors
    ///
    /// Those of `accept(2)`, and those of every wait. When the process or the system is out of fds, the error is
    /// `EMFILE` or `ENFILE`. The connection stays queued, so call `accept` again when an fd has become free.
    pub fn accept(&self) -> io::Result<(Pausing<TcpStream>, SocketAddr)> {
        let (stream, from) = self.perform(Interest::Readable, TcpListener::accept)?;
        Ok((Pausing::new(stream)?, from))
    }
}

impl Pausing<TcpStream> {
    /// Connects to `address`.
    ///
    /// # Errors
    ///
    /// Those of `connect(2)`, and those of every wait.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::connect_within(None, address)
    }

    /// Connects to `address`. Fails with [`io::ErrorKind::TimedOut`] after `timeout`.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub fn connect_timeout(address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        Self::connect_within(Some(timeout), address)
    }

    /// Connects to a host by its name and port, such as `"example.org:443"`. The addresses of the host are tried in
    /// turn.
    ///
    /// The look-up of the name can only block, so inside a job it runs on a thread of its own.
    ///
    /// # Errors
    ///
    /// Those of the look-up, those of `connect(2)` for the last address, and those of every wait.
    pub fn connect_host(host_and_port: &str) -> io::Result<Self> {
        let mut last = io::Error::new(
            io::ErrorKind::InvalidInput,
            "the name stands for no address to connect to",
        );
        for address in look_up(host_and_port)? {
            match Self::connect(address) {
                Err(error) if !is_cancelled(&error) => last = error,
                connected => return connected,
            }
        }
        Err(last)
    }

    /// Makes another handle to the same connection, with the same timeouts and a wait fd of its own.
    ///
    /// # Errors
    ///
    /// The process has no fd left.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.cloned(self.inner.try_clone()?)
    }

    fn connect_within(timeout: Option<Duration>, address: SocketAddr) -> io::Result<Self> {
        let stream = Pausing {
            fd_wait: FdWait::default(),
            inner: sys::start_connect(&address)?,
        };
        stream.set_write_timeout(timeout);
        stream.perform(Interest::Writable, connected)?;
        stream.set_write_timeout(None);
        Ok(stream)
    }
}

impl Pausing<UnixStream> {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    ///
    /// Those of `connect(2)`, and those of every wait.
    pub fn connect<P: AsRef<Path>>(path: P) -> io::Result<Self> {
        let inner = loop {
            match sys::connect_unix(path.as_ref()) {
                // The queue of the listener is full, and nothing announces that it has capacity.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => retry()?,
                connected => break connected?,
            }
        };
        Ok(Pausing {
            fd_wait: FdWait::default(),
            inner,
        })
    }

    /// Makes another handle to the same connection, with the same timeouts and a wait fd of its own.
    ///
    /// # Errors
    ///
    /// The process has no fd left.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.cloned(self.inner.try_clone()?)
    }
}

impl<S> Pausing<S> {
    /// Wraps a duplicate of the value. The duplicate is non-blocking already.
    fn cloned(&self, inner: S) -> io::Result<Self> {
        let clone = Pausing {
            fd_wait: FdWait::default(),
            inner,
        };
        clone.set_read_timeout(self.read_timeout());
        clone.set_write_timeout(self.write_timeout());
        Ok(clone)
    }
}

/// The addresses of a host. In a job another thread looks them up.
fn look_up(host_and_port: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host_and_port.parse() {
        return Ok(vec![address]);
    }
    if !can_pause() {
        return host_and_port.to_socket_addrs().map(Iterator::collect);
    }
    let (addresses, found) = oneshot();
    let host_and_port = host_and_port.to_owned();
    let thread = thread::Builder::new().name("asyncjob-lookup".to_owned());
    thread.spawn(move || addresses.send(host_and_port.to_socket_addrs().map(Iterator::collect)))?;
    let found = await_or_block(found)?;
    found.unwrap_or_else(|Closed| Err(io::Error::other("the thread that looked up the host panicked")))
}

/// Waits for a chance to try again.
fn retry() -> io::Result<()> {
    let mut waited = false;
    Ok(pause_until(WaitSpec::retry(), || {
        std::mem::replace(&mut waited, true).then_some(())
    })?)
}

impl Pausing<UnixListener> {
    /// Makes a listener at `path`.
    ///
    /// # Errors
    ///
    /// As [`UnixListener::bind`].
    pub fn bind<P: AsRef<Path>>(path: P) -> io::Result<Self> {
        Pausing::new(UnixListener::bind(path)?)
    }

    /// Waits for a connection, for the read timeout at most. Returns the connection and the address of the peer.
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

impl<S: AsRawFd> AsRawFd for Pausing<S> {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}

impl<S: fmt::Debug> fmt::Debug for Pausing<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pausing").field(&self.inner).finish()
    }
}

/// The waits for one fd: its entry in a wait ctx, and its timeouts.
#[derive(Default)]
struct FdWait {
    /// The entry of the last wait. It is taken out during a wait. A second job that waits meanwhile makes an entry of
    /// its own.
    entry: Mutex<Option<Entry>>,
    read_timeout: Timeout,
    write_timeout: Timeout,
}

impl FdWait {
    /// The timeout of an operation that waits for this readiness.
    fn timeout(&self, interest: Interest) -> Option<Duration> {
        let (read, write) = (self.read_timeout.get(), self.write_timeout.get());
        match interest {
            Interest::Readable => read,
            Interest::Writable => write,
            Interest::Both => read.into_iter().chain(write).min(),
        }
    }

    /// Waits once. The wait may end although the fd is not ready, so the caller tries its operation again.
    fn wait(&self, fd: BorrowedFd<'_>, interest: Interest, deadline: Option<Instant>) -> io::Result<()> {
        let entry = with_current_ctx(|ctx| self.entry_in(ctx, fd.as_raw_fd(), interest));
        let key = entry.as_ref().map(|entry| entry.key);
        let spec = WaitSpec::polling(key, fd, interest).until(deadline);
        let mut waited = false;
        let outcome = pause_until(spec, || std::mem::replace(&mut waited, true).then_some(()));
        if let Some(entry) = entry {
            let other = self.entry.lock().replace(entry);
            drop(other); // after the lock is released: the drop of an entry locks its ctx
        }
        outcome.map_err(|interrupted| match interrupted {
            Interrupted::TimedOut => timed_out(),
            cancelled => cancelled.into(),
        })
    }

    /// The entry of the last wait, if it is in this ctx, and otherwise a new entry.
    fn entry_in(&self, ctx: &WaitCtx, fd: RawFd, interest: Interest) -> Entry {
        let last = self.entry.lock().take();
        let here = last.filter(|entry| entry.ctx.is(ctx));
        let mut entry = here.unwrap_or_else(|| Entry::new(ctx, fd, interest));
        entry.want(ctx, interest);
        entry
    }
}

/// A timeout that can be set through a shared reference: nanoseconds, or [`NONE`].
struct Timeout(AtomicU64);

/// No timeout.
const NONE: u64 = u64::MAX;

impl Timeout {
    fn get(&self) -> Option<Duration> {
        match self.0.load(Ordering::Relaxed) {
            NONE => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    fn set(&self, timeout: Option<Duration>) {
        let nanos = timeout.map_or(NONE, |timeout| u64::try_from(timeout.as_nanos()).unwrap_or(NONE));
        self.0.store(nanos, Ordering::Relaxed);
    }
}

impl Default for Timeout {
    fn default() -> Self {
        Timeout(AtomicU64::new(NONE))
    }
}

/// The entry of an fd in a wait ctx. The drop removes it from the ctx.
struct Entry {
    /// The handle is weak, because a socket must not keep a ctx, and with it the fds of engines, from being cleaned up.
    ctx: WeakWaitCtx,
    key: WaitKey,
    interest: Interest,
}

impl Entry {
    /// Adds an entry. The caller must keep the fd open for longer than the entry exists.
    fn new(ctx: &WaitCtx, fd: RawFd, interest: Interest) -> Self {
        let key = WaitKey::unique();
        let options = WaitFdOptions::new().interest(interest).only_when_armed();
        ctx.add_entry(WaitFd::new(key, fd, options), WaitValue::new(()));
        Entry {
            ctx: ctx.downgrade(),
            key,
            interest,
        }
    }

    /// Changes the interest of the entry, if it has another one.
    fn want(&mut self, ctx: &WaitCtx, interest: Interest) {
        if self.interest != interest {
            ctx.set_interest(self.key, interest);
            self.interest = interest;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(ctx) = self.ctx.upgrade() {
            ctx.clear_fd(self.key);
        }
    }
}

/// The deadline of one operation. The first wait reads the clock, so that an operation that need not wait does not read
/// it.
struct OpDeadline {
    interest: Interest,
    timeout: Option<Duration>,
    deadline: Option<Instant>,
}

impl OpDeadline {
    fn new(fd_wait: &FdWait, interest: Interest) -> Self {
        OpDeadline {
            interest,
            timeout: fd_wait.timeout(interest),
            deadline: None,
        }
    }

    fn wait(&mut self, fd_wait: &FdWait, fd: BorrowedFd<'_>) -> io::Result<()> {
        if let Some(timeout) = self.timeout.take() {
            self.deadline = Instant::now().checked_add(timeout);
        }
        fd_wait.wait(fd, self.interest, self.deadline)
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

/// Whether a connection that was started is established. If it is not yet, the error is `WouldBlock`, because a job may
/// be resumed without a reason.
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

const _: () = {
    const fn is_portable<T: Send + Sync>() {}
    is_portable::<Pausing<TcpStream>>();
};
