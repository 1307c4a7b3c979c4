//! Pooled clients with a slow key of their own: a connect that waits for its signature does not stall the thread.
//!
//! What a stall costs is counted in turns of another task of the same thread, while a signature is being made.

mod connections;
#[path = "../examples/support/mutual_tls.rs"]
mod mutual_tls;

use std::error::Error;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use asyncjob::offload::{Offload, OffloadError};
use asyncjob_rustls::{AwaitedKey, OffloadedKey, PinnedConnector, PinnedConnectorLayer};
use asyncjob_testing::Watchdog;
use asyncjob_tokio::{JoinError, Workers};
use connections::{Counted, Identity, Order, failing_key, of_signer, offloaded, on_real_time, panicking_key};
use hyper::StatusCode;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::sign::{Signer, SigningKey};
use rustls::{ClientConfig, SignatureAlgorithm, SignatureScheme};
use tower::{ServiceExt, service_fn};
use tower_layer::Layer;

/// How many turns another task has to have while a signature is being made.
const TURNS: u64 = 1000;

/// A server that asks for the client's certificate, and the two certificates.
struct Server {
    address: SocketAddr,
    identity: Identity,
    client: Identity,
}

impl Server {
    fn start() -> Server {
        let (identity, client) = (Identity::new(), Identity::new());
        let key = identity.certified(identity.key.clone());
        Server {
            address: mutual_tls::start(key, &client.certificate).unwrap(),
            identity,
            client,
        }
    }

    /// The configuration of a client whose signatures `key` makes.
    fn client(&self, key: impl SigningKey + 'static) -> ClientConfig {
        let certified = self.client.certified(Arc::new(key));
        mutual_tls::client_config(&self.identity.certificate, certified).unwrap()
    }

    fn url(&self) -> String {
        format!("https://localhost:{}/", self.address.port())
    }
}

fn reqwest(config: ClientConfig) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .timeout(Duration::from_secs(60))
        .no_proxy()
}

/// A client of `hyper-util`, with the connector of `hyper-rustls` in the layer.
fn pooled(
    config: ClientConfig,
    workers: &Workers,
) -> Client<PinnedConnector<hyper_rustls::HttpsConnector<HttpConnector>>, String> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    let https = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_only()
        .enable_http1()
        .wrap_connector(http);
    let connector = PinnedConnectorLayer::new(workers).layer(https);
    Client::builder(TokioExecutor::new()).build(connector)
}

