//! Threads that end give back what they had.

mod support;

use support::{OPENSSL, On, compile, describe, is_installed, printed};

#[test]
fn two_thousand_threads_leave_nothing_behind() {
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
    if !is_installed("valgrind") {
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
