//! The report of a stack overflow.
//!
//! ```text
//!   touch of a guard --> SIGSEGV --> on_fault, on the alternate signal stack of the thread
//!                                      in a guard of a slab? --> name the job on stderr (on the report's own stack),
//!                                                                die by the same signal
//!                                      anywhere else         --> the handler that was installed before
//! ```
//!
//! Only [`install`] installs the handler: a program that links this library keeps its signals as they are.
//! [`arm_thread`] gives an alternate signal stack to each thread that runs jobs and has none. std gives one to the
//! threads that it starts.
//!
//! Everything that [`on_fault`] calls runs in a signal handler: it may not allocate, lock, or use a thread-local that
//! has a destructor.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::fmt::{self, Write};
use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::ptr;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, OnceLock};

use corosensei::stack::StackPointer;

use super::depth;
use super::fork::{lock, prepare_for_forks};
use super::header::StackHeader;
use super::memory::{self, Range, page};
use super::slab::{self, Slab};
use crate::sys::check;

#[cfg(not(asyncjob_portable))]
mod linux;
#[cfg(asyncjob_portable)]
mod portable;

#[cfg(not(asyncjob_portable))]
use linux as system;
#[cfg(asyncjob_portable)]
use portable as system;

/// Installs a handler for `SIGSEGV` and `SIGBUS` that names the job whose stack has overflowed. It is process-wide.
///
/// The process still dies by the signal, with the core dump that it would have without the handler. A fault that is not
/// in the guard of a job's stack goes to the handler that was installed before, with the signal mask of that handler. A
/// second call does nothing. Call the function once, before or after your threads are started.
///
/// ```
/// asyncjob::stack::install_overflow_handler()?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
///
/// When there is no memory for the stack on which the report is made (64 KiB), or the kernel refuses the handler.
pub fn install() -> io::Result<()> {
    prepare_for_forks();
    let mut installed = lock(&INSTALLED);
    if !*installed {
        page(); // asks the system now, so that the handler does not have to
        if REPORT_STACK.get().is_none() {
            let start = memory::map(REPORT_STACK_SIZE)?;
            let _ = REPORT_STACK.set(Range {
                start,
                len: REPORT_STACK_SIZE,
            });
        }
        replace(libc::SIGSEGV, &BEFORE_SEGV)?;
        replace(libc::SIGBUS, &BEFORE_BUS)?;
        *installed = true;
    }
    Ok(())
}

/// Whether the handler is installed. The lock is held while that is done, and while the process forks.
static INSTALLED: Mutex<bool> = Mutex::new(false);

/// The lock of this file: see [`super::fork`].
pub(super) type Held = MutexGuard<'static, bool>;

pub(super) fn hold() -> Held {
    lock(&INSTALLED)
}

/// The actions that were installed before this handler. They are set before the handler can run, which reads them.
static BEFORE_SEGV: OnceLock<libc::sigaction> = OnceLock::new();
static BEFORE_BUS: OnceLock<libc::sigaction> = OnceLock::new();

fn replace(signal: c_int, before: &OnceLock<libc::sigaction>) -> io::Result<()> {
    before.get_or_init(|| current_action(signal));
    // SAFETY: the struct has numbers and optional pointers, for which all zero is valid.
    let mut action: libc::sigaction = unsafe { zeroed() };
    action.sa_sigaction = on_fault as *const () as usize;
    // SA_NODEFER: the handler that `on_fault` calls may fault itself, and expects to get that signal as well.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
    // SAFETY: the handler has the type that SA_SIGINFO asks for, and does only what a signal handler may do.
    check(unsafe { libc::sigaction(signal, &action, ptr::null_mut()) }).map(drop)
}

/// What is installed for the signal.
fn current_action(signal: c_int) -> libc::sigaction {
    let mut now = MaybeUninit::zeroed();
    // SAFETY: the call writes `now` and changes no action. If it fails, the zeros stay, which mean the default action.
    unsafe { libc::sigaction(signal, ptr::null(), now.as_mut_ptr()) };
    // SAFETY: all zero is valid, and so is what the kernel writes.
    unsafe { now.assume_init() }
}

/// The handler.
///
/// # Safety
///
/// Only the kernel may call this, as the handler of a signal with SA_SIGINFO.
unsafe extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel hands a valid `info` to a handler with SA_SIGINFO.
    let fault = unsafe { &*info };
    // With any other code a process has sent the signal, and the address means nothing.
    if system::is_fault(fault.si_code) {
        // SAFETY: the signal is a fault, which has an address.
        let address = unsafe { fault.si_addr() } as usize;
        if let Some(hit) = Hit::at(address) {
            // SAFETY: the kernel hands a valid `context` to a handler with SA_SIGINFO.
            report(&hit, unsafe { system::stack_pointer(context) });
            die_by(signal);
            return;
        }
    }
    let before = if signal == libc::SIGBUS {
        &BEFORE_BUS
    } else {
        &BEFORE_SEGV
    };
    match before.get() {
        // SAFETY: this action was installed for `signal` before, and the arguments are those of the kernel.
        Some(before) => unsafe { chain(before, signal, info, context) },
        None => die_by(signal),
    }
}

