//! The server: hyper over TLS, with one of four ways to wait for the private key.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use asyncjob_rustls::AwaitedKey;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey};
use rustls::{ServerConfig, SignatureAlgorithm, SignatureScheme};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, Handle};
use tokio::task::{LocalSet, block_in_place, spawn_blocking, spawn_local};
use tokio_rustls::server::TlsStream;

use crate::machine;

/// How the server waits for a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// In the event loop.
    Inline,
    /// The handshake in a thread of the blocking pool.
    SpawnBlocking,
    /// `block_in_place`: the event loop moves to another thread.
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
        mode.ok_or_else(|| format!("no mode is called {name}"))
    }
}

/// Serves until its input ends. Prints its address first.
pub(crate) fn serve(mode: Mode, latency: Duration) -> Result<(), Box<dyn Error>> {
    machine::stay_on_core(0)?;
    machine::raise_fd_limit()?;
    // An own thread: a runtime's stdin would add a blocking thread to some modes and not to others.
    thread::spawn(|| {
        let _ = io::stdin().lock().read_line(&mut String::new());
        std::process::exit(0);
    });
    match mode {
        Mode::BlockInPlace => {
            let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
            // In a task: what `block_on` runs is not on a worker.
            runtime.block_on(async { tokio::spawn(accept_all(mode, latency)).await })??;
        }
        _ => {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            LocalSet::new().block_on(&runtime, accept_all(mode, latency))?;
        }
    }
    Ok(())
}

fn accept_all(mode: Mode, latency: Duration) -> impl Future<Output = io::Result<()>> + Send {
    let (certificate, key) = identity();
    let key: Arc<dyn SigningKey> = match mode {
        Mode::Inline | Mode::SpawnBlocking => Arc::new(SlowKey {
            key,
            wait: Wait::Block,
            latency,
        }),
        Mode::BlockInPlace => Arc::new(SlowKey {
            key,
            wait: Wait::InPlace,
            latency,
        }),
        Mode::Job => Arc::new(awaited(key, latency)),
    };
    let certified = CertifiedKey::new(vec![certificate], key);
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring has TLS 1.3");
    let mut config = builder
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.send_tls13_tickets = 0; // every handshake is to be a full one
    let config = Arc::new(config);
    async move {
        let listener = listen()?;
        println!("{}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            match mode {
                Mode::Inline => drop(spawn_local(serve_after(tokio_acceptor(&config).accept(stream)))),
                Mode::Job => drop(spawn_local(serve_after(job_acceptor(&config).accept(stream)))),
                Mode::BlockInPlace => drop(tokio::spawn(serve_after(tokio_acceptor(&config).accept(stream)))),
                Mode::SpawnBlocking => {
                    let accept = tokio_acceptor(&config).accept(stream);
                    let runtime = Handle::current();
                    let handshake = spawn_blocking(move || runtime.block_on(accept));
                    spawn_local(serve_after(async { handshake.await.map_err(io::Error::other)? }));
                }
            }
        }
    }
}

fn tokio_acceptor(config: &Arc<ServerConfig>) -> tokio_rustls::TlsAcceptor {
    tokio_rustls::TlsAcceptor::from(Arc::clone(config))
}

fn job_acceptor(config: &Arc<ServerConfig>) -> asyncjob_rustls::TlsAcceptor {
    asyncjob_rustls::TlsAcceptor::from(Arc::clone(config))
}

fn listen() -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    socket.listen(4096)
}

async fn serve_after(handshake: impl Future<Output = io::Result<TlsStream<TcpStream>>>) {
    // A client that leaves, in the handshake or after it, is no news.
    let Ok(stream) = handshake.await else { return };
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service_fn(hello))
        .await;
}

async fn hello(_: Request<Incoming>) -> Result<Response<String>, Infallible> {
    Ok(Response::new("hello\n".into()))
}

fn identity() -> (CertificateDer<'static>, Arc<dyn SigningKey>) {
    let pair = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".into()]).expect("a name");
    let certificate = params.self_signed(&pair).expect("a certificate").der().clone();
    let key = PrivatePkcs8KeyDer::from(pair.serialize_der());
    (
        certificate,
        ring::sign::any_ecdsa_type(&key.into()).expect("the key that was just made"),
    )
}

fn awaited(key: Arc<dyn SigningKey>, latency: Duration) -> AwaitedKey {
    const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;
    AwaitedKey::new(SignatureAlgorithm::ECDSA, [SCHEME], move |scheme, message| {
        let key = Arc::clone(&key);
        async move {
            if latency > Duration::ZERO {
                tokio::time::sleep(latency).await;
            }
            key.choose_scheme(&[scheme])
                .ok_or(fmt::Error)
                .map(|signer| signer.sign(&message))?
                .map_err(|_| fmt::Error)
        }
    })
}

/// A key in memory that blocks first.
#[derive(Clone, Debug)]
struct SlowKey<K> {
    key: K,
    wait: Wait,
    latency: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Wait {
    Block,
    InPlace,
}

impl SigningKey for SlowKey<Arc<dyn SigningKey>> {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let &SlowKey { wait, latency, .. } = self;
        let key = self.key.choose_scheme(offered)?;
        Some(Box::new(SlowKey { key, wait, latency }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }
}

impl Signer for SlowKey<Box<dyn Signer>> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let sign = || {
            if self.latency > Duration::ZERO {
                thread::sleep(self.latency);
            }
            self.key.sign(message)
        };
        match self.wait {
            Wait::Block => sign(),
            Wait::InPlace => block_in_place(sign),
        }
    }

    fn scheme(&self) -> SignatureScheme {
        self.key.scheme()
    }
}

/// Bytes of a response's body, for readers that compare.
pub(crate) const BODY: Bytes = Bytes::from_static(b"hello\n");
