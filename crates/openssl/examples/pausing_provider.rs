//! An HTTPS server on one thread whose key is in a provider that takes 100 ms for a signature.
//!
//! ```text
//! cargo run --release -p asyncjob-openssl --example pausing_provider
//! ```
//!
//! It needs `libssl-dev` and a C compiler, with which it builds the provider of the tests. It prints a command that
//! makes twenty connections at once. An argument ends it after so many connections.

#![allow(unsafe_code, reason = "loads the provider of the tests, which is C code")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::env;
use std::time::Instant;

use asyncjob_openssl::TlsAcceptor;
use openssl::ssl::{SslAcceptor, SslMethod};
use support::{Pausing, Signer, Wake};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, LocalSet};

type AnyError = Box<dyn std::error::Error>;

fn main() -> Result<(), AnyError> {
    asyncjob_openssl::check()?;
    let connections = env::args().nth(1).map(|number| number.parse()).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(connections.unwrap_or(usize::MAX)))
}

async fn serve(connections: usize) -> Result<(), AnyError> {
    let provider = Pausing::new(Signer::ProviderRsa);
    provider.set(Wake::ByFd, false);
    provider.delay(100);
    let (key, certificate) = provider.identity();
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    builder.set_private_key(&key)?;
    builder.set_certificate(&certificate)?;
    let acceptor = TlsAcceptor::from(builder.build());

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    println!("serves on port {port}. Try this:");
    println!("  for i in $(seq 20); do curl -sk https://localhost:{port}/ & done; wait");
    let mut tasks = JoinSet::new();
    let mut first = None;
    for _ in 0..connections {
        let (stream, _) = listener.accept().await?;
        let begin = *first.get_or_insert_with(Instant::now);
        let acceptor = acceptor.clone();
        tasks.spawn_local(async move {
            if let Err(error) = answer(&acceptor, stream, begin).await {
                eprintln!("a connection: {error:?}");
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    let counts = provider.counts();
    println!(
        "{} signatures paused their job, {} blocked the thread",
        counts.paused, counts.blocked
    );
    Ok(())
}

async fn answer(acceptor: &TlsAcceptor, stream: TcpStream, begin: Instant) -> Result<(), AnyError> {
    let mut stream = acceptor.accept(stream).await?;
    let mut request = [0; 4096];
    let _ = stream.read(&mut request).await?;
    let body = format!("{} ms after the first connection\n", begin.elapsed().as_millis());
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await?;
    stream.shutdown().await?;
    Ok(())
}
