//! A thread that is stopped for a moment while another one looks at it.
//!
//! ```text
//!   the thread that looks                          the thread that is looked at
//!     ASKED, tgkill  ------- the signal -------->    handler: stores its registers
//!     looks at the memory   <------- STOPPED ----    waits
//!     IDLE           --------------------------->    goes on
//! ```
//!
//! The handler does nothing but that, for at most [`LONGEST`], so that it may interrupt any code.

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::signals::keeping_errno;
use super::{Registers, check};

/// How long a thread is stopped, and how long it may take to get the signal.
const LONGEST: Duration = Duration::from_millis(100);
/// The time between two looks at the state.
const LOOK: Duration = Duration::from_micros(20);

/// Nothing is asked for.
const IDLE: u32 = 0;
/// The thread is to stop.
const ASKED: u32 = 1;
/// The thread stores its registers.
const STOPPING: u32 = 2;
/// The thread has stored its registers and waits.
const STOPPED: u32 = 3;
/// How many states there are: the number of a look, which is above the state, is a multiple of this.
const STATES: u32 = 4;

/// One of the states, and the number of the look that it is about. A thread that comes late finds another number.
static STATE: AtomicU32 = AtomicU32::new(IDLE);
static THREAD: AtomicI32 = AtomicI32::new(0);
static REGISTERS: [AtomicUsize; 4] = [const { AtomicUsize::new(0) }; 4];
/// Held by the thread that looks.
static LOOKS: Mutex<()> = Mutex::new(());

/// Who holds this while the process forks knows that no thread is stopped, so that the child can stop its own.
pub(crate) type Looking = MutexGuard<'static, ()>;

pub(crate) fn looking() -> Looking {
    LOOKS.lock().unwrap_or_else(PoisonError::into_inner) // it guards no data
}

/// A thread of this process, as the kernel counts threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadNumber(i32);

impl ThreadNumber {
    pub(crate) fn current() -> Self {
        // SAFETY: the call returns a number and does nothing else.
        ThreadNumber(unsafe { libc::gettid() })
    }
}

/// A signal that stops a thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interrupt(c_int);

impl Interrupt {
    /// Installs the handler. Fails if the program has a handler for that signal.
    pub(crate) fn by(signal: c_int) -> io::Result<Self> {
        let _alone = looking();
        let mut now: MaybeUninit<libc::sigaction> = MaybeUninit::zeroed();
        // SAFETY: the call writes `now` and changes no action.
        check(unsafe { libc::sigaction(signal, ptr::null(), now.as_mut_ptr()) })?;
        // SAFETY: all zero is valid, and so is what the kernel writes.
        let now = unsafe { now.assume_init() }.sa_sigaction;
        let ours = on_signal as *const () as usize;
        if now != ours && now != libc::SIG_DFL && now != libc::SIG_IGN {
            let page = guide_page!("numbers");
            let message = format!("signal {signal} has a handler already: choose another signal{page}");
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        // SAFETY: the struct has numbers and optional pointers, for which all zero is valid.
        let mut action: libc::sigaction = unsafe { zeroed() };
        action.sa_sigaction = ours;
        // SA_ONSTACK: the stack of a job may be nearly full. Most system calls go on after the handler: SA_RESTART.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        // SAFETY: the handler has the type that SA_SIGINFO asks for, and does only what a signal handler may do.
        check(unsafe { libc::sigaction(signal, &action, ptr::null_mut()) })?;
        Ok(Interrupt(signal))
    }

    /// Stops the thread, calls `look` with its registers, and lets the thread go on. `None` if the thread does not stop
    /// in time, or has gone on before `look` was done.
    pub(crate) fn stop<R>(self, thread: ThreadNumber, look: impl FnOnce(Registers) -> R) -> Option<R> {
        let _alone = looking();
        let turn = (STATE.load(Ordering::Relaxed) / STATES * STATES).wrapping_add(STATES);
        THREAD.store(thread.0, Ordering::Relaxed);
        STATE.store(turn | ASKED, Ordering::Release);
        let process = std::process::id();
        // SAFETY: the signal has a handler. If the thread is gone, another thread may have its number, which stops for
        // a moment then, or the call fails.
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, process, thread.0, self.0) } == 0;
        let until = Instant::now() + LONGEST;
        let change = |from, to| {
            let changed = STATE.compare_exchange(turn | from, turn | to, Ordering::AcqRel, Ordering::Relaxed);
            changed.is_ok()
        };
        while STATE.load(Ordering::Acquire) != turn | STOPPED {
            let is_late = !sent || Instant::now() >= until;
            if is_late && change(ASKED, IDLE) {
                return None;
            }
            if STATE.load(Ordering::Relaxed) == turn | IDLE {
                return None; // the thread has waited for long enough
            }
            thread::sleep(LOOK);
        }
        let [code, stack, frame, link] = [0, 1, 2, 3].map(|n: usize| REGISTERS[n].load(Ordering::Relaxed));
        let seen = look(Registers {
            code,
            stack,
            frame,
            link,
        });
        change(STOPPED, IDLE).then_some(seen)
    }
}

