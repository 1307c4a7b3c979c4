//! Every job of the process, on one page: what an operator asks for when a server hangs.
//!
//! ```text
//!   dump(), on any thread                              the thread of each driver
//!     the registry lists the drivers
//!     asks each of them by its notifier  ----------->   its next turn, or the next poll of its future:
//!     waits until all have answered,                      the jobs, each with its own frames
//!     or the limit has passed            <-----------   answers
//!     reads the job of a silent thread from its memory, and the jobs that no driver tells of
//!     names the frames, each stack once
//! ```
//!
//! A scheduler registers itself when it is made, and so does a thread with its first [`JobFuture`]. Nothing is written
//! or read at a switch. A driver that is asked looks at its jobs between two of them, so no job is seen half changed.
//!
//! * [`dump`] collects, [`Dump`] prints itself as text, and [`Dump::to_json`] is for tools.
//! * A thread that does not answer is one that runs a job all the time, or that is blocked in one: its
//!   [`DriverDump::running`] says which job.
//!
//! * [`tag`] attaches what the code of a job knows of it: the peer of its connection, say.
//! * [`on_signal`] dumps each time the process gets a signal.
//!
//! * [`Recorder`] measures how long jobs run and are paused, names a job that keeps its thread, and has a [`Timeline`].
//!
//! Jobs without a driver are in the dump, too: those that code drives by hand, and those of the C drop-in. Nothing asks
//! for them. Their stacks are read from outside, as are those of a driver that does not answer.
//!
//! [`JobFuture`]: crate::job_future::JobFuture

mod drawing;
#[cfg(feature = "metrics")]
mod export;
mod fork;
mod frames;
mod gauges;
mod hogs;
mod numbers;
mod outside;
mod recorder;
mod registry;
mod signal;
mod tags;
mod text;
mod timeline;

use std::collections::{HashMap, HashSet};
use std::os::fd::RawFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

pub use drawing::{Panel, draw};
pub(crate) use fork::prepare_for_forks;
pub(crate) use gauges::Gauges;
pub use gauges::{Queues, SchedulerNumbers};
pub use hogs::{Hog, HogKind};
pub use numbers::{JobNumbers, Numbers, Times};
pub use recorder::{Recorded, Recorder, RecorderBuilder};
pub use registry::DriverKind;
pub(crate) use registry::{Asked, Registration, Request};
pub use signal::{OnSignal, on_signal};
pub use tags::{Tag, tag};
pub use timeline::{Pause, Run, Timeline, Track, Wake};

use crate::job::{JobInfo, is_in_job, on_spare_stack, read_running};
use crate::sys::kind_of_open_fd;
#[doc(hidden)] // for asyncjob-capi-lib
pub use crate::sys::{SignalRequests, spawn_for_signal};
pub use crate::wait_ctx::WakeCause;
use frames::Names;
use outside::{Outside, READ};
use registry::Driver;

/// Everything that [`dump`] has found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Dump {
    /// The schedulers, the workers and the threads that poll job futures. Last comes one of the kind
    /// [`DriverKind::Unknown`], if there are jobs that no other driver has told of.
    pub drivers: Vec<DriverDump>,
    /// The distinct stacks of the jobs: [`JobDump::stack`] is an index into this. A stack is a list of functions, with
    /// file and line where they are known, without type arguments, the innermost first. It begins with the function of
    /// this crate in which the code of the job waits, and ends with the closure of the job: how a job pauses and starts
    /// is left out.
    pub stacks: Vec<Vec<String>>,
    /// How long it took.
    pub took: Duration,
}

/// One driver in a [`Dump`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DriverDump {
    /// What drives the jobs.
    pub kind: DriverKind,
    /// The name of its thread, or the number that std gives it. It is empty if the kind is unknown.
    pub thread: String,
    /// Whether the driver has answered within the limit. Its jobs are missing otherwise, or some of them.
    pub answered: bool,
    /// The job that runs on the thread of a driver that has not answered: its id, and its name if it has one.
    pub running: Option<(u64, Option<String>)>,
    /// The jobs that have started and not ended.
    pub jobs: Vec<JobDump>,
}

