//! Four drivers of jobs: three as a host program would write them that knows only the manual page, and the scheduler.
//!
//! Code that pauses a job must not depend on what resumes it. So each behaviour is tested under [`EVERY`] driver.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(unsafe_code, reason = "polls fds by number, as a driver gets them")]

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use asyncjob::scheduler::{JoinHandle, Scheduler};
use asyncjob::{Interest, Job, JobBuilder, Status, Step, WaitCtx, start_job, waker_fn};
use asyncjob_testing::Watchdog;

/// The rule by which a driver resumes a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Resume the jobs in turn, without checking why they paused.
    Always,
    /// Resume a job when `poll(2)` reports one of its fds, or at its deadline. Set no callback.
    Fds,
    /// Resume a job as its status says: at the callback, or as with `Fds`.
    Callback,
    /// Spawn the jobs on a [`Scheduler`].
    Scheduler,
}

pub(crate) const EVERY: [Rule; 4] = [Rule::Always, Rule::Fds, Rule::Callback, Rule::Scheduler];

/// A driver with its jobs on this thread. Each job has a ctx of its own.
pub(crate) struct Drivers {
    rule: Rule,
    tasks: Vec<Task>,
    notifier: (UnixStream, UnixStream),
    scheduler: (Scheduler, Vec<JoinHandle<()>>),
    /// The number of resumes.
    pub(crate) resumes: usize,
}

struct Task {
    ctx: WaitCtx,
    job: Option<Job<()>>,
    called: Arc<AtomicBool>,
}

impl Drivers {
    pub(crate) fn new(rule: Rule) -> Self {
        let notifier = UnixStream::pair().unwrap();
        notifier.0.set_nonblocking(true).unwrap();
        notifier.1.set_nonblocking(true).unwrap();
        Drivers {
            rule,
            tasks: Vec::new(),
            notifier,
            scheduler: (Scheduler::new().unwrap(), Vec::new()),
            resumes: 0,
        }
    }

    /// Starts `f` as a job with a new ctx, and returns the ctx. Under the scheduler the job starts in
    /// [`run`](Self::run).
    pub(crate) fn start(&mut self, f: impl FnOnce() + 'static) -> WaitCtx {
        let ctx = WaitCtx::new();
        if self.rule == Rule::Scheduler {
            let handle = JobBuilder::new().wait_ctx(&ctx).spawn_on(&self.scheduler.0, f);
            self.scheduler.1.push(handle.unwrap());
            return ctx;
        }
        let called = Arc::new(AtomicBool::new(false));
        if self.rule == Rule::Callback {
            let notifier = self.notifier.0.try_clone().unwrap();
            let called = Arc::clone(&called);
            ctx.set_callback(Some(waker_fn(move || {
                called.store(true, Ordering::Release);
                let _ = (&notifier).write(&[1]); // a full socket is readable, which is enough
            })));
        }
        let job = match start_job(&ctx, f).unwrap() {
            Step::Finished(()) => None,
            Step::Paused(job) => Some(job),
        };
        self.tasks.push(Task {
            ctx: ctx.clone(),
            job,
            called,
        });
        ctx
    }

    /// Runs until every job has ended, for at most a minute. A panic of a job comes out of this call.
    pub(crate) fn run(&mut self) {
        let _watchdog = Watchdog::new();
        self.scheduler.0.run().unwrap();
        self.resumes += self.scheduler.0.stats().resumes as usize;
        self.scheduler.1.drain(..).for_each(|job| job.join().unwrap());
        self.tasks.retain(|task| task.job.is_some());
        while !self.tasks.is_empty() {
            self.turn();
            self.tasks.retain(|task| task.job.is_some());
        }
    }

    fn turn(&mut self) {
        if self.rule == Rule::Always {
            return (0..self.tasks.len()).for_each(|at| self.resume(at));
        }
        let ready = self.wait();
        for (at, _) in ready.into_iter().enumerate().filter(|(_, ready)| *ready) {
            self.resume(at);
        }
    }

    fn resume(&mut self, at: usize) {
        let task = &mut self.tasks[at];
        let Some(job) = task.job.take() else { return };
        self.resumes += 1;
        // Cleared before the resume, because a call during the resume counts for the next pause.
        task.called.store(false, Ordering::Release);
        if let Step::Paused(job) = job.resume() {
            task.job = Some(job);
        }
    }

    /// Waits until a job can be resumed, and returns for each job whether it can.
    fn wait(&mut self) -> Vec<bool> {
        let mut polled = vec![entry(self.notifier.1.as_raw_fd(), Interest::Readable)];
        let mut owners = vec![usize::MAX];
        for (at, task) in self.tasks.iter().enumerate().filter(|(_, task)| task.waits_for_fds()) {
            for fd in task.ctx.fds() {
                polled.push(entry(fd.fd, fd.interest));
                owners.push(at);
            }
        }
        let timeout = self.tasks.iter().filter_map(Task::timeout).min();
        poll(&mut polled, timeout);
        let _ = (&self.notifier.1).read(&mut [0; 4096]);

        let mut ready: Vec<bool> = self.tasks.iter().map(Task::is_ready).collect();
        for (polled, owner) in polled.iter().zip(owners).skip(1) {
            ready[owner] |= polled.revents != 0;
        }
        ready
    }
}

impl Task {
    fn waits_for_fds(&self) -> bool {
        self.ctx.status() == Status::Unsupported
    }

    /// How long the driver may wait before it resumes this job. `None`: until an event.
    fn timeout(&self) -> Option<Duration> {
        if self.is_ready() {
            return Some(Duration::ZERO);
        }
        let deadline = self.ctx.deadline()?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    /// Whether the job can be resumed for another reason than an fd.
    fn is_ready(&self) -> bool {
        let over = self.ctx.deadline().is_some_and(|at| at <= Instant::now());
        over || match self.ctx.status() {
            Status::Ok => self.called.load(Ordering::Acquire),
            Status::Eagain => true,
            Status::Unsupported => self.ctx.fds().is_empty() && self.ctx.deadline().is_none(),
            other => panic!("these tests do not use {other:?}"),
        }
    }
}

fn entry(fd: RawFd, interest: Interest) -> libc::pollfd {
    let mut events = 0;
    if interest.is_readable() {
        events |= libc::POLLIN;
    }
    if interest.is_writable() {
        events |= libc::POLLOUT;
    }
    libc::pollfd { fd, events, revents: 0 }
}

fn poll(fds: &mut [libc::pollfd], timeout: Option<Duration>) {
    let timeout = timeout.map_or(-1, |t| t.as_nanos().div_ceil(1_000_000) as i32);
    // SAFETY: the pointer and the length are those of a valid slice.
    let polled = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout) };
    assert!(polled >= 0, "poll: {}", std::io::Error::last_os_error());
}
