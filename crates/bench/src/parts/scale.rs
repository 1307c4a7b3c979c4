//! What a job costs when many are live.

use std::collections::HashMap;

use crate::child::{crowd_peers, refusals, run_crowd};
use crate::machine::has_memory_for;
use crate::measure::quantile;
use crate::peer::{Absent, Crowd};
use crate::progress::Progress;
use crate::report::{Cell, Chart, Row, Section, Table};
use crate::setup::Setup;

const TEXT: &str = "\
So many jobs live at once, in a new process for each peer and number. *Round trip*: each job is resumed once in turn,
again and again; the figure for each job shows what caches and page tables cost. *Start* is from nothing to the first
pause, and *end* is from the last pause to the end. *Start* includes the time in which the kernel gives memory. *End*
includes the time in which it takes memory back only where that is in the end of a job: asyncjob gives its memory back a
second later, and libcrypto keeps it. *Resident* is the memory that the process gained in RAM. These jobs hardly touch
their stacks. Real jobs need more memory, with every peer.";

/// The figures of each peer for each number of live jobs.
type Results = HashMap<(String, usize), Result<Crowd, Absent>>;

/// Measures every peer that can have many live jobs, at every size.
pub(crate) fn run(setup: &Setup) -> Section {
    let peers = crowd_peers(setup);
    let sizes: &[usize] = setup.length.pick(
        &[1, 100],
        &[1, 100, 10_000, 100_000],
        &[1, 10, 100, 1000, 10_000, 100_000, 1_000_000],
    );
    let progress = Progress::new(
        "scale",
        sizes
            .iter()
            .map(|&live| (rounds(setup, live) * peers.len()) as u64)
            .sum(),
    );
    let mut results = Results::new();
    for &live in sizes {
        for (peer, result) in measure(&peers, live, rounds(setup, live), &results, &progress) {
            results.insert((peer, live), result);
        }
    }
    let table = |name, title: &str, unit, value: fn(&Crowd) -> f64| Table {
        name,
        title: title.into(),
        unit,
        columns: peers.clone(),
        rows: sizes.iter().map(|&live| row(&peers, live, &results, value)).collect(),
        chart: Chart::Lines,
    };
    Section {
        name: "scale",
        title: "Scale: 1 to 1,000,000 live jobs",
        text: TEXT,
        tables: vec![
            table("round-trip", "A round trip of one of n live jobs", "ns", |c| {
                c.round_trip
            }),
            table("resident", "Memory of one of n live jobs", "bytes", |c| c.resident),
            table("start", "The start of one of n jobs", "ns", |c| c.start),
            table("end", "The end of one of n jobs", "ns", |c| c.end),
        ],
        skipped: refusals(&peers, sizes, |peer, live| {
            results[&(peer, live)].as_ref().err().cloned()
        }),
    }
}

/// How often each crowd is measured. A million jobs take half a minute, and one measurement may be disturbed.
fn rounds(setup: &Setup, live: usize) -> usize {
    match live {
        1_000_000.. => 1,
        100_000.. => setup.length.pick(1, 1, 3),
        _ => setup.length.pick(1, 3, 5),
    }
}

/// Measures every peer at one size, in rounds: the medians, or the first reason why a peer cannot be measured.
fn measure(
    peers: &[String],
    live: usize,
    rounds: usize,
    before: &Results,
    progress: &Progress,
) -> Vec<(String, Result<Crowd, Absent>)> {
    let sweeps = (2_000_000 / live as u64).clamp(3, 20_000);
    let mut all: Vec<(String, Vec<Crowd>, Option<Absent>)> = peers
        .iter()
        .map(|peer| (peer.clone(), Vec::new(), cannot_fit(peer, live, before)))
        .collect();
    for _ in 0..rounds {
        for (peer, crowds, failed) in &mut all {
            progress.tick(peer);
            if failed.is_none() {
                match run_crowd(peer, live, sweeps) {
                    Ok(crowd) => crowds.push(crowd),
                    Err(why) => *failed = Some(why),
                }
            }
        }
    }
    let result = |(peer, crowds, failed): (String, Vec<Crowd>, Option<Absent>)| match failed {
        Some(why) => (peer, Err(why)),
        None => (peer, Ok(medians(&crowds))),
    };
    all.into_iter().map(result).collect()
}

/// Why a size cannot be measured: a smaller one has failed, or this machine has too little memory, judged by a smaller
/// one.
fn cannot_fit(peer: &str, live: usize, before: &Results) -> Option<Absent> {
    let sizes = before
        .keys()
        .filter(|(other, size)| other == peer && *size < live)
        .map(|(_, size)| *size);
    let largest = sizes.max()?;
    match &before[&(peer.to_string(), largest)] {
        Err(why) => Some(why.clone()),
        Ok(_) if live < 10_000 || largest < 1000 => None, // the memory of few jobs cannot be measured
        Ok(crowd) => has_memory_for(live, crowd.resident).err(),
    }
}

fn medians(crowds: &[Crowd]) -> Crowd {
    let median = |value: fn(&Crowd) -> f64| quantile(&crowds.iter().map(value).collect::<Vec<f64>>(), 0.5);
    Crowd {
        start: median(|crowd| crowd.start),
        round_trip: median(|crowd| crowd.round_trip),
        end: median(|crowd| crowd.end),
        resident: median(|crowd| crowd.resident),
    }
}

fn row(peers: &[String], live: usize, results: &Results, value: fn(&Crowd) -> f64) -> Row {
    let cell = |peer: &String| match &results[&(peer.clone(), live)] {
        Ok(crowd) => Cell::Number(value(crowd)),
        Err(_) => Cell::Text("none".into()),
    };
    Row {
        name: live.to_string(),
        cells: peers.iter().map(cell).collect(),
    }
}
