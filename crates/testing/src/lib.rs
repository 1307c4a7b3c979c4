//! What the tests of this workspace share. It knows nothing of jobs, and is not published.
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

pub mod tools;
mod watchdog;

pub use watchdog::{Watchdog, within};

use std::env;
use std::io::{Write, stderr};
use std::thread;

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
