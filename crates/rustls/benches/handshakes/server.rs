//! The server's process: its key waits, in the way of the mode, and then signs.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use asyncjob::io::Pausing;
use rcgen::{CertificateParams, KeyPair};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{OtherError, SignatureAlgorithm, SignatureScheme};

use crate::https::{self, InPlaceKey, Mode};
use crate::machine;

/// Serves until the input of this process ends. Prints its address first, and the time and its processor time for each
/// line of input.
pub(crate) fn serve(mode: Mode, latency: Duration) -> Result<(), Box<dyn Error>> {
    machine::stay_on_core(0)?;
    machine::raise_priority(-18);
    machine::raise_fd_limit()?;
    // A thread for the input, in every mode: tokio's stdin would add a blocking thread in some modes only.
    thread::spawn(|| {
        for _ in io::stdin().lock().lines() {
            let (time, processor_time) = machine::clocks();
            println!("{time} {processor_time}");
        }
        std::process::exit(0);
    });
    let (certificate, key) = identity();
    let key: Arc<dyn SigningKey> = match mode {
        Mode::Inline | Mode::SpawnBlocking => Arc::new(SlowKey {
            key,
            latency,
            wait: block,
        }),
        Mode::BlockInPlace => Arc::new(InPlaceKey(Arc::new(SlowKey {
            key,
            latency,
            wait: block,
        }) as Arc<dyn SigningKey>)),
        Mode::Job => Arc::new(SlowKey {
            key,
            latency,
            wait: pause,
        }),
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

/// A key in memory that waits before each signature.
#[derive(Debug)]
struct SlowKey<K> {
    key: K,
    latency: Duration,
    wait: fn(Duration) -> io::Result<()>,
}

fn block(latency: Duration) -> io::Result<()> {
    thread::sleep(latency);
    Ok(())
}

/// Waits for an fd, as for the answer of a remote signer. (tokio's timer would round the latency up to a millisecond.)
fn pause(latency: Duration) -> io::Result<()> {
    let timer = timerfd_create(
        TimerfdClockId::Monotonic,
        TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
    )?;
    let end = Itimerspec {
        it_interval: Duration::ZERO.try_into().map_err(io::Error::other)?,
        it_value: latency.try_into().map_err(io::Error::other)?,
    };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &end)?;
    Pausing::new(File::from(timer))?.read_exact(&mut [0; 8])
}

impl SigningKey for SlowKey<Arc<dyn SigningKey>> {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let &SlowKey { latency, wait, .. } = self;
        let key = self.key.choose_scheme(offered)?;
        Some(Box::new(SlowKey { key, latency, wait }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }
}

impl Signer for SlowKey<Box<dyn Signer>> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        if self.latency > Duration::ZERO {
            (self.wait)(self.latency).map_err(|error| rustls::Error::Other(OtherError(Arc::new(error))))?;
        }
        self.key.sign(message)
    }

    fn scheme(&self) -> SignatureScheme {
        self.key.scheme()
    }
}
