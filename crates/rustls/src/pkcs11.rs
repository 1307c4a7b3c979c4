//! A private key in a PKCS#11 token: an HSM, a smart card, SoftHSM.
//!
//! ```text
//!   sign() ---- an idle session, or a new one ----> signature ----> the session is idle again
//!                                                       |
//!                                                       | its session is dead
//!                                                       v
//!                              that session and all idle ones are dropped; once more, on a new one
//! ```
//!
//! A PKCS#11 session does one thing at a time, and opening a session costs a login. So a key keeps the sessions of
//! earlier signatures, and each signature uses one of them alone. With an [`offload`](asyncjob::offload) pool of four
//! threads the key ends up with four sessions, each opened when it was first needed.
//!
//! `TokenKey` is an ordinary synchronous [`SigningKey`]. In an [`OffloadedKey`](crate::OffloadedKey) it pauses the job.
//! Without one it blocks the thread.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cryptoki::context::{Function, Pkcs11};
use cryptoki::error::{Error as TokenError, Result as TokenResult, RvError};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use rustls::pki_types::{SubjectPublicKeyInfoDer, alg_id};
use rustls::sign::{Signer, SigningKey, public_key_to_spki};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};

use crate::{der, other};

/// A private key that stays in its token.
///
/// Signs `ECDSA_NISTP256_SHA256` with a P-256 key, and `RSA_PSS_SHA256` and `RSA_PKCS1_SHA256` with an RSA key.
#[derive(Clone)]
pub struct TokenKey(Arc<Key>);

/// The sessions of a [`TokenKey`]: see [`TokenKey::session_stats`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionStats {
    /// Sessions that were opened.
    pub opened: u64,
    /// Of these, sessions that replaced one that had died.
    pub reopened: u64,
    /// Sessions that are open and not in use.
    pub idle: usize,
}

struct Key {
    location: KeyLocation,
    kind: Kind,
    public: Vec<u8>,
    idle: Mutex<Vec<KeySession>>,
    opened: AtomicU64,
    reopened: AtomicU64,
}

/// Where the key is, and the PIN that unlocks it.
struct KeyLocation {
    pkcs11: Pkcs11,
    token: String,
    pin: AuthPin,
    label: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    P256,
    Rsa,
}

/// A session, and the handle of the key in that session.
struct KeySession {
    // Its drop does not close it: the number of a dead session may already be the number of a living one.
    session: Session,
    key: ObjectHandle,
}

impl TokenKey {
    /// The key pair with the label `label`, in the token with the label `token`. The library must be initialised.
    ///
    /// # Errors
    ///
    /// - [`TokenNotPresent`](RvError::TokenNotPresent) if no slot has the token.
    /// - [`KeyHandleInvalid`](RvError::KeyHandleInvalid) if the token has no private key or no public key with this
    ///   label.
    /// - [`KeyTypeInconsistent`](RvError::KeyTypeInconsistent) if the pair is neither P-256 nor RSA.
    /// - Any other error of the token.
    pub fn open(pkcs11: Pkcs11, token: &str, pin: AuthPin, label: &str) -> TokenResult<TokenKey> {
        let location = KeyLocation {
            pkcs11,
            token: token.into(),
            pin,
            label: label.into(),
        };
        let session = location.open()?;
        let (kind, public) = public_key(&session.session, label)?;
        let (idle, opened, reopened) = (Mutex::new(vec![session]), AtomicU64::new(1), AtomicU64::new(0));
        Ok(TokenKey(Arc::new(Key {
            location,
            kind,
            public,
            idle,
            opened,
            reopened,
        })))
    }

    /// The public key as a certificate holds it: an uncompressed point (65 bytes) for P-256, an `RSAPublicKey` in DER
    /// for RSA.
    pub fn public_key_bytes(&self) -> &[u8] {
        &self.0.public
    }

    /// Counts the sessions of this key.
    pub fn session_stats(&self) -> SessionStats {
        self.0.session_stats()
    }
}

