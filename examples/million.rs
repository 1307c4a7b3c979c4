//! A million paused jobs, each behind a guard, on one machine.
//!
//! ```text
//! cargo run --release --example million -- --jobs 1000000
//! ```
//!
//! | option | default | |
//! |---|---|---|
//! | `--jobs N` | 1000000 | how many jobs are paused at the same time |
//! | `--stack BYTES` | 16384 | of each job |
//! | `--guard BYTES` | 16384 | below each |
//! | `--frames N` | 8 | how deep in calls each job pauses |
//! | `--shared-ctx` | | one wait ctx for all jobs, instead of one each |
//! | `--quiet` | | no progress bar; so also where stderr is no terminal |
//!
//! It starts the jobs, resumes all of them in order and in random order, and finishes them in random order. The last
//! line is `key=value` pairs for a script:
//!
//! | key | |
//! |---|---|
//! | `start_seconds`, `start_ns` | for all, for one: a fresh stack, its guard, its first page fault, run to the pause |
//! | `floor_ns` | touching one byte in as many fresh pages, as far apart: the page fault that each job must take |
//! | `guarded_floor_ns` | the same behind guards, made by the fewest calls: what the kernel takes for a guarded page |
//! | `start_over_floor`, `start_over_guarded_floor` | the ratios |
//! | `start_faults`, `floor_faults` | page faults a job, by `getrusage(2)` |
//! | `resident_per_job` | bytes of memory with page tables (`VmRSS` + `VmPTE`) a job, its wait ctx included |
//! | `page_tables` | bytes of `VmPTE` for all |
//! | `mappings` | lines of `/proc/self/maps` more than before |
//! | `in_order_ns`, `random_ns` | one round trip: resume, to the pause, and back |
//! | `prefetched_ns` | at random, telling the processor of each job some jobs ahead (`Job::prefetch`), as a queue of ready jobs can |
//! | `resident_before`, `resident_after` | bytes, before the first job and after the last: the heap that the wait ctxs took is glibc's to return, and mostly stays |
//!
//! Why 16 KiB of guard and not the default of 64 KiB: each page of a slot costs 8 bytes of page table, guard pages
//! included. A slot of 16 + 16 KiB takes 64 of them, one of 64 + 64 KiB takes 256, which is over 4,300 bytes a job in
//! all.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Instant;

use asyncjob::pool::{PoolConfig, init_thread};
use asyncjob::stack::{self, StackSize, install_overflow_handler};
use asyncjob::{Job, StartErrorKind, Step, WaitCtx, pause_job};

/// Round trips of each job in each order.
const ROUNDS: usize = 2;
/// How many round trips ahead a job is prefetched.
const AHEAD: usize = 4;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => return fail(&message),
    };
    if let Err(message) = options.check_memory() {
        return fail(&message);
    }
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => fail(&message),
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("million: {message}");
    ExitCode::FAILURE
}

