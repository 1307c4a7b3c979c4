//! Whether each error of a crate leads to the page of the guide that helps.

use std::any::type_name;
use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::Path;

/// A value of a public error type, and the page that its text names, or the reason why it names none.
#[derive(Debug)]
pub struct ErrorCase {
    /// `Type::Variant`. A struct has its name twice.
    name: String,
    text: String,
    debug: String,
    source: Option<String>,
    page: Option<&'static str>,
}

impl ErrorCase {
    fn new<E: Error>(page: Option<&'static str>, error: &E) -> Self {
        let (path, debug) = (type_name::<E>(), format!("{error:?}"));
        let path = path.split('<').next().unwrap_or(path);
        ErrorCase {
            name: format!("{}::{}", path.rsplit(':').next().unwrap_or(path), identifier(&debug)),
            text: error.to_string(),
            debug,
            source: error.source().map(|source| format!("{source:?}")),
            page,
        }
    }

    fn check(&self) {
        let ErrorCase { name, text, debug, .. } = self;
        let Some(page) = self.page else {
            return assert!(!text.contains("/docs/guide/"), "{name} names a page: {text:?}");
        };
        let end = format!("/docs/guide/{page}.md]");
        assert!(text.ends_with(&end), "{name}: {text:?} does not end with {end:?}");
        // What `unwrap` prints, and a `main` that returns an error: the sentence is there, too.
        let source = self.source.as_ref().map(|source| format!(": {source}"));
        let expected = format!("{}: {text}{}", identifier(debug), source.unwrap_or_default());
        assert_eq!(*debug, expected, "{name}");
    }
}

/// This error's text ends with the address of that page.
pub fn leads_to(page: &'static str, error: impl Error) -> ErrorCase {
    ErrorCase::new(Some(page), &error)
}

/// This error's text names no page. The reason is for the reader of the test.
pub fn leads_nowhere(_reason: &'static str, error: impl Error) -> ErrorCase {
    ErrorCase::new(None, &error)
}

/// Checks the cases, and that they are all variants of all public error types in the sources of a crate.
///
/// # Panics
///
/// When a text is not as its case says, when a variant has no case, and when the sources cannot be read.
#[track_caller]
pub fn check_errors(sources: &Path, cases: &[ErrorCase]) {
    cases.iter().for_each(ErrorCase::check);
    let covered: BTreeSet<_> = cases.iter().map(|case| case.name.clone()).collect();
    let mut declared = BTreeSet::new();
    add_errors_in(sources, &mut declared);
    assert!(
        !declared.is_empty(),
        "{} has no error type that this test can find",
        sources.display()
    );
    assert_eq!(covered, declared, "left: the cases; right: the sources");
}

fn add_errors_in(path: &Path, errors: &mut BTreeSet<String>) {
    if path.is_dir() {
        let entries = fs::read_dir(path).expect("a directory of sources");
        entries.for_each(|entry| add_errors_in(&entry.expect("an entry of it").path(), errors));
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        add_errors_of(&fs::read_to_string(path).expect("a source"), errors);
    }
}

/// The errors of one source, which has the type and its `impl Error` both. A type that a macro implements `Error` for
/// is not found: it has the text of another one, its kind.
fn add_errors_of(source: &str, errors: &mut BTreeSet<String>) {
    for line in source.lines().filter(|line| line.starts_with("impl")) {
        let Some((implemented, name)) = line.split_once(" for ") else {
            continue;
        };
        if !implemented.ends_with("Error") {
            continue; // `From<...Error>`, for instance
        }
        let name = identifier(name);
        let is_declaration =
            |line: &str, kind: &str| line.strip_prefix(kind).is_some_and(|rest| identifier(rest) == name);
        if source.lines().any(|line| is_declaration(line, "pub struct ")) {
            errors.insert(format!("{name}::{name}"));
        }
        let from_enum = source.lines().skip_while(|line| !is_declaration(line, "pub enum "));
        for variant in from_enum.skip(1).take_while(|line| *line != "}") {
            let variant = variant.strip_prefix("    ").unwrap_or_default();
            if variant.starts_with(char::is_uppercase) {
                errors.insert(format!("{name}::{}", identifier(variant)));
            }
        }
    }
}

/// The identifier at the beginning of `text`.
fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    &text[..end.unwrap_or(text.len())]
}
