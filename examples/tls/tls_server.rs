//! An HTTPS server in which each connection is a job: straight, blocking-style `rustls` on one thread. The private-key
//! operation runs on other threads.
//!
//! ```text
//!   cargo run --release --example tls_server
//!   curl -k https://127.0.0.1:8443/          a small page
//!   curl -k https://127.0.0.1:8443/stats     the server's counters
//! ```
//!
//! With `--features insight`, `/debug/jobs` shows to a client on the same machine where every job is and what it waits
//! for, and `/debug/jobs.json` the same for a tool. `/debug/numbers` says how long connections run, are paused and wait
//! for their thread, how full the queues are, and what memory the stacks take. `/debug/timeline.json` is a file for
//! `ui.perfetto.dev`.
//!
//! ```text
//!   listener ---> accept job ------> a job for each connection     all on one thread, or on --threads
//!                  |  waits while       |  handshake, requests
//!                  |  all jobs or fds   |  Signer::sign  ------>  offload: --signers threads
//!                  |  are in use        |  <------ signature
//! ```
//!
//! With `--mode inline` the signature is made in the call from rustls, as in a server without jobs. All other
//! connections of the thread wait meanwhile. `tls_load` measures the difference.

#[path = "tls_server/counters.rs"]
mod counters;
#[path = "tls_server/debug.rs"]
mod debug;
#[path = "tls_server/http.rs"]
mod http;
#[path = "tls_server/identity.rs"]
mod identity;
#[path = "tls_server/listener.rs"]
mod listener;
#[path = "tls_server/service.rs"]
mod service;
#[path = "tls_server/signer.rs"]
mod signer;

use std::error::Error;
use std::io::{Read, Write, stdout};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use asyncjob::JobBuilder;
use asyncjob::io::Pausing;
use asyncjob::pool::{PoolConfig, init_thread};
use asyncjob::scheduler::{Handle, Scheduler, ShutdownReport, Workers};
use asyncjob::stack::StackSize;
use clap::{Parser, ValueEnum};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};

use service::Service;

/// Where signatures are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// On the serving thread: all of its connections wait.
    Inline,
    /// On signing threads: only the connection's own job pauses.
    Offload,
}

/// The kind of key that the server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyKind {
    /// P-256, generated at each start.
    Ecdsa,
    /// RSA-2048, a demonstration key that is part of the program.
    Rsa,
}

/// An HTTPS server whose connections are jobs.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Options {
    /// The address to listen on; port 0 takes a free port.
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// The kind of key.
    #[arg(long, value_enum, default_value = "ecdsa")]
    key: KeyKind,
    /// Where signatures are made.
    #[arg(long, value_enum, default_value = "offload")]
    mode: Mode,
    /// Milliseconds that are added to every signature, as if the signer were remote.
    #[arg(long, value_name = "MS", default_value = "0", value_parser = milliseconds)]
    sign_latency: Duration,
    /// Threads that make signatures [default: one for each processor, or 32 if there is a latency].
    #[arg(long, value_name = "N")]
    signers: Option<usize>,
    /// Threads that serve connections.
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,
    /// Connections at the same time; more connections wait in the kernel's queue.
    #[arg(long, value_name = "N", default_value_t = 4096)]
    max_jobs: usize,
    /// Seconds that a handshake may take.
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    handshake_timeout: Duration,
    /// Seconds that a connection may take to send its next request, and to take the response.
    #[arg(long, value_name = "S", default_value = "30", value_parser = seconds)]
    idle_timeout: Duration,
    /// Seconds that connections may continue after Ctrl-C.
    #[arg(long, value_name = "S", default_value = "5", value_parser = seconds)]
    drain: Duration,
}

/// Reads a number of seconds from the command line.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    duration(text, 1.0)
}

/// Reads a number of milliseconds from the command line.
pub(crate) fn milliseconds(text: &str) -> Result<Duration, String> {
    duration(text, 1000.0)
}

