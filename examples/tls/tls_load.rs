//! Loads TLS servers with full handshakes, and reports the latency that an unrelated client sees meanwhile. That client
//! has an open connection and sends a small request every few milliseconds.
//!
//! ```text
//!   cargo run --release --example tls_load                        compares signing inline with signing by offload
//!   cargo run --release --example tls_load -- --target HOST:PORT  loads a server that is running; may be repeated
//! ```
//!
//! ```text
//!   --concurrency jobs on this thread     connect, handshake, one request, close; then again
//!   one thread, a blocking client         request, response; the next after --probe-interval
//! ```
//!
//! While the server stalls, the unrelated client waits and sends nothing. So each wait is counted once for every
//! request that was due during it (hdrhistogram corrects "coordinated omission" in this way). Without the correction, a
//! long stall would count as one slow request.
//!
//! Without a target the program starts `tls_server` twice, once in each mode, as a process of its own.

#[allow(dead_code, reason = "main of tls_server.rs is not used here")]
#[path = "tls_server.rs"]
mod tls_server;

use std::cell::{Cell, RefCell};
use std::env;
use std::error::Error;
use std::fs;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use asyncjob::io::Pausing;
use asyncjob::pool::{PoolConfig, init_thread};
use asyncjob::scheduler::Scheduler;
use asyncjob::stack::StackSize;
use asyncjob::time::with_timeout;
use clap::Parser;
use hdrhistogram::Histogram;
use rustix::process::{Pid, Signal, kill_process};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use tls_server::{KeyKind, milliseconds, seconds};

/// Loads TLS servers with full handshakes, and reports what an unrelated connection notices of it.
#[derive(Debug, Parser)]
struct Options {
    /// A server to load, as [NAME=]HOST:PORT; may be repeated. The default is to start tls_server in both modes.
    #[arg(long = "target", value_name = "[NAME=]HOST:PORT", value_parser = parse_target)]
    targets: Vec<Target>,
    /// Full handshakes with each server.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    handshakes: u64,
    /// Handshakes at the same time.
    #[arg(long, value_name = "N", default_value_t = 100)]
    concurrency: usize,
    /// Milliseconds between two requests of the unrelated connection.
    #[arg(long, value_name = "MS", default_value = "2", value_parser = milliseconds)]
    probe_interval: Duration,
    /// Seconds after which no new handshake starts.
    #[arg(long, value_name = "S", default_value = "60", value_parser = seconds)]
    limit: Duration,
    /// The kind of key of the servers that are started.
    #[arg(long, value_enum, default_value = "rsa")]
    key: KeyKind,
    /// Milliseconds that are added to every signature of the servers that are started.
    #[arg(long, value_name = "MS", default_value = "2", value_parser = milliseconds)]
    sign_latency: Duration,
    /// A directory to which the timeline of each server is written, as NAME.json: needs --features insight.
    #[arg(long, value_name = "DIR")]
    timelines: Option<PathBuf>,
}

#[derive(Clone, Debug)]
struct Target {
    name: String,
    address: SocketAddr,
}

fn parse_target(text: &str) -> Result<Target, String> {
    let (name, address) = text.split_once('=').unwrap_or((text, text));
    let address = address
        .parse()
        .map_err(|e| format!("{address} is not an address with a port ({e})"))?;
    let name = name.to_owned();
    Ok(Target { name, address })
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tls_load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    if env::args().nth(1).as_deref() == Some("serve") {
        return tls_server::run(&tls_server::Options::parse_from(env::args().skip(1)));
    }
    let options = Options::parse();
    let mut rows = Vec::new();
    for target in &options.targets {
        rows.push(measure(&options, target)?);
        save_timeline(&options, target)?;
    }
    if options.targets.is_empty() {
        for mode in ["inline", "offload"] {
            let server = Server::start(&options, mode)?;
            rows.push(measure(&options, &server.target)?);
            save_timeline(&options, &server.target)?;
            server.stop()?;
        }
    }
    print_table(&options, &rows);
    let failed: u64 = rows.iter().map(|row| row.failed).sum();
    if failed > 0 {
        let first = rows.iter().find_map(|row| row.first_failure.as_deref());
        return Err(format!("{failed} handshakes failed, the first: {}", first.unwrap_or("unknown")).into());
    }
    Ok(())
}

/// Asks a server for the timeline of the load that it has just had, and writes it to a file, if that is wanted.
fn save_timeline(options: &Options, target: &Target) -> Result<(), Box<dyn Error>> {
    let Some(directory) = &options.timelines else {
        return Ok(());
    };
    let tls = new_client(&Arc::new(client_config()?))?;
    let mut stream = StreamOwned::new(tls, TcpStream::connect(target.address)?);
    stream.write_all(b"GET /debug/timeline.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    match response.split_once("\r\n\r\n") {
        Some((head, timeline)) if head.starts_with("HTTP/1.1 200 ") => {
            fs::create_dir_all(directory)?;
            Ok(fs::write(directory.join(format!("{}.json", target.name)), timeline)?)
        }
        _ => Err(format!("{} has no timeline: build it with --features insight", target.name).into()),
    }
}

