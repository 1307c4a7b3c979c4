//! TLS of the crate [`openssl`] whose engines and providers pause instead of blocking.
//!
//! An engine or a provider that supports OpenSSL's `ASYNC_JOB` (a QAT card, an HSM, a key in another process) gives the
//! processor away while it works, if it runs in a job. With this crate it runs in a job of [`asyncjob`], and the thread
//! serves the other connections: under tokio, or on asyncjob's own scheduler.
//!
//! ```text
//!   tokio task -> SslStream::accept -> job: SSL_accept -> provider: sign -> ASYNC_pause_job
//!        ^                                                                     |
//!        '------ woken by the provider's wait fd or callback  <----------------'
//! ```
//!
//! | on | use |
//! |---|---|
//! | tokio, one thread or a `LocalSet` | [`TlsAcceptor::accept`], [`connect`], [`SslStream`] |
//! | tokio, several threads | [`TlsAcceptor::accept_on`], or whole connections on [`asyncjob_tokio::Workers`] |
//! | asyncjob's scheduler | [`job`], and `openssl`'s own streams over [`asyncjob::io::Pausing`] |
//!
//! # What a program has to do
//!
//! 1. Link OpenSSL dynamically: without the feature `vendored` of the crate `openssl`.
//! 2. Export the functions of `asyncjob_capi` from the executable, with this line in `build.rs`:
//!
//!    ```
//!    println!(
//!        "cargo::rustc-link-arg=-Wl,--export-dynamic-symbol=ASYNC_*,--export-dynamic-symbol=OPENSSL_thread_stop,\
//!         --export-dynamic-symbol=OSSL_LIB_CTX_set0_default"
//!    );
//!    ```
//! 3. Call [`check`] when it starts. It says whether OpenSSL binds to these functions, and what to do otherwise.
//!    Without it engines see no job and block, as if this crate was not there.
//!
//! # A key that pauses
//!
//! Nothing changes for the key: it is the `PKey` that the engine or the provider gives. A server sets it with
//! `SslContextBuilder::set_private_key`. An engine that does not know jobs blocks, as before.
//!
//! # On the scheduler
//!
//! ```no_run
//! use asyncjob::io::Pausing;
//! use asyncjob::scheduler::Scheduler;
//! use openssl::ssl::SslAcceptor;
//! use std::io::Write;
//! use std::net::TcpStream;
//!
//! fn serve(scheduler: &Scheduler, acceptor: SslAcceptor, stream: TcpStream) -> std::io::Result<()> {
//!     let job = asyncjob_openssl::job().spawn_on(scheduler, move || {
//!         let stream = Pausing::new(stream)?;
//!         let mut stream = acceptor.accept(stream).map_err(|_| std::io::Error::other("the handshake failed"))?;
//!         stream.write_all(b"hello") // pauses for the socket, and for the engine
//!     });
//!     job.map_err(std::io::Error::other)?.detach();
//!     Ok(())
//! }
//! ```
//!
//! # Errors of other connections
//!
//! OpenSSL has one error queue for each thread. The jobs of this crate have [`ErrorQueue`], so that the errors of one
//! connection do not break another one.

mod acceptor;
mod error_queue;
mod operation;
mod stream;

pub use acceptor::{TlsAcceptor, connect};
pub use asyncjob_capi::{NotBound, check};
pub use error_queue::ErrorQueue;
pub use stream::{Error, SslStream};

use asyncjob::JobBuilder;

/// Describes a job in which OpenSSL is called: it keeps its errors apart from those of the other jobs of the thread.
///
/// ```
/// use openssl::sha::sha256;
///
/// let step = asyncjob_openssl::job().start(|| sha256(b"data"))?;
/// let asyncjob::Step::Finished(digest) = step else { panic!() };
/// assert_eq!(digest[0], 0x3a);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
pub fn job() -> JobBuilder<'static, ErrorQueue> {
    operation::job(None)
}

/// The README's code compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The program of the guide compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guide/openssl-engine.md")]
struct Guide;
