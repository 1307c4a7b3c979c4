//! What happens in the job of a handshake: rustls does the work, and what fails becomes an alert.
//!
//! ```text
//!   write: rustls ---> the stream, flush
//!     |  ^
//!     |  '-- goes on
//!     v
//!   read: the stream ---> rustls ---> Signer::sign, a resolver, a verifier
//!                           |
//!                           '-- fails or panics: what is queued goes to the peer if it is an alert, and one of
//!                               ours if it is not
//! ```
//!
//! rustls queues an alert for what a peer does wrong. It queues none when
//! [`Signer::sign`](rustls::sign::Signer::sign) fails, in no version of TLS. `tokio_rustls` then writes what is in the
//! queue, which is a `ServerHello` at most, and the peer sees a connection that ends. After a `ServerHello` a client
//! takes encrypted alerts only, and the keys for one are inside rustls. So the queue is looked at before it is written,
//! and the alert goes to a client that has not seen the `ServerHello`, in the clear. A server takes an alert in the
//! clear until the client has sent something encrypted, and a client signs before that.
//!
//! The loop is that of `tokio_rustls`, which shows nobody its queue. The streams are its own.

use std::future::poll_fn;
use std::io::{self, IoSlice, Read, Write};
use std::ops::DerefMut;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::client::ClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::Accepted;
use rustls::{AlertDescription, ClientConfig, ConnectionCommon, Error, ServerConfig, ServerConnection, SideData};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{client, server};

/// The stream, or the error and the connection beneath. They are behind pointers because they are large, and go through
/// a dozen calls on their way out of the job.
pub(crate) type Handshake<S, IO> = Result<Box<S>, Box<(io::Error, IO)>>;

/// Types of records (RFC 8446, section 5.1). An encrypted record of TLS 1.3 looks like application data.
const ALERT: u8 = 21;
const APPLICATION_DATA: u8 = 23;
/// The type, two bytes of version, two bytes of length.
const RECORD_HEADER: usize = 5;

/// Does the handshake of a server.
pub(crate) async fn accept<IO>(
    begun: Begun<ServerConnection, IO>,
    config: Arc<ServerConfig>,
) -> Handshake<server::TlsStream<IO>, IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (done, io) = complete(begun).await?;
    // `tokio_rustls` makes a stream for a connection that it has begun itself. So it begins one, and gets the one that
    // is done instead.
    let accept = tokio_rustls::TlsAcceptor::from(config).accept_with(io, |begun| *begun = done);
    Ok(Box::new(Box::pin(accept.into_fallible()).await?))
}

/// Does the handshake of a server whose configuration is chosen after the `ClientHello`: rustls may sign at once.
pub(crate) async fn accept_lazily<IO, F>(
    accepted: Box<Accepted>,
    mut io: IO,
    config: Arc<ServerConfig>,
    look: F,
) -> Handshake<server::TlsStream<IO>, IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    F: FnOnce(&mut ServerConnection),
{
    let begun = catch_unwind(AssertUnwindSafe(|| {
        let mut connection = accepted.into_connection(Arc::clone(&config))?;
        look(&mut connection);
        Ok(connection)
    }));
    match begun {
        Ok(Ok(connection)) => accept(Begun::new(Ok(connection), io), config).await,
        Ok(Err((error, mut alert))) => {
            let mut queued = Vec::new();
            let _ = alert.write_all(&mut queued); // a `Vec` takes everything
            let last = last_record(queued, Some(&error), false);
            poll_fn(|task| write_at_once(&mut io, &last, task)).await;
            Err(Box::new((invalid(error), io)))
        }
        Err(payload) => {
            let last = alert_for(None);
            poll_fn(|task| write_at_once(&mut io, &last, task)).await;
            resume_unwind(payload)
        }
    }
}

/// Does the handshake of a client. `stand_in` is a configuration for a connection that is not used.
pub(crate) async fn connect<IO>(
    begun: Begun<ClientConnection, IO>,
    stand_in: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Handshake<client::TlsStream<IO>, IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (done, io) = complete(begun).await?;
    let connector = tokio_rustls::TlsConnector::from(stand_in); // as the server's
    let connect = connector.connect_with(name, io, |begun| *begun = done);
    Ok(Box::new(Box::pin(connect.into_fallible()).await?))
}

/// Does the handshake of a connection that has begun. If it fails, the peer is told.
async fn complete<C, D, IO>(begun: Begun<C, IO>) -> Result<(C, IO), Box<(io::Error, IO)>>
where
    C: DerefMut<Target = ConnectionCommon<D>>,
    D: SideData,
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut flights = begun.0?;
    match poll_fn(|task| flights.poll(task)).await {
        Ok(()) => Ok((flights.connection, flights.io)),
        Err(error) => Err(Box::new((error, flights.io))),
    }
}

/// A connection before its handshake, or why there is none.
pub(crate) struct Begun<C, IO>(Handshake<Flights<C, IO>, IO>);

impl<C, IO> Begun<C, IO> {
    pub(crate) fn new(connection: Result<C, Error>, io: IO) -> Self {
        Begun(match connection {
            Ok(connection) => Ok(Box::new(Flights {
                connection,
                io,
                needs_flush: false,
                has_encrypted: false,
            })),
            Err(error) => Err(Box::new((io::Error::other(error), io))),
        })
    }
}

