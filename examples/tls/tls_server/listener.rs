//! The accept loop. It accepts a connection when a job and an fd are free for it. Until then the connection waits in
//! the kernel's queue.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use asyncjob::io::Pausing;
use asyncjob::scheduler::Handle;
use asyncjob::time::{sleep, with_timeout};
use asyncjob::waiting::{AwaitError, await_future};
use asyncjob::{Interrupted, SpawnErrorKind};

use super::debug;
use super::service::Service;

/// The longest wait for a free fd. Other parts of the process may close fds too, so the loop tries again after it.
const FD_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// The pause after any other error of `accept`, so that the loop does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// The closure of the accept job: accepts connections until the job is cancelled.
pub(crate) fn accept_all(listener: &Pausing<TcpListener>, max: usize, service: &Arc<Service>, jobs: &Handle) {
    loop {
        if service.connections.count() >= max {
            service.counters.waits_for_job.add(1);
            if await_future(service.connections.fewer_than(max)).is_err() {
                return; // the job was cancelled
            }
        }
        let before = service.connections.count();
        let go_on = match listener.accept() {
            Ok((stream, _)) => serve(stream, service, jobs),
            Err(e) if is_out_of_fds(&e) => {
                service.counters.waits_for_fd.add(1);
                let ended = service.connections.fewer_than(before);
                !matches!(
                    with_timeout(FD_RETRY_INTERVAL, || await_future(ended)),
                    Err(AwaitError::Interrupted(Interrupted::Cancelled))
                )
            }
            Err(e) if is_of_connection(&e) => true,
            Err(_) => sleep(ERROR_PAUSE).is_ok(), // fails at once if the job was cancelled
        };
        if !go_on {
            return;
        }
    }
}

/// Spawns a job for a connection. Returns `false` if the scheduler takes no more jobs.
fn serve(stream: Pausing<std::net::TcpStream>, service: &Arc<Service>, jobs: &Handle) -> bool {
    service.counters.accepted.add(1);
    let slot = service.connections.add(service);
    let id = slot.id();
    match debug::job().submit_to(jobs, move || slot.serve(stream)) {
        Ok(handle) => {
            service.connections.started(id, handle);
            true
        }
        // Does not happen, because the loop waited for a free job. It would drop the closure and close the connection.
        Err(refused) if matches!(refused.kind(), SpawnErrorKind::Full { .. }) => true,
        Err(_) => false,
    }
}

fn is_out_of_fds(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error();
    errno == Some(Errno::MFILE.raw_os_error()) || errno == Some(Errno::NFILE.raw_os_error())
}

/// Whether the error belongs to one connection, whose client closed it while it was in the queue.
fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}
