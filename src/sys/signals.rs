//! Signals that are counted, and a thread that waits for them.
//!
//! ```text
//!   the kernel --- signal ---> handler: sem_post, on any thread ---> the thread of the counter: sem_wait
//! ```
//!
//! `sem_post(3)` is one of the few calls that a handler may make, and a semaphore is memory of the process. (macOS has
//! only semaphores with a name, which the process and its children share. Other systems than Linux get these.) The
//! usual pipe would be an fd. A program that closes all of its fds, as daemons do, may get another file under that
//! number, and the handler would write into it. A child of `fork(2)` has a semaphore of its own, where it would share
//! the pipe.

use std::ffi::c_int;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
#[cfg(asyncjob_portable)]
use std::{
    ffi::CString,
    sync::atomic::{AtomicU32, Ordering},
};

use signal_hook::SigId;
use signal_hook::consts::FORBIDDEN;
use signal_hook::low_level;

#[cfg(asyncjob_portable)]
use super::Process;
#[cfg(not(asyncjob_portable))]
use super::check;

/// How often a signal has come that was not answered yet.
pub struct SignalRequests {
    count: Arc<Semaphore>,
    handler: SigId,
}

impl SignalRequests {
    /// Counts `signal` from now on.
    ///
    /// # Errors
    ///
    /// As [`count_and`](Self::count_and).
    pub(crate) fn count(signal: c_int) -> io::Result<Self> {
        // SAFETY: the function does nothing.
        unsafe { Self::count_and(signal, || ()) }
    }

    /// Counts `signal` from now on. `also` is called in the handler.
    ///
    /// # Errors
    ///
    /// For a signal that no program may handle or that tells of a fault of the program itself, and when the system
    /// refuses a handler.
    ///
    /// # Safety
    ///
    /// `also` must do only what a signal handler may do.
    pub unsafe fn count_and(signal: c_int, also: impl Fn() + Send + Sync + 'static) -> io::Result<Self> {
        check_choice(signal, "ask for a dump", "SIGUSR2", guide_page!("hang"))?;
        let count = Arc::new(Semaphore::new()?);
        let posted = Arc::clone(&count);
        let on_signal = move || {
            posted.post();
            also();
        };
        // SAFETY: the handler posts a semaphore and calls `also`, which keeps the promise of the caller.
        let handler = unsafe { low_level::register(signal, on_signal) }?;
        Ok(SignalRequests { count, handler })
    }

    /// Blocks the thread until there is a request, and takes all that there are.
    pub fn wait(&self) {
        self.count.wait();
        self.take();
    }

    /// Takes all requests. Returns whether there was one.
    pub fn take(&self) -> bool {
        let mut was_asked = false;
        while self.count.try_wait() {
            was_asked = true;
        }
        was_asked
    }

    /// Ends a [`wait`](Self::wait), as a signal does.
    pub(crate) fn wake(&self) {
        self.count.post();
    }
}

impl Drop for SignalRequests {
    fn drop(&mut self) {
        low_level::unregister(self.handler);
    }
}

impl fmt::Debug for SignalRequests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignalRequests").finish_non_exhaustive()
    }
}

/// A semaphore of this process.
struct Semaphore {
    at: *mut libc::sem_t,
    /// Which process may post it.
    #[cfg(asyncjob_portable)]
    process: Process,
}

// SAFETY: the semaphore is made for several threads, and its address does not change.
unsafe impl Send for Semaphore {}
// SAFETY: as above.
unsafe impl Sync for Semaphore {}

impl Semaphore {
    #[cfg(not(asyncjob_portable))]
    fn new() -> io::Result<Self> {
        // SAFETY: the type consists of bytes, for which all zero is valid.
        let at = Box::into_raw(Box::new(unsafe { MaybeUninit::zeroed().assume_init() }));
        let semaphore = Semaphore { at };
        // SAFETY: nothing uses the semaphore yet.
        check(unsafe { libc::sem_init(at, 0, 0) })?;
        Ok(semaphore)
    }

    #[cfg(asyncjob_portable)]
    fn new() -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let name = CString::new(format!("/asyncjob-{process}-{number}"))?; // at most 31 bytes
        let (flags, mode, count): (_, libc::c_uint, libc::c_uint) = (libc::O_CREAT | libc::O_EXCL, 0o600, 0);
        // SAFETY: the name ends with a zero, and O_CREAT has the two arguments that it needs.
        let at = unsafe { libc::sem_open(name.as_ptr(), flags, mode, count) };
        if at == libc::SEM_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the name ends with a zero. The semaphore stays until it is closed.
        unsafe { libc::sem_unlink(name.as_ptr()) };
        Ok(Semaphore {
            at,
            process: Process::current()?,
        })
    }

    /// A signal handler may call this. A full counter, which is the one possible failure, has been posted before.
    fn post(&self) {
        #[cfg(asyncjob_portable)]
        if self.process.is_inherited() {
            return; // its parent would answer
        }
        keeping_errno(|| {
            // SAFETY: `new` has made the semaphore.
            unsafe { libc::sem_post(self.at) };
        });
    }

    fn wait(&self) {
        // SAFETY: `new` has made the semaphore. A signal ends the call.
        while unsafe { libc::sem_wait(self.at) } != 0 {}
    }

    fn try_wait(&self) -> bool {
        // SAFETY: `new` has made the semaphore.
        unsafe { libc::sem_trywait(self.at) == 0 }
    }
}

