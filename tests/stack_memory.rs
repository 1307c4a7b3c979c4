//! Promise: where the system gives memory or guards for some stacks only, as many jobs run as it allows. The next one is
//! refused with an error that names the limit, and the rest of the program goes on.

#![allow(unsafe_code, reason = "std sets no limits and installs no filters")]

use std::error::Error;
use std::io;
use std::process::Command;

use asyncjob::{Job, Step, WaitCtx, pause_job, start_job};

/// Runs an ignored test of this file in a process of its own, and expects that it passes.
fn in_a_process_of_its_own(test: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", test])
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success(), "{:?}\n{text}", output.status);
    assert!(text.contains("1 passed"), "{text}");
}

/// Starts jobs that pause until one is refused. Returns them, and the text of the error and its sources.
fn start_until_refused() -> (Vec<Job<()>>, String) {
    let ctx = WaitCtx::new();
    let mut paused = Vec::new();
    loop {
        match start_job(&ctx, || pause_job().unwrap()) {
            Ok(Step::Paused(job)) => paused.push(job),
            Ok(Step::Finished(())) => panic!("the job pauses"),
            Err(refused) => {
                let mut text = refused.to_string();
                let mut source = refused.source();
                while let Some(error) = source {
                    text = format!("{text}: {error}");
                    source = error.source();
                }
                return (paused, text);
            }
        }
    }
}

fn finish(paused: Vec<Job<()>>) {
    for job in paused {
        assert!(matches!(job.resume(), Step::Finished(())));
    }
}

fn check(result: i32) {
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// A daemon that holds keys locks all its memory. With the usual limit of 8 MiB for that, jobs run.
#[test]
fn jobs_run_where_all_memory_is_locked() {
    in_a_process_of_its_own("with_all_memory_locked");
}

#[test]
#[ignore = "run by jobs_run_where_all_memory_is_locked"]
fn with_all_memory_locked() {
    let limit = libc::rlimit {
        rlim_cur: 8 << 20,
        rlim_max: 8 << 20,
    };
    // SAFETY: the pointer leads to a limit.
    check(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) });
    // The limit does not count for root.
    // SAFETY: the process is of this test alone.
    if unsafe { libc::geteuid() } == 0 {
        // SAFETY: as above.
        check(unsafe { libc::setuid(65534) });
    }
    // SAFETY: as above.
    check(unsafe { libc::mlockall(libc::MCL_FUTURE) });
    let (paused, error) = start_until_refused();
    // 320 KiB each, and the test has memory of its own.
    assert!((15..=25).contains(&paused.len()), "{} jobs: {error}", paused.len());
    assert!(error.contains("RLIMIT_MEMLOCK"), "{error}");
    finish(paused);
    let (again, _) = start_until_refused();
    assert!(again.len() >= 15, "{} jobs", again.len());
    finish(again);
}
