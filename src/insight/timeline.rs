//! Which job ran when on which thread, what it waited for in between, and what woke it: a file for Perfetto and
//! `chrome://tracing`.
//!
//! A hook keeps a [`KeptRun`] for each run, without a lookup or a text in it. [`Timeline::of`] makes what a person
//! reads of them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::Arc;
use std::thread::{Thread, ThreadId};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use smallvec::SmallVec;

use super::fd_kind;
use crate::wait_ctx::{Interest, Status, WaitCtx, WaitFd, WaitFdOptions, WaitKey, WakeCause, waits_for};

/// The last runs of each thread: see [`Recorder::timeline`](super::Recorder::timeline).
///
/// All times are counted from the making of the recorder.
///
/// ```
/// use asyncjob::insight::{Recorder, Timeline};
/// use asyncjob::scheduler::Scheduler;
/// use asyncjob::{JobBuilder, time::sleep};
/// use std::time::Duration;
///
/// let recorder = Recorder::builder().timeline(1000).build();
/// let scheduler = Scheduler::new()?;
/// let job = JobBuilder::new().hooks(recorder.job("sleeper"));
/// job.spawn_on(&scheduler, || sleep(Duration::from_millis(1)))?.detach();
/// scheduler.run()?;
///
/// let timeline = recorder.timeline();
/// let runs = &timeline.tracks[0].runs;
/// assert_eq!(runs[0].pause.as_ref().unwrap().deadline.is_some(), true);
/// assert_eq!((runs.len(), &runs[1].pause), (2, &None)); // it has ended
///
/// let file = timeline.to_chrome_json(); // for ui.perfetto.dev
/// assert_eq!(Timeline::from_chrome_json(&file)?, timeline);
/// let svg = timeline.to_svg();
/// # assert!(svg.contains("sleeper"));
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Timeline {
    /// The threads that have run jobs, and those that have only woken some.
    pub tracks: Vec<Track>,
    /// When the timeline was taken. A job whose last run has a pause is paused until then.
    pub taken: Duration,
}

/// The runs of one thread.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Track {
    /// The name of the thread, or the number that std gives it.
    pub thread: String,
    /// The runs, in the order in which they ended. A job that starts or resumes another one runs around it.
    pub runs: Vec<Run>,
}

/// A job that ran from its start or a resume to its next pause or its end.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Run {
    /// The name that the job has for the recorder.
    pub name: Cow<'static, str>,
    /// The number of its [`JobId`](crate::JobId), by which a [`dump`](super::dump) names it, too.
    pub job: u64,
    /// When it began.
    pub from: Duration,
    /// How long it ran.
    pub ran: Duration,
    /// What made the job ready. `None` at its start, and if code drives it by hand and calls no callback.
    pub wake: Option<Wake>,
    /// What the job waits for after the run. `None` if it has ended.
    pub pause: Option<Pause>,
}

/// What has made a paused job ready.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Wake {
    /// When it came: the call of a callback, on whatever thread, or when the driver of the job has found out.
    pub at: Duration,
    /// What it was.
    pub cause: WakeCause,
    /// The thread on which it came: an index into [`Timeline::tracks`].
    pub track: usize,
}

/// What a job waited for.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Pause {
    /// The wait fds that counted, and what each fd was, as `/proc/self/fd` has it: `socket:[4711]`, say.
    pub fds: Vec<(WaitFd, String)>,
    /// What the engine said that the job waited for.
    pub status: Status,
    /// The time at which the job was to be resumed at the latest.
    pub deadline: Option<Duration>,
    /// When the pause began.
    pub from: Duration,
}

/// What a hook keeps of a run. Times are nanoseconds since the recorder was made.
#[derive(Clone)]
pub(super) struct KeptRun {
    /// The place of the name of the job: see [`Kept::names`].
    pub(super) name: usize,
    pub(super) job: u64,
    pub(super) from: u64,
    pub(super) ran: u64,
    pub(super) wake: Option<KeptWake>,
    pub(super) pause: Option<KeptPause>,
}

/// What a hook keeps of a wake.
#[derive(Clone, Debug)]
pub(super) struct KeptWake {
    pub(super) at: u64,
    pub(super) cause: WakeCause,
    pub(super) thread: Thread,
}

