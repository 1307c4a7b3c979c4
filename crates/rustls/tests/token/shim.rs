//! A module in front of SoftHSM that answers by a script: `shim.c`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use asyncjob_rustls::pkcs11::{KeyError, TokenKey};
use asyncjob_testing::Watchdog;
use asyncjob_testing::tools::{CC, missing};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::slot::Slot;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::SignatureScheme::ECDSA_NISTP256_SHA256;
use rustls::sign::SigningKey;

use super::{P256, PIN, in_session, new_pair, new_token};
use crate::{softhsm, token};

pub(crate) const MESSAGE: &[u8] = b"message";

pub(crate) const GENERAL_ERROR: u64 = 0x05;
pub(crate) const FUNCTION_FAILED: u64 = 0x06;
pub(crate) const DEVICE_ERROR: u64 = 0x30;
pub(crate) const OPERATION_ACTIVE: u64 = 0x90;
pub(crate) const PIN_INCORRECT: u64 = 0xa0;
pub(crate) const SESSION_HANDLE_INVALID: u64 = 0xb3;
pub(crate) const USER_NOT_LOGGED_IN: u64 = 0x101;
pub(crate) const VENDOR: u64 = 0x8000_0042;

pub(crate) const LOGIN_REQUIRED: u64 = 0x04;
pub(crate) const PROTECTED_PATH: u64 = 0x100;
pub(crate) const COUNT_LOW: u64 = 0x1_0000;
pub(crate) const FINAL_TRY: u64 = 0x2_0000;
pub(crate) const LOCKED: u64 = 0x4_0000;

/// `enum word` of the shim.
#[derive(Clone, Copy)]
pub(crate) enum Word {
    MaxSessions,
    Open,
    MostOpen,
    Logins,
    LoginAnswer,
    SignAnswer,
    Break,
    SetFlags,
    ClearFlags,
    DelayUs,
    Signed,
    CloseAnswer,
    HangUntilZero,
    Stray,
    StrayAnswer,
    LoginHangUntilZero,
    Removed,
    Words,
}

/// A token behind the shim, with the P-256 key `k`.
pub(crate) struct Shim {
    pub(crate) pkcs11: Pkcs11,
    script: File,
    pub(crate) serial: String,
}

impl Shim {
    fn new() -> Shim {
        let config = PathBuf::from(std::env::var_os("SOFTHSM2_CONF").expect("it was set"));
        let directory = config.parent().expect("a directory");
        let (path, module) = (directory.join("script"), directory.join("shim.so"));
        fs::write(&path, vec![0; 8 * Word::Words as usize]).expect("written");
        let script = File::options().read(true).write(true).open(&path).expect("opened");
        let library = softhsm::library().expect("SoftHSM");
        let status = Command::new("cc")
            .args(["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"])
            .arg(&module)
            .arg(format!("-DREAL=\"{}\"", library.display()))
            .arg(format!("-DSCRIPT=\"{}\"", path.display()))
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/token/shim.c"))
            .args(["-ldl", "-lpthread"])
            .status();
        assert!(status.expect("the compiler").success());
        let pkcs11 = token::load(&module);
        let serial = new_token(&pkcs11, "t");
        in_session(&pkcs11, &serial, |session| {
            new_pair(session, "k", &[1], Some(P256), &[])
        });
        let shim = Shim { pkcs11, script, serial };
        for word in [Word::Logins, Word::MostOpen] {
            shim.set(word, 0);
        }
        shim
    }

    pub(crate) fn set(&self, word: Word, value: u64) {
        self.script
            .write_all_at(&value.to_ne_bytes(), 8 * word as u64)
            .expect("written");
    }

    pub(crate) fn get(&self, word: Word) -> u64 {
        let mut bytes = [0; 8];
        self.script.read_exact_at(&mut bytes, 8 * word as u64).expect("read");
        u64::from_ne_bytes(bytes)
    }

    pub(crate) fn slot(&self) -> Slot {
        self.pkcs11.get_slots_with_initialized_token().expect("slots")[0]
    }

    /// By another program, as it were: the sessions that are open live on.
    pub(crate) fn change_pin(&self, digits: &str) {
        let session = self.pkcs11.open_rw_session(self.slot()).expect("a session");
        session.set_pin(&token::pin(PIN), &token::pin(digits)).expect("changed");
    }

    /// All sessions die, and the login with them.
    pub(crate) fn restart(&self) {
        self.pkcs11.clone().finalize().expect("finalized");
        let arguments = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
        self.pkcs11.initialize(arguments).expect("initialized");
        self.set(Word::Open, 0);
    }

    pub(crate) fn key(&self) -> TokenKey {
        self.open("object=k").expect("the key")
    }

    pub(crate) fn open(&self, key: &str) -> Result<TokenKey, KeyError> {
        TokenKey::open(self.pkcs11.clone(), &format!("pkcs11:token=t;{key}?pin-value={PIN}"))
    }

    /// The next signatures of so many sessions get this answer, and all later ones of the same sessions.
    pub(crate) fn break_sessions(&self, count: u64, answer: u64) {
        self.set(Word::SignAnswer, answer);
        self.set(Word::Break, count);
    }
}

pub(crate) fn alone(name: &str, test: impl FnOnce(Shim)) {
    alone_within(name, Duration::from_secs(60), test);
}

/// As [`alone`], for a test that takes longer.
pub(crate) fn alone_within(name: &str, limit: Duration, test: impl FnOnce(Shim)) {
    if missing(&[CC]) {
        return;
    }
    let _watchdog = Watchdog::after(limit);
    token::alone(name, || test(Shim::new()));
}

pub(crate) fn try_sign(key: &TokenKey) -> Result<(), rustls::Error> {
    let signer = key
        .choose_scheme(&[ECDSA_NISTP256_SHA256])
        .expect("the key can do this");
    verify(key, &signer.sign(MESSAGE)?);
    Ok(())
}

pub(crate) fn verify(key: &TokenKey, signature: &[u8]) {
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key_bytes());
    public.verify(MESSAGE, signature).expect("a good signature");
}

/// Makes so many signatures on each of so many threads at once, and counts those that fail.
pub(crate) fn failures(key: &TokenKey, threads: usize, signatures: usize) -> usize {
    let start = Arc::new(Barrier::new(threads));
    let one = |_| {
        let (key, start) = (key.clone(), Arc::clone(&start));
        thread::spawn(move || {
            start.wait();
            (0..signatures).filter(|_| try_sign(&key).is_err()).count()
        })
    };
    let running: Vec<_> = (0..threads).map(one).collect();
    running.into_iter().map(|thread| thread.join().expect("no panic")).sum()
}
