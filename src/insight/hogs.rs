//! Jobs that keep their thread: those that run for too long without a pause, and those that poll without an event.
//!
//! ```text
//!   Recorded::leave: the run was too long, or the poll  ------ Found, with a copy of the stack ------.
//!                                                                                                    v
//!   the thread of the recorder, now and then:                                          walks the frames, reports
//!     a job runs for too long? stops its thread for a moment, copies its stack  ---------------------^
//! ```
//!
//! The thread of a job copies its stack and does nothing else. To find the frames in the copy and their names takes
//! milliseconds, and is done on the thread of the recorder.

use std::fmt;
use std::sync::Weak;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use super::fork::reading;
use super::frames::Names;
use super::outside::{READ, Walker};
use super::recorder::{Shard, Shared};
use crate::job::{end_of_frames, walking};
use crate::sync::contain;
use crate::sys::{Interrupt, Registers};

/// What is called with each job that keeps its thread.
pub(super) type Report = Box<dyn Fn(&Hog<'_>) + Send + Sync>;

/// A job that keeps its thread: see [`RecorderBuilder::hog`](super::RecorderBuilder::hog) and
/// [`RecorderBuilder::busy_poll`](super::RecorderBuilder::busy_poll).
///
/// It prints itself as a line, and below it the frames.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Hog<'a> {
    /// The name that the job has for the recorder.
    pub name: &'a str,
    /// The name of its thread, or the number that std gives it.
    pub thread: &'a str,
    /// What the job did.
    pub kind: HogKind,
    /// How long the job did that.
    pub ran: Duration,
    /// The frames of the job, the innermost first: of the code that runs, or of the pause after it. There are none if
    /// the job has ended, and if another job took its turn to be looked at.
    pub backtrace: &'a [String],
}

/// What a job did that keeps its thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HogKind {
    /// It runs without a pause.
    Runs,
    /// It ran without a pause, and has paused or ended since.
    Ran,
    /// It pauses again and again and names nothing that it waits for.
    Polls,
}

impl fmt::Display for Hog<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Hog {
            name,
            thread,
            kind,
            ran,
            ..
        } = self;
        let did = match kind {
            HogKind::Runs => "has kept the thread without a pause, and goes on",
            HogKind::Ran => "kept the thread without a pause",
            HogKind::Polls => {
                "has polled without an event: it should say what it waits for (a callback, an fd, a time)"
            }
        };
        write!(f, "a job named {name} on {thread}, {ran:.1?}: it {did}")?;
        self.backtrace.iter().try_for_each(|frame| write!(f, "\n    {frame}"))
    }
}

/// A hog, on its way to the report.
pub(super) struct Found {
    pub(super) name: String,
    pub(super) thread: String,
    pub(super) kind: HogKind,
    pub(super) ran: Duration,
    pub(super) stack: Copied,
}

/// The stack of a hog.
#[derive(Clone, Debug, Default)]
pub(super) enum Copied {
    #[default]
    Nothing,
    Paused(usize, Vec<u8>),
    Interrupted(Registers, Vec<u8>),
}

/// How many hogs may wait for their report. More of them are counted and not reported.
const MOST_WAITING: usize = 16;

/// Starts the thread of a recorder, which makes the reports and looks at the jobs that run if there is a signal for it.
/// `None` if the system has no thread.
pub(super) fn start(shared: &Weak<Shared>, watched: Option<(Duration, Interrupt)>) -> Option<SyncSender<Found>> {
    let (sender, found) = sync_channel(MOST_WAITING);
    let shared = Weak::clone(shared);
    let run = move || run(&shared, &found, watched);
    let thread = thread::Builder::new().name("asyncjob-hogs".into()).spawn(run);
    thread.is_ok().then_some(sender)
}

fn run(shared: &Weak<Shared>, found: &Receiver<Found>, watched: Option<(Duration, Interrupt)>) {
    // A quarter of the threshold: a run that is longer by half is certainly seen.
    let interval = watched.map(|(threshold, _)| (threshold / 4).clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL));
    loop {
        let next = match interval {
            Some(interval) => found.recv_timeout(interval),
            None => found.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let Some(shared) = shared.upgrade() else { return };
        match next {
            Ok(found) => report(&shared, found),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if let Some((threshold, interrupt)) = watched {
            for shard in shared.shards() {
                let overdue = shard.overdue(threshold, shared.now(), &reading());
                if let Some((name, since)) = overdue {
                    report(&shared, look(&shared, &shard, name, since, interrupt));
                }
            }
        }
    }
}

const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);
const LONGEST_INTERVAL: Duration = Duration::from_millis(250);

/// The most bytes of a stack that are copied while its thread stands still.
const MOST_BYTES: usize = 256 << 10;

/// Looks at the job that runs on a thread.
fn look(shared: &Shared, shard: &Shard, name: String, since: u64, interrupt: Interrupt) -> Found {
    let seen = interrupt.stop(shard.number, |registers| (registers, copy(shard, registers)));
    Found {
        name,
        thread: shard.thread_name.clone(),
        kind: HogKind::Runs,
        ran: Duration::from_nanos(shared.now().saturating_sub(since)),
        stack: seen.map_or(Copied::Nothing, |(registers, bytes)| {
            Copied::Interrupted(registers, bytes)
        }),
    }
}

/// A copy of the stack of the job that runs on the thread, which stands still, from its stack pointer on.
fn copy(shard: &Shard, registers: Registers) -> Vec<u8> {
    let end = end_of_frames(shard.current, &READ);
    let len = end.and_then(|end| end.checked_sub(registers.stack));
    // Code that runs on another stack than the job's own.
    let len = len.filter(|len| *len <= MOST_BYTES).unwrap_or(16 << 10);
    let mut bytes = vec![0; len];
    match READ(registers.stack, &mut bytes) {
        Some(()) => bytes,
        None => Vec::new(),
    }
}

fn report(shared: &Shared, found: Found) {
    let report = match found.kind {
        HogKind::Polls => &shared.busy,
        HogKind::Runs | HogKind::Ran => &shared.hog,
    };
    let Some((_, report)) = report else { return };
    let walker = || {
        let _walking = walking(); // it asks the dynamic linker
        Walker::new()
    };
    let frames = match &found.stack {
        Copied::Nothing => Vec::new(),
        Copied::Paused(pointer, bytes) => walker().frames_of_paused(*pointer, bytes),
        Copied::Interrupted(registers, bytes) => walker().frames_of_interrupted(*registers, bytes),
    };
    let backtrace = if frames.is_empty() {
        Vec::new()
    } else {
        Names::new().of(&frames)
    };
    let hog = Hog {
        name: &found.name,
        thread: &found.thread,
        kind: found.kind,
        ran: found.ran,
        backtrace: &backtrace,
    };
    contain(|| report(&hog)); // a panic here would end the reports
}
