//! How long jobs run, are paused and wait for their thread, as numbers and as a timeline.
//!
//! ```text
//!   Recorder --- job(name) ---> Recorded, a hook of one job
//!      |                           |  enter: it is about to run     pausing: what it waits for
//!      |                           v  ending: it has returned        leave: it has paused or ended
//!      '--- a Shard for each thread: counters, histograms, a ring of runs, the jobs that run now
//! ```
//!
//! A hook is part of a job that has it. A job without it executes no instruction more, whatever other jobs do, and any
//! driver may run either.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use super::fork::{Reading, lock, lock_own, prepare_for_forks, reading};
use super::hogs::{self, Copied, Found, Hog, HogKind, Report};
use super::numbers::{JobNumbers, Numbers, Series};
use super::outside::READ;
use super::registry;
use super::timeline::{FdKinds, Kept, KeptPause, KeptRun, KeptWake, Timeline, name_of};
use crate::hooks::{HookedJob, SwitchHooks};
use crate::job::{address_of_current, budget};
use crate::stack;
use crate::sys::{Interrupt, Process, ThreadNumber, clock};
use crate::wait_ctx::{Status, WaitCtx, WaitFd, WaitKey, WakeCause};

/// Measures how long jobs run without a pause, how long they are paused and for what, and how long they wait for their
/// thread. Keeps the last runs of each thread for a [`Timeline`].
///
/// A clone is another handle to the same recorder. Jobs take part that have its hook: see [`job`](Self::job).
///
/// A child of `fork(2)` records its own jobs. What its parent has recorded is not in the child's numbers, and nothing
/// in the child reports its hogs: they are counted. Make a recorder in the child if they are to be reported there.
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
/// let all = recorder.numbers().all;
/// assert_eq!((all.started, all.ended, all.runs.count, all.pauses.count), (3, 3, 6, 3));
/// std::fs::write(std::env::temp_dir().join("trace.json"), recorder.timeline().to_chrome_json())?; // ui.perfetto.dev
/// # std::fs::remove_file(std::env::temp_dir().join("trace.json"))?;
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Clone)]
pub struct Recorder(Arc<Shared>);

pub(super) struct Shared {
    began: Instant,
    /// The same time on the clock of [`clock`].
    began_at: u64,
    /// How many runs each thread keeps.
    kept_runs: usize,
    /// Whether the stack of each job is measured at its end.
    high_water: bool,
    keys: Vec<(WaitKey, Cow<'static, str>)>,
    pub(super) hog: Option<(Duration, Report)>,
    /// The threshold of `hog` in nanoseconds, or more than any run takes.
    hog_after: u64,
    pub(super) busy: Option<(Duration, Report)>,
    /// Whether a thread looks at the jobs that run.
    is_watched: bool,
    /// The way to the thread that makes the reports.
    reports: Option<SyncSender<Found>>,
    /// A number that no other recorder has.
    number: u64,
    /// The process that has made it, and has its thread. `None` if forks cannot be counted.
    process: Option<Process>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        RECORDERS.fetch_sub(1, Ordering::Relaxed);
        let mut shards = lock(&SHARDS);
        let own = shards.extract_if(.., |(recorder, _)| *recorder == self.number);
        let own: Vec<_> = own.collect();
        drop(shards);
        drop(own);
        if self.is_inherited() {
            // The other end of the channel may have been in use, and stays so.
            std::mem::forget(self.reports.take());
        }
    }
}

/// What all threads have recorded, each with the number of the recorder.
static SHARDS: Mutex<Shards> = Mutex::new(Vec::new());

type Shards = Vec<(u64, Arc<Shard>)>;

/// What the thread that forks holds.
pub(super) type Held = MutexGuard<'static, Shards>;

pub(super) fn hold() -> Held {
    lock(&SHARDS)
}

/// How many recorders there are. Without one no scheduler publishes its numbers.
static RECORDERS: AtomicUsize = AtomicUsize::new(0);

/// Whether there is a recorder in this process.
#[inline]
pub(super) fn is_recording() -> bool {
    RECORDERS.load(Ordering::Relaxed) != 0
}

