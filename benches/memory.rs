//! What many live jobs cost: a round trip against their number, and the memory of each; and what the options of a pool cost.
//!
//! ```text
//! cargo bench --bench memory                                   # up to 1,000,000 jobs: 10 minutes, 6 GiB
//! cargo bench --bench memory -- --max 10000 --repeats 1        # half a minute
//! cargo bench --bench memory -- --test                         # shows that it runs
//! cargo bench --bench memory -- --libcrypto /opt/ssl/libcrypto.so.3 --svg memory.svg
//! ```
//!
//! Each number is from a process of its own, so that no peer inherits the memory of another; peers take turns within each
//! repeat, and the table shows medians. Everybody pauses [`FRAMES`] calls deep in the same function; the order of the round trips is
//! random and the same for all.
//!
//! | peer | |
//! |---|---|
//! | asyncjob | 16 KiB and a guard of 16 KiB; a wait ctx for each job, as libcrypto has |
//! | asyncjob, prefetched | the same, each job prefetched 4 round trips ahead, as a queue of ready jobs allows |
//! | asyncjob, one ctx | the same, one wait ctx for all |
//! | corosensei | its `DefaultStack` of 16 KiB: a mapping each, up to where the kernel allows no more |
//! | libcrypto | `ASYNC_start_job`: 32 KiB from malloc, no guard |
//! | memory, 4 KiB pages | the control: no switch, a write to each of [`LINES`] lines of a page 32 KiB apart |
//! | memory, 2 MiB pages | the same lines in memory without gaps and with huge pages: the difference is the TLB |
//! | memory, same lines | as the first, but the lines are the same ones in each page: the difference is what staggering saves |

#![allow(
    unsafe_code,
    reason = "peers and controls are C functions, raw mappings and a coroutine in the place of a job"
)]

use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::process::Command;
use std::time::Instant;

use asyncjob::stack::{SecretPolicy, StackSize};
use asyncjob::{PoolConfig, Step, WaitCtx, init_thread, pause_job, start_job};

const FRAMES: u32 = 8;
/// Lines of 64 bytes that a round trip of ours touches on a job's stack: two of header and coroutine, two of frames. (Traced
/// with `valgrind --tool=lackey --trace-mem=yes`; one of the wait ctx comes on top, on another page.)
const LINES: usize = 4;
const PEERS: [&str; 8] = [
    "asyncjob",
    "asyncjob, prefetched",
    "asyncjob, one ctx",
    "corosensei",
    "libcrypto",
    "memory, 4 KiB pages",
    "memory, 2 MiB pages",
    "memory, same lines",
];

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    if let Some((peer, jobs)) = &options.child {
        println!("{}", peers::measure(peer, *jobs, &options.libcrypto)?);
        return Ok(());
    }
    let counts: Vec<usize> = (0..7)
        .map(|power| 10usize.pow(power))
        .filter(|&n| n <= options.max)
        .collect();
    let mut results = Results::new();
    for repeat in 0..options.repeats {
        for &jobs in &counts {
            for turn in 0..PEERS.len() {
                let peer = PEERS[(turn + repeat) % PEERS.len()];
                eprint!(
                    "\rrepeat {} of {}, {jobs} jobs, {peer:<24}",
                    repeat + 1,
                    options.repeats
                );
                results
                    .entry((peer, jobs))
                    .or_default()
                    .push(in_child(peer, jobs, &options));
            }
        }
    }
    eprintln!("\r{:70}\r", "");
    report::tables(&results, &counts);
    if options.max >= 1000 {
        report::draw(&results, &counts, &options.svg)?;
        println!("\nThe curves are in {}.", options.svg);
    }
    options::table();
    Ok(())
}

