//! The handshakes of clients in jobs: a connector like `tokio_rustls::TlsConnector`, whose private key may pause.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use asyncjob::stack::StackSize;
use asyncjob_tokio::Handle;
use rustls::ClientConfig;
use rustls::client::{ClientConnection, Resumption};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::client::TlsStream;

use crate::handshake::{self, Begun};
use crate::in_job::{Fallible, InJob, in_job, poll_in_job, without_connection};
use crate::pinned::PinnedTlsConnector;

/// Makes TLS connections, each handshake in a job of its own: as [`tokio_rustls::TlsConnector`], for a client whose
/// certificate has a slow key.
///
/// While the private key is busy, the job is paused and the thread does other things. When the signature fails, the
/// server gets the alert `internal_error`.
///
/// A job stays on its thread, so [`connect`](Self::connect) is for `spawn_local`. [`pinned`](Self::pinned) is for
/// `tokio::spawn`.
///
/// Dropping the future cancels the handshake, also in the middle of its signature.
///
/// ```no_run
/// # use std::{io, sync::Arc};
/// # async fn connect(config: Arc<rustls::ClientConfig>) -> Result<(), Box<dyn std::error::Error>> {
/// let connector = asyncjob_rustls::TlsConnector::from(config); // was: tokio_rustls::TlsConnector::from(config)
/// let stream = tokio::net::TcpStream::connect("example.org:443").await?;
/// let stream = connector.connect("example.org".try_into()?, stream).await?;
/// # Ok(drop(stream))
/// # }
/// ```
///
/// A client with a pool makes its connects itself: see `PinnedConnectorLayer` (feature `tower`).
///
/// [`tokio_rustls::TlsConnector`]: https://docs.rs/tokio-rustls/0.26/tokio_rustls/struct.TlsConnector.html
#[derive(Clone)]
pub struct TlsConnector {
    config: Arc<ClientConfig>,
    /// For a connection that is begun and not used. It takes no ticket from the store of the other one.
    stand_in: Arc<ClientConfig>,
    stack_size: Option<StackSize>,
}

impl From<Arc<ClientConfig>> for TlsConnector {
    fn from(config: Arc<ClientConfig>) -> Self {
        let mut stand_in = ClientConfig::clone(&config);
        stand_in.resumption = Resumption::disabled();
        TlsConnector {
            config,
            stand_in: Arc::new(stand_in),
            stack_size: None,
        }
    }
}

impl From<tokio_rustls::TlsConnector> for TlsConnector {
    fn from(connector: tokio_rustls::TlsConnector) -> Self {
        TlsConnector::from(Arc::clone(connector.config()))
    }
}

impl TlsConnector {
    /// A stack of another size than the thread's pool has, as
    /// [`TlsAcceptor::stack_size`](crate::TlsAcceptor::stack_size).
    pub fn stack_size(mut self, size: StackSize) -> Self {
        self.stack_size = Some(size);
        self
    }

    /// Runs each handshake on one of these workers, which it never leaves. The futures are `Send`, for `tokio::spawn`.
    ///
    /// ```no_run
    /// # use std::{io, sync::Arc};
    /// # async fn connect(config: Arc<rustls::ClientConfig>) -> Result<(), Box<dyn std::error::Error>> {
    /// let workers = asyncjob_tokio::Workers::new(1)?; // once in a program
    /// let connector = asyncjob_rustls::TlsConnector::from(config).pinned(&workers);
    /// let task = tokio::spawn(async move {
    ///     let stream = tokio::net::TcpStream::connect("example.org:443").await?;
    ///     let name = "example.org".try_into().map_err(io::Error::other)?;
    ///     let _stream = connector.connect(name, stream).await?;
    ///     // use it
    ///     Ok::<(), io::Error>(())
    /// });
    /// task.await??;
    /// # Ok(())
    /// # }
    /// ```
    pub fn pinned(self, workers: impl Into<Handle>) -> PinnedTlsConnector {
        PinnedTlsConnector::new(self, workers.into())
    }

    /// The configuration of rustls that the handshakes use.
    pub fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// The handshake on `stream`, with the server of this name.
    pub fn connect<IO>(&self, name: ServerName<'static>, stream: IO) -> Connect<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        self.connect_with(name, stream, |_| ())
    }

    /// The handshake on `stream`. `look` is called with the connection before the handshake begins.
    pub fn connect_with<IO, F>(&self, name: ServerName<'static>, stream: IO, look: F) -> Connect<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin + 'static,
        F: FnOnce(&mut ClientConnection),
    {
        let mut connection = ClientConnection::new(Arc::clone(&self.config), name.clone());
        if let Ok(connection) = &mut connection {
            look(connection);
        }
        let handshake = handshake::connect(Begun::new(connection, stream), Arc::clone(&self.stand_in), name);
        Connect {
            job: in_job(self.stack_size, handshake),
        }
    }
}

/// A client's handshake in a job: see [`TlsConnector::connect`]. Dropping the future cancels the handshake.
///
/// # Errors
///
/// The errors of the handshake, as from `tokio_rustls`. When the job has no result, the error holds a
/// [`JobError`](asyncjob::job_future::JobError).
///
/// # Panics
///
/// With the panic of a signer, or of another callback in the handshake. The server gets the alert before that.
#[must_use = "futures do nothing unless polled"]
pub struct Connect<IO: 'static> {
    job: InJob<TlsStream<IO>, IO>,
}

impl<IO> Connect<IO> {
    /// The same handshake. When it fails, it gives the connection back with the error.
    pub fn into_fallible(self) -> FallibleConnect<IO> {
        FallibleConnect { job: self.job }
    }
}

impl<IO> Future for Connect<IO> {
    type Output = io::Result<TlsStream<IO>>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        poll_in_job(&mut self.job, task).map(without_connection)
    }
}

/// As [`Connect`], but a handshake that fails gives its connection back: see [`Connect::into_fallible`].
///
/// The server has been told of the error by then. There is no connection if the job has ended without a result, for
/// instance because there was no memory for its stack: the connection was in the job.
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub struct FallibleConnect<IO: 'static> {
    job: InJob<TlsStream<IO>, IO>,
}

impl<IO> Future for FallibleConnect<IO> {
    type Output = Fallible<TlsStream<IO>, IO>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        poll_in_job(&mut self.job, task)
    }
}

impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConnector")
            .field("stack_size", &self.stack_size)
            .finish_non_exhaustive()
    }
}

impl<IO> fmt::Debug for Connect<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect").field("job", &self.job).finish()
    }
}
