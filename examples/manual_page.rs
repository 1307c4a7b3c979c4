//! The program of OpenSSL's manual page `ASYNC_start_job(3)`, in Rust: the same steps, the same output.
//!
//! ```text
//!   main                                       the job
//!
//!   start_job  ---------------------------->   makes a pipe, puts it into the wait ctx, writes to it
//!   Step::Paused  <-------------------------   pause_job
//!   polls the ctx's one fd
//!   resume  ------------------------------->   reads from the pipe, returns 1
//!   Step::Finished(1)  <--------------------
//! ```
//!
//! Run it with `cargo run --example manual_page`. What OpenSSL leaves to a cleanup routine, closing both ends of the
//! pipe, is here the drop of the value in the ctx.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, RawFd};

use asyncjob::{Step, WaitCtx, WaitKey, current_job, pause_job, start_job};

/// What the job waits on: readable once something was written.
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

    // Something outside would do this, later: to show the way it is done here and now, before the pause.
    let write = ctx.with_value(key, |signal: &mut Signal| signal.writer.write_all(b"X"));
    write.expect("it was just set")?;

    // Back to main, until it resumes this job.
    pause_job().map_err(io::Error::from)?;

    // Clear the signal: that is the job's task, never its driver's.
    let read = ctx.with_value(key, |signal: &mut Signal| signal.reader.read_exact(&mut [0]));
    read.expect("nobody cleared it")?;

    println!("Resumed the job after a pause");
    Ok(1)
}

fn main() -> io::Result<()> {
    println!("Starting...");
    let ctx = WaitCtx::new();
    let message = String::from("Hello world!");
    let mut step = match start_job(&ctx, move || job(&message)) {
        Ok(step) => step,
        Err(error) => return Err(io::Error::other(error.to_string())),
    };
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
