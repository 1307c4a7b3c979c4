//! Parts of a run that need a process of their own, because it is traced, or because its memory is measured from the
//! start.
//!
//! The program runs itself with `--child` and words that only this file writes and reads.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use crate::measure::Candidate;
use crate::parts::{self, memory};
use crate::peer::{Absent, Crowd, Peer, crowd};
use crate::peers::bare::Bare;
use crate::peers::generator::Gen;
use crate::peers::libcrypto::Async;
use crate::peers::ours::{Inlined, Ours};
use crate::setup::Setup;
use crate::{alloc, trace};

/// The options by which this program was told where its libraries are. A child gets them, too.
static LIBRARIES: OnceLock<Vec<String>> = OnceLock::new();

/// Children look for the libraries where this program does.
pub(crate) fn tell_libraries(libcryptos: &[PathBuf], capi: Option<&Path>) {
    let options = libcryptos.iter().map(|path| ("--libcrypto", &**path));
    let options = options.chain(capi.map(|path| ("--capi", path)));
    let words = options.flat_map(|(option, path)| [option.to_string(), path.display().to_string()]);
    LIBRARIES.get_or_init(|| words.collect());
}

/// The words for a child that does this.
fn words_for(what: &[&str]) -> Vec<String> {
    let told = LIBRARIES.get().into_iter().flatten().cloned();
    let what = ["--child"].iter().chain(what).map(ToString::to_string);
    told.chain(what).collect()
}

/// The words for `n` operations of a candidate between two stops.
pub(crate) fn count_words(part: &str, name: &str, n: u64) -> Vec<String> {
    words_for(&["count", part, name, &n.to_string()])
}

/// Runs a crowd of jobs in a process of its own. The peer is one of [`crowd_peers`].
pub(crate) fn run_crowd(peer: &str, live: usize, sweeps: u64) -> Result<Crowd, Absent> {
    let [start, round_trip, end, resident] = numbers(&["crowd", peer, &live.to_string(), &sweeps.to_string()])?;
    Ok(Crowd {
        start,
        round_trip,
        end,
        resident,
    })
}

/// The numbers that this program prints when it is called with `--child` and these words.
pub(crate) fn numbers<const N: usize>(words: &[&str]) -> Result<[f64; N], Absent> {
    let exe = std::env::current_exe().map_err(|e| Absent::new(e.to_string()))?;
    let mut command = Command::new(exe);
    command.args(words_for(words));
    command.env("RUST_BACKTRACE", "0"); // a backtrace needs memory, and there may be none left
    let output = within(CROWD_TIME, command).map_err(|e| Absent::new(e.to_string()))?;
    let printed = String::from_utf8_lossy(&output.stdout).trim().to_string();
    let numbers: Vec<f64> = printed.split(' ').filter_map(|word| word.parse().ok()).collect();
    match (output.status.success(), <[f64; N]>::try_from(numbers)) {
        (true, Ok(numbers)) => Ok(numbers),
        (true, Err(_)) => Err(Absent(printed)),
        (false, _) => Err(Absent::new(failure(&output))),
    }
}

/// The first size that each peer could not hold, and why.
pub(crate) fn refusals(
    peers: &[String],
    sizes: &[usize],
    why_not: impl Fn(String, usize) -> Option<Absent>,
) -> Vec<(String, Absent)> {
    let first = |peer: &String| {
        let refused = |live: &usize| Some((*live, why_not(peer.clone(), *live)?));
        let (live, why) = sizes.iter().find_map(refused)?;
        Some((format!("{peer}, {live} live jobs and more"), why))
    };
    peers.iter().filter_map(first).collect()
}

/// The limit of time for a crowd.
const CROWD_TIME: Duration = Duration::from_secs(90);

/// Runs a program to its end, or kills it.
fn within(limit: Duration, mut command: Command) -> io::Result<Output> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let clock = Instant::now();
    while child.try_wait()?.is_none() {
        if clock.elapsed() > limit {
            child.kill()?;
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output() // its output is a line or two, which the pipes hold
}

/// Why a process failed, from its standard error: a panic's message is on the second line.
fn failure(output: &Output) -> String {
    let printed = String::from_utf8_lossy(&output.stderr);
    let mut lines = printed
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with("thread "));
    match lines.next() {
        Some(line) => line.trim().to_string(),
        None => format!("the process ended with {}", output.status),
    }
}

/// Does what the words after `--child` say.
pub(crate) fn run(setup: &Setup, words: &[String]) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["count", part, name, n] => count(setup, part, name, number(n)),
        ["crowd", peer, live, sweeps] => match measure_crowd(setup, peer, number(live) as usize, number(sweeps)) {
            Ok(c) => println!("{} {} {} {}", c.start, c.round_trip, c.end, c.resident),
            Err(why) => println!("{why}"),
        },
        ["memory", peer, live, sweeps] => match memory::measure(setup, peer, number(live) as usize, number(sweeps)) {
            Ok([round_trip, resident]) => println!("{round_trip} {resident}"),
            Err(why) => println!("{why}"),
        },
        _ => panic!("`--child` is for this program's own use, not with {words:?}"),
    }
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("`{word}` is no number"))
}

/// Runs a candidate until it is warm, and once between two stops.
fn count(setup: &Setup, part: &str, name: &str, n: u64) {
    // What happens after a time happens in between when each step takes a thousand times as long.
    asyncjob::stack::set_idle_time(Duration::MAX);
    let mut candidate: Candidate = parts::find(setup, part, name).unwrap_or_else(|| panic!("no {name} in {part}"));
    for _ in 0..3 {
        (candidate.run)(2 * n);
    }
    let before = alloc::allocations();
    trace::mark();
    (candidate.run)(n);
    trace::mark();
    println!("{}", alloc::allocations() - before);
}

/// The peers that can hold a crowd, in the order of their columns.
pub(crate) fn crowd_peers(setup: &Setup) -> Vec<String> {
    let mut names: Vec<String> = ["corosensei", "asyncjob"].map(String::from).to_vec();
    names.extend(setup.c_libraries().into_iter().flatten().map(|found| found.name));
    names.push("generator".into());
    names.retain(|name| name == "corosensei" || setup.wants(name));
    names
}

fn measure_crowd(setup: &Setup, name: &str, live: usize, sweeps: u64) -> Result<Crowd, Absent> {
    match name {
        "corosensei" => fresh(&mut Bare::default(), live, sweeps),
        "asyncjob" => fresh(&mut Ours::<Inlined>::default(), live, sweeps),
        "generator" => fresh(&mut Gen::default(), live, sweeps),
        _ => fresh(&mut Async::new(&setup.c_library(name)?)?, live, sweeps),
    }
}

/// Runs a crowd after one other job, so that what a library does once is not measured.
fn fresh<P: Peer>(peer: &mut P, live: usize, sweeps: u64) -> Result<Crowd, Absent> {
    peer.empty();
    crowd(peer, live, sweeps)
}
