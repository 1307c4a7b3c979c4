//! A TLS connection whose calls of OpenSSL are in jobs.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use asyncjob::debug_with_sentence;
use asyncjob::stack::StackSize;
use openssl::error::ErrorStack;
use openssl::ssl::{self, Ssl, SslRef};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::operation::{Call, Kind, Operations, Returned};

/// The most that one call reads or writes: a record of TLS.
const RECORD: usize = 16 * 1024;

/// A TLS connection, as [`tokio_openssl::SslStream`], each of whose calls of OpenSSL is in a job.
///
/// While an engine or a provider works for the handshake, for a read or for a write, the job is paused, and the thread
/// serves the other connections. A connection that waits for its peer has no job and no stack.
///
/// The stream stays on its thread: use it in `tokio::task::spawn_local`, or on [`Workers`](asyncjob_tokio::Workers).
/// [`into_inner`](Self::into_inner) gives the stream of `tokio_openssl` back, which may go to other threads, and whose
/// engines block.
///
/// Dropping the stream cancels the call that is in progress: `ASYNC_pause_job` returns 0 to the engine.
///
/// A write of which the caller has seen `Pending` has taken its bytes. As with other streams of TLS, the caller then
/// writes the same bytes again, and not others.
///
/// [`tokio_openssl::SslStream`]: https://docs.rs/tokio-openssl/latest/tokio_openssl/struct.SslStream.html
pub struct SslStream<S: 'static> {
    operations: Operations<S>,
}

/// Why there is no connection.
#[non_exhaustive]
pub enum Error {
    /// OpenSSL could not make or set up the connection's state.
    Setup(ErrorStack),
    /// The handshake failed.
    Handshake(ssl::Error),
    /// The job of the handshake had no result.
    Job(io::Error),
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> SslStream<S> {
    /// Makes a connection of `ssl` on `stream`, before its handshake.
    ///
    /// # Errors
    ///
    /// As [`openssl::ssl::SslStream::new`].
    pub fn new(ssl: Ssl, stream: S) -> Result<Self, ErrorStack> {
        Self::with_stack_size(ssl, stream, None)
    }

    pub(crate) fn with_stack_size(ssl: Ssl, stream: S, size: Option<StackSize>) -> Result<Self, ErrorStack> {
        let stream = tokio_openssl::SslStream::new(ssl, stream)?;
        Ok(SslStream {
            operations: Operations::new(stream, size),
        })
    }

    /// The handshake of a server.
    ///
    /// # Errors
    ///
    /// [`Error`], if the handshake fails.
    pub async fn accept(&mut self) -> Result<(), Error> {
        poll_fn(|task| self.poll_handshake(task, || Call::Accept)).await
    }

    /// The handshake of a client.
    ///
    /// # Errors
    ///
    /// [`Error`], if the handshake fails.
    pub async fn connect(&mut self) -> Result<(), Error> {
        poll_fn(|task| self.poll_handshake(task, || Call::Connect)).await
    }

    fn poll_handshake(&mut self, task: &mut Context<'_>, call: fn() -> Call) -> Poll<Result<(), Error>> {
        let returned = ready!(self.operations.poll(Kind::Handshake, task, call)).map_err(Error::Job)?;
        let Returned::Handshake(returned) = returned else {
            unreachable!("each kind of call has its own result")
        };
        Poll::Ready(returned.map_err(Error::Handshake))
    }

    /// What OpenSSL knows of the connection. `None` while a call is in progress, and after the job of a call had no
    /// result.
    pub fn ssl(&self) -> Option<&SslRef> {
        self.operations.stream().map(tokio_openssl::SslStream::ssl)
    }

    /// The stream below. `None` as for [`ssl`](Self::ssl).
    pub fn get_ref(&self) -> Option<&S> {
        self.operations.stream().map(tokio_openssl::SslStream::get_ref)
    }

    /// The stream of `tokio_openssl`, whose engines block.
    ///
    /// # Errors
    ///
    /// The stream itself, while a call is in progress, or while what a call has read or written has not been fetched.
    #[allow(
        clippy::result_large_err,
        reason = "the caller keeps the value, whichever way it comes back"
    )]
    pub fn into_inner(self) -> Result<tokio_openssl::SslStream<S>, Self> {
        self.operations
            .into_stream()
            .map_err(|operations| SslStream { operations })
    }

    fn poll_wrote(
        &mut self,
        kind: Kind,
        task: &mut Context<'_>,
        call: impl FnOnce() -> Call,
    ) -> Poll<io::Result<usize>> {
        let returned = ready!(self.operations.poll(kind, task, call))?;
        let Returned::Wrote(wrote) = returned else {
            unreachable!("each kind of call has its own result")
        };
        Poll::Ready(wrote)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> AsyncRead for SslStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room = buffer.remaining();
        if room == 0 {
            return Poll::Ready(Ok(()));
        }
        let bytes = ready!(self.operations.poll_read(task, room.min(RECORD)))?;
        buffer.put_slice(&bytes[..bytes.len().min(room)]);
        self.operations.unread(bytes, room);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> AsyncWrite for SslStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let record = &bytes[..bytes.len().min(RECORD)];
        self.poll_wrote(Kind::Write, task, || Call::Write(record.to_vec()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_wrote(Kind::Flush, task, || Call::Flush).map_ok(drop)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_wrote(Kind::Shutdown, task, || Call::Shutdown).map_ok(drop)
    }
}

impl<S> fmt::Debug for SslStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SslStream").finish_non_exhaustive()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::Setup(_) => "the connection could not be set up",
            Error::Handshake(_) => "the handshake failed",
            Error::Job(_) => "the job of the handshake had no result",
        })
    }
}

debug_with_sentence!(Error: Setup, Handshake, Job);

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Setup(source) => Some(source),
            Error::Handshake(source) => Some(source),
            Error::Job(source) => Some(source),
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Job(error) => error,
            error => io::Error::other(error),
        }
    }
}
