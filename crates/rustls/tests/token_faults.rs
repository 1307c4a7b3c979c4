//! What real tokens do, and SoftHSM does not, costs what it must and no more: signatures, logins and sessions are
//! counted.
//!
//! `token/shim.c` forwards to SoftHSM, and answers by a script. Needs SoftHSM (`apt-get install softhsm2`) and a C
//! compiler: without them, each test is skipped.
#![cfg(feature = "pkcs11")]

#[path = "../examples/support/softhsm.rs"]
#[allow(dead_code, reason = "the example uses the rest")]
mod softhsm;
mod token;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use asyncjob_rustls::pkcs11::{KeyError, TokenKey};
use cryptoki::object::{Attribute, ObjectClass};
use cryptoki::session::UserType;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::SignatureScheme::{ECDSA_NISTP256_SHA256, RSA_PSS_SHA256};
use rustls::sign::SigningKey;
use token::shim::*;
use token::{P256, PIN, in_session, new_pair};

#[test]
fn with_two_sessions_four_threads_wait() {
    alone("with_two_sessions_four_threads_wait", |shim| {
        shim.set(Word::MaxSessions, 2);
        shim.set(Word::DelayUs, 2000);
        let key = shim.key();
        assert_eq!(failures(&key, 4, 50), 0);
        let stats = key.session_stats();
        assert_eq!(
            (stats.opened, stats.discarded, stats.failed, stats.in_use),
            (2, 0, 0, 0),
            "{stats:?}"
        );
        assert_eq!(
            (stats.learnt_bound, stats.waiting, stats.idle),
            (Some(2), 0, 2),
            "{stats:?}"
        );
        assert!(stats.waited > 0, "{stats:?}");
        assert_eq!((shim.get(Word::MostOpen), shim.get(Word::Logins)), (2, 1));
        drop(key);
        assert_eq!(shim.get(Word::Open), 0);
    });
}

#[test]
fn a_bound_of_the_caller_is_kept() {
    alone("a_bound_of_the_caller_is_kept", |shim| {
        shim.set(Word::DelayUs, 2000);
        let builder = TokenKey::builder(shim.pkcs11.clone()).token("t").pin(token::pin(PIN));
        let key = builder.max_sessions(3).open().expect("the key");
        assert_eq!(failures(&key, 6, 20), 0);
        assert_eq!((shim.get(Word::MostOpen), key.session_stats().learnt_bound), (3, None));
    });
}

#[test]
fn a_wait_for_a_session_ends_with_an_error() {
    alone("a_wait_for_a_session_ends_with_an_error", |shim| {
        let builder = TokenKey::builder(shim.pkcs11.clone()).token("t").pin(token::pin(PIN));
        let key = builder
            .max_sessions(1)
            .session_wait(Duration::from_millis(20))
            .open()
            .expect("the key");
        let begun = shim.get(Word::Signed);
        shim.set(Word::HangUntilZero, 1);
        let hanging = thread::spawn({
            let key = key.clone();
            move || try_sign(&key)
        });
        while shim.get(Word::Signed) == begun {
            thread::yield_now();
        }
        let error = try_sign(&key).expect_err("the other has the session").to_string();
        assert!(error.contains("no free session within 20ms"), "{error}");
        shim.set(Word::HangUntilZero, 0);
        hanging.join().expect("no panic").expect("signed at last");
        try_sign(&key).expect("the session came back");
        let stats = key.session_stats();
        assert_eq!(
            (stats.failed, stats.waiting, stats.idle, stats.in_use),
            (1, 0, 1, 0),
            "{stats:?}"
        );
    });
}

/// The sessions of other programs do not come back through our queue.
#[test]
fn without_any_session_there_is_an_error_and_no_wait() {
    alone("without_any_session_there_is_an_error_and_no_wait", |shim| {
        let key = shim.key();
        shim.break_sessions(1, GENERAL_ERROR);
        shim.set(Word::MaxSessions, 1);
        let others = in_session_that_stays(&shim);
        // The broken session is closed, and others have taken its place.
        shim.set(Word::MaxSessions, 1);
        try_sign(&key).expect_err("there is no session");
        assert_eq!(key.session_stats().errors.get("SessionCount"), Some(&1));
        drop(others);
        try_sign(&key).expect("there is one again");
        assert_eq!(key.session_stats().learnt_bound, None);
    });
}

