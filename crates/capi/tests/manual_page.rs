//! Promise: a program without OpenSSL can be built with our header and library alone, as a user would build it. The
//! program of the manual page prints what the manual page says, and prints the same on any libcrypto.

mod support;

use std::process::Command;
use std::sync::OnceLock;

use asyncjob_testing::tools::{CC, MAKE, PKG_CONFIG, missing};
use support::{C_WITH_OPENSSL, On, compile, find_in, install, pkg_config, printed};

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
    if missing(&[CC, MAKE, PKG_CONFIG]) {
        return;
    }
    let program = compile("examples/manual_page.c", flags());
    assert_eq!(printed(Command::new(&program)), OUTPUT);

    let mut ldd = Command::new("ldd");
    ldd.arg(&program);
    let needed = printed(ldd);
    assert!(
        needed.contains("libasyncjob.so.0 =>") && !needed.contains("libcrypto"),
        "{needed}"
    );
}

#[test]
fn a_program_can_bring_its_own_stacks() {
    if missing(&[CC, MAKE, PKG_CONFIG]) {
        return;
    }
    let program = compile("tests/c/own_stacks.c", flags());
    assert_eq!(printed(Command::new(&program)), "all checks passed\n");
}

/// The flags from our pkg-config file, and where to find the library at run time.
fn flags() -> &'static [&'static str] {
    static FLAGS: OnceLock<Vec<&str>> = OnceLock::new();
    FLAGS.get_or_init(|| {
        let directory = install("manual_page-installed", &["install"]);
        let mut flags = pkg_config(&directory, &[]);
        flags.push(find_in(&directory.join("lib").display().to_string()).leak());
        flags
    })
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
