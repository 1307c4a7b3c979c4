//! A dump each time the process gets a signal.

use std::ffi::c_int;
use std::io;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use signal_hook::consts::FORBIDDEN;
use signal_hook::iterator::{Handle, Signals};

use super::{Dump, dump};
use crate::sync::contain;

/// How long a dump waits for a driver.
const WITHIN: Duration = Duration::from_secs(1);

/// Calls `report` with a [`dump`] each time the process gets `signal`, until the returned guard is dropped.
///
/// A thread of its own waits for the signal, makes the dump and calls `report`. Nothing runs in a signal handler. What
/// else the program does on that signal it goes on to do. If `report` panics, the panic hook reports it, and the next
/// signal is answered all the same.
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
/// When the system refuses a handler, a socket or a thread, and for a signal that no program may handle or that tells
/// of a fault of the program itself (`SIGKILL`, `SIGSTOP`, `SIGILL`, `SIGFPE`, `SIGSEGV`).
pub fn on_signal(signal: c_int, mut report: impl FnMut(Dump) + Send + 'static) -> io::Result<OnSignal> {
    if FORBIDDEN.contains(&signal) {
        let message = format!("signal {signal} cannot ask for a dump: choose another one, SIGUSR2 for instance");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let mut signals = Signals::new([signal])?;
    let handle = signals.handle();
    let wait = move || {
        for _ in signals.forever() {
            contain(|| report(dump(WITHIN)));
        }
    };
    let thread = thread::Builder::new().name("asyncjob-dump".into()).spawn(wait)?;
    Ok(OnSignal {
        handle,
        thread: Some(thread),
    })
}

/// The guard that [`on_signal`] returns. Its drop ends the thread, and waits for a dump that is being made.
#[derive(Debug)]
#[must_use = "the signal has no effect any more when the guard is dropped"]
pub struct OnSignal {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Drop for OnSignal {
    fn drop(&mut self) {
        self.handle.close();
        // A report that drops the guard would wait for itself.
        let other = self
            .thread
            .take()
            .filter(|thread| thread.thread().id() != thread::current().id());
        if let Some(thread) = other {
            let _ = thread.join();
        }
    }
}
