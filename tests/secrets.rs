//! Promise: if the program asks for it, the data that a job wrote on its stack is not there for the next job, and not
//! in a core dump. Each case has a control, in which the same search without the option finds the secret.

#![cfg(target_os = "linux")] // whose /proc has the memory of a process, and whose core files are read here
#![allow(unsafe_code, reason = "allows a child process to dump core")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use asyncjob::job_future::JobFuture;
use asyncjob::pool::{PoolConfig, init_thread};
use asyncjob::scheduler::{self, Scheduler};
use asyncjob::stack::{SecretPolicy, StackSize};
use asyncjob::waiting::await_future;
use asyncjob::{Job, Step, WaitCtx, pause_job, start_job};
use asyncjob_testing::tools::skipped;

/// The secret with each byte inverted, so that the memory of the search does not contain the secret.
const INVERTED: [u8; 32] = *b"\
    \x91\x03\x7f\xaa\x10\xfe\x5c\x22\x81\x39\xd7\x64\x0b\xc5\x9e\xf1\
    \x13\x48\xe6\x2d\xb0\x77\xca\x5f\x08\xd2\x96\x31\xeb\x4c\xa7\x80";

/// Writes sixteen copies of the secret into each of `frames` call frames, which are larger than a page.
#[inline(never)]
fn use_secret(frames: usize) {
    let mut copies = [[0u8; 32]; 16];
    for copy in &mut copies {
        for (byte, inverted) in copy.iter_mut().zip(std::hint::black_box(INVERTED)) {
            *byte = !inverted;
        }
    }
    let far = std::hint::black_box([0u8; 4096]);
    if frames > 1 {
        use_secret(frames - 1);
    }
    std::hint::black_box((&copies, &far));
}

/// How many places of `bytes` have so many copies of the secret in a row.
fn count(bytes: &[u8], in_a_row: usize) -> usize {
    let secret = INVERTED.iter().cycle();
    let is_secret = |window: &&[u8]| {
        window
            .iter()
            .zip(secret.clone())
            .all(|(byte, inverted)| *byte == !inverted)
    };
    bytes.windows(in_a_row * INVERTED.len()).filter(is_secret).count()
}

/// Counts such places in the writable memory of this process that has no name: the stacks of jobs and threads, and the
/// heap. This file uses the secret in jobs only, so a thread's own stack holds no copy.
fn count_in_memory(in_a_row: usize) -> usize {
    let memory = File::open("/proc/self/mem").unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let nameless = maps.lines().filter(|line| line.contains(" rw-p 00000000 00:00 0"));
    let ranges = nameless.map(|line| line.split(' ').next().unwrap().split_once('-').unwrap());
    let number = |hex| usize::from_str_radix(hex, 16).unwrap();
    let ranges = ranges.map(|(start, end)| (number(start), number(end)));
    // Leaves out the shadow memory of a sanitizer, which has terabytes.
    let ranges = ranges.filter(|(start, end)| end - start < 1 << 30);
    let ranges = ranges.map(|(start, end)| count_between(&memory, start, end, in_a_row));
    ranges.sum()
}

/// Reads page by page, because guards cannot be read. The overlap finds what spans two pages.
fn count_between(memory: &File, start: usize, end: usize, in_a_row: usize) -> usize {
    let overlap = in_a_row * INVERTED.len() - 1;
    let mut window = vec![0u8; overlap + 4096];
    let mut found = 0;
    for address in (start..end).step_by(4096) {
        window.copy_within(4096.., 0);
        if memory.read_exact_at(&mut window[overlap..], address as u64).is_err() {
            window.fill(0);
        }
        if window.iter().any(|byte| *byte != 0) {
            found += count(&window, in_a_row);
        }
    }
    found
}

/// Runs one job that uses the secret on a thread of its own, and counts the copies that are left while the thread's
/// pool exists.
fn copies_left_after(secrets: SecretPolicy, guard: usize) -> usize {
    let config = PoolConfig::new()
        .stack_size(StackSize::at_least(64 << 10))
        .guard(guard)
        .secrets(secrets);
    let run = move || {
        init_thread(config).unwrap();
        let step = asyncjob::start_job(&WaitCtx::new(), || use_secret(4));
        assert!(matches!(step, Ok(Step::Finished(()))));
        count_in_memory(1)
    };
    std::thread::spawn(run).join().unwrap()
}

