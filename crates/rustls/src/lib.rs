//! rustls private keys that pause instead of blocking.

mod der;
#[cfg(feature = "pkcs11")]
pub mod pkcs11;

pub use der::ecdsa_signature;
