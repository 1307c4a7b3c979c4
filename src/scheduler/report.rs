//! What a scheduler says of its work: one turn, a shutdown, everything since it was made.

/// What one [`Scheduler::turn`](super::Scheduler::turn) did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Turn {
    /// How many jobs the turn started or resumed.
    pub resumed: usize,
    /// How many jobs can run now. If this is not 0, call [`Scheduler::turn`](super::Scheduler::turn) again without
    /// waiting.
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

/// Counts since the scheduler was made: see [`Scheduler::stats`](super::Scheduler::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// How many jobs have ended in any way. A job that failed with [`JoinError::NoStack`](super::JoinError::NoStack)
    /// did not start and does not count.
    pub ended: u64,
    /// How many of these were cancelled, by their handle, by a shutdown or because their engine failed. The quarantined
    /// ones are included.
    pub cancelled: u64,
    /// How many of these did not end when they were cancelled, and were quarantined.
    pub quarantined: u64,
    /// How many spawns were refused, because the scheduler was full or shutting down. In a scheduler of
    /// [`Workers`](super::Workers) this counts the refusals of all workers.
    pub refused: u64,
    /// How often a job was started or resumed.
    pub resumes: u64,
    /// How often the scheduler asked the kernel for ready fds (`epoll_wait`).
    pub kernel_waits: u64,
}
