//! An engine of one's own: a device that takes requests and completes them later, behind a function that looks
//! synchronous.
//!
//! ```text
//!   application                   engine                                 device (a thread here)
//!
//!   square(7) ------------------> wake = WakeSource::new()
//!                                 queue.send((7, wake.waker())) -------> takes its time
//!                                 pause_until(there is a result)         result = 49
//!                                                                        waker.wake()
//!   49 <------------------------- the result
//! ```
//!
//! The engine does not know what drives its caller. In a job it pauses the job, whether the driver takes a callback or
//! polls wait fds. Outside a job it blocks the thread. (If your device is just something that blocks,
//! `asyncjob::offload` is this, ready to use.)

use std::error::Error;
use std::io;
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

/// What the device gets. The request owns everything that the device touches: the job may be gone when it completes.
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

    /// Looks synchronous. Inside a job it pauses.
    fn square(&self, number: u64) -> io::Result<u64> {
        let wake = WakeSource::new()?;
        let result = Arc::default();
        let mut request = Some(Request {
            number,
            result: Arc::clone(&result),
            waker: wake.waker().clone(),
        });
        // A full queue is no failure, and nothing tells when it has room: try again.
        pause_until(WaitSpec::retry(), || self.submit(&mut request))?;
        let square = pause_until(WaitSpec::woken_by(&wake), || *result.lock().unwrap())?;
        Ok(square)
    }

    /// Queues the request. `None`: the queue is full.
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

/// The device.
fn device(requests: &Receiver<Request>) {
    for request in requests {
        *request.result.lock().unwrap() = Some(request.number * request.number);
        request.waker.wake();
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
        .collect::<Result<_, _>>()?;
    scheduler.run()?;
    let mut sum = 0;
    for job in jobs {
        sum += job.join()??;
    }
    println!("by callback, 100 jobs on one thread: {sum}");
    Ok(())
}
