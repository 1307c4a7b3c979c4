//! Both ends of connections in memory, and signers that answer when a test tells them to.
#![allow(dead_code, reason = "each test uses a part")]

use std::error::Error;
use std::future::Future;
use std::io;
use std::ops::DerefMut;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, ThreadId};

use asyncjob::offload::Offload;
use asyncjob::pool;
use asyncjob_rustls::{AwaitedKey, OffloadedKey, TlsAcceptor};
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, ConnectionCommon, RootCertStore, ServerConfig, SideData,
    SignatureAlgorithm, SignatureScheme, SupportedProtocolVersion,
};
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio_rustls::{TlsConnector, client, server};

pub(crate) const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

/// A certificate and its key in memory.
pub(crate) struct Identity {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: Arc<dyn SigningKey>,
}

impl Identity {
    pub(crate) fn new() -> Identity {
        Identity::with_der().0
    }

    /// With the key as bytes, for another program.
    pub(crate) fn with_der() -> (Identity, Vec<u8>) {
        let pair = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        let certificate = params.self_signed(&pair).unwrap().der().clone();
        let der = pair.serialize_der();
        let key = PrivatePkcs8KeyDer::from(der.clone());
        let key = ring::sign::any_ecdsa_type(&key.into()).unwrap();
        (Identity { certificate, key }, der)
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.key.choose_scheme(&[SCHEME]).unwrap().sign(message).unwrap()
    }

    /// The certificate, with another way to its key.
    pub(crate) fn certified(&self, key: Arc<dyn SigningKey>) -> Arc<CertifiedKey> {
        Arc::new(CertifiedKey::new(vec![self.certificate.clone()], key))
    }

    pub(crate) fn config(
        &self,
        key: Arc<dyn SigningKey>,
        version: &'static SupportedProtocolVersion,
    ) -> Arc<ServerConfig> {
        let resolver = Arc::new(SingleCertAndKey::from(self.certified(key)));
        config(resolver, ring::default_provider(), version)
    }

    pub(crate) fn server(
        &self,
        key: impl SigningKey + 'static,
        version: &'static SupportedProtocolVersion,
    ) -> TlsAcceptor {
        TlsAcceptor::from(self.config(Arc::new(key), version))
    }

    pub(crate) fn client(&self) -> TlsConnector {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .unwrap()
            .with_root_certificates(self.roots())
            .with_no_client_auth();
        TlsConnector::from(Arc::new(config))
    }
}

impl Identity {
    /// A client with this certificate, and another way to its key.
    pub(crate) fn client_with(
        &self,
        key: Arc<dyn SigningKey>,
        version: &'static SupportedProtocolVersion,
    ) -> Arc<ClientConfig> {
        let resolver = SingleCertAndKey::from(self.certified(key));
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(self.roots())
            .with_client_cert_resolver(Arc::new(resolver));
        Arc::new(config)
    }

    /// A server that wants its clients to have this certificate.
    pub(crate) fn wants_certificate(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(ring::default_provider());
        let roots = Arc::new(self.roots());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
        let resolver = SingleCertAndKey::from(self.certified(Arc::clone(&self.key)));
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_cert_resolver(Arc::new(resolver));
        Arc::new(config)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        roots
    }
}

/// A server that gets its certificate from `resolver`.
pub(crate) fn config(
    resolver: Arc<dyn ResolvesServerCert>,
    provider: CryptoProvider,
    version: &'static SupportedProtocolVersion,
) -> Arc<ServerConfig> {
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    Arc::new(config)
}

/// The message that a signer was asked to sign, and where the signature goes.
pub(crate) type Request = (Vec<u8>, oneshot::Sender<io::Result<Vec<u8>>>);

/// A signer that answers when the test tells it to.
#[derive(Clone, Default)]
pub(crate) struct Gate {
    requests: Arc<Mutex<Vec<Request>>>,
    /// Signatures that a handshake waits for.
    waiting: Arc<AtomicU32>,
}

impl Gate {
    pub(crate) fn key(&self) -> AwaitedKey {
        let gate = self.clone();
        AwaitedKey::new(SignatureAlgorithm::ECDSA, [SCHEME], move |_, message| {
            gate.request(message)
        })
    }

