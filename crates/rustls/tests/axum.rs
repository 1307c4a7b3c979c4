//! axum on a listener of ours, with its key in SoftHSM, on both kinds of runtime: HTTP/2, WebSocket, a shutdown that
//! lets requests end, and handshakes that wait for a slow key while other connections are served.
//!
//! The server is the example `axum_jobs`. The README shows its difference to `axum_plain`.

mod connections;
#[path = "../examples/axum_jobs.rs"]
#[allow(dead_code, reason = "the example uses the rest")]
mod jobs;
mod token;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use asyncjob_rustls::pkcs11::TokenKey;
use asyncjob_testing::Watchdog;
use connections::{BlockingKey, Identity, Order, localhost, until};
use futures_util::{SinkExt, StreamExt};
use jobs::{certificate, softhsm};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore};
use softhsm::SoftHsm;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Message;

/// The runtime of `#[tokio::main]`, and of `#[tokio::main(flavor = "current_thread")]`.
fn runtimes() -> [Runtime; 2] {
    [
        Builder::new_multi_thread().worker_threads(2),
        &mut Builder::new_current_thread(),
    ]
    .map(|builder| builder.enable_all().build().unwrap())
}

/// A server that runs as a task.
struct Server {
    address: SocketAddr,
    certificate: CertificateDer<'static>,
    shutdown: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

impl Server {
    async fn start(key: CertifiedKey) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, certificate) = (listener.local_addr().unwrap(), key.cert[0].clone());
        let (shutdown, is_shut_down) = oneshot::channel();
        let ended = tokio::spawn(async move {
            let shut_down = async { is_shut_down.await.unwrap() };
            jobs::serve(listener, key, shut_down).await.unwrap();
        });
        Server {
            address,
            certificate,
            shutdown,
            ended,
        }
    }

    fn url(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://localhost:{}{path}", self.address.port())
    }

    fn trust(&self, protocols: &[&str]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    /// A client with a pool of its own.
    fn client(&self, protocols: &[&str]) -> reqwest::Client {
        let builder = reqwest::Client::builder().tls_backend_preconfigured(self.trust(protocols));
        builder.no_proxy().timeout(Duration::from_secs(60)).build().unwrap()
    }
}

fn in_softhsm() -> (CertifiedKey, TokenKey) {
    let key = SoftHsm::create().unwrap().key("p256").unwrap();
    let certified = certificate::self_signed(Arc::new(key.clone()), key.public_key_bytes()).unwrap();
    (certified, key)
}

#[test]
fn axum_serves_with_its_key_in_a_token() {
    token::alone("axum_serves_with_its_key_in_a_token", || {
        let _watchdog = Watchdog::new();
        let (certified, key) = in_softhsm();
        for runtime in runtimes() {
            let kind = runtime.metrics().num_workers();
            let before = key.session_stats();
            runtime.block_on(async {
                let server = Server::start(certified.clone()).await;
                for (protocols, version) in [
                    (&["h2", "http/1.1"][..], reqwest::Version::HTTP_2),
                    (&["http/1.1"], reqwest::Version::HTTP_11),
                ] {
                    let requests: Vec<_> = (0..10)
                        .map(|_| tokio::spawn(server.client(protocols).get(server.url("https", "/")).send()))
                        .collect();
                    for request in requests {
                        let response = request.await.unwrap().unwrap();
                        assert_eq!(
                            (response.version(), response.status().as_u16()),
                            (version, 200),
                            "{kind}"
                        );
                        assert_eq!(response.text().await.unwrap(), "hello\n");
                    }
                }
                echo(&server).await;
                server.shutdown.send(()).unwrap();
                server.ended.await.unwrap();
            });
            let after = key.session_stats();
            assert_eq!((after.failed, after.in_use), (0, 0), "{before:?} {after:?}");
        }
    });
}

/// A WebSocket, upgraded from HTTP/1.1.
async fn echo(server: &Server) {
    let stream = TcpStream::connect(server.address).await.unwrap();
    let connector = TlsConnector::from(Arc::new(server.trust(&["http/1.1"])));
    let stream = connector.connect(localhost(), stream).await.unwrap();
    let (mut socket, response) = tokio_tungstenite::client_async(server.url("wss", "/ws"), stream)
        .await
        .unwrap();
    assert_eq!(response.status().as_u16(), 101);
    for word in ["one", "two"] {
        socket.send(Message::text(word)).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(word));
    }
    socket.close(None).await.unwrap();
}

