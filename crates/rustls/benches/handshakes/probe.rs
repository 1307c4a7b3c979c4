//! The probe: one connection that stays open, and how long each of its requests takes.

use std::error::Error;
use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_rustls::client::TlsStream;

use crate::client::{connect, connector};
use crate::https::BODY;
use crate::machine;

/// Sends a request every 2 ms. Two lines of input mark the window; then it prints the p50 and p99 in microseconds.
pub(crate) fn run(server: SocketAddr) -> Result<(), Box<dyn Error>> {
    machine::stay_on_core(1)?;
    machine::raise_priority(-20);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let times = runtime.block_on(async {
        let mut stream = connect(server, &connector()).await?;
        request(&mut stream).await?;
        println!("connected");
        let (in_window, mut is_over) = marks();
        let mut times = Vec::new();
        loop {
            let start = Instant::now();
            let is_last = tokio::select! {
                answered = request(&mut stream) => answered.map(|()| false)?,
                _ = &mut is_over => true, // the request that is not answered has taken at least so long
            };
            if let Some(begin) = in_window.get() {
                times.push(start.max(*begin).elapsed());
            }
            if is_last {
                return Ok::<_, io::Error>(times);
            }
            sleep(Duration::from_millis(2)).await;
        }
    })?;
    let (p50, p99) = percentiles(times);
    println!("{} {}", p50.as_micros(), p99.as_micros());
    Ok(())
}

/// The time at which the window began, and a future of its end. The two lines of the input mark them.
fn marks() -> (Arc<OnceLock<Instant>>, oneshot::Receiver<()>) {
    let (begin, (end, is_over)) = (Arc::new(OnceLock::new()), oneshot::channel());
    let in_window = Arc::clone(&begin);
    thread::spawn(move || {
        let mut input = io::stdin().lock();
        let _ = input.read_line(&mut String::new());
        let _ = begin.set(Instant::now());
        let _ = input.read_line(&mut String::new());
        let _ = end.send(());
    });
    (in_window, is_over)
}

async fn request(stream: &mut TlsStream<TcpStream>) -> io::Result<()> {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
    let mut response = [0; 512];
    let mut length = 0;
    while !response[..length].ends_with(BODY.as_bytes()) {
        match stream.read(&mut response[length..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => length += more,
        }
    }
    Ok(())
}

fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    let at = |percent: usize| times.get((times.len() * percent / 100).min(times.len().saturating_sub(1)));
    (at(50).copied().unwrap_or_default(), at(99).copied().unwrap_or_default())
}
