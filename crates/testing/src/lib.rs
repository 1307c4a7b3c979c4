//! What the tests of this workspace share. It knows nothing of jobs.
//!
//! A test that needs a program or a library of the system asks for it in its first line, and does nothing without it:
//!
//! ```
//! use asyncjob_testing::tools::{STRACE, missing};
//!
//! # fn test() {
//! if missing(&[STRACE]) {
//!     return;
//! }
//! # }
//! ```
//!
//! A test that waits for something that must happen has a limit, after which its process is aborted:
//!
//! ```
//! use asyncjob_testing::Watchdog;
//!
//! let _watchdog = Watchdog::new();
//! // scheduler.turn(None), handle.join(), ...
//! ```
//!
//! [`error_pages`] looks at all errors of a crate: each leads to a page of the guide, or the test says why not.
//!
//! [`Counting`] is an allocator that counts what a thread allocates.
//!
//! A test that changes the whole process is ignored, and another test runs it in a process of its own: [`run_alone`].

#[allow(unsafe_code, reason = "the only way to count allocations")]
mod allocator;
pub mod error_pages;
mod gdb;
pub mod tools;
mod watchdog;

pub use allocator::{Counting, allocated_bytes, allocations};
pub use gdb::{CoreFile, gdb};
pub use watchdog::{Watchdog, within};

use std::env;
use std::io::{Write, stderr};
use std::process::Command;
use std::thread;

/// Runs an ignored test of this program in a process of its own, where it is the only test.
///
/// # Panics
///
/// When the test fails, with everything that it said, and when there is no ignored test of that name.
#[track_caller]
pub fn run_alone(test: &str) {
    let _watchdog = Watchdog::new();
    let program = env::current_exe().expect("a test has a program");
    let mut command = Command::new(program);
    command.args(["--exact", "--ignored", "--test-threads=1", test]);
    let output = command.output().expect("a test runs itself");
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{complaint}"
    );
}

/// The test that runs on this thread: the test harness names the thread so. Outside the harness, the program.
fn name_of_test() -> String {
    match thread::current().name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => env::current_exe()
            .ok()
            .and_then(|path| Some(path.file_stem()?.to_str()?.to_owned()))
            .unwrap_or_else(|| "this program".to_owned()),
    }
}

/// A line on stderr that the test harness does not capture: it is seen although the test passes.
fn say(line: &str) {
    let _ = writeln!(stderr(), "{line}"); // in one write, and where stderr is closed there is no reader
}
