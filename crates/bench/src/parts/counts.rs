//! Counts what the operations of the other parts consist of. The numbers do not change from run to run.

use crate::child::count_words;
use crate::peer::Depth;
use crate::progress::Progress;
use crate::report::{Cell, Chart, Row, Section, Table};
use crate::setup::Setup;
use crate::trace::{Counts, per_operation};

use super::switch;

const TEXT: &str = "\
One operation, executed one instruction at a time. *Instructions* are those in user space. *Mispredicted returns*
went to another address than the last 32 calls let a processor predict: each costs about as much as a whole switch.
*System calls* are counted at full speed, and *allocations* are those through Rust. These figures depend on the
compiler, and neither on the machine nor on its load.";

/// Peers that do their work on other threads, which are not stepped through.
const OTHER_THREADS: [&str; 4] = ["may", "two threads", "spawn_blocking", "std::thread"];

/// Counts the switch at three depths, an empty job and the wakes.
pub(crate) fn run(setup: &Setup) -> Section {
    let depths = [Depth::ALL[0], Depth::ALL[2], Depth::ALL[5]].map(switch::name);
    let groups = super::groups(setup)
        .into_iter()
        .filter(|(name, _)| !name.starts_with("switch") || depths.contains(name));
    let work: Vec<(String, Vec<String>)> = groups.map(|(name, group)| (name, single(group.names()))).collect();
    let progress = Progress::new("counts", work.iter().map(|(_, names)| names.len() as u64).sum());
    Section {
        name: "counts",
        title: "Counts: what an operation consists of",
        text: TEXT,
        tables: work
            .iter()
            .map(|(group, names)| table(setup, group, names, &progress))
            .collect(),
        skipped: Vec::new(),
    }
}

fn single(mut names: Vec<String>) -> Vec<String> {
    names.retain(|name| !name.ends_with("(control)") && !OTHER_THREADS.iter().any(|part| name.contains(part)));
    names
}

fn table(setup: &Setup, group: &str, names: &[String], progress: &Progress) -> Table {
    let n = setup.length.pick(20, 20, 100); // whole batches of 20
    let rows = names.iter().map(|name| {
        progress.tick(name);
        let cells = match per_operation(|n| count_words(group, name, n), n) {
            Ok(counts) => cells(counts),
            Err(why) => vec![Cell::Text(why.to_string()); 4],
        };
        Row {
            name: name.clone(),
            cells,
        }
    });
    Table {
        name: "operations",
        title: group.to_string(),
        unit: "for each operation",
        columns: ["instructions", "mispredicted returns", "system calls", "allocations"]
            .map(String::from)
            .to_vec(),
        rows: rows.collect(),
        chart: Chart::None,
    }
}

fn cells(counts: Counts) -> Vec<Cell> {
    [
        counts.instructions,
        counts.mispredicted,
        counts.system_calls,
        counts.allocations,
    ]
    .map(Cell::Number)
    .to_vec()
}