/// What a child found, or why it could not.
type Results = BTreeMap<(&'static str, usize), Vec<Result<Numbers, String>>>;

/// Of one peer with one number of live jobs.
#[derive(Clone, Copy)]
struct Numbers {
    /// Nanoseconds of one round trip in random order.
    round_trip: f64,
    /// Nanoseconds to start one.
    start: f64,
    /// Bytes of memory with page tables, of one.
    resident: f64,
}

fn in_child(peer: &str, jobs: usize, options: &Options) -> Result<Numbers, String> {
    let mut command = Command::new(std::env::current_exe().map_err(|error| error.to_string())?);
    command.args(["--child", peer, &jobs.to_string()]);
    if let Some(path) = &options.libcrypto {
        command.args(["--libcrypto", path]);
    }
    let output = command.output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        [round_trip, start, resident] => Ok(Numbers {
            round_trip,
            start,
            resident,
        }),
        _ => Err(String::from_utf8_lossy(&output.stderr)
            .lines()
            .next()
            .unwrap_or("killed")
            .to_owned()),
    }
}

struct Options {
    max: usize,
    repeats: usize,
    svg: String,
    libcrypto: Option<String>,
    child: Option<(String, usize)>,
}

impl Options {
    fn parse() -> Self {
        let mut options = Options {
            max: 1_000_000,
            repeats: 3,
            svg: "target/memory.svg".to_owned(),
            libcrypto: None,
            child: None,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut next = || words.next().unwrap_or_else(|| panic!("{word} needs a value"));
            match word.as_str() {
                "--max" => options.max = next().parse().expect("--max needs a number"),
                "--repeats" => options.repeats = next().parse().expect("--repeats needs a number"),
                "--svg" => options.svg = next(),
                "--libcrypto" => options.libcrypto = Some(next()),
                "--child" => options.child = Some((next(), next().parse().expect("a number of jobs"))),
                "--bench" => {}                                        // cargo says so
                "--test" => (options.max, options.repeats) = (100, 1), // only that it runs
                other => panic!("{other} is no option: see the top of benches/memory.rs"),
            }
        }
        options
    }
}

/// Pauses for ever, some frames deep. Not a tail call: each frame has something left to do.
#[inline(never)]
fn descend<F: FnMut()>(frames: u32, pause: &mut F) -> u64 {
    if frames == 0 {
        loop {
            pause();
        }
    }
    black_box(descend(frames - 1, pause)) + 1
}

/// 0 to `n - 1` in an order without a pattern (Fisher and Yates; xorshift).
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

mod peers {
    use super::*;

    use std::ffi::{c_int, c_void};
    use std::ptr;
    use std::sync::OnceLock;

    use corosensei::stack::DefaultStack;
    use corosensei::{Coroutine, CoroutineResult, Yielder};
    use libloading::Library;

    /// Starts `jobs` jobs of a peer and visits them; "round trip, start, resident" as text.
    pub(super) fn measure(peer: &str, jobs: usize, libcrypto: &Option<String>) -> Result<String, Box<dyn Error>> {
        match peer {
            "asyncjob" => {
                ours()?;
                visit(jobs, |_| start_ours(&WaitCtx::new()), resume_ours)
            }
            "asyncjob, prefetched" => {
                ours()?;
                let ahead = |job: &Ours| job.iter().for_each(asyncjob::Job::prefetch);
                visit_ahead(jobs, |_| start_ours(&WaitCtx::new()), resume_ours, ahead)
            }
            "asyncjob, one ctx" => {
                ours()?;
                let ctx = WaitCtx::new();
                visit(jobs, |_| start_ours(&ctx), resume_ours)
            }
            "corosensei" => visit(jobs, |_| start_corosensei(), resume_corosensei),
            "libcrypto" => {
                let path = libcrypto.as_deref().unwrap_or("libcrypto.so.3");
                // SAFETY: libcrypto's initialisers are meant to run in any process.
                let library = unsafe { Library::new(path) }?;
                let library = C.get_or_init(|| LibCrypto::load(library).expect("libcrypto 3 has ASYNC_start_job"));
                visit(jobs, |_| library.start(), |job| library.resume(job))
            }
            "memory, 4 KiB pages" => memory(jobs, 32 << 10, 64, libc::MADV_NOHUGEPAGE),
            "memory, same lines" => memory(jobs, 32 << 10, 0, libc::MADV_NOHUGEPAGE),
            "memory, 2 MiB pages" => memory(jobs, 4 << 10, 64, libc::MADV_HUGEPAGE),
            other => Err(format!("no such peer: {other}").into()),
        }
    }

