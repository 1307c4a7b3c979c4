//! A TLS handshake in a job: `tokio_rustls::TlsAcceptor` with the same methods, and with private keys that may pause.

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
/// While the private key is busy the job is paused, and the thread serves the other connections. After the handshake there is
/// no job any more; the stream is the one of `tokio_rustls`.
///
/// A job stays on its thread, so [`accept`](Self::accept) is for `spawn_local`. Where tasks change their threads, see
/// [`pinned`](Self::pinned).
///
/// Dropping the future, by a timeout or because the client left, cancels the handshake in the middle of its signature:
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
    /// Stacks of another size than the thread's pool has: for a signer or a verifier of yours that needs more.
    pub fn stack_size(mut self, size: StackSize) -> Self {
        self.stack_size = Some(size);
        self
    }

    /// The same as a future that may be sent to another thread: the handshake runs on one of these workers.
    ///
    /// For `tokio::spawn`, and for servers that do it (`axum::serve`).
    pub fn pinned(self, workers: &Handle) -> PinnedTlsAcceptor {
        PinnedTlsAcceptor {
            acceptor: self,
            workers: workers.clone(),
        }
    }

    /// The handshake on `stream`.
    pub fn accept<IO>(&self, stream: IO) -> Accept<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        self.accept_with(stream, |_| ())
    }

    /// The same, with a look at the connection before it begins.
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

/// A handshake, see [`TlsAcceptor::accept`]. Dropping it cancels the handshake.
///
/// # Errors
///
/// Of the handshake, as from `tokio_rustls`; and of the job, as [`asyncjob::job_future::JobError`] inside.
///
/// # Panics
///
/// With the panic of a signer or another callback in the handshake.
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

/// Accepts TLS connections on [workers](asyncjob_tokio::Workers): see [`TlsAcceptor::pinned`].
#[derive(Clone, Debug)]
pub struct PinnedTlsAcceptor {
    acceptor: TlsAcceptor,
    workers: Handle,
}

impl PinnedTlsAcceptor {
    /// The handshake on `stream`. Dropping the future cancels it.
    ///
    /// # Errors
    ///
    /// Of the handshake, and when the workers have ended or a callback in the handshake has panicked.
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
