//! Clients of an HTTPS server: each makes a full handshake and one request.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::https::BODY;

/// Runs so many clients at once on this thread. Returns how many failed, and prints why.
pub(crate) fn requests_at_once(server: SocketAddr, count: usize) -> usize {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime for the clients");
    runtime.block_on(async {
        let connector = connector();
        let mut requests = JoinSet::new();
        for _ in 0..count {
            let connector = connector.clone();
            requests.spawn(async move { request(server, &connector).await });
        }
        let outcomes = requests.join_all().await;
        let failures = outcomes.into_iter().filter_map(Result::err);
        failures.inspect(|error| eprintln!("{error}")).count()
    })
}

/// A handshake, a request and its response.
pub(crate) async fn request(server: SocketAddr, connector: &TlsConnector) -> io::Result<()> {
    let mut stream = connect(server, connector).await?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await?;
    let mut response = Vec::with_capacity(256);
    stream.read_to_end(&mut response).await?;
    match response.ends_with(BODY.as_bytes()) {
        true => Ok(()),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

pub(crate) async fn connect(server: SocketAddr, connector: &TlsConnector) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    connector.connect(name, stream).await
}

/// Checks the server's signature. Does not check who made the certificate: the server made it itself.
pub(crate) fn connector() -> TlsConnector {
    connector_that_checks(Check::Signature)
}

/// Connects with so many checks of the server.
pub(crate) fn connector_that_checks(check: Check) -> TlsConnector {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().expect("ring has both");
    let builder = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { check, provider }));
    let mut config = builder.with_no_client_auth();
    config.resumption = Resumption::disabled();
    TlsConnector::from(Arc::new(config))
}

/// What a client checks of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// The signature of its handshake.
    Signature,
    /// Nothing. Such a client makes load, and takes less processor time than the server.
    Nothing,
}

#[derive(Debug)]
struct Verifier {
    check: Check,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.check == Check::Nothing {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.check == Check::Nothing {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
