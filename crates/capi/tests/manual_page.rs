//! Promise: a program without OpenSSL can be built with our header and library alone, as a user would build it. The
//! program of the manual page prints what the manual page says, and prints the same on any libcrypto.

mod support;

use std::process::Command;

use asyncjob_testing::tools::{CC, PKG_CONFIG, missing};
use support::{C_WITH_OPENSSL, On, archive, compile, printed, shared_object, source};

const OUTPUT: &str = "\
Starting...
Executing within a job
Passed in message is: Hello world!
Job was paused
Resumed the job after a pause
Job finished with return value 1
Finishing
";

#[test]
fn the_program_runs_on_our_library_alone() {
    if missing(&[CC, PKG_CONFIG]) {
        return;
    }
    let program = compile("examples/manual_page.c", &flags());
    assert_eq!(printed(Command::new(&program)), OUTPUT);

    let mut ldd = Command::new("ldd");
    ldd.arg(&program);
    let needed = printed(ldd);
    assert!(
        needed.contains("libasyncjob.so") && !needed.contains("libcrypto"),
        "{needed}"
    );
}

#[test]
fn a_program_can_bring_its_own_stacks() {
    if missing(&[CC, PKG_CONFIG]) {
        return;
    }
    let program = compile("tests/c/own_stacks.c", &flags());
    assert_eq!(printed(Command::new(&program)), "all checks passed\n");
}

/// The flags from our pkg-config file, for files that are not installed.
fn flags() -> Vec<&'static str> {
    let directory = shared_object().parent().unwrap().display().to_string();
    let mut pkg_config = Command::new("pkg-config");
    pkg_config
        .env("PKG_CONFIG_PATH", source("."))
        .arg(format!("--define-variable=includedir={}", source("include").display()))
        .arg(format!("--define-variable=libdir={directory}"))
        .args(["--cflags", "--libs", "asyncjob"]);
    let flags = format!("{} {}", printed(pkg_config).trim(), support::find_in(&directory));
    flags.leak().split_whitespace().collect()
}

#[test]
fn the_program_can_be_linked_statically() {
    if missing(&[CC]) {
        return;
    }
    let include = format!("-I{}", source("include").display());
    let archive = archive().display().to_string();
    let system = ["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl"]; // rustc --print native-static-libs
    let arguments: Vec<&str> = [&include[..], &archive].into_iter().chain(system).collect();
    let program = compile("tests/c/manual_page_static.c", &arguments);
    assert_eq!(printed(Command::new(program)), OUTPUT);
}

#[test]
fn the_program_prints_the_same_on_stock_and_with_our_library_preloaded() {
    if missing(C_WITH_OPENSSL) {
        return;
    }
    let program = compile("tests/c/manual_page_openssl.c", support::OPENSSL);
    for on in [On::Stock, On::Ours] {
        assert_eq!(printed(on.command(&program)), OUTPUT, "{on:?}");
    }
}
