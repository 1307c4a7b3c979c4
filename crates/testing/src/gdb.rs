//! gdb with the script of this project.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs gdb on a program with its arguments, and returns what it prints. It loads `gdb/asyncjob.py` first, and then
/// executes the commands. It is killed after two minutes.
///
/// # Panics
///
/// If gdb fails to start, or ends with an error.
pub fn gdb(program: &[&str], commands: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../gdb/asyncjob.py");
    let mut gdb = Command::new("timeout");
    gdb.args(["--signal=KILL", "120", "gdb", "--batch", "-nx"]);
    // Names are looked for here, not in the network, and lines stay whole.
    for setting in [
        "debuginfod enabled off",
        "width 0",
        "pagination off",
        "breakpoint pending on",
    ] {
        gdb.arg("-iex").arg(format!("set {setting}"));
    }
    gdb.arg("-ex").arg(format!("source {}", script.display()));
    for command in commands {
        gdb.args(["-ex", command]);
    }
    let output = gdb.arg("--args").args(program).output().expect("timeout starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    format!("{}{errors}", String::from_utf8_lossy(&output.stdout))
}

/// The core file of a program that the kernel has written. It is removed when this is dropped.
#[derive(Debug)]
pub struct CoreFile {
    directory: PathBuf,
    core: PathBuf,
}

impl CoreFile {
    /// Runs `command` in a new directory below `directory` and ends it with `SIGABRT` as soon as it prints a line with
    /// `ready`, or lets it abort by itself. `None` if no core file appears there: `core_pattern` may send it elsewhere.
    ///
    /// gdb could write one, too. But it leaves out the rest of a mapping behind a guard that it cannot read, and with
    /// that nearly all stacks. The kernel leaves out the guard.
    ///
    /// # Panics
    ///
    /// If the program cannot be started.
    pub fn of(directory: &str, command: &str, ready: Option<&str>) -> Option<Self> {
        let directory = Path::new(directory).join(format!("core-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory below target");
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -c unlimited; exec {command}")]);
        shell
            .current_dir(&directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut program = shell.spawn().expect("sh starts");
        let lines = BufReader::new(program.stdout.take().expect("a pipe")).lines();
        for line in lines.map_while(Result::ok) {
            if ready.is_some_and(|ready| line.contains(ready)) {
                let abort = Command::new("kill")
                    .args(["-s", "ABRT", &program.id().to_string()])
                    .status();
                assert!(abort.expect("kill starts").success(), "the program is there");
            }
        }
        let _ = program.wait();
        let files = fs::read_dir(&directory)
            .expect("the directory")
            .flatten()
            .map(|file| file.path());
        let is_core = |path: &PathBuf| {
            path.file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"core"))
        };
        let core = files.into_iter().find(is_core).unwrap_or_default();
        let file = CoreFile { directory, core };
        (!file.core.as_os_str().is_empty()).then_some(file)
    }

    /// The command of gdb that reads it.
    pub fn read(&self) -> String {
        format!("core-file {}", self.core.display())
    }
}

impl Drop for CoreFile {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}
