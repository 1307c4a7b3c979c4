//! Bounds for what our operations consist of: allocations, system calls, instructions and mispredicted returns. They
//! are counted in traced processes, so a busy machine changes nothing. No times are measured.

#![cfg(target_arch = "x86_64")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The columns of the tables.
const INSTRUCTIONS: usize = 0;
const MISPREDICTED_RETURNS: usize = 1;
const SYSTEM_CALLS: usize = 2;
const ALLOCATIONS: usize = 3;

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "without optimization nothing is inlined, and each of the steps takes ten times as many: see .ci/counts"
)]
fn our_operations_consist_of_what_the_readme_says() {
    let report = Report::make();
    a_switch_touches_neither_the_kernel_nor_the_heap(&report);
    an_empty_job_touches_neither_the_kernel_nor_the_heap(&report);
    a_wake_by_callback_makes_a_small_share_of_a_system_call(&report);
    a_wake_by_fd_makes_the_system_calls_of_its_floor(&report);
    a_poll_in_a_job_touches_neither_the_kernel_nor_the_heap(&report);
    a_switch_has_as_many_mispredicted_returns_as_its_floor(&report);
    instructions_stay_near_the_floor(&report);
}

fn a_switch_touches_neither_the_kernel_nor_the_heap(report: &Report) {
    for table in [
        "switch, job 0, caller 0",
        "switch, job 8, caller 0",
        "switch, job 8, caller 4",
    ] {
        report.expect(table, "asyncjob", SYSTEM_CALLS, 0.0..=0.0);
        report.expect(table, "asyncjob", ALLOCATIONS, 0.0..=0.0);
    }
}

fn an_empty_job_touches_neither_the_kernel_nor_the_heap(report: &Report) {
    report.expect("life", "asyncjob", SYSTEM_CALLS, 0.0..=0.0);
    report.expect("life", "asyncjob", ALLOCATIONS, 0.0..=0.0);
}

/// No job has a wait fd, so the scheduler does not ask the kernel.
fn a_wake_by_callback_makes_a_small_share_of_a_system_call(report: &Report) {
    let table = "wake by callback, a batch of 20";
    report.expect(table, "asyncjob, callback", SYSTEM_CALLS, -0.1..=0.1);
    report.expect(table, "asyncjob, callback", ALLOCATIONS, -0.05..=0.05);
}

fn a_wake_by_fd_makes_the_system_calls_of_its_floor(report: &Report) {
    for (table, name) in [
        ("wake by eventfd", "asyncjob, an eventfd"),
        ("wake by pipe", "asyncjob, a pipe"),
    ] {
        report.expect(table, "write, epoll_wait, read", SYSTEM_CALLS, 3.0..=3.0);
        report.expect(table, name, SYSTEM_CALLS, 2.8..=3.2);
        report.expect(table, name, ALLOCATIONS, 0.0..=0.0);
    }
}

/// Beside what the future does itself: a task of tokio asks the kernel for events from time to time.
fn a_poll_in_a_job_touches_neither_the_kernel_nor_the_heap(report: &Report) {
    for table in ["poll, not woken", "poll, by itself", "poll, channel", "poll, task"] {
        for column in [SYSTEM_CALLS, ALLOCATIONS] {
            let without = report.count(table, "without a job", column);
            report.expect(table, "asyncjob, in_job", column, without - 0.1..=without + 0.1);
        }
    }
    // From the call that makes the future to its drop. The future lies where the one before it has lain.
    report.expect("poll, ready", "asyncjob, in_job", SYSTEM_CALLS, 0.0..=0.0);
    report.expect("poll, ready", "asyncjob, in_job", ALLOCATIONS, 0.0..=0.0);
}

fn a_switch_has_as_many_mispredicted_returns_as_its_floor(report: &Report) {
    for table in [
        "switch, job 0, caller 0",
        "switch, job 8, caller 0",
        "switch, job 8, caller 4",
    ] {
        let floor = report.count(table, "corosensei", MISPREDICTED_RETURNS);
        report.expect(table, "asyncjob", MISPREDICTED_RETURNS, 0.0..=floor + 0.1);
    }
}

fn instructions_stay_near_the_floor(report: &Report) {
    let most = |table: &str, name: &str, times: f64| {
        let floor = report.count(table, "corosensei", INSTRUCTIONS);
        report.expect(table, name, INSTRUCTIONS, floor..=times * floor);
    };
    most("switch, job 0, caller 0", "asyncjob", 2.5); // 67 to 31
    most("switch, job 8, caller 0", "asyncjob", 1.6); // 129 to 94
    most("life", "asyncjob", 1.5); // 150 to 118
    // A wake, the resume of its job and the pause after it.
    report.expect(
        "wake by callback, a batch of 20",
        "asyncjob, callback",
        INSTRUCTIONS,
        0.0..=250.0,
    ); // 232
    // Single steps take so long that the kernel's clock ticks in each turn, which adds a little to these.
    report.expect("wake by eventfd", "asyncjob, an eventfd", INSTRUCTIONS, 0.0..=1350.0); // 1,215; 2,395 with two turns
    report.expect(
        "wake by eventfd, a batch of 20",
        "asyncjob, an eventfd",
        INSTRUCTIONS,
        0.0..=550.0,
    ); // 511
    report.expect("life", "asyncjob, spawn and join", INSTRUCTIONS, 0.0..=1220.0); // 1,143
    report.expect("life", "asyncjob, spawn and join", ALLOCATIONS, 0.0..=0.0);
    report.expect("poll, not woken", "asyncjob, in_job", INSTRUCTIONS, 0.0..=28.0); // 20; 47 if it looks at the ctx
    report.expect("poll, by itself", "asyncjob, in_job", INSTRUCTIONS, 0.0..=250.0); // 213; 480 with locks
    // 566; 2,538 with a wait ctx, a waker, a lock and a box of its own for each future.
    report.expect("poll, ready", "asyncjob, in_job", INSTRUCTIONS, 0.0..=640.0);
}

/// The report of one run of the part `counts`.
struct Report(Value);

impl Report {
    fn make() -> Self {
        let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("counts");
        let output = Command::new(env!("CARGO_BIN_EXE_asyncjob-bench"))
            .args(["--once", "--part", "counts", "--peer", "asyncjob", "--out"])
            .arg(&out)
            .output()
            .expect("the program starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Report(read(&out.join("report.json")))
    }

    fn count(&self, table: &str, name: &str, column: usize) -> f64 {
        let tables = self.0["sections"][0]["tables"]
            .as_array()
            .expect("a section has tables");
        let table_ = tables
            .iter()
            .find(|t| t["title"] == table)
            .unwrap_or_else(|| panic!("no table {table}"));
        let rows = table_["rows"].as_array().expect("a table has rows");
        let row = rows
            .iter()
            .find(|r| r["name"] == name)
            .unwrap_or_else(|| panic!("no {name} in {table}"));
        let cell = &row["cells"][column];
        cell.as_f64().unwrap_or_else(|| panic!("{table}, {name}: {cell}"))
    }

    #[track_caller]
    fn expect(&self, table: &str, name: &str, column: usize, range: std::ops::RangeInclusive<f64>) {
        let what = ["instructions", "mispredicted returns", "system calls", "allocations"][column];
        let count = self.count(table, name, column);
        assert!(
            range.contains(&count),
            "{table}: {name} has {count} {what}, expected {range:?}"
        );
    }
}

fn read(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).expect("the report is JSON")
}
