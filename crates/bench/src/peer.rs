//! A peer: something that can start a job, pause it and resume it. All its figures come from these few functions.
//!
//! ```text
//!   open ── start ──> job (paused) ── resume ──> paused ── ... ── resume ──> ended ── finish
//!     └─── empty: start to end of a job that does nothing, on warm memory
//! ```

use std::time::{Duration, Instant};

use crate::depth::descend;
use crate::measure::{Candidate, quantile};

/// A kind of stackful job.
pub(crate) trait Peer: Sized + 'static {
    /// A job that is paused or has ended.
    type Job;

    /// Starts a job that runs `pause_often::<FRAMES>(pauses, ..)`, and returns at the job's first pause.
    fn start<const FRAMES: u32>(&mut self, pauses: u64) -> Result<Self::Job, Absent>;

    /// Resumes the job until its next pause (true) or its end (false).
    fn resume(&mut self, job: &mut Self::Job) -> bool;

    /// Drops a job that has ended, or keeps its stack.
    fn finish(&mut self, job: Self::Job) {
        drop(job);
    }

    /// Runs a job that does nothing, from its start to its end.
    fn empty(&mut self);
}

/// Why something cannot be measured here, for the reports.
#[derive(Clone, Debug)]
pub(crate) struct Absent(pub(crate) String);

impl Absent {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Absent(why.into())
    }
}

impl std::fmt::Display for Absent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// How many frames deep the job pauses, and how many frames deep its caller resumes it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Depth {
    pub(crate) job: u32,
    pub(crate) caller: u32,
}

impl Depth {
    /// Every depth that is measured, the one without frames first.
    pub(crate) const ALL: [Depth; 6] = [
        Depth { job: 0, caller: 0 },
        Depth { job: 4, caller: 0 },
        Depth { job: 8, caller: 0 },
        Depth { job: 0, caller: 4 },
        Depth { job: 4, caller: 4 },
        Depth { job: 8, caller: 4 },
    ];
}

/// Pauses and resumes one job, with the job and its caller at `depth`.
pub(crate) fn switch<P: Peer>(name: &str, peer: P, depth: Depth) -> Candidate {
    match (depth.job, depth.caller) {
        (0, 0) => switch_at::<P, 0, 0>(name, peer),
        (4, 0) => switch_at::<P, 4, 0>(name, peer),
        (8, 0) => switch_at::<P, 8, 0>(name, peer),
        (0, 4) => switch_at::<P, 0, 4>(name, peer),
        (4, 4) => switch_at::<P, 4, 4>(name, peer),
        (8, 4) => switch_at::<P, 8, 4>(name, peer),
        (job, caller) => unreachable!("no code for a job at {job} and a caller at {caller} frames: add a line here"),
    }
}

fn switch_at<P: Peer, const JOB: u32, const CALLER: u32>(name: &str, mut peer: P) -> Candidate {
    Candidate::new(name, move |n| {
        let mut job = peer.start::<JOB>(n).expect("this peer started a job before");
        let clock = Instant::now();
        for _ in 0..n {
            descend::<CALLER, _>(&mut || {
                peer.resume(&mut job);
            });
        }
        let took = clock.elapsed();
        peer.finish(job);
        took
    })
}

/// Runs empty jobs, each on the memory of the one before.
pub(crate) fn life<P: Peer>(name: &str, mut peer: P) -> Candidate {
    Candidate::new(name, move |n| {
        let clock = Instant::now();
        for _ in 0..n {
            peer.empty();
        }
        clock.elapsed()
    })
}

/// The cost of each of many live jobs, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd {
    /// From nothing to the first pause.
    pub(crate) start: f64,
    /// Pause and resume, where a sweep resumes each job once. From the median sweep.
    pub(crate) round_trip: f64,
    /// From the last pause to the end.
    pub(crate) end: f64,
    /// Bytes of memory that the process gained.
    pub(crate) resident: f64,
}

/// Starts `live` jobs, resumes each of them about `sweeps` times in turn, and ends them.
pub(crate) fn crowd<P: Peer>(peer: &mut P, live: usize, sweeps: u64) -> Result<Crowd, Absent> {
    let at_once = (RESUMES_A_CLOCK / live as u64).max(1);
    let readings = (sweeps / at_once).max(1);
    let mut jobs = Vec::with_capacity(live);
    let before = resident();
    let clock = Instant::now();
    for at in 0..live {
        let job = peer.start::<0>(readings * at_once + 1);
        jobs.push(job.map_err(|why| Absent(format!("at {at} live jobs: {why}")))?);
    }
    let each = |took: Duration| took.as_nanos() as f64 / live as f64;
    let start = each(clock.elapsed());
    let gained = resident().saturating_sub(before);
    let sweep = |_| each(sweep(peer, &mut jobs, at_once)) / at_once as f64;
    let round_trip = quantile(&(0..readings).map(sweep).collect::<Vec<f64>>(), 0.5);
    let clock = Instant::now();
    for mut job in jobs {
        peer.resume(&mut job);
        peer.finish(job);
    }
    Ok(Crowd {
        start,
        round_trip,
        end: each(clock.elapsed()),
        resident: gained as f64 / live as f64,
    })
}

/// The least number of resumes between two readings of the clock. A reading takes as long as ten resumes.
const RESUMES_A_CLOCK: u64 = 10_000;

fn sweep<P: Peer>(peer: &mut P, jobs: &mut [P::Job], times: u64) -> Duration {
    let clock = Instant::now();
    for _ in 0..times {
        for job in &mut *jobs {
            peer.resume(job);
        }
    }
    clock.elapsed()
}

/// Bytes of memory that this process has in RAM.
pub(crate) fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}
