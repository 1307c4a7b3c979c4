//! A key in a token makes signatures that verify, has as many sessions as threads sign, and opens new ones for dead
//! ones.
//!
//! Needs SoftHSM (`apt-get install softhsm2`): without it, each test is skipped.
#![cfg(feature = "pkcs11")]

#[path = "../examples/support/certificate.rs"]
mod certificate;
#[path = "../examples/support/client.rs"]
mod client;
#[path = "../examples/support/https.rs"]
#[allow(dead_code, reason = "the example uses the rest")]
mod https;
#[path = "../examples/support/softhsm.rs"]
mod softhsm;
mod token;

use std::sync::{Arc, Barrier, mpsc};
use std::thread;

use asyncjob::offload::Offload;
use asyncjob_rustls::OffloadedKey;
use asyncjob_rustls::pkcs11::TokenKey;
use asyncjob_testing::Watchdog;
use cryptoki::context::{CInitializeArgs, CInitializeFlags};
use https::Mode;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey,
    VerificationAlgorithm,
};
use rustls::SignatureScheme;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use softhsm::SoftHsm;

/// Runs `test` in a process that has a token of its own: SoftHSM finds it through the environment.
fn with_token(name: &str, test: impl FnOnce(SoftHsm)) {
    token::alone(name, || test(SoftHsm::create().expect("a token")));
}

fn signer(key: &TokenKey, scheme: SignatureScheme) -> Box<dyn Signer> {
    key.choose_scheme(&[scheme]).expect("the key can do this")
}

/// Sessions of the key: (opened, discarded, idle).
fn counts(key: &TokenKey) -> (u64, u64, usize) {
    let stats = key.session_stats();
    (stats.opened, stats.discarded, stats.idle)
}

fn assert_verifies(key: &TokenKey, algorithm: &'static dyn VerificationAlgorithm, signature: &[u8]) {
    UnparsedPublicKey::new(algorithm, key.public_key_bytes())
        .verify(b"message", signature)
        .expect("a good signature");
}

#[test]
fn what_a_token_signs_verifies_with_its_public_key() {
    with_token("what_a_token_signs_verifies_with_its_public_key", |hsm| {
        let cases: [(&str, SignatureScheme, &'static dyn VerificationAlgorithm); 3] = [
            ("p256", SignatureScheme::ECDSA_NISTP256_SHA256, &ECDSA_P256_SHA256_ASN1),
            ("rsa", SignatureScheme::RSA_PSS_SHA256, &RSA_PSS_2048_8192_SHA256),
            ("rsa", SignatureScheme::RSA_PKCS1_SHA256, &RSA_PKCS1_2048_8192_SHA256),
        ];
        for (label, scheme, algorithm) in cases {
            let key = hsm.key(label).expect("the key");
            assert_verifies(&key, algorithm, &signer(&key, scheme).sign(b"message").expect("signed"));
        }
        let key = hsm.key("p256").expect("the key");
        assert!(
            key.choose_scheme(&[SignatureScheme::ED25519]).is_none(),
            "a P-256 key does not sign Ed25519"
        );
        assert!(hsm.key("no such key").is_err());
    });
}

#[test]
fn one_session_for_each_thread_that_signs() {
    let _watchdog = Watchdog::new();
    const THREADS: usize = 4;
    with_token("one_session_for_each_thread_that_signs", |hsm| {
        let key = hsm.key("p256").expect("the key");
        let signer: Arc<dyn Signer> = signer(&key, SignatureScheme::ECDSA_NISTP256_SHA256).into();
        let start = Arc::new(Barrier::new(THREADS));
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let (signer, start) = (Arc::clone(&signer), Arc::clone(&start));
                thread::spawn(move || {
                    start.wait();
                    (0..50)
                        .map(|_| signer.sign(b"message").expect("signed"))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        for signature in threads.into_iter().flat_map(|thread| thread.join().expect("no panic")) {
            assert_verifies(&key, &ECDSA_P256_SHA256_ASN1, &signature);
        }
        let stats = key.session_stats();
        assert!(
            (1..=THREADS as u64).contains(&stats.opened),
            "200 signatures on {THREADS} threads opened {} sessions",
            stats.opened
        );
        assert_eq!(
            (stats.discarded, stats.idle as u64),
            (0, stats.opened),
            "all are idle again, and none had died"
        );
    });
}

#[test]
fn a_session_that_dies_is_opened_again() {
    with_token("a_session_that_dies_is_opened_again", |hsm| {
        let key = hsm.key("p256").expect("the key");
        let signer = signer(&key, SignatureScheme::ECDSA_NISTP256_SHA256);
        signer.sign(b"message").expect("signed");
        assert_eq!(counts(&key), (1, 0, 1));

        // The library ends while the session is open. Nothing can be signed until it is initialised again.
        hsm.pkcs11.clone().finalize().expect("finalized");
        signer.sign(b"message").expect_err("there is no library to sign");
        hsm.pkcs11
            .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
            .expect("initialized");

        let signature = signer.sign(b"message").expect("signed on a new session");
        assert_verifies(&key, &ECDSA_P256_SHA256_ASN1, &signature);
        assert_eq!(counts(&key), (2, 1, 1));
        signer.sign(b"message").expect("signed on the same session");
        assert_eq!(counts(&key), (2, 1, 1));
    });
}

#[test]
fn a_handshake_survives_the_death_of_the_sessions() {
    let _watchdog = Watchdog::new();
    with_token("a_handshake_survives_the_death_of_the_sessions", |hsm| {
        let key = hsm.key("p256").expect("the key");
        let certified = certificate::self_signed(Arc::new(key.clone()), key.public_key_bytes()).expect("a certificate");
        let pool = Offload::builder().threads(2).build().expect("threads");
        let certified = CertifiedKey::new(certified.cert, Arc::new(OffloadedKey::new(certified.key, pool.clone())));
        let (address, addresses) = mpsc::channel();
        thread::spawn(move || https::serve(Mode::Job, certified, 0, move |at| address.send(at).expect("we wait")));
        let server = addresses.recv().expect("an address");

        assert_eq!(client::requests_at_once(server, 20), 0, "none failed");
        let before = key.session_stats();
        assert!(
            before.opened <= 3,
            "one session for the certificate, and at most one more for each thread: {before:?}"
        );
        hsm.pkcs11.clone().finalize().expect("finalized");
        hsm.pkcs11
            .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
            .expect("initialized");
        assert_eq!(client::requests_at_once(server, 20), 0, "none failed");
        let after = key.session_stats();
        assert!(
            after.discarded > before.discarded && after.opened > before.opened,
            "{before:?}, {after:?}"
        );
        assert_eq!(pool.stats().finished, 40);
    });
}
