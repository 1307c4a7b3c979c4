//! The C programs of this directory and `openssl speed`, on stock OpenSSL and with our library preloaded, in one run.
//!
//! ```text
//!   round 1: stock, ours    round 2: stock, ours    ...    each program pinned to one processor
//!   each line: the median of the rounds for both, and their ratio
//! ```
//!
//! `openssl speed` uses an engine that really pauses, through a pipe. The control calls no function of either library.
//! Its ratio says how much the machine changed between the two.
//!
//! ```sh
//! cargo bench -p asyncjob-capi
//! ```
//!
//! `ASYNCJOB_STOCK=<directory>` compares with the libcrypto.so.3 in that directory, such as a build of OpenSSL 3.5:
//! `.ci/openssl35 --bench` does so with that of Debian 13.

use std::collections::BTreeMap;
use std::env;
use std::process::Command;

#[path = "../tests/support/mod.rs"]
mod support;

use asyncjob_testing::tools::{self, CC, OPENSSL_HEADERS, TASKSET, missing};
use support::{OPENSSL, On, compile, printed};

const ROUNDS: usize = 15;

fn main() {
    if missing(&[CC, OPENSSL_HEADERS, tools::OPENSSL, TASKSET]) {
        return;
    }
    let quick = env::args().any(|argument| argument == "--test"); // as `cargo test --benches` calls it
    let rounds = if quick { 1 } else { ROUNDS };
    let cycles = compile("benches/cycles.c", &[&["-O2"], OPENSSL].concat());
    let memory = compile("tests/c/paused_memory.c", OPENSSL);

    println!("{:32} {:>10} {:>10} {:>8}", "", "stock", "ours", "ratio");
    let mut calls = Table::default();
    for _ in 0..rounds {
        for on in [On::Stock, On::Ours] {
            for line in printed(pinned(on.command(&cycles))).lines() {
                let (name, nanoseconds) = line.split_once(' ').expect("a name and a number");
                calls.add(&format!("{name} (ns)"), on, nanoseconds.parse().expect("a number"));
            }
        }
    }
    calls.print(|stock, ours| stock / ours);

    let mut bytes = Table::default();
    for on in [On::Stock, On::Ours] {
        let each = printed(on.command(&memory)).trim().parse().expect("a number");
        bytes.add("paused job (bytes)", on, each);
    }
    bytes.print(|stock, ours| stock / ours);

    let mut speed = Table::default();
    for _ in 0..if quick { 1 } else { 5 } {
        for jobs in ["1", "8", "64"] {
            for on in [On::Stock, On::Ours] {
                speed.add(
                    &format!("openssl speed, {jobs} jobs (kB/s)"),
                    on,
                    openssl_speed(on, jobs),
                );
            }
        }
    }
    speed.print(|stock, ours| ours / stock);
}

/// Measurements by name, in the order of the first of each.
#[derive(Default)]
struct Table {
    names: Vec<String>,
    values: BTreeMap<(String, bool), Vec<f64>>,
}

impl Table {
    fn add(&mut self, name: &str, on: On, value: f64) {
        if !self.names.iter().any(|known| known == name) {
            self.names.push(name.into());
        }
        self.values
            .entry((name.into(), on == On::Ours))
            .or_default()
            .push(value);
    }

    /// `ratio` says how many times better ours is.
    fn print(&self, ratio: fn(f64, f64) -> f64) {
        for name in &self.names {
            let [stock, ours] = [false, true].map(|ours| median(&self.values[&(name.clone(), ours)]));
            println!("{name:32} {stock:>10.1} {ours:>10.1} {:>8.2}", ratio(stock, ours));
        }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// How many kB of SHA-1 `openssl speed` does in a second, in jobs that pause for each 64 bytes (`engine.c`).
fn openssl_speed(on: On, jobs: &str) -> f64 {
    let engine = compile("benches/engine.c", &["-shared", "-fPIC", "-O2", "-lcrypto"]);
    let mut command = on.command("openssl");
    command.args(["speed", "-elapsed", "-seconds", "1", "-bytes", "64", "-engine"]);
    command.arg(engine).args(["-async_jobs", jobs, "sha1"]);
    let output = printed(pinned(command));
    let line = output.lines().find(|line| line.starts_with("sha1")).expect("a result");
    let number = line.split_whitespace().nth(1).expect("kilobytes a second");
    number.trim_end_matches('k').parse().expect("a number")
}

/// The same command on one processor.
fn pinned(command: Command) -> Command {
    let mut pinned = Command::new("taskset");
    pinned
        .args(["-c", "1"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => pinned.env(name, value),
            None => pinned.env_remove(name),
        };
    }
    pinned
}
