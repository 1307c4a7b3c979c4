//! Promise: every rule of the contract has a test that cites it.
//!
//! The rules are OpenSSL's behaviours, numbered S1 to S88, and what this crate makes of them. Those without a meaning in
//! Rust (constants, versions, libssl) are the C interface's.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The numbers that the Rust API answers for, with the row of the contract that each run belongs to.
const ANSWERED_FOR: &[(&str, &[u32])] = &[
    ("constants as enums", &[2]),
    ("the system is capable", &[8]),
    ("the pool and its limit", &[11, 12, 13, 14, 15, 16, 17, 18, 19]),
    ("starting: the closure owns its data", &[22, 23, 24]),
    ("a value with the end only", &[25]),
    ("the handle is the job", &[26]),
    ("the ctx is bound at the start", &[27, 28, 31]),
    ("pausing with nothing to wait for, resuming", &[29, 30]),
    ("misuse that does not compile", &[33, 34]),
    ("fork", &[35]),
    ("nested jobs", &[37]),
    ("pauses outside a job, or blocked", &[40, 41, 43, 44]),
    ("changes are settled on resume", &[42]),
    ("the current job, from any thread", &[46, 47]),
    ("cleanup of a thread", &[48, 49, 50, 51]),
    ("wait fds", &[52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62]),
    ("callback and status", &[63, 64, 65, 66]),
    ("memory of the program's own", &[67, 68, 69]),
    ("no system calls, no allocations", &[71, 73]),
    ("thread state", &[74, 75, 76, 77]),
    ("a paused job nobody will resume", &[88]),
];

#[test]
fn every_rule_is_cited_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut cited = BTreeSet::new();
    collect(&root.join("tests"), &mut cited);
    collect(&root.join("src"), &mut cited); // unit tests, and doc tests of what does not compile
    let missing: Vec<_> = ANSWERED_FOR
        .iter()
        .flat_map(|(row, numbers)| numbers.iter().map(move |number| (*row, *number)))
        .filter(|(_, number)| !cited.contains(number))
        .map(|(row, number)| format!("S{number} ({row})"))
        .collect();
    assert!(missing.is_empty(), "no test cites {}", missing.join(", "));
}

/// Reads `S7`, `S7a` and `S7 to S9`, and nothing else.
#[test]
fn citations_are_read() {
    let read = |text: &str| numbers_in(text).into_iter().collect::<Vec<_>>();
    assert_eq!(read("/// S37a: as S16, or (S13 and S15)."), [13, 15, 16, 37]);
    assert_eq!(read("/// S52 to S54, S60"), [52, 53, 54, 60]);
    assert_eq!(read("TLS12 and 4S5, SHA256, S and Some"), [0; 0]);
}

fn collect(folder: &Path, cited: &mut BTreeSet<u32>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, cited);
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("citations.rs") {
            cited.extend(numbers_in(&fs::read_to_string(&path).unwrap()));
        }
    }
}

fn numbers_in(text: &str) -> BTreeSet<u32> {
    let words: Vec<_> = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    let mut numbers = BTreeSet::new();
    for (at, word) in words.iter().enumerate() {
        let Some(number) = citation(word) else { continue };
        numbers.insert(number);
        if let [_, "to", end] = words[at..(at + 3).min(words.len())]
            && let Some(end) = citation(end)
        {
            numbers.extend(number..=end);
        }
    }
    numbers
}

/// The number of a word such as `S37` or `S37a`.
fn citation(word: &str) -> Option<u32> {
    let digits = word
        .strip_prefix('S')?
        .trim_end_matches(|c: char| c.is_ascii_lowercase());
    digits.parse().ok().filter(|number| (1..=88).contains(number))
}
