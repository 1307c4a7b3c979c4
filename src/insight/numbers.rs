//! What a recorder has counted and measured, and a page of it for people.

use std::fmt::{self, Display};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::gauges::SchedulerNumbers;
use crate::stack::StackStats;

/// What a [`Recorder`](super::Recorder) has counted and measured, and how the schedulers and the stacks of the process
/// are now.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Numbers {
    /// The jobs of all names together.
    pub all: JobNumbers,
    /// The jobs of each name.
    pub by_name: Vec<(String, JobNumbers)>,
    /// Every scheduler of the process that has taken a turn since there was a recorder. A scheduler publishes these
    /// numbers at each turn, so they are there also when its thread hangs.
    pub schedulers: Vec<SchedulerNumbers>,
    /// The stacks of the process: see [`stack::stats`](crate::stack::stats).
    pub stacks: Vec<StackStats>,
}

/// The numbers of the jobs of one name.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct JobNumbers {
    /// The jobs that have started.
    pub started: u64,
    /// The jobs that have ended, in whatever way.
    pub ended: u64,
    /// The jobs that have ended because they were cancelled.
    pub cancelled: u64,
    /// The jobs that were given up: they did not end when they were cancelled, or code has quarantined them.
    pub quarantined: u64,
    /// The jobs that were dropped before they started: a scheduler has refused them, or they were cancelled so early.
    pub never_started: u64,
    /// The jobs that were found to keep their thread: see [`RecorderBuilder::hog`](super::RecorderBuilder::hog) and
    /// [`RecorderBuilder::busy_poll`](super::RecorderBuilder::busy_poll).
    pub hogs: u64,
    /// How long jobs ran, from a start or a resume to the next pause or the end.
    pub runs: Times,
    /// How long jobs were paused, from a pause to the next resume: the wait, and then the delay.
    pub pauses: Times,
    /// How long jobs could run and waited for their thread: the scheduling delay.
    ///
    /// A new job counts from [`Recorder::job`](super::Recorder::job). A paused one counts from the call of its
    /// callback, from its deadline, or from when its scheduler saw that its fd is ready. A job that only gives way
    /// counts from its pause. A driver of yours tells nothing, so its resumes do not count.
    ///
    /// A job that waits for an fd under tokio counts from the poll in which its task learns that the fd is ready. The
    /// time before that poll is in [`pauses`](Self::pauses) only: tokio does not say when it saw the fd.
    pub delays: Times,
    /// The pauses by what the jobs waited for: a key that has a name ([`RecorderBuilder::key`]), or else `fd`,
    /// `callback`, `deadline`, `its turn` or `nothing: it polls`.
    ///
    /// [`RecorderBuilder::key`]: super::RecorderBuilder::key
    pub pauses_by_key: Vec<(String, Times)>,
    /// The most bytes of stack that a job has used, in whole pages. If its stack has served other jobs before, the
    /// figure may be theirs. 0 unless [`RecorderBuilder::high_water`](super::RecorderBuilder::high_water) is on.
    pub high_water: usize,
}

/// A distribution of times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Times {
    /// How many there were.
    pub count: u64,
    /// All of them together.
    pub sum: Duration,
    /// Half of them were at most this long.
    pub median: Duration,
    /// 99 of 100 were at most this long.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
    /// How many were at most as long as each of [`BOUNDS`](Self::BOUNDS), to one percent.
    pub within: [u64; Times::BOUNDS.len()],
}

impl Times {
    /// The bounds of [`within`](Self::within): 10 µs to 10 s, two for each factor of ten.
    pub const BOUNDS: [Duration; 13] = [
        Duration::from_micros(10),
        Duration::from_micros(30),
        Duration::from_micros(100),
        Duration::from_micros(300),
        Duration::from_millis(1),
        Duration::from_millis(3),
        Duration::from_millis(10),
        Duration::from_millis(30),
        Duration::from_millis(100),
        Duration::from_millis(300),
        Duration::from_secs(1),
        Duration::from_secs(3),
        Duration::from_secs(10),
    ];
}

