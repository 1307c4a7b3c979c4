//! Promise: the TLS server serves correct clients, and survives clients that are not correct. The clients are programs
//! that users have: curl and openssl.
//!
//! The tests read what happened from the server's own counters. With `ASYNCJOB_LONG=1` the flood lasts longer.

#[path = "../../../tests/programs/mod.rs"]
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

/// The programs that are used as clients.
const CLIENTS: &[Tool] = &[CURL, OPENSSL];

/// The limit of waits that end as soon as the awaited event happens. At the limit the test fails.
const TIME_LIMIT: Duration = Duration::from_secs(60);

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
        let address = address
            .unwrap_or_else(|| panic!("the server printed {line:?}"))
            .parse()
            .unwrap();
        let mut hint = String::new();
        output.read_line(&mut hint).unwrap();
        assert_eq!(
            hint,
            format!("try: curl -k https://{address}/\n"),
            "its certificate is its own"
        );
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

    /// The counters, which are read over a new connection. They include that connection.
    #[track_caller]
    fn stats(&self) -> Stats {
        Stats::parse(&self.curl(&[], "/stats"))
    }

    /// The counters, as soon as they meet a condition.
    #[track_caller]
    fn stats_when(&self, what: &str, is_so: impl Fn(&Stats) -> bool) -> Stats {
        when(what, || self.stats(), is_so)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(TIME_LIMIT)).unwrap();
        stream
    }

    fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    /// Waits for the end of the server. Returns whether it succeeded, and what it printed after its first line.
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

/// The counters, from lines of the form `name value`.
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
                "the connection was closed after {status:?}"
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

