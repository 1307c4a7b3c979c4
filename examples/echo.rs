//! An echo server. Each connection is a job with straight, blocking-style code, and all jobs share one thread.
//!
//! ```text
//!   cargo run --example echo -- 127.0.0.1:7007      and then: nc 127.0.0.1 7007
//!   cargo run --example echo -- --demo              the server and three clients in one process
//! ```

use std::env;
use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use asyncjob::JobBuilder;
use asyncjob::io::Pausing;
use asyncjob::scheduler::{self, Scheduler};

const USAGE: &str = "\
usage: echo [ADDRESS:PORT]    serves until it is killed; the default is 127.0.0.1:7007
       echo --demo            serves three clients of its own, then ends";

fn main() -> ExitCode {
    let argument = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7007".to_owned());
    let result = match argument.as_str() {
        "-h" | "--help" => {
            println!("{USAGE}");
            Ok(())
        }
        "--demo" => demo(),
        option if option.starts_with('-') => Err(format!("there is no option {option}\n{USAGE}").into()),
        address => serve(address),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(address: &str) -> Result<(), Box<dyn Error>> {
    let scheduler = Scheduler::new()?;
    let listener = Pausing::<TcpListener>::bind(address)?;
    println!("echoing on {}", listener.get_ref().local_addr()?);
    let accepting = scheduler.spawn(move || accept(&listener, usize::MAX))?;
    scheduler.run_until(accepting)??;
    Ok(())
}

/// A job that accepts `count` connections and spawns a job for each.
fn accept(listener: &Pausing<TcpListener>, count: usize) -> io::Result<()> {
    for _ in 0..count {
        let (stream, from) = listener.accept()?; // pauses this job until a client connects
        let connection = scheduler::spawn(move || match echo(stream) {
            Ok(bytes) => println!("{bytes} bytes to {}", from.ip()),
            Err(error) => println!("the connection to {} failed: {error}", from.ip()),
        })?;
        connection.detach(); // dropping the handle would cancel the job
    }
    Ok(())
}

/// Echoes one connection until the client closes it. Each read and each write pauses the job instead of the thread.
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

/// Runs the server and three clients as jobs of one thread.
fn demo() -> Result<(), Box<dyn Error>> {
    let scheduler = Scheduler::new()?;
    let listener = Pausing::<TcpListener>::bind("127.0.0.1:0")?;
    let address = listener.get_ref().local_addr()?;
    let accepting = JobBuilder::new()
        .name("accept")
        .spawn_on(&scheduler, move || accept(&listener, 3))?;
    let mut clients = Vec::new();
    for word in ["one", "two", "three"] {
        let client = move || -> io::Result<String> {
            let mut stream = Pausing::<TcpStream>::connect(address)?;
            stream.write_all(word.as_bytes())?;
            stream.get_ref().shutdown(Shutdown::Write)?;
            let mut echo = String::new();
            stream.read_to_string(&mut echo)?;
            Ok(echo)
        };
        clients.push(JobBuilder::new().name(word).spawn_on(&scheduler, client)?);
    }
    scheduler.run()?;
    accepting.join()??;
    for client in clients {
        println!("heard {}", client.join()??);
    }
    Ok(())
}
