//! Promise: code that pauses a job never depends on what resumes it, and code that resumes a job never depends on why
//! it paused.
//!
//! The imports of `src/` show whether the promise is kept. These tests compare them with a table. A permission that no
//! file uses fails too, so that the table describes the source as it is.

use std::fs;
use std::path::{Path, PathBuf};

/// The modules that each module may name, from bottom to top. A module names only modules that are above it in this
/// list.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("docs", &[]),  // prose only
    ("guide", &[]), // addresses only
    ("sys", &[]),
    ("sync", &[]),
    ("returned", &[]),
    ("error", &["returned", "sys"]),
    ("wait_ctx", &["sync", "sys"]),
    ("hooks", &["wait_ctx"]),
    ("stack", &["sys"]),
    ("pool", &["stack", "sync", "sys"]),
    ("job", &["error", "hooks", "pool", "stack", "sync", "sys", "wait_ctx"]),
    // These run inside a job.
    ("waiting", &["error", "job", "sync", "sys", "wait_ctx"]),
    ("io", &["error", "job", "sync", "sys", "wait_ctx", "waiting"]),
    ("time", &["error", "job", "wait_ctx", "waiting"]),
    ("offload", &["error", "job", "returned", "sync", "sys", "waiting"]),
    // The registry of the drivers, which register themselves.
    ("insight", &["hooks", "job", "pool", "stack", "sync", "sys", "wait_ctx"]),
    // These run outside a job.
    (
        "scheduler",
        &[
            "error", "hooks", "insight", "job", "pool", "stack", "sync", "sys", "wait_ctx",
        ],
    ),
    (
        "job_future",
        &["error", "hooks", "insight", "job", "pool", "sync", "sys", "wait_ctx"],
    ),
    // Calls that join the two sides.
    (
        "bridge",
        &["error", "hooks", "job", "job_future", "scheduler", "waiting"],
    ),
];

/// The two sides. They must not name each other, whatever the table says.
const INSIDE: &[&str] = &["waiting", "io", "time", "offload"];
const OUTSIDE: &[&str] = &["scheduler", "job_future"];

#[test]
fn every_import_is_in_the_table() {
    let mut violations = Vec::new();
    for (file, module, source) in modules() {
        for violation in violations_in(&module, &source) {
            violations.push(format!("{}: {violation}", file.display()));
        }
    }
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn every_permission_is_used() {
    let files: Vec<_> = modules().map(|(_, module, source)| (module, source)).collect();
    let unused = unused_permissions(MAY_IMPORT, &files);
    assert!(
        unused.is_empty(),
        "tests/layers.rs permits what no file uses: {unused:?}"
    );
    for (module, _) in MAY_IMPORT {
        assert!(
            files.iter().any(|(file, _)| file == module),
            "there is no module {module}"
        );
    }
}

#[test]
fn the_table_keeps_the_two_sides_apart() {
    let allowed = |module: &str| MAY_IMPORT.iter().find(|row| row.0 == module).unwrap().1;
    for inside in INSIDE {
        for outside in OUTSIDE {
            assert!(!allowed(inside).contains(outside), "{inside} may import {outside}");
            assert!(!allowed(outside).contains(inside), "{outside} may import {inside}");
        }
    }
}

/// The order of the table excludes cycles.
#[test]
fn the_table_is_in_order() {
    for (at, (module, imports)) in MAY_IMPORT.iter().enumerate() {
        for import in *imports {
            let above = MAY_IMPORT[..at].iter().any(|row| row.0 == *import);
            assert!(above, "{module} may import {import}, which is not above it");
        }
    }
}

/// The check finds a forbidden import in each form in which an import can be written.
#[test]
fn a_forbidden_import_is_found() {
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
            "use crate::{\n    sys::{self, check},\n    pool,\n};",
            "stack may not import pool",
        ),
        ("pool", "use crate::job;", "pool may not import job"),
        (
            "time",
            "use crate::Scheduler;",
            "time names Scheduler through the root of the crate: name its module",
        ),
        (
            "unlisted",
            "use crate::job::Job;",
            "unlisted is not in the table of tests/layers.rs",
        ),
    ];
    for (module, source, expected) in cases {
        assert_eq!(violations_in(module, source), [expected], "{source}");
    }
}

/// A permission counts as used only when its module names the other module in code.
#[test]
fn an_unused_permission_is_found() {
    let table: &[(&str, &[&str])] = &[("sys", &[]), ("io", &["sys"])];
    let file = |source: &str| [("io".to_string(), source.to_string())];
    assert_eq!(
        unused_permissions(table, &file("// crate::sys\n")),
        ["io may import sys"]
    );
    assert_eq!(unused_permissions(table, &file("use crate::sys::Epoll;")), [""; 0]);
}

#[test]
fn an_allowed_import_is_no_violation() {
    let cases = [
        ("io", "use crate::{error::Cancelled, waiting::{pause_until, WaitSpec}};"),
        ("pool", "use crate::stack::{self, Stack};"),
        (
            "error",
            "/// [`pause_job`](crate::job::pause_job)\n// crate::scheduler\n/* crate::io */ struct Cancelled;",
        ),
        ("job", "use crate::job::ControlBlock;"),
        ("job_future", "macro_rules! m { () => { $crate::job::Job } }"),
    ];
    for (module, source) in cases {
        assert_eq!(violations_in(module, source), [""; 0], "{source}");
    }
}

/// The forbidden names in `source`, a file of `module`.
fn violations_in(module: &str, source: &str) -> Vec<String> {
    let Some((_, allowed)) = MAY_IMPORT.iter().find(|row| row.0 == module) else {
        return vec![format!("{module} is not in the table of tests/layers.rs")];
    };
    let mut violations = Vec::new();
    for path in crate_paths(&without_comments(source)) {
        let target = path.split("::").next().unwrap_or_default();
        if target == module || allowed.contains(&target) {
            continue;
        }
        violations.push(if !MAY_IMPORT.iter().any(|row| row.0 == target) {
            format!("{module} names {target} through the root of the crate: name its module")
        } else {
            format!("{module} may not import {target}")
        });
    }
    violations
}

/// The permissions of `table` that no file of `files` (module and source) uses.
fn unused_permissions(table: &[(&str, &[&str])], files: &[(String, String)]) -> Vec<String> {
    let uses = |module: &str, import: &str| {
        files.iter().filter(|(file, _)| file == module).any(|(_, source)| {
            let paths = crate_paths(&without_comments(source));
            paths.iter().any(|path| path.split("::").next() == Some(import))
        })
    };
    let permissions = table
        .iter()
        .flat_map(|(module, imports)| imports.iter().map(move |import| (*module, *import)));
    permissions
        .filter(|(module, import)| !uses(module, import))
        .map(|(module, import)| format!("{module} may import {import}"))
        .collect()
}

/// The path, the module and the text of every source file.
fn modules() -> impl Iterator<Item = (PathBuf, String, String)> {
    let files = sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")));
    let modules = files.into_iter().map(|file| {
        let (module, source) = (module_of(&file), fs::read_to_string(&file).unwrap());
        (file, module, source)
    });
    modules.filter(|(_, module, _)| module != "lib")
}

/// Every `module::item` that follows `crate::`, with groups expanded.
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

/// Reads one path or one group of paths, down to two segments. Returns the rest of the source.
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

/// Every source file except unit tests, which may use everything.
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
