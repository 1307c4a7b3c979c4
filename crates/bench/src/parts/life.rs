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
before. *At once*: a thousand are spawned before the first one is joined, and the figure is the share of one.";

const AT_ONCE: usize = 1000;

/// Measures every peer.
pub(crate) fn run(setup: &Setup) -> Section {
    let (group, at_once) = (group(setup), at_once(setup));
    let progress = Progress::new("life", group.ticks() + at_once.ticks());
    let measured = vec![("warm".to_string(), group.run(&progress))];
    let (warm, skipped) = Table::from_groups("warm", "An empty job, warm", measured);
    let measured = vec![("at-once".to_string(), at_once.run(&progress))];
    let (at_once, _) = Table::from_groups(
        "at-once",
        "A thousand empty jobs, spawned at once and joined: each",
        measured,
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
fn at_once(setup: &Setup) -> Group<'_> {
    let mut group = Group::new(setup, "corosensei", |name| life(name, Bare::default()));
    group.add("asyncjob, spawn and join", |name| scheduled::spawn_many(name, AT_ONCE));
    group.add("tokio::spawn", |name| tokio::spawn_many(name, AT_ONCE));
    group.add("smol, LocalExecutor", |name| smol::spawn_many(name, AT_ONCE));
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
