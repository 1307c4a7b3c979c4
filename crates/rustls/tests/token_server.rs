//! A server on a token that hangs, fails at random, or simply works: what a client sees, OpenSSL's included.
//!
//! Needs SoftHSM (`apt-get install softhsm2`), a C compiler and OpenSSL's program: without them, the tests are skipped.
#![cfg(feature = "pkcs11")]

#[path = "../examples/support/certificate.rs"]
mod certificate;
mod connections;
#[path = "../examples/support/softhsm.rs"]
#[allow(dead_code, reason = "the example uses the rest")]
mod softhsm;
mod token;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use asyncjob::offload::Offload;
use asyncjob_rustls::pkcs11::TokenKey;
use asyncjob_rustls::{OffloadedKey, TlsAcceptor};
use asyncjob_testing::Watchdog;
use asyncjob_testing::tools::{OPENSSL, missing};
use asyncjob_tokio::{Handle, Workers};
use connections::{Identity, config, connect, connect_to, on_real_time, until};
use rustls::SignatureScheme;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use token::shim::{self, MESSAGE, Shim, Word};
use token::{ED25519, P256, P384, P521, PIN, in_session, new_pair, new_token, pin};
use tokio::io::{AsyncWriteExt, duplex};
use tokio::net::TcpListener;
use tokio::task::spawn_local;

/// A server whose signatures `key` makes, on so many threads.
fn server(key: &TokenKey, threads: usize) -> (Identity, TlsAcceptor, Offload) {
    let certified = certificate::self_signed(Arc::new(key.clone()), key.public_key_bytes()).unwrap();
    let identity = Identity {
        certificate: certified.cert[0].clone(),
        key: certified.key,
    };
    let pool = Offload::builder().threads(threads).build().unwrap();
    let offloaded = OffloadedKey::new(Arc::new(key.clone()), pool.clone());
    let acceptor = identity.server(offloaded, &rustls::version::TLS13);
    (identity, acceptor, pool)
}

#[test]
fn handshakes_after_one_whose_signer_hangs_succeed() {
    shim::alone("handshakes_after_one_whose_signer_hangs_succeed", |shim| {
        let builder = TokenKey::builder(shim.pkcs11.clone()).token("t").pin(pin(PIN));
        let key = builder.max_sessions(2).open().unwrap();
        let (identity, acceptor, pool) = server(&key, 2);
        on_real_time(async {
            let begun = shim.get(Word::Signed);
            shim.set(Word::HangUntilZero, 1);
            let (near, far) = duplex(1 << 16);
            let connecting = connect_to(far, &identity.client());
            let accepting = spawn_local(tokio::time::timeout(Duration::from_millis(300), acceptor.accept(near)));
            until(|| shim.get(Word::Signed) > begun).await;
            accepting.await.unwrap().unwrap_err();
            connecting.await.unwrap().unwrap_err();
            // The thread and the session of the signature are lost, until the library of the token gives up.
            assert_eq!((pool.stats().running, key.session_stats().in_use), (1, 1));
            for _ in 0..10 {
                let (accept, connect) = connect(&acceptor, &identity.client());
                accept.await.unwrap().unwrap();
                connect.await.unwrap().unwrap();
            }
            assert_eq!((pool.stats().running, key.session_stats().in_use), (1, 1));
            shim.set(Word::HangUntilZero, 0);
            until(|| pool.stats().running == 0).await;
            let stats = key.session_stats();
            assert_eq!((stats.in_use, stats.idle, stats.failed), (0, 2, 0), "{stats:?}");
        });
        drop((key, acceptor, identity, pool));
        assert_eq!(shim.get(Word::Open), 0);
    });
}

/// How many signatures the soak makes, which `ASYNCJOB_LONG=1` raises.
fn signatures() -> usize {
    match std::env::var_os("ASYNCJOB_LONG") {
        Some(_) => 100_000,
        None => 3_000,
    }
}

/// Signatures in jobs on two threads, which wait for four threads of the token, which has at most so many sessions.
const TASKS: usize = 16;
const THREADS: usize = 4;
const MOST_SESSIONS: u64 = 6;

