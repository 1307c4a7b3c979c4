//! Finding a private key, and the public key that belongs to it.
//!
//! ```text
//!   Wanted ---> the tokens that fit ---> their private keys that fit: exactly one
//!                                              |
//!                                              v
//!               public keys with its id, then certificates with its id, then the caller's: the first that verifies
//!               what the private key signs
//! ```

use std::fmt;
use std::time::Duration;

use cryptoki::context::Pkcs11;
use cryptoki::error::{Error as TokenError, RvError};
use cryptoki::object::{Attribute, AttributeType, CertificateType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::slot::{Slot, TokenInfo};
use rustls::pki_types::CertificateDer;

use super::KeyError;
use super::kind::{Kind, Method};
use super::sessions::{OpenSession, Pin, Token};
use crate::der;

/// A message that is signed when a key is opened, to prove that its halves belong together.
const PROOF: &[u8] = b"asyncjob-rustls: do the private and the public key belong together?";
/// An RSA public key of 2,048 bits in DER has at least so many bytes.
const RSA_2048: usize = 268;

/// What a key is looked for by. What is not given fits each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) token: Option<String>,
    pub(super) serial: Option<String>,
    pub(super) manufacturer: Option<String>,
    pub(super) model: Option<String>,
    pub(super) slot_id: Option<u64>,
    pub(super) label: Option<String>,
    pub(super) id: Option<Vec<u8>>,
}

/// What a private key is found by again, in each session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) label: Vec<u8>,
    pub(super) id: Vec<u8>,
}

/// A key that was found, and has signed.
pub(super) struct Found {
    pub(super) token: Token,
    pub(super) session: OpenSession,
    pub(super) handle: ObjectHandle,
    pub(super) identity: Identity,
    pub(super) kind: Kind,
    pub(super) methods: Vec<Method>,
    pub(super) login_each_time: bool,
    pub(super) public: Vec<u8>,
}

impl Wanted {
    fn fits(&self, slot: Slot, info: &TokenInfo) -> bool {
        fn fits(wanted: Option<&String>, is: &str) -> bool {
            wanted.is_none_or(|wanted| wanted == is)
        }
        fits(self.token.as_ref(), info.label())
            && fits(self.serial.as_ref(), info.serial_number())
            && fits(self.manufacturer.as_ref(), info.manufacturer_id())
            && fits(self.model.as_ref(), info.model())
            && self.slot_id.is_none_or(|id| id == slot.id())
    }

    fn names_token(&self) -> bool {
        self.token.is_some() || self.serial.is_some() || self.slot_id.is_some()
    }

    fn template(&self) -> Vec<Attribute> {
        let mut template = vec![Attribute::Class(ObjectClass::PRIVATE_KEY)];
        template.extend(self.label.iter().map(|label| Attribute::Label(label.clone().into())));
        template.extend(self.id.iter().map(|id| Attribute::Id(id.clone())));
        template
    }

    fn token_words(&self) -> String {
        let texts = [
            ("the name", &self.token),
            ("the serial", &self.serial),
            ("the manufacturer", &self.manufacturer),
            ("the model", &self.model),
        ];
        let texts = texts
            .into_iter()
            .filter_map(|(name, text)| Some(format!("{name} {:?}", text.as_ref()?)));
        words(texts.chain(self.slot_id.map(|id| format!("the slot {id}"))), "any name")
    }

    fn key_words(&self) -> String {
        let label = self.label.iter().map(|label| format!("the label {label:?}"));
        words(
            label.chain(self.id.iter().map(|id| format!("the id {}", hex(id)))),
            "any label",
        )
    }
}

fn words(words: impl Iterator<Item = String>, none: &str) -> String {
    let words: Vec<String> = words.collect();
    if words.is_empty() {
        none.into()
    } else {
        words.join(" and ")
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the key {:?}", String::from_utf8_lossy(&self.label))?;
        match self.id.as_slice() {
            [] => f.write_str(" without an id"),
            id => write!(f, " with the id {}", hex(id)),
        }
    }
}

