//! Promise: jobs, engines and freed wait ctxs on many threads at once do not disturb each other.
//!
//! What the tools can check:
//!
//! - Memcheck follows every switch, because our stacks are registered with Valgrind.
//! - ThreadSanitizer treats a job as a part of the thread that runs it, which is right, and finds races in jobs: the
//!   control has one. The stacks in its reports are right up to the first frame of the job. The standard library is not
//!   instrumented.
//! - Helgrind is of no use. Stacks and handles pass from thread to thread through locks that are futexes and not
//!   pthread mutexes. Helgrind does not see these locks, and reports each reuse of a stack as a race.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use asyncjob_testing::tools::missing;
use support::{C_WITH_OPENSSL, OPENSSL, On, VALGRIND_WITH_OPENSSL, compile, describe, printed};

#[test]
fn every_job_returns_its_own_result() {
    if missing(C_WITH_OPENSSL) {
        return;
    }
    let program = compile("tests/c/threads.c", OPENSSL);
    let output = printed(On::Ours.command(&program));
    assert_eq!(
        output,
        "38400 jobs, engines: handles asked yes, callbacks called as found\n"
    );
}

/// S33, S47, S61, in every order of the two threads that one instruction at a time can show.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_call_never_gives_what_the_next_ctx_or_job_in_the_place_has() {
    if missing(C_WITH_OPENSSL) {
        return;
    }
    let program = compile("tests/c/freed_while_read.c", OPENSSL);
    assert_eq!(printed(On::Ours.command(&program)), "held up everywhere\n");
}

/// A child has one thread. Without `asyncjob_capi`'s fork handlers about one of 400 children hangs.
#[test]
fn a_child_of_a_program_with_threads_has_every_lock() {
    if missing(C_WITH_OPENSSL) {
        return;
    }
    let program = compile("tests/c/forked_threads.c", OPENSSL);
    let output = printed(On::Ours.command(&program));
    assert_eq!(output, "600 children: 0 hung, 0 failed\n");
}

#[test]
fn memcheck_finds_no_error() {
    if missing(VALGRIND_WITH_OPENSSL) {
        return;
    }
    let program = compile("tests/c/threads.c", OPENSSL);
    let mut command = On::Ours.under_valgrind(&program, &["--leak-check=full", "--fair-sched=yes"]);
    let output = command.arg("12").output().unwrap();
    assert!(output.status.success(), "{}", describe(&output));
}

#[test]
#[ignore = "builds the library once more, with an option that a stable compiler refuses unless RUSTC_BOOTSTRAP is set"]
fn thread_sanitizer_finds_no_race_and_would_find_one() {
    if missing(C_WITH_OPENSSL) {
        return;
    }
    let directory = build_sanitized();
    let (search, find) = (format!("-L{directory}"), support::find_in(&directory));
    let ours = ["-fsanitize=thread", "-rdynamic", &search, "-lasyncjob-preload", &find];
    let arguments = [&ours, OPENSSL].concat();

    let program = compile("tests/c/threads_sanitized.c", &arguments);
    let output = Command::new(program).output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        describe(&output)
    );

    let control = compile("tests/c/threads_racing.c", &arguments);
    let output = Command::new(control).arg("20").output().unwrap();
    assert!(
        !output.status.success() && describe(&output).contains("data race"),
        "{}",
        describe(&output)
    );
}

/// Builds the library for ThreadSanitizer. Returns the directory that it is in.
fn build_sanitized() -> String {
    let host = "x86_64-unknown-linux-gnu"; // a named target keeps the options away from build scripts
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sanitized");
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            "asyncjob-capi",
            "--target",
            host,
            "--target-dir",
        ])
        .arg(&target)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(status.success());
    let directory = target.join(host).join("release");
    // As the installation does: the program looks for the library by its soname.
    fs::copy(
        directory.join("libasyncjob.so"),
        directory.join("libasyncjob-preload.so"),
    )
    .unwrap();
    directory.display().to_string()
}
