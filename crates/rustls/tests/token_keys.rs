//! The key that is meant is found, or the error says why not; its halves belong together; and each kind signs what
//! verifies.
//!
//! Needs SoftHSM (`apt-get install softhsm2`): without it, each test is skipped.
#![cfg(feature = "pkcs11")]

#[path = "../examples/support/certificate.rs"]
mod certificate;
#[path = "../examples/support/softhsm.rs"]
#[allow(dead_code, reason = "the example uses the rest")]
mod softhsm;
mod token;

use std::error::Error;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, process};

use asyncjob_rustls::pkcs11::{KeyError, TokenKey};
use asyncjob_testing::tools::{OPENSSL, missing};
use cryptoki::context::Pkcs11;
use cryptoki::object::{Attribute, ObjectClass};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PublicKeyData};
use ring::signature as verify;
use ring::signature::{UnparsedPublicKey, VerificationAlgorithm};
use rustls::SignatureScheme as S;
use rustls::sign::SigningKey;
use token::{
    BRAINPOOL_P256, ED25519, P256, P384, P521, PIN, SECP256K1, alone, in_session, is_logged_in, new_pair, new_token,
};

const MESSAGE: &[u8] = b"message";

fn module() -> Pkcs11 {
    token::load(softhsm::library().expect("SoftHSM"))
}

fn sign(key: &TokenKey, scheme: S) -> Vec<u8> {
    let signer = key
        .choose_scheme(&[scheme])
        .unwrap_or_else(|| panic!("{key:?} signs {scheme:?}"));
    signer.sign(MESSAGE).expect("signed")
}

fn open(pkcs11: &Pkcs11, uri: &str) -> Result<TokenKey, KeyError> {
    TokenKey::open(pkcs11.clone(), &format!("pkcs11:{uri}?pin-value={PIN}"))
}

/// Verifies by OpenSSL, which has not seen our code.
fn openssl_verifies(key: &TokenKey, hash: &str, signature: &[u8]) -> bool {
    let directory = env::temp_dir().join(format!("asyncjob-verify-{}-{hash}", process::id()));
    fs::create_dir_all(&directory).expect("a directory");
    let file = |name: &str, content: &[u8]| {
        let path = directory.join(name);
        fs::write(&path, content).expect("written");
        path
    };
    let info = key.public_key().expect("a public key");
    let (public, signature) = (file("public.der", info.as_ref()), file("signature", signature));
    let message = file("message", MESSAGE);
    let mut openssl = Command::new("openssl");
    openssl.args(["dgst", hash, "-keyform", "DER", "-verify"]).arg(public);
    let status = openssl
        .arg("-signature")
        .arg(signature)
        .arg(message)
        .output()
        .expect("openssl");
    fs::remove_dir_all(&directory).expect("removed");
    status.status.success()
}

