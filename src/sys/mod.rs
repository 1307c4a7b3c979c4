//! System calls on file descriptors and clocks, as safe functions.
//!
//! Each function takes and returns types of std, so that its callers need neither `unsafe` nor a raw `errno`. The
//! system calls on memory and signals are in `stack`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering, compiler_fence, fence};
use std::time::Duration;

#[cfg(all(feature = "insight", not(asyncjob_portable)))]
mod interrupt;
#[cfg(not(asyncjob_portable))]
mod linux;
#[cfg(feature = "insight")]
mod own_process;
#[cfg(asyncjob_portable)]
mod portable;
#[cfg(feature = "insight")]
mod signals;
mod thread_words;
mod while_forking;

#[cfg(not(asyncjob_portable))]
use linux as system;
#[cfg(asyncjob_portable)]
use portable as system;

#[cfg(all(feature = "insight", not(asyncjob_portable)))]
pub(crate) use interrupt::{Interrupt, Looking, ThreadNumber, looking};
#[cfg(feature = "insight")]
pub(crate) use own_process::{LoadedModule, kind_of_open_fd, loaded_modules, place_in_module};
#[cfg(all(feature = "insight", asyncjob_portable))]
pub(crate) use portable::{Interrupt, Looking, ThreadNumber, looking};
#[cfg(all(feature = "insight", not(asyncjob_portable)))]
pub(crate) use signals::check_choice;
#[cfg(feature = "insight")]
pub use signals::{SignalRequests, spawn_for_signal};
#[cfg(feature = "insight")]
pub(crate) use system::read_memory;
pub(crate) use system::{
    Notifier, Poller, PollerFd, can_order_all_threads, clock_tick, connect_unix, order_all_threads, start_connect,
};
pub(crate) use thread_words::{ThreadWords, free_boxed, with_boxed};
pub use while_forking::WhileForking;

/// The process that made something. A child of `fork(2)` has a copy of it, with fds that lead to the parent's own
/// files, and without the threads that it had.
///
/// A child is told by a counter that a handler of `pthread_atfork(3)` raises in it, so that to ask costs one load. A
/// child that is made without the C library (`clone(2)` called by number) is not noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(u32);

/// How many forks lie between this process and its first ancestor that used the crate.
static FORKS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_fork() {
    // Relaxed: a new process has one thread, and a later thread of it begins after this.
    FORKS.fetch_add(1, Ordering::Relaxed);
}

impl Process {
    /// This process. From the first call on, forks are counted.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: the system cannot register what counts them.
    pub fn current() -> io::Result<Self> {
        static IS_REGISTERED: AtomicBool = AtomicBool::new(false);
        static ERROR: AtomicI32 = AtomicI32::new(0);
        // As in `ForkHandlers`, no thread waits for another one.
        if !IS_REGISTERED.load(Ordering::Relaxed) && !IS_REGISTERED.swap(true, Ordering::Relaxed) {
            // SAFETY: the handler may run in any child: it changes an atomic number and does nothing else.
            let error = unsafe { libc::pthread_atfork(None, None, Some(count_fork)) };
            ERROR.store(error, Ordering::Relaxed);
        }
        let error = ERROR.load(Ordering::Relaxed);
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        Ok(Process(FORKS.load(Ordering::Relaxed)))
    }

    /// Whether this is a child of the process that made the value.
    #[inline]
    #[must_use]
    pub fn is_inherited(self) -> bool {
        self.0 != FORKS.load(Ordering::Relaxed)
    }

    /// Fails in a child of the process.
    #[inline]
    pub(crate) fn check(self) -> io::Result<()> {
        if self.is_inherited() {
            return Err(forked());
        }
        Ok(())
    }
}

/// Handlers of forks, which are registered once.
///
/// No thread waits here for another one that registers: a child that is forked meanwhile would wait for ever. A fork
/// that has begun before does not call them either. So code that starts threads registers them first.
pub(crate) struct ForkHandlers(AtomicBool);

impl ForkHandlers {
    pub(crate) const fn new() -> Self {
        ForkHandlers(AtomicBool::new(false))
    }

    /// Calls `before` in each thread that forks from now on, and when it has forked, `in_parent` and `in_child`. A
    /// failure has no effect.
    #[inline]
    pub(crate) fn register(&self, before: extern "C" fn(), in_parent: extern "C" fn(), in_child: extern "C" fn()) {
        if !self.0.load(Ordering::Relaxed) && !self.0.swap(true, Ordering::Relaxed) {
            // SAFETY: the handlers are safe functions, which live as long as the program: the drop-in is never
            // unloaded.
            unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
        }
    }
}

/// The registers of a thread by which its stack is read.
#[cfg(feature = "insight")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registers {
    /// The address of the code that runs.
    pub(crate) code: usize,
    /// The stack pointer.
    pub(crate) stack: usize,
    /// The frame pointer, or what else the register has.
    pub(crate) frame: usize,
    /// The link register, on a processor that has one: the return address of a function that calls no other.
    #[cfg_attr(
        target_arch = "x86_64",
        expect(dead_code, reason = "its return addresses are on the stack")
    )]
    pub(crate) link: usize,
}

