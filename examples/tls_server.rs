//! An HTTPS server whose every connection is a job: straight, blocking-style `rustls` on one thread, with the
//! private-key operation done elsewhere.
//!
//! ```text
//!   cargo run --release --example tls_server
//!   curl -k https://127.0.0.1:8443/          a small page
//!   curl -k https://127.0.0.1:8443/stats     what the server counts
//! ```
//!
//! ```text
//!   listener ---> accept job ---> a job for each connection       all on one thread, or on --threads
//!                  |  waits while       |  handshake, requests
//!                  |  there is no       |  Signer::sign  ------>  offload: --signers threads, a session each
//!                  |  room or no fd     |  <------ signature
//! ```
//!
//! With `--mode inline` the signature is made where rustls asks for it, as a server without jobs does, and everybody
//! waits: `tls_load` measures the difference.

#[path = "tls_server/counters.rs"]
mod counters;
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
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use asyncjob::io::Pausing;
use asyncjob::pool::{PoolConfig, init_thread};
use asyncjob::scheduler::{Handle, Scheduler, ShutdownReport, Workers};
use asyncjob::stack::StackSize;
use clap::{Parser, ValueEnum};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};

use service::Service;

/// Where the private-key operation is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// On the thread that serves: everybody waits.
    Inline,
    /// On threads of its own: the connection's job pauses.
    Offload,
}

/// Which kind of key the server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyKind {
    /// P-256, made at each start.
    Ecdsa,
    /// RSA-2048, a demonstration key that is part of the program.
    Rsa,
}

/// An HTTPS server whose connections are jobs.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Options {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// The kind of key.
    #[arg(long, value_enum, default_value = "ecdsa")]
    key: KeyKind,
    /// Where signatures are made.
    #[arg(long, value_enum, default_value = "offload")]
    mode: Mode,
    /// Milliseconds that every signature takes in addition, as with a remote signer.
    #[arg(long, value_name = "MS", default_value_t = 0.0)]
    sign_latency: f64,
    /// Threads that make signatures; by default one a processor, or 32 with a latency, as they only wait then.
    #[arg(long, value_name = "N")]
    signers: Option<usize>,
    /// Threads that serve.
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,
    /// Connections at a time; more wait in the kernel's queue.
    #[arg(long, value_name = "N", default_value_t = 4096)]
    max_jobs: usize,
    /// Seconds that a handshake may take.
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    handshake_timeout: f64,
    /// Seconds that a connection may take to send its next request, and to take the response.
    #[arg(long, value_name = "S", default_value_t = 30.0)]
    idle_timeout: f64,
    /// Seconds that connections may go on after Ctrl-C.
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    drain: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    run(&Options::parse())
}

/// Serves until Ctrl-C.
pub(crate) fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    raise_fd_limit();
    let listener = Pausing::<TcpListener>::bind(options.listen)?;
    rustix::net::listen(listener.get_ref(), 4096)?; // std's queue of 128 makes clients of a flood wait for a second
    let address = listener.get_ref().local_addr()?;
    let service = Arc::new(Service::new(options)?);
    let signals = Signals::new()?;

    // The accept loop and the wait for Ctrl-C are jobs of this thread's scheduler. So are the connections, unless there
    // are threads for them.
    let front = Scheduler::builder().max_jobs(options.max_jobs + 2).build()?;
    prepare_thread();
    let crew = Crew::new(options, &front)?;
    let accepting = {
        let (service, jobs) = (Arc::clone(&service), crew.handle());
        let max = options.max_jobs;
        front.spawn(move || listener::accept_all(&listener, max, &service, &jobs))?
    };
    let stop = front.spawn(move || signals.wait())?;

    println!("listening on https://{address}  {}", options.describe());
    stdout().flush()?;
    front.run_until(stop)??;

    println!("draining {} connections", service.connections.count());
    accepting.request_cancel();
    service.connections.close_idle();
    let report = crew.shutdown(&front, Duration::from_secs_f64(options.drain))?;
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
        let latency = self.sign_latency;
        format!("({key}, {mode}, {latency} ms added, {} serving)", self.threads.max(1))
    }

    fn signers(&self) -> usize {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let default = if self.sign_latency > 0.0 { 32 } else { processors };
        self.signers.unwrap_or(default)
    }
}

/// Who runs the connections.
enum Crew {
    /// The scheduler of the main thread.
    Here(Handle),
    Threads(Workers),
}

impl Crew {
    fn new(options: &Options, front: &Scheduler) -> Result<Self, Box<dyn Error>> {
        if options.threads <= 1 {
            return Ok(Crew::Here(front.handle()));
        }
        let workers = Workers::builder()
            .threads(options.threads)
            .max_jobs(options.max_jobs)
            .build()?;
        workers.broadcast(|_| prepare_thread())?;
        Ok(Crew::Threads(workers))
    }

    fn handle(&self) -> Handle {
        match self {
            Crew::Here(handle) => handle.clone(),
            Crew::Threads(workers) => workers.handle(),
        }
    }

    fn shutdown(self, front: &Scheduler, within: Duration) -> Result<ShutdownReport, Box<dyn Error>> {
        match self {
            Crew::Here(_) => Ok(front.shutdown(within)?),
            Crew::Threads(workers) => {
                front.shutdown(within)?; // the accept job has been cancelled: this takes no time
                Ok(workers.shutdown(within))
            }
        }
    }
}

/// A debug build of rustls needs more stack than a release build, which is content with a third of the default.
fn prepare_thread() {
    if cfg!(debug_assertions) {
        let config = PoolConfig::new().stack_size(StackSize::at_least(512 * 1024));
        init_thread(config).expect("nothing is made in advance, and this is no job");
    }
}

/// Ctrl-C and SIGTERM, as something that a job can wait for. The second one ends the process at once.
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

    fn wait(mut self) -> std::io::Result<()> {
        self.0.read_exact(&mut [0])
    }
}

/// As many fds as the administrator allows: a connection is one, and nothing else grows with them.
fn raise_fd_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // Without it the server works too, with fewer connections.
    let _ = setrlimit(Resource::Nofile, raised);
}
