//! Handshakes whose configuration is chosen after the `ClientHello`.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use asyncjob::stack::StackSize;
use asyncjob_tokio::Handle;
use rustls::server::{Acceptor, ClientHello};
use rustls::{ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::acceptor::Accept;
use crate::handshake;
use crate::pinned::PinnedStartHandshake;

/// Reads the `ClientHello` of a connection, so that a program can choose a configuration by it: a drop-in for
/// [`tokio_rustls::LazyConfigAcceptor`].
///
/// rustls may sign as soon as it gets the configuration, in the very call of `into_stream` of `tokio_rustls`. That is
/// before there is a future that a job could poll. [`StartHandshake::into_stream`] of this crate makes the call inside
/// the job.
///
/// The choice may be awaited. Nothing is in a job until then:
///
/// ```no_run
/// # use std::{io, sync::Arc};
/// # use rustls::ServerConfig;
/// use asyncjob_rustls::LazyConfigAcceptor; // was: tokio_rustls::LazyConfigAcceptor
/// use rustls::server::Acceptor;
///
/// # async fn look_up(name: Option<&str>) -> io::Result<Arc<ServerConfig>> { unimplemented!() }
/// # async fn serve(stream: tokio::net::TcpStream) -> io::Result<()> {
/// let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
/// let config = look_up(start.client_hello().server_name()).await?;
/// let stream = start.into_stream(config).await?;
/// # Ok(drop(stream))
/// # }
/// ```
///
/// [`tokio_rustls::LazyConfigAcceptor`]: https://docs.rs/tokio-rustls/0.26/tokio_rustls/struct.LazyConfigAcceptor.html
pub struct LazyConfigAcceptor<IO> {
    inner: tokio_rustls::LazyConfigAcceptor<IO>,
}

impl<IO> LazyConfigAcceptor<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    /// Reads the `ClientHello` from `stream`.
    pub fn new(acceptor: Acceptor, stream: IO) -> Self {
        LazyConfigAcceptor {
            inner: tokio_rustls::LazyConfigAcceptor::new(acceptor, stream),
        }
    }

    /// Takes the connection back. `None` when it has been taken already, and when the future was ready.
    pub fn take_io(&mut self) -> Option<IO> {
        self.inner.take_io()
    }
}

impl<IO> Future for LazyConfigAcceptor<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    type Output = io::Result<StartHandshake<IO>>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let done = Pin::new(&mut self.inner).poll(task);
        done.map(|outcome| outcome.map(StartHandshake::from))
    }
}

/// A connection whose `ClientHello` has come: see [`LazyConfigAcceptor`].
///
/// Made by a [`LazyConfigAcceptor`], or from what `tokio_rustls` has made:
/// `StartHandshake::from(tokio_rustls_start).into_stream(config)`.
#[derive(Debug)]
pub struct StartHandshake<IO> {
    inner: tokio_rustls::StartHandshake<IO>,
    stack_size: Option<StackSize>,
}

impl<IO> From<tokio_rustls::StartHandshake<IO>> for StartHandshake<IO> {
    fn from(inner: tokio_rustls::StartHandshake<IO>) -> Self {
        StartHandshake {
            inner,
            stack_size: None,
        }
    }
}

impl<IO> StartHandshake<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    /// What the client has sent.
    pub fn client_hello(&self) -> ClientHello<'_> {
        self.inner.client_hello()
    }

    /// A stack of another size than the thread's pool has, as
    /// [`TlsAcceptor::stack_size`](crate::TlsAcceptor::stack_size).
    pub fn stack_size(mut self, size: StackSize) -> Self {
        self.stack_size = Some(size);
        self
    }

    /// Does the rest of the handshake on one of these workers. The future is `Send`, for `tokio::spawn`.
    pub fn pinned(self, workers: impl Into<Handle>) -> PinnedStartHandshake<IO>
    where
        IO: Send,
    {
        PinnedStartHandshake::new(self, workers.into())
    }

    /// The rest of the handshake, in a job, with this configuration.
    pub fn into_stream(self, config: Arc<ServerConfig>) -> Accept<IO> {
        self.into_stream_with(config, |_| ())
    }

    /// As [`into_stream`](Self::into_stream). `look` is called in the job, with the connection, when rustls has gone
    /// through the `ClientHello`.
    pub fn into_stream_with<F>(self, config: Arc<ServerConfig>, look: F) -> Accept<IO>
    where
        F: FnOnce(&mut ServerConnection) + 'static,
    {
        let StartHandshake { inner, stack_size } = self;
        Accept::in_job(
            stack_size,
            handshake::accept_lazily(Box::new(inner.accepted), inner.io, config, look),
        )
    }
}

impl<IO> fmt::Debug for LazyConfigAcceptor<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LazyConfigAcceptor").finish_non_exhaustive()
    }
}
