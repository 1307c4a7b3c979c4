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
One job, paused and resumed in a loop; a figure is one round trip: into the job and back. Ratios are to bare
corosensei at the same depth. *job n, caller m*: between its loop and its pause the job goes down n frames and returns
through them again each time; the caller does the same with m frames around its resume. What a job does between its
pauses is not in here, nor are its caches: this is a lower bound of what a switch costs a program.";

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

/// What the group of that depth is called.
pub(crate) fn name(depth: Depth) -> String {
    format!("switch, {}", column(depth))
}

fn column(depth: Depth) -> String {
    format!("job {}, caller {}", depth.job, depth.caller)
}

/// Every peer at one depth. A peer whose caller has no frames of ours (a scheduler resumes it) appears at caller 0
/// only.
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

/// Peers that have no stack to be deep in, or for which a few frames are lost in the cost of a thread.
fn without_frames(setup: &Setup, group: &mut Group) {
    group.add("tokio, yield_now", tokio::switch);
    group.add("a system call", threads::system_call);
    group.add("two threads, park, one core", threads::park_here);
    group.add("two threads, condvar, one core", threads::condvar_here);
    if setup.cores.two() {
        group.add("two threads, condvar, two cores", |name| {
            threads::condvar_away(name, setup.cores)
        });
        group.add("two threads, spinning, two cores", |name| {
            threads::spin_away(name, setup.cores)
        });
    }
}
