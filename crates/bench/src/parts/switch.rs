//! What it costs to pause a job and to resume it.

use crate::peer::{Depth, switch};
use crate::peers::bare::Bare;
use crate::peers::generator::Gen;
use crate::peers::libcrypto::Async;
use crate::peers::ours::{Built, Inlined, Ours, OutOfLine};
use crate::peers::ucontext::Ucontext;
use crate::peers::{boost, may, threads, tokio};
use crate::progress::Progress;
use crate::report::{Section, Table};
use crate::setup::{Group, Setup};

const TEXT: &str = "\
One job, paused and resumed in a loop. A figure is one round trip: into the job and back. Ratios are to bare
corosensei at the same depth. *job n, caller m*: between its loop and its pause the job goes down n frames, and
returns through them each time; the caller does the same with m frames around its resume. What a job does between its
pauses is not in these figures, and neither are its cache misses, so they are a lower bound of what a switch costs a
program.";

/// Measures every peer at every depth.
pub(crate) fn run(setup: &Setup) -> Section {
    let groups: Vec<(Depth, Group)> = Depth::ALL.map(|depth| (depth, group(setup, depth))).into();
    let progress = Progress::new("switch", groups.iter().map(|(_, group)| group.ticks()).sum());
    let measured = groups
        .into_iter()
        .map(|(depth, group)| (column(depth), group.run(&progress)))
        .collect();
    let (table, skipped) = Table::from_groups("depths", "A round trip of one job", measured);
    Section {
        name: "switch",
        title: "Switch: pause and resume",
        text: TEXT,
        tables: vec![table],
        skipped,
    }
}

/// The name of the group of that depth.
pub(crate) fn name(depth: Depth) -> String {
    format!("switch, {}", column(depth))
}

fn column(depth: Depth) -> String {
    format!("job {}, caller {}", depth.job, depth.caller)
}

/// Every peer at one depth. A peer that is resumed by a scheduler of its own has no caller with frames, and appears at
/// caller 0 only.
pub(crate) fn group<'a>(setup: &'a Setup, depth: Depth) -> Group<'a> {
    let mut group = Group::new(setup, "corosensei", |name| switch(name, Bare::default(), depth));
    group.add("asyncjob", |name| switch(name, Ours::<Inlined>::default(), depth));
    group.add("asyncjob, out of line", |name| {
        switch(name, Ours::<OutOfLine>::default(), depth)
    });
    group.add("asyncjob, JobBuilder", |name| {
        switch(name, Ours::<Built>::default(), depth)
    });
    group.add_c_libraries(|name, found| Ok(switch(name, Async::new(found)?, depth)));
    group.add("generator", |name| switch(name, Gen::default(), depth));
    match boost::open() {
        Ok(name) => group.add(&name, |name| boost::switch(name, depth)),
        Err(why) => group.skip("Boost.Context", why),
    }
    group.add("ucontext", |name| switch(name, Ucontext::default(), depth));
    if depth.caller == 0 {
        group.add("may, yield_now", |name| may::switch(name, depth.job));
    }
    if depth == Depth::ALL[0] {
        without_frames(setup, &mut group);
    }
    group
}

/// Adds peers that have no stack to go down, and peers whose threads cost so much that a few frames do not matter.
fn without_frames(setup: &Setup, group: &mut Group) {
    group.add("tokio, yield_now", tokio::switch);
    group.add("a system call", threads::system_call);
    group.add("two threads, park, one core", threads::park_one_core);
    group.add("two threads, condvar, one core", threads::condvar_one_core);
    if setup.cores.two() {
        group.add("two threads, condvar, two cores", |name| {
            threads::condvar_two_cores(name, setup.cores)
        });
        group.add("two threads, spinning, two cores", |name| {
            threads::spin_two_cores(name, setup.cores)
        });
    }
}
