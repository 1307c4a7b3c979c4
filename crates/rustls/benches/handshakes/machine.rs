//! The system's figures for a process, and where a process runs.

use std::error::Error;
use std::fs;
use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit, setsid};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// What the system reports about a process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) threads: u64,
    pub(crate) resident_kib: u64,
    pub(crate) virtual_kib: u64,
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
        Ok(Usage {
            threads: field("Threads:")?,
            resident_kib: field("VmRSS:")?,
            virtual_kib: field("VmSize:")?,
        })
    }
}

/// The time, and how much of it this process has run so far, in nanoseconds. /proc counts in ticks of 10 ms.
pub(crate) fn clocks() -> (i64, i64) {
    let nanoseconds = |clock| {
        let now = clock_gettime(clock);
        now.tv_sec * 1_000_000_000 + now.tv_nsec
    };
    (nanoseconds(ClockId::Monotonic), nanoseconds(ClockId::ProcessCPUTime))
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