impl Identity {
    /// What other objects of the same key have: the id, or the label if the key has no id.
    fn shared(&self) -> Attribute {
        match self.id.as_slice() {
            [] => Attribute::Label(self.label.clone()),
            id => Attribute::Id(id.to_vec()),
        }
    }

    pub(super) fn in_token(&self, token: &Token) -> String {
        format!("{self} in {}", token.name())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn token_name(label: &str, serial: &str) -> String {
    format!("the token {label:?} (serial {serial})")
}

/// The tokens that can be used. One that is being removed is none.
pub(super) fn tokens(pkcs11: &Pkcs11) -> Result<Vec<(Slot, TokenInfo)>, KeyError> {
    let slots = pkcs11.get_slots_with_token()?.into_iter();
    let with_info = slots.filter_map(|slot| Some((slot, pkcs11.get_token_info(slot).ok()?)));
    Ok(with_info.filter(|(_, info)| info.token_initialized()).collect())
}

pub(super) fn names(tokens: &[(Slot, TokenInfo)]) -> Vec<String> {
    let name = |(slot, info): &(Slot, TokenInfo)| {
        format!(
            "{} in slot {}",
            token_name(info.label(), info.serial_number()),
            slot.id()
        )
    };
    tokens.iter().map(name).collect()
}

/// Finds the key in each token that fits, and proves that its halves belong together. Each session that is not needed
/// is closed, and logged out if the search has logged in.
pub(super) fn find(
    pkcs11: &Pkcs11,
    wanted: &Wanted,
    pin: Option<&Pin>,
    given: Option<(&[u8], &[u8])>,
    patience: Duration,
) -> Result<Found, KeyError> {
    let present = tokens(pkcs11)?;
    let fitting: Vec<_> = present.iter().filter(|(slot, info)| wanted.fits(*slot, info)).collect();
    if fitting.is_empty() {
        return Err(KeyError::NoToken {
            wanted: wanted.token_words(),
            present: names(&present),
        });
    }
    if fitting.len() > 1 && !wanted.names_token() {
        return Err(KeyError::ManyTokens {
            present: names(&present),
        });
    }
    let (mut searched, mut found) = (Vec::new(), Vec::new());
    for (slot, info) in fitting {
        let token = Token::new(pkcs11.clone(), info, wanted.slot_id, pin.cloned(), patience);
        let session = token.open(*slot)?;
        let handles = session.find_objects(&wanted.template())?;
        let keys: Vec<_> = handles
            .into_iter()
            .map(|handle| Ok((handle, identity(&session, handle)?)))
            .collect::<Result<_, TokenError>>()?;
        searched.push(token.name());
        found.push((*slot, token, session, keys));
    }
    let all = || {
        found
            .iter()
            .flat_map(|(_, token, _, keys)| keys.iter().map(|(_, key)| key.in_token(token)))
    };
    match all().count() {
        1 => {}
        0 => {
            return Err(KeyError::NoKey {
                wanted: wanted.key_words(),
                tokens: searched,
            });
        }
        _ => {
            return Err(KeyError::ManyKeys {
                wanted: wanted.key_words(),
                found: all().collect(),
            });
        }
    }
    found.retain(|(.., keys)| !keys.is_empty());
    let (slot, token, session, mut keys) = found.pop().expect("one has it");
    let (handle, identity) = keys.pop().expect("it has one");
    prove(slot, token, session, handle, identity, given)
}

/// The handle of the same key in another session.
pub(super) fn again(session: &Session, key: &Identity, token: &Token) -> Result<ObjectHandle, KeyError> {
    let mut template = vec![Attribute::Class(ObjectClass::PRIVATE_KEY)];
    if !key.label.is_empty() {
        template.push(Attribute::Label(key.label.clone()));
    }
    if !key.id.is_empty() {
        template.push(Attribute::Id(key.id.clone()));
    }
    match session.find_objects(&template)?.as_slice() {
        [handle] => Ok(*handle),
        [] => Err(KeyError::NoKey {
            wanted: key.to_string(),
            tokens: vec![token.name()],
        }),
        several => Err(KeyError::ManyKeys {
            wanted: key.to_string(),
            found: several.iter().map(|_| key.in_token(token)).collect(),
        }),
    }
}

fn identity(session: &Session, key: ObjectHandle) -> Result<Identity, TokenError> {
    let (mut label, mut id) = (Vec::new(), Vec::new());
    for attribute in session.get_attributes(key, &[AttributeType::Label, AttributeType::Id])? {
        match attribute {
            Attribute::Label(found) => label = found,
            Attribute::Id(found) => id = found,
            _ => {}
        }
    }
    Ok(Identity { label, id })
}

/// What is read of a key object. A token leaves out what it does not have.
#[derive(Default)]
struct KeyObject {
    key_type: Option<KeyType>,
    curve: Option<Vec<u8>>,
    point: Option<Vec<u8>>,
    modulus: Option<Vec<u8>>,
    exponent: Option<Vec<u8>>,
    login_each_time: bool,
}

impl KeyObject {
    fn read(session: &Session, object: ObjectHandle, wanted: &[AttributeType]) -> Result<KeyObject, TokenError> {
        let mut read = KeyObject::default();
        for attribute in session.get_attributes(object, wanted)? {
            match attribute {
                Attribute::KeyType(found) => read.key_type = Some(found),
                Attribute::EcParams(found) => read.curve = Some(found),
                Attribute::EcPoint(found) => read.point = Some(found),
                Attribute::Modulus(found) => read.modulus = Some(found),
                Attribute::PublicExponent(found) => read.exponent = Some(found),
                Attribute::AlwaysAuthenticate(found) => read.login_each_time = found,
                _ => {}
            }
        }
        Ok(read)
    }

    fn public(&self, kind: Kind) -> Option<Vec<u8>> {
        match kind {
            Kind::Rsa => Some(der::rsa_public_key(self.modulus.as_ref()?, self.exponent.as_ref()?)),
            _ => kind.point(self.point.as_ref()?),
        }
    }
}

fn prove(
    slot: Slot,
    token: Token,
    session: OpenSession,
    handle: ObjectHandle,
    identity: Identity,
    given: Option<(&[u8], &[u8])>,
) -> Result<Found, KeyError> {
    let key = || identity.in_token(&token);
    let not_supported = |what: String| KeyError::NotSupported { key: key(), what };
    let private = KeyObject::read(
        &session,
        handle,
        &[
            AttributeType::KeyType,
            AttributeType::EcParams,
            AttributeType::AlwaysAuthenticate,
        ],
    );
    let private = private.map_err(|error| match error {
        // A type that is not in PKCS#11.
        TokenError::NotSupported => not_supported("keys of its type are not supported; RSA, EC and Ed25519 are".into()),
        error => error.into(),
    })?;
    let publics = public_objects(&session, &identity)?;
    let key_type = private
        .key_type
        .ok_or_else(|| not_supported("the token does not tell its type".into()))?;
    let curve = private.curve.as_deref();
    let curve = curve.or_else(|| publics.iter().find_map(|public| public.curve.as_deref()));
    let kind = Kind::of(key_type, curve).map_err(not_supported)?;
    let has = token.pkcs11.get_mechanism_list(slot)?;
    let methods = kind.methods(&has, private.login_each_time);
    let Some(method) = methods.first() else {
        return Err(not_supported(no_method(kind, private.login_each_time)));
    };

    let mut candidates: Vec<Vec<u8>> = publics.iter().filter_map(|public| public.public(kind)).collect();
    for certificate in certificates_with(&session, &[identity.shared()])? {
        let parts = der::certificate(&certificate);
        let info = parts.and_then(|parts| der::public_key_info(parts.public_key_info));
        candidates.extend(info.and_then(|info| of_kind(info, kind)));
    }
    candidates.extend(given.and_then(|info| of_kind(info, kind)));
    if candidates.is_empty() {
        return Err(KeyError::NoPublicKey { key: key() });
    }
    if kind == Kind::Rsa && candidates.iter().all(|public| public.len() < RSA_2048) {
        return Err(not_supported(
            "RSA keys of fewer than 2,048 bits are not supported".into(),
        ));
    }

    let log_in = private
        .login_each_time
        .then_some(|| token.log_in_for_signature(&session));
    let signature = method.sign(&session, handle, PROOF, log_in)?;
    let mut public = None;
    for candidate in candidates {
        if method.verifies(&session, &candidate, PROOF, &signature)? {
            public = Some(candidate);
            break;
        }
    }
    let public = public.ok_or_else(|| KeyError::WrongPair { key: key() })?;
    Ok(Found {
        login_each_time: private.login_each_time,
        token,
        session,
        handle,
        identity,
        kind,
        methods,
        public,
    })
}

fn no_method(kind: Kind, login_each_time: bool) -> String {
    if login_each_time {
        return format!(
            "it asks for a login for each signature, and the token has no {kind:?} mechanism that takes the message in \
             pieces, where that login has its place"
        );
    }
    format!("the token has no mechanism to sign with a key of the kind {kind:?}")
}

fn of_kind((algorithm, key): (&[u8], &[u8]), kind: Kind) -> Option<Vec<u8>> {
    (algorithm == kind.algorithm_id().as_ref()).then(|| key.to_vec())
}

fn public_objects(session: &Session, identity: &Identity) -> Result<Vec<KeyObject>, TokenError> {
    let wanted = [
        AttributeType::EcParams,
        AttributeType::EcPoint,
        AttributeType::Modulus,
        AttributeType::PublicExponent,
    ];
    let template = [Attribute::Class(ObjectClass::PUBLIC_KEY), identity.shared()];
    let objects = session.find_objects(&template)?.into_iter();
    objects
        .map(|object| KeyObject::read(session, object, &wanted))
        .collect()
}

fn certificates_with(session: &Session, template: &[Attribute]) -> Result<Vec<Vec<u8>>, TokenError> {
    let class = [
        Attribute::Class(ObjectClass::CERTIFICATE),
        Attribute::CertificateType(CertificateType::X_509),
    ];
    let mut certificates = Vec::new();
    for object in session.find_objects(&[&class[..], template].concat())? {
        match session.get_attributes(object, &[AttributeType::Value]) {
            Ok(values) => certificates.extend(values.into_iter().filter_map(|value| match value {
                Attribute::Value(der) => Some(der),
                _ => None,
            })),
            // A certificate that is only a URL has no value.
            Err(TokenError::Pkcs11(RvError::AttributeTypeInvalid, _)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(certificates)
}

/// The certificate of the public key `info`, a whole `SubjectPublicKeyInfo`, and then its issuers, as far as the token
/// has them. The root, which clients have, is left out.
pub(super) fn chain(session: &Session, info: &[u8]) -> Result<Vec<CertificateDer<'static>>, TokenError> {
    let all = certificates_with(session, &[])?;
    let parts: Vec<_> = all
        .iter()
        .filter_map(|der| Some((der, der::certificate(der)?)))
        .collect();
    let mut next = parts.iter().find(|(_, parts)| parts.public_key_info == info);
    let mut chain: Vec<CertificateDer<'static>> = Vec::new();
    while let Some((der, certificate)) = next {
        let is_root = certificate.issuer == certificate.subject;
        // Two certificates that have issued each other end here, too.
        if chain.len() == parts.len() || (is_root && !chain.is_empty()) {
            break;
        }
        chain.push(CertificateDer::from((*der).clone()));
        next = parts
            .iter()
            .find(|(_, issuer)| !is_root && issuer.subject == certificate.issuer);
    }
    Ok(chain)
}
