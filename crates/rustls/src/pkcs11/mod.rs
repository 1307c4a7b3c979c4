//! A private key in a PKCS#11 token: an HSM, a smart card, SoftHSM.
//!
//! ```text
//!   uri.rs, find.rs     which key it is, and which public key belongs to it: proven by a signature
//!   kind.rs             what it signs, and how
//!   sessions.rs         with which session; when the PIN is sent
//!   error.rs            what can go wrong, and what to do
//! ```
//!
//! A PKCS#11 session does one thing at a time, and opening a session costs a login. So a key keeps the sessions of
//! earlier signatures, and each signature uses one of them alone. With an [`offload`](asyncjob::offload) pool of four
//! threads the key ends up with four sessions, each opened when it was first needed. A token that allows fewer has its
//! signatures wait.
//!
//! `TokenKey` is an ordinary synchronous [`SigningKey`]. In an [`OffloadedKey`](crate::OffloadedKey) it pauses the job.
//! Without one it blocks the thread.
//!
//! [`SigningKey`]: https://docs.rs/rustls/0.23/rustls/sign/trait.SigningKey.html

mod error;
mod find;
mod kind;
mod sessions;
mod uri;

// What a program needs to open a token, so that it need not depend on cryptoki itself.
#[doc(no_inline)]
pub use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
#[doc(no_inline)]
pub use cryptoki::types::AuthPin;
pub use error::KeyError;
pub use sessions::SessionStats;
pub use uri::UriError;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use rustls::sign::{Signer, SigningKey, public_key_to_spki};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};

use crate::{der, other};
use find::Wanted;
use kind::{Kind, Method};
use sessions::{Pin, Sessions};

/// How long a signature waits for a session, unless the caller says otherwise.
const PATIENCE: Duration = Duration::from_secs(30);

/// A private key that stays in its token.
///
/// | the key | signs |
/// |---|---|
/// | RSA, 2,048 bits and more | `RSA_PSS_SHA256`, `_SHA384`, `_SHA512`, `RSA_PKCS1_SHA256`, `_SHA384`, `_SHA512` |
/// | P-256 | `ECDSA_NISTP256_SHA256` |
/// | P-384 | `ECDSA_NISTP384_SHA384` |
/// | P-521 | `ECDSA_NISTP521_SHA512` |
/// | Ed25519 | `ED25519` |
///
/// A signature of another key never reaches a client: the first signature of each session is verified. ring does that,
/// except for P-521, which the token has to verify itself.
///
/// ```no_run
/// use asyncjob_rustls::pkcs11::TokenKey;
/// # fn open(pkcs11: cryptoki::context::Pkcs11) -> Result<(), Box<dyn std::error::Error>> {
/// let key = TokenKey::open(pkcs11, "pkcs11:token=web;object=tls?pin-source=file:/run/secrets/pin")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TokenKey(Arc<Key>);

struct Key {
    sessions: Sessions,
    kind: Kind,
    methods: Vec<Method>,
    login_each_time: bool,
    public: Vec<u8>,
}

/// What a [`TokenKey`] is looked for by, and how it is used. Made by [`TokenKey::builder`].
///
/// What is not given fits each token and each private key. The tokens that fit are all searched, and the key that fits
/// must be the only one. Each of them gets the PIN once: if tokens of one name have different PINs, give the serial.
#[must_use = "nothing is opened before `open`"]
pub struct TokenKeyBuilder {
    pkcs11: Pkcs11,
    wanted: Wanted,
    pin: Option<Pin>,
    given: Option<Vec<u8>>,
    max_sessions: usize,
    patience: Duration,
}

impl TokenKey {
    /// The key that a PKCS#11 URI ([RFC 7512](https://www.rfc-editor.org/rfc/rfc7512)) names. The library must be
    /// initialised.
    ///
    /// The URI may have `token`, `serial`, `manufacturer`, `model`, `slot-id`, `object`, `id` and `type=private`. Its
    /// query may have `pin-source` (a file) or `pin-value`. `module-name` and `module-path` are ignored: you have
    /// loaded the module.
    ///
    /// # Errors
    ///
    /// As [`TokenKeyBuilder::open`], and [`KeyError::Uri`].
    pub fn open(pkcs11: Pkcs11, uri: &str) -> Result<TokenKey, KeyError> {
        TokenKey::builder(pkcs11).uri(uri)?.open()
    }

