//! Promise: the C program of the guide is built with our header and library alone, and prints what the Rust program
//! beside it does.

mod support;

use std::fs;
use std::process::Command;

use asyncjob_testing::tools::{CC, MAKE, PKG_CONFIG, missing};
use support::{install, pkg_config, printed, source};

#[test]
fn the_c_program_of_the_guide_runs() {
    if missing(&[CC, MAKE, PKG_CONFIG]) {
        return;
    }
    let page = fs::read_to_string(source("../../docs/guide/from-c.md")).unwrap();
    let (_, after) = page.split_once("```c\n").expect("a program in C");
    let directory = install("guide-installed", &["install"]);
    let program = directory.join("guide.c");
    fs::write(&program, after.split_once("```\n").expect("its end").0).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-static", "-Wl,--no-warnings", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(directory.join("guide"))
        .arg(program)
        .args(pkg_config(&directory, &["--static"]));
    printed(cc);
    assert_eq!(printed(Command::new(directory.join("guide"))), "42\n");
}