fn duration(text: &str, units_per_second: f64) -> Result<Duration, String> {
    let units: f64 = text.parse().map_err(|_| "it must be a number, as 2.5".to_owned())?;
    Duration::try_from_secs_f64(units / units_per_second)
        .map_err(|_| "it must be a finite number, 0 or more".to_owned())
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tls_server: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until Ctrl-C.
pub(crate) fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    raise_fd_limit();
    let listener = Pausing::<TcpListener>::bind(options.listen)?;
    rustix::net::listen(listener.get_ref(), 4096)?; // with std's queue of 128, clients of a flood wait for a second
    let address = listener.get_ref().local_addr()?;
    let service = Arc::new(Service::new(options)?);
    let signals = Signals::new()?;

    // The accept loop and the wait for Ctrl-C are jobs of this thread's scheduler. The connections are its jobs too,
    // unless there are threads for them.
    let front = Scheduler::builder().max_jobs(options.max_jobs + 2).build()?;
    prepare_thread();
    let executor = Executor::new(options, &front)?;
    let accepting = {
        let (service, jobs) = (Arc::clone(&service), executor.handle());
        let max = options.max_jobs;
        JobBuilder::new()
            .name("accept")
            .spawn_on(&front, move || listener::accept_all(&listener, max, &service, &jobs))?
    };
    let stop = JobBuilder::new()
        .name("signals")
        .spawn_on(&front, move || signals.wait())?;

    println!("listening on https://{address}  {}", options.describe());
    println!("try: curl -k https://{address}/");
    stdout().flush()?;
    front.run_until(stop)??;

    println!("draining {} connections", service.connections.count());
    accepting.request_cancel();
    service.connections.close_idle();
    let report = executor.shutdown(&front, options.drain)?;
    println!("{} connections were cut off", report.cancelled + report.quarantined);
    print!("{}", service.counters);
    Ok(())
}

impl Options {
    fn describe(&self) -> String {
        let mode = match self.mode {
            Mode::Inline => "signing inline".to_owned(),
            Mode::Offload => format!("signing on {} threads", self.signers()),
        };
        let key = format!("{:?} key", self.key).to_lowercase();
        let latency = self.sign_latency.as_secs_f64() * 1000.0;
        format!("({key}, {mode}, {latency} ms added, {} serving)", self.threads.max(1))
    }

    fn signers(&self) -> usize {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let default = if self.sign_latency.is_zero() { processors } else { 32 };
        self.signers.unwrap_or(default)
    }
}

/// What runs the jobs of the connections.
enum Executor {
    /// The scheduler of the main thread.
    MainThread(Handle),
    Threads(Workers),
}

impl Executor {
    fn new(options: &Options, front: &Scheduler) -> Result<Self, Box<dyn Error>> {
        if options.threads <= 1 {
            return Ok(Executor::MainThread(front.handle()));
        }
        let workers = Workers::builder()
            .threads(options.threads)
            .max_jobs(options.max_jobs)
            .build()?;
        workers.broadcast(|_| prepare_thread())?;
        Ok(Executor::Threads(workers))
    }

    fn handle(&self) -> Handle {
        match self {
            Executor::MainThread(handle) => handle.clone(),
            Executor::Threads(workers) => workers.handle(),
        }
    }

    fn shutdown(self, front: &Scheduler, within: Duration) -> Result<ShutdownReport, Box<dyn Error>> {
        match self {
            Executor::MainThread(_) => Ok(front.shutdown(within)?),
            Executor::Threads(workers) => {
                front.shutdown(within)?; // ends at once, because the accept job was cancelled
                Ok(workers.shutdown(within))
            }
        }
    }
}

/// Sets the stack size of this thread's jobs. A debug build of rustls needs more than the default. A release build
/// needs a third of the default.
fn prepare_thread() {
    if cfg!(debug_assertions) {
        let config = PoolConfig::new().stack_size(StackSize::at_least(512 * 1024));
        init_thread(config).expect("the call makes no stacks, and is not made in a job");
    }
}

/// Ctrl-C and SIGTERM, as a socket that a job can read from. A second signal ends the process at once.
struct Signals(Pausing<UnixStream>);

impl Signals {
    fn new() -> std::io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        let second = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&second))?;
            signal_hook::flag::register(signal, Arc::clone(&second))?;
            signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
        }
        debug_assert!(!second.load(Ordering::Relaxed));
        Ok(Signals(Pausing::new(reader)?))
    }

    /// Waits for the first signal. In a job this pauses the job.
    fn wait(mut self) -> std::io::Result<()> {
        self.0.read_exact(&mut [0])
    }
}

/// Raises the limit of open fds to what the administrator allows. Each connection takes one fd.
fn raise_fd_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // If the call fails, the server works with fewer connections.
    let _ = setrlimit(Resource::Nofile, raised);
}