/// What one thread of one process has recorded. Only that thread writes it, so its lock is free unless another one
/// reads. A child of `fork(2)` has shards of its own.
pub(super) struct Shard {
    process: Option<Process>,
    thread: ThreadId,
    pub(super) thread_name: String,
    pub(super) number: ThreadNumber,
    /// Where the thread keeps the job that runs.
    pub(super) current: usize,
    records: Mutex<Records>,
}

#[derive(Default)]
struct Records {
    /// The places of the names in `counts`.
    names: BTreeMap<String, usize>,
    counts: Vec<Counts>,
    runs: VecDeque<KeptRun>,
    /// The jobs that run now, if a thread looks at them. The innermost is the last.
    running: Vec<Running>,
}

/// A job that runs.
struct Running {
    number: u64,
    /// The place of its name.
    name: usize,
    /// When the run began: see [`Shared::now`].
    since: u64,
    /// Whether it was reported as a hog, in this run or before.
    is_hog: bool,
}

#[derive(Clone, Default)]
struct Counts {
    started: u64,
    ended: u64,
    cancelled: u64,
    quarantined: u64,
    never_started: u64,
    hogs: u64,
    runs: Series,
    delays: Series,
    /// By [`WaitsFor::place`]. A place that no pause has needed is empty.
    pauses: Vec<Option<Box<Series>>>,
    high_water: usize,
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.started += other.started;
        self.ended += other.ended;
        self.cancelled += other.cancelled;
        self.quarantined += other.quarantined;
        self.never_started += other.never_started;
        self.hogs += other.hogs;
        self.runs.add(&other.runs);
        self.delays.add(&other.delays);
        for (place, times) in other.pauses.iter().enumerate() {
            if let Some(times) = times {
                self.pauses_at(place).add(times);
            }
        }
        self.high_water = self.high_water.max(other.high_water);
    }

    /// The pauses of a place.
    fn pauses_at(&mut self, place: usize) -> &mut Series {
        if self.pauses.len() <= place {
            self.pauses.resize_with(place + 1, || None);
        }
        self.pauses[place].get_or_insert_default()
    }

    fn numbers(&self, keys: &[(WaitKey, Cow<'static, str>)]) -> JobNumbers {
        let mut all_pauses = Series::default();
        let mut by_key: BTreeMap<&str, Series> = BTreeMap::new(); // two keys may have one name
        for (place, times) in self.pauses.iter().enumerate() {
            let Some(times) = times else { continue };
            all_pauses.add(times);
            by_key.entry(WaitsFor::label(place, keys)).or_default().add(times);
        }
        let by_key = by_key.into_iter();
        JobNumbers {
            started: self.started,
            ended: self.ended,
            cancelled: self.cancelled,
            quarantined: self.quarantined,
            never_started: self.never_started,
            hogs: self.hogs,
            runs: self.runs.times(),
            pauses: all_pauses.times(),
            delays: self.delays.times(),
            pauses_by_key: by_key.map(|(key, times)| (key.to_owned(), times.times())).collect(),
            high_water: self.high_water,
        }
    }
}

impl Records {
    /// The place of a name.
    fn place(&mut self, name: &str) -> usize {
        if let Some(place) = self.names.get(name) {
            return *place;
        }
        self.counts.push(Counts::default());
        self.names.insert(name.to_owned(), self.counts.len() - 1);
        self.counts.len() - 1
    }
}

impl Shard {
    fn is_inherited(&self) -> bool {
        self.process.is_some_and(Process::is_inherited)
    }

    /// What was recorded. A thread that is not the shard's own needs a [`Reading`] for that.
    fn records(&self) -> MutexGuard<'_, Records> {
        lock_own(&self.records)
    }

    /// The name of the job that runs on the thread, if it has run for longer than `threshold` and was not reported, and
    /// since when. It counts as reported from now on.
    pub(super) fn overdue(&self, threshold: Duration, now: u64, _: &Reading) -> Option<(String, u64)> {
        let mut records = self.records();
        let Records {
            names, counts, running, ..
        } = &mut *records;
        let job = running.last_mut()?;
        if job.is_hog || Duration::from_nanos(now.saturating_sub(job.since)) < threshold {
            return None;
        }
        job.is_hog = true;
        counts[job.name].hogs += 1;
        let name = names.iter().find(|(_, place)| **place == job.name)?.0;
        Some((name.clone(), job.since))
    }
}

