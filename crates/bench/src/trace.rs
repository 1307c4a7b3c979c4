//! What the processor does for one operation, counted instead of timed: each instruction of a child process, one by
//! one.
//!
//! ```text
//!   this process                          child: the same program
//!   spawn, traced  ────────────────────>  prepare, run the candidate once
//!                                         stop
//!   single step until the next stop       run the candidate, n operations
//!                                         stop
//! ```
//!
//! Done with n and with 2n operations: the difference is n operations, without what surrounds them. It needs no
//! performance counters, which virtual machines rarely have, and gives the same numbers on a busy machine.
//!
//! Returns are counted against a model of the processor's guess: a stack of the last [`GUESSES`] return addresses. A
//! return to another address is one that the processor has guessed wrong, which costs it 10 to 20 cycles.

use std::collections::HashMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::ptr;

use crate::peer::Absent;

/// Entries of the return-address predictor: 32 on current AMD processors, 16 or more on Intel's.
const GUESSES: usize = 32;

/// What happened between two stops, or for each operation.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) instructions: f64,
    /// Returns that went elsewhere than the last calls let a processor expect.
    pub(crate) misguessed: f64,
    pub(crate) system_calls: f64,
    pub(crate) allocations: f64,
}

/// The cost of one operation of the candidate that `child` runs: `child(n)` gives the arguments for n operations.
///
/// System calls are counted in runs of their own, at full speed: a scheduler asks the kernel also when time has passed,
/// and a stepped one is slow.
pub(crate) fn per_operation(child: impl Fn(u64) -> Vec<String>, n: u64) -> Result<Counts, Absent> {
    let both = |n: u64| -> io::Result<Counts> {
        let (steps, calls) = (run(&child(n), step)?, run(&child(n), count_system_calls)?);
        Ok(Counts {
            system_calls: calls.system_calls,
            ..steps
        })
    };
    // One line, for a table: what a child says when it dies can be long.
    let absent = |e: io::Error| {
        Absent::new(format!(
            "cannot trace: {}",
            e.to_string().lines().next().unwrap_or_default()
        ))
    };
    let [once, twice] = [n, 2 * n].map(|n| both(n).map_err(absent));
    let (once, twice) = (once?, twice?);
    let each = |twice: f64, once: f64| (twice - once) / n as f64;
    Ok(Counts {
        instructions: each(twice.instructions, once.instructions),
        misguessed: each(twice.misguessed, once.misguessed),
        system_calls: each(twice.system_calls, once.system_calls),
        allocations: each(twice.allocations, once.allocations),
    })
}

/// In the child: tells the tracer that what counts begins, or has ended.
pub(crate) fn mark() {
    // SAFETY: stops this thread until the tracer lets it go on; has no effect on memory.
    unsafe { libc::raise(libc::SIGSTOP) };
}

fn run(args: &[String], follow: fn(libc::pid_t) -> io::Result<Counts>) -> io::Result<Counts> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(args).stdout(Stdio::piped());
    // SAFETY: between fork and exec only this one system call is made.
    unsafe { command.pre_exec(trace_me) };
    let mut child = command.spawn()?;
    let counts = between_stops(&child, follow);
    if counts.is_err() {
        let _ = child.kill();
    }
    let counts = counts?;
    finish(child, counts)
}

