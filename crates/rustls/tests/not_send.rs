//! Promise: a program that gives the handshake of a job to `tokio::spawn` has one error of the compiler, which names
//! the two ways out; with `axum::serve` it is the first error. Both ways compile.
//!
//! The wording around the names is the compiler's, and changes with its versions.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use asyncjob_testing::Watchdog;

/// A package that depends on what a user's does, with a program for each of these bodies of a function.
fn package(programs: &[(&str, &str)]) -> PathBuf {
    let package = Path::new(env!("CARGO_TARGET_TMPDIR")).join("not_send");
    fs::create_dir_all(package.join("src/bin")).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = format!(
        r#"[package]
name = "not_send"
version = "0.0.0"
edition = "2024"

[workspace]

[dependencies]
asyncjob-rustls = {{ path = "{root}", features = ["tls-listener"] }}
axum = {{ version = "0.8", default-features = false, features = ["http1", "tokio"] }}
tls-listener = {{ version = "0.11", default-features = false, features = ["axum", "rustls-core", "tokio-net"] }}
asyncjob-tokio = {{ path = "{root}/../tokio" }}
tokio = {{ version = "1", features = ["net", "rt"] }}
"#,
        root = root.display()
    );
    fs::write(package.join("Cargo.toml"), manifest).unwrap();
    // The versions that are there.
    fs::copy(root.join("../../Cargo.lock"), package.join("Cargo.lock")).unwrap();
    for (name, body) in programs {
        let program =
            format!("#![allow(unused)]\nuse asyncjob_rustls::*;\nuse tokio::net::TcpStream;\n{body}\nfn main() {{}}\n");
        fs::write(package.join(format!("src/bin/{name}.rs")), program).unwrap();
    }
    package
}

fn check(package: &Path, program: &str) -> Output {
    Command::new(env!("CARGO"))
        .args([
            "check",
            "--quiet",
            "--offline",
            "--color=never",
            "--bin",
            program,
            "--target-dir",
        ])
        .arg(package.with_file_name("not_send_target"))
        .current_dir(package)
        .output()
        .expect("cargo runs")
}

const REFUSED: [(&str, &str); 4] = [
    (
        "accept",
        "fn program(acceptor: TlsAcceptor, stream: TcpStream) { tokio::spawn(acceptor.accept(stream)); }",
    ),
    (
        "accept_in_a_task",
        "fn program(acceptor: TlsAcceptor, stream: TcpStream) {
            tokio::spawn(async move { acceptor.accept(stream).await });
        }",
    ),
    (
        "connect",
        r#"fn program(connector: TlsConnector, stream: TcpStream) {
            tokio::spawn(connector.connect("localhost".try_into().unwrap(), stream));
        }"#,
    ),
    (
        "into_stream",
        "fn program(start: StartHandshake<TcpStream>, acceptor: TlsAcceptor) {
            tokio::spawn(start.into_stream(acceptor.config().clone()));
        }",
    ),
];

/// axum asks for more than `Send`, of which the compiler speaks after that.
const AXUM: (&str, &str) = (
    "axum",
    "async fn program(acceptor: TlsAcceptor, listener: tokio::net::TcpListener) {
            let listener = tls_listener::TlsListener::new(acceptor, listener);
            axum::serve(listener, axum::Router::new()).await.unwrap();
        }",
);

const ACCEPTED: [(&str, &str); 2] = [
    (
        "pinned",
        "fn program(acceptor: TlsAcceptor, stream: TcpStream, workers: &asyncjob_tokio::Workers) {
            tokio::spawn(acceptor.pinned(workers).accept(stream));
        }",
    ),
    (
        "spawn_local",
        "fn program(acceptor: TlsAcceptor, stream: TcpStream) { tokio::task::spawn_local(acceptor.accept(stream)); }",
    ),
];

#[test]
fn a_spawned_handshake_is_one_error_that_names_the_ways_out() {
    let _watchdog = Watchdog::after(Duration::from_secs(600)); // it compiles tokio, rustls and axum
    let package = package(&[&REFUSED[..], &[AXUM], &ACCEPTED].concat());
    for (name, _) in [&REFUSED[..], &[AXUM]].concat() {
        let output = check(&package, name);
        let said = String::from_utf8_lossy(&output.stderr);
        let errors: Vec<&str> = said.split("\nerror").collect();
        // The last one counts them.
        assert!(errors.len() == 2 || name == AXUM.0, "{name}: {said}");
        let names_both = "the trait `Send` is not implemented for `dyn HandshakeNeedsPinnedOrSpawnLocal<";
        assert!(errors[0].contains(names_both), "{name}: {said}");
    }
    for (name, _) in ACCEPTED {
        let output = check(&package, name);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {said}");
    }
}
