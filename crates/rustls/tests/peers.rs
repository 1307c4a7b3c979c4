//! Whatever a peer does, and however its bytes come, a handshake in a job ends as one of `tokio_rustls` ends: the same
//! stream, or the same error, and the peer is told the same.

mod connections;

use std::collections::HashSet;
use std::fs;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use asyncjob::pool;
use asyncjob_rustls::{AwaitedKey, TlsAcceptor, TlsConnector};
use asyncjob_testing::{Watchdog, run_alone};
use connections::{
    Counted, Identity, Order, SCHEME, alert, client_hello, connect_to, localhost, offloaded, on_one_thread,
    on_real_time, until,
};
use rcgen::{CertificateParams, KeyPair};
use rustix::process::{Resource, getrlimit, setrlimit};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::server::{ResolvesServerCertUsingSni, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, SignatureAlgorithm,
    SupportedProtocolVersion,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::timeout;

/// The limit of a test that makes thousands of handshakes or of turns.
const THOUSANDS: Duration = Duration::from_secs(300);

/// A stream that takes and gives so many bytes at a time, is not ready each other time, and may harm what it gives.
struct Narrow<IO> {
    io: IO,
    width: usize,
    is_tired: bool,
    given: usize,
    harm: Harm,
}

#[derive(Clone, Copy, Debug)]
enum Harm {
    None,
    /// The stream ends after so many bytes.
    Cut(usize),
    /// This byte is another one.
    Flip(usize),
}

fn narrow<IO>(io: IO, width: usize, harm: Harm) -> Narrow<IO> {
    Narrow {
        io,
        width,
        is_tired: false,
        given: 0,
        harm,
    }
}

impl<IO: Unpin> Narrow<IO> {
    /// Not ready each other time.
    fn poll_rest(&mut self, task: &mut Context<'_>) -> Poll<()> {
        self.is_tired = !self.is_tired;
        if self.is_tired && self.width != usize::MAX {
            task.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Narrow<IO> {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_rest(task));
        let mut most = this.width.min(buffer.remaining());
        if let Harm::Cut(at) = this.harm {
            most = most.min(at - this.given);
        }
        if most == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut bytes = vec![0; most];
        let mut part = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut this.io).poll_read(task, &mut part))?;
        let part = part.filled_mut();
        if let Harm::Flip(at) = this.harm
            && let Some(byte) = at.checked_sub(this.given).and_then(|at| part.get_mut(at))
        {
            *byte ^= 0x55;
        }
        this.given += part.len();
        buffer.put_slice(part);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Narrow<IO> {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_rest(task));
        let most = self.width.min(bytes.len());
        Pin::new(&mut self.io).poll_write(task, &bytes[..most])
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_rest(task));
        Pin::new(&mut self.io).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(task)
    }
}

/// A key that waits for another task before it signs, for which it must be in a job.
fn slow_key(identity: &Identity) -> Arc<dyn SigningKey> {
    let key = Arc::clone(&identity.key);
    Arc::new(AwaitedKey::new(
        SignatureAlgorithm::ECDSA,
        [SCHEME],
        move |scheme, message| {
            let signer = key.choose_scheme(&[scheme]);
            async move {
                tokio::task::yield_now().await;
                let signed = signer.map(|signer| signer.sign(&message));
                signed.expect("it has the scheme").map_err(io::Error::other)
            }
        },
    ))
}

/// The certificate of `identity`, and so many others behind it.
fn long_chain(identity: &Identity, others: usize, key: Arc<dyn SigningKey>) -> CertifiedKey {
    let mut chain = vec![identity.certificate.clone()];
    let pair = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["other".into()]).unwrap();
    let other = params.self_signed(&pair).unwrap().der().clone();
    chain.resize(others + 1, other);
    CertifiedKey::new(chain, key)
}

