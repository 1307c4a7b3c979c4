//! Memory on Linux: `madvise(2)`, which leaves mappings as they are.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Advice, Range, is_unavailable, page};
use crate::sys::check;

/// What a mapping of stacks has besides being private and anonymous.
pub(super) const MAP_FLAGS: i32 = libc::MAP_NORESERVE | libc::MAP_STACK;

/// Whether [`Advice::Release`] leaves the mapping as it is. Guards in the range stay then, and so do locks.
pub(in crate::stack) const RELEASE_KEEPS_MAPPING: bool = true;

impl Advice {
    /// The advice of `madvise(2)`. The crate `libc` does not have all of them for every target.
    fn number(self) -> i32 {
        match self {
            Advice::Release(policy) if policy.mlock => 24, // MADV_DONTNEED_LOCKED, Linux 5.18
            Advice::Release(_) => libc::MADV_DONTNEED,
            Advice::NoHugePages => libc::MADV_NOHUGEPAGE,
            Advice::DontDump => libc::MADV_DONTDUMP,
            Advice::GuardInstall => 102, // MADV_GUARD_INSTALL, Linux 6.13
            Advice::GuardRemove => 103,  // MADV_GUARD_REMOVE
        }
    }
}

/// `madvise(2)`.
///
/// # Safety
///
/// The caller must own the memory in the range, and nothing may rely on what the advice takes away.
pub(super) unsafe fn advise(range: Range, advice: Advice) -> io::Result<()> {
    // SAFETY: the caller's promise.
    check(unsafe { libc::madvise(range.start as *mut _, range.len, advice.number()) }).map(drop)
}

/// Advises ranges by `process_madvise(2)`, which takes [`RANGES_PER_CALL`] in one call for the calling process since
/// Linux 6.14, at half the cost of a call for each. Goes on for as long as the kernel does whole batches, and returns
/// how many ranges it has done. The caller may repeat the advice for ranges that were done but do not count.
///
/// # Safety
///
/// As [`advise`], for each range.
pub(super) unsafe fn advise_batches(ranges: &[Range], advice: Advice) -> usize {
    static REFUSED: AtomicBool = AtomicBool::new(false);
    if REFUSED.load(Ordering::Relaxed) {
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
                advice.number(),
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

/// `mlock2(2)`, which locks each page when it is first touched. Returns what the system call returns.
pub(super) fn lock(range: Range) -> i32 {
    // SAFETY: locking changes no contents of memory.
    let result = unsafe { libc::syscall(libc::SYS_mlock2, range.start, range.len, libc::MLOCK_ONFAULT) };
    result as i32
}

/// Which pages of this process are resident: the ioctl `PAGEMAP_SCAN`, Linux 6.7. It names the resident pages only.
/// Where they are few, it takes a tenth of the time of `mincore(2)`, which answers for each page.
pub(in crate::stack) struct PageMap(File);

/// `struct page_region` of `linux/fs.h`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg` of `linux/fs.h`.
#[repr(C)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `PAGEMAP_SCAN`: `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: u32 = 3 << 30 | (size_of::<ScanArg>() as u32) << 16 | (b'f' as u32) << 8 | 16;
/// `PAGE_IS_PRESENT`.
const PRESENT: u64 = 1 << 3;
/// How many regions one call may find. They lie on the caller's stack.
const REGIONS_PER_CALL: usize = 64;

/// The kernel has no `PAGEMAP_SCAN` for this process.
static NO_SCAN: AtomicBool = AtomicBool::new(false);

impl PageMap {
    /// Opens the page map, for a few calls: one that is kept would be that of the parent after a fork. Returns `None`
    /// where the kernel has no such call, where `/proc` is not mounted, in a process that may not be traced, and in a
    /// process that has no fd left.
    pub(in crate::stack) fn open() -> Option<Self> {
        if NO_SCAN.load(Ordering::Relaxed) {
            return None;
        }
        File::open("/proc/self/pagemap").map(PageMap).ok()
    }

    /// Calls `visit` with the address of each resident page of the range, lowest first. Returns where it has stopped:
    /// at the end of the range, unless the kernel refuses.
    pub(in crate::stack) fn visit_resident(&self, range: Range, mut visit: impl FnMut(usize)) -> usize {
        let mut regions = [PageRegion::default(); REGIONS_PER_CALL];
        let (mut start, end) = (range.start, range.start + range.len);
        while start < end {
            let mut scan = ScanArg {
                size: size_of::<ScanArg>() as u64,
                flags: 0,
                start: start as u64,
                end: end as u64,
                walk_end: 0,
                vec: regions.as_mut_ptr().expose_provenance() as u64,
                vec_len: regions.len() as u64,
                max_pages: 0,
                category_inverted: 0,
                category_mask: PRESENT,
                category_anyof_mask: 0,
                return_mask: PRESENT,
            };
            // SAFETY: the kernel writes to the argument and to its vector, both of which outlive the call. It reads no
            // memory of the range.
            let found = unsafe { libc::ioctl(self.0.as_raw_fd(), PAGEMAP_SCAN as _, &raw mut scan) };
            if found < 0 {
                NO_SCAN.store(is_unavailable(&io::Error::last_os_error()), Ordering::Relaxed);
                break;
            }
            for region in &regions[..found as usize] {
                (region.start as usize..region.end as usize)
                    .step_by(page())
                    .for_each(&mut visit);
            }
            start = scan.walk_end as usize;
        }
        start
    }
}

/// How many mappings a process may have: `vm.max_map_count`, or its default where it cannot be read.
pub(in crate::stack) fn max_mappings() -> usize {
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(65_530)
}

/// How many mappings this process has, or `None` where that cannot be read. It takes about 1 ms for 5,000 mappings.
pub(in crate::stack) fn count_mappings() -> Option<usize> {
    let mut maps = File::open("/proc/self/maps").ok()?;
    let mut buffer = vec![0; 64 << 10];
    let mut lines = 0;
    loop {
        match maps.read(&mut buffer).ok()? {
            0 => return Some(lines),
            bytes => lines += buffer[..bytes].iter().filter(|&&byte| byte == b'\n').count(),
        }
    }
}

/// The error of a guard that takes mappings of its own.
pub(in crate::stack) fn too_many_mappings(error: io::Error) -> io::Error {
    super::explain(
        error,
        "the guard of a stack could not be made (mprotect): without MADV_GUARD_INSTALL (Linux 6.13, memory not locked \
         by mlockall) each stack takes two mappings, and an eighth of the sysctl vm.max_map_count is left to the rest \
         of the program: raise it, or lower the limit of the pool",
    )
}