/// Configures a [`Recorder`].
#[must_use = "a builder does nothing until `build`"]
pub struct RecorderBuilder {
    kept_runs: usize,
    high_water: bool,
    keys: Vec<(WaitKey, Cow<'static, str>)>,
    hog: Option<(Duration, Report)>,
    busy: Option<(Duration, Report)>,
    interrupt: Option<Interrupt>,
}

impl RecorderBuilder {
    /// Keeps this many runs of each thread, the newest, for [`Recorder::timeline`]. The default is none.
    pub fn timeline(mut self, runs: usize) -> Self {
        self.kept_runs = runs;
        self
    }

    /// Measures at the end of each job how much of its stack was used: [`JobNumbers::high_water`]. That is one system
    /// call for each job.
    pub fn high_water(mut self) -> Self {
        self.high_water = true;
        self
    }

    /// Gives a key of wait fds a name, under which [`JobNumbers::pauses_by_key`] has the pauses in which such an fd was
    /// waited for. An engine has one key for all of its fds.
    pub fn key(mut self, key: WaitKey, name: impl Into<Cow<'static, str>>) -> Self {
        self.keys.push((key, name.into()));
        self
    }

    /// Calls `report` when a job has run for `threshold` without a pause, once for each job: all other jobs of the
    /// thread have waited.
    ///
    /// The call is made on a thread of the recorder, when the job has paused or ended, with the frames of that pause.
    /// [`interrupt_by`](Self::interrupt_by) lets it be made while the job runs. More than 16 reports that wait are
    /// counted ([`JobNumbers::hogs`]) and not made.
    ///
    /// ```
    /// use asyncjob::insight::Recorder;
    /// use std::time::Duration;
    ///
    /// let recorder = Recorder::builder().hog(Duration::from_millis(100), |hog| eprintln!("{hog}"));
    /// # let _ = recorder.build();
    /// ```
    pub fn hog(mut self, threshold: Duration, report: impl Fn(&Hog<'_>) + Send + Sync + 'static) -> Self {
        self.hog = Some((threshold, Box::new(report)));
        self
    }

    /// Lets [`hog`](Self::hog) report a job while it runs, with the frames of the code that runs: also one that never
    /// pauses again.
    ///
    /// The thread of the recorder looks at the jobs that run four times in each threshold. It stops the thread of a hog
    /// for a moment by `signal`, and copies its stack. The signal interrupts the system call in which the thread is:
    /// most calls go on, and others (`nanosleep`, `epoll_wait`) return early with `EINTR`. `SIGPROF` suits a program
    /// that no profiler uses it in. The handler stays installed.
    ///
    /// This is there on Linux only.
    ///
    /// # Errors
    ///
    /// The program has a handler for the signal, or no program may have one.
    #[cfg(not(asyncjob_portable))]
    pub fn interrupt_by(mut self, signal: std::ffi::c_int) -> std::io::Result<Self> {
        crate::sys::check_choice(signal, "interrupt a job", "SIGPROF", guide_page!("numbers"))?;
        self.interrupt = Some(Interrupt::by(signal)?);
        Ok(self)
    }

    /// Calls `report` when a job has polled for `after` without an event, once for each job: it pauses again and again,
    /// and its wait ctx names nothing that it waits for. Such a job takes processor time, and the time until it sees
    /// what it waits for is up to chance.
    ///
    /// The call is made as that of [`hog`](Self::hog). At least 100 such pauses in a row count. A job that gives way
    /// because its sockets are always ready does not poll.
    ///
    /// A debug build has this by itself, with ten seconds, and prints the report to standard error.
    pub fn busy_poll(mut self, after: Duration, report: impl Fn(&Hog<'_>) + Send + Sync + 'static) -> Self {
        self.busy = Some((after, Box::new(report)));
        self
    }

    /// Makes the recorder.
    pub fn build(self) -> Recorder {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        prepare_for_forks(); // before there is a thread
        RECORDERS.fetch_add(1, Ordering::Relaxed);
        let in_debug_builds = || -> (Duration, Report) {
            let report = |hog: &Hog<'_>| eprintln!("asyncjob: {hog}");
            (BUSY_IN_DEBUG_BUILDS, Box::new(report))
        };
        let busy = self.busy.or_else(|| cfg!(debug_assertions).then(in_debug_builds));
        let hog = self.hog;
        Recorder(Arc::new_cyclic(|shared| {
            let watched = hog.as_ref().map(|(threshold, _)| *threshold).zip(self.interrupt);
            let has_reports = hog.is_some() || busy.is_some();
            Shared {
                began: Instant::now(),
                began_at: clock(),
                kept_runs: self.kept_runs,
                high_water: self.high_water,
                keys: self.keys,
                hog_after: hog.as_ref().map_or(u64::MAX, |(threshold, _)| nanos(*threshold)),
                hog,
                busy,
                is_watched: watched.is_some(),
                reports: has_reports.then(|| hogs::start(shared, watched)).flatten(),
                number: NEXT.fetch_add(1, Ordering::Relaxed),
                process: Process::current().ok(),
            }
        }))
    }
}

/// See [`RecorderBuilder::busy_poll`].
const BUSY_IN_DEBUG_BUILDS: Duration = Duration::from_secs(10);
/// How many pauses without an event make a poll.
const FEWEST_POLLS: u32 = 100;

impl Recorder {
    /// Configures a recorder.
    pub fn builder() -> RecorderBuilder {
        RecorderBuilder {
            kept_runs: 0,
            high_water: false,
            keys: Vec::new(),
            hog: None,
            busy: None,
            interrupt: None,
        }
    }

    /// The hook of one job, for [`JobBuilder::hooks`](crate::JobBuilder::hooks). The numbers are kept for each `name`,
    /// so there should be few names: the kind of the job, and not its connection.
    pub fn job(&self, name: impl Into<Cow<'static, str>>) -> Recorded {
        Recorded {
            recorder: self.clone(),
            name: name.into(),
            id: 0,
            began: self.0.now(),
            paused: None,
            state: State::New,
            ctx: None,
            before: None,
            wake: None,
            pause: None,
            kinds: FdKinds::default(),
            waits_for: WaitsFor::ItsTurn,
            is_hog: false,
            polls: Polls::default(),
            noticed: None,
            high_water: 0,
            is_cancelled: false,
            has_ended: false,
        }
    }

    /// What was recorded so far, and how the schedulers and the stacks of the process are now.
    ///
    /// The call takes as long as [`stack::stats`](crate::stack::stats): call it now and then, when a page is asked for.
    pub fn numbers(&self) -> Numbers {
        let reading = reading();
        let mut names: BTreeMap<String, Counts> = BTreeMap::new();
        for shard in self.0.shards() {
            let records = shard.records();
            for (name, place) in &records.names {
                names.entry(name.clone()).or_default().add(&records.counts[*place]);
            }
        }
        let schedulers = registry::schedulers(&reading);
        drop(reading);
        let mut all = Counts::default();
        names.values().for_each(|counts| all.add(counts));
        let keys = &self.0.keys;
        let by_name = names.into_iter().map(|(name, counts)| (name, counts.numbers(keys)));
        Numbers {
            all: all.numbers(keys),
            by_name: by_name.collect(),
            schedulers,
            stacks: stack::stats(),
        }
    }

    /// The last runs of each thread.
    pub fn timeline(&self) -> Timeline {
        let _reading = reading();
        let kept = |shard: Arc<Shard>| {
            let records = shard.records();
            let mut names = vec![String::new(); records.counts.len()];
            for (name, place) in &records.names {
                names[*place].clone_from(name);
            }
            Kept {
                thread: shard.thread,
                thread_name: shard.thread_name.clone(),
                names,
                runs: records.runs.iter().cloned().collect(),
            }
        };
        Timeline::of(self.0.began, self.0.shards().into_iter().map(kept).collect())
    }
}

/// Nanoseconds: what times are kept in, because a difference of them is one instruction.
pub(super) fn nanos(time: Duration) -> u64 {
    time.as_secs()
        .saturating_mul(1_000_000_000)
        .saturating_add(time.subsec_nanos().into())
}

impl Shared {
    /// Whether this process is a child of the one that has made the recorder: it has no thread for reports.
    fn is_inherited(&self) -> bool {
        self.process.is_some_and(Process::is_inherited)
    }

    /// What the threads of this process have recorded. Those of its parent may have left theirs locked.
    pub(super) fn shards(&self) -> Vec<Arc<Shard>> {
        let shards = lock(&SHARDS);
        let own = shards
            .iter()
            .filter(|(number, shard)| *number == self.number && !shard.is_inherited());
        own.map(|(_, shard)| Arc::clone(shard)).collect()
    }

    /// The nanoseconds since the recorder was made.
    pub(super) fn now(&self) -> u64 {
        clock().saturating_sub(self.began_at)
    }

    fn at(&self, at: Instant) -> u64 {
        nanos(at.saturating_duration_since(self.began))
    }

    /// What this thread records.
    fn shard(&self) -> Arc<Shard> {
        let this = thread::current();
        let mut shards = lock(&SHARDS);
        let is_own = |(number, shard): &&(u64, Arc<Shard>)| {
            *number == self.number && shard.thread == this.id() && !shard.is_inherited()
        };
        if let Some((_, found)) = shards.iter().find(is_own) {
            return Arc::clone(found);
        }
        let shard = Arc::new(Shard {
            process: Process::current().ok(),
            thread: this.id(),
            thread_name: name_of(&this),
            number: ThreadNumber::current(),
            current: address_of_current(),
            records: Mutex::default(),
        });
        shards.push((self.number, Arc::clone(&shard)));
        shard
    }

    /// What a job that has paused waits for. `fds` are those of its ctx.
    fn waits_for(&self, ctx: &WaitCtx, fds: &[WaitFd]) -> WaitsFor {
        let status = ctx.status();
        if status == Status::Eagain {
            return WaitsFor::ItsTurn;
        }
        if !fds.is_empty() {
            let named = |key: &WaitKey| fds.iter().any(|fd| fd.key == *key);
            let place = self.keys.iter().position(|(key, _)| named(key));
            return place.map_or(WaitsFor::Fd, WaitsFor::Key);
        }
        match status {
            Status::Ok => WaitsFor::Callback,
            _ if ctx.deadline().is_some() => WaitsFor::Deadline,
            _ => WaitsFor::Nothing,
        }
    }

    fn report(&self, found: Found) {
        if let Some(reports) = self.reports.as_ref().filter(|_| !self.is_inherited()) {
            let _ = reports.try_send(found); // too many wait already
        }
    }
}

/// What a paused job waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitsFor {
    /// An fd whose key has a name, by its place.
    Key(usize),
    Fd,
    Callback,
    Deadline,
    /// It has given way, or its engine tries again.
    ItsTurn,
    Nothing,
}

impl WaitsFor {
    /// What has no key of its own, by its place.
    const WITHOUT_KEY: [&str; 5] = ["fd", "callback", "deadline", "its turn", "nothing: it polls"];

