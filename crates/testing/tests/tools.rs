//! Promise: a test without its tool says so, and fails where tools are required.

use std::env;
use std::process::{Command, Output};

use asyncjob_testing::tools::{CC, Tool, header, library, missing, program};

const ABSENT: [Tool; 3] = [
    program("asyncjob-no-such-program", "no-such-package"),
    header("asyncjob/no_such_header.h", "no-such-package-dev"),
    library("libasyncjob_no_such_library.so.9", "libno-such-package9"),
];

/// This program again: the ignored test alone, with tools required or not.
fn needs_what_is_absent(required: &str) -> Output {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "--ignored", "needs_three_tools"])
        .env("ASYNCJOB_REQUIRE_TOOLS", required)
        .output()
        .unwrap()
}

#[test]
#[ignore = "run by the other tests"]
fn needs_three_tools() {
    if missing(&ABSENT) {
        return;
    }
    panic!("they are not there");
}

#[test]
fn without_its_tools_a_test_says_so_and_passes() {
    let output = needs_what_is_absent("0");
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    let expected = "SKIPPED needs_three_tools: \
        asyncjob-no-such-program is not installed (Debian package no-such-package), \
        asyncjob/no_such_header.h is not installed (Debian package no-such-package-dev), \
        libasyncjob_no_such_library.so.9 is not installed (Debian package libno-such-package9)";
    assert!(said.lines().any(|line| line == expected), "{said}");
}

#[test]
fn where_tools_are_required_it_fails() {
    let output = needs_what_is_absent("1");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("asyncjob-no-such-program is not installed"), "{said}");
    assert!(said.contains("ASYNCJOB_REQUIRE_TOOLS is 1"), "{said}");
}

/// What every machine has is found, so that nothing is skipped for want of a look.
#[test]
fn what_is_there_is_found() {
    assert!(!missing(&[program("sh", "dash"), library("libc.so.6", "libc6")]));
    if !missing(&[CC]) {
        assert!(!missing(&[header("stdio.h", "libc6-dev")]));
    }
}