/// One job in a [`Dump`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JobDump {
    /// What its driver knows of it. If the kind of the driver is unknown, [`JobInfo::in_state`] is 0: nothing keeps the
    /// time at which such a job has paused.
    pub info: JobInfo,
    /// What the code of the job has attached to it with [`tag`]: key and value.
    pub tags: Vec<(String, String)>,
    /// What each fd of [`JobInfo::fds`] is, as `/proc/self/fd` has it: `socket:[4711]`, `anon_inode:[eventfd]`, a path.
    /// It is empty if the fd is closed.
    pub fd_kinds: Vec<String>,
    /// Where the job is paused: an index into [`Dump::stacks`]. A job that runs has none, nor has one that is too near
    /// to the end of its stack to look.
    pub stack: Option<usize>,
}

/// Collects every job of this process that has started and not ended.
///
/// The call asks every driver and waits for the answers, for at most `within`. Each driver answers in its next turn, or
/// when the runtime polls its future next. So the call takes as long as the longest piece of work between two pauses,
/// and a thread that is stuck is named.
///
/// Any thread may call this. A driver of the calling thread cannot answer meanwhile. The schedulers of that thread are
/// looked at directly. The futures of that thread are missing, and their driver counts as one that has not answered: on
/// an async runtime, call this from a blocking thread. A job may have a stack of any size: the dump is made on another
/// one.
///
/// Jobs that code drives by hand ([`start_job`](crate::start_job)) have no driver, and nor have those of the C drop-in.
/// Their stacks are read while their threads go on, so they are there only while they are paused. What they wait for is
/// there but for a third fd and further ones, and since when is not. Jobs whose
/// stacks the program provides (`ASYNC_set_mem_functions`) are missing.
///
/// ```
/// use asyncjob::scheduler::Workers;
/// use asyncjob::{JobBuilder, Status, current_job, insight, pause_job};
/// use std::time::Duration;
///
/// let workers = Workers::builder().threads(1).thread_name("tls").build()?;
/// let (paused, is_paused) = std::sync::mpsc::channel();
/// let stuck = JobBuilder::new().name("stuck").submit_to(&workers.handle(), move || {
///     current_job().unwrap().wait_ctx().set_status(Status::Ok); // as an engine that will call back
///     paused.send(()).unwrap();
///     pause_job()
/// })?;
/// is_paused.recv()?;
/// let dump = insight::dump(Duration::from_secs(5));
/// let text = dump.to_string();
/// assert!(text.contains("stuck") && text.contains("a callback"), "{text}");
/// # drop(stuck);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
pub fn dump(within: Duration) -> Dump {
    // To name frames takes tens of KiB of stack, which a job may not have.
    let dumped = is_in_job().then(|| on_spare_stack(|| dump_here(within)));
    dumped.flatten().unwrap_or_else(|| dump_here(within))
}

fn dump_here(within: Duration) -> Dump {
    let began = Instant::now();
    let until = began + within.min(Duration::from_secs(3600));
    let outside = Outside::look();
    let asked: Vec<_> = registry::drivers().iter().map(ask).collect();
    let mut folded = Folded::default();
    let mut drivers: Vec<_> = asked
        .into_iter()
        .filter_map(|one| one.collect(until, &mut folded))
        .collect();
    let told: HashSet<_> = drivers
        .iter()
        .flat_map(|driver| &driver.jobs)
        .map(|job| job.info.id)
        .collect();
    let rest = outside.rest(|id| told.contains(&id));
    if !rest.is_empty() {
        drivers.push(DriverDump {
            kind: DriverKind::Unknown,
            thread: String::new(),
            answered: true,
            running: None,
            jobs: rest.into_iter().map(|job| folded.add(job)).collect(),
        });
    }
    let stacks = folded.named(&mut drivers);
    Dump {
        drivers,
        stacks,
        took: began.elapsed(),
    }
}

