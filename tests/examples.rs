//! Promise: each example runs, and prints what its documentation says.

mod programs;

use programs::{output, run};

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