impl SigningKey for TokenKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = *self.0.kind.schemes().iter().find(|scheme| offered.contains(scheme))?;
        Some(Box::new(TokenSigner {
            key: Arc::clone(&self.0),
            scheme,
        }))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        let algorithm = match self.0.kind {
            Kind::P256 => alg_id::ECDSA_P256,
            Kind::Rsa => alg_id::RSA_ENCRYPTION,
        };
        Some(public_key_to_spki(&algorithm, &self.0.public))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.0.kind {
            Kind::P256 => SignatureAlgorithm::ECDSA,
            Kind::Rsa => SignatureAlgorithm::RSA,
        }
    }
}

impl Kind {
    fn schemes(self) -> &'static [SignatureScheme] {
        match self {
            Kind::P256 => &[SignatureScheme::ECDSA_NISTP256_SHA256],
            Kind::Rsa => &[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256],
        }
    }
}

#[derive(Debug)]
struct TokenSigner {
    key: Arc<Key>,
    scheme: SignatureScheme,
}

impl Signer for TokenSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signed = self
            .key
            .with_session(|session| signature(session, self.scheme, message));
        signed.map_err(other)
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("TokenKey");
        shown
            .field("token", &self.location.token)
            .field("label", &self.location.label)
            .field("kind", &self.kind);
        shown.field("sessions", &self.session_stats()).finish_non_exhaustive()
    }
}

impl Key {
    /// Does `work` on a session. If the session turns out to be dead, does it once more, on a new one.
    fn with_session<T>(&self, work: impl Fn(&KeySession) -> TokenResult<T>) -> TokenResult<T> {
        let Some(session) = self.idle().pop() else {
            return self.with_new_session(&work);
        };
        match work(&session) {
            Err(error) if is_session_dead(&error) => {
                self.reopened.fetch_add(1, Ordering::Relaxed);
                // The idle sessions go, too. What killed this one has killed them, and after a restart of the library
                // the number of a dead session may be given to a new one.
                let dead = std::mem::take(&mut *self.idle());
                std::iter::once(session)
                    .chain(dead)
                    .for_each(|session| session.close_after(&error));
                self.with_new_session(&work)
            }
            result => {
                self.idle().push(session);
                result
            }
        }
    }

    /// Does `work` on a new session, and keeps the session unless it is dead, too.
    fn with_new_session<T>(&self, work: impl Fn(&KeySession) -> TokenResult<T>) -> TokenResult<T> {
        let session = self.location.open()?;
        self.opened.fetch_add(1, Ordering::Relaxed);
        let result = work(&session);
        match &result {
            Err(error) if is_session_dead(error) => session.close_after(error),
            _ => self.idle().push(session),
        }
        result
    }

    fn session_stats(&self) -> SessionStats {
        SessionStats {
            opened: self.opened.load(Ordering::Relaxed),
            reopened: self.reopened.load(Ordering::Relaxed),
            idle: self.idle().len(),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<KeySession>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        for session in self.idle().drain(..) {
            let _ = session.session.close();
        }
    }
}

impl KeyLocation {
    fn open(&self) -> TokenResult<KeySession> {
        let session = self.pkcs11.open_ro_session_no_drop(self.slot()?)?;
        match self.log_in(&session) {
            Ok(key) => Ok(KeySession { session, key }),
            Err(error) => {
                let _ = session.close();
                Err(error)
            }
        }
    }

    /// The slot of the token. After a restart of the library it may be another one, as with SoftHSM.
    fn slot(&self) -> TokenResult<Slot> {
        for slot in self.pkcs11.get_slots_with_initialized_token()? {
            if self.pkcs11.get_token_info(slot)?.label() == self.token {
                return Ok(slot);
            }
        }
        Err(TokenError::Pkcs11(RvError::TokenNotPresent, Function::GetSlotList))
    }

