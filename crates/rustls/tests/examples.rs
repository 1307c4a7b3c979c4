//! The examples do what they say, in every mode.
//!
//! The tests need OpenSSH's client, moto (`.ci/moto`) and, with the feature `pkcs11`, SoftHSM.

use std::path::PathBuf;
use std::process::Command;

#[cfg(feature = "pkcs11")]
use asyncjob_testing::tools::SOFTHSM;
use asyncjob_testing::tools::{MOTO, SSH_AGENT, missing};

/// The program of an example, which cargo builds with this test.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this test");
    let directory = test.ancestors().nth(2).expect("the test is in target/<profile>/deps");
    directory.join("examples").join(name)
}

/// Runs a server with 30 clients at once, and gives what it prints.
fn serves(name: &str, arguments: &[&str]) -> String {
    let stdout = run(name, &[arguments, &["--clients", "30"]].concat());
    assert!(
        stdout.contains("30 handshakes at once, 0 failed"),
        "{name} {arguments:?}: {stdout}"
    );
    stdout
}

/// Runs an example, and gives what it prints.
fn run(name: &str, arguments: &[&str]) -> String {
    let output = Command::new(example(name))
        .args(arguments)
        .output()
        .expect("cargo builds it with all tests, or with --examples");
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{name} {arguments:?}: {}\n{stdout}{stderr}",
        output.status
    );
    stdout.into_owned()
}

#[test]
fn a_server_with_its_key_in_an_agent_needs_no_thread_for_it() {
    if missing(&[SSH_AGENT]) {
        return;
    }
    for driver in ["tokio", "scheduler"] {
        for key in ["ecdsa", "ed25519"] {
            let printed = serves("tls_agent", &["--driver", driver, "--key", key]);
            assert!(printed.contains(" 2 threads with the clients' one"), "{printed}");
        }
    }
}

#[test]
fn a_server_with_its_key_in_a_key_service_serves() {
    if missing(&[MOTO]) {
        return;
    }
    for key in ["ecdsa", "rsa"] {
        serves("tls_kms", &["--key", key]);
    }
}

#[cfg(feature = "tower")]
#[test]
fn a_pooled_client_with_a_slow_key_is_served() {
    for mode in [&["--mode", "inline"][..], &[]] {
        let printed = run("tls_client", mode);
        assert!(printed.starts_with("4 requests in "), "{printed}");
    }
}

#[cfg(feature = "pkcs11")]
#[test]
fn a_server_with_its_key_in_a_token_serves_in_every_mode() {
    if missing(&[SOFTHSM]) {
        return;
    }
    for mode in ["inline", "spawn_blocking", "block_in_place", "job"] {
        serves("tls_hsm", &["--mode", mode]);
    }
    serves("tls_hsm", &["--mode", "job", "--key", "rsa"]);
}
