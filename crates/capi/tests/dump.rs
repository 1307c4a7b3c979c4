//! Promise: the operator of an unmodified C program sees its paused jobs on a signal that the environment chooses, and
//! the program goes on as if nothing had happened.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use asyncjob_testing::Watchdog;
use asyncjob_testing::tools::{missing, skipped};
use support::{C_WITH_OPENSSL, OPENSSL, compile, is_root, shared_object};

/// A program with two paused jobs that sleeps until its input ends.
struct Paused {
    program: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
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
        kill(self.program.id(), signal);
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

fn kill(process: u32, signal: &str) {
    let sent = Command::new("kill").args(["-s", signal, &process.to_string()]).status();
    assert!(sent.unwrap().success());
}

/// The build of the library is not what is watched.
fn watchdog() -> Watchdog {
    shared_object();
    Watchdog::new()
}

/// Checks the dump that ends with an empty line after its second job.
fn check(dump: &str, fd: &str) {
    assert!(
        dump.starts_with("process ") && dump.contains("\n2 jobs, 1 drivers, in "),
        "{dump}"
    );
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

/// A new directory for the files of a test, which a program without rights may enter.
fn directory(name: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("operated").join(name);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// `tests/c/operated.c`, which does what servers do before their first job.
struct Operated {
    program: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    file: PathBuf,
    /// The processes that have a paused job.
    paused: Vec<u32>,
}

impl Operated {
    /// Waits until `processes` of them have paused.
    fn start(directory: &Path, steps: &[&str], processes: usize) -> Self {
        let file = directory.join("jobs.txt");
        let mut program = Command::new(compile("tests/c/operated.c", OPENSSL))
            .args(steps)
            .current_dir(directory)
            .env("LD_PRELOAD", shared_object())
            .env("OPENSSL_CONF", "/dev/null")
            .env("ASYNCJOB_DUMP_SIGNAL", "USR2")
            .env("ASYNCJOB_DUMP_FILE", "jobs.txt") // a daemon may change its directory
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(program.stdout.take().unwrap());
        let mut paused = Vec::new();
        while paused.len() < processes {
            let mut line = String::new();
            let read = output.read_line(&mut line).unwrap();
            if read == 0 {
                let mut errors = String::new();
                program.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
                panic!("{errors}");
            }
            let process = line.trim().strip_prefix("paused ").map(str::parse::<u32>);
            paused.extend(process.and_then(Result::ok));
        }
        Operated {
            input: program.stdin.take(),
            program,
            output,
            file,
            paused,
        }
    }

    /// Asks the process, and returns what is in the file when its dump is there.
    fn dump(&mut self, process: u32) -> String {
        let before = fs::read_to_string(&self.file).unwrap_or_default();
        kill(process, "USR2");
        self.wait_for_dump(process, &before)
    }

    /// Waits until the file is another one than `before`.
    fn wait_for_dump(&self, process: u32, before: &str) -> String {
        let first = format!("process {process}, ");
        loop {
            let text = fs::read_to_string(&self.file).unwrap_or_default();
            let dump = text.rsplit("\n\nprocess ").next().unwrap_or_default();
            if text != before && text.contains(&first) && text.ends_with("\n\n") {
                assert!(text.contains("\n1 jobs, 1 drivers, in "), "{text}");
                if cfg!(target_arch = "x86_64") {
                    let in_a_root = dump.contains("\n      operated+0x"); // without the file of the program
                    assert!(in_a_root || dump.contains("\n      waits_for_device at "), "{text}");
                }
                return text;
            }
            std::thread::yield_now();
        }
    }

    /// Each process does one call of the library.
    fn enter(&mut self) {
        self.input.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    /// Lets all go on to their end. Returns what was said on standard error.
    fn end(mut self) -> String {
        drop(self.input.take());
        let (mut rest, mut errors) = (String::new(), String::new());
        self.output.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "ended\n".repeat(self.paused.len()));
        self.program.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert_eq!(self.program.wait().unwrap().code(), Some(0), "{errors}");
        errors
    }
}

#[test]
fn servers_dump_after_what_they_do_before_their_first_job() {
    if missing(C_WITH_OPENSSL) {
        return;
    }
    let _watchdog = watchdog();
    let cases: [(&str, &[&str], usize); 6] = [
        ("limited", &["user", "limit"], 1),
        ("daemon", &["fork"], 1),
        ("twice", &["fork", "fork", "user", "limit"], 1),
        ("workers", &["workers", "user", "limit"], 2),
        ("master", &["fork", "workers"], 2),
        ("blocked", &["block"], 1),
    ];
    for (name, steps, processes) in cases {
        let mut server = Operated::start(&directory(name), steps, processes);
        for process in server.paused.clone() {
            server.dump(process);
        }
        assert_eq!(server.end(), "", "{name}");
    }
}

/// S88. The line is a part of the dump, which ends with an empty line.
#[test]
fn a_dump_counts_the_jobs_whose_wait_ctx_was_freed() {
    if missing(C_WITH_OPENSSL) {
        return;
    }
    let _watchdog = watchdog();
    for (name, steps, count) in [
        ("remembered", &[][..], None),
        (
            "forgotten",
            &["forget"],
            Some("paused jobs whose wait ctx was freed by ASYNC_WAIT_CTX_free: 1\n\n"),
        ),
    ] {
        let mut server = Operated::start(&directory(name), steps, 1);
        for _ in 0..2 {
            let text = server.dump(server.paused[0]);
            let is_counted = text.ends_with(count.unwrap_or("\n\n"));
            assert!(
                is_counted && text.contains("wait ctx was freed") == count.is_some(),
                "{text}"
            );
        }
        assert_eq!(server.end(), "");
    }
}

#[test]
fn a_server_dumps_in_another_root_directory() {
    if missing(C_WITH_OPENSSL) {
        return;
    }
    if !is_root() {
        return skipped("only root may change the root directory");
    }
    let _watchdog = watchdog();
    let directory = directory("chroot");
    let root = directory.join("empty");
    fs::create_dir(&root).unwrap();
    let steps = ["workers", "root", root.to_str().unwrap(), "user", "limit"];
    let mut server = Operated::start(&directory, &steps, 2);
    for process in server.paused.clone() {
        let text = server.dump(process);
        assert!(!text.contains("closed"), "{text}");
        if cfg!(target_arch = "x86_64") {
            assert!(text.contains("ASYNC_pause_job in libasyncjob"), "{text}");
        }
    }
    assert_eq!(server.end(), "");
}

/// The thread of the program makes the dump, in its next call.
#[test]
fn a_process_that_may_have_no_thread_dumps_in_its_next_call() {
    if missing(C_WITH_OPENSSL) {
        return;
    }
    let _watchdog = watchdog();
    let directory = directory("threadless");
    // The first process has the file. Those of a user without rights could make none.
    fs::write(directory.join("jobs.txt"), "").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    fs::set_permissions(directory.join("jobs.txt"), mode).unwrap();
    let mut cases: Vec<(&[&str], &str)> = vec![(&["user", "limit", "exec"], "RLIMIT_NPROC is 0 here")];
    if is_root() {
        cases.push((&["alone", "one", "worker"], "RLIMIT_NPROC is 3 here")); // those of another user are not counted
    }
    for (steps, limit) in cases {
        let mut server = Operated::start(&directory, steps, 1);
        let process = server.paused[0];
        kill(process, "USR2");
        server.enter();
        let text = server.wait_for_dump(process, "");
        let reason = format!("the thread asyncjob-dump of process {process} cannot be started: ");
        assert!(text.contains(&reason) && text.contains(limit), "{text}");
        let errors = server.end();
        assert!(errors.contains("ASYNCJOB_DUMP_SIGNAL=USR2: the thread "), "{errors}");
        assert!(errors.contains(limit) && errors.contains("ulimit -u"), "{errors}");
    }
}

#[test]
fn a_file_that_the_program_has_under_the_number_gets_no_dump() {
    if missing(C_WITH_OPENSSL) {
        return;
    }
    let _watchdog = watchdog();
    for (name, steps) in [
        ("closed", &["reuse", "other.txt"][..]),
        ("forked", &["fork", "reuse", "other.txt"]),
    ] {
        let directory = directory(name);
        let mut server = Operated::start(&directory, steps, 1);
        server.dump(server.paused[0]);
        server.dump(server.paused[0]);
        assert_eq!(server.end(), "");
        assert_eq!(fs::read_to_string(directory.join("other.txt")).unwrap(), "", "{name}");
    }
}

#[test]
fn a_file_that_was_renamed_is_made_anew() {
    if missing(C_WITH_OPENSSL) {
        return;
    }
    let _watchdog = watchdog();
    let directory = directory("rotated");
    let (old, new) = (directory.join("jobs.txt"), directory.join("jobs.txt.1"));
    let mut server = Operated::start(&directory, &[], 1);
    let first = server.dump(server.paused[0]);
    fs::rename(old, &new).unwrap();
    server.dump(server.paused[0]);
    assert_eq!(fs::read_to_string(new).unwrap(), first);
    assert_eq!(server.end(), "");
}

#[test]
fn a_signal_that_the_program_takes_for_itself_is_reported() {
    if missing(C_WITH_OPENSSL) {
        return;
    }
    let _watchdog = watchdog();
    let errors = Operated::start(&directory("taken"), &["handle"], 1).end();
    assert!(errors.contains("ASYNCJOB_DUMP_SIGNAL=USR2: "), "{errors}");
    assert!(errors.contains("choose a signal that it does not use"), "{errors}");
}
