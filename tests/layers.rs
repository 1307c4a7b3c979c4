//! Promise: what pauses a job never knows who resumes it, and who resumes it never knows why it paused.
//!
//! That is kept by who may import whom, so this reads the imports of `src/` and holds them against a table.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Which modules a module may name. `module::item` allows the one item.
///
/// From bottom to top: nothing may name what is below it in this list.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("sys", &[]),
    ("hooks", &[]),
    ("wait_ctx", &["error"]),
    ("stack", &["error", "sys"]),
    // A pool refuses to be cleaned up by one of its own jobs (S50), so it asks the one module that knows.
    ("pool", &["error", "stack", "job::is_in_job"]),
    ("job", &["error", "hooks", "pool", "stack", "wait_ctx"]),
    // The one loop that everything inside a job waits in.
    ("waiting", &["error", "job", "sys", "wait_ctx"]),
    ("io", &["error", "job", "sys", "wait_ctx", "waiting"]),
    ("time", &["error", "job", "wait_ctx", "waiting"]),
    ("offload", &["error", "job", "waiting"]),
    (
        "job_future",
        &["error", "hooks", "job", "pool", "stack", "wait_ctx", "waiting"],
    ),
    // It drives jobs and reads ctxs: it may not name `io`, `time` or `offload`. Its handles can be awaited.
    ("scheduler", &["error", "job", "stack", "sys", "wait_ctx", "waiting"]),
];

/// The pairs (inside, outside) that must not name each other, whatever the table says.
const TWO_SIDES: (&[&str], &[&str]) = (&["io", "time", "offload"], &["scheduler", "job_future"]);

#[test]
fn every_import_is_in_the_table() {
    let mut violations = Vec::new();
    let mut seen = BTreeSet::new();
    for file in sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))) {
        let module = module_of(&file);
        if module == "lib" {
            continue;
        }
        seen.insert(module.clone());
        let source = fs::read_to_string(&file).unwrap();
        for violation in violations_in(&module, &source) {
            violations.push(format!("{}: {violation}", file.display()));
        }
    }
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
    assert!(
        seen.contains("job") && seen.contains("wait_ctx"),
        "the sources were found: {seen:?}"
    );
}

#[test]
fn the_table_keeps_the_two_sides_apart() {
    let allowed = |module: &str| MAY_IMPORT.iter().find(|row| row.0 == module).unwrap().1;
    for inside in TWO_SIDES.0 {
        for outside in TWO_SIDES.1 {
            assert!(!allowed(inside).contains(outside), "{inside} may import {outside}");
            assert!(!allowed(outside).contains(inside), "{outside} may import {inside}");
        }
    }
}

/// But for the named exception, the table has no cycle: each row names only rows above it.
#[test]
fn the_table_is_in_order() {
    for (at, (module, imports)) in MAY_IMPORT.iter().enumerate() {
        for import in imports.iter().filter(|import| !import.contains("::")) {
            let above = MAY_IMPORT[..at].iter().any(|row| row.0 == *import);
            assert!(above, "{module} may import {import}, which is not above it");
        }
    }
}

/// The rule can fail, in each of the ways an import can be written.
#[test]
fn the_rule_finds_what_it_forbids() {
    let cases = [
        ("io", "use crate::scheduler::Scheduler;", "io may not import scheduler"),
        (
            "scheduler",
            "use crate::{job::Job, io::Io};",
            "scheduler may not import io",
        ),
        (
            "wait_ctx",
            "fn f() { crate::job::pause_job(); }",
            "wait_ctx may not import job",
        ),
        (
            "stack",
            "use crate::{\n    error::Cancelled,\n    pool,\n};",
            "stack may not import pool",
        ),
        (
            "pool",
            "use crate::job::{is_in_job, start_job};",
            "pool may not import job::start_job",
        ),
        ("pool", "use crate::job;", "pool may not import job"),
        (
            "time",
            "use crate::Scheduler;",
            "time names Scheduler through the root of the crate: name its module",
        ),
        (
            "newcomer",
            "use crate::job::Job;",
            "newcomer is not in the table of tests/layers.rs",
        ),
    ];
    for (module, source, expected) in cases {
        assert_eq!(violations_in(module, source), [expected], "{source}");
    }
}

