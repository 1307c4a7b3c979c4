//! A configuration or a certificate that is chosen after the `ClientHello`, also by asynchronous code: the handshakes
//! are in jobs all the same.

mod connections;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread::{self};

use asyncjob::pool;
use asyncjob::waiting::AwaitError;
use asyncjob_rustls::{AwaitedResolver, LazyConfigAcceptor, StartHandshake, TlsAcceptor};
use asyncjob_testing::Watchdog;
use asyncjob_tokio::Workers;
use connections::{
    Gate, Identity, alert, config, connect, connect_to, greeted, localhost, looked, of_handshake, on_one_thread,
    on_threads,
};
use rustls::AlertDescription;
use rustls::crypto::ring;
use rustls::server::{Acceptor, ClientHello};
use rustls::sign::CertifiedKey;
use tokio::io::{DuplexStream, duplex};
use tokio::task::spawn_local;

async fn start(stream: DuplexStream) -> StartHandshake<DuplexStream> {
    LazyConfigAcceptor::new(Acceptor::default(), stream).await.unwrap()
}

#[test]
fn handshakes_of_a_lazy_server_wait_for_their_signatures_side_by_side() {
    let _watchdog = Watchdog::new();
    for version in rustls::ALL_VERSIONS {
        on_one_thread(async {
            let (identity, gate) = (Identity::new(), Gate::default());
            let (config, connector) = (identity.config(Arc::new(gate.key()), version), identity.client());
            let mut ends = Vec::new();
            for _ in 0..5 {
                let (near, far) = duplex(1 << 16);
                let config = Arc::clone(&config);
                let accept = spawn_local(async move {
                    let start = start(near).await;
                    assert_eq!(start.client_hello().server_name(), Some("localhost"));
                    start.into_stream(config).await
                });
                ends.push((accept, connect_to(far, &connector)));
            }
            gate.asked(5).await;
            assert_eq!(
                (gate.waiting(), pool::stats().in_use),
                (5, 5),
                "all five handshakes wait"
            );
            for _ in 0..5 {
                gate.sign(&identity);
            }
            for (accept, connect) in ends {
                accept.await.unwrap().unwrap();
                connect.await.unwrap().unwrap();
            }
        });
    }
}

/// Why this crate has an acceptor of its own: the one of `tokio_rustls` signs before there is a future to poll in a
/// job.
#[test]
fn a_stream_that_is_begun_outside_the_job_signs_outside_the_job() {
    let _watchdog = Watchdog::new();
    for version in rustls::ALL_VERSIONS {
        on_one_thread(async {
            let (identity, gate) = (Identity::new(), Gate::default());
            let config = identity.config(Arc::new(gate.key()), version);
            let (near, _far) = greeted(&identity).await;
            let start = tokio_rustls::LazyConfigAcceptor::new(Acceptor::default(), near)
                .await
                .unwrap();
            let accept = asyncjob_tokio::in_job(start.into_stream(config));
            let error = accept.await.unwrap().unwrap_err();
            assert!(matches!(of_handshake(&error), AwaitError::NotInJob), "{error}");
        });
    }
}

#[test]
fn a_lazy_handshake_is_begun_on_its_worker() {
    let _watchdog = Watchdog::new();
    let (identity, gate) = (Identity::new(), Gate::default());
    let workers = Workers::new(1).unwrap();
    on_threads(1, async {
        let config = identity.config(Arc::new(gate.key()), &rustls::version::TLS13);
        let (near, far) = duplex(1 << 16);
        let connect = tokio::spawn(identity.client().connect(localhost(), far));
        let (look, looked) = looked();
        // As in a server: the whole of it is one task, which may change its thread.
        let accept = tokio::spawn({
            let workers = workers.handle();
            async move { start(near).await.pinned(workers).into_stream_with(config, look).await }
        });
        gate.asked(1).await;
        gate.sign(&identity);
        accept.await.unwrap().unwrap();
        connect.await.unwrap().unwrap();
        assert_ne!(looked.lock().unwrap().expect("it was called"), thread::current().id());
    });
}

/// What a resolver gives in a test.
#[derive(Clone, Copy, PartialEq)]
enum Found {
    Key,
    Nothing,
    Error,
}

/// A resolver that counts the look-ups that wait, and looks at a gate.
fn resolver(identity: &Identity, gate: &Gate, found: Found, waiting: &Arc<AtomicU32>) -> AwaitedResolver {
    let certified = identity.certified(Arc::new(gate.key()));
    let waiting = Arc::clone(waiting);
    AwaitedResolver::new(
        async move |hello: &ClientHello<'_>| -> io::Result<Option<Arc<CertifiedKey>>> {
            assert_eq!(hello.server_name(), Some("localhost"));
            waiting.fetch_add(1, SeqCst);
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            match found {
                Found::Key => Ok(Some(Arc::clone(&certified))),
                Found::Nothing => Ok(None),
                Found::Error => Err(io::Error::other("the database is away")),
            }
        },
    )
}

#[test]
fn certificates_are_looked_up_side_by_side() {
    let _watchdog = Watchdog::new();
    for version in rustls::ALL_VERSIONS {
        on_one_thread(async {
            let (identity, gate, waiting) = (Identity::new(), Gate::default(), Arc::default());
            let resolver = Arc::new(resolver(&identity, &gate, Found::Key, &waiting));
            let acceptor = TlsAcceptor::from(config(resolver, ring::default_provider(), version));
            let ends: Vec<_> = (0..3).map(|_| connect(&acceptor, &identity.client())).collect();
            gate.asked(3).await;
            assert_eq!(waiting.load(SeqCst), 3);
            for _ in 0..3 {
                gate.sign(&identity);
            }
            for (accept, connect) in ends {
                accept.await.unwrap().unwrap();
                connect.await.unwrap().unwrap();
            }
        });
    }
}

#[test]
fn a_look_up_that_fails_fails_its_handshake_with_its_own_error() {
    let _watchdog = Watchdog::new();
    for version in rustls::ALL_VERSIONS {
        on_one_thread(async {
            let (identity, gate, waiting) = (Identity::new(), Gate::default(), Arc::default());
            let acceptor = |found| {
                let resolver = Arc::new(resolver(&identity, &gate, found, &waiting));
                TlsAcceptor::from(config(resolver, ring::default_provider(), version))
            };
            let (accept, connected) = connect(&acceptor(Found::Error), &identity.client());
            let error = accept.await.unwrap().unwrap_err();
            assert_eq!(of_handshake::<io::Error>(&error).to_string(), "the database is away");
            assert_eq!(
                alert(&connected.await.unwrap().unwrap_err()),
                AlertDescription::InternalError
            );

            let (accept, connected) = connect(&acceptor(Found::Nothing), &identity.client());
            let error = accept.await.unwrap().unwrap_err();
            assert!(
                error.to_string().contains("no server certificate chain resolved"),
                "{error}"
            );
            assert_eq!(
                alert(&connected.await.unwrap().unwrap_err()),
                AlertDescription::AccessDenied
            );

            // Outside a job.
            let plain = tokio_rustls::TlsAcceptor::from(Arc::clone(acceptor(Found::Key).config()));
            let (near, _far) = greeted(&identity).await;
            let error = plain.accept(near).await.unwrap_err();
            assert!(matches!(of_handshake(&error), AwaitError::NotInJob), "{error}");
        });
    }
}
