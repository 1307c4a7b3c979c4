//! The kinds of keys: which schemes of TLS a key signs, by which mechanism of the token, and what verifies it.
//!
//! ```text
//!   CKA_KEY_TYPE, CKA_EC_PARAMS -----> Kind -----> methods: one for each scheme that the token has a mechanism for
//! ```
//!
//! Nothing is guessed: a curve is told by its object identifier, and not by the length of a point.

use cryptoki::error::Result as TokenResult;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use ring::digest;
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use rustls::pki_types::{AlgorithmIdentifier, alg_id};
use rustls::{SignatureAlgorithm, SignatureScheme};

use crate::der;

/// A kind of key that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Rsa,
    P256,
    P384,
    P521,
    Ed25519,
}

/// How the token makes the signatures of one scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Method {
    pub(super) scheme: SignatureScheme,
    mechanism: MechanismType,
    input: Input,
}

/// What the mechanism takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Message,
    Digest,
    DigestInfo,
}

const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
const P521: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23];
/// RFC 8410, the name of PKCS#11 3.0, and the identifier of GnuPG, which older tokens have.
const ED25519: [&[u8]; 3] = [
    &[0x06, 0x03, 0x2b, 0x65, 0x70],
    b"\x13\x0cedwards25519",
    &[0x06, 0x09, 0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x0f, 0x01],
];

/// Curves that tokens have and TLS keys of rustls have not, to name them in the error.
const OTHER_CURVES: [(&[u8], &str); 7] = [
    (&[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a], "secp256k1"),
    (&[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x21], "P-224"),
    (&[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x01], "P-192"),
    (
        &[0x06, 0x09, 0x2b, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, 0x07],
        "brainpoolP256r1",
    ),
    (
        &[0x06, 0x09, 0x2b, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, 0x0b],
        "brainpoolP384r1",
    ),
    (
        &[0x06, 0x09, 0x2b, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, 0x0d],
        "brainpoolP512r1",
    ),
    (&[0x06, 0x03, 0x2b, 0x65, 0x71], "Ed448"),
];

/// In the order in which a server prefers them.
const RSA_SCHEMES: &[SignatureScheme] = &[
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA512,
];

impl Kind {
    /// The kind, or what is not supported.
    pub(super) fn of(key_type: KeyType, curve: Option<&[u8]>) -> Result<Kind, String> {
        match (key_type, curve) {
            (KeyType::RSA, _) => Ok(Kind::Rsa),
            (KeyType::EC | KeyType::EC_EDWARDS, None) => Err("the token does not tell its curve".into()),
            (KeyType::EC, Some(curve)) if curve == P256 => Ok(Kind::P256),
            (KeyType::EC, Some(curve)) if curve == P384 => Ok(Kind::P384),
            (KeyType::EC, Some(curve)) if curve == P521 => Ok(Kind::P521),
            (KeyType::EC_EDWARDS, Some(curve)) if ED25519.contains(&curve) => Ok(Kind::Ed25519),
            (KeyType::EC | KeyType::EC_EDWARDS, Some(curve)) => {
                let known = OTHER_CURVES.iter().find(|(identifier, _)| *identifier == curve);
                let name = known.map_or_else(
                    || format!("with the parameters {curve:02x?}"),
                    |(_, name)| (*name).into(),
                );
                Err(format!(
                    "the curve {name} is not supported; P-256, P-384, P-521 and Ed25519 are"
                ))
            }
            (other, _) => Err(format!(
                "keys of the type {other} are not supported; RSA, EC and Ed25519 are"
            )),
        }
    }

    /// How the token signs each scheme that it can sign, the preferred scheme first.
    ///
    /// A key that asks for a login for each signature is logged in between the beginning and the end of the signature.
    /// Only a mechanism that takes the message in pieces has a place there.
    pub(super) fn methods(self, has: &[MechanismType], login_each_time: bool) -> Vec<Method> {
        let schemes = match self {
            Kind::Rsa => RSA_SCHEMES,
            Kind::P256 => &[SignatureScheme::ECDSA_NISTP256_SHA256],
            Kind::P384 => &[SignatureScheme::ECDSA_NISTP384_SHA384],
            Kind::P521 => &[SignatureScheme::ECDSA_NISTP521_SHA512],
            Kind::Ed25519 => &[SignatureScheme::ED25519],
        };
        let usable = |method: &Method| has.contains(&method.mechanism) && (!login_each_time || method.takes_pieces());
        let method = |&scheme| mechanisms(scheme).into_iter().find(usable);
        schemes.iter().filter_map(method).collect()
    }

    pub(super) fn algorithm(self) -> SignatureAlgorithm {
        match self {
            Kind::Rsa => SignatureAlgorithm::RSA,
            Kind::P256 | Kind::P384 | Kind::P521 => SignatureAlgorithm::ECDSA,
            Kind::Ed25519 => SignatureAlgorithm::ED25519,
        }
    }

