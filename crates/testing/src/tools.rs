//! Programs, headers and libraries that a test needs and that a machine may lack.
//!
//! | `ASYNCJOB_REQUIRE_TOOLS` | a tool is missing |
//! |---|---|
//! | not set, as on a desk | the test prints `SKIPPED`, its name and the Debian package, and passes |
//! | `1`, as in `.ci/run` | the test fails |

use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{name_of_test, say};

/// Set to `1`, a missing tool is a failure.
const REQUIRE: &str = "ASYNCJOB_REQUIRE_TOOLS";

/// Something that a test needs of the system, and the package that has it.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    kind: Kind,
    name: &'static str,
    /// Of Debian, unless it says otherwise.
    package: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A program, looked for in `PATH`.
    Program,
    /// A program of a Python package, looked for in `PATH`.
    Python,
    /// A header, which the C compiler finds.
    Header,
    /// A shared library, by the name that `dlopen` takes.
    Library,
    StaticLibrary,
}

/// Counts system calls.
pub const STRACE: Tool = program("strace", "strace");
/// Finds errors of memory.
pub const VALGRIND: Tool = program("valgrind", "valgrind");
/// The client of a TLS server.
pub const CURL: Tool = program("curl", "curl");
/// The server that C programs meet OpenSSL's jobs in most often.
pub const HAPROXY: Tool = program("haproxy", "haproxy");
/// OpenSSL's program.
pub const OPENSSL: Tool = program("openssl", "openssl");
/// Starts a program with other resource limits.
pub const PRLIMIT: Tool = program("prlimit", "util-linux");
/// Holds a program to one processor.
pub const TASKSET: Tool = program("taskset", "util-linux");
/// The C compiler.
pub const CC: Tool = program("cc", "gcc");
/// The C++ compiler.
pub const CXX: Tool = program("c++", "g++");
/// Lists the symbols of a library.
pub const NM: Tool = program("nm", "binutils");
/// The debugger, with Python.
pub const GDB: Tool = program("gdb", "gdb");
/// Reads the parts of an object file.
pub const READELF: Tool = program("readelf", "binutils");
/// Installs the C library.
pub const MAKE: Tool = program("make", "make");
/// Formats manual pages.
pub const GROFF: Tool = program("groff", "groff-base");
/// Says how to link with a library.
pub const PKG_CONFIG: Tool = program("pkg-config", "pkg-config");
/// Keeps keys, and signs with them on request.
pub const SSH_AGENT: Tool = program("ssh-agent", "openssh-client");
/// A token in software. This is its administration program; its library is in the same package.
pub const SOFTHSM: Tool = program("softhsm2-util", "softhsm2");
/// A server that speaks the protocols of AWS, key service included. `.ci/moto` installs it.
pub const MOTO: Tool = python("moto_server", "moto, flask and flask-cors");
/// OpenSSL's headers, and what a C program links with.
pub const OPENSSL_HEADERS: Tool = header("openssl/async.h", "libssl-dev");
/// OpenSSL's libcrypto.
pub const LIBCRYPTO: Tool = library("libcrypto.so.3", "libssl3");
/// OpenSSL's libcrypto for a static link.
pub const STATIC_LIBCRYPTO: Tool = static_library("libcrypto.a", "libssl-dev");

/// A program that is looked for in `PATH`.
pub const fn program(name: &'static str, package: &'static str) -> Tool {
    let kind = Kind::Program;
    Tool { kind, name, package }
}

/// A program of a Python package that is looked for in `PATH`.
pub const fn python(name: &'static str, package: &'static str) -> Tool {
    let kind = Kind::Python;
    Tool { kind, name, package }
}

/// A header that the C compiler finds.
pub const fn header(name: &'static str, package: &'static str) -> Tool {
    let kind = Kind::Header;
    Tool { kind, name, package }
}

/// A shared library, by the name that `dlopen` takes.
pub const fn library(name: &'static str, package: &'static str) -> Tool {
    let kind = Kind::Library;
    Tool { kind, name, package }
}

/// A static library, which the C compiler finds.
pub const fn static_library(name: &'static str, package: &'static str) -> Tool {
    let kind = Kind::StaticLibrary;
    Tool { kind, name, package }
}

/// Whether one of `tools` is not installed, so that the calling test has to return. It has been said then which.
///
/// # Panics
///
/// If one is missing and `ASYNCJOB_REQUIRE_TOOLS` is `1`.
#[must_use = "the test returns if it is true"]
#[track_caller]
pub fn missing(tools: &[Tool]) -> bool {
    let missing: Vec<String> = tools
        .iter()
        .filter(|tool| !tool.is_installed())
        .map(|tool| format!("{} is not installed ({} {})", tool.name, tool.source(), tool.package))
        .collect();
    if missing.is_empty() {
        return false;
    }
    let reason = missing.join(", ");
    let required = env::var_os(REQUIRE).is_some_and(|value| value == "1");
    assert!(!required, "{reason}, and {REQUIRE} is 1");
    skipped(&reason);
    true
}

/// Says that the calling test does nothing here, and why: for a reason that no package removes.
pub fn skipped(reason: &str) {
    say(&format!("SKIPPED {}: {reason}", name_of_test()));
}

impl Tool {
    /// Where the tool is in `PATH`.
    pub fn path(self) -> Option<PathBuf> {
        path_of(self.name)
    }

    fn source(self) -> &'static str {
        match self.kind {
            Kind::Python => "Python packages",
            _ => "Debian package",
        }
    }

    fn is_installed(self) -> bool {
        match self.kind {
            Kind::Program | Kind::Python => path_of(self.name).is_some(),
            Kind::Header => CC.is_installed() && is_preprocessed(self.name),
            Kind::Library => is_loadable(self.name),
            Kind::StaticLibrary => is_linkable(self.name),
        }
    }
}

fn path_of(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let executable = |path: &PathBuf| fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o111 != 0);
    env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(executable)
}

fn is_preprocessed(header: &str) -> bool {
    let run = || {
        let mut cc = Command::new(CC.name)
            .args(["-E", "-x", "c", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        if let Some(mut source) = cc.stdin.take() {
            writeln!(source, "#include <{header}>")?;
        }
        cc.wait()
    };
    run().is_ok_and(|status| status.success())
}

/// The compiler gives back the bare name of a library that it does not find.
fn is_linkable(library: &str) -> bool {
    let found = Command::new(CC.name)
        .arg(format!("-print-file-name={library}"))
        .output();
    let path = found.map(|output| output.stdout).unwrap_or_default();
    Path::new(String::from_utf8_lossy(&path).trim()).is_absolute()
}

/// In a directory of `LD_LIBRARY_PATH`, or in the cache of the dynamic loader.
fn is_loadable(library: &str) -> bool {
    let path = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    if env::split_paths(&path).any(|directory| directory.join(library).exists()) {
        return true;
    }
    let ldconfig = ["/sbin/ldconfig", "/usr/sbin/ldconfig"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    let cache = Command::new(ldconfig.unwrap_or("ldconfig")).arg("-p").output();
    let list = cache.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&list)
        .lines()
        .any(|line| line.split_whitespace().next() == Some(library))
}