fn run(options: &Options) -> Result<(), String> {
    let n = options.jobs;
    install_overflow_handler().map_err(|error| error.to_string())?;
    let config = PoolConfig::new()
        .stack_size(StackSize::at_least(options.stack))
        .guard(options.guard);
    init_thread(config).map_err(|error| error.to_string())?;

    // What this program itself needs is there before anything is measured.
    let mut jobs: Vec<Option<Job<u64>>> = Vec::with_capacity(n);
    jobs.extend((0..n).map(|_| None));
    let order = shuffled(n);
    let stride = StackSize::at_least(options.stack).bytes() + options.guard.next_multiple_of(4096);
    let shared = WaitCtx::new();
    let mappings_before = Usage::now().mappings;
    // The host of a virtual machine has faults of its own, the first time: once around, for nothing.
    for (index, place) in jobs.iter_mut().enumerate() {
        *place = Some(start(&shared, index as u64, options.frames)?);
        options.progress("warming the machine up", index);
    }
    for job in jobs.iter_mut().filter_map(Option::take) {
        finish(job);
    }
    let floor_before = floor::touch(n, stride, 0)?;
    let guarded_before = floor::touch(n, stride, options.guard)?;

    let before = Usage::now();
    let started = Instant::now();
    for (index, place) in jobs.iter_mut().enumerate() {
        let own = (!options.shared_ctx).then(WaitCtx::new);
        *place = Some(start(own.as_ref().unwrap_or(&shared), index as u64, options.frames)?);
        options.progress("starting", index);
    }
    let start_seconds = started.elapsed().as_secs_f64();
    let full = Usage::now();

    let at_random = order.iter().map(|&index| index as usize);
    let in_order_ns = round_trips(&mut jobs, options, "resuming in order", 0..n, false);
    let random_ns = round_trips(&mut jobs, options, "resuming at random", at_random.clone(), false);
    let prefetched_ns = round_trips(&mut jobs, options, "resuming with a look ahead", at_random, true);

    let slabs: usize = stack::stats().iter().map(|stats| stats.slabs).sum();
    let high_water = stack::stats().iter().map(|stats| stats.high_water).max().unwrap_or(0);
    let ended = Instant::now();
    let mut sum = 0;
    for (done, &index) in order.iter().enumerate() {
        let job = jobs[index as usize].take().expect("a paused job");
        let Step::Finished(value) = job.resume() else {
            return Err(format!("job {index} paused once more than it should"));
        };
        sum += value;
        options.progress("finishing", done);
    }
    let finish_ns = ended.elapsed().as_secs_f64() * 1e9 / n as f64;
    let after = Usage::now();
    if sum != n as u64 * (n as u64 - 1) / 2 {
        return Err(format!("the jobs returned {sum} in all, which is wrong"));
    }
    let floor = floor_before.mean(floor::touch(n, stride, 0)?);
    let guarded = guarded_before.mean(floor::touch(n, stride, options.guard)?);
    options.clear();
    let per_job = |bytes: usize| bytes as f64 / n as f64;
    println!(
        "jobs={n} stack={} guard={} frames={} start_seconds={start_seconds:.3} start_ns={:.0} floor_ns={:.0} \
         guarded_floor_ns={:.0} start_over_floor={:.3} start_over_guarded_floor={:.3} \
         start_faults={:.4} floor_faults={:.4} resident_per_job={:.0} page_tables={} mappings={} slabs={slabs} \
         in_order_ns={in_order_ns:.1} random_ns={random_ns:.1} prefetched_ns={prefetched_ns:.1} \
         finish_ns={finish_ns:.0} high_water={high_water} resident_before={} resident_after={}",
        StackSize::at_least(options.stack).bytes(),
        options.guard,
        options.frames,
        start_seconds * 1e9 / n as f64,
        floor.ns,
        guarded.ns,
        start_seconds * 1e9 / n as f64 / floor.ns,
        start_seconds * 1e9 / n as f64 / guarded.ns,
        per_job(full.faults - before.faults),
        floor.faults,
        per_job(full.resident + full.page_tables - before.resident - before.page_tables),
        full.page_tables - before.page_tables,
        full.mappings - mappings_before,
        before.resident,
        after.resident,
    );
    Ok(())
}

/// A job that pauses some frames deep, for as many round trips as will come, and returns its number.
fn start(ctx: &WaitCtx, number: u64, frames: u32) -> Result<Job<u64>, String> {
    match asyncjob::start_job(ctx, move || descend(frames, number)) {
        Ok(Step::Paused(job)) => Ok(job),
        Ok(Step::Finished(_)) => Err("a job finished before it was resumed".to_owned()),
        Err(error) => match error.kind() {
            StartErrorKind::NoStack(source) => Err(format!("job {number} could not start: {source}")),
            _ => Err(format!("job {number} could not start: {error}")),
        },
    }
}