    /// The place of its pauses in [`Counts::pauses`].
    fn place(self) -> usize {
        match self {
            WaitsFor::Fd => 0,
            WaitsFor::Callback => 1,
            WaitsFor::Deadline => 2,
            WaitsFor::ItsTurn => 3,
            WaitsFor::Nothing => 4,
            WaitsFor::Key(key) => Self::WITHOUT_KEY.len() + key,
        }
    }

    /// What to call the pauses at a place.
    fn label<'a>(place: usize, keys: &'a [(WaitKey, Cow<'static, str>)]) -> &'a str {
        let key = place.checked_sub(Self::WITHOUT_KEY.len());
        key.map_or_else(|| Self::WITHOUT_KEY[place], |key| &keys[key].1)
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("numbers", &self.numbers()).finish()
    }
}

impl fmt::Debug for RecorderBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |report: &Option<(Duration, Report)>| report.as_ref().map(|(time, _)| *time);
        f.debug_struct("RecorderBuilder")
            .field("timeline", &self.kept_runs)
            .field("high_water", &self.high_water)
            .field("keys", &self.keys)
            .field("hog", &time(&self.hog))
            .field("busy_poll", &time(&self.busy))
            .field("interrupt_by", &self.interrupt)
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
    /// When the job began to run or to be paused: see [`Shared::now`].
    began: u64,
    /// When the job has paused that is about to leave.
    paused: Option<u64>,
    state: State,
    /// The ctx of the job, which notes its wakes.
    ctx: Option<WaitCtx>,
    /// The pause before the run that goes on. It is recorded with the run, so that a switch takes one lock.
    before: Option<Paused>,
    /// What has made the job ready that runs, if there is a timeline.
    wake: Option<KeptWake>,
    /// What a job waits for that has run and is about to leave, if there is a timeline.
    pause: Option<KeptPause>,
    kinds: FdKinds,
    /// What the job waits for, while it is paused.
    waits_for: WaitsFor,
    /// Whether the job has been reported as a hog.
    is_hog: bool,
    polls: Polls,
    /// What there is to report of a job, from the pause to the leave.
    noticed: Option<Box<Noticed>>,
    /// How much of its stack a job has used that has ended.
    high_water: usize,
    is_cancelled: bool,
    has_ended: bool,
}

/// A pause that is over, in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Paused {
    for_what: WaitsFor,
    took: u64,
    /// How long the job could run and has not, if that is known.
    delay: Option<u64>,
}

/// What a job has done that is to be reported.
#[derive(Debug)]
struct Noticed {
    /// For how long it has polled, if that is to be reported.
    polls: Option<Duration>,
    /// A copy of its stack.
    stack: Copied,
}

/// The pauses in a row in which the job has named nothing that it waits for.
#[derive(Debug, Default)]
struct Polls {
    /// When the run before the first of them began.
    since: Option<u64>,
    count: u32,
    is_reported: bool,
}

enum State {
    New,
    /// On the thread of the shard, with the place of the name there.
    Started(Arc<Shard>, usize),
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::New => "New",
            State::Started(..) => "Started",
        })
    }
}