/// A server that wants a certificate, and a client that has one. Each end has ALPN, and a chain of this length.
fn both_ends(
    identity: &Identity,
    others: usize,
    keys: [Arc<dyn SigningKey>; 2],
    version: &'static SupportedProtocolVersion,
) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(identity.certificate.clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let [server_key, client_key] = keys;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(long_chain(
            identity, others, server_key,
        ))));
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A server has not done its part until its tickets are written: each client would have to read.
    server.send_tls13_tickets = 0;
    let mut client = ClientConfig::clone(&identity.client_with(Arc::clone(&client_key), version));
    client.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(long_chain(identity, others, client_key)));
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    client.resumption = Resumption::disabled();
    (Arc::new(server), Arc::new(client))
}

/// Chains of 12 and more KiB, which need many writes; both ends sign, and wait for it.
#[test]
fn a_handshake_goes_through_streams_of_any_width() {
    let _watchdog = Watchdog::after(THOUSANDS);
    for version in rustls::ALL_VERSIONS {
        for (width, others) in [(1, 1), (7, 30), (1000, 100), (usize::MAX, 100)] {
            on_one_thread(async {
                let identity = Identity::new();
                let keys = [slow_key(&identity), slow_key(&identity)];
                let (server, client) = both_ends(&identity, others, keys, version);
                let (near, far) = duplex(64);
                let accept = TlsAcceptor::from(server).accept(narrow(near, width, Harm::None));
                let accept = spawn_local(accept);
                let connect = TlsConnector::from(client).connect(localhost(), narrow(far, width, Harm::None));
                let mut connected = connect.await.unwrap();
                connected.write_all(b"request").await.unwrap();
                connected.flush().await.unwrap();
                let mut accepted = accept.await.unwrap().unwrap();
                let mut request = [0; 7];
                accepted.read_exact(&mut request).await.unwrap();
                assert_eq!(&request, b"request");
                let states: [&rustls::CommonState; 2] = [accepted.get_ref().1, connected.get_ref().1];
                for state in states {
                    assert_eq!(state.alpn_protocol(), Some(&b"http/1.1"[..]));
                    assert_eq!(state.protocol_version(), Some(version.version));
                    assert_eq!(state.peer_certificates().unwrap().len(), others + 1);
                }
            });
        }
    }
}

/// What both ends of a handshake say in the end.
async fn outcome<S, C>(
    accept: impl Future<Output = io::Result<S>> + 'static,
    connect: impl Future<Output = io::Result<C>> + 'static,
) -> String
where
    S: 'static,
    C: AsyncRead + Unpin + 'static,
{
    // A length that was changed has an end wait for more. The clock is paused, so nobody waits.
    let connect = spawn_local(timeout(Duration::from_secs(20), async move {
        // A client of TLS 1.3 has done its part before its server notices what is wrong.
        connect.await?.read(&mut [0]).await
    }));
    let accepted = timeout(Duration::from_secs(10), accept)
        .await
        .unwrap_or_else(|late| Err(late.into()));
    let accepted = accepted.map(drop).map_err(said);
    let connected = connect.await.unwrap().unwrap_or_else(|late| Err(late.into()));
    format!("{accepted:?}, {:?}", connected.map_err(said))
}

fn said(error: io::Error) -> String {
    match error.kind() {
        // Whether the other end was gone before this one wrote is a matter of turns.
        io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => "it has ended".into(),
        kind => format!("{kind:?}: {error}"),
    }
}

/// An identity whose signatures have one length, so that each byte of a handshake has its place.
fn ed25519() -> Identity {
    let pair = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let params = CertificateParams::new(vec!["localhost".into()]).unwrap();
    let certificate = params.self_signed(&pair).unwrap().der().clone();
    let key = ring::sign::any_eddsa_type(&pair.serialize_der().into()).unwrap();
    Identity { certificate, key }
}

