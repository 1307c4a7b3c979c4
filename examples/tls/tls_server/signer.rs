//! A private key for rustls whose signatures are made on other threads.
//!
//! `rustls::sign::Signer::sign` is synchronous: the caller gets the signature or an error from that very call. In
//! a job, that call may pause.

use std::error::Error;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use asyncjob::offload::Offload;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::{Signer, SigningKey};
use rustls::{OtherError, SignatureAlgorithm, SignatureScheme};

use super::service::Totals;
use super::{Mode, Options};

/// A connection to a slow remote signer. Many threads may use it at once. If a library needs a session for each thread,
/// keep the sessions in a `thread_local!`, or in a list from which each signature takes one.
#[derive(Debug)]
pub(crate) struct Session {
    latency: Duration,
}

impl Session {
    fn sign(&self, signer: &dyn Signer, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        if !self.latency.is_zero() {
            thread::sleep(self.latency); // blocks the thread, as a call to a device does
        }
        signer.sign(message)
    }
}

/// Where a signature is made.
#[derive(Clone, Debug)]
enum SignOn {
    CallingThread(Arc<Session>),
    OtherThreads(Offload, Arc<Session>),
}

/// The server's private key.
#[derive(Debug)]
pub(crate) struct SlowKey {
    key: Arc<dyn SigningKey>,
    sign_on: SignOn,
    totals: Totals,
}

impl SlowKey {
    pub(crate) fn new(options: &Options, key: &PrivateKeyDer<'_>, totals: Totals) -> Result<Self, Box<dyn Error>> {
        let session = Arc::new(Session {
            latency: options.sign_latency,
        });
        let sign_on = match options.mode {
            Mode::Inline => SignOn::CallingThread(session),
            Mode::Offload => {
                let threads = Offload::builder().threads(options.signers()).name("signer");
                SignOn::OtherThreads(threads.build()?, session)
            }
        };
        Ok(SlowKey {
            key: rustls::crypto::ring::sign::any_supported_type(key)?,
            sign_on,
            totals,
        })
    }
}

impl SigningKey for SlowKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let signer = self.key.choose_scheme(offered)?;
        Some(Box::new(SlowSigner {
            signer: Arc::from(signer),
            sign_on: self.sign_on.clone(),
            totals: self.totals.clone(),
        }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }
}

/// Makes one signature.
#[derive(Debug)]
struct SlowSigner {
    signer: Arc<dyn Signer>,
    sign_on: SignOn,
    totals: Totals,
}

impl Signer for SlowSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let result = match &self.sign_on {
            SignOn::CallingThread(session) => session.sign(self.signer.as_ref(), message),
            SignOn::OtherThreads(pool, session) => {
                let (signer, session, message) = (Arc::clone(&self.signer), Arc::clone(session), message.to_vec());
                let signature = pool.run(move || session.sign(signer.as_ref(), &message)); // the job pauses here
                signature.unwrap_or_else(|error| Err(rustls::Error::Other(OtherError(Arc::new(error)))))
            }
        };
        match &result {
            Ok(_) => self.totals.0.signatures.add(1),
            Err(_) => self.totals.0.signatures_failed.add(1),
        }
        result
    }

    fn scheme(&self) -> SignatureScheme {
        self.signer.scheme()
    }
}
