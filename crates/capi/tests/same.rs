//! Promise: what a sequence of calls (`differential`) cannot show is the same too. Programs print the same on stock
//! OpenSSL and with our library preloaded.

mod support;

use std::fs;

use asyncjob_testing::tools::missing;
use support::{C_WITH_OPENSSL, OPENSSL, On, VALGRIND_WITH_OPENSSL, compile, describe, printed, source};

fn programs() -> Vec<String> {
    let files = fs::read_dir(source("tests/c/same")).expect("the programs");
    let mut programs: Vec<_> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    programs.sort();
    assert_eq!(programs.len(), 10);
    programs
}

#[test]
fn programs_print_what_they_print_on_stock() {
    if missing(C_WITH_OPENSSL) {
        return;
    }
    for name in programs() {
        let program = compile(&format!("tests/c/same/{name}"), OPENSSL);
        let stock = printed(On::Stock.command(&program));
        assert!(!stock.is_empty(), "{name}");
        assert_eq!(printed(On::Ours.command(&program)), stock, "{name}");
    }
}

#[test]
fn programs_touch_only_their_own_memory() {
    if missing(VALGRIND_WITH_OPENSSL) {
        return;
    }
    // Leaks are not checked: `lazy` and the library contexts leave memory to the end of the process, on stock too.
    for name in programs() {
        let program = compile(&format!("tests/c/same/{name}"), OPENSSL);
        let output = On::Ours
            .under_valgrind(&program, &["--leak-check=no"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}: {}", describe(&output));
    }
}

#[test]
fn a_libcrypto_outside_the_global_scope_is_found() {
    if missing(C_WITH_OPENSSL) {
        return;
    }
    let module = compile("tests/c/module.c", &["-shared", "-fPIC", "-lcrypto"]);
    let program = compile("tests/c/loads_module.c", &["-ldl"]);
    let run = |on: On| {
        let mut command = on.command(&program);
        command.arg(&module);
        printed(command)
    };
    let stock = run(On::Stock);
    assert_eq!(stock, "libcrypto is local\nstart 3 ret 0 error 19800067\n");
    assert_eq!(run(On::Ours), stock);
}
