//! A configuration or a certificate that is chosen after the `ClientHello`, also by asynchronous code: the handshakes
//! are in jobs all the same.

mod connections;

use std::io;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};

use asyncjob::pool;
use asyncjob::waiting::AwaitError;
use asyncjob_rustls::{AwaitedResolver, LazyConfigAcceptor, StartHandshake, TlsAcceptor};
use asyncjob_testing::Watchdog;
use asyncjob_tokio::Workers;
use connections::{
    Gate, Identity, alert, client_hello, config, connect, connect_to, localhost, of_handshake, on_one_thread,
};
use rustls::crypto::ring;
use rustls::server::{Acceptor, ClientHello};
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, ServerConnection};
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
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
                let (message, answer) = gate.take();
                answer.send(Ok(identity.sign(&message))).unwrap();
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
            let (near, mut far) = duplex(1 << 16);
            far.write_all(&client_hello(&identity)).await.unwrap();
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
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
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
        let (message, answer) = gate.take();
        answer.send(Ok(identity.sign(&message))).unwrap();
        accept.await.unwrap().unwrap();
        connect.await.unwrap().unwrap();
        assert_ne!(looked.lock().unwrap().expect("it was called"), thread::current().id());
    });
}

/// A function for `accept_with`, and on which thread it was called.
fn looked() -> (
    impl FnOnce(&mut ServerConnection) + Send + 'static,
    Arc<Mutex<Option<ThreadId>>>,
) {
    let called_on = Arc::new(Mutex::new(None));
    let look = {
        let called_on = Arc::clone(&called_on);
        move |connection: &mut ServerConnection| {
            connection.set_buffer_limit(Some(1 << 14));
            *called_on.lock().unwrap() = Some(thread::current().id());
        }
    };
    (look, called_on)
}

#[test]
fn a_pinned_acceptor_has_what_the_one_of_tokio_rustls_has() {
    let _watchdog = Watchdog::new();
    let identity = Identity::new();
    let workers = Workers::new(1).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let config = identity.config(identity.key.clone(), &rustls::version::TLS13);
        let plain = tokio_rustls::TlsAcceptor::from(Arc::clone(&config));
        let acceptor = TlsAcceptor::from(plain);
        assert!(Arc::ptr_eq(acceptor.config(), &config));
        let acceptor = acceptor.pinned(&workers);
        assert!(Arc::ptr_eq(acceptor.config(), &config));

        let (near, far) = duplex(1 << 16);
        let connect = tokio::spawn(identity.client().connect(localhost(), far));
        let (look, looked) = looked();
        tokio::spawn(acceptor.accept_with(near, look)).await.unwrap().unwrap();
        connect.await.unwrap().unwrap();
        assert_ne!(looked.lock().unwrap().expect("it was called"), thread::current().id());

        let (near, mut far) = duplex(1 << 16);
        far.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let accept = tokio::spawn(acceptor.accept(near).into_fallible());
        let (error, connection) = accept.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("corrupt message"), "{error}");
        connection.expect("the job has a result");
        drop(workers);
        let (near, _far) = duplex(1 << 16);
        let (_, connection) = acceptor.accept(near).into_fallible().await.unwrap_err();
        assert!(connection.is_none(), "it was on its way to the workers");
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
                let (message, answer) = gate.take();
                answer.send(Ok(identity.sign(&message))).unwrap();
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
            let (near, mut far) = duplex(1 << 16);
            far.write_all(&client_hello(&identity)).await.unwrap();
            let error = plain.accept(near).await.unwrap_err();
            assert!(matches!(of_handshake(&error), AwaitError::NotInJob), "{error}");
        });
    }
}