#[test]
fn each_kind_signs_what_verifies() {
    alone("each_kind_signs_what_verifies", || {
        let pkcs11 = module();
        let serial = new_token(&pkcs11, "t");
        in_session(&pkcs11, &serial, |session| {
            new_pair(session, "p256", &[1], Some(P256), &[]);
            new_pair(session, "p384", &[2], Some(P384), &[]);
            new_pair(session, "p521", &[3], Some(P521), &[]);
            new_pair(session, "rsa", &[4], None, &[]);
        });
        let cases: [(&str, S, &'static dyn VerificationAlgorithm); 8] = [
            ("p256", S::ECDSA_NISTP256_SHA256, &verify::ECDSA_P256_SHA256_ASN1),
            ("p384", S::ECDSA_NISTP384_SHA384, &verify::ECDSA_P384_SHA384_ASN1),
            ("rsa", S::RSA_PSS_SHA256, &verify::RSA_PSS_2048_8192_SHA256),
            ("rsa", S::RSA_PSS_SHA384, &verify::RSA_PSS_2048_8192_SHA384),
            ("rsa", S::RSA_PSS_SHA512, &verify::RSA_PSS_2048_8192_SHA512),
            ("rsa", S::RSA_PKCS1_SHA256, &verify::RSA_PKCS1_2048_8192_SHA256),
            ("rsa", S::RSA_PKCS1_SHA384, &verify::RSA_PKCS1_2048_8192_SHA384),
            ("rsa", S::RSA_PKCS1_SHA512, &verify::RSA_PKCS1_2048_8192_SHA512),
        ];
        for (label, scheme, algorithm) in cases {
            let key = open(&pkcs11, &format!("token=t;object={label}")).expect("the key");
            let signature = sign(&key, scheme);
            let verified = UnparsedPublicKey::new(algorithm, key.public_key_bytes()).verify(MESSAGE, &signature);
            verified.unwrap_or_else(|_| panic!("{label} {scheme:?}"));
        }
        let key = open(&pkcs11, "token=t;object=p256").expect("the key");
        assert!(key.choose_scheme(&[S::ED25519, S::ECDSA_NISTP384_SHA384]).is_none());
        // ring does not know P-521.
        if !missing(&[OPENSSL]) {
            let key = open(&pkcs11, "token=t;object=p521").expect("the key");
            assert!(openssl_verifies(&key, "-sha512", &sign(&key, S::ECDSA_NISTP521_SHA512)));
            assert!(!openssl_verifies(
                &key,
                "-sha384",
                &sign(&key, S::ECDSA_NISTP521_SHA512)
            ));
        }
    });
}

#[test]
fn ed25519_signs_what_verifies() {
    alone("ed25519_signs_what_verifies", || {
        let pkcs11 = module();
        let serial = new_token(&pkcs11, "t");
        in_session(&pkcs11, &serial, |session| {
            new_pair(session, "ed", &[1], Some(ED25519), &[])
        });
        let key = open(&pkcs11, "token=t").expect("the key");
        let verified = UnparsedPublicKey::new(&verify::ED25519, key.public_key_bytes());
        verified
            .verify(MESSAGE, &sign(&key, S::ED25519))
            .expect("a good signature");
    });
}

/// The points of these curves have 65 bytes, as those of P-256 have.
#[test]
fn a_curve_of_the_same_size_is_refused_by_its_name() {
    alone("a_curve_of_the_same_size_is_refused_by_its_name", || {
        let pkcs11 = module();
        let serial = new_token(&pkcs11, "t");
        for (id, name, curve) in [(1, "secp256k1", SECP256K1), (2, "brainpoolP256r1", BRAINPOOL_P256)] {
            in_session(&pkcs11, &serial, |session| {
                new_pair(session, name, &[id], Some(curve), &[])
            });
            let error = open(&pkcs11, &format!("token=t;object={name}")).expect_err("TLS has no such key");
            assert!(matches!(error, KeyError::NotSupported { .. }), "{error:?}");
            let sentence = format!(
                "the key {name:?} with the id 0{id} in the token \"t\" (serial {serial}) cannot be used: the curve \
                 {name} is not supported; P-256, P-384, P-521 and Ed25519 are"
            );
            assert!(error.to_string().starts_with(&sentence), "{error}");
            assert!(!is_logged_in(&pkcs11, &serial));
        }
    });
}

/// A rotated key: the old pair and the new one have one label.
#[test]
fn two_pairs_of_one_label_are_not_mixed() {
    alone("two_pairs_of_one_label_are_not_mixed", || {
        let pkcs11 = module();
        let serial = new_token(&pkcs11, "t");
        in_session(&pkcs11, &serial, |session| {
            new_pair(session, "rotated", &[7], Some(P256), &[]);
            new_pair(session, "rotated", &[8], Some(P256), &[]);
        });
        let error = open(&pkcs11, "token=t;object=rotated").expect_err("which one?");
        let KeyError::ManyKeys { found, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(found.len(), 2);
        assert!(
            error.to_string().contains("the id 07") && error.to_string().contains("the id 08"),
            "{error}"
        );
        for id in ["07", "08"] {
            let key = open(&pkcs11, &format!("token=t;object=rotated;id=%{id}")).expect("the id tells");
            for _ in 0..10 {
                let public = UnparsedPublicKey::new(&verify::ECDSA_P256_SHA256_ASN1, key.public_key_bytes());
                public
                    .verify(MESSAGE, &sign(&key, S::ECDSA_NISTP256_SHA256))
                    .expect("a good signature");
            }
        }
    });
}

#[test]
fn halves_that_do_not_belong_together_are_refused() {
    alone("halves_that_do_not_belong_together_are_refused", || {
        let pkcs11 = module();
        let serial = new_token(&pkcs11, "t");
        in_session(&pkcs11, &serial, |session| {
            new_pair(session, "a", &[1], Some(P256), &[]);
            new_pair(session, "b", &[2], Some(P256), &[]);
            // The public half of `b` under the id of `a`.
            token::remove(session, ObjectClass::PUBLIC_KEY, &[1]);
            let other = session
                .find_objects(&[Attribute::Class(ObjectClass::PUBLIC_KEY)])
                .expect("found");
            session
                .update_attributes(other[0], &[Attribute::Id(vec![1])])
                .expect("changed");
        });
        let error = open(&pkcs11, "token=t;object=a").expect_err("it would sign for another key");
        assert!(matches!(error, KeyError::WrongPair { .. }), "{error:?}");
        let error = open(&pkcs11, "token=t;object=b").expect_err("it has no public half");
        assert!(matches!(error, KeyError::NoPublicKey { .. }), "{error:?}");
        assert!(!is_logged_in(&pkcs11, &serial));
    });
}

#[test]
fn a_certificate_or_the_caller_gives_the_public_key() {
    alone("a_certificate_or_the_caller_gives_the_public_key", || {
        let pkcs11 = module();
        let serial = new_token(&pkcs11, "t");
        in_session(&pkcs11, &serial, |session| {
            new_pair(session, "k", &[1], Some(P256), &[]);
            new_pair(session, "other", &[2], Some(P256), &[]);
        });
        let key = open(&pkcs11, "token=t;object=k").expect("the key");
        let other = open(&pkcs11, "token=t;object=other").expect("the key");
        let info = key.public_key().expect("a public key").into_owned();
        let made = certificate::self_signed(Arc::new(key.clone()), key.public_key_bytes());
        let made = made.expect("a certificate").cert;
        assert!(key.certificates().expect("none is no error").is_empty());
        let wrong = other.public_key().expect("a public key").into_owned();
        drop((key, other));

        in_session(&pkcs11, &serial, |session| {
            token::remove(session, ObjectClass::PUBLIC_KEY, &[1])
        });
        let error = open(&pkcs11, "token=t;object=k").expect_err("there is no public key");
        assert!(matches!(error, KeyError::NoPublicKey { .. }), "{error:?}");
        let builder = || {
            TokenKey::builder(pkcs11.clone())
                .token("t")
                .id([1])
                .pin(token::pin(PIN))
        };
        let given = builder().public_key(&info).open().expect("the caller has it");
        assert_eq!(given.public_key().expect("a public key"), info);
        drop(given);
        let given = builder()
            .certificate(&made[0])
            .open()
            .expect("the caller has a certificate");
        assert_eq!(given.public_key().expect("a public key"), info);
        let error = builder().public_key(&wrong).open().expect_err("it is of another key");
        assert!(matches!(error, KeyError::WrongPair { .. }), "{error:?}");
        drop(given);

        in_session(&pkcs11, &serial, |session| {
            token::add_certificate(session, &[1], &made[0])
        });
        let key = open(&pkcs11, "token=t;object=k").expect("the certificate has it");
        assert_eq!(key.public_key().expect("a public key"), info);
        assert_eq!(key.certificates().expect("read"), made);
    });
}

/// The root is left out, and certificates of other keys are.
#[test]
fn the_chain_is_the_certificate_and_its_issuers() {
    alone("the_chain_is_the_certificate_and_its_issuers", || {
        let pkcs11 = module();
        let serial = new_token(&pkcs11, "t");
        in_session(&pkcs11, &serial, |session| {
            new_pair(session, "k", &[1], Some(P256), &[])
        });
        let key = open(&pkcs11, "token=t;object=k").expect("the key");
        let authority = |name: &str| {
            let mut parameters = CertificateParams::new(vec![]).expect("no names");
            parameters.distinguished_name.push(DnType::CommonName, name);
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            (parameters, KeyPair::generate().expect("a key"))
        };
        let ((root, root_key), (middle, middle_key)) = (authority("root"), authority("middle"));
        let root_der = root.self_signed(&root_key).expect("a certificate");
        let root = Issuer::new(root, root_key);
        let middle_der = middle.signed_by(&middle_key, &root).expect("a certificate");
        let middle = Issuer::new(middle, middle_key);
        let leaf = CertificateParams::new(vec!["localhost".into()]).expect("a name");
        let leaf_der = leaf.signed_by(&PublicHalf(&key), &middle).expect("a certificate");
        let public = key.public_key_bytes().to_vec();
        drop(key);
        in_session(&pkcs11, &serial, |session| {
            for (id, der) in [(9, &root_der), (8, &middle_der), (1, &leaf_der)] {
                token::add_certificate(session, &[id], der.der());
            }
        });
        let key = open(&pkcs11, "token=t;object=k").expect("the key");
        assert_eq!(key.public_key_bytes(), public);
        let expected = [leaf_der.der().clone(), middle_der.der().clone()];
        assert_eq!(key.certificates().expect("read"), expected);
    });
}

struct PublicHalf<'a>(&'a TokenKey);

impl PublicKeyData for PublicHalf<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

#[test]
fn both_tokens_of_one_name_are_searched() {
    alone("both_tokens_of_one_name_are_searched", || {
        let pkcs11 = module();
        let (first, second) = (new_token(&pkcs11, "twin"), new_token(&pkcs11, "twin"));
        in_session(&pkcs11, &first, |session| new_pair(session, "a", &[1], Some(P256), &[]));
        in_session(&pkcs11, &second, |session| {
            new_pair(session, "b", &[2], Some(P256), &[])
        });
        for label in ["a", "b"] {
            let key = open(&pkcs11, &format!("token=twin;object={label}")).expect("it is in one of them");
            sign(&key, S::ECDSA_NISTP256_SHA256);
            let logged_in = [&first, &second].map(|serial| is_logged_in(&pkcs11, serial));
            assert_eq!(
                logged_in,
                [label == "a", label == "b"],
                "the other token is left as it was"
            );
        }
        let error = open(&pkcs11, "token=twin").expect_err("which one?").to_string();
        assert!(error.contains(&first) && error.contains(&second), "{error}");
        let key = open(&pkcs11, &format!("serial={second}")).expect("the serial tells");
        sign(&key, S::ECDSA_NISTP256_SHA256);
        drop(key);
        let error = open(&pkcs11, "object=a").expect_err("the PIN is not tried on each token");
        assert!(matches!(error, KeyError::ManyTokens { .. }), "{error:?}");
        let error = open(&pkcs11, "token=none").expect_err("there is none").to_string();
        assert!(error.contains("\"none\"") && error.contains("\"twin\""), "{error}");
    });
}

/// While the process is logged in, SoftHSM does not look at the PIN.
#[test]
fn a_failed_open_leaves_no_session_and_no_login() {
    alone("a_failed_open_leaves_no_session_and_no_login", || {
        let pkcs11 = module();
        let serial = new_token(&pkcs11, "t");
        in_session(&pkcs11, &serial, |session| {
            new_pair(session, "k", &[1], Some(P256), &[])
        });
        // A session of others, which would keep a login alive.
        let slot = pkcs11.get_slots_with_initialized_token().expect("slots")[0];
        let bystander = pkcs11.open_ro_session(slot).expect("a session");

        let error = open(&pkcs11, "token=t;object=none").expect_err("there is no such key");
        assert!(matches!(error, KeyError::NoKey { .. }), "{error:?}");
        assert!(
            error.to_string().contains("\"none\"") && error.to_string().contains(&serial),
            "{error}"
        );
        assert!(!is_logged_in(&pkcs11, &serial));
        let builder = || TokenKey::builder(pkcs11.clone()).token("t").label("k");
        let error = builder()
            .pin(token::pin("00000000"))
            .open()
            .expect_err("the PIN is wrong");
        assert!(
            matches!(error, KeyError::PinRefused { .. }) && error.source().is_some(),
            "{error:?}"
        );
        let error = builder().open().expect_err("there is no PIN");
        assert!(matches!(error, KeyError::NoPin { .. }), "{error:?}");
        assert!(!is_logged_in(&pkcs11, &serial));
        drop(bystander);
    });
}

#[test]
fn the_pin_comes_from_a_file_or_a_function_and_is_not_printed() {
    alone("the_pin_comes_from_a_file_or_a_function_and_is_not_printed", || {
        let pkcs11 = module();
        let serial = new_token(&pkcs11, "t");
        in_session(&pkcs11, &serial, |session| {
            new_pair(session, "k", &[1], Some(P256), &[])
        });
        let file = env::temp_dir().join(format!("asyncjob-pin-{}", process::id()));
        fs::write(&file, format!("{PIN}\n")).expect("written");
        let uri = format!("pkcs11:token=t;object=k?pin-source=file:{}", file.display());
        let key = TokenKey::open(pkcs11.clone(), &uri).expect("the key");
        assert!(!format!("{key:?}").contains(PIN), "{key:?}");
        drop(key);
        fs::remove_file(&file).expect("removed");
        let error = TokenKey::open(pkcs11.clone(), &uri).expect_err("the file is gone");
        assert!(matches!(error, KeyError::PinSource(_)), "{error:?}");

        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let builder = TokenKey::builder(pkcs11.clone()).token("t").pin_from(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(token::pin(PIN))
        });
        let key = builder.open().expect("the key");
        sign(&key, S::ECDSA_NISTP256_SHA256);
        assert_eq!((calls.load(Ordering::Relaxed), key.session_stats().logins), (1, 1));
        let builder = TokenKey::builder(pkcs11).token("t").pin(token::pin(PIN));
        assert!(!format!("{builder:?}").contains(PIN), "{builder:?}");
    });
}