#[test]
fn a_scrubbed_stack_holds_no_data_of_the_previous_job() {
    let output = child("scrubbed").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Spawns jobs whose closures hold the secret, inside a job, so that no other stack ever holds it: a small closure and
/// a large one that run, and two that are cancelled before they start. Counts the copies that are left.
///
/// An optimised build moves a value by copying all of its bytes, also those that nothing was written to. Into those, it
/// may copy up to a few dozen bytes of the secret from the job's own stack: see `SecretPolicy`. With spans (feature
/// `tracing`) any build does: one or two copies of 400 are left. There, the closures are looked for, each of which has
/// at least sixteen copies in a row. (The allocator writes to the first of what it frees.)
fn copies_left_by_closures(secrets: SecretPolicy) -> usize {
    fn closure<const COPIES: usize>() -> impl FnOnce() + Send + 'static {
        let mut copies = [[0u8; 32]; COPIES];
        for copy in &mut copies {
            for (byte, inverted) in copy.iter_mut().zip(std::hint::black_box(INVERTED)) {
                *byte = !inverted;
            }
        }
        move || {
            std::hint::black_box(&copies);
        }
    }
    let run = move || {
        // A build without optimization copies a closure often.
        let config = PoolConfig::new()
            .stack_size(StackSize::at_least(1 << 20))
            .secrets(secrets);
        init_thread(config).unwrap();
        let scheduler = Scheduler::new().unwrap();
        let handle = scheduler.handle();
        let spawns = move || {
            let started = [
                scheduler::spawn(closure::<16>()).unwrap(),
                scheduler::spawn(closure::<400>()).unwrap(),
                handle.spawn(closure::<16>()).unwrap(),
                handle.spawn(closure::<400>()).unwrap(),
            ];
            drop(scheduler::spawn(closure::<16>()).unwrap());
            drop(scheduler::spawn(closure::<400>()).unwrap());
            for job in started {
                job.join().unwrap();
            }
            let at_once = start_job(&WaitCtx::new(), closure::<400>());
            assert!(matches!(at_once, Ok(Step::Finished(()))));
            assert!(await_future(JobFuture::new(closure::<400>())).unwrap().is_ok());
            drop(JobFuture::new(closure::<400>()));
        };
        let job = scheduler.spawn(spawns).unwrap();
        scheduler.run_until(job).unwrap();
        scheduler.run().unwrap();
        let moves_bytes_of_others = !cfg!(debug_assertions) || cfg!(feature = "tracing");
        count_in_memory(if moves_bytes_of_others { 8 } else { 1 })
    };
    std::thread::spawn(run).join().unwrap()
}

/// Each case searches the memory of the whole process. The control comes last, because the copies that it leaves stay.
fn search_after_scrubbing() {
    assert_eq!(copies_left_after(SecretPolicy::new().scrub(), 4096), 0);
    assert_eq!(
        copies_left_after(SecretPolicy::new().scrub().mlock().dont_dump(), 4096),
        0
    );
    assert_eq!(copies_left_by_closures(SecretPolicy::new().scrub()), 0);
    assert!(
        copies_left_by_closures(SecretPolicy::new()) > 0,
        "the search finds what the stacks hold"
    );
    assert!(
        copies_left_after(SecretPolicy::new(), 8192) >= 48,
        "the search finds what is not scrubbed"
    );
}

#[test]
fn a_core_dump_contains_no_secret() {
    let Some(control) = count_in_core_of("dumped") else {
        skipped("no core file appears here, see /proc/sys/kernel/core_pattern");
        return;
    };
    assert!(control >= 16, "the search finds what is dumped");
    assert_eq!(count_in_core_of("left out"), Some(0));
}

