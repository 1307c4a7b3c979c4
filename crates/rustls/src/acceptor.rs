//! TLS handshakes in jobs: an acceptor like `tokio_rustls::TlsAcceptor`, whose private keys may pause.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use asyncjob::JobBuilder;
use asyncjob::job_future::JobFuture;
use asyncjob::stack::StackSize;
use asyncjob_tokio::Handle;
use rustls::{ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;

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
///         let _stream = tokio::time::timeout(Duration::from_secs(10), accept).await??;
///         // serve it
///         Ok::<(), io::Error>(())
///     });
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct TlsAcceptor {
    inner: tokio_rustls::TlsAcceptor,
    stack_size: Option<StackSize>,
}

impl From<Arc<ServerConfig>> for TlsAcceptor {
    fn from(config: Arc<ServerConfig>) -> Self {
        TlsAcceptor {
            inner: config.into(),
            stack_size: None,
        }
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
    ///         let _stream = accept.await?;
    ///         // serve it
    ///         Ok::<(), io::Error>(())
    ///     });
    /// }
    /// # }
    /// ```
    pub fn pinned(self, workers: impl Into<Handle>) -> PinnedTlsAcceptor {
        PinnedTlsAcceptor {
            acceptor: self,
            workers: workers.into(),
        }
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
        let mut builder = JobBuilder::new().name("TLS handshake");
        if let Some(size) = self.stack_size {
            builder = builder.stack_size(size);
        }
        let job = builder.in_job(self.inner.accept_with(stream, look));
        Accept {
            job: asyncjob_tokio::watched(job),
        }
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
/// With the panic of a signer, or of another callback in the handshake.
#[must_use = "futures do nothing unless polled"]
pub struct Accept<IO: 'static> {
    job: JobFuture<io::Result<TlsStream<IO>>>,
}

impl<IO> Future for Accept<IO> {
    type Output = io::Result<TlsStream<IO>>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.job).poll(task).map(|outcome| outcome?)
    }
}

/// Accepts TLS connections on [`Workers`](asyncjob_tokio::Workers): see [`TlsAcceptor::pinned`].
#[derive(Clone, Debug)]
pub struct PinnedTlsAcceptor {
    acceptor: TlsAcceptor,
    workers: Handle,
}

impl PinnedTlsAcceptor {
    /// Begins the handshake on `stream`. Dropping the future cancels it.
    ///
    /// # Errors
    ///
    /// The errors of the handshake, as from [`TlsAcceptor::accept`]. When the workers have ended, and when a callback
    /// in the handshake has panicked, the error holds a [`JoinError`](asyncjob_tokio::JoinError).
    pub fn accept<IO>(&self, stream: IO) -> impl Future<Output = io::Result<TlsStream<IO>>> + Send + use<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let acceptor = self.acceptor.clone();
        let handshake = self.workers.spawn_task(move || acceptor.accept(stream));
        async { handshake.await? }
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