    fn visit<J>(
        jobs: usize,
        start: impl FnMut(usize) -> Result<J, Box<dyn Error>>,
        resume: impl FnMut(&mut J),
    ) -> Result<String, Box<dyn Error>> {
        visit_ahead(jobs, start, resume, |_| ())
    }

    fn visit_ahead<J>(
        jobs: usize,
        mut start: impl FnMut(usize) -> Result<J, Box<dyn Error>>,
        mut resume: impl FnMut(&mut J),
        ahead: impl Fn(&J),
    ) -> Result<String, Box<dyn Error>> {
        let order = shuffled(jobs);
        let mut live: Vec<J> = Vec::with_capacity(jobs);
        let before = resident();
        let started = Instant::now();
        for index in 0..jobs {
            live.push(start(index)?);
        }
        let start_ns = started.elapsed().as_secs_f64() * 1e9 / jobs as f64;
        let held = (resident() - before - jobs * size_of::<J>()) as f64 / jobs as f64;
        let sweeps = (2_000_000 / jobs).max(2);
        let mut best = f64::MAX;
        // The first sweep fills caches and TLBs as far as they go.
        for _ in 0..3 {
            let started = Instant::now();
            for _ in 0..sweeps {
                for (at, &index) in order.iter().enumerate() {
                    if let Some(&next) = order.get(at + 4) {
                        ahead(&live[next as usize]);
                    }
                    resume(&mut live[index as usize]);
                }
            }
            best = best.min(started.elapsed().as_secs_f64() * 1e9 / (sweeps * jobs) as f64);
        }
        std::mem::forget(live); // the process ends here, and its memory with it
        Ok(format!("{best} {start_ns} {held}"))
    }

    fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kilobytes = |key| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|rest| rest.split_whitespace().next()?.parse::<usize>().ok())
                .unwrap_or(0)
        };
        (kilobytes("VmRSS:") + kilobytes("VmPTE:")) << 10
    }

    fn ours() -> Result<(), Box<dyn Error>> {
        Ok(init_thread(
            PoolConfig::new().stack_size(StackSize::MIN).guard(16 << 10),
        )?)
    }

    type Ours = Option<asyncjob::Job<u64>>;

    fn start_ours(ctx: &WaitCtx) -> Result<Ours, Box<dyn Error>> {
        let mut pause = || assert!(pause_job().is_ok());
        match start_job(ctx, move || descend(FRAMES, &mut pause)) {
            Ok(Step::Paused(job)) => Ok(Some(job)),
            Ok(Step::Finished(_)) => Err("a job that pauses for ever has finished".into()),
            Err(refused) => Err(refused.to_string().into()),
        }
    }

    #[inline]
    fn resume_ours(job: &mut Ours) {
        let Some(Step::Paused(again)) = job.take().map(asyncjob::Job::resume) else {
            panic!("a job that pauses for ever has finished")
        };
        *job = Some(again);
    }

    type Bare = Coroutine<(), (), u64, DefaultStack>;

    fn start_corosensei() -> Result<Bare, Box<dyn Error>> {
        let body = |yielder: &Yielder<(), ()>, ()| descend(FRAMES, &mut || yielder.suspend(()));
        let mut coroutine = Coroutine::with_stack(DefaultStack::new(16 << 10)?, body);
        resume_corosensei(&mut coroutine);
        Ok(coroutine)
    }

    #[inline]
    fn resume_corosensei(coroutine: &mut Bare) {
        assert!(matches!(coroutine.resume(()), CoroutineResult::Yield(())));
    }

    static C: OnceLock<LibCrypto> = OnceLock::new();

    type Start = unsafe extern "C" fn(*mut *mut c_void, *mut c_void, *mut c_int, Body, *mut c_void, usize) -> c_int;
    type Body = unsafe extern "C" fn(*mut c_void) -> c_int;

    struct LibCrypto {
        start: Start,
        pause: unsafe extern "C" fn() -> c_int,
        new_ctx: unsafe extern "C" fn() -> *mut c_void,
        _library: Library,
    }

    /// A job by its handle, and its ctx.
    struct Handle(*mut c_void, *mut c_void);

    impl LibCrypto {
        fn load(library: Library) -> Result<Self, libloading::Error> {
            // SAFETY: the signatures are those of openssl/async.h.
            let start = *unsafe { library.get(b"ASYNC_start_job\0") }?;
            // SAFETY: as above.
            let pause = *unsafe { library.get(b"ASYNC_pause_job\0") }?;
            // SAFETY: as above.
            let new_ctx = *unsafe { library.get(b"ASYNC_WAIT_CTX_new\0") }?;
            Ok(Self {
                start,
                pause,
                new_ctx,
                _library: library,
            })
        }

        fn start(&self) -> Result<Handle, Box<dyn Error>> {
            // SAFETY: a plain constructor.
            let ctx = unsafe { (self.new_ctx)() };
            let mut handle = Handle(ptr::null_mut(), ctx);
            match self.step(&mut handle) {
                PAUSE => Ok(handle),
                other => Err(format!("ASYNC_start_job returned {other}").into()),
            }
        }

        #[inline]
        fn resume(&self, handle: &mut Handle) {
            assert_eq!(self.step(handle), PAUSE);
        }

        #[inline]
        fn step(&self, handle: &mut Handle) -> c_int {
            let mut result = 0;
            // SAFETY: a handle of this library, NULL at first, on the thread that it belongs to.
            unsafe { (self.start)(&mut handle.0, handle.1, &mut result, body, ptr::null_mut(), 0) }
        }
    }

    const PAUSE: c_int = 2;

    unsafe extern "C" fn body(_: *mut c_void) -> c_int {
        let library = C.get().expect("loaded before any job");
        descend(FRAMES, &mut || {
            // SAFETY: inside a job of this library.
            unsafe { (library.pause)() };
        }) as c_int
    }

    /// Pages `stride` apart; of each, [`LINES`] lines that begin `stagger` bytes further in each of 8 neighbours.
    fn memory(jobs: usize, stride: usize, stagger: usize, advice: c_int) -> Result<String, Box<dyn Error>> {
        let len = (jobs * stride).next_multiple_of(2 << 20) + (2 << 20);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error().into());
        }
        // SAFETY: the mapping just made.
        unsafe { libc::madvise(start, len, advice) };
        let first = (start as usize).next_multiple_of(2 << 20);
        let page = |index: usize| (first + (index + 1) * stride - (index % 8) * stagger - LINES * 64) as *mut u64;
        let touch = |page: &mut *mut u64| {
            for line in 0..LINES {
                // SAFETY: within the mapping: a line is 8 words.
                let word = unsafe { page.add(line * 8) };
                // SAFETY: as above.
                let value = unsafe { word.read_volatile() };
                // SAFETY: as above.
                unsafe { word.write_volatile(value + 1) };
            }
        };
        let start = |index| {
            let mut place = page(index);
            touch(&mut place);
            Ok(place)
        };
        visit(jobs, start, touch)
    }
}

/// What the options of a pool cost: a job from start to end, on a warm stack and on a fresh one.
mod options {
    use super::*;

    struct Case {
        name: &'static str,
        config: PoolConfig,
        /// Bytes of stack that the job uses.
        used: usize,
    }

    const ROUNDS: usize = 9;

