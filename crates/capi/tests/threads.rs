//! Jobs, engines and freed wait ctxs on many threads at once.
//!
//! How far the tools follow: Valgrind knows our stacks (they are registered with it), so memcheck follows every switch. Helgrind
//! does not see the locks (they are futexes, not pthread mutexes) through which stacks and handles pass from thread to thread,
//! and reports each reuse of a stack as a race: of no use here.

mod support;

use support::{OPENSSL, On, compile, describe, is_installed, printed};

#[test]
fn every_job_returns_its_own_result() {
    let program = compile("tests/c/threads.c", OPENSSL);
    let output = printed(On::Ours.command(&program));
    assert_eq!(
        output,
        "38400 jobs, engines: handles asked yes, callbacks called as found\n"
    );
}

#[test]
fn memcheck_has_nothing_to_say() {
    if !is_installed("valgrind") {
        return;
    }
    let program = compile("tests/c/threads.c", OPENSSL);
    let mut command = On::Ours.under_valgrind(&program, &["--leak-check=full", "--fair-sched=yes"]);
    let output = command.arg("12").output().unwrap();
    assert!(output.status.success(), "{}", describe(&output));
}
