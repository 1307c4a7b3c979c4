//! What a context switch costs: every peer beside the floor, interleaved in one run.
//!
//! ```text
//!   peers --> candidates -- parts --> rounds -- measure --> summaries -- report --> markdown, JSON, SVG
//!   (one file a peer)  (one file a question)  (interleaved)
//! ```
//!
//! The README of this crate says how it measures and what the numbers mean.

#[allow(unsafe_code, reason = "a global allocator")]
mod alloc;
mod child;
mod depth;
#[allow(unsafe_code, reason = "sched_setaffinity")]
mod machine;
mod measure;
mod parts;
mod peer;
mod peers;
mod progress;
mod report;
mod setup;
#[allow(unsafe_code, reason = "ptrace")]
#[cfg_attr(not(target_arch = "x86_64"), path = "trace_missing.rs")]
mod trace;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;

use machine::Cores;
use measure::Effort;
use peer::Absent;
use report::{Report, Section};
use setup::{Length, Setup};

/// What a context switch costs: asyncjob, its floor and its peers, interleaved in one run.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// A shorter run, of about three minutes.
    #[arg(long)]
    quick: bool,
    /// Run everything a few times, to show that it works. The times mean nothing.
    #[arg(long, conflicts_with = "quick")]
    once: bool,
    /// Only peers with this in their name, beside their floor (may be repeated).
    #[arg(long, value_name = "NAME")]
    peer: Vec<String>,
    /// Only this part: switch, life, wait_ctx, wake, poll, scale, memory, options, work, counts (may be repeated).
    #[arg(long, value_name = "PART")]
    part: Vec<String>,
    /// Name every peer, and for each that was not found the reason.
    #[arg(long)]
    list: bool,
    /// The directory for the report: report.md, report.json and plots/*.svg.
    #[arg(long, value_name = "DIR", default_value = "target/asyncjob-bench")]
    out: PathBuf,
    /// One more libcrypto to measure (may be repeated).
    #[arg(long, value_name = "PATH")]
    libcrypto: Vec<PathBuf>,
    /// The C ABI of asyncjob, if it is not beside this program.
    #[arg(long, value_name = "PATH")]
    capi: Option<PathBuf>,
    /// For this program's own use.
    #[arg(long, hide = true, num_args = 1..)]
    child: Vec<String>,
}

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

/// A part of a run: its name, and what runs it.
type Part = (&'static str, fn(&Setup) -> Section);

const PARTS: [Part; 10] = [
    ("switch", parts::switch::run),
    ("life", parts::life::run),
    ("wait_ctx", parts::wait_ctx::run),
    ("wake", parts::wake::run),
    ("poll", parts::poll::run),
    ("scale", parts::scale::run),
    ("memory", parts::memory::run),
    ("options", parts::options::run),
    ("work", parts::work::run),
    ("counts", parts::counts::run),
];

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let setup = prepare(&args);
    if args.list {
        list(&setup);
        return Ok(());
    }
    machine::pin(setup.cores.main);
    if !args.child.is_empty() {
        child::run(&setup, &args.child);
        return Ok(());
    }
    let parts = chosen(&args.part)?;
    let clock = Instant::now();
    let mut report = Report {
        about: machine::describe(setup.cores),
        sections: Vec::new(),
    };
    for (_, run) in parts {
        let section = run(&setup);
        print(&section);
        report.sections.push(section);
    }
    let command: Vec<String> = std::env::args().skip(1).collect();
    report.about.push(("arguments", command.join(" ")));
    report
        .about
        .push(("duration", format!("{} s", clock.elapsed().as_secs())));
    save(&report, &args.out)
}

fn prepare(args: &Args) -> Setup {
    let length = match (args.once, args.quick) {
        (true, _) => Length::Once,
        (_, true) => Length::Quick,
        _ => Length::Full,
    };
    let mut setup = Setup {
        cores: Cores::choose(),
        effort: Effort {
            rounds: length.pick(1, 61, 201),
            batch: Duration::from_micros(length.pick(1, 500, 1000)),
        },
        length,
        only: args.peer.clone(),
        libcryptos: Err(Absent::new("no search was made")),
        capi: Err(Absent::new("no search was made")),
    };
    setup.find(&args.libcrypto, args.capi.clone());
    child::tell_libraries(&args.libcrypto, args.capi.as_deref());
    setup
}

/// The parts that were asked for, in the order of `PARTS`.
fn chosen(names: &[String]) -> Result<Vec<Part>, String> {
    let known = PARTS.map(|(name, _)| name);
    if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(format!("there is no part `{name}`; the parts are {}", known.join(", ")));
    }
    let wanted = |name: &str| names.is_empty() || names.iter().any(|n| n == name);
    Ok(PARTS.into_iter().filter(|(name, _)| wanted(name)).collect())
}

fn list(setup: &Setup) {
    for (part, group) in parts::groups(setup) {
        println!("{part}:");
        group.names().iter().for_each(|name| println!("  {name}"));
        group
            .skipped()
            .iter()
            .for_each(|(name, why)| println!("  ({name} is absent: {why})"));
    }
}

fn print(section: &Section) {
    let mut text = String::new();
    report::markdown::write_section(&mut text, section, "");
    println!("{text}");
}

fn save(report: &Report, dir: &Path) -> Result<(), Box<dyn Error>> {
    let plots = dir.join("plots");
    fs::create_dir_all(&plots)?;
    fs::write(dir.join("report.md"), report::markdown::write(report, "plots"))?;
    fs::write(dir.join("report.json"), report::json::write(report))?;
    report::plot::write(report, &plots)?;
    println!("written to {}", dir.display());
    Ok(())
}
