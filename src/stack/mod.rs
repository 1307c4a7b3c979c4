//! The memory of stacks: how large stacks are, what guards them, and what stays in them after a job has ended.
//!
//! * [`StackSize`] is the size of a stack, for a whole pool or for one job.
//! * [`SecretPolicy`] says what is done so that a job's data does not stay in memory.
//! * [`stats`] and [`quarantined`] count the stacks of the process.
//! * [`set_max_cached`] and [`set_idle_time`] bound how many stacks stay in memory while they are idle, and how long.
//! * [`install_overflow_handler`] makes the process name the job whose stack has overflowed.
//!
//! # How stacks are made
//!
//! ```text
//!   pool (one a thread)  <--->  depot (one for each size)  <--->  slabs  <--->  the kernel
//!     Vec of Stack                 cached stacks, a bounded         guard, memory,
//!                                  number, and free slots           overflow, scrub, depth
//!
//!   one slot of a slab, addresses growing to the right:
//!
//!   | guard: faults | stack: pages appear when touched ....... | TypedBlock | StackHeader | 0 to 7 lines |
//!   limit           limit + guard                                           top                 next slot
//!                                    <--- grows --- corosensei ^ job        header        slab
//! ```
//!
//! A pool holds a stack by a handle of one pointer, which points to the `StackHeader`. The header lies beside the
//! control block of the job, which a switch touches anyway. Taking a stack from a pool and giving it back reads nothing
//! else. A slot without memory has no header: what there is to know of it follows from its number.

// What is in which file:
//
// * `size` has the choices of the user, and the `Spec` by which two stacks are interchangeable.
// * `header` has the `StackHeader` and the handles of a stack.
// * `depot` has the stacks that threads share, `slots` the bookkeeping of a slab, `slab` the mapping and its geometry.
// * `guard`, `scrub` and `depth` have one operation on a stack each, and `foreign` the stacks of a program's own
//   allocator.
// * `idle` finds out which idle stacks have not been used for a while.
// * `memory` has the system calls, so that tests can make each of them fail.
// * `overflow` recognises an overflow and reports it, in a signal handler. It may look at everything here: slabs and
//   depots are never freed, and what it reads is atomic.

pub(crate) mod depot;
mod depth;
mod foreign;
mod fork;
mod guard;
mod header;
mod idle;
pub(crate) mod memory;
pub(crate) mod overflow;
#[cfg(feature = "insight")]
mod places;
mod scrub;
mod size;
mod slab;
mod slots;
#[cfg(test)]
mod tests;

use depot::Depot;
pub use depot::{StackStats, set_max_cached};
// Hidden: these four exist for `asyncjob-capi`, which implements `ASYNC_set_mem_functions(3)` with them.
#[doc(hidden)]
pub use foreign::{AllocateStack, FreeStack, SetStackMemoryError, set_stack_memory};
pub(crate) use fork::{lock, prepare_for_forks};
pub(crate) use header::Stack;
#[cfg(feature = "insight")]
pub(crate) use header::StackHeader;
pub use idle::set_idle_time;
pub(crate) use idle::{IdleMarks, decay, idle_time};
pub use overflow::install as install_overflow_handler;
#[cfg(feature = "insight")]
pub(crate) use places::{Place, places};
pub(crate) use size::Spec;
pub use size::{SecretPolicy, StackSize};
pub(crate) use slab::{LAYOUT, MAX_ABOVE_TOP, SLABS, Slab};

/// How many stacks this process has and how deep its jobs got, with one entry for each size and configuration in use.
///
/// Choose your sizes by [`high_water`](StackStats::high_water). The call makes a system call for each group of
/// neighbouring stacks, and holds a lock that a pool needs to get new stacks. Call it now and then, not for each job.
///
/// ```
/// use asyncjob::stack::{self, StackSize};
/// use asyncjob::{WaitCtx, start_job};
///
/// assert!(start_job(&WaitCtx::new(), || ()).is_ok());
/// let stats = stack::stats();
/// assert_eq!(stats[0].size, StackSize::DEFAULT.bytes());
/// assert!(stats[0].high_water > 0);
/// ```
pub fn stats() -> Vec<StackStats> {
    depot::all().map(Depot::stats).collect()
}

/// Gives the memory of all stacks back that are idle in a depot. Returns whether there was one.
pub(crate) fn release_cached() -> bool {
    #[cfg(test)]
    if memory::fault::idle_stacks_stay() {
        return false;
    }
    depot::all().filter(|depot| depot.release_cached()).count() > 0
}

/// How many stacks of this process are in quarantine. No job gets such a stack again, because something outside the
/// library may still write to it.
pub fn quarantined() -> usize {
    depot::all().map(Depot::quarantined).sum()
}
