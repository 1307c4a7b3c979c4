//! The work of a TLS server for a connection, and for a record.

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PSS_SHA256, RsaKeyPair};

/// A private key that was made for this program and has no other use.
const KEY: &[u8] = include_bytes!("../../keys/rsa-2048.pk8");

/// Bytes of a full TLS record.
pub(crate) const RECORD: usize = 16 * 1024;

/// Keys that every thread may use.
pub(crate) struct Crypto {
    rsa: RsaKeyPair,
    random: SystemRandom,
    aes: LessSafeKey,
}

impl Crypto {
    pub(crate) fn new() -> Self {
        Crypto {
            rsa: RsaKeyPair::from_pkcs8(KEY).expect("the key is a valid one"),
            random: SystemRandom::new(),
            aes: LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[7; 16]).expect("16 bytes are a key")),
        }
    }

    /// One RSA-2048 signature: the slow part of a handshake.
    pub(crate) fn sign(&self) -> [u8; 256] {
        let mut signature = [0; 256];
        let message = [1; 130];
        self.rsa
            .sign(&RSA_PSS_SHA256, &self.random, &message, &mut signature)
            .expect("the signature has its size");
        signature
    }

    /// Encrypts one record in place.
    pub(crate) fn seal(&self, record: &mut [u8; RECORD]) -> [u8; 16] {
        let nonce = Nonce::assume_unique_for_key([0; 12]); // what this program encrypts is not read
        let tag = self
            .aes
            .seal_in_place_separate_tag(nonce, Aad::empty(), record)
            .expect("a record is not too long");
        tag.as_ref().try_into().expect("a tag has 16 bytes")
    }
}
