//! What the options of a pool cost.

use std::hint::black_box;
use std::thread;
use std::time::Instant;

use asyncjob::pool::{PoolConfig, init_thread};
use asyncjob::stack::{SecretPolicy, StackSize};
use asyncjob::{Step, WaitCtx, start_job};

use crate::measure::Candidate;
use crate::progress::Progress;
use crate::report::{Section, Table};
use crate::setup::{Group, Setup};

const TEXT: &str = "\
A job from its start to its end, one after another on a warm stack of 64 KiB, with each option of a pool. A column
says how much of its stack the job uses, because an option measures or wipes what has been used.";

/// Measures every option.
pub(crate) fn run(setup: &Setup) -> Section {
    let columns = [
        ("500 bytes used", use_little as fn() -> u8),
        ("20,000 bytes used", use_much),
    ];
    let groups = columns.map(|(column, body)| (column.to_string(), group(setup, body)));
    let progress = Progress::new("options", groups.iter().map(|(_, group)| group.ticks()).sum());
    let measured = groups.map(|(column, group)| (column, group.run(&progress)));
    let (table, skipped) = Table::from_groups("pool", "A job, by the options of its pool", measured.into());
    Section {
        name: "options",
        title: "Options: what a pool is asked for",
        text: TEXT,
        tables: vec![table],
        skipped,
    }
}

fn group(setup: &Setup, body: fn() -> u8) -> Group<'_> {
    let plain = PoolConfig::new().stack_size(StackSize::at_least(64 << 10));
    let options = [
        ("scrub", plain.secrets(SecretPolicy::new().scrub())),
        ("dont_dump", plain.secrets(SecretPolicy::new().dont_dump())),
        ("mlock", plain.secrets(SecretPolicy::new().mlock())),
        ("scrub and mlock", plain.secrets(SecretPolicy::new().scrub().mlock())),
        ("exact high water", plain.exact_high_water(true)),
    ];
    let mut group = Group::new(setup, "none", |name| candidate(name, plain, body));
    for (name, config) in options {
        group.add(name, |name| candidate(name, config, body));
    }
    group
}

/// Each run is on a thread of its own, because a pool belongs to a thread.
fn candidate(name: &str, config: PoolConfig, body: fn() -> u8) -> Candidate {
    Candidate::new(name, move |n| {
        let run = || {
            init_thread(config).expect("a valid configuration");
            let ctx = WaitCtx::new();
            let once = || match start_job(&ctx, body) {
                Ok(Step::Finished(byte)) => byte,
                Ok(Step::Paused(_)) => unreachable!("the job does not pause"),
                Err(refused) => panic!("{refused}"),
            };
            black_box(once());
            let clock = Instant::now();
            for _ in 0..n {
                black_box(once());
            }
            clock.elapsed()
        };
        thread::scope(|scope| scope.spawn(run).join().expect("it does not panic"))
    })
}

#[inline(never)]
fn use_little() -> u8 {
    black_box([1u8; 400])[7]
}

#[inline(never)]
fn use_much() -> u8 {
    black_box([1u8; 19_900])[7]
}
