//! HTTPS with hyper, and the private key inside SoftHSM.
//!
//! ```text
//! cargo run -p asyncjob-rustls --features pkcs11 --example tls_hsm                     serves until Ctrl-C
//! cargo run -p asyncjob-rustls --features pkcs11 --example tls_hsm -- --clients 100    runs 100 clients, and ends
//!
//!   --mode inline|spawn_blocking|block_in_place|job     how to wait for a signature; default: job
//!   --key p256|rsa                                      which of the token's keys; default: p256
//!   --port 8443                                         default: 0, any port that is free
//! ```
//!
//! The example needs SoftHSM (`apt-get install softhsm2`). It makes a token in a temporary directory, and removes it at
//! the end. In `job` mode the event loop has one thread, and the token has four.

#[path = "support/certificate.rs"]
mod certificate;
#[path = "support/client.rs"]
mod client;
#[path = "support/https.rs"]
mod https;
#[path = "support/softhsm.rs"]
mod softhsm;

use std::error::Error;
use std::net::SocketAddr;
use std::process::exit;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use asyncjob::offload::Offload;
use asyncjob_rustls::OffloadedKey;
use asyncjob_rustls::pkcs11::TokenKey;
use https::{InPlaceKey, Mode};
use rustls::sign::SigningKey;
use softhsm::SoftHsm;

/// At most this many signatures at a time in `job` mode: threads, and sessions with the token.
const TOKEN_THREADS: usize = 4;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(status) = softhsm::with_config(arguments.clone())? {
        exit(status.code().unwrap_or(1));
    }
    let option = |name: &str, default: &str| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1))
            .map_or(default, String::as_str)
            .to_owned()
    };
    let mode: Mode = option("--mode", "job").parse()?;
    let label = option("--key", "p256");
    let clients: usize = option("--clients", "0").parse()?;
    let port = option("--port", "0").parse()?;

    let token_key = SoftHsm::create()?.key(&label)?;
    let key: Arc<dyn SigningKey> = match mode {
        Mode::Inline | Mode::SpawnBlocking => Arc::new(token_key.clone()),
        Mode::BlockInPlace => Arc::new(InPlaceKey(Arc::new(token_key.clone()) as Arc<dyn SigningKey>)),
        Mode::Job => {
            let pool = Offload::builder().threads(TOKEN_THREADS).name("token").build()?;
            Arc::new(OffloadedKey::new(Arc::new(token_key.clone()), pool))
        }
    };
    let mut certified = certificate::self_signed(Arc::new(token_key.clone()), token_key.public_key_bytes())?;
    certified.key = key;
    https::serve(mode, certified, port, move |address| {
        println!(
            "https://localhost:{} (the key {label} in SoftHSM, mode {})",
            address.port(),
            mode.name()
        );
        if clients > 0 {
            thread::spawn(move || exit(run_clients(address, clients, &token_key)));
        }
    })?;
    Ok(())
}

/// Runs so many clients of the server at once, and returns the exit code.
fn run_clients(server: SocketAddr, count: usize, key: &TokenKey) -> i32 {
    let start = Instant::now();
    let failed = client::requests_at_once(server, count);
    let rate = count as f64 / start.elapsed().as_secs_f64();
    println!(
        "{count} handshakes at once, {failed} failed, {rate:.0} a second, {} sessions",
        key.session_stats().opened
    );
    i32::from(failed > 0)
}
