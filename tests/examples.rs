//! Promise: the examples run, and print what they say.

mod programs;

use std::process::{Command, Output};

use programs::program;

fn run(name: &str, args: &[&str]) -> Output {
    Command::new(program(name)).args(args).output().unwrap()
}

/// Runs an example that is to succeed, and gives its output.
#[track_caller]
fn output(name: &str, args: &[&str]) -> String {
    let output = run(name, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {args:?}: {}\n{stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// The output that the manual page ASYNC_start_job(3) documents for its program.
#[test]
fn manual_page() {
    let documented = "\
Starting...
Executing within a job
Passed in message is: Hello world!
Job was paused
Waiting for the job to be woken up
Resumed the job after a pause
Job finished with return value 1
Finishing
";
    assert_eq!(output("manual_page", &[]), documented);
}

#[test]
fn engine() {
    let expected = "\
outside a job: 4
by wait fd: 9, with 0 wait fds left
by callback, 100 jobs on one thread: 338350
";
    assert_eq!(output("engine", &[]), expected);
}

#[test]
fn embedded() {
    assert_eq!(
        output("embedded", &[]),
        "host: the job has slept\njob: hello from the host\n"
    );
}

#[test]
fn echo() {
    let output = output("echo", &["--demo"]);
    let mut lines: Vec<_> = output.lines().collect();
    lines.sort_unstable(); // who is first is the kernel's business
    let expected = [
        "3 bytes to 127.0.0.1",
        "3 bytes to 127.0.0.1",
        "5 bytes to 127.0.0.1",
        "heard one",
        "heard three",
        "heard two",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn tls_load_compares_both_modes() {
    let args = ["--handshakes", "60", "--concurrency", "10", "--sign-latency", "1"];
    let output = output("tls_load", &args);
    let rows: Vec<Vec<&str>> = output
        .lines()
        .filter(|line| line.starts_with("| inline") || line.starts_with("| offload"))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let counts: Vec<_> = rows.iter().map(|row| (row[1], row[2], row[4])).collect();
    assert_eq!(counts, [("inline", "60", "0"), ("offload", "60", "0")], "{output}");
    assert!(output.contains("inline to offload: "), "{output}");
}

#[test]
fn tls_load_says_what_is_wrong() {
    let nobody = ["--target", "127.0.0.1:1", "--handshakes", "1"];
    let refused = run("tls_load", &nobody);
    assert!(!refused.status.success());
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(
        stderr.contains("the unrelated connection failed: Connection refused"),
        "{stderr}"
    );
    let misspelt = run("tls_load", &["--target", "localhost"]);
    let stderr = String::from_utf8_lossy(&misspelt.stderr);
    assert!(stderr.contains("localhost is no address with a port"), "{stderr}");
}

/// A thousand jobs instead of a million.
#[test]
fn million() {
    let output = output("million", &["--jobs", "1000", "--quiet"]);
    assert!(output.contains("jobs=1000 "), "{output}");
}

/// What an example does not understand it refuses, and says what.
#[test]
fn million_refuses_what_it_does_not_know() {
    let refused = run("million", &["--jobs", "many"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("jobs"), "{refused:?}");
}
