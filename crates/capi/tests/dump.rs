//! Promise: the operator of an unmodified C program sees its paused jobs on a signal that the environment chooses, and
//! the program goes on as if nothing had happened.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use asyncjob_testing::Watchdog;
use asyncjob_testing::tools::missing;
use support::{C_WITH_OPENSSL, OPENSSL, compile, shared_object};

/// A program with two paused jobs that sleeps until its input ends.
struct Paused {
    program: Child,
    input: Option<ChildStdin>,
    output: BufReader<std::process::ChildStdout>,
    /// What it says of its wait fd.
    fd: String,
}

impl Paused {
    fn start(signal: &str, file: Option<&Path>) -> Self {
        let mut command = Command::new(compile("tests/c/paused_for_long.c", OPENSSL));
        command
            .env("LD_PRELOAD", shared_object())
            .env("OPENSSL_CONF", "/dev/null")
            .env("ASYNCJOB_DUMP_SIGNAL", signal);
        if let Some(file) = file {
            command.env("ASYNCJOB_DUMP_FILE", file);
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut program = command.spawn().unwrap();
        let mut output = BufReader::new(program.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let fd = line
            .trim()
            .strip_prefix("paused, wait fd ")
            .unwrap_or_else(|| panic!("{line}"));
        Paused {
            input: program.stdin.take(),
            fd: fd.to_string(),
            program,
            output,
        }
    }

    fn kill(&self, signal: &str) {
        let sent = Command::new("kill")
            .args(["-s", signal, &self.program.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
    }

    /// Lets it go on to its end.
    fn end(mut self) {
        drop(self.input.take());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        assert_eq!(
            (rest.as_str(), self.program.wait().unwrap().code()),
            ("ended, 9\n", Some(0))
        );
    }
}

/// The build of the library is not what is watched.
fn watchdog() -> Watchdog {
    shared_object();
    Watchdog::new()
}

/// Checks the dump that ends with an empty line after its second job.
fn check(dump: &str, fd: &str) {
    assert!(dump.starts_with("2 jobs, 1 drivers, in "), "{dump}");
    assert!(dump.contains(&format!("waits for fd {fd} (pipe:[")), "{dump}");
    if cfg!(target_arch = "x86_64") {
        let frames = |name: &str| dump.lines().filter(|line| line.trim().starts_with(name)).count();
        assert_eq!(frames("waits_for_device"), 4, "each frame of the recursion: {dump}");
        assert_eq!((frames("signs"), frames("decrypts")), (1, 1), "{dump}");
        assert_eq!(frames("main"), 0, "that is no frame of a job: {dump}");
    }
}

#[test]
fn a_signal_writes_the_paused_jobs_to_stderr() {
    if missing(C_WITH_OPENSSL) {
        return;
    }
    let _watchdog = watchdog();
    let mut program = Paused::start("USR2", None);
    let mut errors = BufReader::new(program.program.stderr.take().unwrap());
    for _ in 0..2 {
        program.kill("USR2");
        let mut dump = String::new();
        while dump.matches(", waits for ").count() < 2 || !dump.ends_with("\n\n") {
            assert_ne!(errors.read_line(&mut dump).unwrap(), 0, "{dump}");
        }
        check(&dump, &program.fd);
    }
    program.end();
}

#[test]
fn a_file_takes_the_dumps_of_a_program_whose_stderr_is_closed() {
    if missing(C_WITH_OPENSSL) {
        return;
    }
    let _watchdog = watchdog();
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("dump.txt");
    let _ = std::fs::remove_file(&file);
    let program = Paused::start("SIGRTMIN+3", Some(&file));
    program.kill("RTMIN+3");
    loop {
        let dump = std::fs::read_to_string(&file).unwrap();
        if dump.ends_with("\n\n") {
            check(&dump, &program.fd);
            break;
        }
        std::thread::yield_now();
    }
    program.end();
    std::fs::remove_file(file).unwrap();
}

/// The program runs all the same, and says what is wrong.
#[test]
fn a_signal_that_does_not_exist_is_reported() {
    if missing(C_WITH_OPENSSL) {
        return;
    }
    let _watchdog = watchdog();
    for (signal, problem) in [("NONE", "no signal has this name"), ("9", "cannot ask for a dump")] {
        let mut program = Paused::start(signal, None);
        let mut errors = program.program.stderr.take().unwrap();
        program.end();
        let mut said = String::new();
        errors.read_to_string(&mut said).unwrap();
        assert!(
            said.contains(&format!("ASYNCJOB_DUMP_SIGNAL={signal}: ")) && said.contains(problem),
            "{said}"
        );
    }
}
