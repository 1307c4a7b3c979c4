//! Draws timelines that `insight::Timeline::to_chrome_json` has written, below each other and on one scale: an SVG on
//! the standard output.
//!
//! ```text
//!   cargo run --features insight --example timeline -- trace.json > trace.svg
//!   cargo run --features insight --example timeline -- --length 50 before.json after.json > both.svg
//! ```
//!
//! The same files open in `ui.perfetto.dev`, where one can look closer.

use std::error::Error;
use std::fs;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use asyncjob::insight::{Panel, Timeline, draw};
use clap::Parser;

/// Draws recorded timelines as an SVG.
#[derive(Debug, Parser)]
struct Options {
    /// The files. The name of each stands above its part of the drawing.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Milliseconds of each timeline that are drawn.
    #[arg(long, value_name = "MS", default_value = "100", value_parser = milliseconds)]
    length: Duration,
    /// Where to begin, in milliseconds after the start of the recorder [default: in the middle of the runs].
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    from: Option<Duration>,
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "it must be a number, as 2.5".to_owned())?;
    Duration::try_from_secs_f64(number / 1000.0).map_err(|_| "it must be a finite number, 0 or more".to_owned())
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("timeline: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let mut timelines = Vec::new();
    for file in &options.files {
        timelines.push(read(file).map_err(|error| format!("{}: {error}", file.display()))?);
    }
    let titles = options.files.iter().map(|file| file.file_stem().unwrap_or_default());
    let titles: Vec<_> = titles.map(|stem| stem.to_string_lossy()).collect();
    let panels = timelines.iter().zip(&titles).map(|(timeline, title)| {
        let from = options.from.unwrap_or_else(|| middle(timeline, options.length));
        Panel {
            title,
            timeline,
            from,
            to: from + options.length,
        }
    });
    let svg = draw(&panels.collect::<Vec<_>>());
    Ok(stdout().write_all(svg.as_bytes())?)
}

fn read(file: &Path) -> std::io::Result<Timeline> {
    Timeline::from_chrome_json(&fs::read_to_string(file)?)
}

/// Where to begin, so that as many runs are before the middle of the drawing as behind it.
fn middle(timeline: &Timeline, length: Duration) -> Duration {
    let runs = timeline.tracks.iter().flat_map(|track| &track.runs);
    let mut starts: Vec<_> = runs.map(|run| run.from).collect();
    starts.sort_unstable();
    let middle = starts.get(starts.len() / 2).copied().unwrap_or_default();
    middle.saturating_sub(length / 2)
}
