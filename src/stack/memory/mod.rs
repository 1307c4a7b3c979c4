//! The system calls of `stack` on memory, and the place where tests make them fail.
//!
//! The calls on signals are in `overflow`.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::depth;
use super::size::SecretPolicy;
use crate::sys::check;

#[cfg(not(asyncjob_portable))]
mod linux;
#[cfg(asyncjob_portable)]
mod portable;

#[cfg(not(asyncjob_portable))]
use linux as system;
#[cfg(asyncjob_portable)]
use portable as system;
pub(super) use system::{PageMap, RELEASE_KEEPS_MAPPING, count_mappings, max_mappings, too_many_mappings};

/// The bytes of a page: 4 KiB on `x86_64`, and 4, 16 or 64 KiB on `aarch64`. Sizes and guards are rounded up to whole
/// pages.
pub(super) fn page() -> usize {
    static PAGE: AtomicUsize = AtomicUsize::new(0);
    match PAGE.load(Ordering::Relaxed) {
        0 => {
            // SAFETY: sysconf reads a constant of the system.
            let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
            PAGE.store(bytes, Ordering::Relaxed);
            bytes
        }
        bytes => bytes,
    }
}

/// A range of addresses, of whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: usize,
    pub(super) len: usize,
}

/// What the kernel is to do with a range of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// Gives the pages back: the range reads as zeros, and a page takes memory when it is touched again. The policy is
    /// that of the stacks in the range.
    Release(SecretPolicy),
    /// Makes no huge page, which would make 2 MiB resident for the first byte that is touched.
    NoHugePages,
    /// Leaves the range out of core dumps.
    DontDump,
    /// Makes a guard that is no mapping of its own.
    GuardInstall,
    /// Removes such guards.
    GuardRemove,
}

/// Maps `len` bytes of zeroed memory. Only pages that are touched take memory.
pub(super) fn map(len: usize) -> io::Result<usize> {
    injected()?;
    // SAFETY: an anonymous mapping at an address of the kernel's choice changes no memory that exists.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANON | system::MAP_FLAGS,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    #[cfg(test)]
    fault::count(len as isize);
    Ok(start as usize)
}

/// Replaces the pages of the range by new ones, which are not there until they are touched. Guards of both kinds go
/// with the old pages, and their page tables. The new pages have none of the advice of the old ones.
///
/// # Errors
///
/// When the system refuses. The range is as it was then.
///
/// # Safety
///
/// The caller must own the memory in the range, and nothing may rely on its contents.
pub(super) unsafe fn map_anew(range: Range) -> io::Result<()> {
    injected()?;
    // SAFETY: the caller's promise.
    let start = unsafe {
        libc::mmap(
            range.start as *mut _,
            range.len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_FIXED | system::MAP_FLAGS,
            -1,
            0,
        )
    };
    if start != libc::MAP_FAILED {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if depth::visit_pages(range, |_, _| true).is_err() {
        // The system has taken the old pages away and has none to put there. What it maps next may lie there, and the
        // next job would write to it.
        eprintln!("asyncjob: the memory of a stack is lost: {error}");
        std::process::abort();
    }
    Err(error)
}

/// Whether the kernel makes each page of a new mapping resident at once: after `mlockall(2)` with `MCL_FUTURE`, unless
/// with `MCL_ONFAULT`.
pub(super) fn maps_resident() -> bool {
    let len = page();
    // SAFETY: an anonymous mapping at an address of the kernel's choice changes no memory that exists.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANON,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        // Without memory for one page the next call fails, and its error is reported. `RLIMIT_MEMLOCK` gives EAGAIN.
        return io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN);
    }
    let mut resident = [0];
    let start = start as usize;
    let known = residency(Range { start, len }, &mut resident);
    // SAFETY: the page was mapped above, and nothing else knows of it.
    unsafe { libc::munmap(start as *mut _, len) };
    known.is_ok() && resident[0] & 1 != 0
}

/// Gives a whole mapping back to the kernel.
///
/// # Safety
///
/// The range must be what [`map`] returned, and the caller must not use it after this call.
pub(super) unsafe fn unmap(range: Range) {
    // SAFETY: the caller's promise.
    let result = unsafe { libc::munmap(range.start as *mut _, range.len) };
    debug_assert_eq!(result, 0, "munmap of a whole mapping");
    #[cfg(test)]
    fault::count(-(range.len as isize));
}

/// Advises the kernel of one range.
///
/// # Safety
///
/// The caller must own the memory in the range, and nothing may rely on what the advice takes away.
pub(super) unsafe fn advise(range: Range, advice: Advice) -> io::Result<()> {
    #[cfg(test)]
    fault::refused(advice)?;
    injected()?;
    // SAFETY: the caller's promise.
    unsafe { system::advise(range, advice) }
}

/// Advises the kernel of many ranges, in as few calls as it allows.
///
/// # Safety
///
/// As [`advise`], for each range.
pub(super) unsafe fn advise_all(ranges: &[Range], advice: Advice) -> io::Result<()> {
    let done = if ranges.len() > 1 && is_permitted(advice) {
        // SAFETY: the caller's promise.
        unsafe { system::advise_batches(ranges, advice) }
    } else {
        0
    };
    for range in &ranges[done..] {
        // SAFETY: the caller's promise.
        unsafe { advise(*range, advice)? };
    }
    Ok(())
}

#[cfg(not(test))]
#[inline]
fn is_permitted(_: Advice) -> bool {
    true
}

