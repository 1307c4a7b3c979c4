//! A timeline as a drawing: an SVG that is readable on a light and on a dark page.
//!
//! ```text
//!   title, and in a sentence what the drawing shows
//!   thread   [run][run]   [run]          a row for each thread that runs jobs
//!   job #1   [run]......??[run]          a row for each job: it runs, waits (.), is ready and waits for its thread (?)
//!   job #2      [run]......
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
/// Each thread has a row with its runs. Each job has a row: when it ran, what it waited for, and how long it was ready
/// before its thread got to it. If there are more than 20 jobs, 20 of them are drawn, evenly chosen from all in the
/// order of their starts.
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
    let mut y = legend(&mut body, &names);
    for panel in panels {
        let sheet = Sheet {
            panel,
            names: &names,
            scale: f64::from(WIDTH) / longest.as_secs_f64(),
        };
        y = sheet.draw(&mut body, y);
    }
    y = axis(&mut body, y, longest);
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
const RIGHT: u32 = 20;
const THREAD: u32 = 18;
const JOB: u32 = 9;
/// How many jobs a panel has at most.
const MOST_JOBS: usize = 20;

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
        ("fd", "waits for an fd"),
        ("time", "waits for time"),
    ];
    let others = others.map(|(class, text)| (class.to_owned(), text.to_owned()));
    let (mut x, mut y) = (LEFT, 8);
    for (class, text) in runs.chain(others) {
        let width = 30 + 6 * text.chars().count() as u32;
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

/// The times below the panels. Returns where the drawing ends.
fn axis(svg: &mut String, y: u32, longest: Duration) -> u32 {
    let seconds = longest.as_secs_f64();
    let magnitude = 10f64.powf((seconds / 10.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * magnitude);
    let step = steps.into_iter().find(|step| seconds / step <= 10.0).unwrap_or(seconds);
    for tick in 0..=(seconds / step) as u32 {
        let at = f64::from(tick) * step;
        let x = f64::from(LEFT) + at / seconds * f64::from(WIDTH);
        let text = format!("{:?}", Duration::from_secs_f64(at));
        let _ = writeln!(
            svg,
            "<path class=\"tick\" d=\"M{x:.1} 30V{y}\"/>\
             <text class=\"faint\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{text}</text>",
            y + 12
        );
    }
    y + 20
}

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
        let mut jobs: Vec<_> = jobs
            .iter()
            .filter(|(_, phases)| phases.iter().any(|phase| self.clipped(phase.from, phase.to).is_some()))
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
        let count = jobs.len().min(MOST_JOBS);
        for at in 0..count {
            let (job, phases) = jobs[at * jobs.len() / count];
            let mut bars = Bars::default();
            for phase in phases {
                let class = self.class_of(phase);
                self.add(&mut bars, y, JOB, phase.from, phase.to, &class, || {
                    format!(
                        "{} #{job} {} for {:.1?}",
                        phase.run.name,
                        phase.name(),
                        phase.to - phase.from
                    )
                });
            }
            let name = phases.first().map_or("", |phase| phase.run.name.as_ref());
            let _ = writeln!(
                svg,
                "<text class=\"faint\" x=\"4\" y=\"{}\" font-size=\"9\">{} #{job}</text>",
                y + JOB - 1,
                escaped(name)
            );
            bars.write(svg);
            y += JOB + 2;
        }
        if jobs.len() > count {
            let more = jobs.len() - count;
            let _ = writeln!(
                svg,
                "<text class=\"faint\" x=\"4\" y=\"{}\">and {more} more</text>",
                y + 10
            );
            y += 14;
        }
        y + 4
    }

    /// What the panel shows, in a sentence.
    fn sentence<'p>(&self, phases: impl Iterator<Item = &'p Phase<'p>>) -> String {
        let (mut busy, mut ready) = (Duration::ZERO, Vec::new());
        for phase in phases {
            let Some((from, to)) = self.clipped(phase.from, phase.to) else {
                continue;
            };
            match phase.kind {
                PhaseKind::Runs { .. } => busy += to - from,
                PhaseKind::Ready => ready.push(phase.to - phase.from),
                PhaseKind::Waits { .. } => {}
            }
        }
        let tracks = self.panel.timeline.tracks.iter();
        let threads = tracks.filter(|track| !track.runs.is_empty()).count().max(1);
        let whole = self.panel.to.saturating_sub(self.panel.from).as_secs_f64() * threads as f64;
        let share = 100.0 * busy.as_secs_f64() / whole.max(1e-9);
        ready.sort_unstable();
        let (Some(median), Some(longest)) = (ready.get(ready.len() / 2), ready.last()) else {
            return format!("jobs run {share:.0}% of the time");
        };
        format!(
            "jobs run {share:.0}% of the time; a job that is ready waits {median:.1?} for its thread in the median, \
             {longest:.1?} at most"
        )
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
        if width >= 1.5 {
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
