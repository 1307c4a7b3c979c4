//! What happens when a job runs off the end of its stack.
//!
//! ```text
//!   touch of a guard --> SIGSEGV --> on_fault, on the alternate stack of the thread
//!                                      in a guard of ours? --> name the job on stderr (on a stack of the report's
//!                                                              own), die by the same signal
//!                                      anything else       --> the handler that was there before (std's, a JVM's, ...)
//! ```
//!
//! The handler is installed by [`install`] and nowhere else: a library that is merely linked changes no signal. The alternate
//! stack belongs to a thread: [`arm_thread`] gives one to threads that run jobs and have none (std gives one to its own
//! threads only).
//!
//! Everything below [`on_fault`] runs in a signal handler: no allocation, no lock, no thread-local with a destructor.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::fmt::{self, Write};
use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use corosensei::stack::StackPointer;
use parking_lot::Mutex;

use super::depth;
use super::header::StackHeader;
use super::memory::{self, Range, page};
use super::slab::{self, Slab};
use crate::sys::check;

/// Installs the handler for `SIGSEGV` and `SIGBUS` that names a job whose stack has overflowed, once for the process.
///
/// The process still dies, by the signal and with the core dump that it would have had without us. Faults that are not in the
/// guard of a stack of ours go to the handler that was installed before, with its own signal mask. A scheduler calls this when
/// it is built; a program that drives jobs itself calls it once, before or after its threads are started.
///
/// # Errors
///
/// When there is no memory for the stack on which the report is made (64 KiB).
///
/// ```
/// asyncjob::install_overflow_handler()?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn install() -> io::Result<()> {
    static INSTALLED: Mutex<bool> = Mutex::new(false);
    let mut installed = INSTALLED.lock();
    if !*installed {
        page(); // so that the handler does not have to ask
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

/// What was installed before us. Filled before our handler can run, read by it.
static BEFORE_SEGV: OnceLock<libc::sigaction> = OnceLock::new();
static BEFORE_BUS: OnceLock<libc::sigaction> = OnceLock::new();

fn replace(signal: c_int, before: &OnceLock<libc::sigaction>) -> io::Result<()> {
    before.get_or_init(|| action(signal));
    // SAFETY: all zero is a valid value of this struct of numbers and optional pointers.
    let mut ours: libc::sigaction = unsafe { zeroed() };
    ours.sa_sigaction = on_fault as *const () as usize;
    // SA_NODEFER: a handler called by ours may itself fault, and expects to hear of it.
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
    // SAFETY: a handler of the right shape, which keeps to what a handler may do.
    check(unsafe { libc::sigaction(signal, &ours, ptr::null_mut()) }).map(drop)
}

fn action(signal: c_int) -> libc::sigaction {
    let mut now = MaybeUninit::zeroed();
    // SAFETY: asks only; zeros, which mean the default action, stay if it should fail.
    unsafe { libc::sigaction(signal, ptr::null(), now.as_mut_ptr()) };
    // SAFETY: zeroed, then perhaps filled: valid either way.
    unsafe { now.assume_init() }
}

/// # Safety
///
/// Only the kernel may call this, as the handler of a signal.
unsafe extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel hands a valid one to a handler with SA_SIGINFO.
    let fault = unsafe { &*info };
    // Positive codes are faults; anything else is a signal that somebody sent, whose address means nothing.
    if fault.si_code > 0 {
        // SAFETY: a fault has an address.
        let address = unsafe { fault.si_addr() } as usize;
        if let Some(hit) = Hit::at(address) {
            // SAFETY: the kernel hands a valid context to a handler with SA_SIGINFO.
            report(&hit, unsafe { stack_pointer(context) });
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
        // SAFETY: this is the handler of `signal` that ours has replaced, and these are the arguments of the kernel.
        Some(before) => unsafe { chain(before, signal, info, context) },
        None => die_by(signal),
    }
}

/// Makes the report on a stack of its own: std gives its threads an alternate stack of 8 KiB, of which the kernel takes a half
/// for the registers of a large processor.
fn report(hit: &Hit, stack_pointer: usize) {
    static REPORTER: AtomicI32 = AtomicI32::new(0);
    // SAFETY: asks for a number.
    let myself = unsafe { libc::gettid() };
    match REPORTER.compare_exchange(0, myself, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            if let Some(memory) = REPORT_STACK.get() {
                corosensei::on_stack(ReportStack(*memory), || hit.print(stack_pointer));
            }
        }
        Err(reporter) if reporter == myself => {} // the report itself has faulted: die without one
        Err(_) => loop {
            // Another thread is about to end the process.
            // SAFETY: waits for a signal.
            unsafe { libc::pause() };
        },
    }
}