/// The bytes of one end are cut or changed all over the handshake, but for the `ClientHello`, whose extensions have no
/// order.
#[test]
fn a_handshake_that_is_cut_or_changed_ends_as_with_tokio_rustls() {
    let _watchdog = Watchdog::after(THOUSANDS);
    let identity = ed25519();
    let hello = client_hello(&identity).len() + 64;
    let (mut failed, mut succeeded) = (0, 0);
    for version in rustls::ALL_VERSIONS {
        let keys = [Arc::clone(&identity.key), Arc::clone(&identity.key)];
        let (server, client) = both_ends(&identity, 0, keys, version);
        // A whole handshake is some 900 bytes each way. Beyond that nothing is harmed.
        let cuts = (0..1300)
            .step_by(47)
            .flat_map(|at| [(Harm::Cut(at), true), (Harm::Cut(at), false)]);
        let flips_at_client = (0..1300).step_by(29).map(|at| (Harm::Flip(at), false));
        let flips_at_server = (hello..1300).step_by(29).map(|at| (Harm::Flip(at), true));
        for (harm, at_server) in cuts.chain(flips_at_client).chain(flips_at_server) {
            let ends = || {
                let (near, far) = duplex(1 << 14);
                match at_server {
                    true => (narrow(near, 100, harm), narrow(far, usize::MAX, Harm::None)),
                    false => (narrow(near, usize::MAX, Harm::None), narrow(far, 100, harm)),
                }
            };
            on_one_thread(async {
                let (near, far) = ends();
                let accept = tokio_rustls::TlsAcceptor::from(Arc::clone(&server)).accept(near);
                let connect = tokio_rustls::TlsConnector::from(Arc::clone(&client)).connect(localhost(), far);
                let expected = outcome(accept, connect).await;

                let (near, far) = ends();
                let accept = TlsAcceptor::from(Arc::clone(&server)).accept(near);
                let connect = TlsConnector::from(Arc::clone(&client)).connect(localhost(), far);
                let ours = outcome(accept, connect).await;
                assert_eq!(ours, expected, "{version:?}, {harm:?} at the server: {at_server}");
                match expected.starts_with("Ok") {
                    true => succeeded += 1,
                    false => failed += 1,
                }
            });
        }
    }
    assert!(failed > 100 && succeeded > 25, "{failed} {succeeded}");
}

/// The same `ClientHello`, each of its bytes cut off or changed: the error, and what the client gets.
#[test]
fn a_client_hello_that_is_cut_or_changed_is_answered_as_by_tokio_rustls() {
    let _watchdog = Watchdog::after(THOUSANDS);
    let identity = ed25519();
    let hello = client_hello(&identity);
    let config = identity.config(Arc::clone(&identity.key), &rustls::version::TLS13);
    let (mut errors, mut added) = (HashSet::new(), 0);
    for at in 0..hello.len() {
        for harm in [Harm::Cut(at), Harm::Flip(at)] {
            on_one_thread(async {
                let (near, far) = sent(&hello, harm).await;
                let plain = tokio_rustls::TlsAcceptor::from(Arc::clone(&config)).accept(near);
                let mut expected = (plain.await.map(drop).map_err(said), answer(far).await);

                let (near, far) = sent(&hello, harm).await;
                let accept = TlsAcceptor::from(Arc::clone(&config)).accept(near);
                let error = accept.await.map(drop).map_err(said);
                let told = answer(far).await;
                if expected.1.is_empty() && expected.0 != Err(said(io::ErrorKind::UnexpectedEof.into())) {
                    // rustls has no alert for a few messages that it cannot read. Here there is one.
                    expected.1 = [21, 3, 3, 0, 2, 2, AlertDescription::DecodeError.into()].to_vec();
                    added += 1;
                }
                // `tokio_rustls` writes once, which with this stream is one record. The alert may be behind it.
                assert!(told.starts_with(&expected.1), "{harm:?}: {told:?}, {expected:?}");
                assert_eq!(error, expected.0, "{harm:?}");
                errors.insert(expected);
            });
        }
    }
    assert!(errors.len() > 10 && added > 0, "{added} {errors:?}");
}