/// Asks again and again until the answer meets the condition.
#[track_caller]
fn when<T: std::fmt::Debug>(what: &str, mut ask: impl FnMut() -> T, is_so: impl Fn(&T) -> bool) -> T {
    let begin = Instant::now();
    loop {
        let answer = ask();
        if is_so(&answer) {
            return answer;
        }
        assert!(
            begin.elapsed() < TIME_LIMIT,
            "this did not happen: {what}; the last answer is {answer:?}"
        );
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

        let stats = server.stats_when("only this connection is left", |stats| stats.get("live") == 1);
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

/// The stalled client is found by its address, and the job that asks is not in the way.
#[cfg(feature = "insight")]
#[test]
fn the_page_of_the_jobs_shows_where_a_connection_stalls() {
    if missing(&[CURL]) {
        return;
    }
    let _watchdog = Watchdog::new();
    for threads in ["1", "2"] {
        let server = Server::start(&["--threads", threads]);
        let stalled = server.connect(); // and sends nothing
        let peer = format!("peer={}", stalled.local_addr().unwrap());
        let ask = || server.curl(&[], "/debug/jobs");
        let page = when("the connection is a job", ask, |page| page.contains(&peer));
        let line = page.lines().find(|line| line.contains(&peer)).unwrap();
        assert!(line.contains("paused for") && line.contains("(socket:["), "{page}");
        assert!(page.contains("complete_io") && page.contains("accept_all"), "{page}");
        assert!(!page.contains("DID NOT ANSWER"), "{page}");
        let json = server.curl(&[], "/debug/jobs.json");
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let drivers = json["drivers"].as_array().unwrap();
        let mut jobs = drivers.iter().flat_map(|driver| driver["jobs"].as_array().unwrap());
        let is_stalled = |job: &serde_json::Value| job["tags"][0][1] == stalled.local_addr().unwrap().to_string();
        assert!(jobs.any(is_stalled), "{json}");
        assert!(server.curl(&[], "/debug/other").contains("The pages are"));
        let numbers = server.curl(&[], "/debug/numbers");
        let line = numbers.lines().find(|line| line.starts_with("connection")).unwrap();
        let started: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(started >= 4, "{numbers}");
        let timeline = server.curl(&[], "/debug/timeline.json");
        let timeline: serde_json::Value = serde_json::from_str(&timeline).unwrap();
        let events = timeline["traceEvents"].as_array().unwrap();
        assert!(
            events
                .iter()
                .any(|event| event["ph"] == "X" && event["name"] == "connection")
        );
        assert!(server.curl(&[], "/debug/timeline.svg").starts_with("<svg"));
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
fn malformed_requests_are_answered_and_counted() {
    if missing(CLIENTS) {
        return;
    }
    let server = Server::start(&[]);
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(10_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(100));
    let cases = [
        ("POST / HTTP/1.1\r\n\r\n", "HTTP/1.1 405 Method Not Allowed"),
        ("GET /\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        (
            "GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 413 Content Too Large",
        ),
        (&long, "HTTP/1.1 431 Request Header Fields Too Large"),
        (&many, "HTTP/1.1 431 Request Header Fields Too Large"),
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
    assert_eq!((stats.get("bad_requests"), stats.get("broken")), (6, 0), "{stats:?}");
}

/// A proxy and this server must not see the end of a request in different places. The server would answer as a request
/// what the proxy takes for a body.
#[test]
fn a_request_with_an_unclear_end_is_refused_and_its_body_is_not_answered() {
    if missing(CLIENTS) {
        return;
    }
    let server = Server::start(&[]);
    let hidden = "GET /stats HTTP/1.1\r\n\r\n";
    for (headers, expected) in [
        ("Content-Length : 24\r\n", "400 Bad Request"),
        ("Content-Length\t: 24\r\n", "400 Bad Request"),
        ("Transfer-Encoding : chunked\r\n", "400 Bad Request"),
        ("X: a\r\n Content-Length: 24\r\n", "400 Bad Request"),
        ("X: a\r\n\tContent-Length: 24\r\n", "400 Bad Request"),
        (" Content-Length: 24\r\n", "400 Bad Request"),
        ("Content-Length: 0\r\nContent-Length: 24\r\n", "400 Bad Request"),
        ("Content-Length: 0, 24\r\n", "400 Bad Request"),
        ("Content-Length: +24\r\n", "400 Bad Request"),
        ("Content-Length: 0x18\r\n", "400 Bad Request"),
        ("Content-Length:\r\n", "400 Bad Request"),
        (
            "Content-Length: 24\r\nTransfer-Encoding: chunked\r\n",
            "400 Bad Request",
        ),
        ("Content\0-Length: 24\r\n", "400 Bad Request"),
        ("X: a\rContent-Length: 24\r\n", "400 Bad Request"),
        ("Content-Length: 024\r\n", "413 Content Too Large"),
        ("content-LENGTH: 24\r\n", "413 Content Too Large"),
        ("Transfer-Encoding: chunked\r\n", "413 Content Too Large"),
        ("Transfer-Encoding: xchunked\r\n", "413 Content Too Large"),
    ] {
        let mut client = Client::connect(&server, &[]);
        write!(client.to, "GET / HTTP/1.1\r\n{headers}\r\n{hidden}").unwrap();
        assert_eq!(client.response().0, format!("HTTP/1.1 {expected}"), "{headers:?}");
        client.wait_for_close();
    }
    let mut empty = Client::connect(&server, &[]);
    write!(empty.to, "\r\nGET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n{hidden}").unwrap();
    assert!(empty.response().1.starts_with("Request 1 "));
    assert_eq!(Stats::parse(&empty.response().1).get("bad_requests"), 18);
}

#[test]
fn garbage_fails_only_its_own_handshake() {
    if missing(CLIENTS) {
        return;
    }
    let server = Server::start(&[]);
    let mut witness = Client::connect(&server, &[]);
    let noise: Vec<u8> = (0..=255).cycle().take(5000).collect();
    let greetings: [&[u8]; 4] = [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff", &[0x16; 600], &noise];
    for greeting in greetings.iter().cycle().take(40) {
        let mut stream = server.connect();
        let _ = stream.write_all(greeting); // the server may refuse it before all is sent
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new()); // an alert, then the end or a reset
    }
    let stats = when(
        "all handshakes have failed",
        || witness.stats(),
        |stats| stats.get("live") == 1,
    );
    assert_eq!(
        (stats.get("handshakes"), stats.get("handshakes_failed")),
        (1, 40),
        "{stats:?}"
    );
}

#[test]
fn a_reset_at_any_moment_ends_only_its_own_connection() {
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
        set_socket_linger(&stream, Some(Duration::ZERO)).unwrap(); // the close resets the connection
    }
    // The kernel may drop connections that were reset while they were in the accept queue, or hand them out.
    let stats = when(
        "no other connection is left",
        || witness.stats(),
        |stats| stats.get("live") == 1,
    );
    assert_eq!(stats.get("handshakes"), 1, "{stats:?}");
    assert_eq!(stats.get("accepted"), stats.get("handshakes_failed") + 1, "{stats:?}");
    // Resets after the handshake.
    for _ in 0..5 {
        drop(Client::connect(&server, &[]).get("/"));
    }
    let stats = when(
        "no other connection is left",
        || witness.stats(),
        |stats| stats.get("live") == 1,
    );
    assert_eq!(stats.get("handshakes"), 6, "{stats:?}");
}

#[test]
fn a_client_that_stalls_in_the_handshake_is_dropped_at_the_timeout() {
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
        assert_eq!(
            stream.read(&mut [0]).unwrap(),
            0,
            "the server has closed the connection"
        );
    }
    let stats = when(
        "no other connection is left",
        || witness.stats(),
        |stats| stats.get("live") == 1,
    );
    assert_eq!(stats.get("handshakes_timed_out"), 20, "{stats:?}");
    assert_eq!(
        (stats.get("handshakes"), stats.get("handshakes_failed")),
        (1, 0),
        "{stats:?}"
    );
}

#[test]
fn a_client_that_sends_no_request_is_dropped_at_the_timeout() {
    if missing(CLIENTS) {
        return;
    }
    let server = Server::start(&["--idle-timeout", "0.2"]);
    let mut silent = Client::connect(&server, &[]);
    silent.wait_for_close();
    let stats = server.stats_when("the connection is closed", |stats| stats.get("live") == 1);
    assert_eq!(stats.get("broken"), 1, "{stats:?}");
}

#[test]
fn a_slow_signature_fails_only_its_own_handshake() {
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
    // The signer still works on the first signature, whose connection has ended. The server is not blocked. No
    // handshake succeeds, so the counters are printed at Ctrl-C instead.
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
        "the server waits for a free job",
        || witness.stats(),
        |stats| stats.get("waits_for_job") > 0,
    );
    assert_eq!((stats.get("live"), stats.get("peak_live")), (8, 8), "{stats:?}");
    drop(crowd);
    assert!(server.curl(&[], "/").starts_with("Request 1 "));
    let stats = when(
        "the other connections are closed",
        || witness.stats(),
        |stats| stats.get("live") == 1,
    );
    assert_eq!(stats.get("peak_live"), 8, "{stats:?}");
    assert_eq!((stats.get("handshakes"), stats.get("accepted")), (2, 52), "{stats:?}");
}

#[test]
fn without_free_fds_the_accept_job_pauses_and_recovers() {
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
        "the server waits for a free fd",
        || witness.stats(),
        |stats| stats.get("waits_for_fd") > 0,
    );
    assert!(stats.get("live") < 40, "{stats:?}");
    // Only numbers below the limit count: the process may have inherited an fd with a higher number from the test
    // runner.
    let fds = fs::read_dir(format!("/proc/{}/fd", server.child.id())).unwrap();
    let numbers = fds.map(|fd| fd.unwrap().file_name().into_string().unwrap().parse::<u32>().unwrap());
    assert_eq!(
        numbers.filter(|&fd| fd < 40).count(),
        40,
        "all fds are in use, and the server still serves"
    );
    assert_eq!(witness.get("/").0, "HTTP/1.1 200 OK");
    drop(crowd);
    assert!(server.curl(&[], "/").starts_with("Request 1 "));
    let stats = when(
        "the other connections are closed",
        || witness.stats(),
        |stats| stats.get("live") == 1,
    );
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
    witness.get("/"); // this connection has a job before the others come
    // Connections that the server has not accepted yet are not alive for it.
    let when_none_is_left = |witness: &mut Client, accepted: u64| {
        let stats = when(
            "no other connection is left",
            || witness.stats(),
            |stats| stats.get("live") == 1 && stats.get("accepted") == accepted,
        );
        stats.get("resident_kib")
    };
    // The first flood uses as many jobs as the server may have, so later floods need no more memory.
    let crowd: Vec<TcpStream> = (0..300).map(|_| server.connect()).collect();
    for stream in &crowd {
        let _ = (&*stream).write_all(b"\x16\x03\x01");
    }
    when(
        "all jobs are in use",
        || witness.stats(),
        |stats| stats.get("live") == 200,
    );
    drop(crowd);
    let after_first = when_none_is_left(&mut witness, 1 + 300);
    let mut flood = |round: u64| {
        for _ in 0..10 {
            let crowd: Vec<TcpStream> = (0..150).map(|_| server.connect()).collect();
            for stream in &crowd {
                let _ = (&*stream).write_all(b"\x16\x03\x01");
            }
        }
        when_none_is_left(&mut witness, 1 + 300 + (round + 1) * 1500)
    };
    let after: Vec<u64> = (0..rounds).map(&mut flood).collect();
    let last = after[after.len() - 1];
    // With `insight` the server keeps the last 10,000 runs, for its timeline.
    let of_timeline = if cfg!(feature = "insight") { 8 << 10 } else { 0 };
    assert!(
        last < after_first + after_first / 8 + of_timeline,
        "{after_first} KiB, then {after:?}"
    );
    let stats = witness.stats();
    assert_eq!(stats.get("accepted"), 1 + 300 + rounds * 1500, "{stats:?}");
    assert!(stats.get("peak_live") <= 200, "{stats:?}");
}

#[test]
fn ctrl_c_closes_idle_connections_finishes_requests_and_cancels_the_rest() {
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
    // There are three connections, and the busy one does not have its signature yet.
    let stats = when(
        "all three are connected",
        || idle.stats(),
        |stats| stats.get("live") == 3,
    );
    assert_eq!(stats.get("handshakes"), 1, "{stats:?}");

    server.interrupt();
    idle.wait_for_close();
    let page = text(&busy.wait_with_output().unwrap());
    assert!(page.starts_with("Request 1 of this connection"), "{page}");
    assert_eq!(
        stalled.read(&mut [0]).unwrap_or(0),
        0,
        "the stalled connection was closed at the end"
    );
    let address = server.address;
    let (ended_well, output) = server.wait();
    assert!(ended_well);
    assert!(
        output.starts_with("draining 3 connections\n1 connections were cut off\n"),
        "{output}"
    );
    let stats = Stats::parse(&output);
    assert_eq!((stats.get("handshakes"), stats.get("live")), (2, 0), "{output}");
    assert!(TcpStream::connect(address).is_err(), "the server no longer listens");
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
fn a_second_ctrl_c_ends_the_process_at_once() {
    let _watchdog = Watchdog::new();
    if missing(CLIENTS) {
        return;
    }
    let mut server = Server::start(&["--drain", "3600"]);
    let mut stalled = server.connect();
    stalled.write_all(&[0x16]).unwrap();
    server.stats_when("the stalled client is connected", |stats| stats.get("live") == 2);
    server.interrupt();
    let mut line = String::new();
    server.output.read_line(&mut line).unwrap();
    assert!(line.starts_with("draining "), "{line}");
    server.interrupt();
    assert_eq!(server.child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_wrong_option_is_explained() {
    for (args, sentence) in [
        (["--listen", "nowhere"], "invalid socket address"),
        (["--mode", "elsewhere"], "[possible values: inline, offload]"),
        (["--signers=0", "--listen=127.0.0.1:0"], "at least one thread"), // is seen after the listener was made
        (["--sign-latency=-1", "--threads=1"], "a finite number, 0 or more"),
        (["--handshake-timeout", "NaN"], "a finite number, 0 or more"),
        (["--idle-timeout", "inf"], "a finite number, 0 or more"),
        (["--drain", "1e300"], "a finite number, 0 or more"),
        (["--drain", "soon"], "it must be a number"),
    ] {
        let output = Command::new(program("tls_server")).args(args).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && stderr.contains(sentence),
            "{args:?}: {stderr}"
        );
    }
}