    /// Looks for a key by other means than a URI, or with other limits. The library must be initialised.
    ///
    /// ```no_run
    /// use asyncjob_rustls::pkcs11::TokenKey;
    /// # fn open(pkcs11: cryptoki::context::Pkcs11) -> Result<(), Box<dyn std::error::Error>> {
    /// let pin = cryptoki::types::AuthPin::new("1234".into());
    /// let key = TokenKey::builder(pkcs11).token("web").id([7]).pin(pin).open()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(pkcs11: Pkcs11) -> TokenKeyBuilder {
        TokenKeyBuilder {
            pkcs11,
            wanted: Wanted::default(),
            pin: None,
            given: None,
            max_sessions: usize::MAX,
            patience: PATIENCE,
        }
    }

    /// The public key as a certificate holds it: an uncompressed point for the P curves (65, 97 or 133 bytes), 32 bytes
    /// for Ed25519, an `RSAPublicKey` in DER for RSA.
    pub fn public_key_bytes(&self) -> &[u8] {
        &self.0.public
    }

    /// The certificate of this key in the token, and then its issuers, as far as the token has them and without the
    /// root. Empty if the token has no certificate of this key.
    ///
    /// # Errors
    ///
    /// Those of the token.
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, KeyError> {
        let info = self.0.public_key_info();
        let sessions = &self.0.sessions;
        sessions.with_session(|session| Ok(find::chain(session.session(), info.as_ref())?))
    }

    /// Counts the sessions of this key, its logins and its errors.
    pub fn session_stats(&self) -> SessionStats {
        self.0.sessions.stats()
    }
}

impl TokenKeyBuilder {
    /// Takes what a PKCS#11 URI says. What it does not say stays as it was.
    ///
    /// # Errors
    ///
    /// If it is no such URI, or has an attribute that is not supported.
    pub fn uri(mut self, uri: &str) -> Result<Self, UriError> {
        let (wanted, pin) = uri::parse(uri)?;
        self.wanted = Wanted {
            token: wanted.token.or(self.wanted.token),
            serial: wanted.serial.or(self.wanted.serial),
            manufacturer: wanted.manufacturer.or(self.wanted.manufacturer),
            model: wanted.model.or(self.wanted.model),
            slot_id: wanted.slot_id.or(self.wanted.slot_id),
            label: wanted.label.or(self.wanted.label),
            id: wanted.id.or(self.wanted.id),
        };
        self.pin = pin.or(self.pin);
        Ok(self)
    }

    /// The token's label.
    pub fn token(mut self, label: &str) -> Self {
        self.wanted.token = Some(label.into());
        self
    }

    /// The token's serial number.
    pub fn serial(mut self, serial: &str) -> Self {
        self.wanted.serial = Some(serial.into());
        self
    }

    /// The slot that the token is in. Some libraries number slots anew at each start: prefer the serial.
    pub fn slot_id(mut self, id: u64) -> Self {
        self.wanted.slot_id = Some(id);
        self
    }

    /// The label of the private key (`CKA_LABEL`).
    pub fn label(mut self, label: &str) -> Self {
        self.wanted.label = Some(label.into());
        self
    }

    /// The id of the private key (`CKA_ID`).
    pub fn id(mut self, id: impl Into<Vec<u8>>) -> Self {
        self.wanted.id = Some(id.into());
        self
    }

    /// The PIN. It is kept for later sessions, and overwritten when the key is dropped. A token with a PIN pad of its
    /// own does not get it.
    ///
    /// While another session of the process is logged in to the token, the token does not look at the PIN.
    pub fn pin(mut self, pin: AuthPin) -> Self {
        self.pin = Some(Pin::Value(pin));
        self
    }

    /// A function that fetches the PIN. It is called for each login, and nothing is kept.
    pub fn pin_from(mut self, fetch: impl Fn() -> io::Result<AuthPin> + Send + Sync + 'static) -> Self {
        self.pin = Some(Pin::Fetch(Arc::new(fetch)));
        self
    }

