//! Builds C programs and runs them on stock OpenSSL, and with our library preloaded.
#![allow(dead_code, reason = "each test uses the part it needs")]

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, OnceLock};

use asyncjob_testing::tools::{CC, OPENSSL_HEADERS, Tool, VALGRIND};

/// The shared object.
pub(crate) fn shared_object() -> PathBuf {
    built("libasyncjob.so")
}

/// A new directory that a `make` with these arguments has installed into. The prefix in the installed files is `/p`.
pub(crate) fn install(name: &str, arguments: &[&str]) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if directory.exists() {
        std::fs::remove_dir_all(&directory).expect("a directory of ours");
    }
    let destination = format!("DESTDIR={}", directory.display());
    make(&[arguments, &[&destination, "PREFIX=/p"]].concat());
    directory.join("p")
}

/// Builds the library and makes what the arguments name. Two of them at once would write the same files.
pub(crate) fn make(arguments: &[&str]) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock();
    let output = Command::new("make")
        .args(["--silent", "all"])
        .args(arguments)
        .arg(format!("PROFILE={}", profile()))
        .arg(format!("CARGO={}", env!("CARGO")))
        .arg(format!("CARGO_TARGET_DIR={}", target().display()))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("make starts");
    assert!(output.status.success(), "{}", describe(&output));
}

/// What `pkg-config` says of the library that is installed in `directory`, as arguments of a compiler.
pub(crate) fn pkg_config(directory: &Path, options: &[&str]) -> Vec<&'static str> {
    let mut pkg_config = Command::new("pkg-config");
    pkg_config
        .env("PKG_CONFIG_PATH", directory.join("lib/pkgconfig"))
        .arg(format!("--define-variable=prefix={}", directory.display()))
        .args(options)
        .args(["--cflags", "--libs", "asyncjob"]);
    let flags: &'static str = printed(pkg_config).leak();
    flags.split_whitespace().collect()
}

/// The path of a library as it is shipped. Cargo builds no cdylib for integration tests, so the tests build it.
fn built(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(build).join(name)
}

/// The profile that is built: `dropin`, or the one that `ASYNCJOB_CAPI_PROFILE` names.
fn profile() -> String {
    env::var("ASYNCJOB_CAPI_PROFILE").unwrap_or_else(|_| "dropin".into())
}

fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target/tmp")
}

fn build() -> PathBuf {
    let (profile, target) = (profile(), target());
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--package",
            "asyncjob-capi",
            "--profile",
            &profile,
            "--target-dir",
        ])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the library does not build");
    target.join(if profile == "dev" { "debug" } else { &profile })
}

/// An option for the linker. The program looks for its libraries in this directory first, and then in
/// `LD_LIBRARY_PATH`: Cargo puts its target directory there, which may contain an old build of the library.
pub(crate) fn find_in(directory: &str) -> String {
    format!("-Wl,--disable-new-dtags,-rpath,{directory}")
}

/// A file of this crate.
pub(crate) fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The tools for a C program that uses OpenSSL: a compiler, the headers, and the libraries to link with.
pub(crate) const C_WITH_OPENSSL: &[Tool] = &[CC, OPENSSL_HEADERS];

/// The same tools, and Valgrind.
pub(crate) const VALGRIND_WITH_OPENSSL: &[Tool] = &[CC, OPENSSL_HEADERS, VALGRIND];

/// Compiles a C program, with warnings as errors. A program is compiled once, because another test may be running it.
pub(crate) fn compile(path: &str, arguments: &[&str]) -> PathBuf {
    static COMPILED: Mutex<Vec<(String, PathBuf)>> = Mutex::new(Vec::new());
    let mut compiled = COMPILED.lock().expect("no compilation failed");
    if let Some((_, program)) = compiled.iter().find(|(source, _)| source == path) {
        return program.clone();
    }
    let program = call_cc(path, arguments);
    compiled.push((path.into(), program.clone()));
    program
}

fn call_cc(path: &str, arguments: &[&str]) -> PathBuf {
    let source = source(path);
    let name = source.file_stem().expect("a file").to_str().expect("ASCII");
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(env!("CARGO_CRATE_NAME"));
    std::fs::create_dir_all(&directory).expect("a directory below target");
    let program = directory.join(name);
    // The C++ compiler's driver, for the runtime of C++.
    let compiler = if path.ends_with(".cc") { "c++" } else { "cc" };
    let output = Command::new(compiler)
        .args(["-O1", "-g", "-Wall", "-Wextra", "-Werror"])
        .arg(&source)
        .arg("-o")
        .arg(&program)
        .args(arguments)
        .output()
        .expect("cc starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

/// Whether this test may do what only root may.
pub(crate) fn is_root() -> bool {
    let mut id = Command::new("id");
    id.arg("-u");
    printed(id) == "0\n"
}

/// The libcrypto and libssl that are installed.
pub(crate) const OPENSSL: &[&str] = &["-lssl", "-lcrypto", "-lpthread", "-ldl", "-lm"];

/// The library that a program's calls of `ASYNC_*` reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    /// The installed libcrypto.
    Stock,
    /// Our library, preloaded.
    Ours,
}

impl On {
    /// A command that runs `program` on this library. The program is killed after two minutes.
    ///
    /// `ASYNCJOB_STOCK` names the directory of another libcrypto and libssl than the installed ones. A loader that is
    /// there, too, starts the program: the libc beside it may be newer than the installed one.
    pub(crate) fn command(self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", "120"]);
        let stock = env::var_os("ASYNCJOB_STOCK").map(PathBuf::from);
        let loader = stock.as_ref().map(|stock| stock.join("ld-linux-x86-64.so.2"));
        let loader = loader.filter(|loader| loader.exists());
        let mut variables = Vec::new();
        if self == On::Ours {
            variables.push(format!("LD_PRELOAD={}", shared_object().display()));
        }
        if let (Some(stock), None) = (&stock, &loader) {
            variables.push(format!("LD_LIBRARY_PATH={}", stock.display()));
        }
        if !variables.is_empty() {
            command.arg("env").args(variables);
        }
        if let (Some(stock), Some(loader)) = (&stock, loader) {
            command.arg(loader).arg("--library-path").arg(stock);
            command.arg(in_path(program.as_ref()));
        } else {
            command.arg(program.as_ref());
        }
        command.env_remove("LD_PRELOAD").env("OPENSSL_CONF", "/dev/null");
        command
    }

    /// The same under a tool of Valgrind, which ends the program with 99 if it reports an error.
    pub(crate) fn under_valgrind(self, program: impl AsRef<Path>, options: &[&str]) -> Command {
        let mut command = self.command("valgrind");
        command
            .args(["--quiet", "--error-exitcode=99"])
            .args(options)
            .arg(program.as_ref());
        command
    }
}

/// Where a program is that has a name only. A loader does not look for it.
fn in_path(program: &Path) -> PathBuf {
    if program.components().count() > 1 {
        return program.into();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|directory| directory.join(program));
    found.into_iter().find(|file| file.exists()).unwrap_or(program.into())
}

/// Runs a program, which must succeed, and returns its output.
pub(crate) fn printed(mut command: Command) -> String {
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{command:?}: {}", describe(&output));
    String::from_utf8(output.stdout).expect("ASCII")
}

/// How a program ended, and everything that it printed.
pub(crate) fn describe(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
