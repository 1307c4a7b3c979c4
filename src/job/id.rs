//! The numbers that identify jobs.
//!
//! Each thread takes ids in blocks, so that the start of a job writes to no memory that threads share.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::debugger;
use crate::sys::ThreadWords;

/// The number of a job. No other job of the process has the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(u64);

/// How many ids a thread takes at once.
///
/// The thread has a word for its next id. The word is a multiple of this number when the block is used up. Such a
/// number is no id, so that no job has the id 0 either.
const BLOCK: u64 = 1024;

impl JobId {
    /// The number itself, which is never 0.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The id that this number stands for, unless it is 0.
    #[cfg(feature = "insight")]
    pub(super) fn from_outside(number: u64) -> Option<Self> {
        (number != 0).then_some(JobId(number))
    }

    /// An id that no other job of the process has.
    #[inline]
    pub(super) fn next() -> Self {
        ThreadWords::with(|words| {
            let id = words.next_job_id.get();
            if id.is_multiple_of(BLOCK) {
                return Self::of_new_block();
            }
            words.next_job_id.set(id + 1);
            JobId(id)
        })
    }

    #[cold]
    fn of_new_block() -> Self {
        debugger::keep_layout();
        static BLOCKS: AtomicU64 = AtomicU64::new(0);
        let first = BLOCKS.fetch_add(BLOCK, Ordering::Relaxed) + 1;
        ThreadWords::with(|words| words.next_job_id.set(first + 1));
        JobId(first)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}