#[test]
fn the_mappings_have_the_flags_of_the_policy() {
    let output = child("mappings").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Counts the copies of the secret in the memory that the core dump of a child process contains. Returns `None` if
/// there is no core dump.
///
/// A core dump also contains the registers of each thread, which no policy covers: an optimised build moves the secret
/// by vector registers, and it stays in them until other code uses them.
fn count_in_core_of(case: &str) -> Option<usize> {
    let directory = std::env::temp_dir().join(format!("asyncjob-core-{}-{}", std::process::id(), case.len()));
    fs::create_dir_all(&directory).unwrap();
    let output = child(case).current_dir(&directory).output().unwrap();
    assert_eq!(
        output.status.signal(),
        Some(libc::SIGABRT),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let core = fs::read_dir(&directory).unwrap().find_map(|file| {
        let path = file.unwrap().path();
        path.file_name()?.to_str()?.starts_with("core").then_some(path)
    });
    let found = core.map(|path| {
        let core = fs::read(path).unwrap();
        memory_of_core(&core).map(|memory| count(memory, 1)).sum()
    });
    fs::remove_dir_all(&directory).unwrap();
    found
}

/// The segments of a core file that are memory: its program headers of the type `PT_LOAD`, as `elf(5)` describes them.
fn memory_of_core(core: &[u8]) -> impl Iterator<Item = &[u8]> {
    let number = |at: usize, bytes: usize| {
        let mut number = [0; 8];
        number[..bytes].copy_from_slice(&core[at..at + bytes]);
        usize::from_le_bytes(number)
    };
    assert_eq!(&core[..5], b"\x7fELF\x02", "an ELF file of 64 bits");
    let (headers, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    let headers = (0..count).map(move |index| headers + index * size);
    let segments = headers.filter(move |at| number(*at, 4) == libc::PT_LOAD as usize);
    segments.map(move |at| &core[number(at + 8, 8)..][..number(at + 32, 8)])
}

/// A command that runs this program again, with only [`in_child`].
fn child(case: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "in_child", "--ignored"])
        .env("SECRETS_CASE", case);
    command
}

#[test]
#[ignore = "not a test: the other tests run it in a process of its own"]
fn in_child() {
    match std::env::var("SECRETS_CASE").expect("run by the other tests").as_str() {
        "dumped" => dump_core(SecretPolicy::new()),
        "left out" => dump_core(SecretPolicy::new().dont_dump()),
        "scrubbed" => search_after_scrubbing(),
        _ => compare_flags(),
    }
}

fn dump_core(secrets: SecretPolicy) {
    let all = libc::rlimit {
        rlim_cur: 256 << 20,
        rlim_max: 256 << 20,
    };
    // SAFETY: the struct is valid. If the limit may not be raised there is no core dump, which the parent notices.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &all) };
    let _job = pause_with_secret(secrets);
    std::process::abort();
}

fn compare_flags() {
    let counts = || ["lo", "dd", "nh"].map(mapped_with);
    let none = counts();
    let _plain = pause_with_secret(SecretPolicy::new());
    let plain = counts();
    assert_eq!([plain[0] - none[0], plain[1] - none[1], plain[2] - none[2]], [0, 0, 1]);
    let _locked = pause_with_secret(SecretPolicy::new().mlock());
    let locked = counts();
    assert_eq!([locked[0] - plain[0], locked[1] - plain[1]], [1, 0]);
    let _left_out = pause_with_secret(SecretPolicy::new().dont_dump());
    let left_out = counts();
    assert_eq!([left_out[0] - locked[0], left_out[1] - locked[1]], [0, 1]);
}

/// Counts the mappings that have a flag, as `proc_pid_smaps(5)` names it.
fn mapped_with(flag: &str) -> usize {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let flags = smaps.lines().filter_map(|line| line.strip_prefix("VmFlags:"));
    flags
        .filter(|flags| flags.split_whitespace().any(|one| one == flag))
        .count()
}

fn pause_with_secret(secrets: SecretPolicy) -> Job<()> {
    init_thread(
        PoolConfig::new()
            .stack_size(StackSize::at_least(64 << 10))
            .secrets(secrets),
    )
    .unwrap();
    let step = asyncjob::start_job(&WaitCtx::new(), || {
        use_secret(2);
        let _ = pause_job();
    });
    let Ok(Step::Paused(job)) = step else {
        panic!("the job pauses")
    };
    job
}
