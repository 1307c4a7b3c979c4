//! A timeline as a drawing: an SVG that is readable on a light and on a dark page.
//!
//! ```text
//!   title, and in a sentence what the drawing shows
//!   thread   [run][run]   [run]          a row for each thread that runs jobs
//!   job #1   [run]......??[run]          the jobs: each runs, waits (.), is ready and waits for its thread (?)
//!   2 jobs      [run]..[run]  [run]....  one that starts later may have the row of one that has ended
//!   0 ms        10 ms        20 ms
//! ```

use std::fmt::Write;
use std::time::Duration;

use super::timeline::{Pause, Phase, PhaseKind, Run, Timeline};
use crate::wait_ctx::Status;

/// A part of a timeline to [`draw`].
#[derive(Clone, Copy, Debug)]
pub struct Panel<'a> {
    /// What stands above it.
    pub title: &'a str,
    /// What is drawn.
    pub timeline: &'a Timeline,
    /// The beginning of the part.
    pub from: Duration,
    /// The end of the part.
    pub to: Duration,
}

impl Timeline {
    /// A drawing of the whole timeline: see [`draw`].
    pub fn to_svg(&self) -> String {
        let runs = || self.tracks.iter().flat_map(|track| &track.runs);
        let from = runs().map(|run| run.from).min().unwrap_or_default();
        let to = runs().map(|run| run.from + run.ran).max().unwrap_or_default();
        let title = "";
        let timeline = self;
        draw(&[Panel {
            title,
            timeline,
            from,
            to,
        }])
    }
}

/// Draws parts of timelines below each other, on one scale. The result is an SVG.
///
/// Each thread has a row with its runs. Below are the jobs: when each ran, what it waited for, and how long it was
/// ready before its thread got to it. A job has the highest row in which no other one is at that time, so there are as
/// many rows as there were jobs at once. At most 24 rows are drawn.
///
/// ```
/// use asyncjob::insight::{Panel, Recorder, draw};
/// use std::time::Duration;
///
/// let timeline = Recorder::builder().timeline(1000).build().timeline();
/// let (from, to) = (Duration::ZERO, Duration::from_millis(100));
/// let svg = draw(&[Panel { title: "before", timeline: &timeline, from, to }]);
/// # assert!(svg.contains("before"));
/// ```
pub fn draw(panels: &[Panel<'_>]) -> String {
    let longest = panels.iter().map(|panel| panel.to.saturating_sub(panel.from)).max();
    let longest = longest.unwrap_or_default().max(Duration::from_nanos(1));
    let mut body = String::new();
    let names = names(panels);
    let top = legend(&mut body, &names);
    let mut y = top;
    for panel in panels {
        let sheet = Sheet {
            panel,
            names: &names,
            scale: f64::from(WIDTH) / longest.as_secs_f64(),
        };
        y = sheet.draw(&mut body, y);
    }
    y = axis(&mut body, top, y, longest);
    let width = LEFT + WIDTH + RIGHT;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {y}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<style>{STYLE}</style>\n\
         <rect class=\"page\" width=\"{width}\" height=\"{y}\"/>\n{body}</svg>\n"
    )
}

/// The sizes of the drawing.
const LEFT: u32 = 130;
const WIDTH: u32 = 850;
const RIGHT: u32 = 30;
const THREAD: u32 = 18;
const JOB: u32 = 9;
/// How many rows for jobs a panel has at most.
const MOST_LANES: usize = 24;

/// The colours of Okabe and Ito, which people who see few colours tell apart. They are readable on both pages.
const STYLE: &str = "\
    .page{fill:#fff}text{fill:#1f2328}.faint{fill:#59636e}.tick{stroke:#59636e;stroke-opacity:.25}\
    .n0{fill:#0072b2}.n1{fill:#009e73}.n2{fill:#cc79a7}.n3{fill:#e69f00}\
    .ready{fill:#d55e00}.call{fill:#56b4e9;fill-opacity:.45}.fd{fill:#8c959f;fill-opacity:.35}\
    .time{fill:#8c959f;fill-opacity:.15}\
    @media(prefers-color-scheme:dark){.page{fill:#0d1117}text{fill:#e6edf3}.faint{fill:#9198a1}.n0{fill:#2f9be0}}";
/// How many colours there are for names.
const COLOURS: usize = 4;

