//! A handshake that fails tells the other side, whatever failed: what that side did, a signature of the server or of
//! the client, or the look-up of a certificate.

mod connections;

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use asyncjob_rustls::{LazyConfigAcceptor, TlsAcceptor};
use asyncjob_testing::Watchdog;
use asyncjob_testing::tools::{OPENSSL, missing};
use asyncjob_tokio::{JoinError, Workers};
use connections::{
    Gate, Identity, Order, alert, assert_on_fire, config, connect, connect_to, failing_key, greeted_in_the_clear,
    localhost, offloaded, on_one_thread, on_real_time, on_threads, panicking_key,
};
use rustls::crypto::ring::{self, kx_group};
use rustls::server::Acceptor;
use rustls::sign::SingleCertAndKey;
use rustls::{AlertDescription, ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Makes the one signature that is waited for fail.
async fn fail(gate: &Gate) {
    gate.asked(1).await;
    gate.fail();
}

#[test]
fn a_client_is_told_when_the_signature_fails() {
    let _watchdog = Watchdog::new();
    for version in rustls::ALL_VERSIONS {
        on_one_thread(async {
            let (identity, gate) = (Identity::new(), Gate::default());
            let (accept, connect) = connect(&identity.server(gate.key(), version), &identity.client());
            fail(&gate).await;
            let error = accept.await.unwrap().unwrap_err();
            assert_on_fire(&error);
            let error = connect.await.unwrap().unwrap_err();
            assert_eq!(alert(&error), AlertDescription::InternalError, "{version:?}");
        });
    }
}

#[test]
fn a_client_is_told_when_the_thread_of_a_signature_panics() {
    let _watchdog = Watchdog::new();
    for version in rustls::ALL_VERSIONS {
        on_one_thread(async {
            let identity = Identity::new();
            let (key, _pool, orders) = offloaded(&identity, 1);
            let (accept, connect) = connect(&identity.server(key, version), &identity.client());
            orders.send(Order::Panic).unwrap();
            accept.await.unwrap().unwrap_err();
            let error = connect.await.unwrap().unwrap_err();
            assert_eq!(alert(&error), AlertDescription::InternalError, "{version:?}");
        });
    }
}

/// The task of a handshake has panicked, and the panic is that of the signer.
async fn has_panicked<T: std::fmt::Debug>(task: JoinHandle<T>) {
    let panic = task.await.unwrap_err().into_panic();
    assert_eq!(*panic.downcast::<&str>().unwrap(), "a bug in the signer");
}

#[test]
fn a_client_is_told_when_the_signer_panics_in_the_job() {
    let _watchdog = Watchdog::new();
    for version in rustls::ALL_VERSIONS {
        on_one_thread(async {
            let identity = Identity::new();
            let (accept, connect) = connect(&identity.server(panicking_key(), version), &identity.client());
            has_panicked(accept).await;
            let error = connect.await.unwrap().unwrap_err();
            assert_eq!(alert(&error), AlertDescription::InternalError, "{version:?}");

            let config = identity.config(Arc::new(panicking_key()), version);
            let (near, far) = duplex(1 << 16);
            let connect = connect_to(far, &identity.client());
            let start = LazyConfigAcceptor::new(Acceptor::default(), near).await.unwrap();
            has_panicked(spawn_local(start.into_stream(config))).await;
            let error = connect.await.unwrap().unwrap_err();
            assert_eq!(alert(&error), AlertDescription::InternalError, "lazy, {version:?}");
        });
    }
}

/// On workers, in both forms, when the signature fails and when the signer panics.
#[test]
fn a_client_of_a_pinned_server_is_told_of_both() {
    let _watchdog = Watchdog::new();
    let (identity, workers) = (Identity::new(), Workers::new(1).unwrap());
    for version in rustls::ALL_VERSIONS {
        on_threads(1, async {
            for key in [failing_key(), panicking_key()] {
                let config = identity.config(Arc::new(key), version);
                let acceptor = TlsAcceptor::from(Arc::clone(&config)).pinned(&workers);
                for is_lazy in [false, true] {
                    let (near, far) = duplex(1 << 16);
                    let connect = tokio::spawn(identity.client().connect(localhost(), far));
                    let error = if is_lazy {
                        let start = LazyConfigAcceptor::new(Acceptor::default(), near).await.unwrap();
                        start.pinned(&workers).into_stream(Arc::clone(&config)).await
                    } else {
                        acceptor.accept(near).await
                    };
                    let error = error.unwrap_err();
                    let is_panic = matches!(
                        error.get_ref().and_then(|error| error.downcast_ref()),
                        Some(JoinError::Panicked(panic)) if panic.message() == "a bug in the signer"
                    );
                    let is_failure = error.to_string().contains("the HSM is on fire");
                    assert!(is_panic || is_failure, "{error}");
                    let error = connect.await.unwrap().unwrap_err();
                    assert_eq!(
                        alert(&error),
                        AlertDescription::InternalError,
                        "{version:?}, lazy: {is_lazy}"
                    );
                }
            }
        });
    }
}

/// A timeout drops the handshake in the middle of its signature.
#[test]
fn a_client_is_told_when_the_signature_takes_too_long() {
    let _watchdog = Watchdog::new();
    for version in rustls::ALL_VERSIONS {
        on_one_thread(async {
            let (identity, gate) = (Identity::new(), Gate::default());
            let (near, far) = duplex(1 << 16);
            let accept = identity.server(gate.key(), version).accept(near);
            let accept = spawn_local(timeout(Duration::from_secs(10), accept));
            let connect = connect_to(far, &identity.client());
            gate.asked(1).await;
            accept.await.unwrap().unwrap_err(); // the paused clock advances: no task is ready
            let error = connect.await.unwrap().unwrap_err();
            assert_eq!(alert(&error), AlertDescription::InternalError, "{version:?}");
        });
    }
}

/// A client that sends its `ClientHello` and takes nothing from its server, whose stream has no room for the alert.
#[test]
fn a_client_that_takes_nothing_does_not_hold_a_handshake_that_has_failed() {
    let _watchdog = Watchdog::new();
    on_one_thread(async {
        let (identity, gate) = (Identity::new(), Gate::default());
        let (near, mut far) = duplex(4);
        let mut full = near;
        full.write_all(&[0; 4]).await.unwrap();
        let acceptor = identity.server(gate.key(), &rustls::version::TLS13);
        let accept = spawn_local(acceptor.accept(full));
        far.write_all(&connections::client_hello(&identity)).await.unwrap();
        fail(&gate).await;
        let error = accept.await.unwrap().unwrap_err();
        assert_on_fire(&error);
    });
}

/// A server that wants a certificate, and the error of its handshake with a client.
async fn error_at_the_server<T>(
    identity: &Identity,
    connect: impl FnOnce(tokio::io::DuplexStream) -> T,
) -> (T, io::Error) {
    let (near, far) = duplex(1 << 16);
    let server = tokio_rustls::TlsAcceptor::from(identity.wants_certificate());
    let accept = spawn_local(server.accept(near));
    let connect = connect(far);
    (connect, accept.await.unwrap().unwrap_err())
}

#[test]
fn a_server_is_told_when_the_clients_signature_fails() {
    let _watchdog = Watchdog::new();
    for version in rustls::ALL_VERSIONS {
        on_one_thread(async {
            let (identity, gate) = (Identity::new(), Gate::default());
            let connector = asyncjob_rustls::TlsConnector::from(identity.client_with(Arc::new(gate.key()), version));
            let failing = gate.clone();
            let failing = spawn_local(async move { fail(&failing).await });
            let begin = |far| spawn_local(connector.connect(localhost(), far));
            let (connect, error) = error_at_the_server(&identity, begin).await;
            assert_eq!(alert(&error), AlertDescription::InternalError, "{version:?}");
            let error = connect.await.unwrap().unwrap_err();
            assert_on_fire(&error);
            failing.await.unwrap();

            let connector =
                asyncjob_rustls::TlsConnector::from(identity.client_with(Arc::new(panicking_key()), version));
            let begin = |far| spawn_local(connector.connect(localhost(), far));
            let (connect, error) = error_at_the_server(&identity, begin).await;
            assert_eq!(alert(&error), AlertDescription::InternalError, "a panic, {version:?}");
            has_panicked(connect).await;
        });
    }
}

/// A server of OpenSSL takes the alert, too: in the clear, where the rest of TLS 1.3 is encrypted.
#[test]
fn a_server_of_openssl_is_told_when_the_clients_signature_fails() {
    if missing(&[OPENSSL]) {
        return;
    }
    let _watchdog = Watchdog::new();
    let directory = std::env::temp_dir().join(format!("asyncjob-alerts-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let (identity, key) = Identity::with_der();
    fs::write(directory.join("certificate"), &identity.certificate).unwrap();
    fs::write(directory.join("key"), key).unwrap();
    for version in rustls::ALL_VERSIONS {
        let mut server = Command::new("openssl");
        server.args("s_server -accept 127.0.0.1:0 -naccept 1 -Verify 1".split(' '));
        server.args("-cert certificate -certform DER -key key -keyform DER".split(' '));
        server.current_dir(&directory);
        server.stdin(Stdio::piped()); // the server ends when its input does
        server.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut server = server.spawn().unwrap();
        let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
        let address = lines.find_map(|line| line.unwrap().strip_prefix("ACCEPT ").map(str::to_owned));
        let connector = asyncjob_rustls::TlsConnector::from(identity.client_with(Arc::new(failing_key()), version));
        let error = on_real_time(async {
            let stream = TcpStream::connect(address.unwrap()).await.unwrap();
            connector.connect(localhost(), stream).await.unwrap_err()
        });
        assert_on_fire(&error);
        lines.for_each(drop); // until the server has ended
        let said = server.wait_with_output().unwrap().stderr;
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains("alert internal error"), "{version:?}: {said}");
    }
    fs::remove_dir_all(&directory).unwrap();
}

/// With a configuration that is chosen after the `ClientHello`, rustls fails in another place.
#[test]
fn a_client_of_a_lazy_server_is_told_when_the_signature_fails() {
    let _watchdog = Watchdog::new();
    for version in rustls::ALL_VERSIONS {
        on_one_thread(async {
            let (identity, gate) = (Identity::new(), Gate::default());
            let config = identity.config(Arc::new(gate.key()), version);
            let (near, far) = duplex(1 << 16);
            let connect = connect_to(far, &identity.client());
            let start = LazyConfigAcceptor::new(Acceptor::default(), near).await.unwrap();
            let accept = spawn_local(start.into_stream(config));
            fail(&gate).await;
            let error = accept.await.unwrap().unwrap_err();
            assert_on_fire(&error);
            let error = connect.await.unwrap().unwrap_err();
            assert_eq!(alert(&error), AlertDescription::InternalError, "{version:?}");
        });
    }
}

/// The client has sent no share for the server's group. Its server asks for one, and signs in its second flight.
#[test]
fn a_client_is_told_when_the_signature_after_a_hello_retry_fails() {
    let _watchdog = Watchdog::new();
    on_one_thread(async {
        let (identity, gate) = (Identity::new(), Gate::default());
        let mut provider = ring::default_provider();
        provider.kx_groups = vec![kx_group::SECP384R1];
        let resolver = Arc::new(SingleCertAndKey::from(identity.certified(Arc::new(gate.key()))));
        let acceptor = TlsAcceptor::from(config(resolver, provider, &rustls::version::TLS13));
        let (accept, connected) = connect(&acceptor, &identity.client());
        fail(&gate).await;
        accept.await.unwrap().unwrap_err();
        let error = connected.await.unwrap().unwrap_err();
        assert_eq!(alert(&error), AlertDescription::InternalError);

        // The handshake with the same groups, and a signature.
        let (accept, connected) = connect(&acceptor, &identity.client());
        gate.asked(1).await;
        gate.sign(&identity);
        let accepted = accept.await.unwrap().unwrap();
        let kind = accepted.get_ref().1.handshake_kind();
        assert_eq!(kind, Some(rustls::HandshakeKind::FullWithHelloRetryRequest));
        connected.await.unwrap().unwrap();
    });
}

/// What rustls tells a client itself is what the client gets: in the clear, and encrypted.
#[test]
fn the_alerts_of_rustls_pass() {
    let _watchdog = Watchdog::new();
    on_one_thread(async {
        let identity = Identity::new();
        let mut names = ServerConfig::clone(&identity.config(identity.key.clone(), &rustls::version::TLS13));
        names.alpn_protocols = vec![b"h2".to_vec()];
        let mut client = ClientConfig::clone(identity.client().config());
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        let (accept, connected) = connect(
            &TlsAcceptor::from(Arc::new(names)),
            &TlsConnector::from(Arc::new(client)),
        );
        accept.await.unwrap().unwrap_err();
        let error = connected.await.unwrap().unwrap_err();
        assert_eq!(alert(&error), AlertDescription::NoApplicationProtocol);

        let acceptor = TlsAcceptor::from(identity.wants_certificate());
        let (accept, connected) = connect(&acceptor, &identity.client());
        accept.await.unwrap().unwrap_err();
        // A client of TLS 1.3 has done its part of the handshake by then.
        let error = connected.await.unwrap().unwrap().read_u8().await.unwrap_err();
        assert_eq!(alert(&error), AlertDescription::CertificateRequired);
    });
}

/// A handshake that fails gives its connection back, for a last word in the clear.
#[test]
fn a_failed_handshake_gives_its_connection_back() {
    let _watchdog = Watchdog::new();
    on_one_thread(async {
        let (identity, gate) = (Identity::new(), Gate::default());
        let acceptor = identity.server(gate.key(), &rustls::version::TLS13);
        let (near, mut far) = greeted_in_the_clear().await;
        let (error, connection) = acceptor.accept(near).into_fallible().await.unwrap_err();
        assert!(error.to_string().contains("corrupt message"), "{error}");
        let mut connection = connection.expect("the job has a result");
        connection.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        drop(connection);
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        let alert_of_rustls = &got[..7];
        assert_eq!((alert_of_rustls[0], alert_of_rustls[5]), (21, 2), "a fatal alert");
        assert_eq!(&got[7..], b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
}
