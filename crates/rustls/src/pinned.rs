//! Handshakes on workers, for tasks that move between threads.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use asyncjob_tokio::Handle;
use rustls::client::ClientConnection;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{client, server};

use crate::acceptor::{Accept, TlsAcceptor};
use crate::in_job::{Fallible, OnWorker, poll_on_worker, without_connection};
use crate::lazy::StartHandshake;
use crate::tls_connector::TlsConnector;

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
    task: OnWorker<server::TlsStream<IO>, IO>,
}

impl<IO: Send + 'static> PinnedAccept<IO> {
    fn on(workers: &Handle, begin: impl FnOnce() -> Accept<IO> + Send + 'static) -> Self {
        PinnedAccept {
            task: workers.spawn_task(|| begin().into_fallible()),
        }
    }

    /// The same handshake. When it fails, it gives the connection back with the error.
    pub fn into_fallible(self) -> PinnedFallibleAccept<IO> {
        PinnedFallibleAccept { task: self.task }
    }
}

impl<IO> Future for PinnedAccept<IO> {
    type Output = io::Result<server::TlsStream<IO>>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        poll_on_worker(&mut self.task, task).map(without_connection)
    }
}

/// As [`PinnedAccept`], but a handshake that fails gives its connection back: see [`PinnedAccept::into_fallible`].
///
/// The client has been told of the error by then. There is no connection if the handshake has no result, for instance
/// because the workers have ended: the connection was with them.
#[must_use = "dropping the future cancels the handshake"]
pub struct PinnedFallibleAccept<IO> {
    task: OnWorker<server::TlsStream<IO>, IO>,
}

impl<IO> Future for PinnedFallibleAccept<IO> {
    type Output = Fallible<server::TlsStream<IO>, IO>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        poll_on_worker(&mut self.task, task)
    }
}

/// Makes TLS connections on [`Workers`](asyncjob_tokio::Workers): see [`TlsConnector::pinned`].
#[derive(Clone, Debug)]
pub struct PinnedTlsConnector {
    connector: TlsConnector,
    workers: Handle,
}

impl PinnedTlsConnector {
    pub(crate) fn new(connector: TlsConnector, workers: Handle) -> Self {
        PinnedTlsConnector { connector, workers }
    }

    /// The configuration of rustls that the handshakes use.
    pub fn config(&self) -> &Arc<ClientConfig> {
        self.connector.config()
    }

    /// Begins the handshake on `stream`, with the server of this name. Dropping the future cancels it.
    pub fn connect<IO>(&self, name: ServerName<'static>, stream: IO) -> PinnedConnect<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.connect_with(name, stream, |_| ())
    }

    /// Begins the handshake on `stream`. `look` is called on the worker, with the connection, before the handshake
    /// begins.
    pub fn connect_with<IO, F>(&self, name: ServerName<'static>, stream: IO, look: F) -> PinnedConnect<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: FnOnce(&mut ClientConnection) + Send + 'static,
    {
        let connector = self.connector.clone();
        let begin = move || connector.connect_with(name, stream, look).into_fallible();
        PinnedConnect {
            task: self.workers.spawn_task(begin),
        }
    }
}

/// A client's handshake on a worker: see [`TlsConnector::pinned`]. It has begun. Dropping the future cancels it.
///
/// # Errors
///
/// The errors of the handshake, as from [`Connect`](crate::Connect). When the workers have ended, and when a callback
/// in the handshake has panicked, the error holds a [`JoinError`](asyncjob_tokio::JoinError).
#[must_use = "dropping the future cancels the handshake"]
pub struct PinnedConnect<IO> {
    task: OnWorker<client::TlsStream<IO>, IO>,
}

impl<IO> PinnedConnect<IO> {
    /// The same handshake. When it fails, it gives the connection back with the error.
    pub fn into_fallible(self) -> PinnedFallibleConnect<IO> {
        PinnedFallibleConnect { task: self.task }
    }
}

impl<IO> Future for PinnedConnect<IO> {
    type Output = io::Result<client::TlsStream<IO>>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        poll_on_worker(&mut self.task, task).map(without_connection)
    }
}

/// As [`PinnedConnect`], but a handshake that fails gives its connection back: see [`PinnedConnect::into_fallible`].
///
/// The server has been told of the error by then. There is no connection if the handshake has no result, for instance
/// because the workers have ended: the connection was with them.
#[must_use = "dropping the future cancels the handshake"]
pub struct PinnedFallibleConnect<IO> {
    task: OnWorker<client::TlsStream<IO>, IO>,
}

impl<IO> Future for PinnedFallibleConnect<IO> {
    type Output = Fallible<client::TlsStream<IO>, IO>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        poll_on_worker(&mut self.task, task)
    }
}

/// `derive` would ask for an `IO` that is `Debug`.
macro_rules! debug {
    ($($future:ident),+) => {$(
        impl<IO> fmt::Debug for $future<IO> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($future)).field("task", &self.task).finish()
            }
        }
    )+};
}

debug!(PinnedAccept, PinnedFallibleAccept, PinnedConnect, PinnedFallibleConnect);

const _: () = {
    const fn is_portable<T: Send + 'static>() {}
    is_portable::<PinnedTlsAcceptor>();
    is_portable::<PinnedStartHandshake<u8>>();
    is_portable::<PinnedAccept<u8>>();
    is_portable::<PinnedFallibleAccept<u8>>();
    is_portable::<PinnedTlsConnector>();
    is_portable::<PinnedConnect<u8>>();
    is_portable::<PinnedFallibleConnect<u8>>();
};
