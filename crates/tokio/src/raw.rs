//! A wait ctx names its fds by their numbers, as the C interface does. This module makes owned fds of them.

use std::io;
use std::ops::Deref;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::process;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Another number for the same open file, with close-on-exec.
///
/// # Errors
///
/// When `fd` is not open, and when the process has no fd left.
pub(crate) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the ctx has just given this number, so the ctx has an entry for it, and the fd is open as long as the
    // entry is there. With `WaitCtx::add_wait_fd` and `add_wait_fd_with` the ctx owns the fd. With the unsafe
    // `add_raw_wait_fd` its caller has promised to keep the fd open, or has given a number that is not an open fd. Of
    // such a number the kernel makes no duplicate, and the borrow ends here.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    fd.try_clone_to_owned()
}

/// Registers `fd` with tokio's driver.
///
/// # Errors
///
/// When the system refuses to poll it, as it does with regular files.
///
/// # Panics
///
/// Outside a tokio runtime.
pub(crate) fn register(fd: OwnedFd, interest: Interest) -> io::Result<Source> {
    // kqueue takes a regular file, and reports it as readable until its end and then not at all.
    #[cfg(not(target_os = "linux"))]
    let fd = {
        let file = std::fs::File::from(fd);
        if file.metadata()?.is_file() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        OwnedFd::from(file)
    };
    // SAFETY: the `OwnedFd` keeps its number open until it is dropped, and always gives the same one.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    Ok(Source {
        registered: Some(registered?),
        process: process::id(),
    })
}

/// An fd that is registered with tokio's driver.
///
/// In a child of the process that registered it the drop does nothing: the epoll instance of the driver is the
/// parent's, which would lose the registration.
pub(crate) struct Source {
    /// `None` during the drop.
    registered: Option<AsyncFd<OwnedFd>>,
    process: u32,
}

impl Deref for Source {
    type Target = AsyncFd<OwnedFd>;

    fn deref(&self) -> &AsyncFd<OwnedFd> {
        self.registered.as_ref().expect("it is there until the drop")
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if process::id() != self.process {
            std::mem::forget(self.registered.take());
        }
    }
}
