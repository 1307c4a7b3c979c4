//! The memory of a stack.
//!
//! ```text
//!   pool (one a thread)  <--->  depot (one for each size)  <--->  slabs  <--->  the kernel
//!     Vec of Stack                 warm stacks, a bounded            guard, memory,
//!                                  number, and cold slots            overflow, scrub, depth
//!
//!   one slot of a slab, addresses growing to the right:
//!
//!   | guard: faults | stack: pages appear when touched ......... | Header | StackHeader | 0 to 7 lines |
//!   limit           limit + guard                                         top                    next slot
//!                                      <--- grows --- corosensei ^        job.rs   this module
//! ```
//!
//! A `Stack` is one pointer, to its `StackHeader`. The plate says where the slot begins and whose it is, in memory that lies
//! beside the header which the job touches anyway: taking a stack and putting it back reads nothing else. A slot without
//! memory has no plate; everything about it follows from its number (`slab`).
//!
//! What the kernel is asked for is in `memory`, so that tests can make each of those calls fail. Overflow is recognised and
//! reported by `overflow`, which may look at everything here from a signal handler: slabs, plates and depots are leaked, and
//! what it reads is atomic.

pub(crate) mod depot;
mod depth;
mod foreign;
mod guard;
mod header;
pub(crate) mod memory;
pub(crate) mod overflow;
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
pub(crate) use header::Stack;
pub use overflow::install as install_overflow_handler;
pub(crate) use size::Spec;
pub use size::{SecretPolicy, StackSize};
pub(crate) use slab::MAX_ABOVE_TOP;

/// What the stacks of this process take and have used, one entry for each size and kind that has been used.
///
/// Choose sizes from its [`high_water`](StackStats::high_water). Each row of 64 stacks that exist costs a system call, made
/// under the lock at which pools get new stacks: call it now and then, not for each job.
pub fn stats() -> Vec<StackStats> {
    depot::all().map(Depot::stats).collect()
}

/// How many stacks of this process are kept out of reuse because somebody may still write to them.
pub fn quarantined() -> usize {
    depot::all().map(Depot::quarantined).sum()
}
