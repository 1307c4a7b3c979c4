//! TLS handshakes in jobs: an acceptor like `tokio_rustls::TlsAcceptor`, whose private keys may pause.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use asyncjob::stack::StackSize;
use asyncjob_tokio::Handle;
use rustls::{ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;

use crate::handshake::{self, Begun, Handshake};
use crate::in_job::{Fallible, InJob, in_job, poll_in_job, without_connection};
use crate::pinned::PinnedTlsAcceptor;

/// Accepts TLS connections, each handshake in a job of its own: a drop-in for [`tokio_rustls::TlsAcceptor`].
///
/// While the private key is busy, the job is paused and the thread serves the other connections. The job ends with the
/// handshake. The stream is the one of `tokio_rustls`.
///
/// A job stays on its thread, so [`accept`](Self::accept) is for `spawn_local`. [`pinned`](Self::pinned) is for
/// `tokio::spawn`.
///
/// Dropping the future cancels the handshake, also in the middle of its signature. So a timeout around the future
/// works, and so does a `select!` with [`asyncjob_tokio::hangup`]:
///
/// ```no_run
/// # use std::{io, sync::Arc, time::Duration};
/// # async fn serve(listener: tokio::net::TcpListener, config: Arc<rustls::ServerConfig>) -> io::Result<()> {
/// let acceptor = asyncjob_rustls::TlsAcceptor::from(config); // was: tokio_rustls::TlsAcceptor::from(config)
/// loop {
///     let (stream, _) = listener.accept().await?;
///     let accept = acceptor.accept(stream);
///     tokio::task::spawn_local(async move {
///         match tokio::time::timeout(Duration::from_secs(10), accept).await {
///             Ok(Ok(_stream)) => {} // serve it
///             Ok(Err(error)) => eprintln!("a handshake: {error}"),
///             Err(error) => eprintln!("a handshake: {error}"),
///         }
///     });
/// }
/// # }
/// ```
///
/// [`tokio_rustls::TlsAcceptor`]: https://docs.rs/tokio-rustls/0.26/tokio_rustls/struct.TlsAcceptor.html
#[derive(Clone)]
pub struct TlsAcceptor {
    config: Arc<ServerConfig>,
    stack_size: Option<StackSize>,
}

impl From<Arc<ServerConfig>> for TlsAcceptor {
    fn from(config: Arc<ServerConfig>) -> Self {
        TlsAcceptor {
            config,
            stack_size: None,
        }
    }
}

impl From<tokio_rustls::TlsAcceptor> for TlsAcceptor {
    fn from(acceptor: tokio_rustls::TlsAcceptor) -> Self {
        TlsAcceptor::from(Arc::clone(acceptor.config()))
    }
}

impl TlsAcceptor {
    /// A stack of another size than the thread's pool has, for a signer or a verifier of yours that needs more.
    pub fn stack_size(mut self, size: StackSize) -> Self {
        self.stack_size = Some(size);
        self
    }

    /// Runs each handshake on one of these workers, which it never leaves. The futures are `Send`, for `tokio::spawn`
    /// and for servers that call it (`axum::serve`).
    ///
    /// ```no_run
    /// # use std::{io, sync::Arc};
    /// # async fn serve(listener: tokio::net::TcpListener, config: Arc<rustls::ServerConfig>) -> io::Result<()> {
    /// let workers = asyncjob_tokio::Workers::new(2)?; // once in a program
    /// let acceptor = asyncjob_rustls::TlsAcceptor::from(config).pinned(&workers);
    /// loop {
    ///     let (stream, _) = listener.accept().await?;
    ///     let accept = acceptor.accept(stream);
    ///     tokio::spawn(async move {
    ///         match accept.await {
    ///             Ok(_stream) => {} // serve it
    ///             Err(error) => eprintln!("a handshake: {error}"),
    ///         }
    ///     });
    /// }
    /// # }
    /// ```
    pub fn pinned(self, workers: impl Into<Handle>) -> PinnedTlsAcceptor {
        PinnedTlsAcceptor::new(self, workers.into())
    }

    /// The configuration of rustls that the handshakes use.
    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// The handshake on `stream`.
    pub fn accept<IO>(&self, stream: IO) -> Accept<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        self.accept_with(stream, |_| ())
    }

    /// The handshake on `stream`. `look` is called with the connection before the handshake begins.
    pub fn accept_with<IO, F>(&self, stream: IO, look: F) -> Accept<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin + 'static,
        F: FnOnce(&mut ServerConnection),
    {
        let config = Arc::clone(&self.config);
        let mut connection = ServerConnection::new(Arc::clone(&config));
        if let Ok(connection) = &mut connection {
            look(connection);
        }
        Accept::in_job(
            self.stack_size,
            handshake::accept(Begun::new(connection, stream), config),
        )
    }
}

/// A handshake in a job: see [`TlsAcceptor::accept`]. Dropping the future cancels the handshake.
///
/// # Errors
///
/// The errors of the handshake, as from `tokio_rustls`. When the job has no result, the error holds a
/// [`JobError`](asyncjob::job_future::JobError).
///
/// # Panics
///
/// With the panic of a signer, or of another callback in the handshake. The client gets an alert before that.
#[must_use = "futures do nothing unless polled"]
pub struct Accept<IO: 'static> {
    job: InJob<TlsStream<IO>, IO>,
}

impl<IO> Accept<IO> {
    /// Polls `handshake` in a job.
    pub(crate) fn in_job(
        stack_size: Option<StackSize>,
        handshake: impl Future<Output = Handshake<TlsStream<IO>, IO>> + 'static,
    ) -> Self {
        Accept {
            job: in_job(stack_size, handshake),
        }
    }

    /// The same handshake. When it fails, it gives the connection back with the error.
    pub fn into_fallible(self) -> FallibleAccept<IO> {
        FallibleAccept { job: self.job }
    }
}

impl<IO> Future for Accept<IO> {
    type Output = io::Result<TlsStream<IO>>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        poll_in_job(&mut self.job, task).map(without_connection)
    }
}

/// As [`Accept`], but a handshake that fails gives its connection back: see [`Accept::into_fallible`].
///
/// The client has been told of the error by then. There is no connection if the job has ended without a result, for
/// instance because there was no memory for its stack: the connection was in the job.
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub struct FallibleAccept<IO: 'static> {
    job: InJob<TlsStream<IO>, IO>,
}

impl<IO> Future for FallibleAccept<IO> {
    type Output = Fallible<TlsStream<IO>, IO>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        poll_in_job(&mut self.job, task)
    }
}

impl fmt::Debug for TlsAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsAcceptor")
            .field("stack_size", &self.stack_size)
            .finish_non_exhaustive()
    }
}

impl<IO> fmt::Debug for Accept<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accept").field("job", &self.job).finish()
    }
}