    pub(super) fn table() {
        let cases = cases();
        let mut times: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
        for _ in 0..ROUNDS {
            for (case, times) in cases.iter().zip(&mut times) {
                times.push(run(case));
            }
        }
        println!(
            "\nA job from start to end, nanoseconds (medians of {ROUNDS}, in turns), and how much more than the first of its kind:\n"
        );
        println!("| pool | stack used | ns | more |\n|---|---:|---:|---:|");
        let mut base = 0.0;
        for (case, times) in cases.iter().zip(&mut times) {
            times.sort_by(f64::total_cmp);
            let ns = times[ROUNDS / 2];
            if case.name == "plain" {
                base = ns;
            }
            println!("| {} | {} | {ns:.0} | {:+.0} |", case.name, case.used, ns - base);
        }
    }

    fn cases() -> Vec<Case> {
        let size = PoolConfig::new().stack_size(StackSize::at_least(64 << 10));
        let kinds = [
            ("plain", size),
            ("scrub", size.secrets(SecretPolicy::new().scrub())),
            ("dont_dump", size.secrets(SecretPolicy::new().dont_dump())),
            ("mlock", size.secrets(SecretPolicy::new().mlock())),
            ("scrub and mlock", size.secrets(SecretPolicy::new().scrub().mlock())),
            ("exact high water", size.exact_high_water(true)),
        ];
        let mut cases = Vec::new();
        for used in [500, 20_000] {
            cases.extend(kinds.iter().map(|&(name, config)| Case { name, config, used }));
        }
        cases
    }

    fn run(case: &Case) -> f64 {
        const JOBS: usize = 20_000;
        init_thread(case.config).expect("a valid configuration");
        let ctx = WaitCtx::new();
        let job = |used: usize| move || if used > 4096 { use_much() } else { use_little() };
        let once = || match start_job(&ctx, job(case.used)) {
            Ok(Step::Finished(sum)) => sum,
            Ok(Step::Paused(_)) => unreachable!("it does not pause"),
            Err(refused) => panic!("{refused}"),
        };
        black_box(once());
        let started = Instant::now();
        for _ in 0..JOBS {
            black_box(once());
        }
        started.elapsed().as_secs_f64() * 1e9 / JOBS as f64
    }

    #[inline(never)]
    fn use_little() -> u8 {
        black_box([1u8; 400])[7]
    }

    #[inline(never)]
    fn use_much() -> u8 {
        black_box([1u8; 19_900])[7]
    }
}

mod report {
    use super::*;

    use plotters::prelude::*;

    fn median(runs: &[Result<Numbers, String>], of: impl Fn(&Numbers) -> f64) -> Result<f64, String> {
        let mut values: Vec<f64> = Vec::new();
        for run in runs {
            values.push(of(run.as_ref().map_err(String::clone)?));
        }
        values.sort_by(f64::total_cmp);
        Ok(values[values.len() / 2])
    }

    pub(super) fn tables(results: &Results, counts: &[usize]) {
        let bytes = |numbers: &Numbers| numbers.resident;
        table(
            "A round trip in random order, nanoseconds",
            results,
            counts,
            |numbers| numbers.round_trip,
        );
        table("Starting one, nanoseconds", results, counts, |numbers| numbers.start);
        let many: Vec<usize> = counts.iter().copied().filter(|&jobs| jobs >= 1000).collect();
        table("Memory of one with page tables, bytes", results, &many, bytes);
        ratios(results, counts);
    }

    fn table(title: &str, results: &Results, counts: &[usize], of: impl Fn(&Numbers) -> f64) {
        println!("\n{title}, by live jobs (medians):\n");
        print!("| |");
        counts.iter().for_each(|jobs| print!(" {jobs} |"));
        print!("\n|---|");
        counts.iter().for_each(|_| print!("---:|"));
        println!();
        let mut reasons = Vec::new();
        for peer in PEERS {
            print!("| {peer} |");
            for &jobs in counts {
                match median(&results[&(peer, jobs)], &of) {
                    Ok(value) => print!(" {value:.0} |"),
                    Err(reason) => {
                        reasons.push(format!("{peer}, {jobs}: {reason}"));
                        print!(" - |");
                    }
                }
            }
            println!();
        }
        reasons.iter().for_each(|reason| println!("\n-: {reason}"));
    }

