//! The server's key, and a self-signed certificate for `localhost`.

use std::error::Error;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::KeyKind;

pub(crate) struct Identity {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Identity {
    pub(crate) fn new(kind: KeyKind) -> Result<Self, Box<dyn Error>> {
        let pair = match kind {
            KeyKind::Ecdsa => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
            KeyKind::Rsa => rsa_2048()?,
        };
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names)?.self_signed(&pair)?;
        Ok(Identity {
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(pair.serialize_der()).into(),
        })
    }
}

/// Loads the demonstration key. The crypto provider, ring, signs with RSA keys but cannot generate them, so the key is
/// a file beside the program. It is public, and secures nothing.
fn rsa_2048() -> Result<KeyPair, Box<dyn Error>> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(include_bytes!("demonstration-key.pem"))?;
    Ok(KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_RSA_SHA256)?)
}
