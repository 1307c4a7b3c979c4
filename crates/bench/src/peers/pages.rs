//! The cost of memory alone: the cache lines that a round trip touches on a job's stack, without any job.

use std::ffi::c_int;
use std::ptr;

use crate::peer::Absent;

/// Cache lines of 64 bytes that a round trip of asyncjob touches on a job's stack: two of the control block and the
/// coroutine, two of frames. One of the wait ctx comes on top, on another page. (Traced with `valgrind --tool=lackey
/// --trace-mem=yes`.)
const LINES: usize = 4;

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// Pages instead of jobs, as far apart as stacks are.
pub(crate) struct Pages {
    /// A multiple of a huge page.
    first: usize,
    stride: usize,
    stagger: usize,
}

/// The cache lines of one page, by a pointer to the first.
pub(crate) struct Lines(*mut u64);

impl Pages {
    /// Like the stacks of jobs: small pages, 32 KiB apart, with the lines of each of 8 neighbours 64 bytes further
    /// down.
    pub(crate) fn small(count: usize) -> Result<Self, Absent> {
        Self::new(count, 32 << 10, 64, libc::MADV_NOHUGEPAGE)
    }

    /// The same lines without gaps and in huge pages. The difference is the cost of address translation.
    pub(crate) fn huge(count: usize) -> Result<Self, Absent> {
        Self::new(count, 4 << 10, 64, libc::MADV_HUGEPAGE)
    }

    /// Like `small`, with the lines at the same offsets in each page. The difference is what staggering saves.
    pub(crate) fn same_lines(count: usize) -> Result<Self, Absent> {
        Self::new(count, 32 << 10, 0, libc::MADV_NOHUGEPAGE)
    }

    /// The mapping stays until the process ends.
    fn new(count: usize, stride: usize, stagger: usize, advice: c_int) -> Result<Self, Absent> {
        let len = (count * stride).next_multiple_of(HUGE) + HUGE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory that is in use.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(Absent::new(std::io::Error::last_os_error().to_string()));
        }
        // SAFETY: the mapping just made. A kernel without huge pages refuses, and there are none.
        unsafe { libc::madvise(start, len, advice) };
        let first = (start as usize).next_multiple_of(HUGE);
        Ok(Pages { first, stride, stagger })
    }

    /// The lines of the page of that number, touched once.
    pub(crate) fn lines(&self, at: usize) -> Lines {
        let end = self.first + (at + 1) * self.stride - (at % 8) * self.stagger;
        let mut lines = Lines((end - LINES * 64) as *mut u64);
        lines.touch();
        lines
    }
}

impl Lines {
    /// Reads and writes a word of each line.
    #[inline(always)]
    pub(crate) fn touch(&mut self) {
        for line in 0..LINES {
            // SAFETY: within the mapping: a line is 8 words.
            let word = unsafe { self.0.add(line * 8) };
            // SAFETY: as above.
            let value = unsafe { word.read_volatile() };
            // SAFETY: as above.
            unsafe { word.write_volatile(value + 1) };
        }
    }
}
