//! Promise: gdb shows each paused job of a Rust program with its frames, in the process and in a core file, with the
//! script `gdb/asyncjob.py`.
#![cfg(target_arch = "x86_64")]

use std::time::{Duration, Instant};

use asyncjob::{Job, JobBuilder, PauseError, Status, Step, WaitCtx, WaitKey, current_job, pause_job, start_job};
use asyncjob_testing::tools::{GDB, missing, skipped};
use asyncjob_testing::{CoreFile, Watchdog, gdb};

#[inline(never)]
fn wait_for_the_device(depth: usize) -> Result<usize, PauseError> {
    if depth == 0 {
        current_job().unwrap().wait_ctx().set_status(Status::Ok);
        return std::hint::black_box(pause_job().map(|()| 0));
    }
    std::hint::black_box(wait_for_the_device(depth - 1)).map(|below| below + 1)
}

fn paused<T: 'static>(name: &'static str, ctx: &WaitCtx, f: impl FnOnce() -> T + 'static) -> Job<T> {
    match JobBuilder::new().name(name).wait_ctx(ctx).start(f) {
        Ok(Step::Paused(job)) => job,
        _ => panic!("{name} pauses"),
    }
}

/// The program: paused jobs on two threads, and others that have ended, were given up, and run.
#[test]
#[ignore = "gdb runs it"]
fn parks_jobs_and_stops() {
    let ctx = WaitCtx::new();
    let (reader, _writer) = std::io::pipe().unwrap();
    ctx.add_wait_fd(WaitKey::unique(), reader);
    ctx.set_deadline(Some(Instant::now() + Duration::from_secs(1000)));
    let signer = |_| paused("signer", &WaitCtx::new(), || wait_for_the_device(2));
    let signers: Vec<_> = (0..3).map(signer).collect();
    let reads = paused("reads", &ctx, pause_job);
    paused("given up", &WaitCtx::new(), pause_job).quarantine();
    drop(paused("ended", &WaitCtx::new(), pause_job));
    let (parked, is_parked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _job = paused("elsewhere", &WaitCtx::new(), pause_job);
        parked.send(()).unwrap();
        std::thread::park_timeout(Duration::from_secs(1000));
    });
    is_parked.recv().unwrap();
    let runs = || JobBuilder::new().name("runs").start(|| std::process::abort());
    let _never = start_job(&WaitCtx::new(), move || {
        let _: Step<()> = runs().unwrap();
    });
    drop((signers, reads));
}

const COMMANDS: [&str; 7] = [
    "jobs",
    "job all bt",
    "echo one job\\n",
    "job 4 bt",
    "echo the end\\n",
    "job 4 frame 3",
    "job 99 bt",
];

fn check(printed: &str) {
    let listed = printed
        .lines()
        .filter(|line| line.starts_with('#') && !line.starts_with("#0 "));
    let expected = [
        ("#1 signer, waits for a callback, in ", "wait_for_the_device"),
        ("#2 signer, waits for a callback, in ", "wait_for_the_device"),
        ("#3 signer, waits for a callback, in ", "wait_for_the_device"),
        ("#4 reads, waits for fd ", "(Readable) or a deadline"),
    ];
    for ((begin, has), line) in expected.into_iter().zip(listed) {
        assert!(line.starts_with(begin) && line.contains(has), "{line:?}\n{printed}");
    }
    let has = |text: &str| assert!(printed.contains(text), "{text:?} is missing\n{printed}");
    has(" elsewhere, waits for nothing that it has named");
    has(" runs, runs on thread ");
    has("#7, runs on thread "); // has started that one
    has("\n7 jobs\n");
    for gone in [" given up", " ended"] {
        assert!(!printed.contains(gone), "{gone:?}\n{printed}");
    }
    has("3 jobs are here:\n#1 signer");
    let (all, one) = printed.split_once("one job\n").unwrap();
    let is_frame = |line: &&str| line.trim_start().starts_with(|c: char| c.is_ascii_digit());
    let waits = all.lines().filter(is_frame);
    let waits = waits.filter(|line| line.contains("wait_for_the_device at ") && line.contains("tests/gdb.rs:"));
    assert_eq!(
        waits.count(),
        3,
        "each frame of the recursion, once for three jobs\n{printed}"
    );
    let (frames, _) = one.split_once("the end\n").unwrap();
    assert!(
        frames.contains("pause_job at ") && !frames.contains("wait_for_the_device"),
        "{printed}"
    );
    assert!(
        !frames.contains("parks_jobs_and_stops"),
        "frames of its driver: {printed}"
    );
    has("no job 99 is paused or runs");
    assert!(
        !printed.contains("Traceback") && !printed.contains("corrupt stack"),
        "{printed}"
    );
}

const PROGRAM: [&str; 4] = ["--exact", "parks_jobs_and_stops", "--ignored", "--nocapture"];

#[test]
fn a_process_shows_its_paused_jobs() {
    if missing(&[GDB]) {
        return;
    }
    let _watchdog = Watchdog::new();
    let program = std::env::current_exe().unwrap();
    let program = [&[program.to_str().unwrap()][..], &PROGRAM].concat();
    check(&gdb(&program, &[&["run"][..], &COMMANDS, &["kill"]].concat()));
}

#[test]
fn a_core_file_shows_its_paused_jobs() {
    if missing(&[GDB]) {
        return;
    }
    let _watchdog = Watchdog::new();
    let program = std::env::current_exe().unwrap();
    let program = program.to_str().unwrap();
    let command = [&[program][..], &PROGRAM].concat().join(" ");
    let Some(core) = CoreFile::of(env!("CARGO_TARGET_TMPDIR"), &command, None) else {
        return skipped("no core file appears here, see /proc/sys/kernel/core_pattern");
    };
    check(&gdb(&[program], &[&[&core.read()[..]][..], &COMMANDS].concat()));
}

#[test]
fn a_program_that_does_not_run_is_an_error_that_says_so() {
    if missing(&[GDB]) {
        return;
    }
    let program = std::env::current_exe().unwrap();
    let printed = gdb(&[program.to_str().unwrap()], &["jobs", "job 1 bt"]);
    let said = printed
        .matches("the program does not run, and there is no core file")
        .count();
    assert!(said >= 1, "{printed}");
}
