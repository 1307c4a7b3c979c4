//! Promise: a test that hangs ends its process, with the test's name; a test that ends in time is left alone.
//!
//! What hangs does so in a process of its own: this program again, which runs one ignored test.

use std::env;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use asyncjob_testing::{Watchdog, within};

const SIGABRT: i32 = 6;

fn run_alone(test: &str) -> Output {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "--ignored", test])
        .output()
        .unwrap()
}

fn assert_aborted_with_its_name(test: &str) {
    let output = run_alone(test);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(SIGABRT), "{said}");
    assert!(said.contains(&format!("{test} has not ended after 0.05 s")), "{said}");
}

#[test]
fn a_wait_for_nothing_ends_the_process() {
    assert_aborted_with_its_name("waits_for_nothing");
}

#[test]
#[ignore = "run by a_wait_for_nothing_ends_the_process"]
fn waits_for_nothing() {
    let _watchdog = Watchdog::after(Duration::from_millis(50));
    let (_sender, receiver) = channel::<()>();
    receiver.recv().unwrap();
}

#[test]
fn a_function_that_does_not_return_ends_the_process() {
    assert_aborted_with_its_name("does_not_return");
}

#[test]
#[ignore = "run by a_function_that_does_not_return_ends_the_process"]
fn does_not_return() {
    within(Duration::from_millis(50), || {
        loop {
            thread::park();
        }
    })
}

/// The limit is over before the process is, and nothing happens.
#[test]
fn what_ends_in_time_is_left_alone() {
    let output = run_alone("ends_in_time");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "run by what_ends_in_time_is_left_alone"]
fn ends_in_time() {
    let limit = Duration::from_millis(500);
    assert_eq!(within(limit, || 7), 7);
    drop(Watchdog::after(limit));
    thread::sleep(2 * limit); // the one sleep: for something that must not happen
}
