//! The numbers of jobs, for Prometheus to scrape.
//!
//! ```text
//! cargo run -p asyncjob-tokio --features metrics --example prometheus
//! ```
//!
//! Jobs of two kinds run again and again. The program prints the address of its metrics: a scrape target for
//! Prometheus, or for `curl`. An optional argument is the address to listen on.

use std::io;
use std::time::Duration;

use asyncjob::JobBuilder;
use asyncjob::insight::Recorder;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    // Any exporter will do that implements the facade `metrics`. This one has no server: ours is below.
    let exporter = PrometheusBuilder::new().install_recorder()?;
    let recorder = Recorder::builder().build();
    let listener = TcpListener::bind(address).await?;
    println!("http://{}/metrics", listener.local_addr()?);
    let jobs = work(recorder.clone(), u64::MAX);
    LocalSet::new()
        .run_until(async {
            spawn_local(jobs);
            serve(listener, &recorder, &exporter).await
        })
        .await?;
    Ok(())
}

/// Runs so many jobs of each kind, one after the other.
pub(crate) async fn work(recorder: Recorder, jobs: u64) {
    for _ in 0..jobs {
        let signs = || asyncjob::time::sleep(Duration::from_millis(5)).expect("nobody cancels it");
        let computes = || std::hint::black_box((0..100_000u64).sum::<u64>());
        let signature = JobBuilder::new().hooks(recorder.job("signature"));
        let digest = JobBuilder::new().hooks(recorder.job("digest"));
        let signature = asyncjob_tokio::watched(signature.future(signs)).await;
        let digest = asyncjob_tokio::watched(digest.future(computes)).await;
        signature.expect("there is memory for a stack");
        digest.expect("there is memory for a stack");
    }
}

/// Answers every request with the numbers as they are now.
pub(crate) async fn serve(listener: TcpListener, recorder: &Recorder, exporter: &PrometheusHandle) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        recorder.numbers().export();
        exporter.run_upkeep();
        spawn_local(answer(stream, exporter.render()));
    }
}

async fn answer(mut stream: TcpStream, page: String) -> io::Result<()> {
    let _request = stream.read(&mut [0; 4096]).await?; // there is one page only
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        page.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(page.as_bytes()).await?;
    stream.shutdown().await
}
