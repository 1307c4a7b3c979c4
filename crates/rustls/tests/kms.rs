//! A key in a key service: handshakes await its signatures. A service that stops, hangs or is overloaded costs
//! handshakes, whose clients are told, and no other; when it is back, handshakes succeed.
//!
//! Needs the server of the Python package `moto` (`.ci/moto`): without it, the tests are skipped.

#[path = "../examples/support/certificate.rs"]
mod certificate;
mod connections;
#[path = "../examples/support/kms.rs"]
#[allow(dead_code, reason = "the example uses the rest")]
mod kms;
#[path = "../examples/support/moto.rs"]
mod moto;

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use asyncjob::pool;
use asyncjob_rustls::TlsAcceptor;
use asyncjob_testing::Watchdog;
use asyncjob_testing::tools::{MOTO, missing};
use aws_credential_types::Credentials;
use connections::{Identity, alert, connect, of_handshake, on_real_time, until};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use kms::{Account, Kind, Kms, KmsError, Limits};
use moto::Moto;
use rustix::process::{Pid, Signal, kill_process};
use rustls::crypto::ring;
use rustls::{AlertDescription, SupportedProtocolVersion};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, spawn_local};
use tokio_rustls::TlsConnector;

const TLS12: &SupportedProtocolVersion = &rustls::version::TLS12;
const TLS13: &SupportedProtocolVersion = &rustls::version::TLS13;

/// Runs a test on one thread with a clock that runs, because the service is a process. Its client has TLS, too.
fn on_one_thread(test: impl Future<Output = ()>) {
    let _ = ring::default_provider().install_default();
    on_real_time(test);
}

/// A server whose key is in the service, and a client that trusts it.
async fn set_up(
    moto: &Moto,
    limits: Limits,
    version: &'static SupportedProtocolVersion,
) -> (TlsAcceptor, TlsConnector) {
    let (key, public) = Kms::new(&moto.endpoint(), moto.account(), limits)
        .unwrap()
        .key(moto::KEY)
        .await
        .unwrap();
    let key = Arc::new(key);
    let certified = asyncjob_tokio::job({
        let key = key.clone();
        move || certificate::self_signed(key, &public).unwrap()
    });
    let identity = Identity {
        certificate: certified.await.unwrap().cert[0].clone(),
        key: key.clone(),
    };
    (TlsAcceptor::from(identity.config(key, version)), identity.client())
}

/// One handshake. What has failed at the server, if the client was told of it by an alert.
async fn handshake(acceptor: &TlsAcceptor, connector: &TlsConnector) -> io::Result<()> {
    let (accept, connect) = connect(acceptor, connector);
    let (accepted, connected) = (accept.await.unwrap(), connect.await.unwrap());
    match accepted {
        Ok(_) => connected.map(drop),
        Err(error) => {
            assert_eq!(alert(&connected.unwrap_err()), AlertDescription::InternalError);
            Err(error)
        }
    }
}

/// So many handshakes, each in a task.
fn at_once(count: usize, acceptor: &TlsAcceptor, connector: &TlsConnector) -> Vec<JoinHandle<io::Result<()>>> {
    let one = |_| {
        let (acceptor, connector) = (acceptor.clone(), connector.clone());
        spawn_local(async move { handshake(&acceptor, &connector).await })
    };
    (0..count).map(one).collect()
}

