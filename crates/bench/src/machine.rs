//! The machine: which processors a run is pinned to, and the words that describe it in a report.

use std::fs;
use std::mem::MaybeUninit;

use crate::peer::Absent;

/// The processors of a run.
#[derive(Clone, Copy)]
pub(crate) struct Cores {
    /// The processor that everything runs on.
    pub(crate) main: usize,
    /// The processor of the second thread of a hand-over. It is `main` on a machine with one processor.
    pub(crate) other: usize,
}

impl Cores {
    /// Takes the last two processors that this process may use, because the first ones serve most interrupts.
    pub(crate) fn choose() -> Self {
        let allowed = allowed();
        let main = *allowed.last().expect("a running process has a processor");
        let other = allowed.iter().rev().nth(1).copied().unwrap_or(main);
        Cores { main, other }
    }

    /// Whether a second thread has a processor of its own.
    pub(crate) fn two(self) -> bool {
        self.main != self.other
    }
}

/// Runs `f` on a thread that may use both processors of `cores`, as may the threads that it starts.
pub(crate) fn on_all<T: Send>(cores: Cores, f: impl FnOnce() -> T + Send) -> T {
    let run = || {
        restrict(&[cores.main, cores.other]);
        f()
    };
    std::thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Holds this thread, and the threads that it will start, to one processor.
pub(crate) fn pin(core: usize) {
    restrict(&[core]);
}

fn restrict(cores: &[usize]) {
    // SAFETY: a set of processors is an array of bits, zero is the empty one.
    let mut set: libc::cpu_set_t = unsafe { MaybeUninit::zeroed().assume_init() };
    for &core in cores {
        // SAFETY: `core` came from `allowed`, which is within the set.
        unsafe { libc::CPU_SET(core, &mut set) };
    }
    // SAFETY: the pointer and the size are those of the set.
    let failed = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) };
    let error = std::io::Error::last_os_error();
    assert_eq!(failed, 0, "the processors {cores:?} were allowed a moment ago: {error}");
}

fn allowed() -> Vec<usize> {
    // SAFETY: a set of processors is an array of bits, zero is the empty one.
    let mut set: libc::cpu_set_t = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: the pointer and the size are those of the set.
    unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) };
    // SAFETY: every number below CPU_SETSIZE is within the set.
    (0..libc::CPU_SETSIZE as usize)
        .filter(|&core| unsafe { libc::CPU_ISSET(core, &set) })
        .collect()
}

/// The facts about this machine that a reader needs to compare figures, as pairs of a name and a value.
pub(crate) fn describe(cores: Cores) -> Vec<(&'static str, String)> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mitigations = ["retbleed", "spec_rstack_overflow", "spectre_v2"].map(mitigation);
    vec![
        (
            "processor",
            field(&cpu, "model name")
                .or_else(|| field(&cpu, "CPU implementer"))
                .unwrap_or_else(unknown),
        ),
        ("processors", format!("main {}, other {}", cores.main, cores.other)),
        (
            "virtual",
            if cpu.contains("hypervisor") {
                "yes".into()
            } else {
                "no".into()
            },
        ),
        ("mitigations", mitigations.join("; ")),
        ("kernel", read("/proc/sys/kernel/osrelease")),
        (
            "clock source",
            read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        ),
        ("memory", memory()),
        ("maps limit", read("/proc/sys/vm/max_map_count")),
        ("compiler", env!("ASYNCJOB_BENCH_RUSTC").to_string()),
    ]
}

fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

fn memory() -> String {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    field(&text, "MemTotal").unwrap_or_else(unknown)
}

/// Bytes that the kernel estimates it could give out without swapping.
fn available_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = field(&text, "MemAvailable").and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Whether the free memory of this machine is enough for `live` times `each` bytes, and a fifth of it is left.
pub(crate) fn has_memory_for(live: usize, each: f64) -> Result<(), Absent> {
    let needed = (each * live as f64) as u64;
    let free = available_memory() / 10 * 8;
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    match needed > free {
        true => Err(Absent(format!(
            "needs {:.0} GiB of RAM, {:.0} are free",
            gib(needed),
            gib(free)
        ))),
        false => Ok(()),
    }
}

fn mitigation(name: &str) -> String {
    format!(
        "{name}: {}",
        read(&format!("/sys/devices/system/cpu/vulnerabilities/{name}"))
    )
}

fn read(path: &str) -> String {
    fs::read_to_string(path)
        .map(|text| text.trim().to_string())
        .unwrap_or_else(|_| unknown())
}

fn unknown() -> String {
    "unknown".into()
}
