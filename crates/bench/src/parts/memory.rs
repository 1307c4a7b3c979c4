//! What caches, address translation and page tables cost when many jobs are live.

use std::collections::HashMap;
use std::fs;
use std::time::Instant;

use asyncjob::pool::{PoolConfig, init_thread};
use asyncjob::stack::StackSize;
use asyncjob::{Job, Step, WaitCtx, pause_job, start_job};
use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};

use crate::child;
use crate::depth::pause_for_ever;
use crate::machine::has_memory_for;
use crate::measure::{quantile, summarise};
use crate::peer::Absent;
use crate::peers::libcrypto::Async;
use crate::peers::pages::Pages;
use crate::peers::{scheduled, tokio};
use crate::progress::Progress;
use crate::report::{Cell, Chart, Row, Section, Table};
use crate::setup::Setup;

const TEXT: &str = "\
As under *Scale*, so many jobs live at once, with three differences. The jobs are resumed in a random order, the same
for all peers. Each job pauses 8 frames deep, on a stack of 16 KiB (libcrypto: 32 KiB), with a wait ctx of its own.
And memory includes page tables. Ratios are to libcrypto.

*asyncjob, prefetched*: each job is prefetched 4 round trips ahead (`Job::prefetch`), as a queue of ready jobs
allows. *asyncjob, one ctx*: one wait ctx for all jobs. *memory, 4 KiB pages* is the control, without any job: a
write to each of the cache lines that a round trip touches, in pages 32 KiB apart. *2 MiB pages*: the same lines
without gaps and in huge pages. The difference is address translation. *same lines*: the lines have the same offsets
in each page. The difference is what staggered stacks save.

*A wake at random* is the same from end to end: a job or a task wakes 64 others in random order by their callbacks and
lets them run, and so on. *asyncjob, scheduler* are spawned jobs, which their scheduler prefetches by itself. *tokio,
wakers* are tasks of a `LocalSet`, which have no stack.";

/// How many frames deep each job pauses.
const FRAMES: u32 = 8;
/// Bytes of a stack, and of the guard below ours.
const STACK: usize = 16 << 10;
/// How many round trips ahead a job is prefetched.
const AHEAD: usize = 4;

/// The controls, which have no jobs. They come last.
const CONTROLS: [&str; 3] = ["memory, 4 KiB pages", "memory, 2 MiB pages", "memory, same lines"];

/// What is woken instead of resumed.
const WOKEN: [&str; 2] = ["asyncjob, scheduler", "tokio, wakers"];
/// How many jobs are woken before they run: about as many as one call of `epoll_wait` reports.
const WAKES: usize = 64;

/// The cost of each of some live jobs.
#[derive(Clone, Copy)]
struct Numbers {
    /// Nanoseconds of a round trip in random order.
    round_trip: f64,
    /// Bytes of memory with page tables.
    resident: f64,
}

/// For each peer at each size: the figures of each round, or why there are none.
type Results = HashMap<(String, usize), Result<Vec<Numbers>, Absent>>;

/// Measures every peer, at every size.
pub(crate) fn run(setup: &Setup) -> Section {
    let peers = peers(setup);
    let sizes: &[usize] = setup.length.pick(
        &[1, 1000],
        &[1, 100, 10_000, 100_000],
        &[1, 10, 100, 1000, 10_000, 100_000, 1_000_000],
    );
    let rounds = setup.length.pick(1, 1, 3);
    let resumes = setup.length.pick(10_000, 1_000_000, 2_000_000);
    let progress = Progress::new("memory", (sizes.len() * rounds * peers.len()) as u64);
    let mut results = Results::new();
    for (at, &live) in sizes.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| sizes[at]);
        for peer in &peers {
            let result = before.map_or(Ok(Vec::new()), |before| fits(&results[&(peer.clone(), before)], live));
            results.insert((peer.clone(), live), result);
        }
        for round in 0..rounds {
            for turn in 0..peers.len() {
                let peer = &peers[(turn + round) % peers.len()];
                progress.tick(peer);
                measure_once(peer, live, resumes, &mut results);
            }
        }
    }
    let named = |names: &[&str]| -> Vec<String> {
        let here = peers.iter().filter(|peer| names.contains(&peer.as_str()));
        here.cloned().collect()
    };
    let (controls, woken) = (named(&CONTROLS), named(&WOKEN));
    let jobs: Vec<String> = peers.iter().filter(|peer| !controls.contains(peer)).cloned().collect();
    let resumed: Vec<String> = peers.iter().filter(|peer| !woken.contains(peer)).cloned().collect();
    let many: Vec<usize> = sizes.iter().copied().filter(|&live| live >= 1000).collect();
    Section {
        name: "memory",
        title: "Memory: live jobs in random order",
        text: TEXT,
        tables: vec![
            table(
                "random",
                "A round trip of one of n live jobs, in random order",
                "ns",
                &resumed,
                sizes,
                |peer, live| round_trip(peer, live, &results),
            ),
            table(
                "woken",
                "A wake of one of n live jobs, in random order",
                "ns",
                &woken,
                sizes,
                |peer, live| round_trip(peer, live, &results),
            ),
            table(
                "with-page-tables",
                "Memory of one of n live jobs, with page tables",
                "bytes",
                &jobs,
                &many,
                |peer, live| resident(peer, live, &results),
            ),
        ],
        skipped: child::refusals(&peers, sizes, |peer, live| {
            results[&(peer, live)].as_ref().err().cloned()
        }),
    }
}