fn in_session_that_stays(shim: &Shim) -> cryptoki::session::Session {
    shim.set(Word::MaxSessions, 0);
    shim.pkcs11.open_ro_session(shim.slot()).expect("a session")
}

#[test]
fn a_session_that_fails_for_ever_is_replaced() {
    alone("a_session_that_fails_for_ever_is_replaced", |shim| {
        let key = shim.key();
        let answers = [
            GENERAL_ERROR,
            FUNCTION_FAILED,
            DEVICE_ERROR,
            OPERATION_ACTIVE,
            USER_NOT_LOGGED_IN,
            VENDOR,
        ];
        for (broken, answer) in (1..).zip(answers) {
            shim.break_sessions(1, answer);
            for _ in 0..100 {
                try_sign(&key).unwrap_or_else(|error| panic!("{answer:#x}: {error}"));
            }
            let stats = key.session_stats();
            assert_eq!(
                (stats.opened, stats.discarded, stats.failed),
                (1 + broken, broken, 0),
                "{stats:?}"
            );
            assert_eq!(shim.get(Word::Open), 1, "{answer:#x}");
        }
        assert_eq!(key.session_stats().errors.values().sum::<u64>(), 6);
        // It fails even to be closed.
        shim.set(Word::CloseAnswer, DEVICE_ERROR);
        shim.break_sessions(1, GENERAL_ERROR);
        assert_eq!(failures(&key, 1, 10), 0);
        shim.set(Word::CloseAnswer, 0);
        // Twice in a row: the second attempt fails, too.
        shim.break_sessions(2, GENERAL_ERROR);
        try_sign(&key).expect_err("both attempts failed");
        try_sign(&key).expect("the next one works");
        assert_eq!((key.session_stats().failed, shim.get(Word::Open)), (1, 1));
    });
}

/// A session that the library does not know is not closed: its number may be that of another session.
#[test]
fn a_session_that_the_library_has_forgotten_is_replaced() {
    alone("a_session_that_the_library_has_forgotten_is_replaced", |shim| {
        let key = shim.key();
        shim.break_sessions(1, SESSION_HANDLE_INVALID);
        assert_eq!(failures(&key, 1, 20), 0);
        let stats = key.session_stats();
        assert_eq!(
            (stats.opened, stats.discarded, stats.idle, stats.in_use),
            (2, 1, 1, 0),
            "{stats:?}"
        );
    });
}

#[test]
fn broken_sessions_among_four_threads_fail_nothing() {
    alone("broken_sessions_among_four_threads_fail_nothing", |shim| {
        let key = shim.key();
        shim.set(Word::MaxSessions, 3);
        shim.set(Word::DelayUs, 500);
        for answer in [GENERAL_ERROR, OPERATION_ACTIVE, VENDOR] {
            shim.break_sessions(1, answer);
            assert_eq!(failures(&key, 4, 25), 0, "{answer:#x}");
        }
        let stats = key.session_stats();
        assert_eq!((stats.discarded, stats.failed, stats.in_use), (3, 0, 0), "{stats:?}");
        assert_eq!((stats.idle as u64, shim.get(Word::MostOpen)), (shim.get(Word::Open), 3));
        drop(key);
        assert_eq!(shim.get(Word::Open), 0);
    });
}

