//! Private keys for rustls that pause instead of blocking.
//!
//! `rustls` calls [`Signer::sign`](rustls::sign::Signer::sign) synchronously, in the middle of a handshake. If the key is slow to
//! reach, in an HSM, a key service, a remote signer, that call stalls every connection of its thread. With each handshake in a
//! job it does not, and `rustls`, `tokio-rustls` and `hyper` stay as they are:
//!
//! ```text
//!   TlsAcceptor::accept     a job:   tokio_rustls handshake -> rustls -> Signer::sign
//!        |                                                                    |
//!        |                            OffloadedKey   any key, on other threads
//!        |                            AwaitedKey     a future, polled here
//!        |                            your own       anything that pauses: asyncjob::io, an engine's wait fd
//!        v                                                                    |
//!     pending while it is paused                             <------------- pause
//! ```
//!
//! | the key is | use |
//! |---|---|
//! | a PKCS#11 token's | `pkcs11::TokenKey` (feature `pkcs11`) in an [`OffloadedKey`] |
//! | behind a library that blocks | its [`SigningKey`](rustls::sign::SigningKey) in an [`OffloadedKey`] |
//! | behind an `async fn` | [`AwaitedKey`] |
//!
//! Clients with a slow key of their own need no type from here: `asyncjob_tokio::in_job(connector.connect(name, stream))`.

mod acceptor;
mod awaited;
mod der;
mod offloaded;
#[cfg(feature = "pkcs11")]
pub mod pkcs11;

pub use acceptor::{Accept, PinnedTlsAcceptor, TlsAcceptor};
pub use awaited::AwaitedKey;
pub use der::ecdsa_signature;
pub use offloaded::OffloadedKey;

/// The README's code compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