fn trace_me() -> io::Result<()> {
    // SAFETY: asks to be traced by the parent; the other arguments are ignored.
    let failed = unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
    if failed == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// From the exec to the second stop; the child runs on by itself then.
fn between_stops(child: &Child, follow: fn(libc::pid_t) -> io::Result<Counts>) -> io::Result<Counts> {
    let pid = child.id() as libc::pid_t;
    wait_for(pid, libc::SIGTRAP)?; // the exec
    request(libc::PTRACE_SETOPTIONS, pid, 0, libc::PTRACE_O_TRACESYSGOOD as u64)?;
    request(libc::PTRACE_CONT, pid, 0, 0)?;
    wait_for(pid, libc::SIGSTOP)?;
    let counts = follow(pid)?;
    request(libc::PTRACE_DETACH, pid, 0, 0)?;
    Ok(counts)
}

/// Every system call until the next stop. Each stops the child twice: when it enters the kernel and when it leaves it.
fn count_system_calls(pid: libc::pid_t) -> io::Result<Counts> {
    const SYSTEM_CALL: i32 = libc::SIGTRAP | 0x80; // PTRACE_O_TRACESYSGOOD
    let mut stops = 0.0;
    loop {
        request(libc::PTRACE_SYSCALL, pid, 0, 0)?;
        match wait(pid)? {
            SYSTEM_CALL => stops += 1.0,
            libc::SIGSTOP => break,
            other => return Err(unexpected(other)),
        }
    }
    Ok(Counts {
        system_calls: stops / 2.0,
        ..Counts::default()
    })
}

/// Every instruction until the next stop.
fn step(pid: libc::pid_t) -> io::Result<Counts> {
    let mut counts = Counts::default();
    let mut guesses = Guesses::default();
    let mut kinds: HashMap<u64, Kind> = HashMap::new(); // loops run the same instructions again and again
    let mut at = registers(pid)?;
    loop {
        let kind = match kinds.get(&at.rip) {
            Some(kind) => *kind,
            None => Kind::of(request(libc::PTRACE_PEEKTEXT, pid, at.rip, 0)?.to_le_bytes()),
        };
        kinds.insert(at.rip, kind);
        request(libc::PTRACE_SINGLESTEP, pid, 0, 0)?;
        match wait(pid)? {
            libc::SIGTRAP => {}
            libc::SIGSTOP => return Ok(counts),
            other => return Err(unexpected(other)),
        }
        at = registers(pid)?;
        counts.instructions += 1.0;
        match kind {
            Kind::Call => guesses.call(request(libc::PTRACE_PEEKDATA, pid, at.rsp, 0)? as u64),
            Kind::Return => counts.misguessed += f64::from(u8::from(!guesses.ret(at.rip))),
            Kind::Other => {}
        }
    }
}

fn unexpected(signal: i32) -> io::Error {
    io::Error::other(format!("the child got signal {signal}"))
}

/// The child says itself how often it allocated.
fn finish(child: Child, counts: Counts) -> io::Result<Counts> {
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let allocations = said
        .trim()
        .parse()
        .map_err(|_| io::Error::other(format!("the child said `{said}`")))?;
    Ok(Counts { allocations, ..counts })
}

/// The kinds of instruction that are told apart.
#[derive(Clone, Copy)]
enum Kind {
    Call,
    Return,
    Other,
}

impl Kind {
    /// By its first bytes. Prefixes before a call or a return occur (`notrack`, `repz`, `rex`) and are skipped.
    fn of(code: [u8; 8]) -> Self {
        let mut code = &code[..];
        while let [0x3e | 0xf2 | 0xf3 | 0x40..=0x4f, rest @ ..] = code {
            code = rest;
        }
        match code {
            [0xe8, ..] => Kind::Call,
            [0xff, modrm, ..] if modrm >> 3 & 7 == 2 => Kind::Call,
            [0xc3 | 0xc2, ..] => Kind::Return,
            _ => Kind::Other,
        }
    }
}

/// The return addresses that a processor remembers: the oldest is overwritten, an empty one guesses nothing.
#[derive(Default)]
struct Guesses {
    ring: [u64; GUESSES],
    top: usize,
}

impl Guesses {
    fn call(&mut self, back: u64) {
        self.top = (self.top + 1) % GUESSES;
        self.ring[self.top] = back;
    }

    /// Whether the return to `went` was expected.
    fn ret(&mut self, went: u64) -> bool {
        let guess = self.ring[self.top];
        self.top = (self.top + GUESSES - 1) % GUESSES;
        guess == went
    }
}

fn registers(pid: libc::pid_t) -> io::Result<libc::user_regs_struct> {
    let mut registers = std::mem::MaybeUninit::uninit();
    let nothing = ptr::null_mut::<libc::c_void>();
    // SAFETY: the pointer is to memory of the type that this request fills.
    let failed = unsafe { libc::ptrace(libc::PTRACE_GETREGS, pid, nothing, registers.as_mut_ptr()) };
    if failed == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the request succeeded and has filled it.
    Ok(unsafe { registers.assume_init() })
}

/// Only `PEEK*` give a value; their words are never -1 where code or a stack is.
fn request(request: libc::c_uint, pid: libc::pid_t, address: u64, data: u64) -> io::Result<libc::c_long> {
    let (address, data) = (address as *mut libc::c_void, data as *mut libc::c_void);
    // SAFETY: `pid` is a stopped child that this process traces; these requests write to no memory of ours.
    let value = unsafe { libc::ptrace(request, pid, address, data) };
    if value == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(value)
    }
}

fn wait_for(pid: libc::pid_t, signal: i32) -> io::Result<()> {
    match wait(pid)? {
        got if got == signal => Ok(()),
        got => Err(io::Error::other(format!(
            "the child stopped with signal {got} instead of {signal}"
        ))),
    }
}

/// The signal that the child stopped with.
fn wait(pid: libc::pid_t) -> io::Result<i32> {
    let mut status = 0;
    // SAFETY: the pointer is to writable memory.
    if unsafe { libc::waitpid(pid, &mut status, libc::__WALL) } == -1 {
        return Err(io::Error::last_os_error());
    }
    match libc::WIFSTOPPED(status) {
        true => Ok(libc::WSTOPSIG(status)),
        false => Err(io::Error::other("the child ended before its second stop")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_returns_are_told_from_other_code() {
        let is_call = |code| matches!(Kind::of(code), Kind::Call);
        assert!(is_call([0xe8, 1, 2, 3, 4, 0, 0, 0])); // call rel32
        assert!(is_call([0xff, 0x15, 1, 2, 3, 4, 0, 0])); // call [rip + x]
        assert!(is_call([0x41, 0xff, 0xd4, 0, 0, 0, 0, 0])); // call r12
        assert!(!is_call([0xff, 0x25, 1, 2, 3, 4, 0, 0])); // jmp [rip + x]
        assert!(matches!(Kind::of([0xf3, 0xc3, 0, 0, 0, 0, 0, 0]), Kind::Return)); // repz ret
        assert!(matches!(Kind::of([0x0f, 0x05, 0xc3, 0, 0, 0, 0, 0]), Kind::Other)); // syscall
        assert!(matches!(Kind::of([0x48, 0x89, 0xc3, 0, 0, 0, 0, 0]), Kind::Other)); // mov rbx, rax
    }

    #[test]
    fn a_return_is_guessed_by_the_last_call() {
        let mut guesses = Guesses::default();
        guesses.call(1);
        guesses.call(2);
        assert!(guesses.ret(2));
        assert!(!guesses.ret(7), "the call before came from 1");
        assert!(!guesses.ret(1), "it was used up");
    }
}
