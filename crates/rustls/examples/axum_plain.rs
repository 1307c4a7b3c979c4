//! An HTTPS server with axum and a key in SoftHSM, without jobs: each signature blocks a thread of the runtime.
//!
//! `cargo run -p asyncjob-rustls --features pkcs11,tls-listener --example axum_plain -- 8443`, until Ctrl-C.
//! `axum_jobs` is the same server with jobs.

#[path = "support/axum_app.rs"]
pub(crate) mod axum_app;
#[path = "support/certificate.rs"]
pub(crate) mod certificate;
#[path = "support/softhsm.rs"]
pub(crate) mod softhsm;

use std::error::Error;

use axum_app::{app, config, key_in_softhsm, listen};
use rustls::sign::CertifiedKey;
use tls_listener::TlsListener;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let key = key_in_softhsm()?;
    let ctrl_c = async { tokio::signal::ctrl_c().await.expect("signals") };
    serve(listen().await?, key, ctrl_c).await
}

pub(crate) async fn serve(
    listener: TcpListener,
    key: CertifiedKey,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let tls = TlsAcceptor::from(config(key));
    let listener = TlsListener::new(tls, listener);
    axum::serve(listener, app()).with_graceful_shutdown(shutdown).await?;
    Ok(())
}
