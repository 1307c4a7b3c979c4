//! Whether the other side of a connection has closed it, without reading from the connection.

use std::future::Future;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::task::Poll;

#[cfg(target_os = "linux")]
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFdReadyGuard;

use crate::raw::register;

/// A future that is ready when the other side has closed `stream` or its sending half, or when the connection has
/// failed.
///
/// The future reads nothing from the stream. It keeps the connection open until it is dropped, as a clone of the stream
/// would.
///
/// A job that is paused in the middle of a handshake does not notice that its client has left. This future does, and
/// dropping the handshake then cancels it:
///
/// ```no_run
/// # use std::io;
/// use std::os::fd::AsFd;
/// # async fn handshake(stream: tokio::net::TcpStream) -> io::Result<tokio::net::TcpStream> { Ok(stream) }
/// # async fn serve(stream: tokio::net::TcpStream) -> io::Result<()> {
/// let has_left = asyncjob_tokio::hangup(stream.as_fd())?;
/// let stream = tokio::select! {
///     done = asyncjob_tokio::in_job(handshake(stream)) => done??,
///     left = has_left => return left,
/// };
/// # drop(stream);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// When the system does not poll `stream`, and when the process has no fd left for a duplicate. The future fails when
/// the runtime ends.
///
/// # Panics
///
/// Outside a tokio runtime.
pub fn hangup(stream: BorrowedFd<'_>) -> io::Result<impl Future<Output = io::Result<()>> + Send + use<>> {
    let stream = register(stream.try_clone_to_owned()?, Interest::READABLE)?;
    Ok(std::future::poll_fn(move |task| {
        loop {
            let mut ready = match stream.poll_read_ready(task) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => return Poll::Pending,
            };
            // Data that is not read yet makes the stream ready, too. If that stayed, the task would be woken again and
            // again.
            ready.clear_ready();
            if has_left(&ready)? {
                return Poll::Ready(Ok(()));
            }
        }
    }))
}

/// Whether it has, by a call that asks: what made the stream ready may be data that was read since.
#[cfg(target_os = "linux")]
fn has_left(ready: &AsyncFdReadyGuard<'_, OwnedFd>) -> io::Result<bool> {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::new(ready.get_inner(), PollFlags::RDHUP)];
    poll(&mut fds, Some(&now))?;
    // HUP and ERR are reported without being asked for.
    Ok(!fds[0].revents().is_empty())
}

/// Whether it has. Other systems have no such call, and kqueue says it with the event, which tokio does not clear.
#[cfg(not(target_os = "linux"))]
fn has_left(ready: &AsyncFdReadyGuard<'_, OwnedFd>) -> io::Result<bool> {
    Ok(ready.ready().is_read_closed())
}
