//! The TLS server serves those who behave, and survives those who do not. Clients are the programs a user would take.
//!
//! What happened is read from the server's own counters. The long form, with `ASYNCJOB_LONG=1`, floods it for longer.

mod programs;

use std::collections::HashMap;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use asyncjob_testing::Watchdog;
use asyncjob_testing::tools::{CURL, OPENSSL, PRLIMIT, Tool, missing};
use programs::program;
use rustix::net::sockopt::set_socket_linger;
use rustix::process::{Pid, Signal, kill_process};

/// The programs that the server's clients are.
const CLIENTS: &[Tool] = &[CURL, OPENSSL];

/// For waits that end as soon as what is waited for happens: how long until the test fails instead.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server, killed at the end of its test.
struct Server {
    child: Child,
    output: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Server {
    fn start(args: &[&str]) -> Self {
        Self::spawn(Command::new(program("tls_server")).args(args))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .args(["--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let address = line.split_whitespace().find_map(|word| word.strip_prefix("https://"));
        let address = address.unwrap_or_else(|| panic!("it said {line:?}")).parse().unwrap();
        Server { child, output, address }
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    fn curl_command(&self, args: &[&str], path: &str) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["-sSk", "--max-time", "60"]).args(args).arg(self.url(path));
        curl
    }

    #[track_caller]
    fn curl(&self, args: &[&str], path: &str) -> String {
        text(&self.curl_command(args, path).output().expect("curl starts"))
    }

    /// The counters, over a connection of their own, which they include.
    #[track_caller]
    fn stats(&self) -> Stats {
        Stats::parse(&self.curl(&[], "/stats"))
    }

    /// The counters, as soon as they are as wanted.
    #[track_caller]
    fn stats_when(&self, what: &str, is_so: impl Fn(&Stats) -> bool) -> Stats {
        when(what, || self.stats(), is_so)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    /// What it printed after its first line, and whether it ended well.
    fn wait(mut self) -> (bool, String) {
        let mut output = String::new();
        self.output.read_to_string(&mut output).unwrap();
        (self.child.wait().unwrap().success(), output)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `name value` lines.
#[derive(Debug)]
struct Stats(HashMap<String, u64>);

impl Stats {
    fn parse(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        Stats(
            lines
                .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
                .collect(),
        )
    }

    #[track_caller]
    fn get(&self, name: &str) -> u64 {
        *self.0.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }
}

/// A TLS connection that stays open, by `openssl s_client`.
struct Client {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Client {
    fn connect(server: &Server, args: &[&str]) -> Self {
        let mut child = Command::new("openssl")
            .args(["s_client", "-quiet", "-connect", &server.address.to_string()])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl starts");
        let to = child.stdin.take().unwrap();
        let from = BufReader::new(child.stdout.take().unwrap());
        Client { child, to, from }
    }

    /// The status line and the body.
    fn get(&mut self, path: &str) -> (String, String) {
        write!(self.to, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        self.response()
    }

    fn response(&mut self) -> (String, String) {
        let mut status = String::new();
        self.from.read_line(&mut status).unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            assert_ne!(
                self.from.read_line(&mut line).unwrap(),
                0,
                "it was closed after {status:?}"
            );
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        self.from.read_exact(&mut body).unwrap();
        (status.trim_end().to_owned(), String::from_utf8(body).unwrap())
    }

    fn stats(&mut self) -> Stats {
        Stats::parse(&self.get("/stats").1)
    }

    /// Waits until the server has closed the connection.
    fn wait_for_close(&mut self) {
        assert_eq!(self.from.read_to_end(&mut Vec::new()).unwrap(), 0);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn text(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Asks again until it is so.
#[track_caller]
fn when<T: std::fmt::Debug>(what: &str, mut ask: impl FnMut() -> T, is_so: impl Fn(&T) -> bool) -> T {
    let begin = Instant::now();
    loop {
        let answer = ask();
        if is_so(&answer) {
            return answer;
        }
        assert!(begin.elapsed() < PATIENCE, "never: {what}; at last {answer:?}");
    }
}

fn is_long() -> bool {
    env::var_os("ASYNCJOB_LONG").is_some_and(|value| value != "0")
}

#[test]
fn curl_is_served_whatever_the_key_the_mode_and_the_threads() {
    if missing(CLIENTS) {
        return;
    }
    for (key, mode, threads) in [
        ("ecdsa", "offload", "1"),
        ("rsa", "offload", "1"),
        ("ecdsa", "inline", "1"),
        ("rsa", "offload", "2"),
    ] {
        let server = Server::start(&["--key", key, "--mode", mode, "--threads", threads]);
        let page = server.curl(&["--tlsv1.3"], "/");
        assert!(
            page.starts_with("Request 1 of this connection, over TLSv1_3 in job #"),
            "{page}"
        );
        let page = server.curl(&["--tls-max", "1.2"], "/");
        assert!(
            page.starts_with("Request 1 of this connection, over TLSv1_2 in job #"),
            "{page}"
        );
        let twice = server.curl(&[&server.url("/")], "/");
        assert!(twice.contains("\nRequest 2 of this connection"), "{twice}");
        let status = ["-o", "/dev/null", "-w", "%{http_code}"];
        assert_eq!(server.curl(&status, "/nowhere"), "404");
        assert_eq!(server.curl(&[&status[..], &["-I"]].concat(), "/"), "200");

        let stats = server.stats_when("only this one is left", |stats| stats.get("live") == 1);
        let counts = ["accepted", "handshakes", "requests", "signatures"].map(|name| stats.get(name));
        assert_eq!(counts, [6, 6, 7, 6], "{key} {mode} {threads}: {stats:?}");
        let faults = [
            "handshakes_failed",
            "handshakes_timed_out",
            "bad_requests",
            "broken",
            "signatures_failed",
        ];
        assert_eq!(faults.map(|name| stats.get(name)), [0; 5], "{stats:?}");
    }
}

#[test]
fn openssl_is_served_in_both_versions_on_a_connection_that_stays() {
    if missing(CLIENTS) {
        return;
    }
    let server = Server::start(&[]);
    for (version, name) in [("-tls1_2", "TLSv1_2"), ("-tls1_3", "TLSv1_3")] {
        let mut client = Client::connect(&server, &[version]);
        for number in 1..=20 {
            let (status, body) = client.get("/");
            assert_eq!(status, "HTTP/1.1 200 OK");
            assert!(
                body.starts_with(&format!("Request {number} of this connection, over {name}")),
                "{body}"
            );
        }
    }
}

#[test]
fn many_clients_at_once_share_the_threads() {
    if missing(CLIENTS) {
        return;
    }
    for threads in ["1", "3"] {
        let server = Server::start(&["--threads", threads, "--sign-latency", "5"]);
        let url = server.url("/");
        let clients: Vec<Child> = (0..20)
            .map(|_| {
                let mut curl = server.curl_command(&[&url, &url], "/");
                curl.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        for client in clients {
            let pages = text(&client.wait_with_output().unwrap());
            assert_eq!(pages.lines().count(), 3, "{pages}");
        }
        let stats = server.stats();
        assert_eq!((stats.get("handshakes"), stats.get("requests")), (21, 61), "{stats:?}");
    }
}

#[test]
fn requests_that_are_no_good_are_answered_and_counted() {
    if missing(CLIENTS) {
        return;
    }
    let server = Server::start(&[]);
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(10_000));
    let cases = [
        ("POST / HTTP/1.1\r\n\r\n", "HTTP/1.1 405 Method Not Allowed"),
        ("GET /\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        (
            "GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 413 Content Too Large",
        ),
        (&long, "HTTP/1.1 431 Request Header Fields Too Large"),
    ];
    for (request, expected) in cases {
        let mut client = Client::connect(&server, &[]);
        client.to.write_all(request.as_bytes()).unwrap();
        assert_eq!(client.response().0, expected);
        client.wait_for_close();
    }
    let mut pipelining = Client::connect(&server, &[]);
    pipelining
        .to
        .write_all(b"GET / HTTP/1.1\r\n\r\nGET /stats HTTP/1.1\r\n\r\n")
        .unwrap();
    assert!(pipelining.response().1.starts_with("Request 1 "));
    let stats = Stats::parse(&pipelining.response().1);
    assert_eq!((stats.get("bad_requests"), stats.get("broken")), (5, 0), "{stats:?}");
}

#[test]
fn garbage_fails_its_own_handshake_and_nothing_else() {
    if missing(CLIENTS) {
        return;
    }
    let server = Server::start(&[]);
    let mut witness = Client::connect(&server, &[]);
    let noise: Vec<u8> = (0..=255).cycle().take(5000).collect();
    let greetings: [&[u8]; 4] = [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff", &[0x16; 600], &noise];
    for greeting in greetings.iter().cycle().take(40) {
        let mut stream = server.connect();
        let _ = stream.write_all(greeting); // it may be refused before it is all sent
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new()); // an alert, then the end or a reset
    }
    let stats = when("all have failed", || witness.stats(), |stats| stats.get("live") == 1);
    assert_eq!(
        (stats.get("handshakes"), stats.get("handshakes_failed")),
        (1, 40),
        "{stats:?}"
    );
}

#[test]
fn resets_at_any_moment_end_their_own_connection_and_nothing_else() {
    if missing(CLIENTS) {
        return;
    }
    let server = Server::start(&[]);
    let mut witness = Client::connect(&server, &[]);
    for sent in 0..40 {
        let mut stream = server.connect();
        stream
            .write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..sent % 12])
            .unwrap();
        set_socket_linger(&stream, Some(Duration::ZERO)).unwrap(); // closing resets
    }
    // The accept queue drops connections that were reset in it, or gives them out: either is fine.
    let stats = when("none is left", || witness.stats(), |stats| stats.get("live") == 1);
    assert_eq!(stats.get("handshakes"), 1, "{stats:?}");
    assert_eq!(stats.get("accepted"), stats.get("handshakes_failed") + 1, "{stats:?}");
    // After the handshake, too.
    for _ in 0..5 {
        drop(Client::connect(&server, &[]).get("/"));
    }
    let stats = when("none is left", || witness.stats(), |stats| stats.get("live") == 1);
    assert_eq!(stats.get("handshakes"), 6, "{stats:?}");
}

#[test]
fn who_stalls_is_dropped_when_the_handshake_takes_too_long() {
    if missing(CLIENTS) {
        return;
    }
    let server = Server::start(&["--handshake-timeout", "0.3", "--idle-timeout", "60"]);
    let mut witness = Client::connect(&server, &[]);
    witness.get("/");
    let mut stalled: Vec<TcpStream> = (0..20).map(|_| server.connect()).collect();
    for (number, stream) in stalled.iter_mut().enumerate() {
        stream.write_all(&[0x16, 3, 1, 2, 0, 1][..number % 7]).unwrap();
    }
    for stream in &mut stalled {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the server has closed it");
    }
    let stats = when("none is left", || witness.stats(), |stats| stats.get("live") == 1);
    assert_eq!(stats.get("handshakes_timed_out"), 20, "{stats:?}");
    assert_eq!(
        (stats.get("handshakes"), stats.get("handshakes_failed")),
        (1, 0),
        "{stats:?}"
    );
}

#[test]
fn who_says_nothing_after_the_handshake_is_dropped_too() {
    if missing(CLIENTS) {
        return;
    }
    let server = Server::start(&["--idle-timeout", "0.2"]);
    let mut silent = Client::connect(&server, &[]);
    silent.wait_for_close();
    let stats = server.stats_when("it is gone", |stats| stats.get("live") == 1);
    assert_eq!(stats.get("broken"), 1, "{stats:?}");
}

#[test]
fn a_signer_that_takes_too_long_fails_its_handshake_and_nothing_else() {
    let _watchdog = Watchdog::new();
    if missing(CLIENTS) {
        return;
    }
    let server = Server::start(&["--sign-latency", "1500", "--signers", "1", "--handshake-timeout", "0.2"]);
    let url = server.url("/");
    let late = Command::new("curl")
        .args(["-sk", "--max-time", "60", &url])
        .status()
        .unwrap();
    assert!(!late.success());
    // The signer is busy with what nobody waits for; the server is not. No handshake succeeds, so Ctrl-C shows the
    // counts.
    let late = Command::new("curl")
        .args(["-sk", "--max-time", "60", &url])
        .status()
        .unwrap();
    assert!(!late.success());
    server.interrupt();
    let (ended_well, output) = server.wait();
    assert!(ended_well);
    let stats = Stats::parse(&output);
    assert_eq!(
        (stats.get("signatures_failed"), stats.get("handshakes")),
        (2, 0),
        "{output}"
    );
    assert_eq!((stats.get("handshakes_failed"), stats.get("live")), (2, 0), "{output}");
}

#[test]
fn more_connections_than_jobs_wait_in_the_kernels_queue() {
    if missing(CLIENTS) {
        return;
    }
    let server = Server::start(&["--max-jobs", "8"]);
    let mut witness = Client::connect(&server, &[]);
    witness.get("/");
    let crowd: Vec<TcpStream> = (0..50).map(|_| server.connect()).collect();
    let stats = when(
        "it is full",
        || witness.stats(),
        |stats| stats.get("waits_for_room") > 0,
    );
    assert_eq!((stats.get("live"), stats.get("peak_live")), (8, 8), "{stats:?}");
    drop(crowd);
    assert!(server.curl(&[], "/").starts_with("Request 1 "));
    let stats = when("the crowd is gone", || witness.stats(), |stats| stats.get("live") == 1);
    assert_eq!(stats.get("peak_live"), 8, "{stats:?}");
    assert_eq!((stats.get("handshakes"), stats.get("accepted")), (2, 52), "{stats:?}");
}

#[test]
fn without_fds_accepting_pauses_and_recovers() {
    if missing(&[CURL, OPENSSL, PRLIMIT]) {
        return;
    }
    let mut limited = Command::new("prlimit");
    limited.arg("--nofile=40:40").arg(program("tls_server"));
    let server = Server::spawn(&mut limited);
    let mut witness = Client::connect(&server, &[]);
    witness.get("/");
    let crowd: Vec<TcpStream> = (0..80).map(|_| server.connect()).collect();
    let stats = when(
        "it is out of fds",
        || witness.stats(),
        |stats| stats.get("waits_for_fd") > 0,
    );
    assert!(stats.get("live") < 40, "{stats:?}");
    // Below the limit: a test runner may have left it one with a higher number.
    let fds = fs::read_dir(format!("/proc/{}/fd", server.child.id())).unwrap();
    let numbers = fds.map(|fd| fd.unwrap().file_name().into_string().unwrap().parse::<u32>().unwrap());
    assert_eq!(
        numbers.filter(|&fd| fd < 40).count(),
        40,
        "all in use, and it serves still"
    );
    assert_eq!(witness.get("/").0, "HTTP/1.1 200 OK");
    drop(crowd);
    assert!(server.curl(&[], "/").starts_with("Request 1 "));
    let stats = when("the crowd is gone", || witness.stats(), |stats| stats.get("live") == 1);
    assert_eq!((stats.get("accepted"), stats.get("handshakes")), (82, 2), "{stats:?}");
}

#[test]
fn a_flood_of_connections_leaves_no_memory_behind() {
    if missing(CLIENTS) {
        return;
    }
    let rounds = if is_long() { 40 } else { 4 };
    let server = Server::start(&["--max-jobs", "200"]);
    let mut witness = Client::connect(&server, &[]);
    witness.get("/"); // it has its place before the crowd comes
    let none_is_left = |witness: &mut Client| {
        let stats = when("none is left", || witness.stats(), |stats| stats.get("live") == 1);
        stats.get("resident_kib")
    };
    // As many jobs at a time as there may be: from here on nothing new is needed.
    let crowd: Vec<TcpStream> = (0..300).map(|_| server.connect()).collect();
    for stream in &crowd {
        let _ = (&*stream).write_all(b"\x16\x03\x01");
    }
    when("it is full", || witness.stats(), |stats| stats.get("live") == 200);
    drop(crowd);
    let warm = none_is_left(&mut witness);
    let mut flood = || {
        for _ in 0..10 {
            let crowd: Vec<TcpStream> = (0..150).map(|_| server.connect()).collect();
            for stream in &crowd {
                let _ = (&*stream).write_all(b"\x16\x03\x01");
            }
        }
        none_is_left(&mut witness)
    };
    let after: Vec<u64> = (0..rounds).map(|_| flood()).collect();
    let last = after[after.len() - 1];
    assert!(last < warm + warm / 8, "{warm} KiB, then {after:?}");
    let stats = witness.stats();
    assert_eq!(stats.get("accepted"), 1 + 300 + rounds * 1500, "{stats:?}");
    assert!(stats.get("peak_live") <= 200, "{stats:?}");
}

#[test]
fn ctrl_c_lets_go_of_the_idle_finishes_the_busy_and_cuts_off_the_rest() {
    let _watchdog = Watchdog::new();
    if missing(CLIENTS) {
        return;
    }
    let server = Server::start(&["--sign-latency", "700", "--drain", "2", "--handshake-timeout", "60"]);
    let mut idle = Client::connect(&server, &[]);
    assert_eq!(idle.get("/").0, "HTTP/1.1 200 OK");
    let mut stalled = server.connect();
    stalled.write_all(&[0x16, 3, 1]).unwrap();
    let busy = server
        .curl_command(&[], "/")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Three connections, and the busy one has not got its signature yet.
    let stats = when("all are there", || idle.stats(), |stats| stats.get("live") == 3);
    assert_eq!(stats.get("handshakes"), 1, "{stats:?}");

    server.interrupt();
    idle.wait_for_close();
    let page = text(&busy.wait_with_output().unwrap());
    assert!(page.starts_with("Request 1 of this connection"), "{page}");
    assert_eq!(stalled.read(&mut [0]).unwrap_or(0), 0, "it was cut off at the end");
    let address = server.address;
    let (ended_well, output) = server.wait();
    assert!(ended_well);
    assert!(
        output.starts_with("draining 3 connections\n1 connections were cut off\n"),
        "{output}"
    );
    let stats = Stats::parse(&output);
    assert_eq!((stats.get("handshakes"), stats.get("live")), (2, 0), "{output}");
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn ctrl_c_drains_the_workers_too() {
    let _watchdog = Watchdog::new();
    if missing(CLIENTS) {
        return;
    }
    let server = Server::start(&["--threads", "3", "--drain", "5"]);
    let mut clients: Vec<Client> = (0..6).map(|_| Client::connect(&server, &[])).collect();
    clients
        .iter_mut()
        .for_each(|client| assert_eq!(client.get("/").0, "HTTP/1.1 200 OK"));
    server.interrupt();
    clients.iter_mut().for_each(Client::wait_for_close);
    let (ended_well, output) = server.wait();
    assert!(ended_well);
    assert!(
        output.starts_with("draining 6 connections\n0 connections were cut off\n"),
        "{output}"
    );
    assert_eq!(Stats::parse(&output).get("live"), 0, "{output}");
}

#[test]
fn a_second_ctrl_c_does_not_wait_for_anybody() {
    let _watchdog = Watchdog::new();
    if missing(CLIENTS) {
        return;
    }
    let mut server = Server::start(&["--drain", "3600"]);
    let mut stalled = server.connect();
    stalled.write_all(&[0x16]).unwrap();
    server.stats_when("it is there", |stats| stats.get("live") == 2);
    server.interrupt();
    let mut line = String::new();
    server.output.read_line(&mut line).unwrap();
    assert!(line.starts_with("draining "), "{line}");
    server.interrupt();
    assert_eq!(server.child.wait().unwrap().code(), Some(130));
}

#[test]
fn options_that_are_no_good_are_explained() {
    for (args, sentence) in [
        (["--listen", "nowhere"], "invalid socket address"),
        (["--mode", "elsewhere"], "[possible values: inline, offload]"),
        (["--signers", "0"], "at least one thread"),
    ] {
        let output = Command::new(program("tls_server")).args(args).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && stderr.contains(sentence),
            "{args:?}: {stderr}"
        );
    }
}
