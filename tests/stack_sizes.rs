//! Promise: the default stack is large enough for the deepest thing that most jobs do: a panic that prints a full
//! backtrace, in a debug build.

use std::process::Command;

use asyncjob::stack::StackSize;
use asyncjob::{Step, WaitCtx, pause_job, start_job};

#[test]
fn a_panic_with_a_full_backtrace_fits_the_default_four_times() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env("RUST_BACKTRACE", "full")
        .output()
        .unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{stderr}");
    assert!(
        stderr.contains("a panic in a job") && stderr.contains("stack backtrace:"),
        "{stderr}"
    );
    let used = stdout
        .lines()
        .find_map(|line| line.strip_prefix("used: ")?.parse().ok());
    let used: usize = used.expect("the child reports");
    println!("a panic with a full backtrace uses {used} bytes of stack");
    assert!(used > 8192 && used * 4 <= StackSize::DEFAULT.bytes(), "{used} bytes");
}

#[test]
#[ignore = "not a test: the other test runs it in a process of its own"]
fn child() {
    let step = start_job(&WaitCtx::new(), || {
        // The job catches the panic, so that it still exists when its stack is measured.
        let caught = std::panic::catch_unwind(|| panic!("a panic in a job"));
        assert!(caught.is_err());
        pause_job()
    });
    let Ok(Step::Paused(job)) = step else {
        panic!("the job pauses")
    };
    println!("\nused: {}", job.high_water());
    assert!(matches!(job.resume(), Step::Finished(Ok(_))));
}