/// The peers in the order of their columns.
fn peers(setup: &Setup) -> Vec<String> {
    let ours = ["asyncjob", "asyncjob, prefetched", "asyncjob, one ctx", "corosensei"];
    let libraries = setup.c_libraries().into_iter().flatten().map(|found| found.name);
    let names = ours.map(String::from).into_iter().chain(libraries);
    let mut names: Vec<String> = names.filter(|name| setup.wants(name)).collect();
    names.extend(WOKEN.map(String::from).into_iter().filter(|name| setup.wants(name)));
    names.extend(CONTROLS.map(String::from));
    names
}

/// An empty list of rounds for this size. An error if the size cannot be measured, judged by the size before.
fn fits(before: &Result<Vec<Numbers>, Absent>, live: usize) -> Result<Vec<Numbers>, Absent> {
    let numbers = before.as_ref().map_err(Absent::clone)?;
    let each = numbers.first().map_or(0.0, |numbers| numbers.resident);
    if live > 10_000 {
        has_memory_for(live, each)?; // the memory of few jobs cannot be measured
    }
    Ok(Vec::new())
}

/// Measures one more round of a peer, unless it has failed.
fn measure_once(peer: &str, live: usize, resumes: usize, results: &mut Results) {
    let result = results.get_mut(&(peer.to_string(), live)).expect("made for every peer");
    if let Ok(rounds) = result {
        let sweeps = (resumes / live).max(2);
        match child::numbers(&["memory", peer, &live.to_string(), &sweeps.to_string()]) {
            Ok([round_trip, resident]) => rounds.push(Numbers { round_trip, resident }),
            Err(why) => *result = Err(why),
        }
    }
}

fn table(
    name: &'static str,
    title: &str,
    unit: &'static str,
    peers: &[String],
    sizes: &[usize],
    cell: impl Fn(&str, usize) -> Cell,
) -> Table {
    let row = |&live: &usize| Row {
        name: live.to_string(),
        cells: peers.iter().map(|peer| cell(peer, live)).collect(),
    };
    Table {
        name,
        title: title.into(),
        unit,
        columns: peers.to_vec(),
        rows: sizes.iter().map(row).collect(),
        chart: Chart::Lines,
    }
}

/// The median, and the ratio to the first libcrypto in each round, if there is one.
fn round_trip(peer: &str, live: usize, results: &Results) -> Cell {
    let of = |peer: &str| -> Option<Vec<f64>> {
        let rounds = results[&(peer.to_owned(), live)].as_ref().ok()?;
        Some(rounds.iter().map(|numbers| numbers.round_trip).collect())
    };
    let theirs = results
        .keys()
        .map(|(peer, _)| peer)
        .filter(|peer| peer.starts_with("libcrypto"))
        .min();
    match (of(peer), theirs.and_then(|peer| of(peer))) {
        (Some(own), Some(theirs)) if own.len() == theirs.len() => Cell::Rounds(summarise(&own, &theirs)),
        (Some(own), _) => Cell::Number(quantile(&own, 0.5)),
        (None, _) => Cell::Text("none".into()),
    }
}

fn resident(peer: &str, live: usize, results: &Results) -> Cell {
    match &results[&(peer.to_owned(), live)] {
        Ok(rounds) => {
            let bytes: Vec<f64> = rounds.iter().map(|numbers| numbers.resident).collect();
            Cell::Number(quantile(&bytes, 0.5))
        }
        Err(_) => Cell::Text("none".into()),
    }
}

/// In a process of its own: starts so many jobs of a peer and resumes them. Returns a round trip and the memory of one
/// job.
pub(crate) fn measure(setup: &Setup, peer: &str, live: usize, sweeps: u64) -> Result<[f64; 2], Absent> {
    let own_ctx = |_| start_ours(&WaitCtx::new());
    match peer {
        "asyncjob" => {
            small_stacks()?;
            resume_in_random_order(live, sweeps, own_ctx, resume_ours, |_| ())
        }
        "asyncjob, prefetched" => {
            small_stacks()?;
            let prefetch = |job: &Ours| job.iter().for_each(Job::prefetch);
            resume_in_random_order(live, sweeps, own_ctx, resume_ours, prefetch)
        }
        "asyncjob, one ctx" => {
            small_stacks()?;
            let ctx = WaitCtx::new();
            resume_in_random_order(live, sweeps, |_| start_ours(&ctx), resume_ours, |_| ())
        }
        "asyncjob, scheduler" => {
            small_stacks()?;
            scheduled::woken_at_random::<FRAMES>(&shuffled(live), WAKES, sweeps)
        }
        "tokio, wakers" => tokio::woken_at_random(&shuffled(live), WAKES, sweeps),
        "corosensei" => resume_in_random_order(live, sweeps, |_| start_bare(), resume_bare, |_| ()),
        "memory, 4 KiB pages" => touch_pages(live, sweeps, Pages::small(live)?),
        "memory, 2 MiB pages" => touch_pages(live, sweeps, Pages::huge(live)?),
        "memory, same lines" => touch_pages(live, sweeps, Pages::same_lines(live)?),
        _ => {
            let library = Async::new(&setup.c_library(peer)?)?;
            let start = |_| library.start_endless::<FRAMES>();
            resume_in_random_order(live, sweeps, start, |job| library.resume_endless(job), |_| ())
        }
    }
}

