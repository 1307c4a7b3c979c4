//! A wait ctx speaks of fds by their numbers, as the C interface does: from here on they are owned.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

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
