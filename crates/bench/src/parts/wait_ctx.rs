//! What a wait ctx costs the engine that writes it and the application that reads it.

use crate::measure::Candidate;
use crate::peer::Absent;
use crate::peers::engine::{self, Call, Told};
use crate::peers::libcrypto::Found;
use crate::progress::Progress;
use crate::report::{Section, Table};
use crate::setup::{Group, Setup};

const TEXT: &str = "\
*Calls*: one function of the wait ctx, or two that belong together, on a ctx with one wait fd and a callback. In Rust
`fds` returns a vector, `callback` a waker that is counted, and a wait fd is a value of any type; libcrypto and
the drop-in write plain words. *Operations*: all that an engine and its application call for one operation, from the
start of its job to its end, with one pause, but for what the kernel does: the engine asks for the ctx of its job and
tells it how its end will be told, and the application asks what has changed and what to wait for. Ratios are to
libcrypto. No fd is opened, closed or waited for.";

const CALLS: [(&str, Call); 5] = [
    ("get_fd", Call::GetFd),
    ("get_all_fds", Call::GetAllFds),
    ("get_callback", Call::GetCallback),
    ("set and clear", Call::SetAndClear),
    ("new and free", Call::NewAndFree),
];

const OPERATIONS: [(&str, Told); 4] = [
    ("a stable fd", Told::StableFd),
    ("the callback", Told::Callback),
    ("an fd for each", Told::FdOfEach),
    ("a ctx for each", Told::CtxOfEach),
];

/// Measures every call and every operation. Without a libcrypto there is nothing to compare with.
pub(crate) fn run(setup: &Setup) -> Section {
    let mut section = Section {
        name: "wait_ctx",
        title: "Wait ctx: what an engine and its application call",
        text: TEXT,
        tables: Vec::new(),
        skipped: Vec::new(),
    };
    let floor = match &setup.libcryptos {
        Ok(found) => &found[0],
        Err(why) => {
            section.skipped.push(("libcrypto".into(), why.clone()));
            return section;
        }
    };
    let calls = CALLS.map(|(column, call)| (column.to_string(), calls(setup, floor, call)));
    let operations = OPERATIONS.map(|(column, told)| (column.to_string(), operations(setup, floor, told)));
    let all = calls.iter().chain(&operations);
    let progress = Progress::new("wait_ctx", all.map(|(_, group)| group.ticks()).sum());
    let measured = |groups: Vec<(String, Group)>| {
        let run = |(column, group): (String, Group)| (column, group.run(&progress));
        groups.into_iter().map(run).collect()
    };
    let (table, skipped) = Table::from_groups("calls", "Calls of the wait ctx", measured(calls.into()));
    section.tables.push(table);
    section.skipped = skipped;
    let (table, _) = Table::from_groups("operations", "Operations of an engine", measured(operations.into()));
    section.tables.push(table);
    section
}

fn calls<'a>(setup: &'a Setup, floor: &Found, call: Call) -> Group<'a> {
    let floor_of = |name: &str| engine::call(name, floor, call).expect("libcrypto has all of <openssl/async.h>");
    let mut group = Group::new(setup, &floor.name, floor_of);
    add_others(setup, floor, &mut group, |name, found| engine::call(name, found, call));
    group.add("asyncjob", |name| engine::call_in_rust(name, call));
    group
}

fn operations<'a>(setup: &'a Setup, floor: &Found, told: Told) -> Group<'a> {
    let floor_of = |name: &str| engine::operation(name, floor, told).expect("libcrypto has all of <openssl/async.h>");
    let mut group = Group::new(setup, &floor.name, floor_of);
    add_others(setup, floor, &mut group, |name, found| {
        engine::operation(name, found, told)
    });
    group.add("asyncjob", |name| engine::operation_in_rust(name, told));
    group
}

/// Adds every library with the C interface but the floor.
fn add_others(
    setup: &Setup,
    floor: &Found,
    group: &mut Group<'_>,
    make: impl Fn(&str, &Found) -> Result<Candidate, Absent>,
) {
    for library in setup.c_libraries() {
        match library {
            Ok(found) if found.name == floor.name => {}
            Ok(found) => group.try_add(&found.name.clone(), |name| make(name, &found)),
            Err((name, why)) => group.skip(name, why),
        }
    }
}