/// Not a tail call: each frame has something left to do.
#[inline(never)]
fn descend(frames: u32, number: u64) -> u64 {
    if frames == 0 {
        for _ in 0..=3 * ROUNDS {
            pause_job().expect("nobody cancels these jobs");
        }
        return number;
    }
    std::hint::black_box(descend(frames - 1, number))
}

/// Resumes it until it has ended.
fn finish(mut job: Job<u64>) {
    while let Step::Paused(again) = job.resume() {
        job = again;
    }
}

/// Nanoseconds of one, over [`ROUNDS`] rounds of all.
fn round_trips(
    jobs: &mut [Option<Job<u64>>],
    options: &Options,
    title: &str,
    order: impl Iterator<Item = usize> + Clone,
    ahead: bool,
) -> f64 {
    let started = Instant::now();
    for round in 0..ROUNDS {
        options.progress(title, round * jobs.len() / ROUNDS);
        let mut next = order.clone().skip(AHEAD);
        for index in order.clone() {
            if ahead && let Some(next) = next.next().and_then(|next| jobs[next].as_ref()) {
                next.prefetch();
            }
            let job = jobs[index].take().expect("a paused job");
            let Step::Paused(job) = job.resume() else {
                panic!("job {index} finished too early");
            };
            jobs[index] = Some(job);
        }
    }
    started.elapsed().as_secs_f64() * 1e9 / (ROUNDS * jobs.len()) as f64
}

/// 0 to `n - 1` in an order without a pattern, the same in each run (Fisher and Yates; xorshift).
fn shuffled(n: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n as u32).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for last in (1..n).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        order.swap(last, (state % (last as u64 + 1)) as usize);
    }
    order
}

struct Options {
    jobs: usize,
    stack: usize,
    guard: usize,
    frames: u32,
    shared_ctx: bool,
    quiet: bool,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Options {
            jobs: 1_000_000,
            stack: 16 << 10,
            guard: 16 << 10,
            frames: 8,
            shared_ctx: false,
            quiet: !std::io::stderr().is_terminal(),
        };
        while let Some(name) = arguments.next() {
            let mut number = || {
                let value = arguments.next().ok_or(format!("{name} needs a number"))?;
                value
                    .replace('_', "")
                    .parse::<usize>()
                    .map_err(|_| format!("{name} needs a number, not {value}"))
            };
            match name.as_str() {
                "--jobs" => options.jobs = number()?.clamp(1, u32::MAX as usize),
                "--stack" => options.stack = number()?,
                "--guard" => options.guard = number()?,
                "--frames" => options.frames = number()? as u32,
                "--shared-ctx" => options.shared_ctx = true,
                "--quiet" => options.quiet = true,
                _ => return Err(format!("{name} is no option: see the top of examples/million.rs")),
            }
        }
        if options.stack > StackSize::MAX.bytes() {
            return Err(format!("--stack is at most {}", StackSize::MAX.bytes()));
        }
        Ok(options)
    }

    /// A page, page tables, a wait ctx and some room a job.
    fn check_memory(&self) -> Result<(), String> {
        let needed = self.jobs * (4096 + (self.stack + self.guard) / 512 + 300) + (64 << 20);
        let available = status("/proc/meminfo", "MemAvailable:");
        if needed > available {
            return Err(format!(
                "{} jobs need {} MiB of memory, and {} MiB are available: free {} MiB, or ask for {} jobs",
                self.jobs,
                needed >> 20,
                available >> 20,
                (needed - available).div_ceil(1 << 20),
                available.saturating_sub(64 << 20) * (self.jobs) / needed,
            ));
        }
        Ok(())
    }

    fn progress(&self, title: &str, done: usize) {
        const WIDTH: usize = 40;
        let step = (self.jobs / 100).max(1);
        if self.quiet || !done.is_multiple_of(step) {
            return;
        }
        let filled = WIDTH * done / self.jobs;
        eprint!(
            "\r{title:<27} [{}{}] {:>3}%",
            "#".repeat(filled),
            " ".repeat(WIDTH - filled),
            100 * done / self.jobs
        );
        let _ = std::io::stderr().flush();
    }

    fn clear(&self) {
        if !self.quiet {
            eprint!("\r{:80}\r", "");
        }
    }
}

