//! Jobs, engines and freed wait ctxs on many threads at once.
//!
//! How far the tools follow: Valgrind knows our stacks (they are registered with it), so memcheck follows every switch, and
//! helgrind sees each job as part of the thread that runs it, which it is. ThreadSanitizer needs a rebuilt standard library,
//! and does not follow switches that are not announced to it as fibers; it is left out.

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
fn memcheck_and_helgrind_have_nothing_to_say() {
    if !is_installed("valgrind") {
        return;
    }
    let program = compile("tests/c/threads.c", OPENSSL);
    for options in [
        ["--tool=memcheck", "--leak-check=full"],
        ["--tool=helgrind", "--fair-sched=yes"],
    ] {
        let output = On::Ours.under_valgrind(&program, &options).arg("12").output().unwrap();
        assert!(output.status.success(), "{options:?}: {}", describe(&output));
    }
}
