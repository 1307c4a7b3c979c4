//! Tokens and keys of SoftHSM as a test wants them.
#![allow(dead_code, reason = "each test uses a part")]

pub(crate) mod shim;

use asyncjob_testing::tools::{SOFTHSM, missing};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, CertificateType, ObjectClass};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;

use crate::softhsm;

pub(crate) const OFFICER_PIN: &str = "87654321";
pub(crate) const PIN: &str = "12345678";

pub(crate) const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
pub(crate) const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
pub(crate) const P521: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23];
pub(crate) const SECP256K1: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a];
pub(crate) const BRAINPOOL_P256: &[u8] = &[0x06, 0x09, 0x2b, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, 0x07];
pub(crate) const ED25519: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];

/// Runs `test` in a process that has SoftHSM to itself: SoftHSM finds its tokens through the environment.
pub(crate) fn alone(name: &str, test: impl FnOnce()) {
    if missing(&[SOFTHSM]) {
        return;
    }
    let arguments = [name, "--exact", "--nocapture"].map(String::from);
    match softhsm::with_config(arguments).expect("the test starts itself once more") {
        Some(status) => assert!(
            status.success(),
            "{name} failed in the process with the token: {status}"
        ),
        None => test(),
    }
}

pub(crate) fn load(module: impl AsRef<std::path::Path>) -> Pkcs11 {
    let pkcs11 = Pkcs11::new(module).expect("the module");
    pkcs11
        .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
        .expect("initialized");
    pkcs11
}

pub(crate) fn pin(digits: &str) -> AuthPin {
    AuthPin::new(digits.into())
}

/// Makes a token, and returns its serial. No session stays open, and the process is not logged in.
pub(crate) fn new_token(pkcs11: &Pkcs11, label: &str) -> String {
    let slots = pkcs11.get_slots_with_token().expect("slots");
    let info = |slot| pkcs11.get_token_info(slot).expect("a token");
    let before: Vec<String> = slots.iter().map(|slot| info(*slot).serial_number().into()).collect();
    let empty = slots
        .into_iter()
        .find(|slot| !info(*slot).token_initialized())
        .expect("an empty slot");
    pkcs11.init_token(empty, &pin(OFFICER_PIN), label).expect("a token");
    // SoftHSM gives an initialised token another slot.
    let slots = pkcs11.get_slots_with_initialized_token().expect("slots");
    let is_new = |slot: &Slot| !before.contains(&info(*slot).serial_number().into());
    let slot = slots.into_iter().find(is_new).expect("the new token");
    let session = pkcs11.open_rw_session(slot).expect("a session");
    session
        .login(UserType::So, Some(&pin(OFFICER_PIN)))
        .expect("the officer");
    session.init_pin(&pin(PIN)).expect("a PIN");
    info(slot).serial_number().into()
}

/// Does `work` in a session that is logged in and may write. It is closed afterwards, and logged out.
pub(crate) fn in_session<T>(pkcs11: &Pkcs11, serial: &str, work: impl FnOnce(&Session) -> T) -> T {
    let session = pkcs11.open_rw_session(slot(pkcs11, serial)).expect("a session");
    session.login(UserType::User, Some(&pin(PIN))).expect("the user");
    let result = work(&session);
    session.logout().expect("logged out");
    result
}

/// Makes a key pair.
pub(crate) fn new_pair(session: &Session, label: &str, id: &[u8], curve: Option<&[u8]>, more: &[Attribute]) {
    let ours = [
        Attribute::Token(true),
        Attribute::Label(label.into()),
        Attribute::Id(id.to_vec()),
    ];
    let (mechanism, parameters) = match curve {
        Some(ED25519) => (
            Mechanism::EccEdwardsKeyPairGen,
            vec![Attribute::EcParams(ED25519.to_vec())],
        ),
        Some(curve) => (Mechanism::EccKeyPairGen, vec![Attribute::EcParams(curve.to_vec())]),
        None => (
            Mechanism::RsaPkcsKeyPairGen,
            vec![
                Attribute::ModulusBits(2048.into()),
                Attribute::PublicExponent(vec![1, 0, 1]),
            ],
        ),
    };
    let public = [
        &ours[..],
        &parameters,
        &[Attribute::Private(false), Attribute::Verify(true)],
    ];
    let private = [
        &ours[..],
        &[
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Sign(true),
        ],
        more,
    ];
    let made = session.generate_key_pair(&mechanism, &public.concat(), &private.concat());
    made.expect("a key pair");
}

pub(crate) fn remove(session: &Session, class: ObjectClass, id: &[u8]) {
    let found = session.find_objects(&[Attribute::Class(class), Attribute::Id(id.to_vec())]);
    for object in found.expect("found") {
        session.destroy_object(object).expect("removed");
    }
}

pub(crate) fn add_certificate(session: &Session, id: &[u8], der: &[u8]) {
    let template = [
        Attribute::Class(ObjectClass::CERTIFICATE),
        Attribute::CertificateType(CertificateType::X_509),
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Id(id.to_vec()),
        Attribute::Subject(vec![0x30, 0]),
        Attribute::Value(der.to_vec()),
    ];
    session.create_object(&template).expect("a certificate");
}

/// Whether the process is logged in. It is not once the last session that was logged in is closed.
pub(crate) fn is_logged_in(pkcs11: &Pkcs11, serial: &str) -> bool {
    let session = pkcs11.open_ro_session(slot(pkcs11, serial)).expect("a session");
    let state = session.get_session_info().expect("a state").session_state();
    matches!(state, SessionState::RoUser)
}

fn slot(pkcs11: &Pkcs11, serial: &str) -> Slot {
    let slots = pkcs11.get_slots_with_initialized_token().expect("slots");
    let is_it = |slot: &Slot| pkcs11.get_token_info(*slot).expect("a token").serial_number() == serial;
    slots.into_iter().find(is_it).expect("the token")
}