static REPORT_STACK: OnceLock<Range> = OnceLock::new();
const REPORT_STACK_SIZE: usize = 64 << 10;

/// Memory that only the one report of the process uses.
struct ReportStack(Range);

// SAFETY: a mapping that is never unmapped, used once, much larger than what is done on it. It needs no guard: the report does
// not recurse, and what lies below it matters to nobody in a process that dies.
unsafe impl corosensei::stack::Stack for ReportStack {
    fn base(&self) -> StackPointer {
        StackPointer::new(self.0.start + self.0.len).expect("a mapping is not at address 0")
    }

    fn limit(&self) -> StackPointer {
        StackPointer::new(self.0.start).expect("a mapping is not at address 0")
    }
}

/// Lets the signal do what it does by default: on return from the handler, the same instruction faults again.
fn die_by(signal: c_int) {
    // SAFETY: all zero: the default action, no flags, no mask.
    let default: libc::sigaction = unsafe { zeroed() };
    // SAFETY: the default action needs nothing.
    unsafe { libc::sigaction(signal, &default, ptr::null_mut()) };
}

/// Calls the handler that was installed before ours.
///
/// # Safety
///
/// `before` must be what `sigaction(2)` said of `signal`, and `info` and `context` what the kernel has handed to our handler.
unsafe fn chain(before: &libc::sigaction, signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    match before.sa_sigaction {
        // The kernel does not let a fault be ignored either.
        libc::SIG_DFL | libc::SIG_IGN => die_by(signal),
        handler => {
            // The mask that the handler asked for; the kernel restores the thread's on return.
            // SAFETY: a valid set, kept for ever.
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &before.sa_mask, ptr::null_mut()) };
            if before.sa_flags & libc::SA_SIGINFO != 0 {
                type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
                // SAFETY: SA_SIGINFO says that it has this shape.
                let handler: Handler = unsafe { std::mem::transmute(handler) };
                handler(signal, info, context);
            } else {
                // SAFETY: without SA_SIGINFO it has this one.
                let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
                handler(signal);
            }
        }
    }
}

/// A guard of ours that was touched.
struct Hit {
    slab: &'static Slab,
    slot: usize,
}

impl Hit {
    fn at(address: usize) -> Option<Hit> {
        slab::all().find_map(|slab| {
            let slot = slab.slot_of(address)?;
            (address - slab.guard(slot).start < slab.guard(slot).len).then_some(Hit { slab, slot })
        })
    }

    /// One message on stderr.
    fn print(&self, stack_pointer: usize) {
        let mut text = Text::new();
        let whole = self.slab.whole(self.slot);
        let size = self.slab.depot.spec.size.bytes();
        // A little below the slot as well: the frame that skipped the guard may have moved the pointer already.
        let overflowed = stack_pointer.wrapping_sub(whole.start) <= whole.len;
        let _ = if overflowed {
            // SAFETY: its job is running, so the slot is out and its plate is written.
            let header = unsafe { &*self.slab.header(self.slot) };
            self.overflow(&mut text, header, size)
        } else {
            writeln!(
                text,
                "\nasyncjob: something other than its job touched the guard of a stack of {size} bytes: a stray pointer, not an \
                 overflow."
            )
        };
        text.print();
    }

    fn overflow(&self, text: &mut Text, header: &StackHeader, size: usize) -> fmt::Result {
        write!(text, "\nasyncjob: job {} ", header.id.load(Ordering::Relaxed))?;
        let name_len = header.name_len.load(Ordering::Relaxed).min(100);
        if name_len > 0 {
            text.write_str("\"")?;
            // SAFETY: the job set both and clears the length before the name goes; it is running.
            text.bytes(unsafe { std::slice::from_raw_parts(header.name.load(Ordering::Relaxed), name_len) });
            text.write_str("\" ")?;
        }
        writeln!(
            text,
            "has overflowed its stack of {size} bytes (thread \"{}\"). Other jobs on stacks of this size have used at most {} bytes. \
             Give it a larger StackSize.",
            ThreadName::current(),
            self.deepest_peer(),
        )
    }