    fn log_in(&self, session: &Session) -> TokenResult<ObjectHandle> {
        match session.login(UserType::User, Some(&self.pin)) {
            // A login counts for the whole process, and another session has logged in already.
            Ok(()) | Err(TokenError::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(error) => return Err(error),
        }
        find(session, ObjectClass::PRIVATE_KEY, &self.label)
    }
}

impl KeySession {
    /// Closes the session after `error`, unless its number is not valid any more: another session may have it.
    fn close_after(self, error: &TokenError) {
        if !matches!(
            error,
            TokenError::Pkcs11(RvError::SessionHandleInvalid | RvError::SessionClosed, _)
        ) {
            let _ = self.session.close();
        }
    }
}

fn signature(session: &KeySession, scheme: SignatureScheme, message: &[u8]) -> TokenResult<Vec<u8>> {
    let sign = |mechanism, data| session.session.sign(&mechanism, session.key, data);
    match scheme {
        // CKM_ECDSA, which every token has, and not CKM_ECDSA_SHA256, which few tokens have.
        SignatureScheme::ECDSA_NISTP256_SHA256 => {
            let digest = ring::digest::digest(&ring::digest::SHA256, message);
            let halves = sign(Mechanism::Ecdsa, digest.as_ref())?;
            let (r, s) = halves.split_at(halves.len() / 2);
            Ok(der::ecdsa_signature(r, s))
        }
        SignatureScheme::RSA_PSS_SHA256 => {
            let hash_alg = MechanismType::SHA256;
            sign(
                Mechanism::Sha256RsaPkcsPss(PkcsPssParams {
                    hash_alg,
                    mgf: PkcsMgfType::MGF1_SHA256,
                    s_len: 32.into(),
                }),
                message,
            )
        }
        _ => sign(Mechanism::Sha256RsaPkcs, message),
    }
}

fn public_key(session: &Session, label: &str) -> TokenResult<(Kind, Vec<u8>)> {
    let object = find(session, ObjectClass::PUBLIC_KEY, label)?;
    let wanted = [
        AttributeType::KeyType,
        AttributeType::EcPoint,
        AttributeType::Modulus,
        AttributeType::PublicExponent,
    ];
    let (mut kind, mut point, mut modulus, mut exponent) = (None, None, None, None);
    for attribute in session.get_attributes(object, &wanted)? {
        match attribute {
            Attribute::KeyType(found) => kind = Some(found),
            Attribute::EcPoint(found) => point = Some(found),
            Attribute::Modulus(found) => modulus = Some(found),
            Attribute::PublicExponent(found) => exponent = Some(found),
            _ => {}
        }
    }
    match (kind, point.as_deref().and_then(der::octet_string), modulus, exponent) {
        (Some(KeyType::EC), Some(point), ..) if point.len() == 65 => Ok((Kind::P256, point.to_vec())),
        (Some(KeyType::RSA), _, Some(modulus), Some(exponent)) => {
            Ok((Kind::Rsa, der::rsa_public_key(&modulus, &exponent)))
        }
        _ => Err(TokenError::Pkcs11(
            RvError::KeyTypeInconsistent,
            Function::GetAttributeValue,
        )),
    }
}

fn find(session: &Session, class: ObjectClass, label: &str) -> TokenResult<ObjectHandle> {
    let template = [Attribute::Class(class), Attribute::Label(label.into())];
    let found = session.find_objects(&template)?;
    found
        .first()
        .copied()
        .ok_or(TokenError::Pkcs11(RvError::KeyHandleInvalid, Function::FindObjects))
}

/// Whether the token's error is one after which a new session may work and this one will not.
fn is_session_dead(error: &TokenError) -> bool {
    let TokenError::Pkcs11(answer, _) = error else {
        return false;
    };
    matches!(
        answer,
        RvError::SessionHandleInvalid
            | RvError::SessionClosed
            | RvError::UserNotLoggedIn
            | RvError::KeyHandleInvalid
            | RvError::ObjectHandleInvalid
            | RvError::DeviceRemoved
            | RvError::DeviceError
            | RvError::TokenNotPresent
    )
}
