//! Promise: each target is supported, builds, or is refused by one sentence that says why. The README's table says the
//! same.

use std::fs;
use std::path::Path;

#[allow(dead_code, reason = "its main function runs before this crate is built")]
#[path = "../build.rs"]
mod build;

/// A target in the words of Cargo, and what the README says of it.
const TARGETS: [(&str, [&str; 3], &str); 12] = [
    ("x86_64-unknown-linux-gnu", ["linux", "x86_64", "64"], "supported"),
    ("aarch64-unknown-linux-gnu", ["linux", "aarch64", "64"], "supported"),
    (
        "x86_64-unknown-linux-musl",
        ["linux", "x86_64", "64"],
        "builds, not run by us",
    ),
    ("riscv64gc-unknown-linux-gnu", ["linux", "riscv64", "64"], "refused"),
    ("i686-unknown-linux-gnu", ["linux", "x86", "32"], "refused"),
    ("armv7-unknown-linux-gnueabihf", ["linux", "arm", "32"], "refused"),
    (
        "aarch64-apple-darwin",
        ["macos", "aarch64", "64"],
        "builds, not run by us",
    ),
    (
        "x86_64-apple-darwin",
        ["macos", "x86_64", "64"],
        "builds, not run by us",
    ),
    (
        "x86_64-unknown-freebsd",
        ["freebsd", "x86_64", "64"],
        "builds, not run by us",
    ),
    ("x86_64-unknown-netbsd", ["netbsd", "x86_64", "64"], "refused"),
    ("aarch64-apple-ios", ["ios", "aarch64", "64"], "refused"),
    ("x86_64-pc-windows-msvc", ["windows", "x86_64", "64"], "refused"),
];

#[test]
fn each_target_is_supported_or_refused_by_a_sentence() {
    for (target, [os, arch, pointer_width], what) in TARGETS {
        match build::refusal(os, arch, pointer_width) {
            None => assert_ne!(what, "refused", "{target}"),
            Some(sentence) => {
                assert_eq!(what, "refused", "{target}: {sentence}");
                assert!(
                    sentence.starts_with("asyncjob does not support "),
                    "{target}: {sentence}"
                );
                assert!(!sentence.contains('\n'), "{target}: {sentence}");
            }
        }
    }
}

#[test]
fn the_readme_has_a_line_for_each_target() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    for (target, _, what) in TARGETS {
        let line = readme
            .lines()
            .find(|line| line.starts_with('|') && line.contains(&format!("`{target}`")));
        let line = line.unwrap_or_else(|| panic!("the README has no line for {target}"));
        assert!(line.contains(&format!("| {what} |")), "{line}");
    }
}
