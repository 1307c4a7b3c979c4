//! HTTPS with hyper, and the private key in a key service: an async client signs, and the handshake awaits it.
//!
//! ```text
//! cargo run -p asyncjob-rustls --example tls_kms                     serves until Ctrl-C
//! cargo run -p asyncjob-rustls --example tls_kms -- --clients 100    runs 100 clients, and ends
//!
//!   --key ecdsa|rsa     a P-256 key, or an RSA key of 2,048 bits under TLS 1.2; default: ecdsa
//!   --url URL           the service, which has the key `alias/tls`; default: the example starts one. Requests are
//!                       signed with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, for AWS_REGION
//!   --port 8443         default: 0, any port that is free
//! ```
//!
//! The service is the server of the Python package `moto`, which speaks the protocol of AWS KMS. `.ci/moto` installs it
//! in `target/moto`: `PATH=$PATH:$PWD/target/moto/bin`. Requests to the service have a limit, a time-out and a circuit
//! that opens: `support/kms.rs`.

#[path = "support/certificate.rs"]
mod certificate;
#[path = "support/client.rs"]
mod client;
#[path = "support/https.rs"]
#[allow(dead_code, reason = "tls_hsm uses the rest")]
mod https;
#[path = "support/kms.rs"]
#[allow(dead_code, reason = "the test uses the rest")]
mod kms;
#[path = "support/moto.rs"]
#[allow(dead_code, reason = "the test uses the rest")]
mod moto;

use std::error::Error;
use std::net::SocketAddr;
use std::process::exit;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use https::Mode;
use kms::{Account, Kms, Limits};
use moto::Moto;
use rustls::crypto::ring;
use rustls::sign::CertifiedKey;
use tokio::runtime::Builder;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str, default: &str| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1))
            .map_or(default, String::as_str)
            .to_owned()
    };
    let spec = match option("--key", "ecdsa").as_str() {
        "ecdsa" => "ECC_NIST_P256",
        "rsa" => "RSA_2048",
        other => return Err(format!("no key is called {other}: ecdsa or rsa").into()),
    };
    let (port, clients): (u16, usize) = (option("--port", "0").parse()?, option("--clients", "0").parse()?);
    // The HTTP client of the service takes the provider of the process.
    ring::default_provider()
        .install_default()
        .map_err(|_| "the process has a provider already")?;

    let (moto, url, account) = match option("--url", "") {
        url if url.is_empty() => {
            let moto = Moto::start(spec)?;
            let (url, account) = (moto.endpoint(), moto.account());
            (Some(moto), url, account)
        }
        url => (None, url, Account::from_environment()?),
    };
    let certified = certified(&url, account)?;
    https::serve(Mode::Job, certified, port, move |address| {
        println!("https://localhost:{} (the key {spec} in {url})", address.port());
        // Ends the service with the clients: the server itself never ends.
        if clients > 0 {
            thread::spawn(move || {
                let code = run_clients(address, clients);
                drop(moto);
                exit(code);
            });
        } else {
            std::mem::forget(moto); // Ctrl-C ends the service, too: it is in the process group of this program
        }
    })?;
    Ok(())
}

/// The key in the service, with a certificate that it has signed itself.
fn certified(url: &str, account: Account) -> Result<CertifiedKey, Box<dyn Error>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (key, public) = Kms::new(url, account, Limits::default())?.key(moto::KEY).await?;
        // `self_signed` is synchronous code that signs: in a job, it awaits.
        let certified = asyncjob_tokio::job(move || certificate::self_signed(Arc::new(key), &public)).await??;
        Ok(certified)
    })
}

/// Runs so many clients of the server at once, and returns the exit code.
fn run_clients(server: SocketAddr, count: usize) -> i32 {
    let start = Instant::now();
    let failed = client::requests_at_once(server, count);
    let rate = count as f64 / start.elapsed().as_secs_f64();
    println!("{count} handshakes at once, {failed} failed, {rate:.0} a second");
    i32::from(failed > 0)
}
