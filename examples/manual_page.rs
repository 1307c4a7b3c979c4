//! The example program of OpenSSL's manual page `ASYNC_start_job(3)`, in Rust. It takes the same steps and prints the
//! same output.
//!
//! ```text
//!   main                                       the job
//!
//!   start_job  ---------------------------->   makes a pipe, adds it to the wait ctx, writes to it
//!   Step::Paused  <-------------------------   pause_job
//!   polls the ctx's one fd
//!   resume  ------------------------------->   reads from the pipe, returns 1
//!   Step::Finished(1)  <--------------------
//! ```
//!
//! Run it with `cargo run --example manual_page`. In C, a cleanup routine closes both ends of the pipe. Here they are
//! closed when the wait ctx drops the value that owns them.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::process::ExitCode;

use asyncjob::{Step, WaitCtx, WaitKey, current_job, pause_job, start_job};

/// The pipe that the job waits for. It is readable after something was written to it.
struct Signal {
    reader: PipeReader,
    writer: PipeWriter,
}

impl AsFd for Signal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

fn job(message: &str) -> io::Result<i32> {
    let Some(current) = current_job() else {
        println!("Not executing within a job - should not happen");
        return Ok(0);
    };
    println!("Executing within a job");
    println!("Passed in message is: {message}");

    let (reader, writer) = io::pipe()?;
    let ctx = current.wait_ctx();
    let key = WaitKey::unique();
    ctx.add_wait_fd(key, Signal { reader, writer });

    // A real engine writes later, from outside the job. The example writes before the pause, as the manual page does.
    let write = ctx.with_value(key, |signal: &mut Signal| signal.writer.write_all(b"X"));
    write.expect("the pipe was just added")?;

    // Return to main, until it resumes this job.
    pause_job()?;

    // Read the byte. Draining the fd is the job's task, not its driver's.
    let read = ctx.with_value(key, |signal: &mut Signal| signal.reader.read_exact(&mut [0]));
    read.expect("the pipe is still there")?;

    println!("Resumed the job after a pause");
    Ok(1)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("manual_page: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    println!("Starting...");
    let ctx = WaitCtx::new();
    let message = String::from("Hello world!");
    let mut step = start_job(&ctx, move || job(&message))?;
    loop {
        match step {
            Step::Finished(result) => {
                println!("Job finished with return value {}", result?);
                break;
            }
            Step::Paused(paused) => {
                println!("Job was paused");
                println!("Waiting for the job to be woken up");
                let fds = ctx.fds();
                let [fd] = fds.as_slice() else {
                    return Err(io::Error::other("unexpected number of fds"));
                };
                wait_readable(fd.fd)?;
                step = paused.resume();
            }
        }
    }
    drop(ctx); // closes the pipe
    println!("Finishing");
    Ok(())
}

/// Blocks until `fd` is readable, without reading from it.
#[allow(unsafe_code, reason = "std has no poll")]
fn wait_readable(fd: RawFd) -> io::Result<()> {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid pollfd, and a count of one.
    let ready = unsafe { libc::poll(&mut poll, 1, -1) };
    if ready < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
