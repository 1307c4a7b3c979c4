//! A peer: something that can start a job, pause it and resume it. From these few functions come all its figures.
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

    /// Starts a job that runs `pause_often::<FRAMES>(pauses, ..)`; it comes back at its first pause.
    fn start<const FRAMES: u32>(&mut self, pauses: u64) -> Result<Self::Job, Absent>;

    /// Resumes the job until its next pause (true) or its end (false).
    fn resume(&mut self, job: &mut Self::Job) -> bool;

    /// Takes back a job that has ended.
    fn finish(&mut self, job: Self::Job) {
        drop(job);
    }

    /// Starts a job that does nothing, and sees it end.
    fn empty(&mut self);
}

/// Why something cannot be measured here: said by name in every report.
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

/// How many frames deep the job pauses and the caller resumes.
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

/// Pause and resume of one job, the job and its caller at `depth`.
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

/// Start to end of an empty job, on memory that the one before it left.
pub(crate) fn life<P: Peer>(name: &str, mut peer: P) -> Candidate {
    Candidate::new(name, move |n| {
        let clock = Instant::now();
        for _ in 0..n {
            peer.empty();
        }
        clock.elapsed()
    })
}

/// What each job of a crowd cost, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd {
    /// From nothing to its first pause.
    pub(crate) start: f64,
    /// Pause and resume, each job in turn, over and over: the median sweep.
    pub(crate) round_trip: f64,
    /// From its last pause to its end.
    pub(crate) end: f64,
    /// Memory that the process gained, in bytes.
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

/// At least so many resumes between two readings of the clock, which takes as long as ten of them.
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