#[test]
fn a_soak_with_random_faults_loses_and_leaks_nothing() {
    let limit = Duration::from_secs(if signatures() > 10_000 { 1200 } else { 180 });
    shim::alone_within("a_soak_with_random_faults_loses_and_leaks_nothing", limit, |shim| {
        let shim = Arc::new(shim);
        let key = shim.key();
        let pool = Offload::builder().threads(THREADS).build().unwrap();
        let offloaded: Arc<dyn SigningKey> = Arc::new(OffloadedKey::new(Arc::new(key.clone()), pool.clone()));
        let workers = Workers::new(2).unwrap();

        let stop = Arc::new(AtomicBool::new(false));
        let faults = thread::spawn({
            let (shim, stop) = (Arc::clone(&shim), Arc::clone(&stop));
            move || make_faults(&shim, &stop)
        });
        // A part is warm-up for the measurement of the memory.
        let (warm, rest) = (signatures() / 3, signatures() - signatures() / 3);
        let mut failed = sign_in_jobs(&workers.handle(), &offloaded, &key, warm);
        let resident = connections::resident_kib();
        failed += sign_in_jobs(&workers.handle(), &offloaded, &key, rest);
        stop.store(true, SeqCst);
        let kinds = faults.join().unwrap();
        assert!(kinds.iter().all(|count| *count > 0), "each fault was made: {kinds:?}");

        // The faults are over: every signature succeeds. A session that is broken is found, and replaced, on the way.
        assert_eq!(sign_in_jobs(&workers.handle(), &offloaded, &key, 200), 0);
        let stats = key.session_stats();
        assert_eq!(stats.failed, failed as u64, "each failure was an answer: {stats:?}");
        assert_eq!(pool.stats().finished, signatures() as u64 + 200);
        assert_eq!((pool.stats().running, pool.stats().queued), (0, 0));
        assert!(stats.discarded > 0 && !stats.logins_stopped, "{stats:?}");
        assert_eq!((stats.in_use, stats.waiting), (0, 0), "{stats:?}");
        assert_eq!(shim.get(Word::Open), stats.idle as u64, "{stats:?}");
        assert!(
            shim.get(Word::MostOpen) <= MOST_SESSIONS.max(THREADS as u64),
            "{stats:?}"
        );
        let grown = connections::resident_kib().saturating_sub(resident);
        assert!(grown < 8192, "{grown} KiB more after {rest} signatures");
        drop((key, offloaded, pool, workers));
        assert_eq!(shim.get(Word::Open), 0);
        eprintln!(
            "{} signatures, {failed} failed, {kinds:?} faults: {stats:?}",
            signatures()
        );
    });
}

/// Makes signatures in jobs, and checks each. Returns how many have failed.
fn sign_in_jobs(workers: &Handle, key: &Arc<dyn SigningKey>, token: &TokenKey, count: usize) -> usize {
    let one_task = |number: usize| {
        let share = count / TASKS + usize::from(number < count % TASKS);
        let (key, token) = (Arc::clone(key), token.clone());
        workers.spawn(move || {
            let signer = key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).unwrap();
            let failed = |_: &usize| match signer.sign(MESSAGE) {
                Ok(signature) => {
                    shim::verify(&token, &signature);
                    false
                }
                Err(_) => true,
            };
            (0..share).filter(failed).count()
        })
    };
    let tasks: Vec<_> = (0..TASKS).map(one_task).collect();
    on_real_time(async {
        let mut failed = 0;
        for task in tasks {
            failed += task.await.unwrap();
        }
        failed
    })
}

