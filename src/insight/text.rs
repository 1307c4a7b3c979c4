//! A dump for people, and for tools.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use serde_json::{Value, json};

use super::{DriverDump, DriverKind, Dump, JobDump};
use crate::job::JobState;
use crate::wait_ctx::waits_for;

impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let jobs: usize = self.drivers.iter().map(|driver| driver.jobs.len()).sum();
        writeln!(f, "{jobs} jobs, {} drivers, in {:.1?}", self.drivers.len(), self.took)?;
        for driver in &self.drivers {
            self.fmt_driver(driver, f)?;
        }
        Ok(())
    }
}

impl Dump {
    /// A driver: its jobs by the stack that they have, the stack with the most jobs first.
    fn fmt_driver(&self, driver: &DriverDump, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, thread, count) = (driver.kind, &driver.thread, driver.jobs.len());
        if kind == DriverKind::Unknown {
            writeln!(
                f,
                "\nno driver tells of {count} jobs: they are driven by hand, by C code or by a silent driver"
            )?;
        } else {
            writeln!(f, "\n{kind} on thread {thread}: {count} jobs")?;
        }
        if !driver.answered {
            match &driver.running {
                Some((id, name)) => {
                    let name = name.as_deref().unwrap_or("without a name");
                    writeln!(f, "  DID NOT ANSWER: the job #{id} ({name}) keeps the thread")?;
                }
                None => writeln!(
                    f,
                    "  DID NOT ANSWER: no job runs there, so the thread itself is blocked or busy"
                )?,
            }
        }
        let mut by_stack: BTreeMap<_, Vec<&JobDump>> = BTreeMap::new();
        for job in &driver.jobs {
            by_stack.entry(job.stack).or_default().push(job);
        }
        let mut groups: Vec<_> = by_stack.into_iter().collect();
        groups.sort_by_key(|(_, jobs)| std::cmp::Reverse(jobs.len()));
        for (stack, jobs) in groups {
            match stack {
                Some(_) => writeln!(f, "\n  {} jobs are here:", jobs.len())?,
                None => writeln!(f, "\n  {} jobs without a stack to show:", jobs.len())?,
            }
            let frames = stack.and_then(|stack| self.stacks.get(stack));
            for frame in frames.into_iter().flatten() {
                writeln!(f, "      {frame}")?;
            }
            for job in jobs {
                writeln!(f, "    {}", Line(job, kind))?;
            }
        }
        Ok(())
    }

    /// The dump as JSON. The fields are those of the structs; times are in seconds.
    pub fn to_json(&self) -> String {
        let drivers: Vec<_> = self.drivers.iter().map(driver_json).collect();
        json!({ "took": self.took.as_secs_f64(), "drivers": drivers, "stacks": self.stacks }).to_string()
    }
}

fn driver_json(driver: &DriverDump) -> Value {
    let running = driver
        .running
        .as_ref()
        .map(|(id, name)| json!({ "id": id, "name": name }));
    json!({
        "kind": driver.kind.to_string(),
        "thread": driver.thread,
        "answered": driver.answered,
        "running": running,
        "jobs": driver.jobs.iter().map(|job| job_json(job, driver.kind)).collect::<Vec<_>>(),
    })
}

fn job_json(job: &JobDump, kind: DriverKind) -> Value {
    let info = &job.info;
    let fd = |(fd, kind): (&crate::wait_ctx::WaitFd, &String)| {
        json!({
            "fd": fd.fd,
            "kind": kind,
            "key": format!("{:?}", fd.key),
            "readable": fd.interest.is_readable(),
            "writable": fd.interest.is_writable(),
            "only_when_armed": fd.only_when_armed,
        })
    };
    json!({
        "id": info.id.get(),
        "name": info.name,
        "state": state(info.state),
        "tags": job.tags,
        "in_state": (kind != DriverKind::Unknown).then_some(info.in_state.as_secs_f64()),
        "fds": info.fds.iter().zip(&job.fd_kinds).map(fd).collect::<Vec<_>>(),
        "status": info.status.to_raw(),
        "deadline": info.deadline.map(seconds_until),
        "high_water": info.high_water,
        "stack_size": info.stack_size,
        "stack": job.stack,
    })
}

/// The time until `at`, negative if it has passed.
fn seconds_until(at: Instant) -> f64 {
    let now = Instant::now();
    at.saturating_duration_since(now).as_secs_f64() - now.saturating_duration_since(at).as_secs_f64()
}

fn state(state: JobState) -> &'static str {
    match state {
        JobState::Ready => "ready",
        JobState::Running => "running",
        JobState::Paused => "paused",
    }
}

/// One job on one line.
struct Line<'a>(&'a JobDump, DriverKind);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let JobDump {
            info, fd_kinds, tags, ..
        } = self.0;
        write!(f, "{}", info.id)?;
        if let Some(name) = &info.name {
            write!(f, " {name}")?;
        }
        for (key, value) in tags {
            write!(f, " {key}={value}")?;
        }
        write!(f, ", {}", state(info.state))?;
        if self.1 != DriverKind::Unknown {
            write!(f, " for {:.1?}", info.in_state)?;
        }
        let fds = info.fds.iter().zip(fd_kinds.iter().map(|kind| Some(kind.as_str())));
        let left = info.deadline.map(seconds_until);
        write!(f, ", waits for {}", waits_for(fds, info.status, left))?;
        write!(
            f,
            ", stack {} of {} KiB",
            info.high_water.div_ceil(1024),
            info.stack_size / 1024
        )
    }
}
