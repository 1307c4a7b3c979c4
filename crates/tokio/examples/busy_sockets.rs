//! How late a sleep of 5 ms ends beside two sockets that always have something to read: in plain tokio, in jobs on
//! tokio, and in jobs of a scheduler.
//!
//! ```text
//! cargo run --release -p asyncjob-tokio --example busy_sockets [ROUNDS]
//! ```
//!
//! Two threads write into a connection each, as fast as it takes them. One thread reads both and sleeps. The rounds of
//! the three kinds take turns, so that a busy machine disturbs all of them alike.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use asyncjob::io::Pausing;
use asyncjob::scheduler::{Scheduler, spawn};
use tokio::io::AsyncReadExt;
use tokio::runtime::Builder;
use tokio::task::{LocalSet, spawn_local};

const NAP: Duration = Duration::from_millis(5);
const NAPS: u32 = 20;
const BUFFER: usize = 1 << 16;

/// A connection whose other end is written to until this end is closed.
fn busy() -> io::Result<UnixStream> {
    let (ours, mut theirs) = UnixStream::pair()?;
    thread::spawn(move || while theirs.write_all(&[7; BUFFER]).is_ok() {});
    Ok(ours)
}

/// The median of the naps.
fn median(mut naps: Vec<Duration>) -> Duration {
    naps.sort();
    naps[naps.len() / 2]
}

fn plain_tokio() -> io::Result<Duration> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        for _ in 0..2 {
            let socket = busy()?;
            socket.set_nonblocking(true)?;
            let mut socket = tokio::net::UnixStream::from_std(socket)?;
            spawn_local(async move {
                let mut buffer = vec![0; BUFFER];
                while socket.read(&mut buffer).await.is_ok() {}
            });
        }
        let mut naps = Vec::new();
        for _ in 0..NAPS {
            let began = Instant::now();
            tokio::time::sleep(NAP).await;
            naps.push(began.elapsed());
        }
        Ok(median(naps))
    })
}

/// Reads until the job is cancelled.
fn read_all(mut socket: Pausing<UnixStream>) {
    let mut buffer = vec![0; BUFFER];
    while socket.read(&mut buffer).is_ok() {}
}

fn sleep_again_and_again() -> Duration {
    let nap = |_| {
        let began = Instant::now();
        asyncjob::time::sleep(NAP).expect("no deadline is set");
        began.elapsed()
    };
    median((0..NAPS).map(nap).collect())
}

fn jobs_on_tokio() -> io::Result<Duration> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut readers = Vec::new();
        for _ in 0..2 {
            let socket = Pausing::new(busy()?)?;
            readers.push(asyncjob_tokio::spawn_local(move || read_all(socket)));
        }
        let naps = asyncjob_tokio::spawn_local(sleep_again_and_again).await?;
        readers.iter().for_each(|reader| reader.abort());
        naps.map_err(io::Error::other)
    })
}

fn jobs_of_a_scheduler() -> io::Result<Duration> {
    let scheduler = Scheduler::new()?;
    let sockets = [Pausing::new(busy()?)?, Pausing::new(busy()?)?];
    let job = scheduler.spawn(move || {
        let readers = sockets.map(|socket| spawn(move || read_all(socket)));
        let naps = sleep_again_and_again();
        drop(readers); // cancels them
        naps
    })?;
    Ok(scheduler.run_until(job)?)
}

fn main() -> io::Result<()> {
    let rounds = std::env::args()
        .nth(1)
        .map_or(5, |rounds| rounds.parse().expect("ROUNDS is a number"));
    println!("a sleep of {NAP:?}, median of {NAPS}:");
    for _ in 0..rounds {
        let (plain, on_tokio, own) = (plain_tokio()?, jobs_on_tokio()?, jobs_of_a_scheduler()?);
        println!("  tokio {plain:>10.2?}   jobs on tokio {on_tokio:>10.2?}   scheduler {own:>10.2?}");
    }
    Ok(())
}
