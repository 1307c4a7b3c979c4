//! The accept loop: takes a connection when there is a job and an fd for it, and leaves it in the kernel's queue until
//! then.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use asyncjob::io::Pausing;
use asyncjob::scheduler::Handle;
use asyncjob::time::{sleep, with_timeout};
use asyncjob::waiting::{AwaitError, await_future};
use asyncjob::{Interrupted, SpawnErrorKind};

use super::service::Service;

/// How long to wait for an fd, at most, before asking again: others may close some too.
const FD_PATIENCE: Duration = Duration::from_secs(1);
/// After an error of `accept` that is neither the connection's nor ours: do not spin.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Accepts until it is cancelled.
pub(crate) fn accept_all(listener: &Pausing<TcpListener>, max: usize, service: &Arc<Service>, jobs: &Handle) {
    loop {
        if service.connections.count() >= max {
            service.counters.waits_for_room.add(1);
            if await_future(service.connections.fewer_than(max)).is_err() {
                return; // cancelled
            }
        }
        let before = service.connections.count();
        let goes_on = match listener.accept() {
            Ok((stream, _)) => take_on(stream, service, jobs),
            Err(e) if is_out_of_fds(&e) => {
                service.counters.waits_for_fd.add(1);
                let ended = service.connections.fewer_than(before);
                !matches!(
                    with_timeout(FD_PATIENCE, || await_future(ended)),
                    Err(AwaitError::Interrupted(Interrupted::Cancelled))
                )
            }
            Err(e) if is_the_connections(&e) => true,
            Err(_) => sleep(BACK_OFF).is_ok(), // fails at once when the job is cancelled
        };
        if !goes_on {
            return;
        }
    }
}

/// A job for a connection. `false` when there will be no more jobs.
fn take_on(stream: Pausing<std::net::TcpStream>, service: &Arc<Service>, jobs: &Handle) -> bool {
    service.counters.accepted.add(1);
    let seat = service.connections.seat(service);
    let id = seat.id();
    match jobs.spawn(move || seat.serve(stream)) {
        Ok(handle) => {
            service.connections.started(id, handle);
            true
        }
        // Cannot be, as the accept loop has waited for capacity. If it were, the connection would be dropped here.
        Err(refused) if matches!(refused.kind(), SpawnErrorKind::Full { .. }) => true,
        Err(_) => false,
    }
}

fn is_out_of_fds(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error();
    errno == Some(Errno::MFILE.raw_os_error()) || errno == Some(Errno::NFILE.raw_os_error())
}

/// The peer gave up while it was in the queue.
fn is_the_connections(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}