/// What a hook keeps of a pause.
#[derive(Clone, Debug)]
pub(super) struct KeptPause {
    fds: SmallVec<[(WaitFd, Arc<str>); 1]>,
    status: Status,
    deadline: Option<Instant>,
}

/// What the wait fds of one job are. To find out costs a system call, and a job waits for the same few again and again.
#[derive(Debug, Default)]
pub(super) struct FdKinds(Vec<(WaitKey, RawFd, Arc<str>)>);

/// How many a job remembers.
const MOST_KINDS: usize = 4;

impl FdKinds {
    /// What the job of this ctx waits for now. `fds` are those of the ctx.
    pub(super) fn pause(&mut self, ctx: &WaitCtx, fds: Vec<WaitFd>) -> KeptPause {
        KeptPause {
            fds: fds.into_iter().map(|fd| (fd, self.kind(&fd))).collect(),
            status: ctx.status(),
            deadline: ctx.deadline(),
        }
    }

    fn kind(&mut self, fd: &WaitFd) -> Arc<str> {
        let known = self
            .0
            .iter()
            .find(|(key, number, _)| (*key, *number) == (fd.key, fd.fd));
        if let Some((.., kind)) = known {
            return Arc::clone(kind);
        }
        let kind: Arc<str> = fd_kind(fd.fd).into();
        if self.0.len() == MOST_KINDS {
            self.0.remove(0);
        }
        self.0.push((fd.key, fd.fd, Arc::clone(&kind)));
        kind
    }
}

/// The runs that a thread has kept.
pub(super) struct Kept {
    pub(super) thread: ThreadId,
    pub(super) thread_name: String,
    /// The names of the jobs, by their places.
    pub(super) names: Vec<String>,
    pub(super) runs: Vec<KeptRun>,
}

/// The name of a thread, or the number that std gives it.
pub(super) fn name_of(thread: &Thread) -> String {
    let number = || format!("{:?}", thread.id());
    thread.name().map_or_else(number, str::to_owned)
}

impl Timeline {
    /// The timeline of what the threads have kept since `began`.
    pub(super) fn of(began: Instant, threads: Vec<Kept>) -> Self {
        let since = |at: Instant| at.saturating_duration_since(began);
        let taken = since(Instant::now());
        let mut ids: Vec<_> = threads.iter().map(|kept| kept.thread).collect();
        let mut names: Vec<_> = threads.iter().map(|kept| kept.thread_name.clone()).collect();
        let mut track_of = |thread: &Thread| {
            let known = ids.iter().position(|id| *id == thread.id());
            known.unwrap_or_else(|| {
                ids.push(thread.id());
                names.push(name_of(thread));
                ids.len() - 1
            })
        };
        let mut run = |kept: KeptRun, names: &[String]| Run {
            name: names[kept.name].clone().into(),
            job: kept.job,
            from: Duration::from_nanos(kept.from),
            ran: Duration::from_nanos(kept.ran),
            wake: kept.wake.map(|wake| Wake {
                at: Duration::from_nanos(wake.at),
                cause: wake.cause,
                track: track_of(&wake.thread),
            }),
            pause: kept.pause.map(|pause| Pause {
                fds: pause.fds.into_iter().map(|(fd, kind)| (fd, kind.to_string())).collect(),
                status: pause.status,
                deadline: pause.deadline.map(since),
                from: Duration::from_nanos(kept.from + kept.ran),
            }),
        };
        let runs: Vec<Vec<_>> = threads
            .into_iter()
            .map(|kept| kept.runs.into_iter().map(|one| run(one, &kept.names)).collect())
            .collect();
        let mut runs = runs.into_iter();
        let tracks = names.into_iter().map(|thread| Track {
            thread,
            runs: runs.next().unwrap_or_default(),
        });
        Timeline {
            tracks: tracks.collect(),
            taken,
        }
    }

    /// What happened to each job, in the order of time.
    pub(super) fn jobs(&self) -> BTreeMap<u64, Vec<Phase<'_>>> {
        let mut runs: BTreeMap<u64, Vec<(usize, &Run)>> = BTreeMap::new();
        for (track, of_track) in self.tracks.iter().enumerate() {
            for run in &of_track.runs {
                runs.entry(run.job).or_default().push((track, run));
            }
        }
        runs.into_iter()
            .map(|(job, runs)| (job, phases(runs, self.taken)))
            .collect()
    }
}

