//! Guards: memory that faults when touched, below each stack.
//!
//! ```text
//!   MADV_GUARD_INSTALL (Linux 6.13)   a mark in the page table: one mapping stays one mapping
//!   mprotect(PROT_NONE)               splits the mapping: two for each stack, and vm.max_map_count (65,530) ends it
//! ```
//!
//! Each new slab tries the first, and nothing asks for the version of the kernel. Any error but a shortage of memory
//! means that the process cannot have it: the kernel does not know it or the memory is locked (`EINVAL`; `mlockall(2)`
//! excludes it), or a sandbox refuses it (`EPERM` and others). A slab that has advised guards changes to the second
//! when such an error appears later.

use std::io;
use std::sync::{Mutex, MutexGuard};

use super::fork::lock;
use super::memory::{self, Advice, Range, is_unavailable, too_many_mappings};
use super::size::SecretPolicy;

/// The mappings that protected guards may not take: this part of `vm.max_map_count`, 8,191 by default.
///
/// A process that has no mapping left is aborted by its next large allocation or its next thread. So stacks are refused
/// while the rest of the program can still go on.
const RESERVE: usize = 8;
/// The mappings of the rest of the program are counted again each time when guards have taken this part of
/// `vm.max_map_count`, because counting takes milliseconds. In between, the reserve covers what they grow by.
const COUNT_EVERY: usize = 32;

/// What is known of the mappings of this process.
pub(super) struct Mappings {
    /// `vm.max_map_count`, once it has been read.
    max: Option<usize>,
    /// How many the protected guards take: two each.
    guards: usize,
    /// How many everything else had when they were counted, and `guards` at that time.
    others: usize,
    counted_at: usize,
}

static MAPPINGS: Mutex<Mappings> = Mutex::new(Mappings {
    max: None,
    guards: 0,
    others: 0,
    counted_at: 0,
});

impl Mappings {
    /// Counts the mappings of `guards` more guards, if the reserve allows them.
    fn take(&mut self, guards: usize) -> io::Result<()> {
        let max = *self.max.get_or_insert_with(memory::max_mappings);
        let wanted = self.guards + 2 * guards;
        // A program with few stacks never counts.
        if wanted > max / COUNT_EVERY && wanted.abs_diff(self.counted_at) > max / COUNT_EVERY {
            self.counted_at = wanted;
            self.others = memory::count_mappings().unwrap_or(0).saturating_sub(self.guards);
        }
        if wanted + self.others > max - max / RESERVE {
            return Err(too_many_mappings(io::Error::from_raw_os_error(libc::ENOMEM)));
        }
        self.guards = wanted;
        Ok(())
    }

    fn give(&mut self, guards: usize) {
        self.guards -= 2 * guards;
    }
}

/// The lock of this file: see [`super::fork`].
pub(super) type Held = MutexGuard<'static, Mappings>;

pub(super) fn hold() -> Held {
    lock(&MAPPINGS)
}

/// Counts `guards` protected guards as gone, because their mapping is.
pub(super) fn forget(guards: usize) {
    lock(&MAPPINGS).give(guards);
}

/// The kind of guard that a slab has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guards {
    /// By `MADV_GUARD_INSTALL`.
    Advised,
    /// By `mprotect`.
    Protected,
}

impl Guards {
    /// Makes a guard of `guard`, and returns which kind the kernel has for this memory. For `Protected`, the guard is
    /// not made yet.
    ///
    /// # Safety
    ///
    /// `guard` must be mapped memory of a slab, and no slot in it may be in use.
    pub(super) unsafe fn probe(guard: Range) -> io::Result<Guards> {
        // SAFETY: the caller's promise.
        match unsafe { memory::advise(guard, Advice::GuardInstall) } {
            Ok(()) => Ok(Guards::Advised),
            Err(error) if is_unavailable(&error) => Ok(Guards::Protected),
            Err(error) => Err(explain(error, "MADV_GUARD_INSTALL")),
        }
    }

    /// Makes a guard of each range, and returns which kind they are. On failure some of them may have been made. The
    /// caller then [removes](Self::remove) them.
    ///
    /// If advised guards are not available any more, `self` becomes `Protected`. The advised guards that the slab has
    /// stay: `mprotect` neither needs nor removes their marks.
    ///
    /// # Safety
    ///
    /// The ranges must be mapped memory of a slab, and no slot in them may be in use.
    pub(super) unsafe fn install(&mut self, guards: &[Range]) -> io::Result<Guards> {
        if *self == Guards::Advised {
            // SAFETY: the caller's promise.
            match unsafe { memory::advise_all(guards, Advice::GuardInstall) } {
                Ok(()) => return Ok(Guards::Advised),
                Err(error) if is_unavailable(&error) => *self = Guards::Protected,
                Err(error) => return Err(explain(error, "MADV_GUARD_INSTALL")),
            }
        }
        lock(&MAPPINGS).take(guards.len())?;
        for guard in guards {
            // SAFETY: the caller's promise.
            unsafe { memory::protect(*guard, false) }
                .map_err(too_many_mappings)
                .inspect_err(|_| forget(guards.len()))?;
        }
        Ok(Guards::Protected)
    }

    /// Makes plain memory of every guard in `range`. On failure some of them may remain.
    ///
    /// # Safety
    ///
    /// `range` must be mapped memory of a slab, and no slot in it may be in use.
    pub(super) unsafe fn remove(self, range: Range) -> io::Result<()> {
        match self {
            // SAFETY: the caller's promise.
            Guards::Advised => unsafe { memory::advise(range, Advice::GuardRemove) },
            // SAFETY: the caller's promise.
            Guards::Protected => unsafe { memory::protect(range, true) },
        }
    }

    /// As [`remove`](Self::remove), and gives the pages in `range` back to the kernel with their page tables, where the
    /// kernel can do that (Linux 6.14).
    ///
    /// To map the range anew does all of it in one walk over the page tables: with 10,000 stacks 450 ns for each
    /// instead of 1,700, most of which `MADV_GUARD_REMOVE` takes. What is mapped anew becomes one mapping with what is
    /// beside it. Stacks with advice of their own, and those of a process that locks its memory, go the long way.
    ///
    /// # Safety
    ///
    /// As [`remove`](Self::remove).
    pub(super) unsafe fn clear(self, range: Range, policy: SecretPolicy) -> io::Result<()> {
        let is_plain = !policy.mlock && !policy.dont_dump;
        if self == Guards::Advised && is_plain && !memory::maps_resident() {
            // SAFETY: the caller's promise.
            let mapped = unsafe { memory::map_anew(range) };
            // SAFETY: as above. Kernels with advised guards have none of it to do: `MAP_STACK` says as much to them.
            let prepared = mapped.and_then(|()| unsafe { memory::advise(range, Advice::NoHugePages) });
            if prepared.is_ok() {
                return Ok(());
            }
        }
        if policy.mlock {
            memory::unlock(range);
        }
        let policy = SecretPolicy { mlock: false, ..policy };
        // SAFETY: the caller's promise.
        let removed = unsafe { self.remove(range) };
        // SAFETY: as above.
        unsafe { memory::advise(range, Advice::Release(policy)) }.and(removed)
    }
}

fn explain(error: io::Error, call: &str) -> io::Error {
    memory::explain(error, format_args!("the guard of a stack could not be made ({call})"))
}
