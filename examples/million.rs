//! A million paused jobs on one machine, each on a stack with a guard below it.
//!
//! ```text
//! cargo run --release --example million -- --jobs 1000000
//! ```
//!
//! | option | default | |
//! |---|---|---|
//! | `--jobs N` | 1000000 | how many jobs are paused at the same time |
//! | `--stack BYTES` | 16384 | the size of each stack |
//! | `--guard BYTES` | 16384 | the size of the guard below each stack |
//! | `--frames N` | 8 | how many calls deep each job pauses |
//! | `--shared-ctx` | | one wait ctx for all jobs, instead of one for each |
//! | `--quiet` | | no progress bar, which is also the default if stderr is not a terminal |
//!
//! The program starts the jobs, resumes all of them in order and in random order, and finishes them in random order.
//! The last line of its output holds `key=value` pairs for a script:
//!
//! | key | |
//! |---|---|
//! | `start_seconds`, `start_ns` | for all jobs, for one: a new stack, its guard, its first page fault, to the pause |
//! | `floor_ns` | one write to a new page, in as many pages, as far apart: the page fault that each job must take |
//! | `guarded_floor_ns` | the same behind guards that are installed with the fewest calls |
//! | `start_over_floor`, `start_over_guarded_floor` | the ratios |
//! | `start_faults`, `floor_faults` | page faults of a job, by `getrusage(2)` |
//! | `resident_per_job` | bytes of memory and page tables (`VmRSS` + `VmPTE`) of a job and its wait ctx |
//! | `page_tables` | bytes of `VmPTE` for all jobs |
//! | `mappings` | how many lines were added to `/proc/self/maps` |
//! | `in_order_ns`, `random_ns` | one round trip: a resume, to the next pause, and back |
//! | `prefetched_ns` | the same at random, with `Job::prefetch` some jobs ahead, as a queue of ready jobs can do |
//! | `resident_before`, `resident_after` | bytes before the first job and after the last |
//!
//! Most of the heap memory of the wait ctxs is still resident after the last job, because glibc keeps it.
//!
//! The guard is 16 KiB here, and not the default of 64 KiB, because each page of a stack and of its guard costs 8 bytes
//! of page table. 16 + 16 KiB cost 64 bytes, 64 + 64 KiB cost 256 bytes. In all a job takes some 4,300 bytes.

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Instant;

use asyncjob::pool::{PoolConfig, init_thread};
use asyncjob::stack::{self, StackSize, install_overflow_handler};
use asyncjob::{Job, Step, WaitCtx, pause_job};

/// Round trips of each job in each order.
const ROUNDS: usize = 2;
/// How many round trips ahead a job is prefetched.
const PREFETCH_DISTANCE: usize = 4;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("million: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprint!(": {cause}");
                source = cause.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let options = Options::parse(std::env::args().skip(1))?;
    options.check_memory()?;
    measure(&options)
}