/// The handler.
///
/// # Safety
///
/// Only the kernel may call this, as the handler of a signal with SA_SIGINFO.
unsafe extern "C" fn on_signal(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the call returns a number and does nothing else.
    let is_this = unsafe { libc::gettid() } == THREAD.load(Ordering::Relaxed);
    let asked = STATE.load(Ordering::Acquire);
    let turn = asked - asked % STATES;
    let change = |from, to| {
        let changed = STATE.compare_exchange(turn | from, turn | to, Ordering::AcqRel, Ordering::Relaxed);
        changed.is_ok()
    };
    if !is_this || !change(ASKED, STOPPING) {
        return;
    }
    // SAFETY: the kernel hands a valid `context` to a handler with SA_SIGINFO.
    let registers = registers(unsafe { &*context.cast() });
    for (place, register) in REGISTERS.iter().zip(registers) {
        place.store(register, Ordering::Relaxed);
    }
    STATE.store(turn | STOPPED, Ordering::Release);
    let rest = libc::timespec {
        tv_sec: 0,
        tv_nsec: LOOK.subsec_nanos().into(),
    };
    keeping_errno(|| {
        for _ in 0..LONGEST.as_nanos() / LOOK.as_nanos() {
            if STATE.load(Ordering::Acquire) != turn | STOPPED {
                break;
            }
            // SAFETY: the timespec exists, and nothing is written. The call is allowed in a signal handler.
            unsafe { libc::nanosleep(&rest, ptr::null_mut()) };
        }
    });
    change(STOPPED, IDLE); // changes nothing if the thread that looks has done so
}

#[cfg(target_arch = "x86_64")]
fn registers(context: &libc::ucontext_t) -> [usize; 4] {
    let of = |register: c_int| context.uc_mcontext.gregs[register as usize] as usize;
    let [code, stack, frame] = [libc::REG_RIP, libc::REG_RSP, libc::REG_RBP].map(of);
    [code, stack, frame, 0]
}

#[cfg(target_arch = "aarch64")]
fn registers(context: &libc::ucontext_t) -> [usize; 4] {
    let machine = &context.uc_mcontext;
    [machine.pc, machine.sp, machine.regs[29], machine.regs[30]].map(|register| register as usize)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn a_thread_stops_while_it_is_looked_at_and_goes_on() {
        let interrupt = Interrupt::by(libc::SIGPROF).unwrap();
        assert!(Interrupt::by(libc::SIGPROF).is_ok(), "the handler is ours");
        let (count, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let number = AtomicI32::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                number.store(ThreadNumber::current().0, Ordering::Relaxed);
                while !stop.load(Ordering::Relaxed) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
            while count.load(Ordering::Relaxed) == 0 {
                thread::yield_now();
            }
            let counted = || count.load(Ordering::Relaxed);
            let look = |registers: Registers| {
                let before = counted();
                thread::sleep(Duration::from_millis(2));
                (registers, before, counted())
            };
            let thread = ThreadNumber(number.load(Ordering::Relaxed));
            let (registers, before, after) = interrupt.stop(thread, look).unwrap();
            assert_eq!(before, after, "it stands still");
            assert!(registers.code != 0 && registers.stack != 0);
            while counted() == after {
                thread::yield_now();
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(
            interrupt.stop(ThreadNumber(i32::MAX), |_| ()).is_none(),
            "there is no such thread"
        );
    }
}
