//! Drivers: three that are what a host program does which only knows the manual page, and our scheduler.
//!
//! Whatever pauses a job must not know who resumes it. So each behaviour is tested under [`EVERY`] one of them.

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

/// When a driver resumes a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// In turn, without looking why it paused.
    Always,
    /// When `poll(2)` says so of its fds, or at its deadline. Takes no callback.
    Fds,
    /// As the status says: at the callback, or as with `Fds`.
    Callback,
    /// By our scheduler.
    Scheduler,
}

pub(crate) const EVERY: [Rule; 4] = [Rule::Always, Rule::Fds, Rule::Callback, Rule::Scheduler];

/// Jobs on this thread, each with a ctx of its own.
pub(crate) struct Drivers {
    rule: Rule,
    tasks: Vec<Task>,
    bell: (UnixStream, UnixStream),
    scheduler: (Scheduler, Vec<JoinHandle<()>>),
    /// How often a job was resumed.
    pub(crate) resumes: usize,
}

struct Task {
    ctx: WaitCtx,
    job: Option<Job<()>>,
    called: Arc<AtomicBool>,
}

impl Drivers {
    pub(crate) fn new(rule: Rule) -> Self {
        let bell = UnixStream::pair().unwrap();
        bell.0.set_nonblocking(true).unwrap();
        bell.1.set_nonblocking(true).unwrap();
        Drivers {
            rule,
            tasks: Vec::new(),
            bell,
            scheduler: (Scheduler::new().unwrap(), Vec::new()),
            resumes: 0,
        }
    }

    /// Starts `f` as a job with a ctx of its own, which is returned. Under the scheduler it starts in
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
            let bell = self.bell.0.try_clone().unwrap();
            let called = Arc::clone(&called);
            ctx.set_callback(Some(waker_fn(move || {
                called.store(true, Ordering::Release);
                let _ = (&bell).write(&[1]); // full is loud enough
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

    /// Runs until every job has ended, for at most a minute. A panic of a job comes out here.
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
        task.called.store(false, Ordering::Release); // before the resume: a call during it counts for the next pause
        if let Step::Paused(job) = job.resume() {
            task.job = Some(job);
        }
    }

    /// Waits until some job can go on, and says which.
    fn wait(&mut self) -> Vec<bool> {
        let mut polled = vec![entry(self.bell.1.as_raw_fd(), Interest::Readable)];
        let mut owners = vec![usize::MAX];
        for (at, task) in self.tasks.iter().enumerate().filter(|(_, task)| task.waits_for_fds()) {
            for fd in task.ctx.fds() {
                polled.push(entry(fd.fd, fd.interest));
                owners.push(at);
            }
        }
        let timeout = self.tasks.iter().filter_map(Task::patience).min();
        poll(&mut polled, timeout);
        let _ = (&self.bell.1).read(&mut [0; 4096]);

        let mut ready: Vec<bool> = self.tasks.iter().map(Task::can_go_on).collect();
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

    /// How long it may be left alone; `None`: until something happens.
    fn patience(&self) -> Option<Duration> {
        if self.can_go_on() {
            return Some(Duration::ZERO);
        }
        let deadline = self.ctx.deadline()?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    /// Whether it can go on for another reason than an fd.
    fn can_go_on(&self) -> bool {
        let over = self.ctx.deadline().is_some_and(|at| at <= Instant::now());
        over || match self.ctx.status() {
            Status::Ok => self.called.load(Ordering::Acquire),
            Status::Eagain => true,
            Status::Unsupported => self.ctx.fds().is_empty() && self.ctx.deadline().is_none(),
            other => panic!("nothing here sets {other:?}"),
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
    // SAFETY: the slice is valid, and this is its length.
    let polled = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout) };
    assert!(polled >= 0, "poll: {}", std::io::Error::last_os_error());
}