    pub(super) fn algorithm_id(self) -> AlgorithmIdentifier {
        match self {
            Kind::Rsa => alg_id::RSA_ENCRYPTION,
            Kind::P256 => alg_id::ECDSA_P256,
            Kind::P384 => alg_id::ECDSA_P384,
            Kind::P521 => alg_id::ECDSA_P521,
            Kind::Ed25519 => alg_id::ED25519,
        }
    }

    /// The public key, from `CKA_EC_POINT`. Some tokens leave out the OCTET STRING around it.
    pub(super) fn point(self, attribute: &[u8]) -> Option<Vec<u8>> {
        let is_point = |point: &[u8]| match self {
            Kind::Rsa => false,
            Kind::P256 => point.len() == 65 && point[0] == 4,
            Kind::P384 => point.len() == 97 && point[0] == 4,
            Kind::P521 => point.len() == 133 && point[0] == 4,
            Kind::Ed25519 => point.len() == 32,
        };
        let inner = der::octet_string(attribute).filter(|point| is_point(point));
        let point = inner.or_else(|| Some(attribute).filter(|point| is_point(point)));
        point.map(<[u8]>::to_vec)
    }
}

fn mechanisms(scheme: SignatureScheme) -> [Method; 2] {
    use MechanismType as M;
    use SignatureScheme as S;
    let method = |(mechanism, input)| Method {
        scheme,
        mechanism,
        input,
    };
    // Tokens have CKM_ECDSA more often than the ones that hash.
    match scheme {
        S::ECDSA_NISTP256_SHA256 => [(M::ECDSA, Input::Digest), (M::ECDSA_SHA256, Input::Message)],
        S::ECDSA_NISTP384_SHA384 => [(M::ECDSA, Input::Digest), (M::ECDSA_SHA384, Input::Message)],
        S::ECDSA_NISTP521_SHA512 => [(M::ECDSA, Input::Digest), (M::ECDSA_SHA512, Input::Message)],
        S::RSA_PSS_SHA256 => [
            (M::SHA256_RSA_PKCS_PSS, Input::Message),
            (M::RSA_PKCS_PSS, Input::Digest),
        ],
        S::RSA_PSS_SHA384 => [
            (M::SHA384_RSA_PKCS_PSS, Input::Message),
            (M::RSA_PKCS_PSS, Input::Digest),
        ],
        S::RSA_PSS_SHA512 => [
            (M::SHA512_RSA_PKCS_PSS, Input::Message),
            (M::RSA_PKCS_PSS, Input::Digest),
        ],
        S::RSA_PKCS1_SHA256 => [(M::SHA256_RSA_PKCS, Input::Message), (M::RSA_PKCS, Input::DigestInfo)],
        S::RSA_PKCS1_SHA384 => [(M::SHA384_RSA_PKCS, Input::Message), (M::RSA_PKCS, Input::DigestInfo)],
        S::RSA_PKCS1_SHA512 => [(M::SHA512_RSA_PKCS, Input::Message), (M::RSA_PKCS, Input::DigestInfo)],
        _ => [(M::EDDSA, Input::Message); 2],
    }
    .map(method)
}

impl Method {
    fn is_ecdsa(&self) -> bool {
        use SignatureScheme as S;
        matches!(
            self.scheme,
            S::ECDSA_NISTP256_SHA256 | S::ECDSA_NISTP384_SHA384 | S::ECDSA_NISTP521_SHA512
        )
    }

    fn takes_pieces(&self) -> bool {
        self.input == Input::Message && self.mechanism != MechanismType::EDDSA
    }

    /// The signature in the token's form, which for ECDSA is two numbers of equal length. `log_in` is called after the
    /// beginning of the signature, if the key asks for that.
    pub(super) fn sign<E: From<cryptoki::error::Error>>(
        &self,
        session: &Session,
        key: ObjectHandle,
        message: &[u8],
        log_in: Option<impl FnOnce() -> Result<(), E>>,
    ) -> Result<Vec<u8>, E> {
        let mechanism = self.mechanism();
        if let Some(log_in) = log_in {
            session.sign_init(&mechanism, key)?;
            log_in()?;
            session.sign_update(message)?;
            return Ok(session.sign_final()?);
        }
        let digest = || digest::digest(self.hash().0, message);
        Ok(match self.input {
            Input::Message => session.sign(&mechanism, key, message)?,
            Input::Digest => session.sign(&mechanism, key, digest().as_ref())?,
            Input::DigestInfo => session.sign(&mechanism, key, &der::digest_info(self.hash().1, digest().as_ref()))?,
        })
    }

    /// The signature in the form of TLS. `None` if it is not two numbers of equal length where it should be.
    pub(super) fn encode(&self, signature: Vec<u8>) -> Option<Vec<u8>> {
        if !self.is_ecdsa() {
            return Some(signature);
        }
        let (r, s) = signature.split_at(signature.len() / 2);
        (r.len() == s.len() && !r.is_empty()).then(|| der::ecdsa_signature(r, s))
    }

