//! What one operation makes the processor do, counted instead of timed: a child process runs instruction by
//! instruction.
//!
//! ```text
//!   this process                          child: the same program
//!   spawn, traced  ────────────────────>  prepare, run the candidate once
//!                                         stop
//!   single step until the next stop       run the candidate, n operations
//!                                         stop
//! ```
//!
//! This is done with n and with 2n operations. The difference is n operations, without what surrounds them. It needs no
//! performance counters, which virtual machines rarely have, and the numbers are the same on a busy machine.
//!
//! A model of the processor's prediction counts the returns: a stack of the last [`RETURN_STACK`] return addresses. A
//! return to another address than the one on top is mispredicted, which costs a processor 10 to 20 cycles.

use std::collections::HashMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::ptr;

use crate::peer::Absent;

/// Entries of the return-address predictor: 32 on current AMD processors, 16 or more on Intel's.
const RETURN_STACK: usize = 32;

/// The counts between two stops, or for each operation.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) instructions: f64,
    /// Returns that a processor mispredicts.
    pub(crate) mispredicted: f64,
    pub(crate) system_calls: f64,
    pub(crate) allocations: f64,
}

const RUNS_FOR_SYSTEM_CALLS: usize = 5;

/// The counts for one operation of the candidate that `child` runs. `child(n)` gives the arguments for n operations.
///
/// System calls are counted in runs of their own, at full speed. A scheduler asks the kernel when some time has passed,
/// which would be often while each instruction is stepped through. It does so in a run at full speed, too, if that run
/// meets a tick of the clock. This only adds calls, so the fewest of several runs count. (With one run, a tick among
/// the n operations and none among the 2n gave -0.10 calls for each.)
pub(crate) fn per_operation(child: impl Fn(u64) -> Vec<String>, n: u64) -> Result<Counts, Absent> {
    let both = |n: u64| -> io::Result<Counts> {
        let mut counts = run(&child(n), step)?;
        counts.system_calls = f64::INFINITY;
        for _ in 0..RUNS_FOR_SYSTEM_CALLS {
            let calls = run(&child(n), count_system_calls)?.system_calls;
            counts.system_calls = counts.system_calls.min(calls);
        }
        Ok(counts)
    };
    // Only the first line, for a table: a child that fails may print more.
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
        mispredicted: each(twice.mispredicted, once.mispredicted),
        system_calls: each(twice.system_calls, once.system_calls),
        allocations: each(twice.allocations, once.allocations),
    })
}

/// In the child: tells the tracer that the operations begin, or have ended.
pub(crate) fn mark() {
    // SAFETY: the call stops this thread until the tracer continues it, and has no effect on memory.
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
    // SAFETY: this request ignores the other arguments, and has no effect on memory.
    let failed = unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
    if failed == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Follows the child from its first stop to its second. The child is not traced after that.
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

/// Counts every system call until the next stop. Each stops the child twice: when it enters the kernel and when it
/// leaves it.
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

/// Counts every instruction until the next stop.
fn step(pid: libc::pid_t) -> io::Result<Counts> {
    let mut counts = Counts::default();
    let mut returns = ReturnStack::default();
    let mut kinds: HashMap<u64, Kind> = HashMap::new(); // by address: loops run the same instructions again
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
            Kind::Call => returns.call(request(libc::PTRACE_PEEKDATA, pid, at.rsp, 0)? as u64),
            Kind::Return => counts.mispredicted += f64::from(u8::from(!returns.ret(at.rip))),
            Kind::Other => {}
        }
    }
}

fn unexpected(signal: i32) -> io::Error {
    io::Error::other(format!("the child got signal {signal}"))
}

/// Adds the allocations, which the child has counted and prints.
fn finish(child: Child, counts: Counts) -> io::Result<Counts> {
    let output = child.wait_with_output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let allocations = printed
        .trim()
        .parse()
        .map_err(|_| io::Error::other(format!("the child printed `{printed}`")))?;
    Ok(Counts { allocations, ..counts })
}

/// A kind of instruction.
#[derive(Clone, Copy)]
enum Kind {
    Call,
    Return,
    Other,
}

impl Kind {
    /// The kind by the first bytes of the code. Prefixes of a call or a return (`notrack`, `repz`, `rex`) are skipped.
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

/// The return addresses that a processor remembers. A new one overwrites the oldest.
#[derive(Default)]
struct ReturnStack {
    ring: [u64; RETURN_STACK],
    top: usize,
}

impl ReturnStack {
    fn call(&mut self, back: u64) {
        self.top = (self.top + 1) % RETURN_STACK;
        self.ring[self.top] = back;
    }

    /// Whether the return to `target` is predicted.
    fn ret(&mut self, target: u64) -> bool {
        let predicted = self.ring[self.top];
        self.top = (self.top + RETURN_STACK - 1) % RETURN_STACK;
        predicted == target
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
    // SAFETY: the request has succeeded and has filled the struct.
    Ok(unsafe { registers.assume_init() })
}

/// Makes a request. Only `PEEK*` give a value, and it is never -1 where code or a stack is.
fn request(request: libc::c_uint, pid: libc::pid_t, address: u64, data: u64) -> io::Result<libc::c_long> {
    let (address, data) = (address as *mut libc::c_void, data as *mut libc::c_void);
    // SAFETY: `pid` is a stopped child that this process traces, and these requests write to no memory of this process.
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
    fn a_return_is_predicted_by_the_last_call() {
        let mut returns = ReturnStack::default();
        returns.call(1);
        returns.call(2);
        assert!(returns.ret(2));
        assert!(!returns.ret(7), "the call before came from 1");
        assert!(!returns.ret(1), "the prediction was used already");
    }
}
