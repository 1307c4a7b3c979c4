//! The system calls of `stack` on memory, and the place where tests make them fail.
//!
//! The calls on signals are in `overflow`.

use std::io::{self, Read};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::sys::check;

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

/// `MADV_GUARD_INSTALL` of `madvise(2)`, Linux 6.13. The crate `libc` does not have it for every target.
pub(super) const GUARD_INSTALL: i32 = 102;
/// `MADV_GUARD_REMOVE` of `madvise(2)`, Linux 6.13. As above.
pub(super) const GUARD_REMOVE: i32 = 103;
/// `MADV_DONTNEED_LOCKED` of `madvise(2)`, Linux 5.18. As above.
pub(super) const DONTNEED_LOCKED: i32 = 24;

/// Maps `len` bytes of zeroed memory. Only pages that are touched take memory.
pub(super) fn map(len: usize) -> io::Result<usize> {
    injected()?;
    // SAFETY: an anonymous mapping at an address of the kernel's choice changes no memory that exists.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK,
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
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
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

/// `madvise(2)` on one range.
///
/// # Safety
///
/// The caller must own the memory in the range, and nothing may rely on what the advice takes away.
pub(super) unsafe fn advise(range: Range, advice: i32) -> io::Result<()> {
    #[cfg(test)]
    fault::refused(advice)?;
    injected()?;
    // SAFETY: the caller's promise.
    check(unsafe { libc::madvise(range.start as *mut _, range.len, advice) }).map(drop)
}

/// `madvise(2)` on many ranges, in as few calls as the kernel allows. `process_madvise(2)` does [`RANGES_PER_CALL`] in
/// one call for the calling process since Linux 6.14, at half the cost of a call for each.
///
/// # Safety
///
/// As [`advise`], for each range.
pub(super) unsafe fn advise_all(ranges: &[Range], advice: i32) -> io::Result<()> {
    let done = if ranges.len() > 1 {
        // SAFETY: the caller's promise.
        unsafe { advise_batches(ranges, advice) }
    } else {
        0
    };
    for range in &ranges[done..] {
        // SAFETY: the caller's promise.
        unsafe { advise(*range, advice)? };
    }
    Ok(())
}

/// Advises ranges by `process_madvise(2)` for as long as the kernel does whole batches, and returns how many ranges it
/// has done. The caller may repeat the advice for ranges that were done but do not count.
///
/// # Safety
///
/// As [`advise`], for each range.
unsafe fn advise_batches(ranges: &[Range], advice: i32) -> usize {
    static REFUSED: AtomicBool = AtomicBool::new(false);
    #[cfg(test)]
    if fault::refused(advice).is_err() {
        return 0;
    }
    if injected().is_err() || REFUSED.load(Ordering::Relaxed) {
        return 0;
    }
    let mut done = 0;
    for batch in ranges.chunks(RANGES_PER_CALL) {
        let mut vectors = [libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        }; RANGES_PER_CALL];
        for (vector, range) in vectors.iter_mut().zip(batch) {
            vector.iov_base = range.start as *mut _;
            vector.iov_len = range.len;
        }
        let wanted: usize = batch.iter().map(|range| range.len).sum();
        // SAFETY: the vectors outlive the call. For the ranges, the caller's promise.
        let bytes = unsafe {
            libc::syscall(
                libc::SYS_process_madvise,
                PIDFD_SELF,
                &raw const vectors,
                batch.len(),
                advice,
                0,
            )
        };
        if bytes < 0 && done == 0 {
            // An older kernel fails with EBADF, EPERM or ENOSYS. So does Valgrind, which also complains of each call
            // that it does not know, so the first such failure is the last call.
            REFUSED.store(is_unavailable(&io::Error::last_os_error()), Ordering::Relaxed);
        }
        if bytes < 0 || bytes as usize != wanted {
            break;
        }
        done += batch.len();
    }
    done
}

/// `PIDFD_SELF` of `pidfd_open(2)`, Linux 6.14. A descriptor that is kept would refer to the parent after a fork, so
/// without this constant each call would have to open one.
const PIDFD_SELF: i32 = -10000;

/// Ranges that one call of `process_madvise(2)` gets.
const RANGES_PER_CALL: usize = 64;

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

/// Keeps the range out of swap: each page is locked in memory when it is first touched. On failure nothing of the range
/// is locked.
pub(super) fn lock(range: Range) -> io::Result<()> {
    let locked = injected().and_then(|()| {
        // SAFETY: locking changes no contents of memory.
        check(unsafe { libc::syscall(libc::SYS_mlock2, range.start, range.len, libc::MLOCK_ONFAULT) } as i32)
    });
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
    check(unsafe { libc::mincore(range.start as *mut _, range.len, pages.as_mut_ptr()) }).map(drop)
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

/// How many mappings a process may have: `vm.max_map_count`, or its default where it cannot be read.
pub(super) fn max_mappings() -> usize {
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(65_530)
}

/// How many mappings this process has, or `None` where that cannot be read. It takes about 1 ms for 5,000 mappings.
pub(super) fn count_mappings() -> Option<usize> {
    let mut maps = std::fs::File::open("/proc/self/maps").ok()?;
    let mut buffer = vec![0; 64 << 10];
    let mut lines = 0;
    loop {
        match maps.read(&mut buffer).ok()? {
            0 => return Some(lines),
            bytes => lines += buffer[..bytes].iter().filter(|&&byte| byte == b'\n').count(),
        }
    }
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

    pub(super) fn refused(advice: i32) -> io::Result<()> {
        match GUARD_ADVICE_FAILS.get() {
            Some(error) if advice == super::GUARD_INSTALL => Err(io::Error::from_raw_os_error(error)),
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