/// Makes `prepare_for_forks` in the calling module. After its first call, a thread that forks calls `$hold` before, and
/// parent and child drop what it has returned: the locks that are taken while the process forks. The child calls
/// `$in_child` after that, which may do only what a signal handler may do.
macro_rules! hold_while_forking {
    ($held:ty, $hold:expr $(, in_child: $in_child:expr)?) => {
        static HELD: $crate::sys::WhileForking<$held> = $crate::sys::WhileForking::new();

        extern "C" fn before_fork() {
            HELD.keep($hold);
        }

        extern "C" fn in_parent() {
            HELD.let_go();
        }

        extern "C" fn in_child() {
            HELD.let_go();
            $($in_child();)?
        }

        /// Makes forks safe that begin from now on. A failure has no effect but the old danger.
        pub(crate) fn prepare_for_forks() {
            static HANDLERS: $crate::sys::ForkHandlers = $crate::sys::ForkHandlers::new();
            HANDLERS.register(before_fork, in_parent, in_child);
        }
    };
}
pub(crate) use hold_while_forking;

/// The error of what a child has inherited.
#[cold]
pub(crate) fn forked() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, FORKED)
}

/// What to do about it.
pub const FORKED: &str = concat!(
    "this was made before the process was forked, and belongs to the parent process: make a new one in the child",
    guide_page!("fork")
);

/// A number that no other thread has at the same time. A thread that begins after this one has ended may get the same.
#[inline]
pub(crate) fn thread_address() -> usize {
    // Other systems keep the address elsewhere.
    #[cfg(all(
        not(miri),
        not(asyncjob_portable),
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))]
    {
        let pointer: usize;
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the first word of a thread's control block is its own address: the ABI of thread-local storage says
        // so. The instruction reads that word.
        unsafe {
            std::arch::asm!("mov {}, fs:[0]", out(reg) pointer, options(nostack, preserves_flags, pure, readonly));
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: the instruction reads a register.
        unsafe {
            std::arch::asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nomem, nostack, preserves_flags));
        }
        pointer
    }
    #[cfg(not(all(
        not(miri),
        not(asyncjob_portable),
        any(target_arch = "x86_64", target_arch = "aarch64")
    )))]
    {
        thread_local!(static HERE: u8 = const { 0 });
        HERE.with(|here| std::ptr::from_ref(here).addr())
    }
}

/// Keeps the compiler from moving the loads that follow in front of the stores before. The processor may still do so,
/// until another thread calls [`order_all_threads`].
#[inline]
pub(crate) fn order_this_thread() {
    if cfg!(miri) {
        fence(Ordering::SeqCst); // Miri has no `membarrier`
    } else {
        compiler_fence(Ordering::SeqCst);
    }
}

/// What an fd is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Readiness {
    /// What the fd was registered with.
    pub(crate) token: u64,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

/// Blocks the thread until `fd` is ready or `timeout` (`None`: no limit) has passed. Returns whether `fd` is ready. A
/// signal ends the wait with `false`.
pub(crate) fn poll_one(
    fd: BorrowedFd<'_>,
    readable: bool,
    writable: bool,
    timeout: Option<Duration>,
) -> io::Result<bool> {
    let mut events = 0;
    if readable {
        events |= libc::POLLIN;
    }
    if writable {
        events |= libc::POLLOUT;
    }
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: the pollfd is valid during the call, and the count is one.
    match check(unsafe { libc::poll(&mut poll, 1, timeout.map_or(-1, milliseconds)) }) {
        Ok(ready) => Ok(ready > 0),
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(e) => Err(e),
    }
}

/// Makes the file of `fd` non-blocking, in one system call. `fcntl` would need two.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut yes: libc::c_int = 1;
    // SAFETY: FIONBIO reads one int, which is valid during the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONBIO, &mut yes) })?;
    Ok(())
}

/// The time-out in whole milliseconds, rounded up. A time-out that is rounded down ends just before its deadline, and
/// the caller would wait again and again until the deadline has passed. One of more than 24 days is none (-1), which
/// costs the kernel less.
fn milliseconds(timeout: Duration) -> i32 {
    let rounded = timeout.as_nanos().div_ceil(1_000_000);
    i32::try_from(rounded).unwrap_or(-1)
}

/// The clock of `Instant`, in nanoseconds: a difference of two readings is one instruction, and one of two `Instant`s
/// is sixty.
#[cfg(feature = "insight")]
#[inline]
pub(crate) fn clock() -> u64 {
    #[cfg(target_os = "macos")]
    const CLOCK: libc::clockid_t = libc::CLOCK_UPTIME_RAW;
    #[cfg(not(target_os = "macos"))]
    const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;
    read_clock(CLOCK)
}

/// What a clock of the system shows, in nanoseconds.
#[inline]
fn read_clock(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the timespec may be written to during the call.
    unsafe { libc::clock_gettime(clock, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The result of a system call that returns -1 and sets `errno` when it fails.
pub(crate) fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