/// A server that this program has started.
struct Server {
    child: Child,
    target: Target,
}

impl Server {
    fn start(options: &Options, mode: &str) -> Result<Self, Box<dyn Error>> {
        let key = format!("{:?}", options.key).to_lowercase();
        let latency = (options.sign_latency.as_secs_f64() * 1000.0).to_string();
        let mut child = Command::new(env::current_exe()?)
            .args(["serve", "--listen", "127.0.0.1:0", "--mode", mode])
            .args(["--key", &key, "--sign-latency", &latency])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().ok_or("no output")?).read_line(&mut line)?;
        let address = line.split_whitespace().find_map(|word| word.strip_prefix("https://"));
        let address = address
            .ok_or_else(|| format!("tls_server printed no address, but: {line}"))?
            .parse()?;
        let name = mode.to_owned();
        let target = Target { name, address };
        Ok(Server { child, target })
    }

    fn stop(mut self) -> io::Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::INT)?;
        self.child.wait().map(drop)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill(); // a measurement failed
    }
}

/// The measurements of one server.
struct Row {
    name: String,
    handshakes: u64,
    failed: u64,
    first_failure: Option<String>,
    seconds: f64,
    /// In microseconds.
    handshake: Histogram<u64>,
    unrelated: Latencies,
}

fn measure(options: &Options, target: &Target) -> Result<Row, Box<dyn Error>> {
    let client = Arc::new(client_config()?);
    let probe = Probe::start(target.address, Arc::clone(&client), options)?;
    let load = Rc::new(Load::new(options, target.address, client)?);

    init_thread(PoolConfig::new().stack_size(StackSize::at_least(512 * 1024)))?; // enough for a debug build too
    let scheduler = Scheduler::new()?;
    for _ in 0..options.concurrency {
        let load = Rc::clone(&load);
        scheduler.spawn(move || load.handshakes_until_done())?.detach();
    }
    scheduler.run()?;
    let seconds = load.begin.elapsed().as_secs_f64();
    load.clear_progress();
    let unrelated = probe.finish()?;
    let load = Rc::into_inner(load).ok_or("a job still holds the load")?;
    Ok(Row {
        name: target.name.clone(),
        handshakes: load.done.get(),
        failed: load.failed.get(),
        first_failure: load.first_failure.into_inner(),
        seconds,
        handshake: load.latency.into_inner(),
        unrelated,
    })
}

/// What the jobs share that make handshakes.
struct Load {
    address: SocketAddr,
    client: Arc<ClientConfig>,
    handshakes: u64,
    remaining: Cell<u64>,
    done: Cell<u64>,
    failed: Cell<u64>,
    first_failure: RefCell<Option<String>>,
    latency: RefCell<Histogram<u64>>,
    begin: Instant,
    limit: Duration,
    /// When the progress line was last written.
    progress_shown: Cell<Option<Instant>>,
}

/// How often the progress line is written. A run that is shorter than this writes none.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

impl Load {
    fn new(options: &Options, address: SocketAddr, client: Arc<ClientConfig>) -> Result<Self, Box<dyn Error>> {
        Ok(Load {
            address,
            client,
            handshakes: options.handshakes,
            remaining: Cell::new(options.handshakes),
            done: Cell::new(0),
            failed: Cell::new(0),
            first_failure: RefCell::new(None),
            latency: RefCell::new(new_histogram()?),
            begin: Instant::now(),
            limit: options.limit,
            progress_shown: Cell::new(None),
        })
    }

    /// The closure of a job: makes handshakes until all were started or the time is over.
    fn handshakes_until_done(&self) {
        while self.remaining.get() > 0 && self.begin.elapsed() < self.limit {
            self.remaining.set(self.remaining.get() - 1);
            match with_timeout(Duration::from_secs(30), || self.connect_once()) {
                Ok(took) => {
                    self.done.set(self.done.get() + 1);
                    record(&mut self.latency.borrow_mut(), took);
                }
                Err(e) => {
                    self.failed.set(self.failed.get() + 1);
                    self.first_failure.borrow_mut().get_or_insert_with(|| e.to_string());
                }
            }
            self.show_progress();
        }
    }

    /// Makes one full handshake, and one request to check the connection. Returns how long the handshake took.
    fn connect_once(&self) -> io::Result<Duration> {
        let begin = Instant::now();
        let mut socket = Pausing::<TcpStream>::connect(self.address)?;
        let mut tls = new_client(&self.client)?;
        tls.complete_io(&mut socket)?;
        let took = begin.elapsed();
        let mut stream = StreamOwned::new(tls, socket);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut response = String::new();
        stream.read_to_string(&mut response)?;
        if !response.starts_with("HTTP/1.1 200 ") {
            return Err(io::Error::other(format!("the server answered {response:?}")));
        }
        Ok(took)
    }

    /// Writes a line on the terminal, if the run takes long enough.
    fn show_progress(&self) {
        let last = self.progress_shown.get().unwrap_or(self.begin);
        if last.elapsed() < PROGRESS_INTERVAL || !io::stderr().is_terminal() {
            return;
        }
        self.progress_shown.set(Some(Instant::now()));
        let ended = self.done.get() + self.failed.get();
        let per_second = ended as f64 / self.begin.elapsed().as_secs_f64();
        eprint!(
            "\r{ended} of {} handshakes, {per_second:.0} per second{:10}",
            self.handshakes, ""
        );
    }