/// A key in memory that signs when it is told to, and how many signatures it has begun.
fn gated() -> (CertifiedKey, mpsc::Sender<Order>, Arc<AtomicU32>) {
    let identity = Identity::new();
    let (key, orders) = BlockingKey::new(&identity);
    let begun = key.begun();
    (CertifiedKey::clone(&identity.certified(Arc::new(key))), orders, begun)
}

#[test]
fn handshakes_that_wait_for_the_key_stop_no_other_connection() {
    let _watchdog = Watchdog::new();
    for runtime in runtimes() {
        let (key, orders, begun) = gated();
        runtime.block_on(async {
            let server = Server::start(key).await;
            let served = server.client(&["h2"]);
            orders.send(Order::Sign).unwrap();
            served.get(server.url("https", "/")).send().await.unwrap();
            // More handshakes than the key has threads, and than the runtime has.
            let waiting: Vec<_> = (0..8)
                .map(|_| tokio::spawn(server.client(&["h2"]).get(server.url("https", "/")).send()))
                .collect();
            until(|| begun.load(SeqCst) == 5).await; // one is done, and four threads have one each
            for _ in 0..50 {
                let response = served.get(server.url("https", "/")).send().await.unwrap();
                assert_eq!(response.status().as_u16(), 200);
            }
            assert!(waiting.iter().all(|request| !request.is_finished()));
            (0..8).for_each(|_| orders.send(Order::Sign).unwrap());
            for request in waiting {
                assert_eq!(request.await.unwrap().unwrap().status().as_u16(), 200);
            }
        });
    }
}

#[test]
fn a_graceful_shutdown_ends_connections_and_handshakes() {
    let _watchdog = Watchdog::new();
    for runtime in runtimes() {
        let (key, orders, begun) = gated();
        runtime.block_on(async {
            let server = Server::start(key).await;
            orders.send(Order::Sign).unwrap();
            let stream = TcpStream::connect(server.address).await.unwrap();
            let connector = TlsConnector::from(Arc::new(server.trust(&["http/1.1"])));
            let stream = connector.connect(localhost(), stream).await.unwrap();
            let (mut socket, _) = tokio_tungstenite::client_async(server.url("wss", "/ws"), stream)
                .await
                .unwrap();
            // One handshake waits for its signature, which is being made when the server ends.
            let (client, url) = (server.client(&["h2"]), server.url("https", "/"));
            let waiting = tokio::spawn(client.get(&url).send());
            until(|| begun.load(SeqCst) == 2).await;
            socket.send(Message::text("still here")).await.unwrap();
            server.shutdown.send(()).unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("still here"));
            socket.close(None).await.unwrap();
            orders.send(Order::Sign).unwrap(); // for the thread of the key
            server.ended.await.unwrap();
            waiting.await.unwrap().unwrap_err();
            client.get(&url).send().await.unwrap_err();
        });
    }
}

/// What `diff` says about two files of this crate: the lines that go and the lines that come.
fn difference(old: &str, new: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("diff")
        .args(["-U0", old, new])
        .current_dir(root)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let is_change = |line: &&str| line.starts_with(['+', '-']) && !line.starts_with("+++") && !line.starts_with("---");
    text.lines().filter(is_change).map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_readme_shows_the_difference_of_the_two_servers() {
    let changed = difference("examples/axum_plain.rs", "examples/axum_jobs.rs");
    // Without the two descriptions, at the top.
    let code: String = changed
        .lines()
        .filter(|line| !line[1..].starts_with("//!"))
        .map(|line| format!("{line}\n"))
        .collect();
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (_, after) = readme.split_once("```diff\n").expect("a block with the difference");
    let (shown, _) = after.split_once("```").expect("its end");
    assert_eq!(
        shown, code,
        "the README shows another difference than the programs have"
    );
    assert!(code.lines().count() > 3, "{code}");
}
