//! The system's figures for a process, and where a process runs.

use std::error::Error;
use std::fs;
use std::io;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit, setsid};
use rustix::thread::{CpuSet, sched_setaffinity};

/// What the system reports about a process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) threads: u64,
    pub(crate) resident_kib: u64,
    pub(crate) virtual_kib: u64,
    /// Processor time since the process started.
    pub(crate) cpu: Duration,
}

impl Usage {
    pub(crate) fn at(process: u32) -> Result<Usage, Box<dyn Error>> {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            let number = line
                .and_then(|line| line.split_whitespace().nth(1))
                .ok_or("no such line in /proc");
            Ok::<u64, Box<dyn Error>>(number?.parse()?)
        };
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        // Fields 14 and 15 of the line, in ticks of 10 ms. They are counted from the parenthesis after the name, which
        // may contain anything.
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let ticks: u64 = after_name
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        Ok(Usage {
            threads: field("Threads:")?,
            resident_kib: field("VmRSS:")?,
            virtual_kib: field("VmSize:")?,
            cpu: Duration::from_millis(10 * ticks),
        })
    }
}

/// Keeps this process, and the threads that it will start, on one core, if the machine has more than one.
pub(crate) fn stay_on_core(core: usize) -> io::Result<()> {
    if std::thread::available_parallelism()?.get() < 2 {
        return Ok(());
    }
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}

/// Gives this process priority over other programs, where the system allows it, so that they change the table less. The
/// probe has priority over the clients, with which it shares a core.
pub(crate) fn raise_priority(nice: i32) {
    // Where sessions are scheduled as groups, a nice value counts within its session only. So this process gets a
    // session of its own.
    let _ = setsid();
    let _ = fs::write("/proc/self/autogroup", nice.to_string());
    let _ = setpriority_process(None, nice);
}

/// Raises the limit of fds as far as the system allows: 2,000 connections need more than the usual 1,024.
pub(crate) fn raise_fd_limit() -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    Ok(setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    )?)
}
