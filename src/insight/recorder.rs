//! How long jobs run and are paused, as numbers and as a timeline.
//!
//! ```text
//!   Recorder --- job(name) ---> Recorded, a hook of one job
//!      |                           |  enter: it is about to run        pausing: what it waits for
//!      |                           v  leave: it has paused or ended    drop: it has ended
//!      '--- a Shard for each thread: counters, histograms, a ring of runs
//! ```
//!
//! A hook is part of a job that has it. A job without it executes no instruction more, whatever other jobs do, and any
//! driver may run either.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use super::timeline::{FdKinds, KeptPause, KeptRun, Timeline, name_of};
use crate::hooks::{HookedJob, SwitchHooks};
use crate::sync::contain;
use crate::wait_ctx::{NotedWake, WaitCtx};

/// What is called with each job that keeps its thread for too long.
type OnHog = Box<dyn Fn(&Hog<'_>) + Send + Sync>;

/// Measures how long jobs run without a pause and how long they are paused, and keeps the last runs of each thread for
/// a [`Timeline`].
///
/// A clone is another handle to the same recorder. Jobs take part that have its hook: see [`job`](Self::job).
///
/// ```
/// use asyncjob::insight::Recorder;
/// use asyncjob::scheduler::Scheduler;
/// use asyncjob::{JobBuilder, pause_job};
///
/// let recorder = Recorder::builder().timeline(1000).build();
/// let scheduler = Scheduler::new()?;
/// for _ in 0..3 {
///     let job = JobBuilder::new().hooks(recorder.job("handshake"));
///     job.spawn_on(&scheduler, || pause_job().unwrap())?.detach();
/// }
/// scheduler.run()?;
///
/// let numbers = recorder.numbers();
/// assert_eq!((numbers.started, numbers.ended, numbers.runs.count, numbers.pauses.count), (3, 3, 6, 3));
/// std::fs::write(std::env::temp_dir().join("trace.json"), recorder.timeline().to_chrome_json())?; // ui.perfetto.dev
/// # std::fs::remove_file(std::env::temp_dir().join("trace.json"))?;
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Clone)]
pub struct Recorder(Arc<Shared>);

struct Shared {
    began: Instant,
    /// How many runs each thread keeps.
    kept_runs: usize,
    hog: Option<(Duration, OnHog)>,
    shards: Mutex<Vec<Arc<Shard>>>,
}

/// What one thread has recorded. Only that thread writes it, so its lock is free unless somebody reads.
struct Shard {
    thread: ThreadId,
    thread_name: String,
    records: Mutex<Records>,
}

struct Records {
    names: BTreeMap<Cow<'static, str>, Counts>,
    runs: VecDeque<KeptRun>,
}

struct Counts {
    started: u64,
    ended: u64,
    runs: Histogram<u64>,
    pauses: Histogram<u64>,
}

/// Two digits of each time are kept: an error of one percent, in some KiB.
const DIGITS: u8 = 2;

impl Default for Counts {
    fn default() -> Self {
        let histogram = || Histogram::new(DIGITS).expect("a histogram may have two digits");
        Counts {
            started: 0,
            ended: 0,
            runs: histogram(),
            pauses: histogram(),
        }
    }
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.started += other.started;
        self.ended += other.ended;
        // A histogram that resizes itself takes any other.
        let _ = self.runs.add(&other.runs);
        let _ = self.pauses.add(&other.pauses);
    }

    fn numbers(&self) -> Numbers {
        Numbers {
            started: self.started,
            ended: self.ended,
            runs: Times::of(&self.runs),
            pauses: Times::of(&self.pauses),
            by_name: Vec::new(),
        }
    }
}

/// Configures a [`Recorder`].
#[must_use = "a builder does nothing until `build`"]
pub struct RecorderBuilder {
    kept_runs: usize,
    hog: Option<(Duration, OnHog)>,
}

impl RecorderBuilder {
    /// Keeps this many runs of each thread, the newest, for [`Recorder::timeline`]. The default is none.
    pub fn timeline(mut self, runs: usize) -> Self {
        self.kept_runs = runs;
        self
    }

