use std::process::abort;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::{name_of_test, say};

/// How long a test may take unless it says otherwise. Tests take milliseconds; a busy machine makes seconds of them.
const LIMIT: Duration = Duration::from_secs(60);

/// Aborts the process if it is not dropped in time.
///
/// A lost wake shows itself as a wait that never ends, and a thread that waits cannot be made to fail. So the watchdog
/// prints the name of the test and aborts the process: the test run fails, in a minute and not never.
#[derive(Debug)]
pub struct Watchdog {
    /// Dropped, it ends the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// With a limit of a minute from now.
    #[must_use = "it watches until it is dropped"]
    #[expect(clippy::new_without_default, reason = "it starts a thread")]
    pub fn new() -> Self {
        Self::after(LIMIT)
    }

    /// With this limit from now.
    #[must_use = "it watches until it is dropped"]
    pub fn after(limit: Duration) -> Self {
        let name = name_of_test();
        let (stop, stopped) = channel();
        let watch = move || {
            if stopped.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                say(&format!(
                    "{name} has not ended after {} s: what it waits for does not happen, as after a lost wake. \
                     The process is aborted.",
                    limit.as_secs_f64()
                ));
                abort();
            }
        };
        let thread = Builder::new()
            .name("watchdog".to_owned())
            .stack_size(64 << 10)
            .spawn(watch);
        Self {
            stop: Some(stop),
            thread: Some(thread.expect("a thread for the watchdog")),
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it cannot panic; after this, no thread of ours is left
        }
    }
}

/// What `f` returns, if it does so within this limit. If it does not, the process is aborted, as by a [`Watchdog`].
pub fn within<T>(limit: Duration, f: impl FnOnce() -> T) -> T {
    let _watchdog = Watchdog::after(limit);
    f()
}