/// The PIN was changed, and the sessions die: three logins would lock the token for good.
#[test]
fn a_refused_pin_is_sent_once() {
    alone("a_refused_pin_is_sent_once", |shim| {
        let key = shim.key();
        assert_eq!(failures(&key, 4, 10), 0);
        assert_eq!(shim.get(Word::Logins), 1);
        // Really changed, and all sessions really dead.
        shim.change_pin("11111111");
        shim.restart();

        assert_eq!(failures(&key, 4, 25), 100);
        assert_eq!(shim.get(Word::Logins), 2, "one right, and one wrong");
        let stats = key.session_stats();
        assert!(stats.logins_stopped, "{stats:?}");
        assert_eq!(
            (stats.logins, stats.failed, stats.idle, stats.in_use),
            (2, 100, 0, 0),
            "{stats:?}"
        );
        assert_eq!(stats.errors.get("PinIncorrect"), Some(&1), "{stats:?}");
        let error = try_sign(&key).expect_err("no login is tried").to_string();
        assert!(error.contains("open the key anew"), "{error}");

        let builder = TokenKey::builder(shim.pkcs11.clone())
            .token("t")
            .pin(token::pin("11111111"));
        let key = builder.open().expect("the new PIN is right");
        try_sign(&key).expect("signed");
        assert_eq!(shim.get(Word::Logins), 3);
    });
}

/// As a server has with certificates for RSA and ECDSA. Each key sending the PIN once would lock the token.
#[test]
fn a_refused_pin_is_sent_once_by_all_keys_of_a_token() {
    alone("a_refused_pin_is_sent_once_by_all_keys_of_a_token", |shim| {
        let keys = [shim.key(), shim.key(), shim.key()];
        let with_another_pin = {
            let builder = TokenKey::builder(shim.pkcs11.clone()).token("t").label("k");
            builder
                .pin(token::pin("11111111"))
                .open()
                .expect("the process is logged in")
        };
        shim.change_pin("11111111");
        shim.restart();
        shim.set(Word::Logins, 0);

        let signing: Vec<_> = keys
            .clone()
            .map(|key| thread::spawn(move || failures(&key, 2, 10)))
            .into();
        let failed = signing.into_iter().map(|thread| thread.join().expect("no panic"));
        assert_eq!(failed.sum::<usize>(), 3 * 20);
        assert_eq!(shim.get(Word::Logins), 1);
        for key in &keys {
            let error = try_sign(key).expect_err("the PIN was refused").to_string();
            assert!(error.contains("open the key anew"), "{error}");
            assert!(key.session_stats().logins_stopped);
        }
        // Another PIN is another matter, and so is a key that is opened with the same PIN: it may be right again.
        try_sign(&with_another_pin).expect("its PIN is right");
        assert_eq!(shim.get(Word::Logins), 2);
        drop(with_another_pin);
        shim.restart();
        let error = shim.open("object=k").expect_err("the PIN is still wrong");
        assert!(matches!(error, KeyError::PinRefused { .. }), "{error:?}");
        assert_eq!(shim.get(Word::Logins), 3);
    });
}

/// A token that answers a wrong PIN by an error of its own, and counts it.
#[test]
fn a_pin_that_was_counted_as_wrong_is_sent_once() {
    alone("a_pin_that_was_counted_as_wrong_is_sent_once", |shim| {
        let key = shim.key();
        // A login that fails for another reason is tried again: for the first signature once, because its first attempt
        // is on a session that is dead.
        shim.restart();
        shim.set(Word::LoginAnswer, VENDOR);
        assert_eq!(failures(&key, 1, 2), 2);
        assert_eq!(
            (shim.get(Word::Logins), key.session_stats().logins_stopped),
            (1 + 3, false)
        );
        shim.set(Word::SetFlags, COUNT_LOW);
        assert_eq!(failures(&key, 4, 25), 100);
        assert_eq!(
            (shim.get(Word::Logins), key.session_stats().logins_stopped),
            (1 + 3 + 1, true)
        );
    });
}

#[test]
fn a_pin_that_is_refused_at_first_opens_nothing() {
    alone("a_pin_that_is_refused_at_first_opens_nothing", |shim| {
        shim.set(Word::LoginAnswer, PIN_INCORRECT);
        let error = shim.open("object=k").expect_err("the PIN is wrong");
        assert!(matches!(error, KeyError::PinRefused { .. }), "{error:?}");
        assert!(error.to_string().contains(&shim.serial), "{error}");
        assert_eq!((shim.get(Word::Logins), shim.get(Word::Open)), (1, 0));
    });
}

