//! Which job ran when on which thread: a file for Perfetto and `chrome://tracing`, and a drawing.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

use serde_json::json;

/// The last runs of each thread: see [`Recorder::timeline`](super::Recorder::timeline).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Timeline {
    /// The threads.
    pub tracks: Vec<Track>,
}

/// The runs of one thread.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Track {
    /// The name of the thread.
    pub thread: String,
    /// The runs, in the order in which they ended. A job that starts or resumes another one runs around it.
    pub runs: Vec<Run>,
}

/// A job that ran from its start or a resume to its next pause or its end.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Run {
    /// The name that the job has for the recorder.
    pub name: Cow<'static, str>,
    /// A number that no other job of the recorder has.
    pub job: u64,
    /// When it began, counted from the making of the recorder.
    pub from: Duration,
    /// How long it ran.
    pub ran: Duration,
}

impl Timeline {
    /// A file that [Perfetto](https://ui.perfetto.dev) and `chrome://tracing` open: the Trace Event Format. Each thread
    /// has its runs, and each job has a line of its own with its runs, between which it was paused.
    pub fn to_chrome_json(&self) -> String {
        let mut events = Vec::new();
        for (thread, track) in self.tracks.iter().enumerate() {
            let args = json!({ "name": track.thread });
            events.push(json!({ "ph": "M", "name": "thread_name", "pid": 1, "tid": thread, "args": args }));
            for run in &track.runs {
                let (from, to) = (micros(run.from), micros(run.from + run.ran));
                let args = json!({ "job": run.job });
                events.push(json!({
                    "ph": "X", "name": run.name, "cat": "run", "pid": 1, "tid": thread, "args": args,
                    "ts": from, "dur": micros(run.ran),
                }));
                for (phase, at) in [("b", from), ("e", to)] {
                    events.push(json!({
                        "ph": phase, "name": run.name, "cat": "job", "pid": 1, "tid": thread,
                        "id": run.job, "ts": at,
                    }));
                }
            }
        }
        json!({ "traceEvents": events, "displayTimeUnit": "ns" }).to_string()
    }

    /// A drawing: a line for each thread, a bar for each run, a colour for each name.
    pub fn to_svg(&self) -> String {
        let runs = || self.tracks.iter().flat_map(|track| &track.runs);
        let from = runs().map(|run| run.from).min().unwrap_or_default();
        let to = runs().map(|run| run.from + run.ran).max().unwrap_or_default();
        let scale = f64::from(WIDTH) / micros(to - from).max(1.0);
        let mut names: Vec<_> = runs().map(|run| &run.name).collect();
        names.sort_unstable();
        names.dedup();
        let colour = |name| COLOURS[names.binary_search(&name).unwrap_or(0) % COLOURS.len()];
        let height = TOP + ROW * self.tracks.len();
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" font-family=\"sans-serif\" \
             font-size=\"11\">\n",
            LEFT + WIDTH
        );
        for (i, name) in names.iter().enumerate() {
            let at = LEFT as usize + 110 * i;
            let _ = writeln!(
                svg,
                "<rect x=\"{at}\" y=\"4\" width=\"10\" height=\"10\" fill=\"{}\"/><text x=\"{}\" y=\"13\">{}</text>",
                colour(name),
                at + 14,
                escaped(name)
            );
        }
        for (i, track) in self.tracks.iter().enumerate() {
            let y = TOP + ROW * i;
            let _ = writeln!(svg, "<text x=\"2\" y=\"{}\">{}</text>", y + 14, escaped(&track.thread));
            for run in &track.runs {
                let _ = writeln!(
                    svg,
                    "<rect x=\"{:.2}\" y=\"{y}\" width=\"{:.2}\" height=\"18\" fill=\"{}\"><title>{} #{}: {:.1?}\
                     </title></rect>",
                    f64::from(LEFT) + micros(run.from - from) * scale,
                    (micros(run.ran) * scale).max(0.3),
                    colour(&run.name),
                    escaped(&run.name),
                    run.job,
                    run.ran
                );
            }
        }
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{:.1?}</text>\n</svg>",
            LEFT + WIDTH - 2,
            13,
            to - from
        );
        svg
    }
}

/// The sizes of the drawing.
const LEFT: u32 = 120;
const WIDTH: u32 = 1000;
const TOP: usize = 24;
const ROW: usize = 22;
/// The colours of Okabe and Ito, which people who see few colours tell apart.
const COLOURS: [&str; 7] = [
    "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442",
];

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
