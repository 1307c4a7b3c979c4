//! Ends a test that hangs.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

/// Far above what any test takes, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Ends the process if it is not dropped in time: a lost wake fails the test instead of hanging it.
pub(crate) struct Watchdog {
    _alive: Sender<()>,
}

/// Watches the test of this thread.
pub(crate) fn watchdog() -> Watchdog {
    let (alive, ended) = channel();
    let test = thread::current().name().unwrap_or("a test").to_owned();
    thread::spawn(move || {
        if ended.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{test} hangs");
            std::process::abort();
        }
    });
    Watchdog { _alive: alive }
}
