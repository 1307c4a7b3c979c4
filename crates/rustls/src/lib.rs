//! Private keys for rustls that pause instead of blocking.
//!
//! `rustls` calls [`Signer::sign`] synchronously, in the middle of a handshake. If the key
//! is slow to reach, because it is in an HSM, in a key service or at a remote signer, that call stalls every connection
//! of its thread. With each handshake in a job it stalls none. `rustls`, `tokio-rustls` and `hyper` stay as they are:
//!
//! ```text
//!   TlsAcceptor::accept     a job:   tokio_rustls handshake -> rustls -> Signer::sign
//!        |                                                                    |
//!        |                            OffloadedKey   any key, on other threads
//!        |                            AwaitedKey     a future, polled here
//!        |                            your own       anything that pauses: asyncjob::io, an engine's wait fd
//!        v                                                                    |
//!     pending while the job is paused                        <------------- pause
//! ```
//!
//! | the key is | use |
//! |---|---|
//! | in a PKCS#11 token | `pkcs11::TokenKey` (feature `pkcs11`) in an [`OffloadedKey`] |
//! | behind a library that blocks | its [`SigningKey`] in an [`OffloadedKey`] |
//! | behind an `async fn` | [`AwaitedKey`] |
//!
//! | the certificate is chosen | use |
//! |---|---|
//! | by rustls, or by synchronous code | the resolver of the [`ServerConfig`], as always |
//! | by an `async fn`, during the handshake | [`AwaitedResolver`] |
//! | with the whole configuration, after the `ClientHello` | [`LazyConfigAcceptor`] |
//!
//! # axum
//!
//! The acceptors go into a `tls_listener::TlsListener` (feature `tls-listener`), which `axum::serve` takes. The
//! examples `axum_plain` and `axum_jobs` are the same server without jobs and with them.
//!
//! # Clients
//!
//! A client with a slow key of its own signs in its handshake, too: [`TlsConnector`] is the acceptor's counterpart. A
//! client with a pool (`reqwest`, `hyper-util`) connects on its own account, so a request in a job is not enough. Its
//! connector goes through `PinnedConnectorLayer` (feature `tower`), which puts each connect into a job.
//!
//! # If the compiler says that `HandshakeNeedsPinnedOrSpawnLocal` cannot be sent
//!
//! A job never changes its thread once it has started. So [`Accept`] is not `Send`, and `tokio::spawn` does not take
//! it:
//!
//! ```compile_fail,E0277
//! # fn not_like_this(acceptor: asyncjob_rustls::TlsAcceptor, stream: tokio::net::TcpStream) {
//! tokio::spawn(acceptor.accept(stream));
//! # }
//! ```
//!
//! There are two ways out. On a current-thread runtime or a `LocalSet`, use `tokio::task::spawn_local`. On a
//! multi-threaded runtime, use [`TlsAcceptor::pinned`] (or [`TlsConnector::pinned`]), which runs the handshakes on
//! [`Workers`](asyncjob_tokio::Workers):
//!
//! ```
//! # async fn like_this(acceptor: asyncjob_rustls::TlsAcceptor, stream: tokio::net::TcpStream) -> std::io::Result<()> {
//! let workers = asyncjob_tokio::Workers::new(2)?; // once in a program
//! let acceptor = acceptor.pinned(&workers);
//! let task = tokio::spawn(acceptor.accept(stream));
//! let _stream = task.await??; // the first for the task, the second for the handshake
//! # Ok(())
//! # }
//! ```
//!
//! [`ServerConfig`]: https://docs.rs/rustls/0.23/rustls/struct.ServerConfig.html
//! [`Signer::sign`]: https://docs.rs/rustls/0.23/rustls/sign/trait.Signer.html#tymethod.sign
//! [`SigningKey`]: https://docs.rs/rustls/0.23/rustls/sign/trait.SigningKey.html

#![cfg_attr(docsrs, feature(doc_cfg))]

mod acceptor;
mod awaited;
#[cfg(feature = "tower")]
mod connector;
mod der;
mod handshake;
mod in_job;
mod lazy;
mod offloaded;
mod pinned;
#[cfg(feature = "pkcs11")]
pub mod pkcs11;
mod resolver;
mod tls_connector;
#[cfg(feature = "tls-listener")]
mod tls_listener;

pub use acceptor::{Accept, FallibleAccept, TlsAcceptor};
pub use awaited::AwaitedKey;
#[cfg(feature = "tower")]
pub use connector::{PinnedConnecting, PinnedConnector, PinnedConnectorLayer};
pub use der::ecdsa_signature;
pub use in_job::HandshakeNeedsPinnedOrSpawnLocal;
pub use lazy::{LazyConfigAcceptor, StartHandshake};
pub use offloaded::OffloadedKey;
pub use pinned::{
    PinnedAccept, PinnedConnect, PinnedFallibleAccept, PinnedFallibleConnect, PinnedStartHandshake, PinnedTlsAcceptor,
    PinnedTlsConnector,
};
pub use resolver::AwaitedResolver;
pub use tls_connector::{Connect, FallibleConnect, TlsConnector};

/// An error that is not one of rustls, in an error of rustls. It keeps its type.
fn other(error: impl std::error::Error + Send + Sync + 'static) -> rustls::Error {
    rustls::Error::Other(rustls::OtherError(std::sync::Arc::new(error)))
}

/// The README's code compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// That of the guide compiles.
#[cfg(all(doctest, feature = "pkcs11"))]
#[doc = include_str!("../../../docs/guide/hsm.md")]
struct Guide;
