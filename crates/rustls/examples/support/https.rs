//! An HTTPS server with hyper, and four ways to wait for a slow private key.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::crypto::ring;
use rustls::sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey};
use rustls::{ServerConfig, SignatureAlgorithm, SignatureScheme};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, Handle};
use tokio::task::{LocalSet, block_in_place, spawn_blocking, spawn_local};
use tokio_rustls::server::TlsStream;

/// The body of every response.
pub(crate) const BODY: &str = "hello\n";

/// How the server waits for a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// In the event loop.
    Inline,
    /// The handshake in a thread of the blocking pool.
    SpawnBlocking,
    /// `block_in_place`, with an [`InPlaceKey`]: the event loop moves to another thread.
    BlockInPlace,
    /// The handshake in a job.
    Job,
}

impl Mode {
    pub(crate) const ALL: [Mode; 4] = [Mode::Inline, Mode::SpawnBlocking, Mode::BlockInPlace, Mode::Job];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Mode::Inline => "inline",
            Mode::SpawnBlocking => "spawn_blocking",
            Mode::BlockInPlace => "block_in_place",
            Mode::Job => "job",
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(name: &str) -> Result<Mode, String> {
        let mode = Mode::ALL.into_iter().find(|mode| mode.name() == name);
        mode.ok_or_else(|| format!("no mode is called {name}: inline, spawn_blocking, block_in_place or job"))
    }
}

/// Serves for ever, with one thread for the event loop. `ready` gets the address.
pub(crate) fn serve(
    mode: Mode,
    key: CertifiedKey,
    port: u16,
    ready: impl FnOnce(SocketAddr) + Send + 'static,
) -> io::Result<()> {
    let accept_all = accept_all(mode, server_config(key), port, ready);
    if mode == Mode::BlockInPlace {
        // A current-thread runtime has no other thread to move to. And what `block_on` runs is on no worker: so, in a
        // task.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        runtime.block_on(async { tokio::spawn(accept_all).await })?
    } else {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, accept_all)
    }
}

/// TLS 1.3, or TLS 1.2 for a key that makes no signatures of TLS 1.3. No tickets, so that every handshake is a full
/// one.
pub(crate) fn server_config(key: CertifiedKey) -> Arc<ServerConfig> {
    let is_rsa = key.key.algorithm() == SignatureAlgorithm::RSA;
    let version = match is_rsa && key.key.choose_scheme(&[SignatureScheme::RSA_PSS_SHA256]).is_none() {
        true => &rustls::version::TLS12,
        false => &rustls::version::TLS13,
    };
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_protocol_versions(&[version]).expect("ring has both");
    let mut config = builder
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

async fn accept_all(
    mode: Mode,
    config: Arc<ServerConfig>,
    port: u16,
    ready: impl FnOnce(SocketAddr),
) -> io::Result<()> {
    let listener = listen(port)?;
    ready(listener.local_addr()?);
    let plain = tokio_rustls::TlsAcceptor::from(Arc::clone(&config));
    let pausing = asyncjob_rustls::TlsAcceptor::from(config); // the one line that changes
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        match mode {
            Mode::Inline => drop(spawn_local(serve_after(plain.accept(stream)))),
            Mode::Job => drop(spawn_local(serve_after(pausing.accept(stream)))),
            Mode::BlockInPlace => drop(tokio::spawn(serve_after(plain.accept(stream)))),
            Mode::SpawnBlocking => {
                let (accept, runtime) = (plain.accept(stream), Handle::current());
                let handshake = spawn_blocking(move || runtime.block_on(accept));
                spawn_local(serve_after(async { handshake.await.map_err(io::Error::other)? }));
            }
        }
    }
}

/// Listens with a queue for as many clients as the benchmark has.
fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], port)))?;
    socket.listen(4096)
}

async fn serve_after(handshake: impl Future<Output = io::Result<TlsStream<TcpStream>>>) {
    // An error is not reported: a client may leave in the handshake or after it.
    let Ok(stream) = handshake.await else { return };
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service_fn(hello))
        .await;
}

async fn hello(_: Request<Incoming>) -> Result<Response<String>, Infallible> {
    Ok(Response::new(BODY.into()))
}

/// Signs with a key that blocks, inside `block_in_place`.
#[derive(Debug)]
pub(crate) struct InPlaceKey<K>(pub(crate) K);

impl SigningKey for InPlaceKey<Arc<dyn SigningKey>> {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let signer = self.0.choose_scheme(offered)?;
        Some(Box::new(InPlaceKey(signer)))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl Signer for InPlaceKey<Box<dyn Signer>> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        block_in_place(|| self.0.sign(message))
    }

    fn scheme(&self) -> SignatureScheme {
        self.0.scheme()
    }
}