#[test]
fn a_failed_open_closes_its_sessions() {
    alone("a_failed_open_closes_its_sessions", |shim| {
        in_session(&shim.pkcs11, &shim.serial, |session| {
            new_pair(session, "k1", &[2], Some(token::SECP256K1), &[]);
            new_pair(session, "twin", &[3], Some(P256), &[]);
            new_pair(session, "twin", &[4], Some(P256), &[]);
            new_pair(session, "half", &[5], Some(P256), &[]);
            token::remove(session, ObjectClass::PUBLIC_KEY, &[5]);
        });
        shim.set(Word::MostOpen, 0);
        for key in [
            "object=none",
            "object=k1",
            "object=twin",
            "object=half",
            "object=k;id=%09",
        ] {
            shim.open(key).expect_err("it cannot be opened");
            assert_eq!((shim.get(Word::Open), shim.get(Word::MostOpen)), (0, 1), "{key}");
        }
        shim.break_sessions(1, GENERAL_ERROR);
        let error = shim.open("object=k").expect_err("the proof fails");
        assert!(matches!(error, KeyError::Token(_)), "{error:?}");
        assert_eq!(shim.get(Word::Open), 0);
    });
}

#[test]
fn a_token_that_is_nearly_locked_gets_no_pin() {
    alone("a_token_that_is_nearly_locked_gets_no_pin", |shim| {
        shim.set(Word::SetFlags, FINAL_TRY);
        let error = shim.open("object=k").expect_err("the PIN is not tried");
        assert!(matches!(error, KeyError::PinFinalTry { .. }), "{error:?}");
        shim.set(Word::SetFlags, FINAL_TRY | LOCKED);
        let error = shim.open("object=k").expect_err("the PIN is not tried");
        assert!(matches!(error, KeyError::PinLocked { .. }), "{error:?}");
        assert_eq!((shim.get(Word::Logins), shim.get(Word::Open)), (0, 0));
    });
}

#[test]
fn a_token_with_a_pin_pad_gets_no_pin() {
    alone("a_token_with_a_pin_pad_gets_no_pin", |shim| {
        shim.set(Word::SetFlags, PROTECTED_PATH);
        let key = TokenKey::open(shim.pkcs11.clone(), "pkcs11:token=t").expect("the pad has it");
        try_sign(&key).expect("signed");
        assert_eq!(shim.get(Word::Logins), 1);
        drop(key);
        let builder = TokenKey::builder(shim.pkcs11.clone())
            .token("t")
            .pin(token::pin("a wrong one"));
        try_sign(&builder.open().expect("the pad is asked")).expect("signed");
    });
}

#[test]
fn a_token_without_login_gets_none() {
    alone("a_token_without_login_gets_none", |shim| {
        in_session(&shim.pkcs11, &shim.serial, |session| {
            new_pair(session, "open", &[2], None, &[Attribute::Private(false)]);
        });
        shim.set(Word::Logins, 0);
        shim.set(Word::ClearFlags, LOGIN_REQUIRED);
        let key = TokenKey::open(shim.pkcs11.clone(), "pkcs11:token=t;object=open").expect("no PIN is needed");
        let signer = key.choose_scheme(&[RSA_PSS_SHA256]).expect("the key can do this");
        signer.sign(MESSAGE).expect("signed");
        assert_eq!(shim.get(Word::Logins), 0);
    });
}