/// What the process has of the machine.
struct Usage {
    resident: usize,
    page_tables: usize,
    mappings: usize,
    faults: usize,
}

impl Usage {
    fn now() -> Self {
        Usage {
            resident: status("/proc/self/status", "VmRSS:"),
            page_tables: status("/proc/self/status", "VmPTE:"),
            mappings: std::fs::read_to_string("/proc/self/maps").map_or(0, |maps| maps.lines().count()),
            faults: floor::faults(),
        }
    }
}

/// The bytes that a line of a file in /proc gives in kB.
fn status(file: &str, key: &str) -> usize {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<usize>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// The page fault that each job must take, alone.
#[allow(
    unsafe_code,
    reason = "the floor is the kernel's, without the library: mmap, a byte a page, munmap"
)]
mod floor {
    use std::mem::MaybeUninit;
    use std::time::Instant;

    pub(super) struct Floor {
        pub(super) ns: f64,
        pub(super) faults: f64,
    }

    impl Floor {
        pub(super) fn mean(self, other: Floor) -> Floor {
            Floor {
                ns: (self.ns + other.ns) / 2.0,
                faults: (self.faults + other.faults) / 2.0,
            }
        }
    }

    /// Writes a byte to the last page of each of `n` strides, of which the first `guard` bytes become a guard before.
    pub(super) fn touch(n: usize, stride: usize, guard: usize) -> Result<Floor, String> {
        let len = n * stride;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(format!(
                "no address space for the floor: {}",
                std::io::Error::last_os_error()
            ));
        }
        // SAFETY: the mapping just made. If the kernel has no huge pages, it refuses and none come.
        unsafe { libc::madvise(start, len, libc::MADV_NOHUGEPAGE) };
        let (before, started) = (faults(), Instant::now());
        for index in 0..n {
            if guard > 0 && index % AT_ONCE == 0 {
                // SAFETY: within the mapping.
                let first = unsafe { start.cast::<u8>().add(index * stride) };
                install(first, stride, guard, AT_ONCE.min(n - index));
            }
            // SAFETY: within the mapping.
            let byte = unsafe { start.cast::<u8>().add((index + 1) * stride - 64) };
            // SAFETY: as above.
            unsafe { byte.write_volatile(1) };
        }
        let floor = Floor {
            ns: started.elapsed().as_secs_f64() * 1e9 / n as f64,
            faults: (faults() - before) as f64 / n as f64,
        };
        // SAFETY: the mapping made above, which nobody uses any more.
        unsafe { libc::munmap(start, len) };
        Ok(floor)
    }

    const AT_ONCE: usize = 64;

    /// `MADV_GUARD_INSTALL` for several ranges in one call. Where the kernel refuses, the floor is without guards.
    fn install(first: *mut u8, stride: usize, guard: usize, count: usize) {
        let ranges: [libc::iovec; AT_ONCE] = std::array::from_fn(|index| libc::iovec {
            iov_base: first.wrapping_add(index * stride).cast(),
            iov_len: guard,
        });
        const PIDFD_SELF: i32 = -10000;
        const GUARD_INSTALL: i32 = 102;
        // SAFETY: the ranges are memory of the floor's own mapping, not yet used.
        unsafe {
            libc::syscall(
                libc::SYS_process_madvise,
                PIDFD_SELF,
                ranges.as_ptr(),
                count,
                GUARD_INSTALL,
                0,
            )
        };
    }

    /// Page faults of this process so far.
    pub(super) fn faults() -> usize {
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: fills the struct.
        unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
        // SAFETY: zeroed, then filled: valid either way.
        unsafe { usage.assume_init() }.ru_minflt as usize
    }
}
