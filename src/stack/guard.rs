//! Guards: memory that faults when touched, below each stack.
//!
//! ```text
//!   MADV_GUARD_INSTALL (Linux 6.13)   a mark in the page table: one mapping stays one mapping
//!   mprotect(PROT_NONE)               splits the mapping: two for each stack, and vm.max_map_count (65,530) ends it
//! ```
//!
//! Each new slab tries the first, and nothing asks for the version of the kernel. Any error but a shortage of memory
//! means that the process cannot have it: the kernel does not know it or the memory is locked (`EINVAL`; `mlockall(2)`
//! excludes it), or a sandbox refuses it (`EPERM` and others). A slab that has advised guards changes to the second when
//! such an error appears later.

use std::io;

use super::memory::{self, GUARD_INSTALL, GUARD_REMOVE, Range, is_unavailable};

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
        match unsafe { memory::advise(guard, GUARD_INSTALL) } {
            Ok(()) => Ok(Guards::Advised),
            Err(error) if is_unavailable(&error) => Ok(Guards::Protected),
            Err(error) => Err(explain(error, "MADV_GUARD_INSTALL")),
        }
    }

    /// Makes a guard of each range. On failure some of them may have been made.
    ///
    /// If advised guards are not available any more, `self` becomes `Protected`. The advised guards that the slab has
    /// stay: `mprotect` neither needs nor removes their marks.
    ///
    /// # Safety
    ///
    /// The ranges must be mapped memory of a slab, and no slot in them may be in use.
    pub(super) unsafe fn install(&mut self, guards: &[Range]) -> io::Result<()> {
        if *self == Guards::Advised {
            // SAFETY: the caller's promise.
            match unsafe { memory::advise_all(guards, GUARD_INSTALL) } {
                Ok(()) => return Ok(()),
                Err(error) if is_unavailable(&error) => *self = Guards::Protected,
                Err(error) => return Err(explain(error, "MADV_GUARD_INSTALL")),
            }
        }
        for guard in guards {
            // SAFETY: the caller's promise.
            unsafe { memory::protect(*guard, false) }.map_err(too_many_mappings)?;
        }
        Ok(())
    }

    /// Makes plain memory of every guard in `range`.
    ///
    /// # Safety
    ///
    /// `range` must be mapped memory of a slab, and no slot in it may be in use.
    pub(super) unsafe fn remove(self, range: Range) -> io::Result<()> {
        match self {
            // SAFETY: the caller's promise.
            Guards::Advised => unsafe { memory::advise(range, GUARD_REMOVE) },
            // SAFETY: the caller's promise.
            Guards::Protected => unsafe { memory::protect(range, true) },
        }
    }
}

fn explain(error: io::Error, call: &str) -> io::Error {
    memory::explain(error, format_args!("the guard of a stack could not be made ({call})"))
}

fn too_many_mappings(error: io::Error) -> io::Error {
    memory::explain(
        error,
        "the guard of a stack could not be made (mprotect): without MADV_GUARD_INSTALL (Linux 6.13, memory not locked \
         by mlockall) each stack takes two mappings: raise the sysctl vm.max_map_count, or lower the limit of the pool",
    )
}