impl Recorded {
    /// The job goes on at `now`, after a pause.
    fn pause_ends(&mut self, now: u64) {
        let shared = &*self.recorder.0;
        let wake = self.ctx.as_ref().and_then(WaitCtx::wake);
        let wake = wake.map(|wake| KeptWake {
            at: match wake.cause {
                WakeCause::Deadline => shared.at(wake.at).max(self.began), // it may have passed before the pause
                _ => shared.at(wake.at),
            },
            cause: wake.cause,
            thread: wake.thread,
        });
        let ready = match (&wake, self.waits_for) {
            (_, WaitsFor::ItsTurn) => Some(self.began),
            (Some(wake), _) => Some(wake.at.max(self.began)),
            (None, _) => None,
        };
        self.before = Some(Paused {
            for_what: self.waits_for,
            took: now.saturating_sub(self.began),
            delay: ready.map(|ready| now.saturating_sub(ready)),
        });
        if shared.kept_runs > 0 {
            self.wake = wake;
        }
    }

    /// The job has paused after a run that began at `began`. Returns for how long it polls, if it is to be reported.
    fn polls(&mut self, began: u64, now: u64) -> Option<Duration> {
        let (after, _) = self.recorder.0.busy.as_ref()?;
        let has_worked = budget::has_given_way();
        let names_nothing = matches!(self.waits_for, WaitsFor::ItsTurn | WaitsFor::Nothing);
        if has_worked || !names_nothing {
            (self.polls.since, self.polls.count) = (None, 0);
            return None;
        }
        let since = *self.polls.since.get_or_insert(began);
        self.polls.count = self.polls.count.saturating_add(1);
        let polls = Duration::from_nanos(now.saturating_sub(since));
        let is_due = self.polls.count >= FEWEST_POLLS && polls >= *after;
        (is_due && !std::mem::replace(&mut self.polls.is_reported, true)).then_some(polls)
    }

