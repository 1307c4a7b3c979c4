//! Promise: the operator of Debian's HAProxy, as Debian configures it, sees the handshakes that wait for an engine: a
//! master, workers in another root directory with another user, and no thread more after their start.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use asyncjob_testing::Watchdog;
use asyncjob_testing::tools::{CC, CURL, HAPROXY, OPENSSL, OPENSSL_HEADERS, missing, skipped};
use support::{compile, is_root, printed, shared_object};

/// The parts of Debian's haproxy.cfg that matter here. The certificate is read before the root directory changes.
const CONFIGURATION: &str = "
global
    chroot DIRECTORY/empty
    user haproxy
    group haproxy
    ssl-mode-async
defaults
    mode http
    timeout connect 5s
    timeout client 50s
    timeout server 50s
frontend tls
    bind unix@DIRECTORY/socket mode 666 ssl crt DIRECTORY/server.pem
    http-request return status 200 content-type text/plain string served
";

/// Loads the engine for every RSA key of the process. Debian's HAProxy has no `ssl-engine`.
const OPENSSL_CONF: &str = "
openssl_conf = all
[all]
engines = engines
[engines]
device = device
[device]
dynamic_path = ENGINE
default_algorithms = RSA
";

fn files() -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("haproxy_files");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(directory.join("empty")).unwrap();
    let engine = compile("tests/c/device_engine.c", &["-shared", "-fPIC", "-lcrypto"]);
    let write = |name: &str, text: &str| {
        let text = text.replace("ENGINE", engine.to_str().unwrap());
        let text = text.replace("DIRECTORY", directory.to_str().unwrap());
        fs::write(directory.join(name), text).unwrap();
    };
    write("haproxy.cfg", CONFIGURATION);
    write("openssl.cnf", OPENSSL_CONF);
    let mut openssl = Command::new("openssl");
    openssl
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"])
        .args(["-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.crt"])
        .current_dir(&directory);
    printed(openssl);
    let pem = ["server.crt", "server.key"].map(|name| fs::read_to_string(directory.join(name)).unwrap());
    fs::write(directory.join("server.pem"), pem.concat()).unwrap();
    let mut mkfifo = Command::new("mkfifo");
    mkfifo.arg(directory.join("device"));
    printed(mkfifo);
    directory
}

/// A master and its worker.
struct Server {
    master: Child,
    worker: u32,
}

impl Server {
    fn start(files: &Path) -> Self {
        let mut master = Command::new(HAPROXY.path().unwrap())
            .args(["-Ws", "-f", "haproxy.cfg"])
            .current_dir(files)
            .env("LD_PRELOAD", shared_object())
            .env("OPENSSL_CONF", files.join("openssl.cnf"))
            .env("DEVICE", files.join("device"))
            .env("ASYNCJOB_DUMP_SIGNAL", "RTMIN+3")
            .env("ASYNCJOB_DUMP_FILE", files.join("jobs.txt"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut errors = BufReader::new(master.stderr.take().unwrap());
        while !said.contains("Loading success") {
            assert_ne!(errors.read_line(&mut said).unwrap(), 0, "{said}");
        }
        let (_, worker) = said.split_once("New worker (").expect(&said);
        let worker = worker.split(')').next().unwrap().parse().unwrap();
        std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::stderr()));
        Server { master, worker }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        kill("TERM", self.master.id());
        let _ = self.master.wait();
    }
}

fn kill(signal: &str, process: u32) {
    let sent = Command::new("kill").args(["-s", signal, &process.to_string()]).status();
    assert!(sent.unwrap().success());
}

/// Waits until the master has started itself anew, and the library is loaded. A signal would end it before.
fn wait_for_master(process: u32) {
    let is_ready = || {
        let environment = fs::read(format!("/proc/{process}/environ")).unwrap();
        let mut tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
        let is_dump =
            |task: fs::DirEntry| fs::read(task.path().join("comm")).is_ok_and(|name| name == b"asyncjob-dump\n");
        String::from_utf8_lossy(&environment).contains("HAPROXY_MWORKER_WAIT_ONLY")
            && tasks.any(|task| task.is_ok_and(is_dump))
    };
    while !is_ready() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Asks a process until its last dump has `jobs`.
fn dump_with(jobs: &str, files: &Path, process: u32) -> String {
    let first = format!("process {process}, ");
    loop {
        kill("RTMIN+3", process);
        std::thread::sleep(Duration::from_millis(50));
        let text = fs::read_to_string(files.join("jobs.txt")).unwrap();
        let last = text.rsplit_once(&first).map(|(_, last)| last).unwrap_or_default();
        let dump = last.split("\n\nprocess ").next().unwrap_or_default();
        if dump.contains(jobs) && text.ends_with("\n\n") {
            return dump.to_owned();
        }
    }
}

#[test]
fn debians_haproxy_shows_the_handshakes_that_wait_for_an_engine() {
    if missing(&[HAPROXY, CURL, CC, OPENSSL, OPENSSL_HEADERS]) {
        return;
    }
    if !is_root() {
        return skipped("only root may change the root directory and the user");
    }
    shared_object();
    let _watchdog = Watchdog::new();
    let files = files();
    let server = Server::start(&files);
    wait_for_master(server.master.id());
    dump_with("\n0 jobs, ", &files, server.master.id());

    let limits = fs::read_to_string(format!("/proc/{}/limits", server.worker)).unwrap();
    let processes = limits.lines().find(|line| line.starts_with("Max processes")).unwrap();
    assert!(
        processes.split_whitespace().any(|word| word == "0"),
        "it may start a thread: {processes}"
    );

    let mut client = Command::new("curl");
    client.args(["--silent", "--insecure", "https://localhost/", "--unix-socket"]);
    let client = client.arg(files.join("socket")).stdout(Stdio::piped()).spawn().unwrap();
    let text = dump_with("\n1 jobs, ", &files, server.worker);
    println!("{text}");
    assert!(
        text.contains(", paused, waits for fd ") && text.contains(" (pipe:["),
        "{text}"
    );
    if cfg!(target_arch = "x86_64") {
        for place in [
            "ASYNC_pause_job in ",
            "device_engine+0x",
            "libcrypto.so.3+0x",
            "libssl.so.3+0x",
        ] {
            assert!(text.contains(place), "{place}: {text}");
        }
    }

    fs::OpenOptions::new()
        .write(true)
        .open(files.join("device"))
        .unwrap()
        .write_all(b"1")
        .unwrap();
    let output = client.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "served");
    dump_with("\n0 jobs, ", &files, server.worker);
    let mode = fs::metadata(files.join("jobs.txt")).unwrap().permissions().mode();
    assert_eq!(
        mode & 0o777,
        0o640,
        "a dump has addresses, which other users should not read"
    );
}
