//! Promise: where OpenSSL crashes, leaks or corrupts memory, this library does what its README says.
//!
//! Each program does one such thing. It must fail on stock OpenSSL, which shows that the check can fail, and succeed
//! with our library. The comment at the top of a program says what stock does.

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;

use asyncjob_testing::tools::{CXX, missing};
use support::{C_WITH_OPENSSL, OPENSSL, On, VALGRIND_WITH_OPENSSL, compile, describe, source};

/// All but `overflow`, which dies on purpose and has a test of its own.
fn programs() -> Vec<String> {
    let files = fs::read_dir(source("tests/c/fixes")).expect("the programs");
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut programs: Vec<_> = names
        .filter(|name| [".c", ".cc"].iter().any(|end| name.ends_with(end)) && name != "overflow.c")
        .collect();
    programs.sort();
    assert_eq!(programs.len(), 19);
    programs
}

#[test]
fn programs_succeed_with_us_and_fail_on_stock() {
    if missing(C_WITH_OPENSSL) || missing(&[CXX]) {
        return;
    }
    for name in programs() {
        let program = compile(&format!("tests/c/fixes/{name}"), OPENSSL);
        let ours = On::Ours.command(&program).output().unwrap();
        assert!(ours.status.success(), "{name}: {}", describe(&ours));
        let stock = On::Stock.command(&program).output().unwrap();
        assert!(
            !stock.status.success(),
            "{name} succeeds on stock too: it does not show what is fixed"
        );
    }
}

#[test]
fn programs_touch_only_their_own_memory_and_leak_nothing() {
    if missing(VALGRIND_WITH_OPENSSL) || missing(&[CXX]) {
        return;
    }
    for name in programs() {
        let program = compile(&format!("tests/c/fixes/{name}"), OPENSSL);
        // Without a pthread key nothing frees what a thread leaves behind.
        let leaks = if name == "no_key_left.c" { "no" } else { "full" };
        let output = On::Ours
            .under_valgrind(&program, &[&format!("--leak-check={leaks}")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}: {}", describe(&output));
    }
}

#[test]
fn an_overflow_reaches_a_guard_and_the_report_names_the_job() {
    if missing(C_WITH_OPENSSL) {
        return;
    }
    let program = compile("tests/c/fixes/overflow.c", OPENSSL);
    let output = On::Ours.command(&program).output().unwrap();
    let ended_by = output.status.signal().or(output.status.code().map(|code| code - 128));
    assert_eq!(ended_by, Some(11), "{}", describe(&output));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("job") && said.contains("stack"), "{said}");
}
