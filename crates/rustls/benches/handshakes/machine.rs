//! What the system says of a process, and where it runs.

use std::error::Error;
use std::fs;
use std::io;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit, setsid};
use rustix::thread::{CpuSet, sched_setaffinity};

/// A look at a process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Look {
    pub(crate) threads: u64,
    pub(crate) resident_kib: u64,
    pub(crate) virtual_kib: u64,
    /// Processor time since it started.
    pub(crate) cpu: Duration,
}

impl Look {
    pub(crate) fn at(process: u32) -> Result<Look, Box<dyn Error>> {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            let number = line
                .and_then(|line| line.split_whitespace().nth(1))
                .ok_or("no such line in /proc");
            Ok::<u64, Box<dyn Error>>(number?.parse()?)
        };
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        // After the name, which may hold anything, in parentheses: fields 14 and 15 of the line, in ticks of 10 ms.
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let ticks: u64 = after_name
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        Ok(Look {
            threads: field("Threads:")?,
            resident_kib: field("VmRSS:")?,
            virtual_kib: field("VmSize:")?,
            cpu: Duration::from_millis(10 * ticks),
        })
    }
}

/// Keeps this process, and the threads it will start, on one core, if it has more than one.
pub(crate) fn stay_on_core(core: usize) -> io::Result<()> {
    if std::thread::available_parallelism()?.get() < 2 {
        return Ok(());
    }
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}

/// Comes before the rest of the machine, where the system lets it, so that the table is about the server and not about who else
/// wants the core. The probe comes before the clients, with which it shares one.
pub(crate) fn come_first(nice: i32) {
    // Where sessions are scheduled as groups, a process's own nice value counts inside its session only: have one of our own.
    let _ = setsid();
    let _ = fs::write("/proc/self/autogroup", nice.to_string());
    let _ = setpriority_process(None, nice);
}

/// As many fds as the system lets us have: 2,000 connections need more than the usual 1,024.
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