/// The session is lost until the token's library gives up. The others go on.
#[test]
fn a_call_that_hangs_holds_one_session_and_no_more() {
    alone("a_call_that_hangs_holds_one_session_and_no_more", |shim| {
        let builder = TokenKey::builder(shim.pkcs11.clone()).token("t").pin(token::pin(PIN));
        let key = builder.max_sessions(2).open().expect("the key");
        let begun = shim.get(Word::Signed);
        shim.set(Word::HangUntilZero, 1);
        let hanging = thread::spawn({
            let key = key.clone();
            move || try_sign(&key)
        });
        while shim.get(Word::Signed) == begun {
            thread::yield_now();
        }
        assert_eq!(failures(&key, 4, 10), 0);
        let stats = key.session_stats();
        assert_eq!((stats.in_use, stats.idle, stats.waiting), (1, 1, 0), "{stats:?}");
        shim.set(Word::HangUntilZero, 0);
        hanging.join().expect("no panic").expect("signed at last");
        assert_eq!((key.session_stats().in_use, shim.get(Word::MostOpen)), (0, 2));
    });
}

/// The function that fetches the PIN runs in the middle of each signature, on its thread.
#[test]
fn a_session_goes_to_the_signature_that_waits_longest() {
    alone("a_session_goes_to_the_signature_that_waits_longest", |shim| {
        in_session(&shim.pkcs11, &shim.serial, |session| {
            new_pair(session, "each", &[2], None, &[Attribute::AlwaysAuthenticate(true)]);
        });
        let order = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&order);
        let builder = TokenKey::builder(shim.pkcs11.clone())
            .token("t")
            .label("each")
            .max_sessions(1);
        let builder = builder.pin_from(move || {
            let name = thread::current().name().map(String::from);
            log.lock().expect("no panic").extend(name);
            Ok(token::pin(PIN))
        });
        let key = builder.open().expect("the key");
        order.lock().expect("no panic").clear();
        let sign = |name: &str| {
            let signer = key.choose_scheme(&[RSA_PSS_SHA256]).expect("the key can do this");
            let thread = thread::Builder::new().name(name.into());
            thread.spawn(move || signer.sign(MESSAGE).map(drop)).expect("a thread")
        };
        let begun = shim.get(Word::Signed);
        shim.set(Word::HangUntilZero, 1);
        let mut running = vec![sign("first")];
        while shim.get(Word::Signed) == begun {
            thread::yield_now();
        }
        let names = ["second", "third", "fourth", "fifth"];
        for (ahead, name) in names.into_iter().enumerate() {
            running.push(sign(name));
            while key.session_stats().waiting == ahead {
                thread::yield_now();
            }
        }
        shim.set(Word::HangUntilZero, 0);
        for thread in running {
            thread.join().expect("no panic").expect("signed");
        }
        assert_eq!(
            *order.lock().expect("no panic"),
            ["first", "second", "third", "fourth", "fifth"]
        );
        assert_eq!(key.session_stats().waited, 4);
    });
}

/// A token counts it as a wrong one: the variable was not set, or the file is not written yet.
#[test]
fn an_empty_pin_is_not_sent() {
    alone("an_empty_pin_is_not_sent", |shim| {
        let builder = || TokenKey::builder(shim.pkcs11.clone()).token("t");
        let by_uri = |query: &str| builder().uri(&format!("pkcs11:object=k?{query}")).expect("a good URI");
        for builder in [
            by_uri("pin-value="),
            by_uri("pin-source=/dev/null"),
            builder().pin(token::pin("")),
            builder().pin_from(|| Ok(token::pin(""))),
        ] {
            let error = builder.open().expect_err("there is no PIN");
            assert!(matches!(error, KeyError::NoPin { .. }), "{error:?}");
        }
        assert_eq!((shim.get(Word::Logins), shim.get(Word::Open)), (0, 0));
    });
}