    /// Whether `signature`, in the token's form, verifies. ring does not know P-521: there the token verifies, with a
    /// public key made of `public` for this session.
    pub(super) fn verifies(
        &self,
        session: &Session,
        public: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> TokenResult<bool> {
        use SignatureScheme as S;
        let algorithm: &dyn VerificationAlgorithm = match self.scheme {
            S::ECDSA_NISTP256_SHA256 => &signature::ECDSA_P256_SHA256_ASN1,
            S::ECDSA_NISTP384_SHA384 => &signature::ECDSA_P384_SHA384_ASN1,
            S::ECDSA_NISTP521_SHA512 => return self.verifies_in_token(session, public, message, signature),
            S::RSA_PSS_SHA256 => &signature::RSA_PSS_2048_8192_SHA256,
            S::RSA_PSS_SHA384 => &signature::RSA_PSS_2048_8192_SHA384,
            S::RSA_PSS_SHA512 => &signature::RSA_PSS_2048_8192_SHA512,
            S::RSA_PKCS1_SHA256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            S::RSA_PKCS1_SHA384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            S::RSA_PKCS1_SHA512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            _ => &signature::ED25519,
        };
        let Some(signature) = self.encode(signature.to_vec()) else {
            return Ok(false);
        };
        Ok(UnparsedPublicKey::new(algorithm, public)
            .verify(message, &signature)
            .is_ok())
    }

    fn verifies_in_token(
        &self,
        session: &Session,
        public: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> TokenResult<bool> {
        let object = session.create_object(&[
            Attribute::Class(ObjectClass::PUBLIC_KEY),
            Attribute::KeyType(KeyType::EC),
            Attribute::Token(false),
            Attribute::Private(false),
            Attribute::Verify(true),
            Attribute::EcParams(P521.to_vec()),
            Attribute::EcPoint(der::octet_string_of(public)),
        ])?;
        let digest = digest::digest(self.hash().0, message);
        let verified = session.verify(&Mechanism::Ecdsa, object, digest.as_ref(), signature);
        let destroyed = session.destroy_object(object);
        match verified {
            Ok(()) => destroyed.map(|()| true),
            Err(error) if is_wrong_signature(&error) => destroyed.map(|()| false),
            Err(error) => Err(error),
        }
    }

    fn mechanism(&self) -> Mechanism<'static> {
        use MechanismType as M;
        let pss = || {
            let (hash_alg, mgf, length) = match self.hash().2 {
                256 => (M::SHA256, PkcsMgfType::MGF1_SHA256, 32),
                384 => (M::SHA384, PkcsMgfType::MGF1_SHA384, 48),
                _ => (M::SHA512, PkcsMgfType::MGF1_SHA512, 64),
            };
            PkcsPssParams {
                hash_alg,
                mgf,
                s_len: cryptoki::types::Ulong::from(length as u32 as u64),
            }
        };
        match self.mechanism {
            M::ECDSA => Mechanism::Ecdsa,
            M::ECDSA_SHA256 => Mechanism::EcdsaSha256,
            M::ECDSA_SHA384 => Mechanism::EcdsaSha384,
            M::ECDSA_SHA512 => Mechanism::EcdsaSha512,
            M::RSA_PKCS => Mechanism::RsaPkcs,
            M::SHA256_RSA_PKCS => Mechanism::Sha256RsaPkcs,
            M::SHA384_RSA_PKCS => Mechanism::Sha384RsaPkcs,
            M::SHA512_RSA_PKCS => Mechanism::Sha512RsaPkcs,
            M::RSA_PKCS_PSS => Mechanism::RsaPkcsPss(pss()),
            M::SHA256_RSA_PKCS_PSS => Mechanism::Sha256RsaPkcsPss(pss()),
            M::SHA384_RSA_PKCS_PSS => Mechanism::Sha384RsaPkcsPss(pss()),
            M::SHA512_RSA_PKCS_PSS => Mechanism::Sha512RsaPkcsPss(pss()),
            _ => Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519)),
        }
    }

    /// The hash of the scheme, its object identifier in DER, and its bits.
    fn hash(&self) -> (&'static digest::Algorithm, &'static [u8], usize) {
        use SignatureScheme as S;
        match self.scheme {
            S::ECDSA_NISTP384_SHA384 | S::RSA_PSS_SHA384 | S::RSA_PKCS1_SHA384 => (
                &digest::SHA384,
                &[0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02],
                384,
            ),
            S::ECDSA_NISTP521_SHA512 | S::RSA_PSS_SHA512 | S::RSA_PKCS1_SHA512 => (
                &digest::SHA512,
                &[0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03],
                512,
            ),
            _ => (
                &digest::SHA256,
                &[0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01],
                256,
            ),
        }
    }
}

fn is_wrong_signature(error: &cryptoki::error::Error) -> bool {
    use cryptoki::error::{Error, RvError};
    matches!(
        error,
        Error::Pkcs11(RvError::SignatureInvalid | RvError::SignatureLenRange, _)
    )
}