/// Whether no test wants the call for many ranges to fail.
#[cfg(test)]
fn is_permitted(advice: Advice) -> bool {
    fault::refused(advice).is_ok() && injected().is_ok()
}

/// `mprotect(2)`: forbids access to the range, or allows reading and writing.
///
/// # Errors
///
/// The call may have changed a part of the range before it failed: the kernel goes from mapping to mapping.
///
/// # Safety
///
/// The caller must own the memory in the range, and must not touch it while access is forbidden.
pub(super) unsafe fn protect(range: Range, access: bool) -> io::Result<()> {
    let protection = if access {
        libc::PROT_READ | libc::PROT_WRITE
    } else {
        libc::PROT_NONE
    };
    #[cfg(test)]
    if let Err(error) = injected() {
        let half = (range.len / 2).next_multiple_of(page());
        // SAFETY: the caller's promise.
        unsafe { libc::mprotect(range.start as *mut _, half, protection) };
        return Err(error);
    }
    // SAFETY: the caller's promise.
    check(unsafe { libc::mprotect(range.start as *mut _, range.len, protection) }).map(drop)
}

/// Keeps the range out of swap: each page is locked in memory when it is first touched, or at once where the system
/// cannot wait for that. On failure nothing of the range
/// is locked.
pub(super) fn lock(range: Range) -> io::Result<()> {
    let locked = injected().and_then(|()| check(system::lock(range)));
    // The kernel goes from mapping to mapping here, too, and may have locked some of them.
    locked.map(drop).inspect_err(|_| unlock(range))
}

/// Undoes [`lock`].
pub(super) fn unlock(range: Range) {
    // SAFETY: unlocking changes no contents of memory. It fails only for ranges that are not mapped.
    unsafe { libc::munlock(range.start as *const _, range.len) };
}

/// Writes for each page of the range, from the lowest on, a byte whose lowest bit says whether the page is resident
/// (`mincore(2)`). Usable in a signal handler.
pub(super) fn residency(range: Range, pages: &mut [u8]) -> io::Result<()> {
    assert!(range.len <= pages.len() * page());
    // SAFETY: the call writes a byte for each page of the range, for which there is room. It reads no memory, and
    // refuses a range that is not mapped.
    check(unsafe { libc::mincore(range.start as *mut _, range.len, pages.as_mut_ptr().cast()) }).map(drop)
}

/// Whether a call failed because this process cannot have what it asked for, now or later, and not for want of memory.
///
/// A kernel that does not know an advice says `EINVAL`. A sandbox answers in the kernel's place, with the error that
/// its author chose: `EPERM` (Docker, systemd), `ENOSYS`, `EACCES`. So the errors of a shortage are listed, not the
/// others.
pub(super) fn is_unavailable(error: &io::Error) -> bool {
    !matches!(
        error.raw_os_error(),
        Some(libc::ENOMEM | libc::EAGAIN | libc::EINTR | libc::ENOBUFS)
    )
}

/// The error, with `what` failed and what the reader can do about it.
pub(super) fn explain(error: io::Error, what: impl std::fmt::Display) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

#[cfg(not(test))]
#[inline]
fn injected() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
use fault::injected;

/// Failures on request, for the unit tests. They concern the calls of one thread.
#[cfg(test)]
pub(crate) mod fault {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        static UNTIL: Cell<Option<usize>> = const { Cell::new(None) };
        static GUARD_ADVICE_FAILS: Cell<Option<i32>> = const { Cell::new(None) };
        static MAPPED: Cell<isize> = const { Cell::new(0) };
        static IDLE_STACKS_STAY: Cell<bool> = const { Cell::new(false) };
    }

    pub(super) fn count(bytes: isize) {
        MAPPED.set(MAPPED.get() + bytes);
    }

    /// How many bytes this thread has mapped and not given back.
    pub(crate) fn mapped() -> isize {
        MAPPED.get()
    }

    /// Lets a stack without memory on this thread not take that of idle stacks, which may be those of other
    /// tests.
    pub(crate) fn keep_idle_stacks() {
        IDLE_STACKS_STAY.set(true);
    }

    pub(crate) fn idle_stacks_stay() -> bool {
        IDLE_STACKS_STAY.get()
    }

    /// Lets the `n`-th call from here on fail with `ENOMEM` (the next one for 0), and all later calls work. For `None`,
    /// all calls work.
    pub(crate) fn fail_at(n: Option<usize>) {
        UNTIL.set(n);
    }

    /// Whether the failure that was asked for has not happened yet.
    pub(crate) fn is_pending() -> bool {
        UNTIL.get().is_some()
    }

    /// Lets `MADV_GUARD_INSTALL` fail with this error on this thread, as on a kernel before 6.13 (`EINVAL`) or in a
    /// sandbox. For `None`, it works.
    pub(crate) fn guard_advice_fails_with(error: Option<i32>) {
        GUARD_ADVICE_FAILS.set(error);
    }

    pub(super) fn refused(advice: super::Advice) -> io::Result<()> {
        match GUARD_ADVICE_FAILS.get() {
            Some(error) if advice == super::Advice::GuardInstall => Err(io::Error::from_raw_os_error(error)),
            _ => Ok(()),
        }
    }

    pub(super) fn injected() -> io::Result<()> {
        match UNTIL.get() {
            Some(0) => {
                UNTIL.set(None);
                Err(io::Error::from_raw_os_error(libc::ENOMEM))
            }
            left => {
                UNTIL.set(left.map(|n| n - 1));
                Ok(())
            }
        }
    }
}