/// What happened to one job, whose runs these are, up to the time `taken`.
fn phases(mut runs: Vec<(usize, &Run)>, taken: Duration) -> Vec<Phase<'_>> {
    runs.sort_by_key(|(_, run)| run.from);
    let mut phases = Vec::with_capacity(3 * runs.len());
    for (at, &(track, run)) in runs.iter().enumerate() {
        let ended = run.from + run.ran;
        phases.push(Phase {
            kind: PhaseKind::Runs { track },
            run,
            from: run.from,
            to: ended,
        });
        let next = runs.get(at + 1).map(|(_, next)| *next);
        if run.pause.is_none() {
            continue;
        }
        let resumed = next.map_or(taken.max(ended), |next| next.from);
        // A wake may come before the pause.
        let woken = next.and_then(|next| next.wake.as_ref());
        let woken = woken.map_or(resumed, |wake| wake.at.clamp(ended, resumed));
        phases.push(Phase {
            kind: PhaseKind::Waits {
                is_over: next.is_some(),
            },
            run,
            from: ended,
            to: woken,
        });
        if let Some(next) = next {
            phases.push(Phase {
                kind: PhaseKind::Ready,
                run: next,
                from: woken,
                to: resumed,
            });
        }
    }
    phases
}

/// What a job does for a while.
pub(super) struct Phase<'a> {
    pub(super) kind: PhaseKind,
    /// The run, or the one after which the job waits, or the one for which it is ready.
    pub(super) run: &'a Run,
    pub(super) from: Duration,
    pub(super) to: Duration,
}

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PhaseKind {
    /// It runs on this track.
    Runs { track: usize },
    /// It waits for what the pause of the run says. The last wait may not be over.
    Waits { is_over: bool },
    /// It has been woken, and its thread has not got to it.
    Ready,
}

impl Phase<'_> {
    pub(super) fn name(&self) -> String {
        match (self.kind, &self.run.pause) {
            (PhaseKind::Runs { .. }, _) => "runs".to_owned(),
            (PhaseKind::Ready, _) => "ready".to_owned(),
            (PhaseKind::Waits { .. }, pause) => format!(
                "waits for {}",
                pause.as_ref().map_or_else(String::new, Pause::to_string)
            ),
        }
    }
}

/// In words: what the job waited for.
impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fds = self.fds.iter().map(|(fd, kind)| (fd, Some(kind.as_str())));
        let left = self.deadline.map(|at| at.as_secs_f64() - self.from.as_secs_f64());
        f.write_str(&waits_for(fds, self.status, left))
    }
}

// The file is the Trace Event Format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
//
//   M        the names of the process and of the threads
//   X run    a run, on the track of its thread; flow_in: the arrow from its wake ends here
//   X wake   of no duration, on the track of the thread on which the wake came; flow_out: the arrow begins here
//   b e      the phases of a job, within one from its start to its end: a track of its own, as they have its id and one
//            category
//
// Times are microseconds, with three digits after the point.

impl Timeline {
    /// A file that [Perfetto](https://ui.perfetto.dev) opens, and `chrome://tracing` where Chromium has it (156 has it
    /// no longer): the Trace Event Format.
    ///
    /// Each thread has a track with its runs and the wakes that came on it, from which arrows lead to the runs. Each
    /// job has a track, too, which says when it ran, what it waited for, and how long it was ready before it ran.
    pub fn to_chrome_json(&self) -> String {
        let mut events = vec![meta("process_name", 0, &program_name())];
        for (track, of_track) in self.tracks.iter().enumerate() {
            events.push(meta("thread_name", track, &of_track.thread));
        }
        let mut last_flow = 0;
        for (track, of_track) in self.tracks.iter().enumerate() {
            for run in &of_track.runs {
                let mut event = event("X", "run", &run.name, track, run.from);
                event["dur"] = micros(run.ran);
                event["args"] = run.to_json();
                if let Some(wake) = &run.wake {
                    last_flow += 1;
                    event["bind_id"] = json!(format!("{last_flow:#x}"));
                    event["flow_in"] = json!(true);
                    events.push(wake.to_event(run, last_flow));
                }
                events.push(event);
            }
        }
        for (job, phases) in self.jobs() {
            events.extend(job_events(job, &phases));
        }
        let other = json!({ "taken": micros(self.taken) });
        json!({ "traceEvents": events, "displayTimeUnit": "ns", "otherData": other }).to_string()
    }