/// A client that sends this, and nothing more.
async fn sent(hello: &[u8], harm: Harm) -> (Narrow<DuplexStream>, DuplexStream) {
    let (near, mut far) = duplex(1 << 14);
    far.write_all(hello).await.unwrap();
    far.shutdown().await.unwrap();
    (narrow(near, usize::MAX, harm), far)
}

/// The alert that a client has got, or the types of the records.
async fn answer(mut far: DuplexStream) -> Vec<u8> {
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    if got.first() == Some(&21) {
        return got;
    }
    let (mut types, mut rest) = (Vec::new(), &got[..]);
    while let [kind, _, _, high, low, ..] = *rest {
        types.push(kind);
        rest = &rest[5 + usize::from(u16::from_be_bytes([high, low]))..];
    }
    types
}

/// A client by hand: rustls without a stream.
struct ByHand {
    connection: ClientConnection,
    far: DuplexStream,
}

impl ByHand {
    fn new(config: Arc<ClientConfig>, far: DuplexStream) -> ByHand {
        let connection = ClientConnection::new(config, localhost()).unwrap();
        ByHand { connection, far }
    }

    /// Sends what rustls has queued, all at once.
    async fn send(&mut self) {
        let mut bytes = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut bytes).unwrap();
        }
        self.far.write_all(&bytes).await.unwrap();
    }

    /// Reads until rustls has something to send, or something to read.
    async fn receive(&mut self) -> usize {
        loop {
            let mut bytes = [0; 4096];
            let length = self.far.read(&mut bytes).await.unwrap();
            self.connection.read_tls(&mut &bytes[..length]).unwrap();
            let state = self.connection.process_new_packets().unwrap();
            if state.plaintext_bytes_to_read() > 0 || self.connection.wants_write() || length == 0 {
                return state.plaintext_bytes_to_read();
            }
        }
    }
}

/// The request comes in the same piece as the end of the handshake, and the end of the stream behind it.
#[test]
fn what_comes_with_the_last_flight_is_not_lost() {
    let _watchdog = Watchdog::new();
    on_one_thread(async {
        let identity = Identity::new();
        let config = identity.config(slow_key(&identity), &rustls::version::TLS13);
        let (near, far) = duplex(1 << 16);
        let accept = spawn_local(TlsAcceptor::from(config).accept(near));
        let mut client = ByHand::new(Arc::clone(identity.client().config()), far);
        client.send().await;
        client.receive().await;
        assert!(!client.connection.is_handshaking());
        client.connection.writer().write_all(b"request").unwrap();
        client.connection.send_close_notify();
        client.send().await;
        client.far.shutdown().await.unwrap();
        let mut accepted = accept.await.unwrap().unwrap();
        let mut request = String::new();
        accepted.read_to_string(&mut request).await.unwrap();
        assert_eq!(request, "request");
    });
}

/// In the first flight of a client that comes back, and for which nothing is signed.
#[test]
fn early_data_is_accepted() {
    let _watchdog = Watchdog::new();
    on_one_thread(async {
        let identity = Identity::new();
        let mut server = ServerConfig::clone(&identity.config(slow_key(&identity), &rustls::version::TLS13));
        server.max_early_data_size = 1 << 14;
        let acceptor = TlsAcceptor::from(Arc::new(server));
        let mut client = ClientConfig::clone(identity.client().config());
        client.enable_early_data = true;
        let client = Arc::new(client);
        for expected in [None, Some(&b"early"[..])] {
            let (near, far) = duplex(1 << 16);
            let accept = spawn_local(acceptor.accept(near));
            let mut client = ByHand::new(Arc::clone(&client), far);
            let is_early = client
                .connection
                .early_data()
                .map(|mut early| early.write_all(b"early").unwrap());
            assert_eq!(is_early.is_some(), expected.is_some());
            client.send().await;
            client.receive().await;
            client.send().await;
            let mut accepted = accept.await.unwrap().unwrap();
            assert_eq!(client.connection.is_early_data_accepted(), expected.is_some());
            let mut early = Vec::new();
            if let Some(mut data) = accepted.get_mut().1.early_data() {
                data.read_to_end(&mut early).unwrap();
            }
            assert_eq!(early, expected.unwrap_or_default());
            // With the ticket for the next one.
            accepted.write_all(b"late").await.unwrap();
            accepted.flush().await.unwrap();
            assert_eq!(client.receive().await, 4);
        }
    });
}

