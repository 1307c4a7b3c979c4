//! The same job, with one wait fd, under five loops: asyncjob's own, mio, polling, smol, tokio.
//!
//! ```text
//! cargo run -p asyncjob-tokio --example everywhere
//! ```
//!
//! The job (`work`) does not know which loop runs it, and no loop knows what the job does. The wait ctx is between
//! them: the job adds the fd that it waits for, and the loop polls that fd and resumes the job. A program needs `work`
//! and one of the loops.

#![allow(
    unsafe_code,
    reason = "a wait ctx gives fds as numbers, which are open while they are in the ctx"
)]

use std::error::Error;
use std::io::{PipeReader, Read, Write, pipe};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;

use asyncjob::scheduler::Scheduler;
use asyncjob::{Step, WaitCtx, WaitKey, current_job, pause_job, start_job};
use mio::unix::SourceFd;

type Outcome = Result<String, Box<dyn Error + Send + Sync>>;

/// The name of a loop, and the function that runs `work` under it.
type Loop = (&'static str, fn(PipeReader) -> Outcome);

/// Waits for an answer and reads it, like a program that has a thread of its own.
fn work(mut answer: PipeReader) -> std::io::Result<String> {
    let job = current_job().expect("runs in a job");
    let key = WaitKey::unique();
    job.wait_ctx().add_wait_fd(key, answer.try_clone()?);
    pause_job()?; // the loop does other things until the fd is readable
    let mut text = String::new();
    answer.read_to_string(&mut text)?;
    job.wait_ctx().clear_fd(key);
    Ok(text)
}

fn on_our_scheduler(answer: PipeReader) -> Outcome {
    let scheduler = Scheduler::new()?;
    let job = scheduler.spawn(move || work(answer))?;
    Ok(scheduler.run_until(job)??)
}

fn on_mio(answer: PipeReader) -> Outcome {
    let (mut poll, mut events) = (mio::Poll::new()?, mio::Events::with_capacity(8));
    let ctx = WaitCtx::new();
    let mut step = start_job(&ctx, move || work(answer))?;
    loop {
        match step {
            Step::Finished(text) => return Ok(text?),
            Step::Paused(job) => {
                let changes = ctx.changes();
                for gone in changes.removed {
                    let _ = poll.registry().deregister(&mut SourceFd(&gone.fd)); // it may be closed already
                }
                for new in changes.added {
                    poll.registry()
                        .register(&mut SourceFd(&new.fd), mio::Token(0), mio::Interest::READABLE)?;
                }
                // mio reports an fd once for each change. For a job that does not drain its fd, the loop would have to
                // call poll(2) first.
                poll.poll(&mut events, None)?;
                step = job.resume();
            }
        }
    }
}

fn on_polling(answer: PipeReader) -> Outcome {
    let (poller, mut events) = (polling::Poller::new()?, polling::Events::new());
    let ctx = WaitCtx::new();
    let mut step = start_job(&ctx, move || work(answer))?;
    loop {
        match step {
            Step::Finished(text) => return Ok(text?),
            Step::Paused(job) => {
                for fd in ctx.fds() {
                    // SAFETY: the fd is open as long as it is in the ctx, and it leaves the poller before the job runs.
                    unsafe { poller.add(fd.fd, polling::Event::readable(0)) }?;
                }
                events.clear();
                poller.wait(&mut events, None)?;
                for fd in ctx.fds() {
                    poller.delete(borrow(&fd))?;
                }
                step = job.resume();
            }
        }
    }
}

fn on_smol(answer: PipeReader) -> Outcome {
    smol::block_on(async {
        let ctx = WaitCtx::new();
        let mut step = start_job(&ctx, move || work(answer))?;
        loop {
            match step {
                Step::Finished(text) => return Ok(text?),
                Step::Paused(job) => {
                    for fd in ctx.fds() {
                        smol::Async::new(borrow(&fd).try_clone_to_owned()?)?.readable().await?;
                    }
                    step = job.resume();
                }
            }
        }
    })
}

fn on_tokio(answer: PipeReader) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { Ok(asyncjob_tokio::job(move || work(answer)).await??) })
}

fn borrow(fd: &asyncjob::WaitFd) -> BorrowedFd<'_> {
    // SAFETY: the ctx owns the fd and keeps it open, and the job, which could clear it, is paused.
    unsafe { BorrowedFd::borrow_raw(fd.fd.as_raw_fd()) }
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let loops: [Loop; 5] = [
        ("our scheduler", on_our_scheduler),
        ("mio", on_mio),
        ("polling", on_polling),
        ("smol", on_smol),
        ("tokio", on_tokio),
    ];
    for (name, run) in loops {
        let (answer, mut question) = pipe()?;
        let other_side = thread::spawn(move || question.write_all(b"hello"));
        let text = run(answer)?;
        other_side.join().expect("no panic")?;
        println!("{name}: {text}");
        assert_eq!(text, "hello");
    }
    Ok(())
}