    fn clear_progress(&self) {
        if self.progress_shown.get().is_some() {
            eprint!("\r{:60}\r", "");
        }
    }
}

/// The latencies of the unrelated connection, without load and under load, in microseconds.
struct Latencies {
    alone: Histogram<u64>,
    loaded: Histogram<u64>,
    /// The number of requests under load.
    sent: u64,
}

/// The unrelated connection: a blocking client on a thread of its own.
struct Probe {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<io::Result<Latencies>>,
}

impl Probe {
    /// Connects, and first measures the server without load.
    fn start(address: SocketAddr, client: Arc<ClientConfig>, options: &Options) -> Result<Self, Box<dyn Error>> {
        let stop = Arc::new(AtomicBool::new(false));
        let interval = options.probe_interval;
        let (ready, is_ready) = mpsc::channel();
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let tls = new_client(&client)?;
            let socket = TcpStream::connect(address)?;
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(Duration::from_secs(30)))?;
            let mut stream = BufReader::new(StreamOwned::new(tls, socket));
            let histogram = new_histogram().map_err(io::Error::other)?;
            let mut latencies = Latencies {
                alone: histogram.clone(),
                loaded: histogram,
                sent: 0,
            };
            for _ in 0..200 {
                ask(&mut stream, interval, &mut latencies.alone)?;
            }
            let _ = ready.send(());
            while !stopped.load(Ordering::Relaxed) {
                ask(&mut stream, interval, &mut latencies.loaded)?;
                latencies.sent += 1;
            }
            Ok(latencies)
        });
        let _ = is_ready.recv(); // an error instead means that the thread has failed, which `finish` reports
        Ok(Probe { stop, thread })
    }

    fn finish(self) -> Result<Latencies, Box<dyn Error>> {
        self.stop.store(true, Ordering::Relaxed);
        let latencies = self.thread.join().map_err(|_| "the unrelated connection panicked")?;
        Ok(latencies.map_err(|e| format!("the unrelated connection failed: {e}"))?)
    }
}

/// Makes one request on the unrelated connection, and records its latency.
fn ask<S: Read + Write>(stream: &mut BufReader<S>, interval: Duration, into: &mut Histogram<u64>) -> io::Result<()> {
    let begin = Instant::now();
    stream
        .get_mut()
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut length = 0;
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(value) = line.strip_prefix("Content-Length: ") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    stream.read_exact(&mut vec![0; length])?;
    let (took, due) = (micros(begin.elapsed()), micros(interval));
    into.record_correct(took, due).map_err(io::Error::other)?;
    thread::sleep(interval);
    Ok(())
}

/// A histogram of microseconds, up to two minutes, with two significant digits.
fn new_histogram() -> Result<Histogram<u64>, hdrhistogram::CreationError> {
    Histogram::new_with_bounds(1, 120_000_000, 2)
}

fn record(histogram: &mut Histogram<u64>, took: Duration) {
    histogram.saturating_record(micros(took));
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn new_client(config: &Arc<ClientConfig>) -> io::Result<ClientConnection> {
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)
}

/// A client that accepts any certificate, as `curl -k` does, but checks signatures, and never resumes a session.
fn client_config() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Accepts any certificate. `crates/rustls/examples/support/client.rs` has a verifier like it, for TLS 1.3 alone. They
/// are not shared, because they belong to two packages: a published package has no files outside its directory, and a
/// reader copies an example as it is.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn print_table(options: &Options, rows: &[Row]) {
    println!(
        "{} full handshakes at a time; latencies of the unrelated connection in ms:",
        options.concurrency
    );
    println!();
    println!(
        "| server | handshakes | per second | failed | handshake p50 | requests | p50 | p99 | max | p99 without load |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for row in rows {
        println!(
            "| {} | {} | {:.0} | {} | {} | {} | {} | {} | {} | {} |",
            row.name,
            row.handshakes,
            row.handshakes as f64 / row.seconds,
            row.failed,
            ms(row.handshake.value_at_quantile(0.5)),
            row.unrelated.sent,
            ms(row.unrelated.loaded.value_at_quantile(0.5)),
            ms(row.unrelated.loaded.value_at_quantile(0.99)),
            ms(row.unrelated.loaded.max()),
            ms(row.unrelated.alone.value_at_quantile(0.99)),
        );
    }
    if let [first, second] = rows {
        let ratio = |quantile| {
            let at = |row: &Row| row.unrelated.loaded.value_at_quantile(quantile).max(1) as f64;
            at(first) / at(second)
        };
        println!();
        println!(
            "{} to {}: {:.1} times at p50, {:.1} times at p99, {:.1} times at most.",
            first.name,
            second.name,
            ratio(0.5),
            ratio(0.99),
            ratio(1.0)
        );
    }
}

fn ms(microseconds: u64) -> String {
    format!("{:.2}", microseconds as f64 / 1000.0)
}