/// A driver that has been asked, and the answers that it sends.
struct Pending {
    driver: std::sync::Arc<Driver>,
    answers: Receiver<Vec<Asked>>,
    /// Whether nothing can answer, because this thread would have to.
    is_own: bool,
}

fn ask(driver: &std::sync::Arc<Driver>) -> Pending {
    let (request, answers) = channel();
    let is_own = driver.thread == thread::current().id();
    if !is_own {
        (driver.ask)(request);
    } else if let Some(jobs) = registry::look_at_own(driver) {
        let _ = request.send(jobs);
        return Pending {
            driver: driver.clone(),
            answers,
            is_own: false,
        };
    }
    Pending {
        driver: driver.clone(),
        answers,
        is_own,
    }
}

impl Pending {
    /// `None` if the driver is gone without an answer.
    fn collect(self, until: Instant, folded: &mut Folded) -> Option<DriverDump> {
        let mut jobs = Vec::new();
        // A scheduler sends one list, unless it is gone or a panic has kept it from answering.
        let mut has_sent = self.driver.kind == DriverKind::Futures;
        let answered = loop {
            match self
                .answers
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(some) => {
                    has_sent = true;
                    jobs.extend(some.into_iter().map(|job| folded.add(job)));
                }
                // Every part has answered, or is gone.
                Err(RecvTimeoutError::Disconnected) => break has_sent && !self.is_own,
                Err(RecvTimeoutError::Timeout) => break false,
            }
        };
        if !answered && !registry::has(&self.driver) {
            return None;
        }
        let running = (!answered).then(|| running_job(&self.driver)).flatten();
        Some(DriverDump {
            kind: self.driver.kind,
            thread: self.driver.thread_name.clone(),
            answered,
            running,
            jobs,
        })
    }
}

/// The job that runs on the thread of a driver. The thread goes on meanwhile, so the kernel reads the memory: that
/// fails where the memory is gone, and is no data race. What was read counts only if the same job runs afterwards.
fn running_job(driver: &Driver) -> Option<(u64, Option<String>)> {
    let first = read_running(driver.current, &READ)?;
    let again = read_running(driver.current, &READ)?;
    (first == again).then_some(first)
}

/// The stacks of all jobs, each of them once.
#[derive(Default)]
struct Folded {
    index_of: HashMap<Vec<usize>, usize>,
    stacks: Vec<Vec<usize>>,
}

impl Folded {
    fn add(&mut self, job: Asked) -> JobDump {
        let fd_kinds = job.info.fds.iter().map(|fd| fd_kind(fd.fd)).collect();
        let stack = (!job.frames.is_empty()).then(|| {
            let stacks = &mut self.stacks;
            *self.index_of.entry(job.frames).or_insert_with_key(|frames| {
                stacks.push(frames.clone());
                stacks.len() - 1
            })
        });
        JobDump {
            tags: tags::of(job.info.id),
            info: job.info,
            fd_kinds,
            stack,
        }
    }

    /// Names the functions of each stack. Stacks that differ only in what is left out are one: the jobs of `drivers`
    /// get the places of theirs.
    fn named(self, drivers: &mut [DriverDump]) -> Vec<Vec<String>> {
        let mut names = Names::new();
        let mut place_of = HashMap::new();
        let mut named = Vec::new();
        let places: Vec<usize> = self
            .stacks
            .iter()
            .map(|frames| {
                let stack = names.of(frames);
                *place_of.entry(stack).or_insert_with_key(|stack: &Vec<String>| {
                    named.push(stack.clone());
                    named.len() - 1
                })
            })
            .collect();
        for job in drivers.iter_mut().flat_map(|driver| &mut driver.jobs) {
            job.stack = job.stack.map(|stack| places[stack]);
        }
        named
    }
}

/// What an fd is. A process that has changed its root directory has no `/proc`, and is told less.
fn fd_kind(fd: RawFd) -> String {
    let link = std::fs::read_link(format!("/proc/self/fd/{fd}"));
    link.map_or_else(|_| kind_of_open_fd(fd), |target| target.to_string_lossy().into_owned())
}
