//! Promise: the installed `openssl` program works with our library preloaded, and the loader binds every ASYNC call to
//! it (S7).

mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use asyncjob_testing::tools::{OPENSSL, missing};
use support::{On, describe, printed};

/// A new, empty directory for one test.
fn directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("openssl_program")
        .join(name);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// `openssl` with our library preloaded. The loader writes into `log` where it binds each symbol.
fn openssl(log: &Path) -> Command {
    let mut command = On::Ours.command("openssl");
    command
        .env("LD_DEBUG", "bindings")
        .env("LD_DEBUG_OUTPUT", log.join("bindings"));
    command
}

/// Checks that the loader bound `ASYNC_*` to our library only, and that it bound at least these names.
fn assert_bound_to_us(log: &Path, at_least: &[&str]) {
    let files = fs::read_dir(log).unwrap().map(|file| file.unwrap().path());
    let logs = files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("bindings"));
    let text: String = logs.map(|path| fs::read_to_string(path).unwrap()).collect();
    let bindings: Vec<_> = text.lines().filter(|line| line.contains("symbol `ASYNC_")).collect();
    let stray = bindings
        .iter()
        .find(|line| !line.split(" to ").nth(1).unwrap().contains("/libasyncjob.so "));
    assert_eq!(stray, None);
    for name in at_least {
        assert!(
            bindings.iter().any(|line| line.contains(&format!("`{name}'"))),
            "{name} is not among {bindings:#?}"
        );
    }
}

#[test]
fn speed_runs_with_async_jobs() {
    if missing(&[OPENSSL]) {
        return;
    }
    let log = directory("speed");
    for jobs in ["1", "8", "64"] {
        let mut command = openssl(&log);
        command.args([
            "speed",
            "-elapsed",
            "-seconds",
            "1",
            "-bytes",
            "16",
            "-async_jobs",
            jobs,
            "-evp",
            "aes-128-cbc",
        ]);
        let output = printed(command);
        assert!(output.contains("AES-128-CBC"), "{jobs}: {output}");
    }
    assert_bound_to_us(
        &log,
        &[
            "ASYNC_init_thread",
            "ASYNC_start_job",
            "ASYNC_cleanup_thread",
            "ASYNC_WAIT_CTX_new",
        ],
    );
}

/// Every job of the engine of the benchmark pauses for each update.
#[test]
fn an_engine_that_pauses_works_under_speed() {
    if missing(&[OPENSSL]) || missing(support::C_WITH_OPENSSL) {
        return;
    }
    let engine = support::compile("benches/engine.c", &["-shared", "-fPIC", "-lcrypto"]);
    for jobs in ["1", "8", "64"] {
        let mut command = On::Ours.command("openssl");
        command.args(["speed", "-elapsed", "-seconds", "1", "-bytes", "64", "-engine"]);
        let output = command
            .arg(&engine)
            .args(["-async_jobs", jobs, "sha1"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let after = |words: &str| said.split(words).nth(1).and_then(|text| text.split_whitespace().next());
        let pauses = after("the engine has paused ")
            .and_then(|number| number.parse().ok())
            .unwrap_or(0u64);
        let digests = after("64 size blocks: ")
            .and_then(|number| number.parse().ok())
            .unwrap_or(u64::MAX);
        assert!(
            output.status.success() && pauses >= digests && digests > 0,
            "{jobs}: {}",
            describe(&output)
        );
    }
}

#[test]
fn s_server_and_s_client_over_tls_1_2() {
    if missing(&[OPENSSL]) {
        return;
    }
    four_megabytes_each_way("-tls1_2");
}

#[test]
fn s_server_and_s_client_over_tls_1_3() {
    if missing(&[OPENSSL]) {
        return;
    }
    four_megabytes_each_way("-tls1_3");
}

/// The client sends lines. `s_server -rev` sends each back, reversed.
fn four_megabytes_each_way(version: &str) {
    let log = directory(version);
    let (lines, reversed) = (log.join("lines"), lines_reversed());
    fs::write(&lines, lines_forward() + "CLOSE\n").unwrap();
    let (mut server, address) = serve(&log, version);

    let mut client = openssl(&log);
    client.args([
        "s_client", "-async", "-quiet", "-ign_eof", version, "-connect", &address,
    ]);
    let output = client.stdin(File::open(&lines).unwrap()).output().unwrap();
    let came_back = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        came_back.len(),
        reversed.len(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(came_back == reversed, "the number of bytes is right, the bytes are not");
    assert!(server.wait().unwrap().success());
    assert_bound_to_us(
        &log,
        &[
            "ASYNC_start_job",
            "ASYNC_get_current_job",
            "ASYNC_WAIT_CTX_new",
            "ASYNC_WAIT_CTX_free",
        ],
    );
}

const LINES: std::ops::Range<u32> = 0..60_000;

fn lines_forward() -> String {
    LINES
        .map(|number| format!("{number:08}{}\n", "abcdefghij".repeat(6)))
        .collect()
}

fn lines_reversed() -> String {
    let reversed = |number| format!("{number:08}").chars().rev().collect::<String>();
    LINES
        .map(|number| format!("{}{}\n", "jihgfedcba".repeat(6), reversed(number)))
        .collect()
}

/// A server that accepts one connection, and its address. It listens already.
fn serve(log: &Path, version: &str) -> (Child, String) {
    let (key, certificate) = (log.join("key.pem"), log.join("certificate.pem"));
    let mut request = Command::new("openssl");
    request
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/CN=asyncjob",
        ])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate);
    let output = request.output().unwrap();
    assert!(output.status.success(), "{}", describe(&output));

    let address = free_address();
    let mut command = openssl(log);
    command.args([
        "s_server", "-async", "-rev", "-naccept", "1", version, "-accept", &address,
    ]);
    let mut server = command
        .arg("-cert")
        .arg(certificate)
        .arg("-key")
        .arg(key)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(server.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("ACCEPT") {
        line.clear();
        assert_ne!(
            said.read_line(&mut line).unwrap(),
            0,
            "the server ended before it listened"
        );
    }
    // The server prints statistics at the end, which must be read.
    std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
    (server, address)
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string()
}
