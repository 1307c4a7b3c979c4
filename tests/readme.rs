//! Promise: the README shows the program of an example of this repository, and the output of that program.

use std::fs;
use std::path::Path;
use std::process::Command;

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text between the first line that begins with `fence` and the end of that block.
fn block<'a>(text: &'a str, fence: &str) -> &'a str {
    let (_, after) = text.split_once(&format!("{fence}\n")).expect("the block is there");
    after.split_once("```\n").expect("the block ends").0
}

#[test]
fn the_program_in_the_readme_is_the_example() {
    let source = file("examples/three_at_once.rs");
    let (_, program) = source
        .split_once("\n\n")
        .expect("a line about the example, then the program");
    assert_eq!(block(&file("README.md"), "```rust"), program);
}

#[test]
fn the_output_in_the_readme_is_that_of_the_example() {
    let run = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--example", "three_at_once"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(
        block(&file("README.md"), "```text"),
        String::from_utf8_lossy(&run.stdout)
    );
}
