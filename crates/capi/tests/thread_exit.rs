//! Promise: a thread that exits gives back what it had.

mod support;

use asyncjob_testing::tools::missing;
use support::{C_WITH_OPENSSL, OPENSSL, On, VALGRIND_WITH_OPENSSL, compile, describe, printed};

#[test]
fn two_thousand_threads_leave_nothing_behind() {
    if missing(C_WITH_OPENSSL) {
        return;
    }
    let program = compile("tests/c/thread_churn.c", OPENSSL);
    let left: i64 = printed(On::Ours.command(&program)).trim().parse().unwrap();
    println!("{left} bytes a thread");
    assert!(
        left < 512,
        "{left} bytes a thread: a leak of a stack, or of the slots of a thread, is at least 4096"
    );
}

#[test]
fn a_thread_leaks_nothing() {
    if missing(VALGRIND_WITH_OPENSSL) {
        return;
    }
    let program = compile("tests/c/thread_churn.c", OPENSSL);
    let output = On::Ours
        .under_valgrind(&program, &["--leak-check=full"])
        .arg("50")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", describe(&output));
}
