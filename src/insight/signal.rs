//! A dump each time the process gets a signal.

use std::ffi::c_int;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{Dump, dump};
use crate::sync::contain;
use crate::sys::{Process, SignalRequests, spawn_for_signal};

/// How long a dump waits for a driver.
const WITHIN: Duration = Duration::from_secs(1);

/// Calls `report` with a [`dump`] each time the process gets `signal`, until the returned guard is dropped. Signals
/// that come while a dump is made are answered by one more.
///
/// A thread of its own waits for the signal, makes the dump and calls `report`. It takes the signal also if all other
/// threads block it, and runs no handler for another one. The handler counts the signal, and nothing else runs in it.
/// No fd is used. What else the program does on that signal it goes on to do. If `report` panics, the panic hook
/// reports it, and the next signal is answered all the same.
///
/// A child of `fork(2)` has no such thread: call this in the child.
///
/// ```no_run
/// let _on_signal = asyncjob::insight::on_signal(signal_hook::consts::SIGUSR2, |dump| eprintln!("{dump}"))?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
///
/// When the system refuses a handler or a thread, and for a signal that no program may handle or that tells of a fault
/// of the program itself (`SIGKILL`, `SIGSTOP`, `SIGILL`, `SIGFPE`, `SIGSEGV`).
pub fn on_signal(signal: c_int, mut report: impl FnMut(Dump) + Send + 'static) -> io::Result<OnSignal> {
    let waiting = Arc::new(Waiting {
        requests: SignalRequests::count(signal)?,
        is_over: AtomicBool::new(false),
    });
    let process = Process::current()?;
    let shared = Arc::clone(&waiting);
    let answer = move || {
        loop {
            shared.requests.wait();
            if shared.is_over.load(Ordering::Acquire) {
                return;
            }
            contain(|| report(dump(WITHIN)));
        }
    };
    Ok(OnSignal {
        thread: Some(spawn_for_signal(signal, "asyncjob-dump", answer)?),
        waiting,
        process,
    })
}

/// What the thread and the guard share.
#[derive(Debug)]
struct Waiting {
    requests: SignalRequests,
    is_over: AtomicBool,
}

/// The guard that [`on_signal`] returns. Its drop ends the thread, and waits for a dump that is being made.
#[derive(Debug)]
#[must_use = "the signal has no effect any more when the guard is dropped"]
pub struct OnSignal {
    waiting: Arc<Waiting>,
    thread: Option<JoinHandle<()>>,
    process: Process,
}

impl Drop for OnSignal {
    fn drop(&mut self) {
        self.waiting.is_over.store(true, Ordering::Release);
        self.waiting.requests.wake();
        let thread = self.thread.take();
        // A report that drops the guard would wait for itself, and a child of the process has no such thread.
        let is_here =
            |thread: &JoinHandle<()>| !self.process.is_inherited() && thread.thread().id() != thread::current().id();
        if let Some(thread) = thread.filter(is_here) {
            let _ = thread.join();
        }
    }
}
