//! What a job adds to the poll of a future.

use crate::measure::Candidate;
use crate::peers::polls;
use crate::progress::Progress;
use crate::report::{Section, Table};
use crate::setup::{Group, Setup};

const TEXT: &str = "\
A poll of a future, and of the same future inside a job (`in_job`). *Not woken*: nothing has happened since the last
poll, as in a task that was woken for another of its futures. *By itself*: a poll wakes its own waker and does nothing
else, so the figure is what a job adds to any poll that resumes it. *Channel*: a send to a channel of tokio, and the
poll that receives. *Task*: a turn of a task of tokio that wakes itself. *Ready*: a future that is ready at once, from
the call that makes it to its drop; without a job it is a box.";

type Make = fn(&str) -> Candidate;

/// The columns: what is polled, without a job and inside one.
const COLUMNS: [(&str, Make, Make); 5] = [
    ("not woken", polls::not_woken, polls::not_woken_in_job),
    ("by itself", polls::itself, polls::itself_in_job),
    ("channel", polls::channel, polls::channel_in_job),
    ("task", polls::task, polls::task_in_job),
    ("ready", polls::ready, polls::ready_in_job),
];

/// Measures every kind of poll.
pub(crate) fn run(setup: &Setup) -> Section {
    let groups = COLUMNS.map(|column| (column.0.to_string(), group(setup, column)));
    let progress = Progress::new("poll", groups.iter().map(|(_, group)| group.ticks()).sum());
    let measured = groups.map(|(column, group)| (column, group.run(&progress))).into();
    let (table, skipped) = Table::from_groups("futures", "A poll, without a job and inside one", measured);
    Section {
        name: "poll",
        title: "Poll: a future inside a job",
        text: TEXT,
        tables: vec![table],
        skipped,
    }
}

/// Every group, with its name in `counts` and `--list`.
pub(crate) fn groups(setup: &Setup) -> impl Iterator<Item = (String, Group<'_>)> {
    COLUMNS
        .into_iter()
        .map(|column| (format!("poll, {}", column.0), group(setup, column)))
}

fn group<'a>(setup: &'a Setup, (_, without, within): (&str, Make, Make)) -> Group<'a> {
    let mut group = Group::new(setup, "without a job", without);
    group.add("asyncjob, in_job", within);
    group
}