    /// The high-water mark of the others on stacks of this kind.
    fn deepest_peer(&self) -> usize {
        let past = self.slab.depot.deepest.load(Ordering::Relaxed);
        let peers = slab::all().filter(|slab| ptr::eq(slab.depot, self.slab.depot));
        let slots = peers.flat_map(|slab| (0..slab.slots()).map(move |slot| (slab, slot)));
        let others = slots
            .take(MOST_PEERS)
            .filter(|(slab, slot)| !(ptr::eq(*slab, self.slab) && *slot == self.slot));
        let now = others.map(|(slab, slot)| depth::resident_depth(slab.stack(slot))).max();
        past.max(now.unwrap_or(0))
    }
}

/// A dying process looks at no more stacks than this.
const MOST_PEERS: usize = 4096;

/// Where the stack pointer stood at the fault.
///
/// # Safety
///
/// `context` must be what the kernel has handed to a handler with SA_SIGINFO.
unsafe fn stack_pointer(context: *mut c_void) -> usize {
    // SAFETY: the caller's promise.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    #[cfg(target_arch = "x86_64")]
    return context.uc_mcontext.gregs[libc::REG_RSP as usize] as usize;
    #[cfg(target_arch = "aarch64")]
    return context.uc_mcontext.sp as usize;
}

/// A message of bounded length, in no memory but the handler's.
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
        // SAFETY: the bytes exist. What could not be written is lost: there is nobody to tell.
        unsafe { libc::write(libc::STDERR_FILENO, self.bytes.as_ptr().cast(), self.len) };
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes(text.as_bytes());
        Ok(())
    }
}

/// As the kernel knows it.
struct ThreadName([u8; 16]);

impl ThreadName {
    fn current() -> Self {
        let mut name = [0; 16];
        // SAFETY: PR_GET_NAME writes at most 16 bytes, the last of them 0.
        unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
        Self(name)
    }
}

impl fmt::Display for ThreadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        f.write_str(std::str::from_utf8(&self.0[..len]).unwrap_or("?"))
    }
}

/// Gives this thread an alternate signal stack if it has none, until it exits. A pool calls this when it makes its first stack;
/// a thread whose locals are gone already goes without.
pub(crate) fn arm_thread() {
    let _ = ALTERNATE.try_with(AlternateStack::arm);
}

thread_local! {
    static ALTERNATE: AlternateStack = const { AlternateStack { mapping: Cell::new(None) } };
}

/// The alternate stack of a thread that had none.
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
            // SAFETY: takes the stack away from this thread, which is not in a handler.
            unsafe { libc::sigaltstack(&none, ptr::null_mut()) };
        }
        // SAFETY: ours, and no longer the thread's.
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
    // SAFETY: asks only.
    unsafe { libc::sigaltstack(ptr::null(), &mut now) };
    now
}

/// A guard below, and room for the frame that the kernel writes (larger with wide vector registers) and for our handler or the
/// one before it. Without memory for it there is none: then an overflow kills the process without a message.
fn make_alternate_stack() -> Option<Range> {
    // SAFETY: getauxval reads a constant of the process.
    let frame = unsafe { libc::getauxval(AT_MINSIGSTKSZ) } as usize;
    let room = (frame + (32 << 10)).next_multiple_of(page());
    let mapping = Range {
        start: memory::map(page() + room).ok()?,
        len: page() + room,
    };
    let guard = Range { len: page(), ..mapping };
    // SAFETY: just mapped, used by nobody.
    let guarded = unsafe { memory::protect(guard, false) };
    let stack = libc::stack_t {
        ss_sp: (mapping.start + page()) as *mut _,
        ss_flags: 0,
        ss_size: room,
    };
    // SAFETY: the memory is writable and stays mapped until the thread has given it up.
    if guarded.is_err() || unsafe { libc::sigaltstack(&stack, ptr::null_mut()) } != 0 {
        // SAFETY: mapped above, and not in use.
        unsafe { memory::unmap(mapping) };
        return None;
    }
    Some(mapping)
}

/// From `linux/auxvec.h`.
const AT_MINSIGSTKSZ: libc::c_ulong = 51;
