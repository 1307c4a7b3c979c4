//! An HTTPS server with axum and a key in SoftHSM, each handshake in a job: a signature blocks no thread of the
//! runtime.
//!
//! `cargo run -p asyncjob-rustls --features pkcs11,tls-listener --example axum_jobs -- 8443`, until Ctrl-C.
//! `axum_plain` is the same server without jobs.

#[path = "support/axum_app.rs"]
pub(crate) mod axum_app;
#[path = "support/certificate.rs"]
pub(crate) mod certificate;
#[path = "support/softhsm.rs"]
pub(crate) mod softhsm;

use std::error::Error;
use std::sync::Arc;

use asyncjob::offload::Offload;
use asyncjob_rustls::{OffloadedKey, TlsAcceptor};
use asyncjob_tokio::Workers;
use axum_app::{app, config, key_in_softhsm, listen};
use rustls::sign::CertifiedKey;
use tls_listener::TlsListener;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let key = key_in_softhsm()?;
    let ctrl_c = async { tokio::signal::ctrl_c().await.expect("signals") };
    serve(listen().await?, key, ctrl_c).await
}

pub(crate) async fn serve(
    listener: TcpListener,
    mut key: CertifiedKey,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    key.key = Arc::new(OffloadedKey::new(key.key, Offload::new(4)?)); // at most four sessions with the token
    let workers = Workers::new(1)?;
    let tls = TlsAcceptor::from(config(key)).pinned(&workers);
    let listener = TlsListener::new(tls, listener);
    axum::serve(listener, app()).with_graceful_shutdown(shutdown).await?;
    Ok(())
}
