//! What a job costs where it gains nothing: handshakes whose key is as fast as it gets.
//!
//! ```text
//! taskset -c 0 cargo bench -p asyncjob-rustls --features pkcs11 --bench fast_keys
//! ```
//!
//! Both ends are on one thread, in memory, 20 handshakes at a time. A round is so many handshakes of each way in turn;
//! the table has the fastest of all rounds. The control is the first way once more. Meanwhile another task of the
//! thread sleeps for a millisecond, again and again: how much later it runs is what other connections wait. The rows of
//! the token need SoftHSM.

#[path = "../examples/support/certificate.rs"]
mod certificate;
#[path = "../examples/support/softhsm.rs"]
mod softhsm;

use std::error::Error;
use std::process::exit;
use std::sync::Arc;
use std::time::{Duration, Instant};

use asyncjob::offload::Offload;
use asyncjob_rustls::OffloadedKey;
use rcgen::{KeyPair, PublicKeyData};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use softhsm::SoftHsm;
use tokio::io::duplex;
use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet, spawn_local};
use tokio_rustls::TlsConnector;

const AT_A_TIME: usize = 20;
const PROBE: Duration = Duration::from_millis(1);

/// How a server waits for its key.
#[derive(Clone)]
enum Way {
    /// `tokio_rustls` alone.
    Inline(Arc<ServerConfig>),
    /// Each handshake in a job.
    Job(Arc<ServerConfig>),
}

fn main() -> Result<(), Box<dyn Error>> {
    // `.ci/benches` runs benchmarks with this argument: once, to see that they run.
    let is_test = std::env::args().any(|argument| argument == "--test");
    if let Some(status) = softhsm::with_config(std::env::args().skip(1))? {
        exit(status.code().unwrap_or(1));
    }
    let (rounds, handshakes) = if is_test { (1, AT_A_TIME) } else { (40, 100) };
    println!("| key | way | handshakes/s | added, µs | late p50, ms | late p99, ms | control |");
    println!("|-----|-----|-------------:|----------:|-------------:|-------------:|--------:|");

    let pair = KeyPair::generate()?;
    let der = PrivatePkcs8KeyDer::from(pair.serialize_der());
    let memory = ring::sign::any_ecdsa_type(&der.into())?;
    let key = certificate::self_signed(Arc::clone(&memory), pair.der_bytes())?;
    measure("P-256 in memory", &key, &[("job", memory)], rounds, handshakes)?;
    match SoftHsm::create() {
        Ok(token) => {
            for (name, label) in [("P-256 in SoftHSM", "p256"), ("RSA in SoftHSM", "rsa")] {
                let in_token = token.key(label)?;
                let key = certificate::self_signed(Arc::new(in_token.clone()), in_token.public_key_bytes())?;
                let offloaded = |threads| -> Result<Arc<dyn SigningKey>, Box<dyn Error>> {
                    Ok(Arc::new(OffloadedKey::new(
                        Arc::new(in_token.clone()),
                        Offload::new(threads)?,
                    )))
                };
                let ways = [
                    ("job, the key inline", Arc::clone(&key.key)),
                    ("job, 1 thread", offloaded(1)?),
                    ("job, 4 threads", offloaded(4)?),
                ];
                measure(name, &key, &ways, rounds, handshakes)?;
            }
        }
        Err(error) => println!("SKIPPED the rows of the token: {error}"),
    }
    Ok(())
}

/// A row for each way, beside `tokio_rustls` with the key of the certificate.
fn measure(
    name: &str,
    inline: &CertifiedKey,
    jobs: &[(&str, Arc<dyn SigningKey>)],
    rounds: usize,
    handshakes: usize,
) -> Result<(), Box<dyn Error>> {
    let config = |key: &Arc<dyn SigningKey>| server(&CertifiedKey::new(inline.cert.clone(), Arc::clone(key)));
    let mut ways = vec![("inline", Way::Inline(config(&inline.key)?))];
    for (name, key) in jobs {
        ways.push((name, Way::Job(config(key)?)));
    }
    ways.push(("control", ways[0].1.clone()));
    let client = client(&inline.cert[0])?;
    let (mut fastest, mut late) = (vec![Duration::MAX; ways.len()], vec![Vec::new(); ways.len()]);
    for _ in 0..rounds {
        for (number, (_, way)) in ways.iter().enumerate() {
            fastest[number] = run(way, &client, handshakes, &mut late[number])?.min(fastest[number]);
        }
    }
    let each = |time: Duration| time.as_secs_f64() * 1e6 / handshakes as f64;
    let (base, control) = (each(fastest[0]), each(fastest[ways.len() - 1]));
    for (number, (way, _)) in ways.iter().enumerate().take(ways.len() - 1) {
        let (added, rate) = (each(fastest[number]) - base, 1e6 / each(fastest[number]));
        late[number].sort_unstable();
        let quantile = |of: usize| late[number][(late[number].len() - 1) * of / 100].as_secs_f64() * 1e3;
        let (p50, p99, control) = (quantile(50), quantile(99), control / base);
        println!("| {name} | {way} | {rate:.0} | {added:.1} | {p50:.1} | {p99:.1} | {control:.2} |");
    }
    Ok(())
}

/// So many handshakes, some at a time.
fn run(
    way: &Way,
    client: &TlsConnector,
    handshakes: usize,
    late: &mut Vec<Duration>,
) -> Result<Duration, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let (stop, mut stopped) = oneshot::channel::<()>();
        let probe = spawn_local(async move {
            let mut late = Vec::new();
            while stopped.try_recv().is_err() {
                let begun = Instant::now();
                tokio::time::sleep(PROBE).await;
                late.push(begun.elapsed().saturating_sub(PROBE));
            }
            late
        });
        let start = Instant::now();
        let mut tasks = JoinSet::new();
        for number in 0..handshakes {
            if number >= AT_A_TIME {
                tasks.join_next().await.ok_or("there are more")???;
            }
            let (near, far) = duplex(1 << 14);
            let connect = client.connect(ServerName::try_from("localhost")?, far);
            match way.clone() {
                Way::Inline(config) => {
                    let accept = tokio_rustls::TlsAcceptor::from(config).accept(near);
                    tasks.spawn_local(async { tokio::try_join!(accept, connect).map(drop) });
                }
                Way::Job(config) => {
                    let accept = asyncjob_rustls::TlsAcceptor::from(config).accept(near);
                    tasks.spawn_local(async { tokio::try_join!(accept, connect).map(drop) });
                }
            }
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        let took = start.elapsed();
        let _ = stop.send(());
        late.extend(probe.await?);
        Ok(took)
    })
}

fn server(key: &CertifiedKey) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key.clone())));
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn client(certificate: &CertificateDer<'static>) -> Result<TlsConnector, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone())?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}
