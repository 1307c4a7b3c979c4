//! What happens in the job of a handshake: `tokio_rustls` does the work, and a failed signature becomes an alert.
//!
//! ```text
//!   rustls --- a flight ---> HeldIo: keeps it --- poll_flush ---> the stream
//!     |
//!     '-- fails, and has queued no alert: the flight is dropped, and an alert of ours goes to the client
//! ```
//!
//! rustls queues an alert for what a client does wrong. It queues none when
//! [`Signer::sign`](rustls::sign::Signer::sign) fails, in no version of TLS. `tokio_rustls` then writes what is in the
//! queue, which is a `ServerHello` at most, and the client sees a connection that ends. After a `ServerHello` the
//! client takes encrypted alerts only, and the keys for one are inside rustls. So the flight is held back until it is
//! complete, and the alert goes to a client that has not seen the `ServerHello`, in the clear.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::{ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

/// The stream, or the error and the connection beneath.
pub(crate) type Handshake<IO> = Result<TlsStream<IO>, (io::Error, IO)>;

/// A handshake of `tokio_rustls` whose flights are held.
pub(crate) type Held<IO> = tokio_rustls::server::FallibleAccept<HeldIo<IO>>;

/// A whole record of TLS: an alert, fatal, `internal_error` (RFC 8446, section 6).
const INTERNAL_ERROR: [u8; 7] = [ALERT, 3, 3, 0, 2, 2, 80];

/// Types of records (RFC 8446, section 5.1). An encrypted alert looks like application data.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
/// The type, two bytes of version, two bytes of length.
const RECORD_HEADER: usize = 5;

/// Does the handshake. If it fails, the client is told.
pub(crate) async fn complete<IO>(handshake: Held<IO>, config: Arc<ServerConfig>) -> Handshake<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    match handshake.await {
        Ok(stream) => {
            let (held, connection) = stream.into_inner();
            stream_of(held.io, connection, config).await
        }
        Err((error, held)) => {
            let io = held.tell(&error).await;
            Err((error, io))
        }
    }
}

/// `tokio_rustls` makes a stream for a connection that it has begun itself. So it begins one, and gets the one that is
/// done instead.
async fn stream_of<IO>(io: IO, done: ServerConnection, config: Arc<ServerConfig>) -> Handshake<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    tokio_rustls::TlsAcceptor::from(config)
        .accept_with(io, |begun| *begun = done)
        .into_fallible()
        .await
}

/// A connection whose writes wait for the next flush. `tokio_rustls` flushes after each flight, before it reads, and
/// does not flush after an error.
#[derive(Debug)]
pub(crate) struct HeldIo<IO> {
    io: IO,
    /// What has been written since the last flush. Whole records, in the order in which rustls made them.
    held: Vec<u8>,
    /// How many bytes of `held` a flush has passed on that is not done.
    passed_on: usize,
    /// Whether a flush has passed on anything, at any time.
    has_passed_on: bool,
}

impl<IO> HeldIo<IO> {
    pub(crate) fn new(io: IO) -> Self {
        HeldIo {
            io,
            held: Vec::new(),
            passed_on: 0,
            has_passed_on: false,
        }
    }

    /// Whether the client would learn nothing of the error, and can still be told in the clear.
    fn needs_alert(&self) -> bool {
        let mut types = record_types(&self.held);
        if self.passed_on > 0 || types.any(|kind| kind == ALERT || kind == APPLICATION_DATA) {
            return false;
        }
        // The `ServerHello` is the first record of a flight, or it has gone. A `HelloRetryRequest` before it has no
        // keys.
        !self.has_passed_on || self.held.first() == Some(&HANDSHAKE)
    }
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

impl<IO: AsyncWrite + Unpin> HeldIo<IO> {
    /// Tells the client that the handshake has failed with this error, and returns the connection.
    async fn tell(mut self, error: &io::Error) -> IO {
        let is_of_rustls = error.get_ref().is_some_and(|error| error.is::<rustls::Error>());
        if is_of_rustls && self.needs_alert() {
            self.held = INTERNAL_ERROR.to_vec();
        }
        // The error of the handshake is the one to report. A client that has left is told nothing.
        let _ = poll_fn(|task| Pin::new(&mut self).poll_flush(task)).await;
        self.io
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for HeldIo<IO> {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(task, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for HeldIo<IO> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.held.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let before = self.held.len();
        slices.iter().for_each(|slice| self.held.extend_from_slice(slice));
        Poll::Ready(Ok(self.held.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.passed_on < this.held.len() {
            let written = ready!(Pin::new(&mut this.io).poll_write(task, &this.held[this.passed_on..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            this.passed_on += written;
            this.has_passed_on = true;
        }
        this.held.clear();
        this.passed_on = 0;
        Pin::new(&mut this.io).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(task))?;
        Pin::new(&mut self.io).poll_shutdown(task)
    }
}