    /// Ours over libcrypto's, of each repeat by itself.
    fn ratios(results: &Results, counts: &[usize]) {
        println!("\nA round trip in random order, asyncjob / libcrypto (lowest, median, highest of the repeats):\n");
        for &jobs in counts {
            let pairs = results[&("asyncjob", jobs)].iter().zip(&results[&("libcrypto", jobs)]);
            let mut ratios: Vec<f64> = pairs
                .filter_map(|(ours, theirs)| Some(ours.as_ref().ok()?.round_trip / theirs.as_ref().ok()?.round_trip))
                .collect();
            ratios.sort_by(f64::total_cmp);
            if let (Some(low), Some(high)) = (ratios.first(), ratios.last()) {
                println!("- {jobs} jobs: {low:.2}, {:.2}, {high:.2}", ratios[ratios.len() / 2]);
            }
        }
    }

    const COLOURS: [RGBColor; 8] = [
        RGBColor(214, 39, 40),
        RGBColor(227, 119, 194),
        RGBColor(255, 152, 150),
        RGBColor(44, 160, 44),
        RGBColor(31, 119, 180),
        RGBColor(127, 127, 127),
        RGBColor(188, 189, 34),
        RGBColor(199, 199, 199),
    ];

    /// Round trips above, bytes below.
    pub(super) fn draw(results: &Results, counts: &[usize], path: &str) -> Result<(), Box<dyn Error>> {
        let root = SVGBackend::new(path, (900, 900)).into_drawing_area();
        root.fill(&WHITE)?;
        let (above, below) = root.split_vertically(500);
        let many: Vec<usize> = counts.iter().copied().filter(|&jobs| jobs >= 1000).collect();
        let bytes = |numbers: &Numbers| numbers.resident;
        panel(
            &above,
            "a round trip in random order, ns",
            results,
            counts,
            &PEERS,
            |numbers| numbers.round_trip,
        )?;
        panel(
            &below,
            "memory of one live job with page tables, bytes",
            results,
            &many,
            &PEERS[..5],
            bytes,
        )?;
        root.present()?;
        Ok(())
    }

    fn panel(
        area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
        title: &str,
        results: &Results,
        counts: &[usize],
        peers: &[&'static str],
        of: impl Fn(&Numbers) -> f64,
    ) -> Result<(), Box<dyn Error>> {
        let curve = |peer: &'static str| -> Vec<(f64, f64)> {
            let point = |&jobs: &usize| Some((jobs as f64, median(&results[&(peer, jobs)], &of).ok()?));
            counts.iter().filter_map(point).collect()
        };
        let curves: Vec<_> = peers.iter().map(|&peer| (peer, curve(peer))).collect();
        let values = || {
            curves
                .iter()
                .flat_map(|(_, points)| points.iter().map(|point| point.1.max(1.0)))
        };
        let (low, high) = (values().fold(f64::MAX, f64::min), values().fold(1.0, f64::max));
        let (first, last) = (counts[0] as f64, counts[counts.len() - 1] as f64);
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(30)
            .y_label_area_size(60)
            .build_cartesian_2d((first..last * 1.2).log_scale(), (low * 0.8..high * 1.3).log_scale())?;
        chart
            .configure_mesh()
            .x_desc("live jobs")
            .light_line_style(WHITE)
            .draw()?;
        for (index, (peer, points)) in curves.into_iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let dots = points
                .clone()
                .into_iter()
                .map(move |point| Circle::new(point, 3, colour.filled()));
            chart
                .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
                .label(peer)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
            chart.draw_series(dots)?;
        }
        labels(&mut chart)
    }

    type LogScale = plotters::coord::combinators::LogCoord<f64>;
    type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<LogScale, LogScale>>;

    fn labels<'a, 'b: 'a>(chart: &mut Chart<'a, 'b>) -> Result<(), Box<dyn Error>> {
        let place = SeriesLabelPosition::UpperLeft;
        chart
            .configure_series_labels()
            .position(place)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .draw()?;
        Ok(())
    }
}
