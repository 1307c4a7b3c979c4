//! The clients: each makes a full handshake and one request, again and again.

use std::cell::Cell;
use std::error::Error;
use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_rustls::TlsConnector;

use crate::machine;

/// Keeps `count` clients busy until its input ends; with a `rate`, so many new handshakes a second instead, at most `count` of
/// them at once. Prints a line when the window begins, and the handshakes and failures in it when it ends.
pub(crate) fn run(
    server: SocketAddr,
    count: usize,
    rate: u32,
    warm_up: Duration,
    window: Duration,
) -> Result<(), Box<dyn Error>> {
    machine::stay_on_core(1)?;
    machine::raise_fd_limit()?;
    thread::spawn(|| {
        let _ = io::stdin().lock().read_line(&mut String::new());
        std::process::exit(0);
    });
    let runtime = Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let tally = Rc::new(Tally::default());
        let connector = connector();
        if rate == 0 {
            for _ in 0..count {
                spawn_local(closed_loop(server, connector.clone(), Rc::clone(&tally)));
            }
        } else {
            spawn_local(paced(server, connector, rate, count, Rc::clone(&tally)));
        }
        sleep(warm_up).await;
        tally.done.set(0);
        tally.failed.set(0);
        println!("begin");
        sleep(window).await;
        println!("{} {}", tally.done.get(), tally.failed.get());
        std::future::pending::<()>().await;
    });
    Ok(())
}

#[derive(Default)]
struct Tally {
    done: Cell<u64>,
    failed: Cell<u64>,
    running: Cell<usize>,
}

impl Tally {
    fn count(&self, outcome: &io::Result<()>) {
        let counter = if outcome.is_ok() { &self.done } else { &self.failed };
        counter.set(counter.get() + 1);
    }
}

async fn closed_loop(server: SocketAddr, connector: TlsConnector, tally: Rc<Tally>) {
    loop {
        let outcome = visit(server, &connector).await;
        tally.count(&outcome);
        if outcome.is_err() {
            sleep(Duration::from_millis(10)).await; // a refused connection is no reason to try 100,000 times a second
        }
    }
}

async fn paced(server: SocketAddr, connector: TlsConnector, rate: u32, count: usize, tally: Rc<Tally>) {
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        ticks.tick().await;
        if tally.running.get() >= count {
            continue;
        }
        let (connector, tally) = (connector.clone(), Rc::clone(&tally));
        tally.running.set(tally.running.get() + 1);
        spawn_local(async move {
            tally.count(&visit(server, &connector).await);
            tally.running.set(tally.running.get() - 1);
        });
    }
}

/// A handshake, a request, its response.
async fn visit(server: SocketAddr, connector: &TlsConnector) -> io::Result<()> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let mut stream = connector.connect(name(), stream).await?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await?;
    let mut response = Vec::with_capacity(256);
    stream.read_to_end(&mut response).await?;
    match response.ends_with(&crate::server::BODY) {
        true => Ok(()),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

pub(crate) fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("a host name")
}

/// Checks the signature, which is the server's work, and not who made the certificate, which would be the client's.
pub(crate) fn connector() -> TlsConnector {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring has TLS 1.3");
    let builder = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(SignatureOnly(provider)));
    let mut config = builder.with_no_client_auth();
    config.resumption = Resumption::disabled();
    TlsConnector::from(Arc::new(config))
}

#[derive(Debug)]
struct SignatureOnly(Arc<CryptoProvider>);

impl ServerCertVerifier for SignatureOnly {
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
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("this benchmark speaks TLS 1.3".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
