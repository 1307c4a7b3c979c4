//! Handshakes on workers, for tasks that move between threads.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use asyncjob_tokio::{Handle, JoinHandle};
use rustls::{ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;

use crate::acceptor::{Accept, TlsAcceptor};
use crate::lazy::StartHandshake;

/// Accepts TLS connections on [`Workers`](asyncjob_tokio::Workers): see [`TlsAcceptor::pinned`].
#[derive(Clone, Debug)]
pub struct PinnedTlsAcceptor {
    acceptor: TlsAcceptor,
    workers: Handle,
}

impl PinnedTlsAcceptor {
    pub(crate) fn new(acceptor: TlsAcceptor, workers: Handle) -> Self {
        PinnedTlsAcceptor { acceptor, workers }
    }

    /// The configuration of rustls that the handshakes use.
    pub fn config(&self) -> &Arc<ServerConfig> {
        self.acceptor.config()
    }

    /// Begins the handshake on `stream`. Dropping the future cancels it.
    pub fn accept<IO>(&self, stream: IO) -> PinnedAccept<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.accept_with(stream, |_| ())
    }

    /// Begins the handshake on `stream`. `look` is called on the worker, with the connection, before the handshake
    /// begins.
    pub fn accept_with<IO, F>(&self, stream: IO, look: F) -> PinnedAccept<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: FnOnce(&mut ServerConnection) + Send + 'static,
    {
        let acceptor = self.acceptor.clone();
        PinnedAccept::on(&self.workers, move || acceptor.accept_with(stream, look))
    }
}

/// As [`StartHandshake`], for tasks that move between threads: see [`StartHandshake::pinned`].
#[derive(Debug)]
pub struct PinnedStartHandshake<IO> {
    start: StartHandshake<IO>,
    workers: Handle,
}

impl<IO> PinnedStartHandshake<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    pub(crate) fn new(start: StartHandshake<IO>, workers: Handle) -> Self {
        PinnedStartHandshake { start, workers }
    }

    /// Begins the rest of the handshake, with this configuration. Dropping the future cancels it.
    pub fn into_stream(self, config: Arc<ServerConfig>) -> PinnedAccept<IO> {
        self.into_stream_with(config, |_| ())
    }

    /// As [`into_stream`](Self::into_stream). `look` is called on the worker, in the job, with the connection.
    pub fn into_stream_with<F>(self, config: Arc<ServerConfig>, look: F) -> PinnedAccept<IO>
    where
        F: FnOnce(&mut ServerConnection) + Send + 'static,
    {
        let PinnedStartHandshake { start, workers } = self;
        PinnedAccept::on(&workers, move || start.into_stream_with(config, look))
    }
}

/// A handshake on a worker: see [`TlsAcceptor::pinned`]. It has begun. Dropping the future cancels it.
///
/// # Errors
///
/// The errors of the handshake, as from [`Accept`]. When the workers have ended, and when a callback in the handshake
/// has panicked, the error holds a [`JoinError`](asyncjob_tokio::JoinError).
#[must_use = "dropping the future cancels the handshake"]
pub struct PinnedAccept<IO> {
    task: JoinHandle<Done<IO>>,
}

/// What a [`FallibleAccept`](crate::FallibleAccept) gives.
type Done<IO> = Result<TlsStream<IO>, (io::Error, Option<IO>)>;

impl<IO: Send + 'static> PinnedAccept<IO> {
    fn on(workers: &Handle, begin: impl FnOnce() -> Accept<IO> + Send + 'static) -> Self {
        PinnedAccept {
            task: workers.spawn_task(|| begin().into_fallible()),
        }
    }

    /// The same handshake. When it fails, it gives the connection back with the error.
    pub fn into_fallible(self) -> PinnedFallibleAccept<IO> {
        PinnedFallibleAccept { accept: self }
    }
}

impl<IO> Future for PinnedAccept<IO> {
    type Output = io::Result<TlsStream<IO>>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let done = Pin::new(&mut self.task).poll(task);
        done.map(|outcome| outcome?.map_err(|(error, _)| error))
    }
}

/// As [`PinnedAccept`], but a handshake that fails gives its connection back: see [`PinnedAccept::into_fallible`].
///
/// The client has been told of the error by then. There is no connection if the handshake has no result, for instance
/// because the workers have ended: the connection was with them.
#[must_use = "dropping the future cancels the handshake"]
#[derive(Debug)]
pub struct PinnedFallibleAccept<IO> {
    accept: PinnedAccept<IO>,
}

impl<IO> Future for PinnedFallibleAccept<IO> {
    type Output = Done<IO>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let done = Pin::new(&mut self.accept.task).poll(task);
        done.map(|outcome| outcome.unwrap_or_else(|error| Err((error.into(), None))))
    }
}

impl<IO> fmt::Debug for PinnedAccept<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedAccept").field("task", &self.task).finish()
    }
}

const _: () = {
    const fn is_portable<T: Send + 'static>() {}
    is_portable::<PinnedTlsAcceptor>();
    is_portable::<PinnedStartHandshake<u8>>();
    is_portable::<PinnedAccept<u8>>();
    is_portable::<PinnedFallibleAccept<u8>>();
};
