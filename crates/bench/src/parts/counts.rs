//! What the operations of the other parts consist of, in numbers that do not change from run to run.

use crate::child::count_words;
use crate::peer::Depth;
use crate::progress::Progress;
use crate::report::{Cell, Chart, Row, Section, Table};
use crate::setup::Setup;
use crate::trace::{Counts, per_operation};

use super::switch;

const TEXT: &str = "\
One operation, executed one instruction at a time. *Instructions* are those in user space. *Wrong returns* went elsewhere
than the last 32 calls let a processor expect: each costs about as much as a whole switch. *System calls* and *allocations*
(through Rust) as they say. These figures depend on the compiler, not on the machine or its load.";

/// Peers that do their work on this thread, so that stepping through it sees everything.
const SINGLE: [&str; 9] = [
    "corosensei",
    "asyncjob",
    "asyncjob, out of line",
    "asyncjob, JobBuilder",
    "asyncjob, C ABI",
    "generator",
    "ucontext",
    "tokio, yield_now",
    "tokio::spawn",
];

/// Counts the switch at three depths, and the life.
pub(crate) fn run(setup: &Setup) -> Section {
    let groups = [Depth::ALL[0], Depth::ALL[2], Depth::ALL[5]]
        .map(switch::name)
        .into_iter()
        .chain(["life".to_string()]);
    let work: Vec<(String, Vec<String>)> = groups.map(|group| (group.clone(), names(setup, &group))).collect();
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

fn names(setup: &Setup, group: &str) -> Vec<String> {
    let all = super::groups(setup);
    let group = all.iter().find(|(name, _)| name == group).expect("it is one of them");
    let single =
        |name: &String| SINGLE.contains(&name.as_str()) || name.starts_with("libcrypto") || name.starts_with("Boost");
    group.1.names().into_iter().filter(single).collect()
}

fn table(setup: &Setup, group: &str, names: &[String], progress: &Progress) -> Table {
    let n = setup.length.pick(10, 50, 200);
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
        columns: ["instructions", "wrong returns", "system calls", "allocations"]
            .map(String::from)
            .to_vec(),
        rows: rows.collect(),
        chart: Chart::None,
    }
}

fn cells(counts: Counts) -> Vec<Cell> {
    [
        counts.instructions,
        counts.misguessed,
        counts.system_calls,
        counts.allocations,
    ]
    .map(Cell::Number)
    .to_vec()
}