/// Times as they are recorded: how many are in each bucket. The buckets are those of a [`Histogram`] of as many digits,
/// which [`times`](Series::times) fills. Its own `record` takes four times as many instructions, at each switch.
#[derive(Clone, Default)]
pub(super) struct Series {
    /// By [`bucket`]. As long as the longest time needs.
    counts: Vec<u64>,
    nanos: u64,
}

/// Two digits of each time are kept: an error of one percent, in some KiB.
const DIGITS: u8 = 2;
/// How many buckets there are for each factor of two, as two digits need them.
const BUCKETS: usize = 128;

/// The bucket of a time: times below twice [`BUCKETS`] have each their own, and above that each factor of two has as
/// many.
#[inline]
fn bucket(nanos: u64) -> usize {
    let shift = (u64::BITS - BUCKETS.ilog2() - 1).saturating_sub(nanos.leading_zeros());
    shift as usize * BUCKETS + (nanos >> shift) as usize
}

/// The shortest time of a bucket.
fn shortest_in(bucket: usize) -> u64 {
    let shift = (bucket / BUCKETS).saturating_sub(1);
    ((bucket - shift * BUCKETS) as u64) << shift
}

impl Series {
    /// Records a time in nanoseconds.
    pub(super) fn record(&mut self, nanos: u64) {
        self.nanos = self.nanos.saturating_add(nanos);
        let bucket = bucket(nanos);
        match self.counts.get_mut(bucket) {
            Some(count) => *count += 1,
            None => self.add_first(bucket),
        }
    }

    /// The longest time so far.
    #[cold]
    fn add_first(&mut self, bucket: usize) {
        self.counts.resize(bucket + 1, 0);
        self.counts[bucket] = 1;
    }

    pub(super) fn add(&mut self, other: &Series) {
        self.nanos = self.nanos.saturating_add(other.nanos);
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        let both = self.counts.iter_mut().zip(&other.counts);
        both.for_each(|(count, more)| *count += more);
    }

    pub(super) fn times(&self) -> Times {
        let mut histogram = Histogram::<u64>::new(DIGITS).expect("a histogram may have two digits");
        for (bucket, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            // A histogram has no place for 0, and takes it as 1 in its percentiles anyway.
            // It resizes itself, and so takes any time. (`saturating_record` would not resize it, and record 2 ns.)
            let _ = histogram.record_n(shortest_in(bucket).max(1), *count);
        }
        let at = |quantile| Duration::from_nanos(histogram.value_at_quantile(quantile));
        Times {
            count: histogram.len(),
            sum: Duration::from_nanos(self.nanos),
            median: at(0.5),
            p99: at(0.99),
            max: Duration::from_nanos(histogram.max()),
            within: Times::BOUNDS.map(|bound| histogram.count_between(0, bound.as_nanos() as u64)),
        }
    }
}

/// A page for people: the jobs of all names and of each name, what they waited for, the schedulers, the stacks.
impl Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_jobs(f)?;
        self.fmt_keys(f)?;
        self.fmt_schedulers(f)?;
        self.fmt_stacks(f)
    }
}