    /// Calls `report` when a job has run for `threshold` without a pause, once for each job: all other jobs of the
    /// thread have waited. The call is made on the thread of the job, when the job pauses or ends.
    pub fn hog(mut self, threshold: Duration, report: impl Fn(&Hog<'_>) + Send + Sync + 'static) -> Self {
        self.hog = Some((threshold, Box::new(report)));
        self
    }

    /// Makes the recorder.
    pub fn build(self) -> Recorder {
        Recorder(Arc::new(Shared {
            began: Instant::now(),
            kept_runs: self.kept_runs,
            hog: self.hog,
            shards: Mutex::new(Vec::new()),
        }))
    }
}

/// A job that has kept its thread for too long: see [`RecorderBuilder::hog`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Hog<'a> {
    /// The name that the job has for the recorder.
    pub name: &'a str,
    /// How long it ran without a pause.
    pub ran: Duration,
}

impl Recorder {
    /// Configures a recorder.
    pub fn builder() -> RecorderBuilder {
        RecorderBuilder {
            kept_runs: 0,
            hog: None,
        }
    }

    /// The hook of one job, for [`JobBuilder::hooks`](crate::JobBuilder::hooks). The numbers are kept for each `name`,
    /// so there should be few names: the kind of the job, and not its connection.
    pub fn job(&self, name: impl Into<Cow<'static, str>>) -> Recorded {
        Recorded {
            recorder: self.clone(),
            name: name.into(),
            id: 0,
            began: Instant::now(),
            observed: None,
            wake: None,
            pause: None,
            kinds: FdKinds::default(),
            state: State::New,
            is_hog: false,
        }
    }

    /// What was recorded so far.
    pub fn numbers(&self) -> Numbers {
        let mut names: BTreeMap<Cow<'static, str>, Counts> = BTreeMap::new();
        for shard in self.shards() {
            for (name, counts) in &shard.records.lock().names {
                names.entry(name.clone()).or_default().add(counts);
            }
        }
        let mut all = Counts::default();
        names.values().for_each(|counts| all.add(counts));
        let by_name = names
            .into_iter()
            .map(|(name, counts)| (name.into_owned(), counts.numbers()));
        Numbers {
            by_name: by_name.collect(),
            ..all.numbers()
        }
    }

    /// The last runs of each thread.
    pub fn timeline(&self) -> Timeline {
        let kept = |shard: Arc<Shard>| {
            let runs = shard.records.lock().runs.iter().cloned().collect();
            (shard.thread, shard.thread_name.clone(), runs)
        };
        Timeline::of(self.0.began, self.shards().into_iter().map(kept).collect())
    }

    fn shards(&self) -> Vec<Arc<Shard>> {
        self.0.shards.lock().clone()
    }

    /// What this thread records.
    fn shard(&self) -> Arc<Shard> {
        let this = thread::current();
        let mut shards = self.0.shards.lock();
        if let Some(found) = shards.iter().find(|shard| shard.thread == this.id()) {
            return Arc::clone(found);
        }
        let shard = Arc::new(Shard {
            thread: this.id(),
            thread_name: name_of(&this),
            records: Mutex::new(Records {
                names: BTreeMap::new(),
                runs: VecDeque::new(),
            }),
        });
        shards.push(Arc::clone(&shard));
        shard
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("numbers", &self.numbers()).finish()
    }
}

impl fmt::Debug for RecorderBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let threshold = self.hog.as_ref().map(|(threshold, _)| threshold);
        let mut builder = f.debug_struct("RecorderBuilder");
        builder
            .field("timeline", &self.kept_runs)
            .field("hog", &threshold)
            .finish()
    }
}

/// The hook of one job that is recorded: see [`Recorder::job`].
#[derive(Debug)]
#[must_use = "a hook does nothing until a job has it"]
pub struct Recorded {
    recorder: Recorder,
    name: Cow<'static, str>,
    /// The number of its `JobId`, once it starts.
    id: u64,
    /// When the job began to run or to be paused.
    began: Instant,
    state: State,
    /// Whether the job has been reported as a hog.
    is_hog: bool,
    /// The ctx that notes the wakes of the job, if there is a timeline.
    observed: Option<WaitCtx>,
    /// What has made the job ready that runs.
    wake: Option<NotedWake>,
    /// What a job waits for that has run and is about to leave.
    pause: Option<KeptPause>,
    kinds: FdKinds,
}

enum State {
    New,
    Started(Arc<Shard>),
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::New => "New",
            State::Started(_) => "Started",
        })
    }
}

