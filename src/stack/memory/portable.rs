//! Memory on other Unix systems: no advice gives zeros back and keeps a guard, so pages are mapped anew.
//!
//! On Linux `--cfg asyncjob_portable` chooses this file, so that tests can run it.

use std::io;

use super::{Advice, Range, map_anew};

/// What a mapping of stacks has besides being private and anonymous. Not `MAP_STACK`: FreeBSD means by it a mapping
/// that grows.
pub(super) const MAP_FLAGS: i32 = 0;

/// Whether [`Advice::Release`] leaves the mapping as it is. Guards in the range do not stay here, and locks neither.
pub(in crate::stack) const RELEASE_KEEPS_MAPPING: bool = false;

/// Does what the advice asks for, if there is a way.
///
/// # Safety
///
/// The caller must own the memory in the range, and nothing may rely on what the advice takes away.
pub(super) unsafe fn advise(range: Range, advice: Advice) -> io::Result<()> {
    match advice {
        Advice::Release(policy) => {
            // No other advice does as much: after `MADV_FREE` a page may still have its contents.
            // SAFETY: the caller's promise.
            unsafe { map_anew(range)? };
            if policy.dont_dump {
                // SAFETY: as above.
                unsafe { dont_dump(range) }
            } else {
                Ok(())
            }
        }
        Advice::NoHugePages => Ok(()), // these systems make one of pages that are all in use
        // SAFETY: the caller's promise.
        Advice::DontDump => unsafe { dont_dump(range) },
        Advice::GuardInstall | Advice::GuardRemove => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// There is no call for many ranges. Returns how many are done.
///
/// # Safety
///
/// As [`advise`], for each range.
pub(super) unsafe fn advise_batches(_: &[Range], _: Advice) -> usize {
    0
}

/// There is no call that names the resident pages only.
pub(in crate::stack) enum PageMap {}

impl PageMap {
    pub(in crate::stack) fn open() -> Option<Self> {
        None
    }

    pub(in crate::stack) fn visit_resident(&self, _: Range, _: impl FnMut(usize)) -> usize {
        match *self {}
    }
}

/// # Safety
///
/// The caller must own the memory in the range.
#[cfg(any(target_os = "freebsd", target_os = "linux"))]
unsafe fn dont_dump(range: Range) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    use libc::MADV_DONTDUMP as ADVICE;
    #[cfg(target_os = "freebsd")]
    use libc::MADV_NOCORE as ADVICE;
    // SAFETY: the advice changes no contents of memory.
    crate::sys::check(unsafe { libc::madvise(range.start as *mut _, range.len, ADVICE) }).map(drop)
}

/// # Safety
///
/// As above.
#[cfg(not(any(target_os = "freebsd", target_os = "linux")))]
unsafe fn dont_dump(_: Range) -> io::Result<()> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "this system cannot leave memory out of core dumps",
    ))
}

/// `mlock(2)`, which makes each page resident at once. Returns what the system call returns.
pub(super) fn lock(range: Range) -> i32 {
    // SAFETY: locking changes no contents of memory.
    unsafe { libc::mlock(range.start as *const _, range.len) }
}

/// How many mappings a process may have. There is no limit.
pub(in crate::stack) fn max_mappings() -> usize {
    usize::MAX
}

/// How many mappings this process has. Nothing asks where there is no limit.
pub(in crate::stack) fn count_mappings() -> Option<usize> {
    None
}

/// The error of a guard that takes mappings of its own.
pub(in crate::stack) fn too_many_mappings(error: io::Error) -> io::Error {
    super::explain(
        error,
        "the guard of a stack could not be made (mprotect): each takes two mappings; lower the limit of the pool",
    )
}