/// By the name that the client wants, with keys that are slow.
#[test]
fn a_certificate_is_chosen_by_the_name() {
    let _watchdog = Watchdog::new();
    on_one_thread(async {
        let [first, second] = ["first.example", "second.example"].map(|name| {
            let pair = KeyPair::generate().unwrap();
            let certificate = CertificateParams::new(vec![name.into()]).unwrap();
            let certificate = certificate.self_signed(&pair).unwrap().der().clone();
            let der = rustls::pki_types::PrivatePkcs8KeyDer::from(pair.serialize_der());
            let key = ring::sign::any_ecdsa_type(&der.into()).unwrap();
            (name, Identity { certificate, key })
        });
        let mut resolver = ResolvesServerCertUsingSni::new();
        for (name, identity) in [&first, &second] {
            let certified = CertifiedKey::new(vec![identity.certificate.clone()], slow_key(identity));
            resolver.add(name, certified).unwrap();
        }
        let config = connections::config(Arc::new(resolver), ring::default_provider(), &rustls::version::TLS13);
        let acceptor = TlsAcceptor::from(config);
        for (name, identity) in [&first, &second] {
            let (near, far) = duplex(1 << 16);
            let accept = spawn_local(acceptor.accept(near));
            let connected = identity
                .client()
                .connect((*name).try_into().unwrap(), far)
                .await
                .unwrap();
            let certificates = connected.get_ref().1.peer_certificates();
            assert_eq!(certificates, Some(&[identity.certificate.clone()][..]));
            assert_eq!(accept.await.unwrap().unwrap().get_ref().1.server_name(), Some(*name));
        }
        let (near, far) = duplex(1 << 16);
        let accept = spawn_local(acceptor.accept(near));
        let error = connect_to(far, &first.1.client()).await.unwrap().unwrap_err();
        assert_eq!(alert(&error), AlertDescription::AccessDenied, "there is no localhost");
        accept.await.unwrap().unwrap_err();
    });
}