/// As slot 9c of a PIV card.
#[test]
fn a_key_that_asks_for_a_login_each_time_signs_again_and_again() {
    alone("a_key_that_asks_for_a_login_each_time_signs_again_and_again", || {
        let pkcs11 = module();
        let serial = new_token(&pkcs11, "t");
        let each_time = [Attribute::AlwaysAuthenticate(true)];
        in_session(&pkcs11, &serial, |session| {
            new_pair(session, "rsa", &[1], None, &each_time);
            new_pair(session, "p256", &[2], Some(P256), &each_time);
        });
        let key = open(&pkcs11, "token=t;object=rsa").expect("the key");
        for scheme in [S::RSA_PSS_SHA256, S::RSA_PKCS1_SHA256, S::RSA_PSS_SHA512] {
            sign(&key, scheme);
        }
        let stats = key.session_stats();
        assert_eq!((stats.opened, stats.discarded, stats.failed), (1, 0, 0), "{stats:?}");
        assert_eq!(stats.logins, 1 + 1 + 3, "the session, the proof, and each signature");
        // SoftHSM has no mechanism for ECDSA that takes the message in pieces.
        let error = open(&pkcs11, "token=t;object=p256").expect_err("there is no place for the login");
        assert!(
            error.to_string().contains("asks for a login for each signature"),
            "{error}"
        );
    });
}
