//! HTTPS with the private key in an ssh-agent: a signer with an fd to wait on, and no thread for it.
//!
//! ```text
//! cargo run -p asyncjob-rustls --example tls_agent                                        serves until Ctrl-C
//! cargo run -p asyncjob-rustls --example tls_agent -- --driver scheduler --clients 100    runs 100 clients, and ends
//!
//!   --driver tokio|scheduler     hyper on tokio, or blocking-style code on asyncjob's scheduler; default: tokio
//!   --key ecdsa|ed25519          default: ecdsa
//!   --port 8443                  default: 0, any port that is free
//! ```
//!
//! The signer is the same under both drivers: it writes to the agent's socket and reads from it, as if it could block.
//! The example needs OpenSSH's client (`apt-get install openssh-client`). It starts an agent with a new key, and ends
//! the agent when it ends itself.

#[path = "support/certificate.rs"]
mod certificate;
#[path = "support/client.rs"]
mod client;
#[path = "support/https.rs"]
#[allow(dead_code, reason = "tls_hsm uses the rest")]
mod https;
#[path = "support/ssh_agent.rs"]
mod ssh_agent;

use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Instant;
use std::{fs, thread};

use asyncjob::io::Pausing;
use asyncjob::scheduler::{self, Scheduler};
use https::Mode;
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use ssh_agent::{Agent, AgentKey};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str, default: &str| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1))
            .map_or(default, String::as_str)
            .to_owned()
    };
    let (driver, kind) = (option("--driver", "tokio"), option("--key", "ecdsa"));
    let (port, clients): (u16, usize) = (option("--port", "0").parse()?, option("--clients", "0").parse()?);

    let agent = Agent::start(&kind)?;
    let key = Arc::new(AgentKey::first(&agent.socket())?);
    let public = key.public_key_bytes().to_vec();
    let certified = certificate::self_signed(key, &public)?;
    let title = format!("the key {kind} in an ssh-agent, on {driver}");
    // Ends the agent with the clients: the server itself never ends.
    let ready = move |address: SocketAddr| {
        println!("https://localhost:{} ({title})", address.port());
        if clients > 0 {
            thread::spawn(move || {
                let code = run_clients(address, clients);
                drop(agent);
                std::process::exit(code);
            });
        } else {
            std::mem::forget(agent); // Ctrl-C ends the agent, too: it is in the process group of this program
        }
    };
    match driver.as_str() {
        "tokio" => https::serve(Mode::Job, certified, port, ready)?,
        "scheduler" => serve_on_scheduler(certified, port, ready)?,
        other => return Err(format!("no driver is called {other}: tokio or scheduler").into()),
    }
    Ok(())
}

/// A server like one with a thread for each connection: it accepts, and spawns a job that reads and writes as if it
/// could block.
fn serve_on_scheduler(key: CertifiedKey, port: u16, ready: impl FnOnce(SocketAddr) + 'static) -> io::Result<()> {
    let config = https::server_config(key);
    let scheduler = Scheduler::new()?;
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let accepting = scheduler.spawn(move || {
        ready(listener.local_addr()?);
        let listener = Pausing::new(listener)?;
        loop {
            let (stream, _) = listener.accept()?;
            let config = Arc::clone(&config);
            // The result of a connection is not looked at: a client may leave at any time.
            scheduler::spawn(move || serve_one(stream, config))?.detach();
        }
    })?;
    scheduler.run_until(accepting)?
}

fn serve_one(stream: Pausing<TcpStream>, config: Arc<ServerConfig>) -> io::Result<()> {
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    let mut line = String::new();
    while stream.read_line(&mut line)? > 2 {
        line.clear(); // the request, up to its empty line
    }
    let (length, body) = (https::BODY.len(), https::BODY);
    let mut stream = stream.into_inner();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )?;
    stream.conn.send_close_notify();
    stream.flush()
}

/// Runs so many clients of the server at once, and returns the exit code.
fn run_clients(server: SocketAddr, count: usize) -> i32 {
    let start = Instant::now();
    let failed = client::requests_at_once(server, count);
    let rate = count as f64 / start.elapsed().as_secs_f64();
    let threads = fs::read_dir("/proc/self/task").map_or(0, |tasks| tasks.count());
    println!(
        "{count} handshakes at once, {failed} failed, {rate:.0} a second, {threads} threads with the clients' one"
    );
    i32::from(failed > 0)
}