/// A kernel that encrypts (kTLS) gets the keys of the connection, and both ends have the same.
#[test]
fn the_secrets_of_a_connection_can_be_taken() {
    let _watchdog = Watchdog::new();
    for version in rustls::ALL_VERSIONS {
        on_one_thread(async {
            let identity = Identity::new();
            let (server, client) = both_ends(&identity, 0, [slow_key(&identity), slow_key(&identity)], version);
            let (mut server, mut client) = (ServerConfig::clone(&server), ClientConfig::clone(&client));
            server.enable_secret_extraction = true;
            client.enable_secret_extraction = true;
            let (near, far) = duplex(1 << 16);
            let accept = spawn_local(TlsAcceptor::from(Arc::new(server)).accept(near));
            let connected = TlsConnector::from(Arc::new(client))
                .connect(localhost(), far)
                .await
                .unwrap();
            let accepted = accept.await.unwrap().unwrap();
            let kind = accepted.get_ref().1.handshake_kind();
            assert_eq!(kind, Some(HandshakeKind::Full));
            let near = accepted.into_inner().1.dangerous_extract_secrets().unwrap();
            let far = connected.into_inner().1.dangerous_extract_secrets().unwrap();
            assert_eq!((near.tx.0, near.rx.0), (far.rx.0, far.tx.0), "{version:?}");
        });
    }
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn rude_clients_cost_their_own_handshakes() {
    run_alone("clients_of_six_kinds_that_are_rude");
}

/// And one that is not, after each six.
#[test]
#[ignore = "another test starts it in a process of its own"]
fn clients_of_six_kinds_that_are_rude() {
    let _watchdog = Watchdog::new();
    const ROUNDS: usize = 25;
    on_real_time(async {
        let identity = Identity::new();
        let acceptor = TlsAcceptor::from(identity.config(slow_key(&identity), &rustls::version::TLS13));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let before = open_files();
        let outstanding = Arc::new(AtomicU32::new(0));
        let serving = spawn_local({
            let outstanding = Arc::clone(&outstanding);
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (accept, counted) = (acceptor.accept(stream), Counted::new(&outstanding));
                    spawn_local(async move {
                        let _counted = counted;
                        let mut accepted = timeout(Duration::from_secs(2), accept).await??;
                        accepted.write_all(b"hello").await?;
                        accepted.shutdown().await
                    });
                }
            }
        });
        let hello = client_hello(&identity);
        let mut stalled = Vec::new();
        for _ in 0..ROUNDS {
            for kind in 0..6 {
                let mut stream = TcpStream::connect(address).await.unwrap();
                match kind {
                    0 => {} // leaves at once
                    1 => stream.set_zero_linger().unwrap(),
                    2 => stream.write_all(&hello[..hello.len() / 2]).await.unwrap(),
                    3 => stream.write_all(&hello).await.unwrap(), // leaves during its signature, or before
                    4 => stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap(),
                    _ => {
                        stream.write_all(&hello[..7]).await.unwrap();
                        stalled.push(stream);
                    }
                }
            }
            let stream = TcpStream::connect(address).await.unwrap();
            let mut connected = identity.client().connect(localhost(), stream).await.unwrap();
            let mut answer = String::new();
            connected.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "hello");
        }
        // Those that stall are there until their time is over.
        while outstanding.load(SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(pool::stats().in_use, 0);
        drop(stalled);
        assert_eq!(open_files(), before);
        serving.abort();
    });
}

/// In a process of its own, which is allowed few files.
#[test]
fn a_process_without_a_free_fd_finishes_its_handshakes_and_accepts_later() {
    run_alone("without_a_free_fd");
}

#[test]
#[ignore = "another test starts it in a process of its own"]
fn without_a_free_fd() {
    let _watchdog = Watchdog::new();
    on_real_time(async {
        let identity = Identity::new();
        let (key, pool, orders) = offloaded(&identity, 2);
        let acceptor = identity.server(key, &rustls::version::TLS13);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mut accepting, mut connecting) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            connecting.push(spawn_local(begin_client(address, &identity)));
            let (stream, _) = listener.accept().await.unwrap();
            accepting.push(spawn_local(acceptor.accept(stream)));
        }
        until(|| (pool.stats().running, pool.stats().queued) == (2, 2)).await;
        // A client that is not accepted yet.
        connecting.push(spawn_local(begin_client(address, &identity)));
        tokio::task::yield_now().await;
        let files = use_up_files();
        let error = listener.accept().await.unwrap_err();
        assert_eq!(
            error.raw_os_error(),
            Some(rustix::io::Errno::MFILE.raw_os_error()),
            "{error}"
        );
        // Those that wait for their signatures, and those that have not begun to, need no fd.
        (0..4).for_each(|_| orders.send(Order::Sign).unwrap());
        for accept in accepting {
            accept.await.unwrap().unwrap();
        }
        drop(files);
        let (stream, _) = listener.accept().await.unwrap();
        let accept = spawn_local(acceptor.accept(stream));
        orders.send(Order::Sign).unwrap();
        accept.await.unwrap().unwrap();
        for connect in connecting {
            connect.await.unwrap().unwrap();
        }
    });
}

fn begin_client(
    address: SocketAddr,
    identity: &Identity,
) -> impl Future<Output = io::Result<tokio_rustls::client::TlsStream<TcpStream>>> + use<> {
    let connector = identity.client();
    async move { connector.connect(localhost(), TcpStream::connect(address).await?).await }
}

fn use_up_files() -> Vec<fs::File> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(256);
    setrlimit(Resource::Nofile, limit).unwrap();
    std::iter::from_fn(|| fs::File::open("/dev/null").ok()).collect()
}