    /// The public key, for a token that has neither it nor a certificate.
    pub fn public_key(mut self, key: &SubjectPublicKeyInfoDer<'_>) -> Self {
        self.given = Some(key.as_ref().to_vec());
        self
    }

    /// A certificate of the key, for a token that has neither it nor the public key.
    pub fn certificate(mut self, certificate: &CertificateDer<'_>) -> Self {
        // A certificate that cannot be read has no public key. `open` says that there is none.
        let parts = der::certificate(certificate);
        self.given = Some(parts.map_or_else(Vec::new, |parts| parts.public_key_info.to_vec()));
        self
    }

    /// At most this many sessions, and at least one. By default as many as the token allows.
    pub fn max_sessions(mut self, max: usize) -> Self {
        self.max_sessions = max;
        self
    }

    /// How long a signature waits for a session when all are in use, and for a login that another signature has begun.
    /// By default 30 seconds.
    pub fn session_wait(mut self, limit: Duration) -> Self {
        self.patience = limit;
        self
    }

    /// Finds the key, makes one signature with it, and verifies that signature with the public key.
    ///
    /// The public key is the one with the same `CKA_ID` as the private key, or that of a certificate with the same
    /// `CKA_ID`, or the one that was given: the first that verifies. A private key without a `CKA_ID` has the objects
    /// with its label.
    ///
    /// A failed `open` closes its sessions, and logs out if it has logged in. So a process opens one key at a time: the
    /// others wait, also for a token that hangs.
    ///
    /// # Errors
    ///
    /// See [`KeyError`]. Each names what was looked for, or which key or token it is about.
    pub fn open(self) -> Result<TokenKey, KeyError> {
        // One at a time: a search that fails logs out, and a login counts for the whole process.
        static OPENING: Mutex<()> = Mutex::new(());
        let _one_at_a_time = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        let given = self.given.as_deref().and_then(der::public_key_info);
        let mut found = find::find(&self.pkcs11, &self.wanted, self.pin.as_ref(), given, self.patience)?;
        found.session.log_out = false;
        let first = (found.session, found.handle);
        let sessions = Sessions::new(found.token, found.identity, first, self.max_sessions);
        Ok(TokenKey(Arc::new(Key {
            sessions,
            kind: found.kind,
            methods: found.methods,
            login_each_time: found.login_each_time,
            public: found.public,
        })))
    }
}

impl SigningKey for TokenKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let method = *self.0.methods.iter().find(|method| offered.contains(&method.scheme))?;
        Some(Box::new(TokenSigner {
            key: Arc::clone(&self.0),
            method,
        }))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(self.0.public_key_info())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.kind.algorithm()
    }
}

impl Key {
    fn public_key_info(&self) -> SubjectPublicKeyInfoDer<'static> {
        public_key_to_spki(&self.kind.algorithm_id(), &self.public)
    }

    fn sign(&self, method: Method, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let token = &self.sessions.token;
        self.sessions.with_session(|used| {
            let session = used.session();
            let log_in = self.login_each_time.then_some(|| token.log_in_for_signature(session));
            let signature = method.sign(session, used.key(), message, log_in)?;
            let wrong = || KeyError::WrongPair {
                key: self.sessions.key.in_token(token),
            };
            if !used.is_proven {
                if !method.verifies(session, &self.public, message, &signature)? {
                    return Err(wrong());
                }
                used.is_proven = true;
            }
            method.encode(signature).ok_or_else(wrong)
        })
    }
}

#[derive(Debug)]
struct TokenSigner {
    key: Arc<Key>,
    method: Method,
}

impl Signer for TokenSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        self.key.sign(self.method, message).map_err(other)
    }

    fn scheme(&self) -> SignatureScheme {
        self.method.scheme
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
            .field("key", &self.sessions.key.in_token(&self.sessions.token))
            .field("kind", &self.kind);
        shown.field("sessions", &self.sessions.stats()).finish_non_exhaustive()
    }
}

impl fmt::Debug for TokenKeyBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("TokenKeyBuilder");
        shown.field("wanted", &self.wanted).field("pin", &self.pin);
        shown.finish_non_exhaustive()
    }
}
