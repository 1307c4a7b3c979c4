//! What a scheduler says of itself at each turn, where other threads can read it at any time: also when the turn does
//! not end.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::fork::{Reading, lock_own};
use super::numbers::{Series, Times};
use super::recorder::{is_recording, nanos};
use crate::job::Stats;
use crate::pool::PoolStats;

/// The numbers of one scheduler, as it publishes them.
pub(crate) struct Gauges(Mutex<Published>);

#[derive(Default)]
struct Published {
    queues: Queues,
    stats: Stats,
    pool: Option<PoolStats>,
    turns: Series,
    turn_began: Option<Instant>,
}

/// How many jobs are where in a scheduler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Queues {
    /// These jobs can run, and wait for their thread.
    pub ready: usize,
    /// These jobs have not started.
    pub unstarted: usize,
    /// These jobs have been spawned from another thread, and no scheduler has taken them. All workers have one such
    /// queue.
    pub submitted: usize,
    /// These jobs are paused, and what they wait for has not happened.
    pub paused: usize,
}

/// The numbers of one scheduler: see [`Numbers::schedulers`](super::Numbers::schedulers).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SchedulerNumbers {
    /// The name of its thread, or the number that std gives it.
    pub thread: String,
    /// A number that no other scheduler of the process has.
    pub number: u64,
    /// How many jobs were where at the start of the turn that goes on, or at the end of the last one.
    pub queues: Queues,
    /// What the scheduler had counted at the end of the last turn: see
    /// [`Scheduler::stats`](crate::scheduler::Scheduler::stats).
    pub stats: Stats,
    /// What the pool of the thread held then. `None` before the end of the first turn.
    pub pool: Option<PoolStats>,
    /// How long turns took, without the wait in the kernel. An fd that is ready waits for the end of a turn.
    pub turns: Times,
    /// How long the turn has taken that goes on.
    pub in_turn: Option<Duration>,
}

impl Gauges {
    pub(crate) fn new() -> Self {
        Gauges(Mutex::default())
    }

    /// A turn has begun. Without a recorder nothing is published, and `queues` is not called.
    #[inline]
    pub(crate) fn turn_begins(&self, queues: impl FnOnce() -> Queues) {
        if is_recording() {
            self.publish_begin(queues());
        }
    }

    /// The jobs of the turn have run.
    #[inline]
    pub(crate) fn turn_ends(&self, now: impl FnOnce() -> (Queues, Stats, PoolStats)) {
        if is_recording() {
            let (queues, stats, pool) = now();
            self.publish_end(queues, stats, pool);
        }
    }

    #[cold]
    fn publish_begin(&self, queues: Queues) {
        let mut published = lock_own(&self.0);
        published.queues = queues;
        published.turn_began = Some(Instant::now());
    }

    #[cold]
    fn publish_end(&self, queues: Queues, stats: Stats, pool: PoolStats) {
        let mut published = lock_own(&self.0);
        published.queues = queues;
        published.stats = stats;
        published.pool = Some(pool);
        if let Some(began) = published.turn_began.take() {
            published.turns.record(nanos(began.elapsed()));
        }
    }

    /// `None` if nothing was published.
    pub(super) fn read(&self, thread: &str, number: u64, _: &Reading) -> Option<SchedulerNumbers> {
        let published = lock_own(&self.0);
        (published.turn_began.is_some() || published.pool.is_some()).then(|| SchedulerNumbers {
            thread: thread.to_owned(),
            number,
            queues: published.queues,
            stats: published.stats,
            pool: published.pool,
            turns: published.turns.times(),
            in_turn: published.turn_began.map(|began| began.elapsed()),
        })
    }
}