/// What rustls and the peer send each other.
struct Flights<C, IO> {
    connection: C,
    io: IO,
    /// Whether something was written since the last flush.
    needs_flush: bool,
    /// Whether an encrypted record was written, after which the peer takes no alert in the clear.
    has_encrypted: bool,
}

impl<C, D, IO> Flights<C, IO>
where
    C: DerefMut<Target = ConnectionCommon<D>>,
    D: SideData,
    IO: AsyncRead + AsyncWrite + Unpin,
{
    /// Ready when the handshake is done.
    fn poll(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_write(task))?;
            if !self.connection.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_read(task))?;
        }
    }

    /// Writes what rustls has queued.
    fn poll_write(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.connection.wants_write() {
            let mut io = TaskIo {
                io: &mut self.io,
                task: &mut *task,
                has_encrypted: &mut self.has_encrypted,
            };
            let written = ready!(pending_if_blocked(self.connection.write_tls(&mut io)))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.needs_flush = true;
        }
        if self.needs_flush {
            ready!(Pin::new(&mut self.io).poll_flush(task))?;
            self.needs_flush = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what is there, and lets rustls go on with it.
    fn poll_read(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut io = TaskIo {
            io: &mut self.io,
            task: &mut *task,
            has_encrypted: &mut self.has_encrypted,
        };
        if ready!(pending_if_blocked(self.connection.read_tls(&mut io)))? == 0 {
            let end = io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof");
            return Poll::Ready(Err(end));
        }
        match catch_unwind(AssertUnwindSafe(|| self.connection.process_new_packets())) {
            Ok(Ok(_)) => Poll::Ready(Ok(())),
            Ok(Err(error)) => {
                self.tell(Some(&error), task);
                Poll::Ready(Err(invalid(error)))
            }
            Err(payload) => {
                self.tell(None, task);
                resume_unwind(payload)
            }
        }
    }

    /// Tells the peer that the handshake has failed with this error, or with a panic.
    fn tell(&mut self, error: Option<&Error>, task: &mut Context<'_>) {
        let mut queued = Vec::new();
        while self.connection.wants_write() && self.connection.write_tls(&mut queued).is_ok() {}
        let last = last_record(queued, error, self.has_encrypted);
        let _ = write_at_once(&mut self.io, &last, task);
    }
}

/// What a peer gets last: what rustls has queued, or an alert if that would not tell the peer of the error.
fn last_record(queued: Vec<u8>, error: Option<&Error>, has_encrypted: bool) -> Vec<u8> {
    let is_told = record_types(&queued).any(|kind| kind == ALERT || kind == APPLICATION_DATA);
    let knows = matches!(error, Some(Error::AlertReceived(_)));
    if is_told || knows || has_encrypted {
        return queued;
    }
    alert_for(error).to_vec()
}

/// A whole record of TLS: an alert, fatal (RFC 8446, section 6). Of the messages that it cannot read, rustls queues an
/// alert for most: the rest were wrong, too, and not the fault of this end.
fn alert_for(error: Option<&Error>) -> [u8; 7] {
    let description = match error {
        Some(Error::InvalidMessage(invalid)) => AlertDescription::from(*invalid),
        _ => AlertDescription::InternalError,
    };
    [ALERT, 3, 3, 0, 2, 2, description.into()]
}

/// The type of each record in `records`.
fn record_types(mut records: &[u8]) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let header = records.first_chunk::<RECORD_HEADER>()?;
        let length = u16::from_be_bytes([header[3], header[4]]);
        records = records.get(RECORD_HEADER + usize::from(length)..).unwrap_or_default();
        Some(header[0])
    })
}

/// Writes as much as the stream takes now: a peer that reads nothing must not hold a handshake that has failed. What
/// goes wrong is not reported, because the error of the handshake is. Always ready.
fn write_at_once<IO: AsyncWrite + Unpin>(io: &mut IO, mut bytes: &[u8], task: &mut Context<'_>) -> Poll<()> {
    while !bytes.is_empty() {
        match Pin::new(&mut *io).poll_write(task, bytes) {
            Poll::Ready(Ok(written @ 1..)) => bytes = &bytes[written..],
            _ => return Poll::Ready(()),
        }
    }
    let _ = Pin::new(io).poll_flush(task);
    Poll::Ready(())
}

/// The error of a handshake, of the kind that it has in `tokio_rustls`.
fn invalid(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn pending_if_blocked(done: io::Result<usize>) -> Poll<io::Result<usize>> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        done => Poll::Ready(done),
    }
}

/// A stream of tokio as rustls wants it: an operation that is pending would block.
struct TaskIo<'a, 'b, IO> {
    io: &'a mut IO,
    task: &'a mut Context<'b>,
    has_encrypted: &'a mut bool,
}

impl<IO: AsyncRead + Unpin> Read for TaskIo<'_, '_, IO> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(buffer);
        match Pin::new(&mut *self.io).poll_read(self.task, &mut buffer) {
            Poll::Ready(read) => read.map(|()| buffer.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl<IO: AsyncWrite + Unpin> Write for TaskIo<'_, '_, IO> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    /// rustls gives each record as a slice.
    fn write_vectored(&mut self, records: &[IoSlice<'_>]) -> io::Result<usize> {
        *self.has_encrypted |= records.iter().any(|record| record.first() == Some(&APPLICATION_DATA));
        match Pin::new(&mut *self.io).poll_write_vectored(self.task, records) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // rustls leaves that to its caller
    }
}
