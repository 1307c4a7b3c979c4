//! Finds the programs of `examples/` for tests that run them.

use std::env;
use std::path::PathBuf;
use std::process::Command;

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
