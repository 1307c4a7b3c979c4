//! What a scheduler says of its work: one turn, a shutdown, everything since it was made.

/// What one [`Scheduler::turn`](super::Scheduler::turn) did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Turn {
    /// How many jobs the turn started or resumed.
    pub resumed: usize,
    /// How many jobs can run now. If this is not 0, call [`Scheduler::turn`](super::Scheduler::turn) again without
    /// waiting. It need never be 0: a job whose sockets are always ready stays ready.
    pub ready: usize,
}

/// What became of the jobs that were left, in numbers of jobs: see [`Scheduler::shutdown`](super::Scheduler::shutdown).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// These jobs returned or panicked before the deadline.
    pub finished: usize,
    /// These jobs ended before the deadline because they were cancelled: by their handles, or because their engines had
    /// failed.
    pub cancelled_before: usize,
    /// These jobs were cancelled at the deadline, and ended then.
    pub cancelled: usize,
    /// These jobs were cancelled at the deadline and did not end. Their stacks are quarantined.
    pub quarantined: usize,
}
