//! A server that asks for its client's certificate, and the configuration of such a client.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, Error, RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio::runtime::Builder;

/// Serves `hello` on a thread of its own, until the end of the process, to clients with this certificate.
pub(crate) fn start(key: Arc<CertifiedKey>, client: &CertificateDer<'static>) -> io::Result<SocketAddr> {
    let config = server_config(key, client).map_err(io::Error::other)?;
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    thread::spawn(move || runtime.block_on(serve(listener, config)));
    Ok(address)
}

fn server_config(key: Arc<CertifiedKey>, client: &CertificateDer<'static>) -> Result<Arc<ServerConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(trust(client)?), Arc::clone(&provider))
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    Ok(Arc::new(config))
}

/// A client that trusts this server, with a certificate and its key.
pub(crate) fn client_config(
    server: &CertificateDer<'static>,
    key: impl Into<Arc<CertifiedKey>>,
) -> Result<ClientConfig, Error> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(trust(server)?)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key.into())));
    Ok(config)
}

fn trust(certificate: &CertificateDer<'static>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone())?;
    Ok(roots)
}

async fn serve(listener: std::net::TcpListener, config: Arc<ServerConfig>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    loop {
        let (stream, _) = listener.accept().await?;
        let accept = acceptor.accept(stream);
        tokio::spawn(async move {
            // An error is not reported: a client may leave in the handshake or after it.
            let Ok(stream) = accept.await else { return };
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(hello))
                .await;
        });
    }
}

async fn hello<B>(_: Request<B>) -> Result<Response<String>, Infallible> {
    Ok(Response::new("hello\n".into()))
}