    /// Reads what [`to_chrome_json`](Self::to_chrome_json) has written.
    ///
    /// # Errors
    ///
    /// The text is no JSON, or was not written by that function.
    pub fn from_chrome_json(text: &str) -> io::Result<Timeline> {
        let file: Value = serde_json::from_str(text)?;
        read_file(&file).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, NOT_OURS))
    }
}

const NOT_OURS: &str = concat!(
    "the file is not one that `Timeline::to_chrome_json` has written",
    guide_page!("timeline")
);

/// The number of the thread of a track. The process has the number 1, and a thread of the same number would count as
/// its main thread.
fn tid(track: usize) -> u64 {
    track as u64 + 2
}

fn event(phase: &str, category: &str, name: &str, track: usize, at: Duration) -> Value {
    json!({ "ph": phase, "cat": category, "name": name, "pid": 1, "tid": tid(track), "ts": micros(at) })
}

fn meta(kind: &str, track: usize, name: &str) -> Value {
    json!({ "ph": "M", "name": kind, "pid": 1, "tid": tid(track), "args": { "name": name } })
}

fn program_name() -> String {
    let program = std::env::current_exe().ok();
    let name = program.as_ref().and_then(|path| path.file_name());
    name.map_or_else(|| "jobs".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The phases of a job, which follow each other, within one from the first to the last.
fn job_events(job: u64, phases: &[Phase<'_>]) -> Vec<Value> {
    let (Some(first), Some(last)) = (phases.first(), phases.last()) else {
        return Vec::new();
    };
    let PhaseKind::Runs { track } = first.kind else {
        return Vec::new();
    };
    // The events of one job are on one track: that of its first run, on whose thread it stays.
    let of_job = |phase: &str, name: &str, at: Duration| {
        let mut event = event(phase, "job", name, track, at);
        event["id"] = json!(format!("{job:#x}"));
        event
    };
    let whole = format!("{} #{job}", first.run.name);
    let mut events = vec![of_job("b", &whole, first.from)];
    for phase in phases {
        let name = phase.name();
        let mut begin = of_job("b", &name, phase.from);
        if let PhaseKind::Waits { is_over: false } = phase.kind {
            begin["args"] = json!({ "until": "the timeline was taken" });
        }
        events.push(begin);
        events.push(of_job("e", &name, phase.to));
    }
    events.push(of_job("e", &whole, last.to));
    events
}

impl Run {
    /// What a click on the run shows, and what [`read_run`] reads.
    fn to_json(&self) -> Value {
        json!({
            "job": self.job,
            "woken_by": self.wake.as_ref().map(Wake::to_json),
            "pause": self.pause.as_ref().map(Pause::to_json),
        })
    }
}

impl Wake {
    fn to_event(&self, run: &Run, flow: u64) -> Value {
        let mut event = event(
            "X",
            "wake",
            &format!("wakes {} #{}", run.name, run.job),
            self.track,
            self.at,
        );
        event["dur"] = json!(0);
        event["bind_id"] = json!(format!("{flow:#x}"));
        event["flow_out"] = json!(true);
        event["args"] = json!({ "by": self.cause.to_string() });
        event
    }

    fn to_json(&self) -> Value {
        json!({ "cause": self.cause.to_string(), "ts": micros(self.at), "tid": tid(self.track) })
    }
}

impl Pause {
    fn to_json(&self) -> Value {
        let fd = |(fd, kind): &(WaitFd, String)| {
            json!({
                "fd": fd.fd,
                "kind": kind,
                "key": format!("{:#x}", fd.key.to_addr()),
                "readable": fd.interest.is_readable(),
                "writable": fd.interest.is_writable(),
                "only_when_armed": fd.only_when_armed,
            })
        };
        json!({
            "waits_for": self.to_string(),
            "fds": self.fds.iter().map(fd).collect::<Vec<_>>(),
            "status": self.status.to_raw(),
            "deadline": self.deadline.map(micros),
        })
    }
}

fn read_file(file: &Value) -> Option<Timeline> {
    let events = file["traceEvents"].as_array()?;
    let of = |phase: &'static str, kind: &'static str, value: &'static str| {
        events
            .iter()
            .filter(move |event| event["ph"] == phase && event[kind] == value)
    };
    let names = of("M", "name", "thread_name").map(|event| event["args"]["name"].as_str());
    let track = |name: Option<&str>| {
        Some(Track {
            thread: name?.to_owned(),
            runs: Vec::new(),
        })
    };
    let mut tracks: Vec<_> = names.map(track).collect::<Option<_>>()?;
    for event in of("X", "cat", "run") {
        let run = read_run(event)?;
        tracks.get_mut(read_track(&event["tid"])?)?.runs.push(run);
    }
    Some(Timeline {
        tracks,
        taken: read_micros(&file["otherData"]["taken"])?,
    })
}

fn read_track(tid: &Value) -> Option<usize> {
    usize::try_from(tid.as_u64()?.checked_sub(2)?).ok()
}

fn read_run(event: &Value) -> Option<Run> {
    let (from, ran) = (read_micros(&event["ts"])?, read_micros(&event["dur"])?);
    let args = &event["args"];
    let (wake, pause) = (&args["woken_by"], &args["pause"]);
    Some(Run {
        name: event["name"].as_str()?.to_owned().into(),
        job: args["job"].as_u64()?,
        from,
        ran,
        wake: if wake.is_null() { None } else { Some(read_wake(wake)?) },
        pause: if pause.is_null() {
            None
        } else {
            Some(read_pause(pause, from + ran)?)
        },
    })
}

fn read_wake(wake: &Value) -> Option<Wake> {
    let cause = wake["cause"].as_str()?;
    let by_text = |candidate: &WakeCause| candidate.to_string() == cause;
    let known = [
        WakeCause::Callback,
        WakeCause::Deadline,
        WakeCause::Watch,
        WakeCause::Retry,
        WakeCause::Cancel,
    ];
    let cause = match known.into_iter().find(by_text) {
        Some(cause) => cause,
        None => WakeCause::Fd(cause.strip_prefix("fd ")?.parse().ok()?),
    };
    Some(Wake {
        at: read_micros(&wake["ts"])?,
        cause,
        track: read_track(&wake["tid"])?,
    })
}

fn read_pause(pause: &Value, from: Duration) -> Option<Pause> {
    let fds = pause["fds"].as_array()?.iter().map(|fd| {
        let key = usize::from_str_radix(fd["key"].as_str()?.strip_prefix("0x")?, 16).ok()?;
        let interest = match (fd["readable"].as_bool()?, fd["writable"].as_bool()?) {
            (true, true) => Interest::Both,
            (false, true) => Interest::Writable,
            _ => Interest::Readable,
        };
        let mut options = WaitFdOptions::new().interest(interest);
        if fd["only_when_armed"].as_bool()? {
            options = options.only_when_armed();
        }
        let key = WaitKey::from_ptr(ptr::without_provenance::<u8>(key));
        let number = fd["fd"].as_i64().and_then(|fd| RawFd::try_from(fd).ok())?;
        Some((WaitFd::new(key, number, options), fd["kind"].as_str()?.to_owned()))
    });
    let deadline = &pause["deadline"];
    Some(Pause {
        fds: fds.collect::<Option<_>>()?,
        status: Status::from_raw(i32::try_from(pause["status"].as_i64()?).ok()?),
        deadline: if deadline.is_null() {
            None
        } else {
            Some(read_micros(deadline)?)
        },
        from,
    })
}

/// Microseconds. The digits after the point are nanoseconds, and the number is the nearest one to them.
fn micros(time: Duration) -> Value {
    json!(time.as_nanos() as f64 / 1e3)
}

fn read_micros(time: &Value) -> Option<Duration> {
    Some(Duration::from_nanos((time.as_f64()? * 1e3).round() as u64))
}