/// The names of the jobs that are drawn.
fn names<'a>(panels: &[Panel<'a>]) -> Vec<&'a str> {
    let runs = panels
        .iter()
        .flat_map(|panel| panel.timeline.tracks.iter().flat_map(|track| &track.runs));
    let mut names: Vec<_> = runs.map(|run| run.name.as_ref()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// What the colours mean. Returns where it ends.
fn legend(svg: &mut String, names: &[&str]) -> u32 {
    let runs = names
        .iter()
        .enumerate()
        .map(|(at, name)| (format!("n{}", at % COLOURS), format!("{name} runs")));
    let others = [
        ("ready", "is ready, and its thread runs others"),
        ("call", "waits for a callback"),
        ("fd", "waits for an fd, until its thread looks"),
        ("time", "waits for time"),
    ];
    let others = others.map(|(class, text)| (class.to_owned(), text.to_owned()));
    let (mut x, mut y) = (LEFT, 8);
    for (class, text) in runs.chain(others) {
        let width = 28 + 11 * text.chars().count() as u32 / 2;
        if x + width > LEFT + WIDTH && x > LEFT {
            (x, y) = (LEFT, y + 16);
        }
        let (text_x, text_y) = (x + 14, y + 9);
        let text = escaped(&text);
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"10\" height=\"10\"/>\
             <text x=\"{text_x}\" y=\"{text_y}\">{text}</text>"
        );
        x += width;
    }
    y + 18
}

/// The times below the panels, and lines from `top` down to them. Returns where the drawing ends.
fn axis(svg: &mut String, top: u32, y: u32, longest: Duration) -> u32 {
    let seconds = longest.as_secs_f64();
    let magnitude = 10f64.powf((seconds / 10.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * magnitude);
    let step = steps.into_iter().find(|step| seconds / step <= 10.0).unwrap_or(seconds);
    for tick in 0..=(seconds / step) as u32 {
        let at = f64::from(tick) * step;
        let x = f64::from(LEFT) + at / seconds * f64::from(WIDTH);
        let text = match tick {
            0 => "0".to_owned(),
            _ => format!("{:?}", Duration::from_secs_f64(at)),
        };
        let _ = writeln!(
            svg,
            "<path class=\"tick\" d=\"M{x:.1} {top}V{y}\"/>\
             <text class=\"faint\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{text}</text>",
            y + 12
        );
    }
    y + 20
}

/// A job, and what it did.
type Job<'a> = (u64, &'a [Phase<'a>]);

/// A panel that is being drawn.
struct Sheet<'a> {
    panel: &'a Panel<'a>,
    names: &'a [&'a str],
    /// Units of the drawing for each second.
    scale: f64,
}

/// The bars of one row. Those that are too narrow to point at share an element for each colour, and have no text.
#[derive(Default)]
struct Bars {
    wide: String,
    narrow: Vec<(String, String)>,
}

