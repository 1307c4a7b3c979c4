//! Threads that end give back what they had.

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
        "{left} bytes a thread: a stack has 4096, a thread's slots too"
    );
}

#[test]
fn nothing_is_lost() {
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