impl Recorded {
    /// Changes the counts of the name of this job on this thread.
    fn count(&self, change: impl FnOnce(&mut Counts)) {
        let State::Started(shard) = &self.state else { return };
        let names = &mut shard.records.lock().names;
        match names.get_mut(&self.name) {
            Some(counts) => change(counts),
            None => change(names.entry(self.name.clone()).or_default()),
        }
    }
}

impl SwitchHooks for Recorded {
    fn enter(&mut self) {
        let now = Instant::now();
        let paused = now.saturating_duration_since(self.began);
        self.began = now;
        self.wake = self.observed.as_ref().and_then(WaitCtx::wake);
        if let State::New = self.state {
            self.state = State::Started(self.recorder.shard());
            self.count(|counts| counts.started += 1);
        } else {
            self.count(|counts| counts.pauses.saturating_record(nanos(paused)));
        }
    }

    fn leave(&mut self) {
        let now = Instant::now();
        let (began, ran) = (self.began, now.saturating_duration_since(self.began));
        self.began = now;
        self.count(|counts| counts.runs.saturating_record(nanos(ran)));
        let shared = &self.recorder.0;
        if let State::Started(shard) = &self.state
            && shared.kept_runs > 0
        {
            let runs = &mut shard.records.lock().runs;
            if runs.len() == shared.kept_runs {
                runs.pop_front();
            }
            runs.push_back(KeptRun {
                name: self.name.clone(),
                job: self.id,
                from: began,
                ran,
                wake: self.wake.take(),
                pause: self.pause.take(),
            });
        }
        if let Some((threshold, report)) = &shared.hog
            && ran >= *threshold
            && !std::mem::replace(&mut self.is_hog, true)
        {
            let hog = Hog { name: &self.name, ran };
            contain(|| report(&hog)); // a panic here would cancel the job
        }
    }

    fn starting(&mut self, job: HookedJob<'_>) {
        self.id = job.id;
        if self.recorder.0.kept_runs > 0 {
            job.wait_ctx.observe_wakes();
            self.observed = Some(job.wait_ctx.clone());
        }
    }

    fn pausing(&mut self, job: HookedJob<'_>) {
        if self.observed.is_some() {
            self.pause = Some(self.kinds.pause(job.wait_ctx));
        }
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.count(|counts| counts.ended += 1);
    }
}

fn nanos(time: Duration) -> u64 {
    // A histogram has no place for 0, and takes it as 1 in its percentiles anyway.
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1)
}

/// What a [`Recorder`] has counted and measured.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Numbers {
    /// The jobs that have started.
    pub started: u64,
    /// The jobs that have ended, in whatever way.
    pub ended: u64,
    /// How long jobs ran, from a start or a resume to the next pause or the end.
    pub runs: Times,
    /// How long jobs were paused, from a pause to the next resume: the wait, and then the way to the thread.
    pub pauses: Times,
    /// The same for the jobs of each name. These have no names below them.
    pub by_name: Vec<(String, Numbers)>,
}

/// A distribution of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Times {
    /// How many there were.
    pub count: u64,
    /// Half of them were at most this long.
    pub median: Duration,
    /// 99 of 100 were at most this long.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl Times {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| Duration::from_nanos(histogram.value_at_quantile(quantile));
        Times {
            count: histogram.len(),
            median: at(0.5),
            p99: at(0.99),
            max: Duration::from_nanos(histogram.max()),
        }
    }
}

/// A table for people: all jobs, and those of each name.
impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<20} {:>9} {:>9}  {:>9} {:>9} {:>9}  {:>9} {:>9} {:>9}",
            "job", "started", "ended", "ran: 50%", "99%", "max", "paused:", "99%", "max"
        )?;
        let all = [("all", self)].into_iter();
        for (name, numbers) in all.chain(self.by_name.iter().map(|(name, numbers)| (name.as_str(), numbers))) {
            let Numbers {
                started,
                ended,
                runs,
                pauses,
                ..
            } = numbers;
            writeln!(
                f,
                "{name:<20} {started:>9} {ended:>9}  {:>9.1?} {:>9.1?} {:>9.1?}  {:>9.1?} {:>9.1?} {:>9.1?}",
                runs.median, runs.p99, runs.max, pauses.median, pauses.p99, pauses.max
            )?;
        }
        Ok(())
    }
}
