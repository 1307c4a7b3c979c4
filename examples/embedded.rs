//! Jobs in a program that has an event loop of its own. The host polls the scheduler's fd beside its own fds.
//!
//! ```text
//!   the host's epoll --- its timer, its sockets ...     the host handles these
//!        |
//!        +-------------- the scheduler's fd             readable: scheduler.turn(0)
//!        |
//!        +-------------- the host's timeout             at most scheduler.next_deadline()
//! ```
//!
//! The host takes a few turns, and then polls again. It polls without waiting if jobs are still ready. A loop until
//! none is ready would not end while one of them always is, and the host's own sockets would starve.
//!
//! Any loop that polls works: `mio`, `libevent`, `poll(2)`. An edge-triggered loop (`mio`) reports an edge once,
//! however much is ready behind it. Such a loop may wait when `Turn::ready` is 0 **and** the turn has resumed nothing.

use std::cell::Cell;
use std::error::Error;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use asyncjob::Interrupted;
use asyncjob::io::Pausing;
use asyncjob::scheduler::Scheduler;
use asyncjob::time::{sleep, with_timeout, yield_now};
use rustix::event::{Timespec, epoll};

/// The token of an event: it is about the host's socket, or about the scheduler's fd.
const HOST: u64 = 1;
const SCHEDULER: u64 = 2;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("embedded: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let scheduler = Scheduler::new()?;
    let (mut to_host, mut hosts_socket) = UnixStream::pair()?;
    let (mut to_job, jobs_socket) = UnixStream::pair()?;

    // Three jobs, which know nothing of the host. One waits for a socket, one sleeps, and one is always ready.
    let mut socket = Pausing::new(jobs_socket)?;
    let reader = scheduler.spawn(move || {
        let mut word = String::new();
        socket.read_to_string(&mut word).map(|_| word)
    })?;
    let sleeper = scheduler.spawn(move || -> std::io::Result<()> {
        sleep(Duration::from_millis(20))?;
        to_host.write_all(b"the job has slept")
    })?;
    let host_was_served = Rc::new(Cell::new(false));
    let served = Rc::clone(&host_was_served);
    let busy = scheduler.spawn(move || {
        // It gives up after a while: the host must not wait until then.
        with_timeout(Duration::from_secs(5), || {
            while !served.get() {
                yield_now()?;
            }
            Ok::<(), Interrupted>(())
        })
    })?;

    let loop_fd = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let readable = epoll::EventFlags::IN;
    epoll::add(&loop_fd, &hosts_socket, epoll::EventData::new_u64(HOST), readable)?;
    epoll::add(
        &loop_fd,
        scheduler.as_fd(),
        epoll::EventData::new_u64(SCHEDULER),
        readable,
    )?;

    loop {
        let is_idle = turns(&scheduler)?; // also starts the jobs, and resumes those whose deadline has passed
        if scheduler.live_jobs() == 0 {
            break;
        }
        let timeout = if is_idle {
            scheduler.next_deadline().map(time_until)
        } else {
            Some(Timespec::default())
        };
        let mut events = Vec::with_capacity(8);
        epoll::wait(&loop_fd, rustix::buffer::spare_capacity(&mut events), timeout.as_ref())?;
        for event in events {
            match event.data.u64() {
                HOST => {
                    let mut buffer = [0; 64];
                    let length = hosts_socket.read(&mut buffer)?;
                    println!("host: {}", String::from_utf8_lossy(&buffer[..length]));
                    epoll::delete(&loop_fd, &hosts_socket)?;
                    host_was_served.set(true);
                    to_job.write_all(b"hello from the host")?;
                    to_job.shutdown(std::net::Shutdown::Both)?;
                }
                SCHEDULER => {} // its turns are next
                other => unreachable!("event {other}"),
            }
        }
    }
    busy.join()??;
    sleeper.join()??;
    println!("job: {}", reader.join()??);
    Ok(())
}

/// Runs the jobs that are ready, without waiting. Returns whether none is ready any more.
fn turns(scheduler: &Scheduler) -> std::io::Result<bool> {
    for _ in 0..4 {
        if scheduler.turn(Some(Duration::ZERO))?.ready == 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The time until `deadline`, rounded up. A host that wakes too early finds nothing to do, polls again with a timeout
/// of 0, and spins.
fn time_until(deadline: Instant) -> Timespec {
    let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_micros(1);
    Timespec::try_from(left).expect("the deadline is not centuries away")
}
