//! An engine of your own: a device completes requests later, on a thread of its own, and the function in front of it
//! looks synchronous.
//!
//! ```text
//!   application               engine                              device (here: a thread)
//!
//!   square(7) --------------> wake = WakeSource::new()
//!                             queue.send((7, wake.waker())) ----> takes its time
//!                             pause_until(there is a result)      result = 49
//!                                                                 waker.wake()
//!   49 <--------------------- the result
//! ```
//!
//! The engine does not know what drives its caller. In a job it pauses the job, whether the driver takes a callback or
//! polls wait fds. Outside a job it blocks the thread. If your device is a call that blocks, use `asyncjob::offload`,
//! which is such an engine.

use std::error::Error;
use std::io;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::thread;

use asyncjob::scheduler::Scheduler;
use asyncjob::waiting::{WaitSpec, WakeSource, pause_until};
use asyncjob::{Step, WaitCtx, start_job};

/// The engine.
struct Squarer {
    queue: SyncSender<Request>,
}

/// What the device gets. The request owns everything that the device touches, because the job may have ended when the
/// device completes it.
struct Request {
    number: u64,
    result: Arc<Mutex<Option<u64>>>,
    waker: Waker,
}

impl Squarer {
    fn new() -> Self {
        let (queue, requests) = sync_channel(16);
        thread::spawn(move || device(&requests));
        Squarer { queue }
    }

    /// Squares a number on the device. Inside a job this pauses the job.
    fn square(&self, number: u64) -> io::Result<u64> {
        let wake = WakeSource::new()?;
        let result = Arc::default();
        let mut request = Some(Request {
            number,
            result: Arc::clone(&result),
            waker: wake.waker().clone(),
        });
        // A full queue is not an error. Nothing reports when it has capacity again, so the wait tries again and again.
        pause_until(WaitSpec::retry(), || self.submit(&mut request))?;
        let square = pause_until(WaitSpec::woken_by(&wake), || *result.lock().unwrap())?;
        Ok(square)
    }

    /// Queues the request, or returns `None` if the queue is full.
    fn submit(&self, request: &mut Option<Request>) -> Option<()> {
        match self.queue.try_send(request.take()?) {
            Ok(()) => Some(()),
            Err(TrySendError::Full(refused)) => {
                *request = Some(refused);
                None
            }
            Err(TrySendError::Disconnected(_)) => panic!("the device's thread has panicked"),
        }
    }
}

/// The device: a thread that completes one request after the other.
fn device(requests: &Receiver<Request>) {
    for request in requests {
        *request.result.lock().unwrap() = Some(request.number * request.number);
        request.waker.wake();
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("engine: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let engine = Arc::new(Squarer::new());

    println!("outside a job: {}", engine.square(2)?);

    // A driver that sets no callback, as a C program around select() would be.
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

    // The scheduler sets a callback in the wait ctx of each job.
    let scheduler = Scheduler::new()?;
    let mut jobs = Vec::new();
    for number in 1..=100u64 {
        let engine = Arc::clone(&engine);
        jobs.push(scheduler.spawn(move || engine.square(number))?);
    }
    scheduler.run()?;
    let mut sum = 0;
    for job in jobs {
        sum += job.join()??;
    }
    println!("by callback, 100 jobs on one thread: {sum}");
    Ok(())
}