    fn request(&self, message: Vec<u8>) -> impl Future<Output = io::Result<Vec<u8>>> + use<> {
        let (sender, answer) = oneshot::channel();
        self.requests.lock().unwrap().push((message, sender));
        let waiting = Counted::new(&self.waiting);
        async move {
            let _waiting = waiting;
            answer.await.expect("the test answers")
        }
    }

    /// Lets the other tasks run until so many signatures have been asked for.
    pub(crate) async fn asked(&self, count: usize) {
        for _ in 0..10_000_000 {
            if self.requests.lock().unwrap().len() >= count {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!(
            "{} of {count} signatures asked for",
            self.requests.lock().unwrap().len()
        );
    }

    pub(crate) fn take(&self) -> Request {
        self.requests.lock().unwrap().pop().expect("a signature was asked for")
    }

    /// Answers a request with the right signature.
    pub(crate) fn sign(&self, identity: &Identity) {
        let (message, answer) = self.take();
        answer.send(Ok(identity.sign(&message))).unwrap();
    }

    /// Answers a request with an error.
    pub(crate) fn fail(&self) {
        self.take().1.send(Err(on_fire())).unwrap();
    }

    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(SeqCst)
    }
}

/// What a signer says that fails.
pub(crate) fn on_fire() -> io::Error {
    io::Error::other("the HSM is on fire")
}

/// A key whose signatures fail.
pub(crate) fn failing_key() -> AwaitedKey {
    let answer = |_, _| async { Err(on_fire()) };
    AwaitedKey::new(SignatureAlgorithm::ECDSA, [SCHEME], answer)
}

/// A key that panics in the job, after a pause.
pub(crate) fn panicking_key() -> AwaitedKey {
    AwaitedKey::new(SignatureAlgorithm::ECDSA, [SCHEME], |_, _| async {
        tokio::task::yield_now().await;
        if true {
            // Without the report of the panic hook.
            resume_unwind(Box::new("a bug in the signer"));
        }
        Ok::<_, io::Error>(vec![])
    })
}

/// The handshake has failed with [`on_fire`].
pub(crate) fn assert_on_fire(error: &io::Error) {
    assert_eq!(of_handshake::<io::Error>(error).to_string(), "the HSM is on fire");
}

/// The error of a signer, whose type it has kept in the error of rustls.
pub(crate) fn of_signer<E: Error + 'static>(error: &rustls::Error) -> &E {
    let rustls::Error::Other(other) = error else {
        panic!("not an error of the signer: {error}")
    };
    other.0.downcast_ref().expect("an error of this type")
}

/// The same, in the error of a handshake.
pub(crate) fn of_handshake<E: Error + 'static>(error: &io::Error) -> &E {
    of_signer(held(error))
}

/// The alert that has ended the client's handshake, or its connection.
pub(crate) fn alert(error: &io::Error) -> AlertDescription {
    match held(error) {
        rustls::Error::AlertReceived(alert) => *alert,
        error => panic!("no alert: {error}"),
    }
}

/// What an error of a handshake holds.
pub(crate) fn held<E: Error + 'static>(error: &io::Error) -> &E {
    let held = error.get_ref().and_then(|error| error.downcast_ref());
    held.unwrap_or_else(|| panic!("not an error of this type: {error:?}"))
}

pub(crate) struct Counted(Arc<AtomicU32>);