impl Sheet<'_> {
    /// Draws the panel below `y`. Returns where it ends.
    fn draw(&self, svg: &mut String, mut y: u32) -> u32 {
        let jobs = self.panel.timeline.jobs();
        let is_seen = |phase: &Phase<'_>| self.clipped(phase.from, phase.to).is_some();
        let mut jobs: Vec<Job<'_>> = jobs
            .iter()
            .map(|(job, phases)| (*job, phases.as_slice()))
            .filter(|(_, phases)| phases.iter().any(is_seen))
            .collect();
        jobs.sort_by_key(|(_, phases)| phases.first().map(|phase| phase.from));
        y += 20;
        let _ = writeln!(
            svg,
            "<text x=\"4\" y=\"{y}\" font-size=\"13\" font-weight=\"bold\">{}</text>\
             <text class=\"faint\" x=\"{LEFT}\" y=\"{y}\">{}</text>",
            escaped(self.panel.title),
            self.sentence(jobs.iter().flat_map(|(_, phases)| *phases))
        );
        y += 8;
        for track in &self.panel.timeline.tracks {
            let mut bars = Bars::default();
            for run in &track.runs {
                self.add(
                    &mut bars,
                    y,
                    THREAD,
                    run.from,
                    run.from + run.ran,
                    &self.class(run),
                    || format!("{} #{} runs for {:.1?}", run.name, run.job, run.ran),
                );
            }
            if bars.is_empty() {
                continue; // it has only woken jobs, or none in this part
            }
            let _ = writeln!(svg, "<text x=\"4\" y=\"{}\">{}</text>", y + 13, escaped(&track.thread));
            bars.write(svg);
            y += THREAD + 4;
        }
        let lanes = self.lanes(&jobs);
        for lane in lanes.iter().take(MOST_LANES) {
            let mut bars = Bars::default();
            for (job, phases) in lane {
                for phase in *phases {
                    let class = self.class_of(phase);
                    self.add(&mut bars, y, JOB, phase.from, phase.to, &class, || {
                        let name = format!("{} #{job}", phase.run.name);
                        format!("{name} {} for {:.1?}", phase.name(), phase.to - phase.from)
                    });
                }
            }
            let label = match lane[..] {
                [(job, phases)] => format!("{} #{job}", phases.first().map_or("", |phase| &phase.run.name)),
                _ => format!("{} jobs", lane.len()),
            };
            let (base, label) = (y + JOB - 1, escaped(&label));
            let _ = writeln!(
                svg,
                "<text class=\"faint\" x=\"4\" y=\"{base}\" font-size=\"9\">{label}</text>"
            );
            bars.write(svg);
            y += JOB + 2;
        }
        if lanes.len() > MOST_LANES {
            let more: usize = lanes.iter().skip(MOST_LANES).map(Vec::len).sum();
            let _ = writeln!(
                svg,
                "<text class=\"faint\" x=\"4\" y=\"{}\">and {more} jobs more</text>",
                y + 10
            );
            y += 14;
        }
        y + 4
    }

    /// Which jobs share a row: those of which one has ended when the next one starts.
    fn lanes<'j>(&self, jobs: &[Job<'j>]) -> Vec<Vec<Job<'j>>> {
        let mut lanes: Vec<(Duration, Vec<Job<'j>>)> = Vec::new();
        for job @ (_, phases) in jobs {
            let (Some(first), Some(last)) = (phases.first(), phases.last()) else {
                continue;
            };
            match lanes.iter_mut().find(|(free_from, _)| *free_from <= first.from) {
                Some((free_from, lane)) => {
                    *free_from = last.to;
                    lane.push(*job);
                }
                None => lanes.push((last.to, vec![*job])),
            }
        }
        lanes.into_iter().map(|(_, lane)| lane).collect()
    }

    /// What the panel shows, in a sentence.
    fn sentence<'p>(&self, phases: impl Iterator<Item = &'p Phase<'p>>) -> String {
        let (mut busy, mut longest) = (Duration::ZERO, Duration::ZERO);
        for phase in phases.filter(|phase| matches!(phase.kind, PhaseKind::Runs { .. })) {
            let Some((from, to)) = self.clipped(phase.from, phase.to) else {
                continue;
            };
            busy += to - from;
            longest = longest.max(phase.to - phase.from);
        }
        let tracks = self.panel.timeline.tracks.iter();
        let threads = tracks.filter(|track| !track.runs.is_empty()).count().max(1);
        let whole = self.panel.to.saturating_sub(self.panel.from).as_secs_f64() * threads as f64;
        let share = 100.0 * busy.as_secs_f64() / whole.max(1e-9);
        format!("jobs run {share:.0}% of the time, for {longest:.1?} at most without a pause")
    }

    /// The part of this time that the panel shows.
    fn clipped(&self, from: Duration, to: Duration) -> Option<(Duration, Duration)> {
        let (from, to) = (from.max(self.panel.from), to.min(self.panel.to));
        (from < to).then_some((from, to))
    }

    /// The colour of the name of a job.
    fn class(&self, run: &Run) -> String {
        let at = self.names.binary_search(&run.name.as_ref()).unwrap_or(0);
        format!("n{}", at % COLOURS)
    }

    fn class_of(&self, phase: &Phase<'_>) -> String {
        let wait = |pause: &Pause| match pause.status {
            Status::Ok | Status::Other(_) => "call",
            _ if !pause.fds.is_empty() => "fd",
            _ => "time",
        };
        match phase.kind {
            PhaseKind::Runs { .. } => self.class(phase.run),
            PhaseKind::Ready => "ready".to_owned(),
            PhaseKind::Waits { .. } => phase.run.pause.as_ref().map_or("time", wait).to_owned(),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "a place, a time and what to say of it")]
    fn add(
        &self,
        bars: &mut Bars,
        y: u32,
        height: u32,
        from: Duration,
        to: Duration,
        class: &str,
        title: impl FnOnce() -> String,
    ) {
        let Some((from, to)) = self.clipped(from, to) else {
            return;
        };
        let x = f64::from(LEFT) + (from - self.panel.from).as_secs_f64() * self.scale;
        let width = ((to - from).as_secs_f64() * self.scale).max(0.2);
        if width >= 4.0 {
            let title = escaped(&title());
            let _ = writeln!(
                bars.wide,
                "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{height}\">\
                 <title>{title}</title></rect>"
            );
            return;
        }
        let known = bars.narrow.iter().position(|(candidate, _)| candidate == class);
        let at = known.unwrap_or_else(|| {
            bars.narrow.push((class.to_owned(), String::new()));
            bars.narrow.len() - 1
        });
        let _ = write!(bars.narrow[at].1, "M{x:.1} {y}h{width:.1}v{height}h-{width:.1}z");
    }
}

impl Bars {
    fn is_empty(&self) -> bool {
        self.wide.is_empty() && self.narrow.is_empty()
    }

    fn write(&self, svg: &mut String) {
        svg.push_str(&self.wide);
        for (class, path) in &self.narrow {
            let _ = writeln!(svg, "<path class=\"{class}\" d=\"{path}\"/>");
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