impl Numbers {
    fn fmt_jobs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<20} {:>9} {:>9} {:>9} {:>9}  {}  {}  {}  {:>9}",
            "job",
            "started",
            "ended",
            "cancelled",
            "refused",
            Heads("ran"),
            Heads("paused"),
            Heads("delayed"),
            "stack"
        )?;
        let all = [("all", &self.all)].into_iter();
        let named = self.by_name.iter().map(|(name, numbers)| (name.as_str(), numbers));
        for (name, jobs) in all.chain(named) {
            writeln!(
                f,
                "{name:<20} {:>9} {:>9} {:>9} {:>9}  {}  {}  {}  {:>9}",
                jobs.started,
                jobs.ended,
                jobs.cancelled + jobs.quarantined,
                jobs.never_started,
                Row(&jobs.runs),
                Row(&jobs.pauses),
                Row(&jobs.delays),
                kib(jobs.high_water)
            )?;
        }
        Ok(())
    }

    fn fmt_keys(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<20} {:<20} {:>9}  {}  {:>9}",
            "job",
            "waits for",
            "pauses",
            Heads("paused"),
            "together"
        )?;
        for (name, jobs) in &self.by_name {
            for (key, times) in &jobs.pauses_by_key {
                let (count, row) = (times.count, Row(times));
                writeln!(f, "{name:<20} {key:<20} {count:>9}  {row}  {:>9.1?}", times.sum)?;
            }
        }
        Ok(())
    }

    fn fmt_schedulers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<20} {:>7} {:>9} {:>9} {:>7} {:>9} {:>9}  {}  {:>10}  {:>10} {:>11}",
            "scheduler",
            "ready",
            "unstarted",
            "submitted",
            "paused",
            "ended",
            "refused",
            Heads("a turn"),
            "turns for",
            "pool: used",
            "idle stacks"
        )?;
        for scheduler in &self.schedulers {
            let (queues, stats) = (scheduler.queues, scheduler.stats);
            let in_turn = scheduler
                .in_turn
                .map_or_else(|| "-".to_owned(), |time| format!("{time:.1?}"));
            let (used, idle) = scheduler.pool.map_or((0, 0), |pool| (pool.in_use, pool.idle));
            writeln!(
                f,
                "{:<20} {:>7} {:>9} {:>9} {:>7} {:>9} {:>9}  {}  {in_turn:>10}  {used:>10} {idle:>11}",
                scheduler.thread,
                queues.ready,
                queues.unstarted,
                queues.submitted,
                queues.paused,
                stats.ended,
                stats.refused,
                Row(&scheduler.turns)
            )?;
        }
        Ok(())
    }

    fn fmt_stacks(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<20} {:>7} {:>11} {:>11} {:>11} {:>11} {:>11}",
            "stacks of", "number", "shared idle", "quarantined", "reserved", "in memory", "most used"
        )?;
        for stacks in &self.stacks {
            writeln!(
                f,
                "{:<20} {:>7} {:>11} {:>11} {:>11} {:>11} {:>11}",
                kib(stacks.size),
                stacks.stacks,
                stacks.in_depot,
                stacks.quarantined,
                kib(stacks.reserved),
                kib(stacks.resident),
                kib(stacks.high_water)
            )?;
        }
        Ok(())
    }
}

fn kib(bytes: usize) -> String {
    format!("{} KiB", bytes.div_ceil(1024))
}

/// The heads of three columns of times.
struct Heads(&'static str);

impl Display for Heads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>12} {:>9} {:>9}", format!("{}: 50%", self.0), "99%", "max")
    }
}

/// Times in three columns.
struct Row<'a>(&'a Times);

impl Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Times { median, p99, max, .. } = self.0;
        write!(f, "{median:>12.1?} {p99:>9.1?} {max:>9.1?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A histogram that was given each time has the same counts and percentiles.
    #[test]
    fn times_are_counted_as_a_histogram_counts_them() {
        let mut histogram = Histogram::<u64>::new(DIGITS).unwrap();
        let mut series = [Series::default(), Series::default()];
        let around = |bit: u32| [(1u64 << bit) - 1, 1 << bit, (1 << bit) + 1, (1 << bit) / 3 * 4];
        for (at, nanos) in (0..50).flat_map(around).chain(1..2000).enumerate() {
            histogram.record(nanos.max(1)).unwrap();
            series[at % 2].record(nanos);
            let bucket = bucket(nanos);
            assert!(
                (shortest_in(bucket)..shortest_in(bucket + 1)).contains(&nanos),
                "{nanos}"
            );
            assert!(histogram.equivalent(shortest_in(bucket), nanos), "{nanos}");
        }
        let [mut both, other] = series;
        both.add(&other);
        let times = both.times();
        let at = |quantile| Duration::from_nanos(histogram.value_at_quantile(quantile));
        assert_eq!(
            (times.count, times.median, times.p99),
            (histogram.len(), at(0.5), at(0.99))
        );
        assert_eq!(times.max, Duration::from_nanos(histogram.max()));
        let within = Times::BOUNDS.map(|bound| histogram.count_between(0, bound.as_nanos() as u64));
        assert_eq!(times.within, within);
    }
}
