//! An engine of one's own: a device that takes requests and completes them later, behind a function that looks synchronous.
//!
//! ```text
//!   application                   engine                                 device (a thread here)
//!
//!   square(7) ------------------> queue.send((7, completion)) ---------> takes its time
//!                                 the driver has set a callback?
//!                                   yes: status Ok                       completion.result = 49
//!                                   no:  wait fd, status Unsupported     callback, or a byte into the pipe
//!                                 pause_job() until there is a result
//!   49 <------------------------- clear the wait fd
//! ```
//!
//! It uses only the two places where inside and outside meet, `job` and `wait_ctx`, as an engine for OpenSSL does, and so
//! works under every driver. (If you do not need to be so close to a device: `asyncjob::offload` is this, ready to use.)

use std::error::Error;
use std::io::{PipeWriter, Write, pipe};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::thread;

use asyncjob::scheduler::Scheduler;
use asyncjob::{Cancelled, Pause, Status, Step, WaitCtx, WaitKey, current_job, pause_job, start_job};

/// The engine.
struct Squarer {
    queue: SyncSender<Request>,
    /// Its wait fds stand under this key, in whatever ctx.
    key: WaitKey,
}

/// What the device gets. It owns everything that the device touches: a job may be gone when it completes.
struct Request {
    number: u64,
    done: Arc<Mutex<Option<u64>>>,
    completion: Completion,
}

/// How a driver wants to hear of it.
enum Completion {
    Callback(Waker),
    Fd(PipeWriter),
    /// Outside a job: nobody waits but the thread.
    Unpark(thread::Thread),
}

impl Squarer {
    fn new() -> Self {
        let (queue, requests) = sync_channel(16);
        thread::spawn(move || device(&requests));
        Squarer {
            queue,
            key: WaitKey::unique(),
        }
    }

    /// Looks synchronous. Inside a job it pauses.
    fn square(&self, number: u64) -> Result<u64, Cancelled> {
        let job = current_job();
        let ctx = job.as_ref().map(|job| job.wait_ctx());
        let completion = match ctx {
            Some(ctx) => self.ask_driver(ctx),
            None => Completion::Unpark(thread::current()),
        };
        let done = Arc::default();
        let mut request = Request {
            number,
            done: Arc::clone(&done),
            completion,
        };
        // A full queue is no failure: status Eagain says that no callback will come, so resume me later.
        while let Err(refused) = self.queue.try_send(request) {
            request = match refused {
                std::sync::mpsc::TrySendError::Full(request) => request,
                std::sync::mpsc::TrySendError::Disconnected(_) => panic!("the device's thread has panicked"),
            };
            let before = ctx.map(|ctx| (ctx, ctx.status()));
            ctx.inspect(|ctx| ctx.set_status(Status::Eagain));
            let paused = pause_job();
            before.inspect(|(ctx, status)| ctx.set_status(*status));
            if paused? != Pause::Resumed {
                thread::yield_now();
            }
        }
        let result = wait(&done);
        if let Some(ctx) = ctx {
            ctx.clear_fd(self.key); // gives the pipe's end back, and here drops it
            ctx.set_status(Status::Unsupported);
        }
        result
    }

    fn ask_driver(&self, ctx: &WaitCtx) -> Completion {
        if let Some(callback) = ctx.callback() {
            ctx.set_status(Status::Ok);
            return Completion::Callback(callback);
        }
        let (reader, writer) = pipe().expect("two fds");
        ctx.set_wait_fd(self.key, reader); // the ctx owns it now
        ctx.set_status(Status::Unsupported);
        Completion::Fd(writer)
    }
}

/// Pauses until there is a result. A resume may come without a reason, so this is a loop.
fn wait(done: &Mutex<Option<u64>>) -> Result<u64, Cancelled> {
    loop {
        if let Some(result) = *done.lock().unwrap() {
            return Ok(result);
        }
        if pause_job()? != Pause::Resumed {
            thread::park(); // outside a job
        }
    }
}

/// The device.
fn device(requests: &Receiver<Request>) {
    for request in requests {
        *request.done.lock().unwrap() = Some(request.number * request.number);
        match request.completion {
            Completion::Callback(callback) => callback.wake(),
            Completion::Fd(mut pipe) => drop(pipe.write_all(&[1])), // the job may be gone: then nobody reads
            Completion::Unpark(thread) => thread.unpark(),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let engine = Arc::new(Squarer::new());

    println!("outside a job: {}", engine.square(2)?);

    // A driver that only knows fds, as a C program with select() would be.
    let ctx = WaitCtx::new();
    let in_job = Arc::clone(&engine);
    let mut step = start_job(&ctx, move || in_job.square(3))?;
    let nine = loop {
        match step {
            Step::Finished(result) => break result?,
            Step::Paused(job) => {
                thread::yield_now(); // a real driver polls ctx.fds()
                step = job.resume();
            }
        }
    };
    println!("by wait fd: {nine}, with {} wait fds left", ctx.fds().len());

    // Our scheduler sets a callback in each ctx.
    let scheduler = Scheduler::new()?;
    let jobs: Vec<_> = (1..=100u64)
        .map(|number| {
            let engine = Arc::clone(&engine);
            scheduler.spawn(move || engine.square(number))
        })
        .collect::<Result<_, _>>()
        .map_err(|e| e.to_string())?;
    scheduler.run()?;
    let mut sum = 0;
    for job in jobs {
        sum += job.join()??;
    }
    println!("by callback, 100 jobs on one thread: {sum}");
    Ok(())
}