impl Counted {
    pub(crate) fn new(counter: &Arc<AtomicU32>) -> Self {
        counter.fetch_add(1, SeqCst);
        Counted(Arc::clone(counter))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

pub(crate) type Accepted = io::Result<server::TlsStream<DuplexStream>>;
pub(crate) type Connected = io::Result<client::TlsStream<DuplexStream>>;

/// Both ends of a connection, each handshake in a task.
pub(crate) fn connect(
    acceptor: &TlsAcceptor,
    connector: &TlsConnector,
) -> (JoinHandle<Accepted>, JoinHandle<Connected>) {
    let (near, far) = duplex(1 << 16);
    (spawn_local(acceptor.accept(near)), connect_to(far, connector))
}

/// The client's end, in a task.
pub(crate) fn connect_to(far: DuplexStream, connector: &TlsConnector) -> JoinHandle<Connected> {
    spawn_local(connector.connect(localhost(), far))
}

pub(crate) fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

/// The stream of a server whose client has sent its first bytes, and the end of that client.
pub(crate) async fn greeted(identity: &Identity) -> (DuplexStream, DuplexStream) {
    let (near, mut far) = duplex(1 << 16);
    far.write_all(&client_hello(identity)).await.unwrap();
    (near, far)
}

/// The same, whose client does not speak TLS.
pub(crate) async fn greeted_in_the_clear() -> (DuplexStream, DuplexStream) {
    let (near, mut far) = duplex(1 << 16);
    far.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    (near, far)
}

/// Runs a test on one thread, and checks that no job is left. Time passes when no task is ready.
pub(crate) fn on_one_thread(test: impl Future<Output = ()>) {
    one_thread(Builder::new_current_thread().start_paused(true), test);
}

/// As [`on_one_thread`], for a test with sockets, or with threads of its own: the clock goes as it does.
pub(crate) fn on_real_time<T>(test: impl Future<Output = T>) -> T {
    one_thread(&mut Builder::new_current_thread(), test)
}

fn one_thread<T>(builder: &mut Builder, test: impl Future<Output = T>) -> T {
    let runtime = builder.enable_all().build().unwrap();
    let result = LocalSet::new().block_on(&runtime, test);
    drop(runtime);
    assert_eq!(pool::stats().in_use, 0, "every job has ended");
    result
}

/// Runs a test beside so many threads, to which `tokio::spawn` gives its tasks.
pub(crate) fn on_threads(threads: usize, test: impl Future<Output = ()>) {
    let mut builder = Builder::new_multi_thread();
    let runtime = builder.worker_threads(threads).enable_all().build().unwrap();
    runtime.block_on(test);
}

/// A function for `accept_with` and `connect_with`, and on which thread it was called.
pub(crate) fn looked<C, D>() -> (impl FnOnce(&mut C) + Send + 'static, Arc<Mutex<Option<ThreadId>>>)
where
    C: DerefMut<Target = ConnectionCommon<D>>,
    D: SideData,
{
    let called_on = Arc::new(Mutex::new(None));
    let look = {
        let called_on = Arc::clone(&called_on);
        move |connection: &mut C| {
            connection.set_buffer_limit(Some(1 << 14));
            *called_on.lock().unwrap() = Some(thread::current().id());
        }
    };
    (look, called_on)
}

/// The first bytes that a client sends.
pub(crate) fn client_hello(identity: &Identity) -> Vec<u8> {
    let config = Arc::clone(identity.client().config());
    let mut client = ClientConnection::new(config, localhost()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// A key that blocks its thread in each signature, as a library for an HSM does, until the test sends an order.
#[derive(Debug)]
pub(crate) struct BlockingKey<K> {
    key: K,
    orders: Arc<Mutex<mpsc::Receiver<Order>>>,
    /// Signatures that were begun.
    begun: Arc<AtomicU32>,
}

pub(crate) enum Order {
    Sign,
    Panic,
}

impl BlockingKey<Arc<dyn SigningKey>> {
    pub(crate) fn new(identity: &Identity) -> (Self, mpsc::Sender<Order>) {
        let (sender, orders) = mpsc::channel();
        let key = BlockingKey {
            key: Arc::clone(&identity.key),
            orders: Arc::new(Mutex::new(orders)),
            begun: Arc::default(),
        };
        (key, sender)
    }

    pub(crate) fn begun(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.begun)
    }
}

impl SigningKey for BlockingKey<Arc<dyn SigningKey>> {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        Some(Box::new(BlockingKey {
            key: self.key.choose_scheme(offered)?,
            orders: Arc::clone(&self.orders),
            begun: Arc::clone(&self.begun),
        }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }
}

impl Signer for BlockingKey<Box<dyn Signer>> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.begun.fetch_add(1, SeqCst);
        // The lock is released before the panic, so that the other signers still get their orders.
        let order = self.orders.lock().unwrap().recv().unwrap();
        match order {
            Order::Sign => self.key.sign(message),
            Order::Panic => panic!("a bug in the library of the HSM"),
        }
    }

    fn scheme(&self) -> SignatureScheme {
        self.key.scheme()
    }
}

pub(crate) fn offloaded(identity: &Identity, threads: usize) -> (OffloadedKey, Offload, mpsc::Sender<Order>) {
    let (key, sender) = BlockingKey::new(identity);
    let pool = Offload::builder().threads(threads).build().unwrap();
    (OffloadedKey::new(Arc::new(key), pool.clone()), pool, sender)
}

/// Lets the other tasks run until `condition` holds.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    for _ in 0..10_000_000 {
        if condition() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("the condition never held");
}

pub(crate) fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
