//! The example runs under every loop.

use std::process::Command;

#[test]
fn the_same_job_runs_under_five_loops() {
    let test = std::env::current_exe().expect("this test");
    let directory = test.ancestors().nth(2).expect("the test is in target/<profile>/deps");
    let output = Command::new(directory.join("examples/everywhere"))
        .output()
        .expect("cargo builds it with all tests, or with --examples");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(
        printed,
        "our scheduler: hello\nmio: hello\npolling: hello\nsmol: hello\ntokio: hello\n"
    );
}
