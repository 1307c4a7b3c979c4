//! The provider and the engine of the tests and of the example, and keys and certificates for them.
#![allow(dead_code, reason = "each program uses the part it needs")]

use std::ffi::{CString, c_char, c_int, c_long};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use foreign_types::{ForeignType, ForeignTypeRef};
use libloading::Library;
use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::provider::Provider;
use openssl::rsa::Rsa;
use openssl::ssl::{SslRef, SslVerifyMode};
use openssl::x509::extension::SubjectAlternativeName;
use openssl::x509::{X509, X509NameBuilder};

/// Who makes the signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signer {
    ProviderRsa,
    ProviderEc,
    EngineRsa,
}

/// How a thread of it wakes its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    ByFd = 0,
    ByCallback = 1,
}

/// What the C code has counted since [`Pausing::new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) paused: c_long,
    pub(crate) cancelled: c_long,
    pub(crate) blocked: c_long,
    /// The threads that work now.
    pub(crate) running: c_long,
}

/// One of the two libraries, for one test at a time.
pub(crate) struct Pausing {
    library: &'static Library,
    signer: Signer,
    before: Counts,
    _alone: MutexGuard<'static, ()>,
}

impl Pausing {
    pub(crate) fn new(signer: Signer) -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        asyncjob_openssl::check().unwrap();
        let path = compiled(match signer {
            Signer::EngineRsa => "engine",
            _ => "provider",
        });
        // SAFETY: the C code has no constructors.
        let library: &_ = Box::leak(Box::new(unsafe { Library::new(&path) }.unwrap()));
        if signer != Signer::EngineRsa {
            // SAFETY: the function has this type.
            let prefer =
                unsafe { library.get::<unsafe extern "C" fn() -> c_int>(b"pausing_prefer_default\0") }.unwrap();
            // SAFETY: it may be called at any time.
            assert_eq!(unsafe { prefer() }, 1);
            // Loaded for good: the keys of the tests are its.
            Provider::set_default_search_path(None, path.parent().unwrap().to_str().unwrap()).unwrap();
            std::mem::forget(Provider::try_load(None, "provider", true).unwrap());
        }
        let mut pausing = Pausing {
            library,
            signer,
            before: Counts {
                paused: 0,
                cancelled: 0,
                blocked: 0,
                running: 0,
            },
            _alone: alone,
        };
        pausing.before = pausing.counts();
        pausing
    }

    /// Sets how threads wake their jobs, and whether their work does not end before the next call.
    pub(crate) fn set(&self, wake: Wake, closed: bool) {
        // SAFETY: the function has this type.
        let set = unsafe {
            self.library
                .get::<unsafe extern "C" fn(c_int, c_int)>(b"pausing_set_mode\0")
        }
        .unwrap();
        // SAFETY: it may be called at any time.
        unsafe { set(wake as c_int, c_int::from(closed)) };
    }

    /// Sets how long a signature takes.
    pub(crate) fn delay(&self, milliseconds: c_int) {
        // SAFETY: the function has this type.
        let set = unsafe { self.library.get::<unsafe extern "C" fn(c_int)>(b"pausing_set_delay\0") }.unwrap();
        // SAFETY: it may be called at any time.
        unsafe { set(milliseconds * 1000) };
    }

    pub(crate) fn counts(&self) -> Counts {
        // SAFETY: the function has this type.
        let get = unsafe {
            self.library
                .get::<unsafe extern "C" fn(*mut c_long)>(b"pausing_counts\0")
        }
        .unwrap();
        let mut counts = [0; 4];
        // SAFETY: there is room for four numbers.
        unsafe { get(counts.as_mut_ptr()) };
        Counts {
            paused: counts[0] - self.before.paused,
            cancelled: counts[1] - self.before.cancelled,
            blocked: counts[2] - self.before.blocked,
            running: counts[3],
        }
    }

    /// A key whose signatures pause, and its certificate.
    pub(crate) fn identity(&self) -> (PKey<Private>, X509) {
        let plain = match self.signer {
            Signer::ProviderEc => {
                let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
                PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
            }
            _ => PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap(),
        };
        let certificate = self_signed(&plain);
        let pem = CString::new(plain.private_key_to_pem_pkcs8().unwrap()).unwrap();
        let key = if self.signer == Signer::EngineRsa {
            type Make = unsafe extern "C" fn(*const c_char, *const c_char) -> *mut openssl_sys::EVP_PKEY;
            // SAFETY: the function has this type.
            let make = unsafe { self.library.get::<Make>(b"pausing_engine_key\0") }.unwrap();
            let path = CString::new(compiled("engine").to_str().unwrap()).unwrap();
            // SAFETY: both are strings.
            unsafe { make(pem.as_ptr(), path.as_ptr()) }
        } else {
            type Make = unsafe extern "C" fn(*const c_char) -> *mut openssl_sys::EVP_PKEY;
            // SAFETY: the function has this type.
            let make = unsafe { self.library.get::<Make>(b"pausing_key\0") }.unwrap();
            // SAFETY: it is a string.
            unsafe { make(pem.as_ptr()) }
        };
        assert!(!key.is_null(), "{:?}", openssl::error::ErrorStack::get());
        // SAFETY: a new key, which nothing else owns.
        (unsafe { PKey::from_ptr(key) }, certificate)
    }
}

pub(crate) fn self_signed(key: &PKey<Private>) -> X509 {
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "localhost").unwrap();
    let name = name.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(&name).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
    let names = SubjectAlternativeName::new()
        .dns("localhost")
        .build(&builder.x509v3_context(None, None))
        .unwrap();
    builder.append_extension(names).unwrap();
    builder.sign(key, MessageDigest::sha256()).unwrap();
    builder.build()
}

/// Compiles a library of the tests, once.
fn compiled(name: &str) -> PathBuf {
    static COMPILED: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let scratch = option_env!("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = scratch.join(concat!("asyncjob-openssl-", env!("CARGO_CRATE_NAME")));
    let library = directory.join(format!("{name}.so"));
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if compiled.iter().any(|one| one == name) {
        return library;
    }
    std::fs::create_dir_all(&directory).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/c/{name}.c"));
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-o"])
        .args([&library, &source])
        .args(["-lcrypto", "-lpthread"])
        .output()
        .expect("cc starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    compiled.push(name.into());
    library
}

/// Asks a client that is connected for its certificate (TLS 1.3), with the next write.
pub(crate) fn ask_for_certificate(ssl: &SslRef) {
    // SAFETY: the function has this type.
    let ask = unsafe {
        libssl().get::<unsafe extern "C" fn(*mut openssl_sys::SSL) -> c_int>(b"SSL_verify_client_post_handshake\0")
    };
    let mode = (SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT).bits();
    // SAFETY: the connection exists.
    unsafe { openssl_sys::SSL_set_verify(ssl.as_ptr(), mode, None) };
    // SAFETY: the connection exists, and no other call of it is in progress.
    let asked = unsafe { ask.unwrap()(ssl.as_ptr()) };
    assert_eq!(asked, 1, "{:?}", openssl::error::ErrorStack::get());
}

/// Lets a server ask this client later.
pub(crate) fn allow_to_be_asked(ssl: &SslRef) {
    // SAFETY: the function has this type.
    let allow =
        unsafe { libssl().get::<unsafe extern "C" fn(*mut openssl_sys::SSL, c_int)>(b"SSL_set_post_handshake_auth\0") };
    // SAFETY: the connection exists.
    unsafe { allow.unwrap()(ssl.as_ptr(), 1) };
}

/// The libssl of this process.
fn libssl() -> libloading::os::unix::Library {
    libloading::os::unix::Library::this()
}
