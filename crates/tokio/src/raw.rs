//! A wait ctx speaks of fds by their numbers, as the C interface does: from here on they are owned.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Another number for the same open file, with close-on-exec.
///
/// # Errors
///
/// If `fd` is not open, or the process has no number left.
pub(crate) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: whoever registered the fd keeps it open while it is registered (`WaitCtx::set_wait_fd_with`), and the ctx has
    // just named it. If that promise is broken, the worst is a duplicate of another file, polled and never read.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    fd.try_clone_to_owned()
}

/// `fd` in tokio's driver.
///
/// # Errors
///
/// If the system refuses to poll it, as it does regular files.
///
/// # Panics
///
/// Outside a tokio runtime.
pub(crate) fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the `OwnedFd` keeps its number open until it is dropped, and always gives the same one.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    registered.map_err(Into::into)
}
