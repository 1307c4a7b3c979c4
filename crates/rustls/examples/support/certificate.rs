//! A self-signed certificate for a private key that cannot be read: the key signs its own certificate.

use std::sync::Arc;

use rcgen::{CertificateParams, PublicKeyData};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};

/// A certificate for `localhost`, and its key.
///
/// `public` is the public key as a certificate holds it: a point for P-256, 32 bytes for Ed25519, an `RSAPublicKey` for
/// RSA.
pub(crate) fn self_signed(key: Arc<dyn SigningKey>, public: &[u8]) -> Result<CertifiedKey, rcgen::Error> {
    let params = CertificateParams::new(vec!["localhost".into()])?;
    let certificate = params.self_signed(&Issuer { key: &*key, public })?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

/// Lets rcgen sign with a key of rustls.
struct Issuer<'a> {
    key: &'a dyn SigningKey,
    public: &'a [u8],
}

impl PublicKeyData for Issuer<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.public
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        match self.key.algorithm() {
            SignatureAlgorithm::RSA => &rcgen::PKCS_RSA_SHA256,
            SignatureAlgorithm::ED25519 => &rcgen::PKCS_ED25519,
            _ => &rcgen::PKCS_ECDSA_P256_SHA256,
        }
    }
}

impl rcgen::SigningKey for Issuer<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let scheme = match self.key.algorithm() {
            SignatureAlgorithm::RSA => SignatureScheme::RSA_PKCS1_SHA256,
            SignatureAlgorithm::ED25519 => SignatureScheme::ED25519,
            _ => SignatureScheme::ECDSA_NISTP256_SHA256,
        };
        let signer = self.key.choose_scheme(&[scheme]).ok_or(rcgen::Error::RemoteKeyError)?;
        signer.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}
