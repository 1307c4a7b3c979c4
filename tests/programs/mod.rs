//! Finds and runs the programs of `examples/`.
#![allow(dead_code, reason = "each test uses what it needs")]

use std::env;
use std::path::PathBuf;
use std::process::{Command, Output};

/// The path of an example's program. `cargo test` has built it beside this test. If it has not, this builds it.
pub(crate) fn program(name: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    let profile = test.parent().and_then(|deps| deps.parent()).unwrap();
    let program = profile.join("examples").join(name);
    if !program.exists() {
        let mut build = Command::new(env!("CARGO"));
        build
            .args(["build", "--example", name])
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "cargo build --example {name}");
    }
    program
}

/// Runs an example to its end.
pub(crate) fn run(name: &str, args: &[&str]) -> Output {
    Command::new(program(name)).args(args).output().unwrap()
}

/// Runs an example, which must succeed, and returns its output.
#[track_caller]
pub(crate) fn output(name: &str, args: &[&str]) -> String {
    let output = run(name, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {args:?}: {}\n{stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}