/// The first cause of this type.
fn cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An io::Error and an error of rustls hold what their `source` leaves out.
        let held = error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
        let other = error.downcast_ref::<rustls::Error>().and_then(|error| match error {
            rustls::Error::Other(other) => Some(&*other.0),
            _ => None,
        });
        next = held
            .map(|error| error as &(dyn Error + 'static))
            .or(other.map(|error| error as &(dyn Error + 'static)))
            .or(error.source());
    }
    None
}

#[test]
fn connects_of_a_pooled_client_wait_for_their_signatures_side_by_side() {
    let _watchdog = Watchdog::new();
    let server = Server::start();
    let workers = Workers::new(1).unwrap();
    let (key, signing, orders) = offloaded(&server.client, 3);
    on_real_time(async {
        let client = reqwest(server.client(key)).connector_layer(PinnedConnectorLayer::new(&workers));
        let client = client.build().unwrap();
        let requests: Vec<_> = (0..3).map(|_| tokio::spawn(client.get(server.url()).send())).collect();
        connections::until(|| signing.stats().running == 3).await;
        (0..3).for_each(|_| orders.send(Order::Sign).unwrap());
        for request in requests {
            let response = request.await.unwrap().unwrap();
            assert_eq!(response.text().await.unwrap(), "hello\n");
        }
    });
}

#[test]
fn a_connect_without_the_layer_says_that_it_is_outside_a_job() {
    let _watchdog = Watchdog::new();
    let server = Server::start();
    let (key, _signing, _orders) = offloaded(&server.client, 1);
    on_real_time(async {
        let client = reqwest(server.client(key)).build().unwrap();
        let error = client.get(server.url()).send().await.unwrap_err();
        assert!(matches!(cause(&error), Some(OffloadError::NotInJob)), "{error:?}");
    });
}

/// What a program says that prints each error of a chain, in the end.
fn last_said(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// The stream is inside the client's own connector, so the server sees an end. The one who asks gets the cause, in what
/// the client says and by its type.
#[test]
fn a_request_whose_signature_fails_says_what_the_signer_says() {
    let _watchdog = Watchdog::new();
    let server = Server::start();
    let workers = Workers::new(1).unwrap();
    on_real_time(async {
        let requests = async |key: fn() -> AwaitedKey| {
            let by_reqwest = reqwest(server.client(key())).connector_layer(PinnedConnectorLayer::new(&workers));
            let error = by_reqwest.build().unwrap().get(server.url()).send().await.unwrap_err();
            let by_hyper = pooled(server.client(key()), &workers).get(server.url().parse().unwrap());
            [Box::from(error), Box::from(by_hyper.await.unwrap_err())] as [Box<dyn Error>; 2]
        };
        for error in requests(failing_key).await {
            assert_eq!(last_said(&*error), "other error: the HSM is on fire");
            let signer = cause::<rustls::Error>(&*error).expect("the error of the handshake");
            assert_eq!(of_signer::<std::io::Error>(signer).to_string(), "the HSM is on fire");
        }
        for error in requests(panicking_key).await {
            assert_eq!(last_said(&*error), "the work panicked: a bug in the signer");
            assert!(matches!(cause(&*error), Some(JoinError::Panicked(_))), "{error:?}");
        }
    });
}

/// A key whose signature waits until another task of the client's thread has had its turns, or has a pause that is long
/// enough for them if that task cannot run.
#[derive(Debug)]
struct TurnsKey<K> {
    key: K,
    turns: Arc<AtomicU64>,
    stalls: bool,
    /// The fewest turns during a signature: the worst stall.
    fewest: Arc<AtomicU64>,
}

impl SigningKey for TurnsKey<Arc<dyn SigningKey>> {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        Some(Box::new(TurnsKey {
            key: self.key.choose_scheme(offered)?,
            turns: Arc::clone(&self.turns),
            stalls: self.stalls,
            fewest: Arc::clone(&self.fewest),
        }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }
}

impl Signer for TurnsKey<Box<dyn Signer>> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let begun = self.turns.load(SeqCst);
        if self.stalls {
            thread::sleep(Duration::from_millis(20));
        } else {
            while self.turns.load(SeqCst) < begun + TURNS {
                thread::yield_now();
            }
        }
        self.fewest.fetch_min(self.turns.load(SeqCst) - begun, SeqCst);
        self.key.sign(message)
    }

    fn scheme(&self) -> SignatureScheme {
        self.key.scheme()
    }
}

/// Makes four requests at once, each on a connection of its own. Returns the fewest turns that another task of the
/// thread had during a signature.
fn worst_stall(in_jobs: bool) -> u64 {
    let server = Server::start();
    let workers = Workers::new(1).unwrap();
    let (turns, fewest) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(u64::MAX)));
    let key = TurnsKey {
        key: server.client.key.clone(),
        turns: Arc::clone(&turns),
        stalls: !in_jobs,
        fewest: Arc::clone(&fewest),
    };
    on_real_time(async {
        let client = match in_jobs {
            true => {
                let key = OffloadedKey::new(Arc::new(key), Offload::new(4).unwrap());
                reqwest(server.client(key)).connector_layer(PinnedConnectorLayer::new(&workers))
            }
            // A key that just blocks: what a client does without this crate.
            false => reqwest(server.client(key)),
        };
        let client = client.build().unwrap();
        let ticking = tokio::spawn(async move {
            loop {
                turns.fetch_add(1, SeqCst);
                tokio::task::yield_now().await;
            }
        });
        let requests: Vec<_> = (0..4).map(|_| tokio::spawn(client.get(server.url()).send())).collect();
        for request in requests {
            assert_eq!(request.await.unwrap().unwrap().status(), StatusCode::OK);
        }
        ticking.abort();
    });
    fewest.load(SeqCst)
}

#[test]
fn a_signature_of_a_connect_stalls_no_other_task_of_the_thread() {
    let _watchdog = Watchdog::new();
    assert_eq!(
        worst_stall(false),
        0,
        "a key that blocks stalls the thread: the control"
    );
    assert!(worst_stall(true) >= TURNS);
}

#[test]
fn a_connection_outlives_the_workers_that_made_it() {
    let _watchdog = Watchdog::new();
    let server = Server::start();
    let workers = Workers::new(1).unwrap();
    let (key, signing, orders) = offloaded(&server.client, 1);
    on_real_time(async {
        let client = pooled(server.client(key), &workers);
        let url: hyper::Uri = server.url().parse().unwrap();
        orders.send(Order::Sign).unwrap();
        let response = client.get(url.clone()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        drop(response);
        drop(workers);
        // On the same connection: there is no worker to make another one.
        connections::until(|| signing.stats().finished == 1).await;
        let response = client.get(url).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(signing.stats().finished, 1);
    });
}

/// A timeout of the one who asks, for instance, drops the connect.
#[test]
fn a_connect_that_is_dropped_is_cancelled_and_one_without_workers_says_so() {
    let _watchdog = Watchdog::new();
    let workers = Workers::new(1).unwrap();
    let waiting = Arc::new(AtomicU32::new(0));
    let connector = PinnedConnectorLayer::new(&workers).layer(service_fn({
        let waiting = Arc::clone(&waiting);
        move |()| {
            let waiting = Counted::new(&waiting);
            async move {
                let _waiting = waiting;
                pending::<Result<(), std::io::Error>>().await
            }
        }
    }));
    on_real_time(async {
        let connects: Vec<_> = (0..3).map(|_| tokio::spawn(connector.clone().oneshot(()))).collect();
        connections::until(|| waiting.load(SeqCst) == 3).await;
        connects[0].abort();
        connections::until(|| waiting.load(SeqCst) == 2).await;
        tokio::task::spawn_blocking(move || drop(workers)).await.unwrap();
        assert_eq!(waiting.load(SeqCst), 0);
        for connect in connects.into_iter().skip(1) {
            let error = connect.await.unwrap().unwrap_err();
            assert!(
                matches!(error.downcast_ref(), Some(JoinError::WorkersEnded)),
                "{error:?}"
            );
        }
        let error = connector.oneshot(()).await.unwrap_err();
        assert!(
            matches!(error.downcast_ref(), Some(JoinError::WorkersEnded)),
            "{error:?}"
        );
    });
}
