//! A private key behind an asynchronous signer: a key service, a remote signer, anything with an `async fn sign`.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use asyncjob::waiting::{await_future, await_or_block};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::sign::{Signer, SigningKey};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};

use crate::other;

/// A [`SigningKey`] that awaits each signature while the job of the handshake is paused.
///
/// The future is polled on the thread of the handshake. So it need not be `Send`, and it may use that thread's runtime.
///
/// Outside a job a signature is an error, unless the key is told to [block](Self::or_block).
///
/// ```
/// use asyncjob_rustls::AwaitedKey;
/// use rustls::{SignatureAlgorithm, SignatureScheme};
/// use std::sync::Arc;
///
/// async fn ask_the_key_service(message: Vec<u8>) -> Result<Vec<u8>, std::io::Error> {
///     # Ok(message)
///     // ...
/// }
///
/// let key = AwaitedKey::new(
///     SignatureAlgorithm::ECDSA,
///     [SignatureScheme::ECDSA_NISTP256_SHA256],
///     |_scheme, message| ask_the_key_service(message),
/// );
/// let key: Arc<dyn rustls::sign::SigningKey> = Arc::new(key);
/// # let _ = key;
/// ```
///
/// [`SigningKey`]: https://docs.rs/rustls/0.23/rustls/sign/trait.SigningKey.html
#[derive(Clone)]
pub struct AwaitedKey(Arc<Key>);

#[derive(Clone)]
struct Key {
    algorithm: SignatureAlgorithm,
    schemes: Vec<SignatureScheme>,
    public_key: Option<SubjectPublicKeyInfoDer<'static>>,
    blocks_outside_jobs: bool,
    sign: Arc<Sign>,
}

/// Takes the scheme, the message, and whether to block the thread outside a job.
type Sign = dyn Fn(SignatureScheme, &[u8], bool) -> Result<Vec<u8>, Error> + Send + Sync;

impl AwaitedKey {
    /// A key of this algorithm, which signs with these schemes, the preferred one first.
    ///
    /// `sign` gets the scheme and the message, which is not hashed yet. The signature must have the form that TLS
    /// wants. For ECDSA, [`ecdsa_signature`](crate::ecdsa_signature) makes it.
    pub fn new<F, S, E>(
        algorithm: SignatureAlgorithm,
        schemes: impl IntoIterator<Item = SignatureScheme>,
        sign: F,
    ) -> Self
    where
        F: Fn(SignatureScheme, Vec<u8>) -> S + Send + Sync + 'static,
        S: Future<Output = Result<Vec<u8>, E>>,
        E: StdError + Send + Sync + 'static,
    {
        let sign = move |scheme, message: &[u8], blocks| {
            let signature = sign(scheme, message.to_vec());
            let awaited = match blocks {
                true => await_or_block(signature),
                false => await_future(signature),
            };
            awaited.map_err(other)?.map_err(other)
        };
        AwaitedKey(Arc::new(Key {
            algorithm,
            schemes: schemes.into_iter().collect(),
            public_key: None,
            blocks_outside_jobs: false,
            sign: Arc::new(sign),
        }))
    }

    /// Lets rustls check that the certificate belongs to this key.
    pub fn public_key(mut self, spki: SubjectPublicKeyInfoDer<'static>) -> Self {
        Arc::make_mut(&mut self.0).public_key = Some(spki);
        self
    }

    /// Outside a job, and where the job cannot pause, blocks the thread until the signature is there.
    ///
    /// Without this, a handshake outside [`TlsAcceptor`](crate::TlsAcceptor) fails, with an error that says why. So a
    /// server that is meant to pause does not stall unnoticed.
    pub fn or_block(mut self) -> Self {
        Arc::make_mut(&mut self.0).blocks_outside_jobs = true;
        self
    }
}

impl SigningKey for AwaitedKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = *self.0.schemes.iter().find(|scheme| offered.contains(scheme))?;
        let key = Arc::clone(&self.0);
        Some(Box::new(AwaitedSigner { key, scheme }))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.0.public_key.clone()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm
    }
}

#[derive(Debug)]
struct AwaitedSigner {
    key: Arc<Key>,
    scheme: SignatureScheme,
}

impl Signer for AwaitedSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        (self.key.sign)(self.scheme, message, self.key.blocks_outside_jobs)
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}

impl fmt::Debug for AwaitedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwaitedKey")
            .field("algorithm", &self.algorithm)
            .field("schemes", &self.schemes)
            .finish_non_exhaustive()
    }
}
