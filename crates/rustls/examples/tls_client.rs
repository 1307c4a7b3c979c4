//! A pooled HTTPS client with a slow key of its own, and how long its signatures stall the thread.
//!
//! ```text
//! cargo run -p asyncjob-rustls --features tower --example tls_client                     each connect in a job
//! cargo run -p asyncjob-rustls --features tower --example tls_client -- --mode inline    as reqwest does it alone
//! ```
//!
//! The client is `reqwest` on a runtime with one thread. It makes four requests at once, each on a connection of its
//! own, to a server that asks for the client's certificate. Each signature takes 100 ms. Another task of the thread
//! wakes each millisecond, and measures the longest time between two of its turns.

#[path = "support/certificate.rs"]
mod certificate;
#[path = "support/mutual_tls.rs"]
mod mutual_tls;

use std::error::Error;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use asyncjob::offload::Offload;
use asyncjob_rustls::{OffloadedKey, PinnedConnectorLayer};
use asyncjob_tokio::Workers;
use rcgen::{KeyPair, PublicKeyData};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use tokio::runtime::Builder;
use tokio::task::JoinSet;

const REQUESTS: usize = 4;
const SIGNATURE: Duration = Duration::from_millis(100);

fn main() -> Result<(), Box<dyn Error>> {
    let inline = match std::env::args().skip(1).collect::<Vec<_>>().join(" ").as_str() {
        "" | "--mode job" => false,
        "--mode inline" => true,
        other => return Err(format!("what is {other}? --mode inline or --mode job").into()),
    };
    let (server, mut client) = (new_identity()?, new_identity()?);
    let certificate = server.cert[0].clone();
    let address = mutual_tls::start(server, &client.cert[0])?;

    let slow: Arc<dyn SigningKey> = Arc::new(SlowKey(Arc::clone(&client.key)));
    Arc::make_mut(&mut client).key = match inline {
        true => slow,
        false => Arc::new(OffloadedKey::new(slow, Offload::new(REQUESTS)?)),
    };
    let mut builder = reqwest::Client::builder()
        .no_proxy()
        .tls_backend_preconfigured(mutual_tls::client_config(&certificate, client)?);
    let workers = Workers::new(1)?;
    if !inline {
        builder = builder.connector_layer(PinnedConnectorLayer::new(&workers)); // the one line that changes
    }
    let client = builder.build()?;

    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (took, stall) = runtime.block_on(async {
        let watching = tokio::spawn(watch());
        let (start, mut requests) = (Instant::now(), JoinSet::new());
        for _ in 0..REQUESTS {
            let request = client.get(format!("https://localhost:{}/", address.port()));
            requests.spawn(async { request.send().await?.error_for_status() });
        }
        for response in requests.join_all().await {
            response?;
        }
        let took = start.elapsed();
        STOP.notify_one();
        watching
            .await
            .map(|stall| (took, stall))
            .map_err(Box::<dyn Error>::from)
    })?;
    println!(
        "{REQUESTS} requests in {} ms, the worst stall {} ms",
        took.as_millis(),
        stall.as_millis()
    );
    Ok(())
}

static STOP: tokio::sync::Notify = tokio::sync::Notify::const_new();

/// The longest time between two turns of this task, until it is stopped.
async fn watch() -> Duration {
    let (mut worst, mut last) = (Duration::ZERO, Instant::now());
    loop {
        let stopped = tokio::time::timeout(Duration::from_millis(1), STOP.notified()).await;
        worst = worst.max(last.elapsed());
        last = Instant::now();
        if stopped.is_ok() {
            return worst;
        }
    }
}

/// A certificate for `localhost` and its key.
fn new_identity() -> Result<Arc<CertifiedKey>, Box<dyn Error>> {
    let pair = KeyPair::generate()?;
    let der = rustls::pki_types::PrivatePkcs8KeyDer::from(pair.serialize_der());
    let key = rustls::crypto::ring::sign::any_ecdsa_type(&der.into())?;
    Ok(Arc::new(certificate::self_signed(key, pair.der_bytes())?))
}

/// A key that blocks its thread for each signature, as a library for a token does.
#[derive(Debug)]
struct SlowKey<K>(K);

impl SigningKey for SlowKey<Arc<dyn SigningKey>> {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let signer = self.0.choose_scheme(offered)?;
        Some(Box::new(SlowKey(signer)))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl Signer for SlowKey<Box<dyn Signer>> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        thread::sleep(SIGNATURE);
        self.0.sign(message)
    }

    fn scheme(&self) -> SignatureScheme {
        self.0.scheme()
    }
}
