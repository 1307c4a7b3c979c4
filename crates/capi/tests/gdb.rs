//! Promise: gdb shows each paused job of an unmodified C program with its frames, in the process and in a core file,
//! with the script `gdb/asyncjob.py`.
#![cfg(target_arch = "x86_64")]

mod support;

use asyncjob_testing::tools::{GDB, missing, skipped};
use asyncjob_testing::{CoreFile, Watchdog, gdb};
use support::{C_WITH_OPENSSL, OPENSSL, compile, shared_object};

fn check(printed: &str) {
    let first = printed
        .lines()
        .find(|line| line.starts_with("#1, waits for fd "))
        .expect(printed);
    assert!(first.contains("(Readable), in waits_for_device at "), "{printed}");
    assert!(printed.contains("\n2 jobs\n"), "{printed}");
    let (_, all) = printed.split_once("\n2 jobs\n").unwrap();
    let frames = |name: &str| {
        all.lines()
            .filter(|line| line.contains(&format!(" {name} at ")))
            .count()
    };
    let functions = ["ASYNC_pause_job", "waits_for_device", "signs", "decrypts", "main"];
    assert_eq!(functions.map(frames), [2, 4, 1, 1, 0], "{printed}");
    assert!(
        !printed.contains("Traceback") && !printed.contains("corrupt stack"),
        "{printed}"
    );
}

#[test]
fn a_process_shows_its_paused_jobs() {
    if missing(C_WITH_OPENSSL) || missing(&[GDB]) {
        return;
    }
    let preload = format!("set environment LD_PRELOAD={}", shared_object().display());
    let program = compile("tests/c/paused_for_long.c", OPENSSL);
    let _watchdog = Watchdog::new();
    // Its first call of `fflush` is after the two jobs have paused.
    let commands = [
        &preload,
        "tbreak fflush",
        "run < /dev/null",
        "jobs",
        "job all bt",
        "kill",
    ];
    check(&gdb(&[program.to_str().unwrap()], &commands));
}

#[test]
fn a_core_file_shows_its_paused_jobs() {
    if missing(C_WITH_OPENSSL) || missing(&[GDB]) {
        return;
    }
    let (library, program) = (shared_object(), compile("tests/c/paused_for_long.c", OPENSSL));
    let _watchdog = Watchdog::new();
    let program = program.to_str().unwrap();
    let command = format!("env LD_PRELOAD={} {program}", library.display());
    let Some(core) = CoreFile::of(env!("CARGO_TARGET_TMPDIR"), &command, Some("paused, wait fd")) else {
        return skipped("no core file appears here, see /proc/sys/kernel/core_pattern");
    };
    check(&gdb(&[program], &[&core.read(), "jobs", "job all bt"]));
}