#[test]
fn the_rule_leaves_alone_what_it_allows() {
    let cases = [
        ("io", "use crate::{error::Cancelled, waiting::{pause_until, Reason}};"),
        ("pool", "use crate::job::is_in_job;"),
        ("pool", "use crate::stack::{self, Stack};"),
        (
            "error",
            "/// [`pause_job`](crate::job::pause_job)\n// crate::scheduler\n/* crate::io */ struct Cancelled;",
        ),
        ("job", "use crate::job::Header;"),
        ("job_future", "macro_rules! m { () => { $crate::job::Job } }"),
    ];
    for (module, source) in cases {
        assert_eq!(violations_in(module, source), [""; 0], "{source}");
    }
}

/// What `source`, a file of `module`, names and must not.
fn violations_in(module: &str, source: &str) -> Vec<String> {
    let Some((_, allowed)) = MAY_IMPORT.iter().find(|row| row.0 == module) else {
        return vec![format!("{module} is not in the table of tests/layers.rs")];
    };
    let mut violations = Vec::new();
    for path in crate_paths(&without_comments(source)) {
        let target = path.split("::").next().unwrap_or_default();
        if target == module || allowed.contains(&target) || allowed.contains(&path.as_str()) {
            continue;
        }
        violations.push(if !MAY_IMPORT.iter().any(|row| row.0 == target) {
            format!("{module} names {target} through the root of the crate: name its module")
        } else if allowed.iter().any(|one| one.starts_with(&format!("{target}::"))) {
            format!("{module} may not import {path}")
        } else {
            format!("{module} may not import {target}")
        });
    }
    violations
}

/// Every `module::item` that is named after `crate::`, with groups taken apart.
fn crate_paths(source: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, _) in source.match_indices("crate::") {
        let is_word = source[..at]
            .chars()
            .next_back()
            .is_some_and(|c| c.is_alphanumeric() || c == '_');
        if !is_word {
            expand("", &source[at + "crate::".len()..], &mut paths);
        }
    }
    paths
}

/// Reads one path, or a group of them, up to its end, down to two segments; returns what is left.
fn expand<'a>(prefix: &str, source: &'a str, paths: &mut Vec<String>) -> &'a str {
    let source = source.trim_start();
    if let Some(mut rest) = source.strip_prefix('{') {
        loop {
            rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
            if let Some(rest) = rest.strip_prefix('}') {
                return rest;
            }
            if rest.is_empty() {
                return rest;
            }
            rest = expand(prefix, rest, paths);
        }
    }
    let end = source
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(source.len());
    let (word, rest) = source.split_at(end.max(1).min(source.len()));
    let path = match (prefix, word) {
        ("", word) => word.to_string(),
        (prefix, "self") => prefix.to_string(),
        (prefix, word) => format!("{prefix}::{word}"),
    };
    match rest.strip_prefix("::") {
        Some(rest) if prefix.is_empty() => expand(&path, rest, paths),
        Some(rest) => {
            let before = paths.len();
            let rest = expand(&path, rest, paths);
            paths.truncate(before); // two segments are enough
            paths.push(path);
            rest
        }
        None => {
            paths.push(path);
            rest
        }
    }
}

fn without_comments(source: &str) -> String {
    let mut code = String::new();
    let mut rest = source;
    while let Some(at) = rest.find("/*") {
        code.push_str(&rest[..at]);
        rest = rest[at..].split_once("*/").map_or("", |(_, after)| after);
    }
    code.push_str(rest);
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// Every source file but unit tests, which may use everything.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") && path.file_name().is_some_and(|n| n != "tests.rs") {
            files.push(path);
        }
    }
    files
}

/// The top-level module that a file belongs to.
fn module_of(file: &Path) -> String {
    let inside = file.strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_string()
}