impl Drop for Semaphore {
    #[cfg(not(asyncjob_portable))]
    fn drop(&mut self) {
        // SAFETY: no other thread has it any more, so none waits.
        unsafe { libc::sem_destroy(self.at) };
        // SAFETY: `new` has boxed it, and nothing uses it after this.
        drop(unsafe { Box::from_raw(self.at) });
    }

    #[cfg(asyncjob_portable)]
    fn drop(&mut self) {
        // SAFETY: no other thread has it any more, so none waits.
        unsafe { libc::sem_close(self.at) };
    }
}

/// Refuses a signal that no program may handle, or that tells of a fault of the program itself.
pub(crate) fn check_choice(signal: c_int, to: &str, better: &str, page: &str) -> io::Result<()> {
    if FORBIDDEN.contains(&signal) {
        let message = format!("signal {signal} cannot {to}: choose another one, {better} for instance{page}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(())
}

/// Lets a signal handler make calls that set `errno`, which the code that was interrupted may read next.
pub(super) fn keeping_errno(calls: impl FnOnce()) {
    #[cfg(target_os = "linux")]
    // SAFETY: the call returns an address and does nothing else.
    let errno = unsafe { libc::__errno_location() };
    #[cfg(not(target_os = "linux"))]
    // SAFETY: as above.
    let errno = unsafe { libc::__error() };
    // SAFETY: the place belongs to this thread and exists as long as the thread.
    let before = unsafe { errno.read() };
    calls();
    // SAFETY: as above.
    unsafe { errno.write(before) };
}

/// The faults of a thread itself. A thread that blocks them ends the process without a report.
const FAULTS: [c_int; 6] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGTRAP,
    libc::SIGSYS,
];

/// Starts a thread for `signal`. The thread takes the signal also if all others block it, and runs no handler for any
/// other signal: those of the program may expect to be on a thread of the program.
///
/// The call is allowed in a child of a `fork(2)`, in the handlers of that fork, too. There std must not look at the
/// environment, whose lock another thread may have had. So the size of the stack is given.
///
/// # Errors
///
/// When the system has no thread.
pub fn spawn_for_signal(signal: c_int, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let mut before = set_mask(&all_but([]));
    let thread = thread::Builder::new()
        .name(name.into())
        .stack_size(2 << 20)
        .spawn(move || {
            set_mask(&all_but(FAULTS.into_iter().chain([signal])));
            run();
        });
    // SAFETY: the mask is one that the system has given.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_mut_ptr(), ptr::null_mut()) };
    thread
}

/// All signals but `without`.
fn all_but(without: impl IntoIterator<Item = c_int>) -> MaybeUninit<libc::sigset_t> {
    let mut signals = MaybeUninit::uninit();
    // SAFETY: the call fills the set in.
    unsafe { libc::sigfillset(signals.as_mut_ptr()) };
    for signal in without {
        // SAFETY: the set was filled in.
        unsafe { libc::sigdelset(signals.as_mut_ptr(), signal) };
    }
    signals
}

/// Sets which signals this thread blocks. Returns what it blocked before.
fn set_mask(to: &MaybeUninit<libc::sigset_t>) -> MaybeUninit<libc::sigset_t> {
    let mut before = MaybeUninit::zeroed();
    // SAFETY: `all_but` has filled the set in. The call fills `before` in.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, to.as_ptr(), before.as_mut_ptr()) };
    before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raise(signal: c_int) {
        // SAFETY: the signal has a handler.
        unsafe { libc::raise(signal) };
    }

    #[test]
    fn requests_are_taken_together() {
        let requests = SignalRequests::count(libc::SIGURG).unwrap();
        assert!(!requests.take());
        raise(libc::SIGURG);
        raise(libc::SIGURG);
        assert!(requests.take() && !requests.take());
        raise(libc::SIGURG);
        requests.wait();
        assert!(!requests.take());
    }

    #[test]
    fn the_thread_takes_its_signal_only() {
        let (sender, blocked) = std::sync::mpsc::channel();
        let run = move || {
            let mut now = MaybeUninit::zeroed();
            // SAFETY: the call changes no mask, and fills `now` in.
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), now.as_mut_ptr()) };
            // SAFETY: filled in.
            let is_blocked = |signal| unsafe { libc::sigismember(now.as_ptr(), signal) == 1 };
            let signals = [libc::SIGWINCH, libc::SIGSEGV, libc::SIGTERM, libc::SIGUSR1];
            sender.send(signals.map(is_blocked)).unwrap();
        };
        spawn_for_signal(libc::SIGWINCH, "test", run).unwrap().join().unwrap();
        assert_eq!(blocked.recv().unwrap(), [false, false, true, true]);
    }
}
