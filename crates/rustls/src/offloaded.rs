//! A private key that can only block: other threads make its signatures.

use std::sync::Arc;

use asyncjob::offload::Offload;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::sign::{Signer, SigningKey};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};

use crate::other;

/// Makes the signatures of another key on the threads of an [`Offload`], while the job of the handshake is paused.
///
/// As many signatures are made at a time as the pool has threads. The other handshakes wait for a thread. Several keys
/// may share a pool.
///
/// Outside a job a signature is an error, unless the key is told to [block](Self::or_block).
///
/// When a handshake is cancelled, a signature that has begun is finished on its thread, and dropped. A key that never
/// answers blocks its thread for ever. Give the key's own library a timeout, too.
///
/// ```
/// use asyncjob::offload::Offload;
/// use asyncjob_rustls::OffloadedKey;
/// use rustls::sign::SigningKey;
/// use std::sync::Arc;
///
/// # fn in_the_hsm() -> Arc<dyn SigningKey> {
/// #     let pair = rcgen::KeyPair::generate().unwrap();
/// #     let der = rustls::pki_types::PrivatePkcs8KeyDer::from(pair.serialize_der());
/// #     rustls::crypto::ring::sign::any_ecdsa_type(&der.into()).unwrap()
/// # }
/// let pool = Offload::builder().threads(4).name("hsm").build()?;
/// let key: Arc<dyn SigningKey> = in_the_hsm(); // any key of rustls, say a pkcs11::TokenKey
/// let key: Arc<dyn SigningKey> = Arc::new(OffloadedKey::new(key, pool));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct OffloadedKey {
    key: Arc<dyn SigningKey>,
    pool: Offload,
    blocks_outside_jobs: bool,
}

impl OffloadedKey {
    /// A key that signs with `key` on the threads of `pool`.
    pub fn new(key: Arc<dyn SigningKey>, pool: Offload) -> Self {
        OffloadedKey {
            key,
            pool,
            blocks_outside_jobs: false,
        }
    }

    /// Outside a job, and where the job cannot pause, blocks the thread until the signature is there.
    ///
    /// Without this, a handshake outside [`TlsAcceptor`](crate::TlsAcceptor) fails, with an error that says why. So a
    /// server that is meant to pause does not stall unnoticed.
    pub fn or_block(mut self) -> Self {
        self.blocks_outside_jobs = true;
        self
    }
}

impl SigningKey for OffloadedKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        Some(Box::new(OffloadedSigner {
            signer: self.key.choose_scheme(offered)?.into(),
            key: self.clone(),
        }))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.key.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }
}

#[derive(Debug)]
struct OffloadedSigner {
    signer: Arc<dyn Signer>,
    key: OffloadedKey,
}

impl Signer for OffloadedSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let (signer, message) = (Arc::clone(&self.signer), message.to_vec());
        let sign = move || signer.sign(&message);
        let signed = match self.key.blocks_outside_jobs {
            true => self.key.pool.run_or_block(sign),
            false => self.key.pool.run(sign),
        };
        signed.map_err(other)?
    }

    fn scheme(&self) -> SignatureScheme {
        self.signer.scheme()
    }
}