/// Makes faults until it is stopped, and then none. Counts each kind.
fn make_faults(shim: &Shim, stop: &AtomicBool) -> [usize; 6] {
    const ANSWERS: [u64; 6] = [
        shim::GENERAL_ERROR,
        shim::FUNCTION_FAILED,
        shim::DEVICE_ERROR,
        shim::OPERATION_ACTIVE,
        shim::SESSION_HANDLE_INVALID,
        shim::VENDOR,
    ];
    let (mut random, mut made) = (fastrand::Rng::with_seed(11), [0; 6]);
    while !stop.load(SeqCst) || made.contains(&0) {
        let kind = random.usize(..made.len());
        made[kind] += 1;
        match kind {
            // So many sessions answer this error from now on.
            0 => shim.break_sessions(random.u64(1..4), ANSWERS[random.usize(..ANSWERS.len())]),
            // The token has so many sessions, or any number of them.
            1 => shim.set(Word::MaxSessions, random.u64(1..=MOST_SESSIONS)),
            2 => shim.set(Word::DelayUs, random.u64(..500)),
            3 => shim.set(Word::CloseAnswer, if random.bool() { shim::GENERAL_ERROR } else { 0 }),
            // Any call may fail. A library that denies a session that it has would keep it for ever.
            4 => {
                let answers = ANSWERS.map(|answer| match answer {
                    shim::SESSION_HANDLE_INVALID => shim::USER_NOT_LOGGED_IN,
                    answer => answer,
                });
                shim.set(Word::StrayAnswer, answers[random.usize(..answers.len())]);
                shim.set(Word::Stray, random.u64(..20_000));
            }
            _ => {
                shim.set(Word::HangUntilZero, 1);
                thread::sleep(Duration::from_millis(random.u64(1..10)));
                shim.set(Word::HangUntilZero, 0);
            }
        }
        thread::sleep(Duration::from_micros(random.u64(..2000)));
    }
    for word in [
        Word::Break,
        Word::MaxSessions,
        Word::DelayUs,
        Word::CloseAnswer,
        Word::HangUntilZero,
        Word::Stray,
    ] {
        shim.set(word, 0);
    }
    made
}

/// A certificate authority of OpenSSL: a root, and an issuer below it.
struct Authority {
    directory: PathBuf,
}

impl Authority {
    fn new() -> Authority {
        let config = PathBuf::from(std::env::var_os("SOFTHSM2_CONF").unwrap());
        let authority = Authority {
            directory: config.parent().unwrap().to_owned(),
        };
        let extensions = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n";
        fs::write(authority.path("ca.ext"), extensions).unwrap();
        fs::write(authority.path("leaf.ext"), "subjectAltName=DNS:localhost\n").unwrap();
        for name in ["root", "issuer"] {
            let key = [
                "genpkey",
                "-algorithm",
                "EC",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-out",
            ];
            authority.openssl(&[&key[..], &[&format!("{name}.key")]].concat());
        }
        let root = [
            "req", "-x509", "-new", "-key", "root.key", "-subj", "/CN=root", "-days", "2", "-out", "root.pem",
        ];
        authority.openssl(&root);
        authority.openssl(&["pkey", "-in", "issuer.key", "-pubout", "-out", "issuer.pub"]);
        authority.certify("issuer", "root", "ca.ext");
        authority
    }

    /// The chain of a key that is in a token: its certificate, and that of its issuer.
    fn chain(&self, key: &TokenKey) -> Vec<CertificateDer<'static>> {
        fs::write(self.path("leaf.der"), key.public_key().unwrap().as_ref()).unwrap();
        self.openssl(&[
            "pkey", "-pubin", "-inform", "DER", "-in", "leaf.der", "-pubout", "-out", "leaf.pub",
        ]);
        self.certify("leaf", "issuer", "leaf.ext");
        let read = |name| CertificateDer::from_pem_file(self.path(name)).unwrap();
        vec![read("leaf.pem"), read("issuer.pem")]
    }

    fn certify(&self, name: &str, issuer: &str, extensions: &str) {
        let (key, certificate) = (format!("{name}.pub"), format!("{name}.pem"));
        let (authority, authority_key) = (format!("{issuer}.pem"), format!("{issuer}.key"));
        let subject = format!("/CN={name}");
        self.openssl(&[
            "x509",
            "-new",
            "-force_pubkey",
            &key,
            "-subj",
            &subject,
            "-CA",
            &authority,
            "-CAkey",
            &authority_key,
            "-days",
            "2",
            "-extfile",
            extensions,
            "-out",
            &certificate,
        ]);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn openssl(&self, arguments: &[&str]) {
        let mut openssl = Command::new("openssl");
        let output = openssl.args(arguments).current_dir(&self.directory).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {arguments:?}: {said}");
    }
}