fn measure(options: &Options) -> Result<(), Box<dyn Error>> {
    let n = options.jobs;
    install_overflow_handler()?;
    let config = PoolConfig::new()
        .stack_size(StackSize::at_least(options.stack))
        .guard(options.guard);
    init_thread(config)?;

    // The program allocates its own memory before it measures anything.
    let mut jobs: Vec<Option<Job<u64>>> = Vec::with_capacity(n);
    jobs.extend((0..n).map(|_| None));
    let order = shuffled(n);
    let stride = StackSize::at_least(options.stack).bytes() + options.guard.next_multiple_of(4096);
    let shared = WaitCtx::new();
    let mappings_before = Usage::now().mappings;
    // The first use of a page by a virtual machine also faults in its host. One round that is not measured takes these
    // faults.
    for (index, job) in jobs.iter_mut().enumerate() {
        *job = Some(start(&shared, index as u64, options.frames)?);
        options.progress("a first round, not measured", index);
    }
    for job in jobs.iter_mut().filter_map(Option::take) {
        finish(job);
    }
    let floor_before = floor::touch(n, stride, 0)?;
    let guarded_before = floor::touch(n, stride, options.guard)?;

    let before = Usage::now();
    let started = Instant::now();
    for (index, job) in jobs.iter_mut().enumerate() {
        let own = (!options.shared_ctx).then(WaitCtx::new);
        *job = Some(start(own.as_ref().unwrap_or(&shared), index as u64, options.frames)?);
        options.progress("starting", index);
    }
    let start_seconds = started.elapsed().as_secs_f64();
    let full = Usage::now();

    let at_random = order.iter().map(|&index| index as usize);
    let in_order_ns = round_trips(&mut jobs, options, "resuming in order", 0..n, false);
    let random_ns = round_trips(&mut jobs, options, "resuming at random", at_random.clone(), false);
    let prefetched_ns = round_trips(&mut jobs, options, "resuming with a prefetch", at_random, true);

    let slabs: usize = stack::stats().iter().map(|stats| stats.slabs).sum();
    let high_water = stack::stats().iter().map(|stats| stats.high_water).max().unwrap_or(0);
    let ended = Instant::now();
    let mut sum = 0;
    for (done, &index) in order.iter().enumerate() {
        let job = jobs[index as usize].take().expect("a paused job");
        let Step::Finished(value) = job.resume() else {
            return Err(format!("job {index} paused once more than expected").into());
        };
        sum += value;
        options.progress("finishing", done);
    }
    let finish_ns = ended.elapsed().as_secs_f64() * 1e9 / n as f64;
    let after = Usage::now();
    if sum != n as u64 * (n as u64 - 1) / 2 {
        return Err(format!("the sum of the jobs' results is {sum}, which is wrong").into());
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

/// Starts a job that pauses some calls deep, for a fixed number of round trips, and returns its number.
fn start(ctx: &WaitCtx, number: u64, frames: u32) -> Result<Job<u64>, Box<dyn Error>> {
    match asyncjob::start_job(ctx, move || descend(frames, number)) {
        Ok(Step::Paused(job)) => Ok(job),
        Ok(Step::Finished(_)) => Err(format!("job {number} finished before it was resumed").into()),
        Err(error) => {
            eprintln!("million: job {number} could not start");
            Err(error.into())
        }
    }
}

/// Recurses `frames` calls deep. The call is not a tail call, because each frame still uses the result.
#[inline(never)]
fn descend(frames: u32, number: u64) -> u64 {
    if frames == 0 {
        for _ in 0..=3 * ROUNDS {
            pause_job().expect("these jobs are never cancelled");
        }
        return number;
    }
    std::hint::black_box(descend(frames - 1, number))
}

/// Resumes a job until it has ended.
fn finish(mut job: Job<u64>) {
    while let Step::Paused(again) = job.resume() {
        job = again;
    }
}

/// Nanoseconds of one round trip, over [`ROUNDS`] rounds of all jobs.
fn round_trips(
    jobs: &mut [Option<Job<u64>>],
    options: &Options,
    title: &str,
    order: impl Iterator<Item = usize> + Clone,
    prefetch: bool,
) -> f64 {
    let started = Instant::now();
    for round in 0..ROUNDS {
        options.progress(title, round * jobs.len() / ROUNDS);
        let mut next = order.clone().skip(PREFETCH_DISTANCE);
        for index in order.clone() {
            if prefetch && let Some(next) = next.next().and_then(|next| jobs[next].as_ref()) {
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

/// The numbers from 0 to `n - 1` in an order without a pattern, the same in each run (Fisher-Yates, xorshift).
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
                _ => return Err(format!("there is no option {name}: see the top of examples/million.rs")),
            }
        }
        if options.stack > StackSize::MAX.bytes() {
            return Err(format!("--stack is at most {}", StackSize::MAX.bytes()));
        }
        Ok(options)
    }

    /// Checks that there is memory for a page, page tables and a wait ctx for each job, and a reserve.
    fn check_memory(&self) -> Result<(), String> {
        let needed = self.jobs * (4096 + (self.stack + self.guard) / 512 + 300) + (64 << 20);
        let available = status("/proc/meminfo", "MemAvailable:");
        if needed > available {
            return Err(format!(
                "{} jobs need {} MiB of memory, and {} MiB are available: free {} MiB, or try {} jobs",
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

/// What the process uses of the machine.
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

/// Reads a line of a file in /proc, which is in kB, as bytes.
fn status(file: &str, key: &str) -> usize {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<usize>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// Measures only the page fault that each job must take.
#[allow(
    unsafe_code,
    reason = "the floor uses system calls only, not the library: mmap, a write to each page, munmap"
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

    /// Writes a byte to the last page of each of `n` strides. The first `guard` bytes of each stride become a guard
    /// before that.
    pub(super) fn touch(n: usize, stride: usize, guard: usize) -> Result<Floor, String> {
        let len = n * stride;
        // SAFETY: the kernel chooses the address, so the mapping replaces no memory of this process.
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
        // SAFETY: the range is the mapping just made. A kernel without huge pages refuses, which is fine.
        unsafe { libc::madvise(start, len, libc::MADV_NOHUGEPAGE) };
        let (before, started) = (faults(), Instant::now());
        for index in 0..n {
            if guard > 0 && index % RANGES_PER_CALL == 0 {
                // SAFETY: the offset is within the mapping.
                let first = unsafe { start.cast::<u8>().add(index * stride) };
                install(first, stride, guard, RANGES_PER_CALL.min(n - index));
            }
            // SAFETY: the offset is within the mapping.
            let byte = unsafe { start.cast::<u8>().add((index + 1) * stride - 64) };
            // SAFETY: the byte is within the mapping, which this thread alone uses.
            unsafe { byte.write_volatile(1) };
        }
        let floor = Floor {
            ns: started.elapsed().as_secs_f64() * 1e9 / n as f64,
            faults: (faults() - before) as f64 / n as f64,
        };
        // SAFETY: the range is the mapping made above, and no pointer to it is used after this.
        unsafe { libc::munmap(start, len) };
        Ok(floor)
    }

    const RANGES_PER_CALL: usize = 64;

    /// Calls `MADV_GUARD_INSTALL` for several ranges at once. If the kernel refuses, the floor is without guards.
    fn install(first: *mut u8, stride: usize, guard: usize, count: usize) {
        let ranges: [libc::iovec; RANGES_PER_CALL] = std::array::from_fn(|index| libc::iovec {
            iov_base: first.wrapping_add(index * stride).cast(),
            iov_len: guard,
        });
        const PIDFD_SELF: i32 = -10000;
        const GUARD_INSTALL: i32 = 102;
        // SAFETY: the ranges lie in the floor's own mapping, and were not used yet.
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
        // SAFETY: the call fills a struct that is large enough.
        unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
        // SAFETY: all zeros are valid, and so is what the call wrote.
        unsafe { usage.assume_init() }.ru_minflt as usize
    }
}
