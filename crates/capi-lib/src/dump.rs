//! A dump of the paused jobs, on a signal that the environment chooses: for the operator of a C program.
//!
//! ```text
//!   ASYNCJOB_DUMP_SIGNAL=USR2     the signal: a name, with or without SIG, or a number
//!   ASYNCJOB_DUMP_FILE=/a/path    where the dump goes; without it, to stderr
//! ```
//!
//! The environment is looked at once, when the process starts its first job. Without the first variable nothing is done
//! then and nothing later. With it, a thread waits for the signal, reads the stacks of the jobs from outside and
//! writes. The threads of the program take no part, and no code runs in a signal handler but that which wakes the
//! thread.

use std::env;
use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem;

use asyncjob::insight;
use parking_lot::Mutex;

use crate::slots;

const SIGNAL: &str = "ASYNCJOB_DUMP_SIGNAL";
const FILE: &str = "ASYNCJOB_DUMP_FILE";

/// Does what the environment asks for, at the first call. Problems are reported on stderr, and stop nothing.
pub(crate) fn arrange() {
    static ARRANGED: Mutex<bool> = Mutex::new(false);
    // Whoever starts a program that runs with the rights of another user may not choose a file for it to write.
    if mem::replace(&mut *ARRANGED.lock(), true) || is_privileged() {
        return;
    }
    let Ok(signal) = env::var(SIGNAL) else { return };
    if let Err(problem) = dump_on(&signal) {
        complain(&format!("{SIGNAL}={signal}: {problem}"));
    }
}

fn dump_on(signal: &str) -> io::Result<()> {
    let signal = number_of(signal).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "no signal has this name: write USR2, for instance",
        )
    })?;
    // Opened now: a server may be confined to a directory later.
    let mut file = env::var_os(FILE)
        .map(|path| OpenOptions::new().append(true).create(true).open(path))
        .transpose()?;
    let report = move |dump: insight::Dump| {
        if let Err(problem) = write(&dump, file.as_mut()) {
            complain(&format!("the dump could not be written: {problem}"));
        }
    };
    mem::forget(insight::on_signal(signal, report)?); // for the life of the process
    Ok(())
}

/// Writes the dump in one piece.
fn write(dump: &insight::Dump, file: Option<&mut File>) -> io::Result<()> {
    let mut text = format!("{dump}\n");
    let forgotten = slots::forgotten_jobs();
    if forgotten > 0 {
        text += &format!("{forgotten} paused jobs have lost their wait ctx: ASYNC_WAIT_CTX_free was called for it\n");
    }
    match file {
        Some(file) => file.write_all(text.as_bytes()),
        None => io::stderr().write_all(text.as_bytes()),
    }
}

fn complain(problem: &str) {
    let _ = writeln!(io::stderr(), "asyncjob: {problem}");
}

fn is_privileged() -> bool {
    // SAFETY: the call takes no pointers.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// The number of a signal: `USR2`, `SIGUSR2`, `RTMIN+3`, `12`.
fn number_of(name: &str) -> Option<c_int> {
    const NAMES: &[(&str, c_int)] = &[
        ("HUP", libc::SIGHUP),
        ("QUIT", libc::SIGQUIT),
        ("TRAP", libc::SIGTRAP),
        ("USR1", libc::SIGUSR1),
        ("USR2", libc::SIGUSR2),
        ("URG", libc::SIGURG),
        ("IO", libc::SIGIO),
        ("PWR", libc::SIGPWR),
        ("WINCH", libc::SIGWINCH),
        ("XCPU", libc::SIGXCPU),
    ];
    let name = name.strip_prefix("SIG").unwrap_or(name);
    if let Some(above) = name.strip_prefix("RTMIN") {
        let above = match above.strip_prefix('+') {
            Some(above) => above.parse::<c_int>().ok().filter(|above| (0..=99).contains(above))?,
            None if above.is_empty() => 0,
            None => return None,
        };
        return Some(libc::SIGRTMIN() + above).filter(|signal| *signal <= libc::SIGRTMAX());
    }
    let named = NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number);
    named.or_else(|| {
        name.parse()
            .ok()
            .filter(|number| (1..=libc::SIGRTMAX()).contains(number))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_has_a_name_or_a_number() {
        let cases = [
            ("USR2", Some(libc::SIGUSR2)),
            ("SIGUSR2", Some(libc::SIGUSR2)),
            ("12", Some(12)),
            ("RTMIN", Some(libc::SIGRTMIN())),
            ("SIGRTMIN+3", Some(libc::SIGRTMIN() + 3)),
            ("RTMIN+99", None),
            ("RTMIN3", None),
            ("0", None),
            ("-1", None),
            ("1000", None),
            ("", None),
            ("usr2", None),
        ];
        for (name, number) in cases {
            assert_eq!(number_of(name), number, "{name}");
        }
    }
}
