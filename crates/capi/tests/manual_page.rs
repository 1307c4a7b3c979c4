//! Programs without OpenSSL, built with our header and library as a user would. The manual page's prints what the manual page
//! says; also on any libcrypto.

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
fn on_our_library_alone() {
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
fn on_stacks_of_its_own() {
    if missing(&[CC, PKG_CONFIG]) {
        return;
    }
    let program = compile("tests/c/own_stacks.c", &flags());
    assert_eq!(printed(Command::new(&program)), "well\n");
}

/// What our pkg-config file says, for files that are not installed.
fn flags() -> Vec<&'static str> {
    let directory = shared_object().parent().unwrap().display().to_string();
    let mut pkg_config = Command::new("pkg-config");
    pkg_config
        .env("PKG_CONFIG_PATH", source("."))
        .arg(format!("--define-variable=includedir={}", source("include").display()))
        .arg(format!("--define-variable=libdir={directory}"))
        .args(["--cflags", "--libs", "asyncjob"]);
    let flags = format!("{} -Wl,-rpath,{directory}", printed(pkg_config).trim());
    flags.leak().split_whitespace().collect()
}

#[test]
fn linked_statically() {
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
fn on_stock_and_in_front_of_it() {
    if missing(C_WITH_OPENSSL) {
        return;
    }
    let program = compile("tests/c/manual_page_openssl.c", support::OPENSSL);
    for on in [On::Stock, On::Ours] {
        assert_eq!(printed(on.command(&program)), OUTPUT, "{on:?}");
    }
}
