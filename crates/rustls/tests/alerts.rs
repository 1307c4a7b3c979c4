//! A handshake that fails at the server tells its client why, whatever failed: what the client did, a signature, or the
//! look-up of a certificate.

mod connections;

use std::io;
use std::sync::Arc;

use asyncjob_rustls::{LazyConfigAcceptor, TlsAcceptor};
use asyncjob_testing::Watchdog;
use connections::{Gate, Identity, Order, alert, config, connect, connect_to, of_handshake, offloaded, on_one_thread};
use rustls::crypto::ring::{self, kx_group};
use rustls::server::{Acceptor, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{AlertDescription, ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::task::spawn_local;
use tokio_rustls::TlsConnector;

/// Makes the one signature that is waited for fail.
async fn fail(gate: &Gate) {
    gate.asked(1).await;
    gate.take().1.send(Err(io::Error::other("the HSM is on fire"))).unwrap();
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
            assert_eq!(of_handshake::<io::Error>(&error).to_string(), "the HSM is on fire");
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
            assert_eq!(of_handshake::<io::Error>(&error).to_string(), "the HSM is on fire");
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
        let (message, answer) = gate.take();
        answer.send(Ok(identity.sign(&message))).unwrap();
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

        let acceptor = TlsAcceptor::from(wants_client_certificate(&identity));
        let (accept, connected) = connect(&acceptor, &identity.client());
        accept.await.unwrap().unwrap_err();
        // A client of TLS 1.3 has done its part of the handshake by then.
        let error = connected.await.unwrap().unwrap().read_u8().await.unwrap_err();
        assert_eq!(alert(&error), AlertDescription::CertificateRequired);
    });
}

fn wants_client_certificate(identity: &Identity) -> Arc<ServerConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.certificate.clone()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(
            identity.certified(identity.key.clone()),
        )));
    Arc::new(config)
}

/// A handshake that fails gives its connection back, for a last word in the clear.
#[test]
fn a_failed_handshake_gives_its_connection_back() {
    let _watchdog = Watchdog::new();
    on_one_thread(async {
        let (identity, gate) = (Identity::new(), Gate::default());
        let acceptor = identity.server(gate.key(), &rustls::version::TLS13);
        let (near, mut far) = duplex(1 << 16);
        far.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
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