/// Prints the report, on a stack of its own. The alternate stack of a thread of std has 8 KiB, and the kernel needs
/// half of it for the registers of a large processor.
fn report(hit: &Hit, stack_pointer: usize) {
    static REPORTER: system::AtomicThreadId = system::AtomicThreadId::new(0);
    let myself = system::thread_id();
    match REPORTER.compare_exchange(0, myself, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            if let Some(memory) = REPORT_STACK.get() {
                corosensei::on_stack(ReportStack(*memory), || hit.print(stack_pointer));
            }
        }
        Err(reporter) if reporter == myself => {} // the report itself has faulted, so there is none
        Err(_) => loop {
            // Another thread makes its report and ends the process.
            // SAFETY: the call waits for a signal and does nothing else.
            unsafe { libc::pause() };
        },
    }
}

/// The stack of the one report of the process.
static REPORT_STACK: OnceLock<Range> = OnceLock::new();
/// The bytes of that stack.
const REPORT_STACK_SIZE: usize = 64 << 10;

/// [`REPORT_STACK`], as corosensei sees it.
struct ReportStack(Range);

// SAFETY: the range is a mapping that is never unmapped, that one thread uses once, and that is much larger than a
// report needs. It has no guard, which the report does not need: it does not recurse.
unsafe impl corosensei::stack::Stack for ReportStack {
    fn base(&self) -> StackPointer {
        StackPointer::new(self.0.start + self.0.len).expect("a mapping is not at address 0")
    }

    fn limit(&self) -> StackPointer {
        StackPointer::new(self.0.start).expect("a mapping is not at address 0")
    }
}

/// Restores the default action of the signal. When the handler returns, the same instruction faults again and ends the
/// process.
fn die_by(signal: c_int) {
    // SAFETY: all zero is valid. It means the default action, without flags and mask.
    let default: libc::sigaction = unsafe { zeroed() };
    // SAFETY: the default action runs no code of the process.
    unsafe { libc::sigaction(signal, &default, ptr::null_mut()) };
}

/// Does what the action that was installed before does.
///
/// # Safety
///
/// `before` must be an action that was installed for `signal`. `info` and `context` must be what the kernel has handed
/// to the handler of this signal.
unsafe fn chain(before: &libc::sigaction, signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    match before.sa_sigaction {
        // To ignore a fault means to die by it, as the kernel does not let a fault be ignored.
        libc::SIG_DFL | libc::SIG_IGN => die_by(signal),
        handler => {
            // The signals that the handler asked to block. The kernel restores the mask of the thread on return.
            // SAFETY: the set is valid and is never freed.
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &before.sa_mask, ptr::null_mut()) };
            if before.sa_flags & libc::SA_SIGINFO != 0 {
                type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
                // SAFETY: SA_SIGINFO says that the handler has this type.
                let handler: Handler = unsafe { std::mem::transmute(handler) };
                handler(signal, info, context);
            } else {
                // SAFETY: a handler without SA_SIGINFO has this type.
                let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
                handler(signal);
            }
        }
    }
}

/// A guard that was touched.
struct Hit {
    slab: &'static Slab,
    index: usize,
}

impl Hit {
    fn at(address: usize) -> Option<Hit> {
        slab::all().find_map(|slab| {
            let index = slab.index_at(address)?;
            (address - slab.guard(index).start < slab.guard(index).len).then_some(Hit { slab, index })
        })
    }

    /// Writes one message to stderr.
    fn print(&self, stack_pointer: usize) {
        let mut text = Text::new();
        let whole = self.slab.whole(self.index);
        let size = self.slab.depot.spec.size.bytes();
        // The thread runs on this stack if its stack pointer is in the slot, the guard included.
        let overflowed = stack_pointer.wrapping_sub(whole.start) <= whole.len;
        let _ = if overflowed {
            // SAFETY: the thread runs on this stack, so the slot is in use and its header exists.
            let header = unsafe { &*self.slab.header(self.index) };
            self.overflow(&mut text, header, size)
        } else {
            writeln!(
                text,
                "\nasyncjob: something other than its job touched the guard of a stack of {size} bytes: a stray \
                 pointer, not an overflow."
            )
        };
        text.print();
    }

    fn overflow(&self, text: &mut Text, header: &StackHeader, size: usize) -> fmt::Result {
        write!(text, "\nasyncjob: job {} ", header.id.load(Ordering::Relaxed))?;
        let name_len = header.name_len.load(Ordering::Relaxed).min(100);
        if name_len > 0 {
            text.write_str("\"")?;
            // SAFETY: `set_name` stored both. The job runs, and its name is not freed before `clear_name` has cleared
            // the length.
            text.bytes(unsafe { std::slice::from_raw_parts(header.name.load(Ordering::Relaxed), name_len) });
            text.write_str("\" ")?;
        }
        writeln!(
            text,
            "has overflowed its stack of {size} bytes (thread \"{}\"). Other jobs on stacks of this size have used at \
             most {} bytes. Give it a larger StackSize.{}",
            Name(&system::thread_name()),
            self.deepest_peer(),
            guide_page!("stack-size"),
        )
    }