#[test]
fn a_pin_function_that_panics_leaves_nothing_behind() {
    alone("a_pin_function_that_panics_leaves_nothing_behind", |shim| {
        let panics = Arc::new(AtomicBool::new(true));
        let builder = || {
            let panics = Arc::clone(&panics);
            let builder = TokenKey::builder(shim.pkcs11.clone()).token("t").max_sessions(1);
            builder.pin_from(move || match panics.load(SeqCst) {
                true => resume_unwind(Box::new("a bug in the function")), // without the report of the panic hook
                false => Ok(token::pin(PIN)),
            })
        };
        catch_unwind(AssertUnwindSafe(|| builder().open())).expect_err("it panics");
        assert_eq!((shim.get(Word::Logins), shim.get(Word::Open)), (0, 0));
        panics.store(false, SeqCst);
        let key = builder().open().expect("the key");

        panics.store(true, SeqCst);
        shim.restart();
        for _ in 0..3 {
            catch_unwind(AssertUnwindSafe(|| try_sign(&key))).expect_err("it panics");
            let stats = key.session_stats();
            assert_eq!((stats.in_use, stats.waiting), (0, 0), "{stats:?}");
        }
        panics.store(false, SeqCst);
        assert_eq!(failures(&key, 4, 5), 0);
        assert_eq!((shim.get(Word::Logins), shim.get(Word::MostOpen)), (2, 1));
    });
}

/// A login that hangs is waited for so long, and not at all by those that need none.
#[test]
fn a_login_that_hangs_holds_one_thread() {
    alone("a_login_that_hangs_holds_one_thread", |shim| {
        let builder = TokenKey::builder(shim.pkcs11.clone()).token("t").pin(token::pin(PIN));
        let key = builder.session_wait(Duration::from_millis(20)).open().expect("the key");
        shim.restart();
        shim.set(Word::LoginHangUntilZero, 1);
        let hanging = thread::spawn({
            let key = key.clone();
            move || try_sign(&key)
        });
        while shim.get(Word::LoginHangUntilZero) != 2 {
            thread::yield_now();
        }
        let error = try_sign(&key).expect_err("nobody is logged in").to_string();
        assert!(error.contains("did not end within 20ms"), "{error}");
        let stats = key.session_stats();
        assert_eq!((stats.in_use, stats.logins), (1, 2), "{stats:?}");
        // Other code of the process logs in.
        let other = shim.pkcs11.open_ro_session(shim.slot()).expect("a session");
        other.login(UserType::User, Some(&token::pin(PIN))).expect("logged in");
        try_sign(&key).expect("it needs no login");
        shim.set(Word::LoginHangUntilZero, 0);
        hanging.join().expect("no panic").expect("signed at last");
        let stats = key.session_stats();
        assert_eq!((stats.in_use, stats.idle), (0, 2), "{stats:?}");
        drop((key, other));
        assert_eq!(shim.get(Word::Open), 0);
    });
}

#[test]
fn a_token_of_one_session_is_enough() {
    alone("a_token_of_one_session_is_enough", |shim| {
        shim.set(Word::MaxSessions, 1);
        let key = shim.key();
        assert_eq!(failures(&key, 6, 20), 0);
        shim.break_sessions(1, GENERAL_ERROR);
        assert_eq!(failures(&key, 6, 20), 0);
        shim.restart();
        assert_eq!(failures(&key, 6, 20), 0);
        assert!(key.certificates().expect("none is no error").is_empty());
        let error = shim.open("object=k").expect_err("the key has the session").to_string();
        assert!(error.contains("has no session left"), "{error}");
        let stats = key.session_stats();
        assert_eq!((stats.failed, stats.in_use, stats.waiting), (0, 0, 0), "{stats:?}");
        assert_eq!(shim.get(Word::MostOpen), 1);
        drop(key);
        shim.key();
    });
}

#[test]
fn a_key_that_is_dropped_during_a_signature_lives_as_long() {
    alone("a_key_that_is_dropped_during_a_signature_lives_as_long", |shim| {
        let key = shim.key();
        let begun = shim.get(Word::Signed);
        shim.set(Word::HangUntilZero, 1);
        let signer = key
            .choose_scheme(&[ECDSA_NISTP256_SHA256])
            .expect("the key can do this");
        let hanging = thread::spawn(move || signer.sign(MESSAGE));
        while shim.get(Word::Signed) == begun {
            thread::yield_now();
        }
        let public = key.public_key_bytes().to_vec();
        drop(key);
        assert_eq!(shim.get(Word::Open), 1);
        shim.set(Word::HangUntilZero, 0);
        let signature = hanging.join().expect("no panic").expect("signed");
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public)
            .verify(MESSAGE, &signature)
            .expect("a good signature");
        assert_eq!(shim.get(Word::Open), 0);
    });
}

