//! Promise: each target is supported, or is refused by one sentence that says why. The README's table says the same.

use std::fs;
use std::path::Path;

#[allow(dead_code, reason = "its main function runs before this crate is built")]
#[path = "../build.rs"]
mod build;

/// A target in the words of Cargo, and whether the library builds for it.
const TARGETS: [(&str, [&str; 3], bool); 8] = [
    ("x86_64-unknown-linux-gnu", ["linux", "x86_64", "64"], true),
    ("aarch64-unknown-linux-gnu", ["linux", "aarch64", "64"], true),
    ("riscv64gc-unknown-linux-gnu", ["linux", "riscv64", "64"], false),
    ("i686-unknown-linux-gnu", ["linux", "x86", "32"], false),
    ("armv7-unknown-linux-gnueabihf", ["linux", "arm", "32"], false),
    ("aarch64-apple-darwin", ["macos", "aarch64", "64"], false),
    ("x86_64-unknown-freebsd", ["freebsd", "x86_64", "64"], false),
    ("x86_64-pc-windows-msvc", ["windows", "x86_64", "64"], false),
];

#[test]
fn each_target_is_supported_or_refused_by_a_sentence() {
    for (target, [os, arch, pointer_width], supported) in TARGETS {
        match build::refusal(os, arch, pointer_width) {
            None => assert!(supported, "{target} is not refused"),
            Some(sentence) => {
                assert!(!supported, "{target}: {sentence}");
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
    for (target, _, supported) in TARGETS {
        let line = readme
            .lines()
            .find(|line| line.starts_with('|') && line.contains(&format!("`{target}`")));
        let line = line.unwrap_or_else(|| panic!("the README has no line for {target}"));
        assert_eq!(line.contains("| refused"), !supported, "{line}");
    }
}
