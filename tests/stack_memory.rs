//! Promise: where the system gives memory or guards for some stacks only, as many jobs run as it allows. The next one
//! is refused with an error that names the limit, and the rest of the program goes on.

#![cfg(target_os = "linux")] // where a filter can refuse a system call
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

/// Lets the kernel refuse `MADV_GUARD_INSTALL` with this error, as a sandbox does.
fn refuse_guard_advice(error: i32) {
    const GUARD_INSTALL: u32 = 102;
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // The words of `seccomp_data`: the number of the call is at 0, and the lower half of the third argument at 32.
    let mut filter = [
        step(LOAD, 0, 0, 0),
        step(EQUAL, 3, 0, libc::SYS_process_madvise as u32),
        step(EQUAL, 0, 3, libc::SYS_madvise as u32),
        step(LOAD, 0, 0, 32),
        step(EQUAL, 0, 1, GUARD_INSTALL),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | error as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the call changes a property of this thread.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) });
    // SAFETY: the program and its steps exist until the call returns.
    check(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) });
}

fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

/// Where each stack takes two mappings, stacks do not take the last of them: the program can still allocate and start
/// threads. The number of jobs is the same the second time.
#[test]
fn stacks_leave_mappings_to_the_program() {
    in_a_process_of_its_own("without_guard_advice");
}

#[test]
#[ignore = "run by stacks_leave_mappings_to_the_program"]
fn without_guard_advice() {
    let max: usize = std::fs::read_to_string("/proc/sys/vm/max_map_count")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    if max > 200_000 {
        return; // the machine would need too much memory
    }
    refuse_guard_advice(libc::EPERM);
    let mut counts = Vec::new();
    for _ in 0..2 {
        let (paused, error) = start_until_refused();
        assert!(error.contains("vm.max_map_count"), "{error}");
        let taken = mappings();
        assert!(taken > max * 3 / 4, "{taken} of {max} mappings, {} jobs", paused.len());
        assert!(taken <= max - max / 8 + 64, "{taken} of {max} mappings are in use");
        counts.push(paused.len());
        let threads: Vec<_> = (0..10)
            .map(|_| std::thread::Builder::new().spawn(|| vec![1u8; 1 << 20].len()).unwrap())
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), 1 << 20);
        }
        finish(paused);
        asyncjob::pool::cleanup_thread().unwrap();
    }
    assert!(counts[0].abs_diff(counts[1]) <= 640, "{counts:?}");
}
