//! What both axum servers serve, how they are configured, and how they begin.

use std::error::Error;
use std::process::exit;
use std::sync::Arc;

use axum::Router;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::get;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::net::TcpListener;

use super::{certificate, softhsm};

/// `/` says hello, and `/ws` sends back what it gets.
pub(crate) fn app() -> Router {
    Router::new()
        .route("/", get(|| async { "hello\n" }))
        .route("/ws", get(upgrade))
}

async fn upgrade(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(echo)
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if socket.send(message).await.is_err() {
            return;
        }
    }
}

/// HTTP/2 and HTTP/1.1.
pub(crate) fn config(key: CertifiedKey) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// The key in a SoftHSM token of its own, with a certificate that it has signed itself.
pub(crate) fn key_in_softhsm() -> Result<CertifiedKey, Box<dyn Error + Send + Sync>> {
    // SoftHSM finds its configuration in the environment: the program starts itself again with it.
    if let Some(status) = softhsm::with_config(std::env::args().skip(1))? {
        exit(status.code().unwrap_or(1));
    }
    let key = softhsm::SoftHsm::create()
        .and_then(|hsm| Ok(hsm.key("p256")?))
        .map_err(|error| error.to_string())?;
    Ok(certificate::self_signed(Arc::new(key.clone()), key.public_key_bytes())?)
}

/// Listens on the port of the first argument, or on any that is free, and says where.
pub(crate) async fn listen() -> Result<TcpListener, Box<dyn Error + Send + Sync>> {
    let port: u16 = std::env::args().nth(1).map_or(Ok(0), |port| port.parse())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("https://localhost:{}", listener.local_addr()?.port());
    Ok(listener)
}
