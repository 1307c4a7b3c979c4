//! An echo server: a thread's worth of straight code for each connection, all of it on one thread.
//!
//! ```text
//!   cargo run --example echo -- 127.0.0.1:7007      and then: nc 127.0.0.1 7007
//!   cargo run --example echo -- --demo              with clients of its own
//! ```

use std::env;
use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use asyncjob::io::Pausing;
use asyncjob::scheduler::{self, Scheduler};

fn main() -> Result<(), Box<dyn Error>> {
    let argument = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7007".to_owned());
    let scheduler = Scheduler::new()?;
    if argument == "--demo" {
        return demo(&scheduler);
    }
    let listener = Pausing::<TcpListener>::bind(argument)?;
    println!("echoing on {}", listener.get_ref().local_addr()?);
    let accepting = scheduler.spawn(move || accept(&listener, usize::MAX))?;
    scheduler.run_until(accepting)??;
    Ok(())
}

/// A job: takes `count` connections, and starts a job for each.
fn accept(listener: &Pausing<TcpListener>, count: usize) -> io::Result<()> {
    for _ in 0..count {
        let (stream, from) = listener.accept()?;
        let echo = scheduler::spawn(move || match echo(stream) {
            Ok(bytes) => println!("{bytes} bytes to {}", from.ip()),
            Err(e) => println!("{} was lost: {e}", from.ip()),
        });
        echo?.detach(); // goes on by itself
    }
    Ok(())
}

/// A job: reads and writes as if it had a thread.
fn echo(mut stream: Pausing<TcpStream>) -> io::Result<u64> {
    stream.set_read_timeout(Some(Duration::from_secs(60)));
    stream.set_write_timeout(Some(Duration::from_secs(60)));
    let mut buffer = [0; 4096];
    let mut bytes = 0;
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(bytes);
        }
        stream.write_all(&buffer[..length])?;
        bytes += length as u64;
    }
}

/// The server and three clients, as jobs of the same thread.
fn demo(scheduler: &Scheduler) -> Result<(), Box<dyn Error>> {
    let listener = Pausing::<TcpListener>::bind("127.0.0.1:0")?;
    let address = listener.get_ref().local_addr()?;
    let accepting = scheduler.spawn(move || accept(&listener, 3))?;
    let clients: Vec<_> = ["one", "two", "three"]
        .into_iter()
        .map(|word| {
            scheduler.spawn(move || -> io::Result<String> {
                let mut stream = Pausing::<TcpStream>::connect(address)?;
                stream.write_all(word.as_bytes())?;
                stream.get_ref().shutdown(Shutdown::Write)?;
                let mut echo = String::new();
                stream.read_to_string(&mut echo)?;
                Ok(echo)
            })
        })
        .collect::<Result<_, _>>()?;
    scheduler.run()?;
    accepting.join()??;
    for client in clients {
        println!("heard {}", client.join()??);
    }
    Ok(())
}