/// Makes handshakes until one succeeds.
async fn until_one_succeeds(acceptor: &TlsAcceptor, connector: &TlsConnector) {
    while handshake(acceptor, connector).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Everything that the error of a handshake says.
fn causes(error: &io::Error) -> String {
    let mut next: Option<&dyn Error> = Some(of_handshake::<KmsError>(error));
    let mut text = String::new();
    while let Some(error) = next {
        text += &format!("{error}; ");
        next = error.source();
    }
    text
}

#[test]
fn a_key_service_signs_for_handshakes() {
    if missing(&[MOTO]) {
        return;
    }
    let _watchdog = Watchdog::new();
    for (spec, versions) in [("ECC_NIST_P256", &[TLS13, TLS12][..]), ("RSA_2048", &[TLS12])] {
        let moto = Moto::start(spec).unwrap();
        for version in versions {
            on_one_thread(async {
                let (acceptor, connector) = set_up(&moto, Limits::default(), version).await;
                for handshake in at_once(20, &acceptor, &connector) {
                    handshake.await.unwrap().unwrap();
                }
            });
        }
    }
}

/// Whoever has this secret.
fn account(secret: &str) -> Account {
    Account {
        credentials: Credentials::new("AKIAIOSFODNN7EXAMPLE", secret, None, None, "test"),
        region: "us-east-1".into(),
    }
}

/// The service checks each request by code of AWS (`botocore`).
#[test]
fn a_request_with_a_wrong_signature_is_refused() {
    if missing(&[MOTO]) {
        return;
    }
    let _watchdog = Watchdog::new();
    let moto = Moto::start("ECC_NIST_P256").unwrap();
    on_one_thread(async {
        let kms = Kms::new(&moto.endpoint(), account("a wrong secret"), Limits::default()).unwrap();
        let (identity, key) = (Identity::new(), kms.signing_key(moto::KEY, Kind::P256, vec![]));
        let (acceptor, connector) = (identity.server(key, TLS13), identity.client());
        let error = handshake(&acceptor, &connector).await.unwrap_err();
        assert!(causes(&error).contains("SignatureDoesNotMatch"), "{}", causes(&error));
    });
}

#[test]
fn a_service_that_stops_fails_handshakes_and_not_those_after_its_restart() {
    if missing(&[MOTO]) {
        return;
    }
    let _watchdog = Watchdog::new();
    let mut moto = Moto::start("ECC_NIST_P256").unwrap();
    let limits = Limits {
        failures: 3,
        pause: Duration::from_millis(500),
        ..Limits::default()
    };
    on_one_thread(async {
        let (acceptor, connector) = set_up(&moto, limits, TLS13).await;
        handshake(&acceptor, &connector).await.unwrap();
        moto.stop();
        let mut asked = 0;
        let refused = loop {
            let error = handshake(&acceptor, &connector).await.unwrap_err();
            match of_handshake(&error) {
                KmsError::NotAsked => break error,
                KmsError::Failed(_) => asked += 1,
            }
        };
        assert_eq!(
            asked, limits.failures,
            "the circuit opens, and the service is not asked any more"
        );
        assert!(causes(&refused).contains("failed too often in a row"), "{refused}");
        moto.restart().unwrap();
        until_one_succeeds(&acceptor, &connector).await;
        for _ in 0..10 {
            handshake(&acceptor, &connector).await.unwrap();
        }
    });
}

/// The limits of a client whose circuit does not open, and whose requests may take this time.
fn never_open(time: Duration) -> Limits {
    Limits {
        time,
        pause: Duration::from_millis(100),
        failures: 1000,
        ..Limits::default()
    }
}

#[test]
fn a_service_that_hangs_fails_handshakes_in_time() {
    if missing(&[MOTO]) {
        return;
    }
    let _watchdog = Watchdog::new();
    let moto = Moto::start("ECC_NIST_P256").unwrap();
    // Long enough for a service on a busy machine to give its public key, which has the same limit.
    let limits = never_open(Duration::from_secs(3));
    let process = Pid::from_raw(moto.process().unwrap() as i32).unwrap();
    on_one_thread(async {
        let (acceptor, connector) = set_up(&moto, limits, TLS13).await;
        kill_process(process, Signal::STOP).unwrap();
        let error = handshake(&acceptor, &connector).await.unwrap_err();
        assert!(causes(&error).contains("request timed out"), "{}", causes(&error));
        kill_process(process, Signal::CONT).unwrap();
        until_one_succeeds(&acceptor, &connector).await;
    });
}

/// The process of the service is killed while it has the requests of five handshakes.
#[test]
fn a_service_that_is_killed_during_signatures_fails_their_handshakes_at_once() {
    if missing(&[MOTO]) {
        return;
    }
    let _watchdog = Watchdog::new();
    let mut moto = Moto::start("ECC_NIST_P256").unwrap();
    let limits = never_open(Duration::from_secs(3600));
    let process = Pid::from_raw(moto.process().unwrap() as i32).unwrap();
    on_one_thread(async {
        let (acceptor, connector) = set_up(&moto, limits, TLS13).await;
        kill_process(process, Signal::STOP).unwrap();
        let outstanding = at_once(5, &acceptor, &connector);
        until(|| pool::stats().in_use == 5).await;
        // Their requests are sent, or wait in the kernel for the process.
        tokio::time::sleep(Duration::from_millis(50)).await;
        moto.stop();
        for handshake in outstanding {
            let error = handshake.await.unwrap().unwrap_err();
            assert!(
                causes(&error).contains("the key service has made no signature; error sending request"),
                "{}",
                causes(&error)
            );
        }
        moto.restart().unwrap();
        until_one_succeeds(&acceptor, &connector).await;
    });
}

#[test]
fn a_service_is_asked_for_so_many_signatures_at_a_time() {
    let _watchdog = Watchdog::new();
    on_one_thread(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}/", listener.local_addr().unwrap());
        let (asked, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let service = spawn_local(overloaded(listener, Arc::clone(&asked), Arc::clone(&most)));
        let limits = Limits {
            outstanding: 2,
            time: Duration::from_secs(30),
            failures: 1000,
            ..Limits::default()
        };
        let identity = Identity::new();
        let key = Kms::new(&endpoint, account("none"), limits)
            .unwrap()
            .signing_key("k", Kind::P256, vec![]);
        let (acceptor, connector) = (identity.server(key, TLS13), identity.client());
        for handshake in at_once(10, &acceptor, &connector) {
            let error = handshake.await.unwrap().unwrap_err();
            assert!(causes(&error).contains("Throttling"), "{}", causes(&error));
        }
        assert_eq!((asked.load(SeqCst), most.load(SeqCst)), (10, 2));
        service.abort();
    });
}

/// A service that refuses each request after a while. Counts the requests, and the most at a time.
async fn overloaded(listener: TcpListener, asked: Arc<AtomicUsize>, most: Arc<AtomicUsize>) {
    let now = Arc::new(AtomicUsize::new(0));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (asked, most, now) = (Arc::clone(&asked), Arc::clone(&most), Arc::clone(&now));
        let refuse = service_fn(move |_: Request<_>| {
            asked.fetch_add(1, SeqCst);
            most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            let now = Arc::clone(&now);
            async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                now.fetch_sub(1, SeqCst);
                let body = String::from(r#"{"__type": "ThrottlingException"}"#);
                Ok::<_, Infallible>(Response::builder().status(400).body(body).unwrap())
            }
        });
        spawn_local(async move {
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), refuse)
                .await;
        });
    }
}
