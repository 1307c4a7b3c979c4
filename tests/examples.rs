//! Promise: each example runs, and prints what its documentation says.

mod programs;

use std::process::{Command, Output};

use programs::program;

fn run(name: &str, args: &[&str]) -> Output {
    Command::new(program(name)).args(args).output().unwrap()
}

/// Runs an example, which must succeed, and returns its output.
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
    lines.sort_unstable(); // the kernel decides which client is served first
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

/// A person who asks for help gets the usage, and an unknown option is an error that shows the usage too.
#[test]
fn echo_prints_its_usage() {
    let usage = output("echo", &["--help"]);
    assert!(usage.starts_with("usage: echo [ADDRESS:PORT]"), "{usage}");
    let refused = run("echo", &["--unknown"]);
    assert!(!refused.status.success());
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(stderr, format!("echo: there is no option --unknown\n{usage}"));
}

/// An error is printed as a sentence, not in the form of `Debug`.
#[test]
fn an_error_is_printed_as_a_sentence() {
    let refused = run("echo", &["nowhere"]);
    assert!(!refused.status.success());
    assert_eq!(
        String::from_utf8_lossy(&refused.stderr),
        "echo: invalid socket address\n"
    );
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

/// The load leaves a timeline of each server, which another program draws.
#[cfg(feature = "insight")]
#[test]
fn a_timeline_is_recorded_and_drawn() {
    let folder = std::env::temp_dir().join(format!("asyncjob-timelines-{}", std::process::id()));
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let load = [
        "--handshakes",
        "20",
        "--concurrency",
        "5",
        "--key",
        "ecdsa",
        "--sign-latency",
        "1",
    ];
    output("tls_load", &[&load[..], &["--timelines", &path("")]].concat());
    let (inline, offload) = (path("inline.json"), path("offload.json"));
    let svg = output("timeline", &["--length", "20", &inline, &offload]);
    assert!(
        svg.starts_with("<svg") && svg.contains(">inline<") && svg.contains(">offload<"),
        "{svg}"
    );
    // Only a job whose key signs elsewhere pauses for it. One more makes the page of the timeline elsewhere.
    let waits = |file: &str| {
        std::fs::read_to_string(file)
            .unwrap()
            .matches("\"waits for a callback")
            .count()
    };
    let counts = [&inline, &offload].map(|file| waits(file));
    assert!(counts[0] < 10 && counts[1] > 20 * 2, "{counts:?}");

    std::fs::write(&inline, "{}").unwrap();
    let refused = run("timeline", &[&inline]);
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(
        stderr.starts_with("timeline: ") && stderr.contains("inline.json: the file is not one"),
        "{stderr}"
    );
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn tls_load_explains_its_errors() {
    let no_server = ["--target", "127.0.0.1:1", "--handshakes", "1"];
    let refused = run("tls_load", &no_server);
    assert!(!refused.status.success());
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(
        stderr.contains("the unrelated connection failed: Connection refused"),
        "{stderr}"
    );
    let misspelt = run("tls_load", &["--target", "localhost"]);
    let stderr = String::from_utf8_lossy(&misspelt.stderr);
    assert!(stderr.contains("localhost is not an address with a port"), "{stderr}");
}

/// The example runs with a thousand jobs here, instead of a million.
#[test]
fn million() {
    let output = output("million", &["--jobs", "1000", "--quiet"]);
    assert!(output.contains("jobs=1000 "), "{output}");
}

/// An option with a wrong value is refused with a message that names the option.
#[test]
fn million_refuses_an_option_that_is_not_a_number() {
    let refused = run("million", &["--jobs", "many"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("jobs"), "{refused:?}");
}
