//! What a job costs from its start to its end.

use crate::peer::life;
use crate::peers::bare::Bare;
use crate::peers::generator::Gen;
use crate::peers::libcrypto::Async;
use crate::peers::ours::{Built, Inlined, Ours, OutOfLine};
use crate::peers::ucontext::Ucontext;
use crate::peers::{boost, may, scheduled, smol, threads, tokio};
use crate::progress::Progress;
use crate::report::{Section, Table};
use crate::setup::{Group, Setup};

const TEXT: &str = "\
A job that does nothing, from its start to its end, one after another. *Warm*: each job runs on the stack of the one
before. *At once*: so many are spawned before the first one is joined, and the figure is the share of one.";

const AT_ONCE: [usize; 2] = [1000, 10_000];

/// Measures every peer.
pub(crate) fn run(setup: &Setup) -> Section {
    let (group, at_once) = (group(setup), AT_ONCE.map(|jobs| at_once(setup, jobs)));
    let ticks = at_once.iter().map(Group::ticks).sum::<u64>();
    let progress = Progress::new("life", group.ticks() + ticks);
    let measured = vec![("warm".to_string(), group.run(&progress))];
    let (warm, skipped) = Table::from_groups("warm", "An empty job, warm", measured);
    let columns = AT_ONCE.iter().map(|jobs| format!("{jobs} at once"));
    let measured = columns.zip(at_once.into_iter().map(|group| group.run(&progress)));
    let (at_once, _) = Table::from_groups(
        "at-once",
        "Empty jobs, spawned at once and joined: each",
        measured.collect(),
    );
    Section {
        name: "life",
        title: "Life: start to end",
        text: TEXT,
        tables: vec![warm, at_once],
        skipped,
    }
}

/// Not in `counts`: a batch is too many instructions to be executed one at a time.
fn at_once(setup: &Setup, jobs: usize) -> Group<'_> {
    let mut group = Group::new(setup, "corosensei", |name| life(name, Bare::default()));
    group.add("asyncjob, spawn and join", move |name| {
        scheduled::spawn_many(name, jobs)
    });
    group.add("tokio::spawn", move |name| tokio::spawn_many(name, jobs));
    group.add("smol, LocalExecutor", move |name| smol::spawn_many(name, jobs));
    group
}

pub(crate) fn group(setup: &Setup) -> Group<'_> {
    let mut group = Group::new(setup, "corosensei", |name| life(name, Bare::default()));
    group.add("asyncjob", |name| life(name, Ours::<Inlined>::default()));
    group.add("asyncjob, out of line", |name| life(name, Ours::<OutOfLine>::default()));
    group.add("asyncjob, JobBuilder", |name| life(name, Ours::<Built>::default()));
    group.add_c_libraries(|name, found| Ok(life(name, Async::new(found)?)));
    group.add("generator", |name| life(name, Gen::default()));
    match boost::open() {
        Ok(name) => group.add(&name, boost::life),
        Err(why) => group.skip("Boost.Context", why),
    }
    group.add("ucontext", |name| life(name, Ucontext::default()));
    group.add("asyncjob, spawn and join", |name| scheduled::spawn_join(name, 0));
    group.add("may, spawn and join", may::life);
    group.add("tokio::spawn", tokio::spawn);
    group.add("smol, LocalExecutor", smol::spawn);
    group.add("tokio, spawn_blocking", tokio::spawn_blocking);
    group.add("std::thread", threads::life);
    group
}