    /// Reports a job that polls, and one that has run for too long.
    #[cold]
    fn report_noticed(&self, ran: Option<u64>, noticed: Option<Box<Noticed>>) {
        let State::Started(shard, _) = &self.state else { return };
        let (polls, stack) = noticed.map_or((None, Copied::Nothing), |noticed| (noticed.polls, noticed.stack));
        let polls = polls.map(|polls| (HogKind::Polls, polls));
        let ran = ran.map(|ran| (HogKind::Ran, Duration::from_nanos(ran)));
        for (kind, ran) in polls.into_iter().chain(ran) {
            self.recorder.0.report(Found {
                name: self.name.clone().into_owned(),
                thread: shard.thread_name.clone(),
                kind,
                ran,
                stack: stack.clone(),
            });
        }
    }
}

impl SwitchHooks for Recorded {
    fn enter(&mut self) {
        let now = self.recorder.0.now();
        let is_new = matches!(self.state, State::New);
        if is_new {
            let shard = self.recorder.0.shard();
            let mut records = shard.records();
            let name = records.place(&self.name);
            let counts = &mut records.counts[name];
            counts.started += 1;
            counts.delays.record(now.saturating_sub(self.began));
            drop(records);
            self.state = State::Started(shard, name);
        } else {
            self.pause_ends(now);
        }
        self.began = now;
        if let (State::Started(shard, name), true) = (&self.state, self.recorder.0.is_watched) {
            shard.records().running.push(Running {
                number: self.id,
                name: *name,
                since: now,
                is_hog: self.is_hog,
            });
        }
    }