    /// The high-water mark of other jobs on stacks of this size and configuration.
    fn deepest_peer(&self) -> usize {
        let past = self.slab.depot.deepest.load(Ordering::Relaxed);
        let peers = slab::all().filter(|slab| ptr::eq(slab.depot, self.slab.depot));
        let slots = peers.flat_map(|slab| (0..slab.slots()).map(move |index| (slab, index)));
        let others = slots
            .take(MAX_PEERS)
            .filter(|(slab, index)| !(ptr::eq(*slab, self.slab) && *index == self.index));
        let now = others
            .map(|(slab, index)| depth::resident_depth(slab.stack(index)))
            .max();
        past.max(now.unwrap_or(0))
    }
}

/// How many stacks a report looks at. It bounds the time that a dying process takes.
const MAX_PEERS: usize = 4096;

/// A message of bounded length, on the stack of the report.
struct Text {
    bytes: [u8; 640],
    len: usize,
}

impl Text {
    fn new() -> Self {
        Self {
            bytes: [0; 640],
            len: 0,
        }
    }

    fn bytes(&mut self, more: &[u8]) {
        let len = more.len().min(self.bytes.len() - self.len);
        self.bytes[self.len..self.len + len].copy_from_slice(&more[..len]);
        self.len += len;
    }

    fn print(&self) {
        // The result does not matter: a dying process has no other place for its message.
        // SAFETY: the pointer and the length are those of initialised bytes.
        unsafe { libc::write(libc::STDERR_FILENO, self.bytes.as_ptr().cast(), self.len) };
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes(text.as_bytes());
        Ok(())
    }
}

/// The name of a thread, with zeros after it.
struct Name<'a>(&'a [u8]);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        f.write_str(std::str::from_utf8(&self.0[..len]).unwrap_or("?"))
    }
}

/// Gives this thread an alternate signal stack until it exits, if it has none. A pool calls this when it takes its
/// first stack. A thread that exits and has destroyed its thread-locals gets none.
pub(crate) fn arm_thread() {
    let _ = ALTERNATE.try_with(AlternateStack::arm);
}

thread_local! {
    static ALTERNATE: AlternateStack = const { AlternateStack { mapping: Cell::new(None) } };
}

/// The alternate signal stack of a thread that had none.
struct AlternateStack {
    mapping: Cell<Option<Range>>,
}

impl AlternateStack {
    fn arm(&self) {
        if !has_alternate_stack() {
            self.mapping.set(make_alternate_stack());
        }
    }
}

impl Drop for AlternateStack {
    fn drop(&mut self) {
        let Some(mapping) = self.mapping.take() else {
            return;
        };
        let now = alternate_stack();
        if (mapping.start..mapping.start + mapping.len).contains(&(now.ss_sp as usize)) {
            let none = libc::stack_t {
                ss_sp: ptr::null_mut(),
                ss_flags: libc::SS_DISABLE,
                ss_size: 0,
            };
            // SAFETY: the thread does not run on its alternate stack, as no signal handler runs thread-local
            // destructors.
            unsafe { libc::sigaltstack(&none, ptr::null_mut()) };
        }
        // SAFETY: `make_alternate_stack` mapped the range, and it is not the alternate stack of the thread any more.
        unsafe { memory::unmap(mapping) };
    }
}

fn has_alternate_stack() -> bool {
    alternate_stack().ss_flags & libc::SS_DISABLE == 0
}

fn alternate_stack() -> libc::stack_t {
    let mut now = libc::stack_t {
        ss_sp: ptr::null_mut(),
        ss_flags: libc::SS_DISABLE,
        ss_size: 0,
    };
    // SAFETY: the call writes `now` and changes no stack.
    unsafe { libc::sigaltstack(ptr::null(), &mut now) };
    now
}

/// Maps an alternate signal stack with a guard below it, and gives it to this thread. It is large enough for the frame
/// that the kernel writes, whose size depends on the vector registers, and for the handler that runs there.
///
/// Returns `None` when there is no memory. An overflow then kills the process without a message.
fn make_alternate_stack() -> Option<Range> {
    let size = (system::signal_frame_size() + (32 << 10)).next_multiple_of(page());
    let mapping = Range {
        start: memory::map(page() + size).ok()?,
        len: page() + size,
    };
    let guard = Range { len: page(), ..mapping };
    // SAFETY: the range was just mapped, and nothing uses it.
    let guarded = unsafe { memory::protect(guard, false) };
    let stack = libc::stack_t {
        ss_sp: (mapping.start + page()) as *mut _,
        ss_flags: 0,
        ss_size: size,
    };
    // SAFETY: the memory is writable and stays mapped until `drop` has taken it away from the thread.
    if guarded.is_err() || unsafe { libc::sigaltstack(&stack, ptr::null_mut()) } != 0 {
        // SAFETY: the range was mapped above, and is not the alternate stack of the thread.
        unsafe { memory::unmap(mapping) };
        return None;
    }
    Some(mapping)
}
