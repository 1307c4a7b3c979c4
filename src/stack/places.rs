//! Where the stacks of the process are, for what looks at jobs from outside their threads.

use super::memory::Range;
use super::{depot, depth};

/// One stack. Its job runs and ends meanwhile, so nothing here is a reference.
pub(crate) struct Place {
    /// The address of the [`StackHeader`](super::StackHeader), which is also the top of the stack.
    pub(crate) header: usize,
    pub(super) whole: Range,
    pub(super) memory: Range,
}

impl Place {
    /// The lowest address of the slot, guard included.
    pub(crate) fn limit(&self) -> usize {
        self.whole.start
    }

    /// How many bytes of the stack were used, in whole pages. 0 if the stack is gone. One system call.
    pub(crate) fn high_water(&self) -> usize {
        depth::resident_depth(self.memory)
    }
}

/// The stacks of all jobs and the idle ones, but not foreign ones. The call holds each depot for a moment.
pub(crate) fn places() -> Vec<Place> {
    depot::all().flat_map(depot::Depot::places).collect()
}