    fn starting(&mut self, job: HookedJob<'_>) {
        self.id = job.id;
        job.wait_ctx.observe_wakes();
        self.ctx = Some(job.wait_ctx.clone());
    }

    fn pausing(&mut self, job: HookedJob<'_>) {
        let shared = &*self.recorder.0;
        let now = shared.now();
        self.paused = Some(now);
        let ctx = job.wait_ctx;
        let fds = if ctx.version() == 0 { Vec::new() } else { ctx.fds() };
        self.waits_for = shared.waits_for(ctx, &fds);
        if shared.kept_runs > 0 {
            self.pause = Some(self.kinds.pause(ctx, fds));
        }
        let is_new_hog = now.saturating_sub(self.began) >= shared.hog_after && !self.is_hog;
        let polls = self.polls(self.began, now);
        if is_new_hog || polls.is_some() {
            let stack = job.look.copy_stack(READ);
            let stack = stack.map_or(Copied::Nothing, |(pointer, bytes)| Copied::Paused(pointer, bytes));
            self.noticed = Some(Box::new(Noticed { polls, stack }));
        }
    }

    fn ending(&mut self, job: HookedJob<'_>) {
        self.has_ended = true;
        self.is_cancelled = job.look.is_cancelled();
        if self.recorder.0.high_water {
            self.high_water = job.look.high_water();
        }
    }

    fn leave(&mut self) {
        let shared = &*self.recorder.0;
        let State::Started(shard, name) = &self.state else {
            return;
        };
        let now = self.paused.take().unwrap_or_else(|| shared.now());
        let (began, ran) = (self.began, now.saturating_sub(self.began));
        self.began = now;
        let noticed = self.noticed.take();
        let mut records = shard.records();
        if shared.is_watched {
            let at = records.running.iter().rposition(|job| job.number == self.id);
            self.is_hog |= at.is_some_and(|at| records.running.remove(at).is_hog);
        }
        let is_new_hog = ran >= shared.hog_after && !self.is_hog;
        let counts = &mut records.counts[*name];
        if let Some(pause) = self.before.take() {
            counts.pauses_at(pause.for_what.place()).record(pause.took);
            if let Some(delay) = pause.delay {
                counts.delays.record(delay);
            }
        }
        counts.runs.record(ran);
        counts.high_water = counts.high_water.max(self.high_water);
        let polls = noticed.as_ref().is_some_and(|noticed| noticed.polls.is_some());
        counts.hogs += u64::from(is_new_hog) + u64::from(polls);
        if shared.kept_runs > 0 {
            let runs = &mut records.runs;
            if runs.len() == shared.kept_runs {
                runs.pop_front();
            }
            runs.push_back(KeptRun {
                name: *name,
                job: self.id,
                from: began,
                ran,
                wake: self.wake.take(),
                pause: self.pause.take(),
            });
        }
        drop(records);
        self.is_hog |= is_new_hog;
        if is_new_hog || polls {
            self.report_noticed(is_new_hog.then_some(ran), noticed);
        }
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        let shard;
        let (shard, name) = match &self.state {
            State::Started(started, name) => (started, *name),
            State::New => {
                shard = self.recorder.0.shard();
                let name = shard.records().place(&self.name);
                (&shard, name)
            }
        };
        let mut records = shard.records();
        let counts = &mut records.counts[name];
        match self.state {
            State::New => counts.never_started += 1,
            State::Started(..) => {
                counts.ended += 1;
                counts.cancelled += u64::from(self.is_cancelled);
                counts.quarantined += u64::from(!self.has_ended);
            }
        }
    }
}