fn small_stacks() -> Result<(), Absent> {
    let config = PoolConfig::new().stack_size(StackSize::MIN).guard(STACK);
    init_thread(config).map_err(|error| Absent::new(error.to_string()))
}

type Ours = Option<Job<()>>;

fn start_ours(ctx: &WaitCtx) -> Result<Ours, Absent> {
    let body = || {
        pause_for_ever::<FRAMES>(|| {
            let _ = pause_job(); // these jobs are never cancelled
        });
    };
    match start_job(ctx, body) {
        Ok(Step::Paused(job)) => Ok(Some(job)),
        Ok(Step::Finished(())) => Err(Absent::new("a job that pauses for ever has finished")),
        Err(refused) => Err(Absent::new(refused.to_string())),
    }
}

#[inline(always)]
fn resume_ours(job: &mut Ours) {
    let Some(Step::Paused(again)) = job.take().map(Job::resume) else {
        panic!("a job that pauses for ever has finished")
    };
    *job = Some(again);
}

type Bare = Coroutine<(), (), (), DefaultStack>;

fn start_bare() -> Result<Bare, Absent> {
    let stack = DefaultStack::new(STACK).map_err(|error| Absent::new(format!("no stack: {error}")))?;
    let body = |yielder: &Yielder<(), ()>, ()| pause_for_ever::<FRAMES>(|| yielder.suspend(()));
    let mut job = Coroutine::with_stack(stack, body);
    job.resume(());
    Ok(job)
}

#[inline(always)]
fn resume_bare(job: &mut Bare) {
    assert!(matches!(job.resume(()), CoroutineResult::Yield(())));
}

fn touch_pages(live: usize, sweeps: u64, pages: Pages) -> Result<[f64; 2], Absent> {
    resume_in_random_order(live, sweeps, |at| Ok(pages.lines(at)), |lines| lines.touch(), |_| ())
}

/// Starts so many jobs, and resumes them again and again in a random order. `ahead` is called with each job some round
/// trips before the job is resumed. The jobs do not end before the process does.
fn resume_in_random_order<J>(
    live: usize,
    sweeps: u64,
    start: impl Fn(usize) -> Result<J, Absent>,
    resume: impl Fn(&mut J),
    ahead: impl Fn(&J),
) -> Result<[f64; 2], Absent> {
    let order = shuffled(live);
    let mut jobs: Vec<J> = Vec::with_capacity(live);
    let before = resident_with_page_tables();
    for at in 0..live {
        jobs.push(start(at).map_err(|why| Absent(format!("at {at} live jobs: {why}")))?);
    }
    let gained = resident_with_page_tables().saturating_sub(before + live * size_of::<J>());
    let round_trip = time_of_one(live, sweeps, |sweeps| {
        for _ in 0..sweeps {
            for (at, &index) in order.iter().enumerate() {
                if let Some(&next) = order.get(at + AHEAD) {
                    ahead(&jobs[next as usize]);
                }
                resume(&mut jobs[index as usize]);
            }
        }
    });
    std::mem::forget(jobs);
    Ok([round_trip, gained as f64 / live as f64])
}

/// Nanoseconds of one of the `live` steps that a sweep makes: the best of three times so many sweeps. The first time
/// fills the caches.
pub(crate) fn time_of_one(live: usize, sweeps: u64, mut sweep: impl FnMut(u64)) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..3 {
        let clock = Instant::now();
        sweep(sweeps);
        let steps = sweeps as f64 * live as f64;
        best = best.min(clock.elapsed().as_nanos() as f64 / steps);
    }
    best
}

/// 0 to `n - 1` in a random order, the same in each run (Fisher and Yates; xorshift).
fn shuffled(n: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n as u32).collect();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for last in (1..n).rev() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        order.swap(last, (random % (last as u64 + 1)) as usize);
    }
    order
}

/// Bytes of memory that this process has in RAM, and its page tables.
pub(crate) fn resident_with_page_tables() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |key| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<usize>().ok());
        number.unwrap_or(0)
    };
    (kib("VmRSS:") + kib("VmPTE:")) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_is_resumed_once_in_each_sweep() {
        let mut order = shuffled(1000);
        assert!(
            order.windows(2).filter(|pair| pair[0] + 1 == pair[1]).count() < 10,
            "the order is not random"
        );
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<u32>>());
    }
}