#[test]
fn a_token_that_was_taken_out_is_used_when_it_is_back() {
    alone("a_token_that_was_taken_out_is_used_when_it_is_back", |shim| {
        let key = shim.key();
        assert_eq!(failures(&key, 4, 10), 0);
        shim.set(Word::Removed, 1);
        for _ in 0..3 {
            let error = try_sign(&key).expect_err("there is no token").to_string();
            assert!(
                error.contains(&shim.serial) && error.contains("the tokens are: none"),
                "{error}"
            );
        }
        let stats = key.session_stats();
        assert_eq!((stats.idle, stats.in_use, stats.failed), (0, 0, 3), "{stats:?}");
        assert_eq!(shim.get(Word::Open), 0);
        shim.open("object=k").expect_err("there is no token");
        // Nobody is logged in when it is back.
        shim.restart();
        shim.set(Word::Removed, 0);
        assert_eq!(failures(&key, 4, 10), 0);
        assert_eq!(shim.get(Word::Logins), 2);
    });
}

/// Each call that a signature needs may answer any error, also that which looks whether a session lives.
#[test]
fn whatever_call_fails_no_session_is_lost() {
    alone("whatever_call_fails_no_session_is_lost", |shim| {
        const ANSWERS: [u64; 17] = [
            0x01,
            0x02,
            GENERAL_ERROR,
            FUNCTION_FAILED,
            DEVICE_ERROR,
            0x32, // CKR_DEVICE_REMOVED
            0x60, // CKR_KEY_HANDLE_INVALID
            0x70, // CKR_MECHANISM_INVALID
            0x82, // CKR_OBJECT_HANDLE_INVALID
            OPERATION_ACTIVE,
            0x91,  // CKR_OPERATION_NOT_INITIALIZED
            0xb1,  // CKR_SESSION_COUNT
            0xe0,  // CKR_TOKEN_NOT_PRESENT
            0xe1,  // CKR_TOKEN_NOT_RECOGNIZED
            0x150, // CKR_BUFFER_TOO_SMALL
            USER_NOT_LOGGED_IN,
            VENDOR,
        ];
        let key = shim.key();
        let (mut random, mut failed) = (fastrand::Rng::with_seed(8), 0);
        for _ in 0..8 {
            for answer in ANSWERS {
                shim.set(Word::StrayAnswer, answer);
                shim.set(Word::Stray, [1_000, 10_000, 100_000, 400_000][random.usize(..4)]);
                shim.set(Word::MaxSessions, random.u64(..4));
                failed += failures(&key, 4, 5);
                shim.set(Word::Stray, 0);
                assert_eq!(failures(&key, 2, 2), 0, "after {answer:#x}: {:?}", key.session_stats());
                let stats = key.session_stats();
                assert_eq!(
                    (stats.in_use, stats.waiting, stats.failed),
                    (0, 0, failed as u64),
                    "{stats:?}"
                );
                assert_eq!(shim.get(Word::Open), stats.idle as u64, "after {answer:#x}: {stats:?}");
            }
        }
        assert!(failed > 100, "{failed}");
        assert!(!key.session_stats().logins_stopped);

        // The library says that it does not know the session, and then that it cannot say more about it.
        shim.break_sessions(1, SESSION_HANDLE_INVALID);
        shim.set(Word::StrayAnswer, GENERAL_ERROR);
        shim.set(Word::Stray, 1_000_000);
        try_sign(&key).expect_err("nothing works");
        assert_eq!((shim.get(Word::Break), key.session_stats().idle), (0, 0));
        shim.set(Word::Stray, 0);
        drop(key);
        assert_eq!(shim.get(Word::Open), 0);
    });
}
