//! What it costs to wake a job, and how long a wake takes.

use hdrhistogram::Histogram;

use crate::peers::bare;
use crate::peers::kernel::{self, Kind};
use crate::peers::latency::{self, Load};
use crate::peers::{scheduled, tokio};
use crate::progress::Progress;
use crate::report::{Cell, Chart, Row, Section, Table};
use crate::setup::{Group, Setup};

const TEXT: &str = "\
From \"the engine is done\" to \"the job runs\". *Cost* is everything that happens on one thread for one wake: the
notification, the search for the ready job, the switch to the job and back. In a batch of 20 it is the share of one
wake. A wake by callback makes no system call. With a wake by fd the job drains its fd, as an engine does. The floor
of that is the same without any job: write, `epoll_wait`, read. *Latency* is the time from just before an engine on
another processor calls the waker until the job's next instruction, with two readings of the clock (about 40 ns).
*Busy*: another job is always ready. *Asleep*: the thread sleeps in the kernel.";

/// How many wakes a batch has. A figure is the share of one of them.
const BATCH: usize = 20;

/// Measures the costs, then the latencies.
pub(crate) fn run(setup: &Setup) -> Section {
    let groups = groups(setup);
    let progress = Progress::new("wake", groups.iter().map(|(_, group)| group.ticks()).sum());
    let mut tables = Vec::new();
    let mut skipped = Vec::new();
    for ((title, group), name) in groups.into_iter().zip(["callback", "eventfd", "eventfd-20", "pipe"]) {
        let measured = vec![(title.clone(), group.run(&progress))];
        let (table, missing) = Table::from_groups(name, &title, measured);
        tables.push(table);
        skipped.extend(missing);
    }
    if setup.cores.two() {
        tables.push(latencies(setup));
    }
    Section {
        name: "wake",
        title: "Wake: from done to running",
        text: TEXT,
        tables,
        skipped,
    }
}

/// The groups whose costs are compared.
pub(crate) fn groups(setup: &Setup) -> Vec<(String, Group<'_>)> {
    let callback = || {
        let mut group = Group::new(setup, "a queue of corosensei", |name| bare::queue(name, BATCH));
        group.add("asyncjob, callback", |name| scheduled::callbacks(name, BATCH));
        group.add("tokio, waker", |name| tokio::wakers(name, BATCH));
        group
    };
    let fd = |kind: Kind, floor: &str, what: &str, batch: usize| {
        let mut group = Group::new(setup, floor, |name| kernel::wake(name, kind, batch));
        group.add(&format!("asyncjob, {what}"), |name| scheduled::fds(name, kind, batch));
        group.add(&format!("tokio, AsyncFd over {what}"), |name| {
            tokio::fds(name, kind, batch)
        });
        group
    };
    let floor = "write, epoll_wait, read";
    vec![
        (format!("wake by callback, a batch of {BATCH}"), callback()),
        ("wake by eventfd".into(), fd(Kind::Eventfd, floor, "an eventfd", 1)),
        (
            format!("wake by eventfd, a batch of {BATCH}"),
            fd(Kind::Eventfd, floor, "an eventfd", BATCH),
        ),
        ("wake by pipe".into(), fd(Kind::Pipe, floor, "a pipe", 1)),
    ]
}

/// Measures every way to wake from another processor, in interleaved rounds.
fn latencies(setup: &Setup) -> Table {
    let rounds = setup.length.pick(1, 5, 20);
    let samples = setup.length.pick(10, 400, 1000);
    let mut ways = ways();
    ways.retain(|(name, _, _)| name.ends_with("(floor)") || setup.wants(name));
    let progress = Progress::new("latency", (rounds * ways.len()) as u64);
    let mut seen: Vec<Histogram<u64>> = ways.iter().map(|_| latency::histogram()).collect();
    for _ in 0..rounds {
        for ((name, load, wait), seen) in ways.iter().zip(&mut seen) {
            progress.tick(name);
            let more = latency::measure(setup.cores, samples, *load, |line| wait(line, *load));
            seen.add(more).expect("both count in the same digits");
        }
    }
    Table {
        name: "latency",
        title: "Latency of a wake from another processor".into(),
        unit: "ns",
        columns: ["median", "90%", "99%", "99.9%", "longest"].map(String::from).to_vec(),
        rows: ways
            .iter()
            .zip(&seen)
            .map(|((name, _, _), seen)| row(name, seen))
            .collect(),
        chart: Chart::Bars,
    }
}

type Way = (&'static str, Load, fn(&std::sync::Arc<latency::Exchange>, Load));

fn ways() -> Vec<Way> {
    vec![
        ("busy: a loop on a cache line (floor)", Load::Busy, |line, _| {
            latency::spinning(line)
        }),
        ("busy: asyncjob", Load::Busy, scheduled::woken_from_another_core),
        ("busy: tokio", Load::Busy, tokio::woken_from_another_core),
        ("asleep: thread::park (floor)", Load::Asleep, |line, _| {
            latency::parked(line)
        }),
        ("asleep: asyncjob", Load::Asleep, scheduled::woken_from_another_core),
        ("asleep: tokio", Load::Asleep, tokio::woken_from_another_core),
    ]
}

fn row(name: &str, seen: &Histogram<u64>) -> Row {
    let quantiles = [0.5, 0.9, 0.99, 0.999, 1.0].map(|q| Cell::Number(seen.value_at_quantile(q) as f64));
    Row {
        name: name.into(),
        cells: quantiles.to_vec(),
    }
}
