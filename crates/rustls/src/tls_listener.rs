//! The acceptors, for the listeners of `tls-listener`, which `axum::serve` takes.

use std::io;

use tls_listener::AsyncTls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;

use crate::{Accept, PinnedAccept, PinnedTlsAcceptor, TlsAcceptor};

/// For `axum::serve`, on any runtime: axum wants futures that are `Send`.
impl<IO> AsyncTls<IO> for PinnedTlsAcceptor
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = TlsStream<IO>;
    type Error = io::Error;
    type AcceptFuture = PinnedAccept<IO>;

    fn accept(&self, stream: IO) -> PinnedAccept<IO> {
        PinnedTlsAcceptor::accept(self, stream)
    }
}

/// For a loop of your own on a `LocalSet` or a current-thread runtime.
impl<IO> AsyncTls<IO> for TlsAcceptor
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    type Stream = TlsStream<IO>;
    type Error = io::Error;
    type AcceptFuture = Accept<IO>;

    fn accept(&self, stream: IO) -> Accept<IO> {
        TlsAcceptor::accept(self, stream)
    }
}
