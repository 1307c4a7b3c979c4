//! The server's process: a key that waits and then signs, in the way of the mode.

use std::error::Error;
use std::fmt;
use std::io::{self, BufRead};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use asyncjob_rustls::AwaitedKey;
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};

use crate::https::{self, InPlaceKey, Mode};
use crate::machine;

/// Serves until its input ends. Prints its address first.
pub(crate) fn serve(mode: Mode, latency: Duration) -> Result<(), Box<dyn Error>> {
    machine::stay_on_core(0)?;
    machine::come_first(-18);
    machine::raise_fd_limit()?;
    // A thread of our own, in every mode: tokio's stdin would add one of its blocking threads to some.
    thread::spawn(|| {
        let _ = io::stdin().lock().read_line(&mut String::new());
        std::process::exit(0);
    });
    let (certificate, key) = identity();
    let key: Arc<dyn SigningKey> = match mode {
        Mode::Inline | Mode::SpawnBlocking => Arc::new(SlowKey { key, latency }),
        Mode::BlockInPlace => Arc::new(InPlaceKey(Arc::new(SlowKey { key, latency }) as Arc<dyn SigningKey>)),
        Mode::Job => Arc::new(awaited(key, latency)),
    };
    https::serve(mode, CertifiedKey::new(vec![certificate], key), 0, |address| {
        println!("{address}")
    })?;
    Ok(())
}

fn identity() -> (CertificateDer<'static>, Arc<dyn SigningKey>) {
    let pair = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".into()]).expect("a name");
    let certificate = params.self_signed(&pair).expect("a certificate").der().clone();
    let key = PrivatePkcs8KeyDer::from(pair.serialize_der());
    (
        certificate,
        ring::sign::any_ecdsa_type(&key.into()).expect("the key that was just made"),
    )
}

fn awaited(key: Arc<dyn SigningKey>, latency: Duration) -> AwaitedKey {
    const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;
    AwaitedKey::new(SignatureAlgorithm::ECDSA, [SCHEME], move |scheme, message| {
        let key = Arc::clone(&key);
        async move {
            if latency > Duration::ZERO {
                tokio::time::sleep(latency).await;
            }
            let signer = key.choose_scheme(&[scheme]).ok_or(fmt::Error)?;
            signer.sign(&message).map_err(|_| fmt::Error)
        }
    })
}

/// A key in memory that blocks first.
#[derive(Debug)]
struct SlowKey<K> {
    key: K,
    latency: Duration,
}

impl SigningKey for SlowKey<Arc<dyn SigningKey>> {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let (key, latency) = (self.key.choose_scheme(offered)?, self.latency);
        Some(Box::new(SlowKey { key, latency }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }
}

impl Signer for SlowKey<Box<dyn Signer>> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        if self.latency > Duration::ZERO {
            thread::sleep(self.latency);
        }
        self.key.sign(message)
    }

    fn scheme(&self) -> SignatureScheme {
        self.key.scheme()
    }
}