/// What `openssl s_client` says of one connection to a server of ours.
fn s_client(directory: &Path, acceptor: TlsAcceptor, version: &str) -> String {
    on_real_time(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = spawn_local(async move {
            let (stream, _) = listener.accept().await?;
            let mut stream = acceptor.accept(stream).await?;
            stream.shutdown().await?;
            io::Result::Ok(())
        });
        let mut client = Command::new("openssl");
        client
            .args([
                "s_client",
                "-connect",
                &format!("localhost:{port}"),
                "-servername",
                "localhost",
            ])
            .args([
                "-verify_hostname",
                "localhost",
                "-verify_return_error",
                "-CAfile",
                "root.pem",
                version,
            ])
            .current_dir(directory)
            .stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || client.output())
            .await
            .unwrap()
            .unwrap();
        let _ = serving.await.unwrap();
        [output.stdout, output.stderr]
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .concat()
    })
}

#[test]
fn openssl_verifies_chains_and_signatures_of_each_kind() {
    if missing(&[OPENSSL]) {
        return;
    }
    token::alone("openssl_verifies_chains_and_signatures_of_each_kind", || {
        let _watchdog = Watchdog::new();
        let pkcs11 = token::load(softhsm::library().unwrap());
        let serial = new_token(&pkcs11, "t");
        let kinds = [
            ("p256", Some(P256)),
            ("p384", Some(P384)),
            ("p521", Some(P521)),
            ("ed25519", Some(ED25519)),
            ("rsa", None),
        ];
        in_session(&pkcs11, &serial, |session| {
            for (id, (label, curve)) in (1..).zip(kinds) {
                new_pair(session, label, &[id], curve, &[]);
            }
        });
        let authority = Authority::new();
        let pool = Offload::new(1).unwrap();
        for (label, _) in kinds {
            let key = TokenKey::open(
                pkcs11.clone(),
                &format!("pkcs11:token=t;object={label}?pin-value={PIN}"),
            )
            .unwrap();
            let chain = authority.chain(&key);
            let offloaded = OffloadedKey::new(Arc::new(key), pool.clone());
            let certified = CertifiedKey::new(chain, Arc::new(offloaded));
            for (version, option) in [
                (&rustls::version::TLS13, "-tls1_3"),
                (&rustls::version::TLS12, "-tls1_2"),
            ] {
                let resolver = Arc::new(SingleCertAndKey::from(certified.clone()));
                let acceptor = TlsAcceptor::from(config(resolver, ring::default_provider(), version));
                let said = s_client(&authority.directory, acceptor, option);
                let signed_by = match label {
                    "rsa" => "rsa-pss",
                    "ed25519" => "ed25519", // OpenSSL 3.5 writes another case
                    _ => "ecdsa",
                };
                assert!(
                    said.to_lowercase()
                        .contains(&format!("peer signature type: {signed_by}")),
                    "{label} {option}: {said}"
                );
                assert!(said.contains("Verify return code: 0 (ok)"), "{label} {option}: {said}");
            }
        }
    });
}

/// A key of one certificate signs for another one. And a key that fails: OpenSSL gets the alert.
#[test]
fn openssl_notices_a_wrong_key_and_gets_an_alert_of_one_that_fails() {
    if missing(&[OPENSSL]) {
        return;
    }
    shim::alone(
        "openssl_notices_a_wrong_key_and_gets_an_alert_of_one_that_fails",
        |shim| {
            let authority = Authority::new();
            let key = shim.key();
            let chain = authority.chain(&key);
            let acceptor = |key: Arc<dyn SigningKey>, version| {
                let certified = CertifiedKey::new(chain.clone(), key);
                TlsAcceptor::from(config(
                    Arc::new(SingleCertAndKey::from(certified)),
                    ring::default_provider(),
                    version,
                ))
            };
            for (version, option) in [
                (&rustls::version::TLS13, "-tls1_3"),
                (&rustls::version::TLS12, "-tls1_2"),
            ] {
                let said = s_client(&authority.directory, acceptor(Identity::new().key, version), option);
                assert!(said.contains("bad signature"), "{option}: {said}");
                // Both attempts fail.
                shim.break_sessions(2, shim::DEVICE_ERROR);
                let offloaded = OffloadedKey::new(Arc::new(key.clone()), Offload::new(1).unwrap());
                let said = s_client(&authority.directory, acceptor(Arc::new(offloaded), version), option);
                assert!(
                    said.contains("alert internal error") && said.contains("alert number 80"),
                    "{option}: {said}"
                );
            }
        },
    );
}
