//! Promise: the contract defines every number that is cited, and a test cites every number that the contract promises.
//!
//! `docs/openssl-behaviour.md` is the contract. It defines the numbers S1, S2 and so on. Each says in fixed words
//! whether the C drop-in and the Rust API promise something. These tests read the contract and check three rules:
//!
//! * A number that is cited anywhere in the repository is defined in the contract.
//! * A link into the contract leads to an anchor that it has. A number links to its own anchor.
//! * A number that promises something of the Rust API is cited by a test of this package. A number that promises
//!   something of the C drop-in is cited by a test in `crates/capi/tests`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const CONTRACT: &str = "docs/openssl-behaviour.md";

/// The words with which a row of the contract begins.
const VERDICTS: [&str; 4] = ["Same", "Defined", "Different", NO_PROMISE];
const NO_PROMISE: &str = "No promise";
const ROWS: [&str; 4] = ["OpenSSL", "C drop-in", "Rust API", "Both"];

#[test]
fn the_contract_is_kept() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(root, root, &mut files);
    for part in [
        "src/lib.rs",
        "tests/wait_fds.rs",
        "crates/capi/tests/c/fixes/nested_start.c",
    ] {
        assert!(files.iter().any(|file| file.path == part), "{part} was not read");
    }
    let text = fs::read_to_string(root.join(CONTRACT)).unwrap();
    let problems = problems(&text, &files);
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));

    let count = Contract::read(&text).sections.len();
    assert!(
        text.contains(&format!("It lists {count} behaviours")),
        "{CONTRACT} does not list {count} behaviours"
    );
}

/// A file of the repository, with its path from the root.
struct File {
    path: String,
    text: String,
}

/// Collects every file that may cite a number, except this one, which cites numbers that do not exist.
fn collect(root: &Path, folder: &Path, files: &mut Vec<File>) {
    const KINDS: [&str; 6] = ["rs", "md", "c", "h", "cpp", "toml"];
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if name != "target" && name != ".git" {
                collect(root, &path, files);
            }
        } else if path
            .extension()
            .is_some_and(|kind| KINDS.iter().any(|one| kind == *one))
            && name != "citations.rs"
        {
            let text = fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(root).unwrap().to_str().unwrap().to_string();
            files.push(File { path, text });
        }
    }
}

/// The faults of the contract, of its citations, and of the tests that should cite it.
fn problems(contract: &str, files: &[File]) -> Vec<String> {
    let contract = Contract::read(contract);
    let mut problems = contract.problems.clone();
    let (mut of_drop_in, mut of_rust) = (BTreeSet::new(), BTreeSet::new());
    for file in files {
        let path = &file.path;
        for number in citations(&file.text).difference(&contract.numbers()) {
            problems.push(format!("{path} cites {number}, which {CONTRACT} does not define"));
        }
        problems.extend(
            contract
                .wrong_links(file)
                .into_iter()
                .map(|wrong| format!("{path} {wrong}")),
        );
        if path.starts_with("crates/capi/tests/") {
            of_drop_in.extend(citations(&file.text));
        } else if path.starts_with("tests/") {
            of_rust.extend(citations(&file.text));
        } else if path.starts_with("src/") {
            of_rust.extend(citations(&tests_in(path, &file.text)));
        }
    }
    for section in &contract.sections {
        for number in &section.numbers {
            if section.drop_in_promises && !of_drop_in.contains(number) {
                problems.push(format!(
                    "{number} promises something of the C drop-in: no test in crates/capi/tests cites it"
                ));
            }
            if section.rust_promises && !of_rust.contains(number) {
                problems.push(format!(
                    "{number} promises something of the Rust API: no test of this package cites it"
                ));
            }
        }
    }
    problems
}

/// The content of the contract.
#[derive(Default)]
struct Contract {
    sections: Vec<Section>,
    /// The anchors that links may name.
    anchors: BTreeSet<String>,
    problems: Vec<String>,
}

/// One behaviour.
struct Section {
    /// The number of the behaviour, then the numbers of its cases: S37, S37a, S37b.
    numbers: Vec<String>,
    rows: Vec<&'static str>,
    drop_in_promises: bool,
    rust_promises: bool,
}

impl Section {
    fn new(number: &str) -> Self {
        Section {
            numbers: vec![number.into()],
            rows: Vec::new(),
            drop_in_promises: false,
            rust_promises: false,
        }
    }
}

impl Contract {
    fn read(text: &str) -> Contract {
        let mut contract = Contract::default();
        for line in text.lines() {
            contract.read_line(line);
        }
        contract.end_section();
        contract
    }

    fn read_line(&mut self, line: &str) {
        let anchor = line
            .split_once("<a id=\"")
            .and_then(|(_, rest)| rest.split_once("\"></a>"));
        if let Some((anchor, after)) = anchor {
            if !self.anchors.insert(anchor.to_string()) {
                self.problems.push(format!("the anchor {anchor} is there twice"));
            }
            self.read_definition(line, anchor, after);
        } else if line.starts_with("### ") {
            self.problems.push(format!("a behaviour without an anchor: {line}"));
        } else if let Some((label, rest)) = line.strip_prefix("* **").and_then(|row| row.split_once(":** ")) {
            self.read_row(label, rest);
        }
    }

    /// A heading begins a section. A list item with a number below it is a case of that section.
    fn read_definition(&mut self, line: &str, anchor: &str, after: &str) {
        let number = after.split_once(": ").map_or("", |(number, _)| number);
        let is_heading = line.starts_with("### ");
        if !is_heading && number_of(number).is_none() {
            return; // an anchor for something else
        }
        if number.strip_prefix('S') != anchor.strip_prefix('s') {
            self.problems
                .push(format!("the anchor {anchor} is not that of its number: {line}"));
        }
        if is_heading {
            self.end_section();
            let before = self.sections.last().and_then(|section| number_of(&section.numbers[0]));
            let next = format!("S{}", before.unwrap_or(0) + 1);
            if number != next {
                self.problems.push(format!("{next} is missing before {number}"));
            }
            self.sections.push(Section::new(number));
        } else if let Some(section) = self.sections.last_mut() {
            if number.trim_end_matches(|c: char| c.is_ascii_lowercase()) != section.numbers[0] {
                self.problems
                    .push(format!("{number} stands below {}", section.numbers[0]));
            }
            section.numbers.push(number.into());
        }
    }

    fn read_row(&mut self, label: &str, rest: &str) {
        let Some(section) = self.sections.last_mut() else {
            return;
        };
        let number = &section.numbers[0];
        let Some(label) = ROWS.into_iter().find(|row| *row == label) else {
            self.problems.push(format!("{number} has a row \"{label}\""));
            return;
        };
        section.rows.push(label);
        if label == "OpenSSL" {
            return;
        }
        let verdict = VERDICTS.into_iter().find(|word| {
            let after = rest.strip_prefix(word).and_then(|rest| rest.chars().next());
            after.is_some_and(|c| ".,: ".contains(c))
        });
        let Some(verdict) = verdict else {
            let problem = format!("the row \"{label}\" of {number} begins with none of {VERDICTS:?}");
            return self.problems.push(problem);
        };
        let promises = verdict != NO_PROMISE;
        section.drop_in_promises |= promises && label != "Rust API";
        section.rust_promises |= promises && label != "C drop-in";
    }

    fn end_section(&mut self) {
        let Some(section) = self.sections.last() else { return };
        let complete = section.rows == ["OpenSSL", "C drop-in", "Rust API"] || section.rows == ["OpenSSL", "Both"];
        if !complete {
            let number = &section.numbers[0];
            self.problems.push(format!("{number} has the rows {:?}", section.rows));
        }
    }

    fn numbers(&self) -> BTreeSet<String> {
        self.sections
            .iter()
            .flat_map(|section| section.numbers.iter().cloned())
            .collect()
    }

    /// The links of a file that name a missing anchor, or the anchor of another number.
    fn wrong_links(&self, file: &File) -> Vec<String> {
        let mut wrong = Vec::new();
        for (at, _) in file.text.match_indices('#') {
            let link = Link::at(&file.text, at);
            let is_local = file.path == CONTRACT && link.target.is_empty() && link.label.is_some();
            if !is_local
                && !["openssl_behaviour", "openssl-behaviour.md"]
                    .iter()
                    .any(|end| link.target.ends_with(end))
            {
                continue;
            }
            let (anchor, label) = (link.anchor, link.label.unwrap_or_default());
            if !self.anchors.contains(anchor) {
                wrong.push(format!("links to #{anchor}, which {CONTRACT} does not have"));
            }
            if number_of(label).is_some() && label.strip_prefix('S') != anchor.strip_prefix('s') {
                wrong.push(format!("links {label} to #{anchor}"));
            }
            if file.path.ends_with(".md")
                && link.target.ends_with(".md")
                && resolve(&file.path, link.target) != CONTRACT
            {
                wrong.push(format!("links to {}, where {CONTRACT} is not", link.target));
            }
        }
        wrong
    }
}

/// A link of the form `[label](target#anchor)` or `[label]: target#anchor`, or text that looks like one.
struct Link<'a> {
    label: Option<&'a str>,
    target: &'a str,
    anchor: &'a str,
}

impl<'a> Link<'a> {
    /// The link whose `#` is at the byte `hash`.
    fn at(text: &'a str, hash: usize) -> Self {
        let (before, after) = (&text[..hash], &text[hash + 1..]);
        let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        let target = before
            .rsplit(|c: char| c == '(' || c.is_whitespace())
            .next()
            .unwrap_or_default();
        let prefix = before[..before.len() - target.len()].trim_end();
        let label = prefix.strip_suffix("](").or_else(|| prefix.strip_suffix("]:"));
        Link {
            label: label.and_then(|before| before.rsplit('[').next()),
            target,
            anchor: &after[..end.unwrap_or(after.len())],
        }
    }
}

/// The path of a relative link's target, from the root of the repository.
fn resolve(file: &str, target: &str) -> String {
    let mut parts: Vec<&str> = file.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

/// The numbers that a text cites: `S7`, `S7a`, and all from `S7 to S9`. A case counts as a citation of its behaviour
/// too.
fn citations(text: &str) -> BTreeSet<String> {
    let words: Vec<&str> = text
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
        .collect();
    let mut numbers = BTreeSet::new();
    for (at, word) in words.iter().enumerate() {
        let Some(number) = number_of(word) else { continue };
        numbers.extend([word.to_string(), format!("S{number}")]);
        if let Some(end) = words
            .get(at + 2)
            .filter(|_| words[at + 1] == "to")
            .and_then(|end| number_of(end))
        {
            numbers.extend((number..=end).map(|number| format!("S{number}")));
        }
    }
    numbers
}

/// The number of a word such as `S37` or `S37a`.
fn number_of(word: &str) -> Option<u32> {
    let digits = word.strip_prefix('S')?;
    let digits = digits.strip_suffix(|c: char| c.is_ascii_lowercase()).unwrap_or(digits);
    digits
        .parse()
        .ok()
        .filter(|_| digits.len() <= 3 && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The part of a source file that is a test. Unit tests are a module at the end of its file, or a file of their own.
/// Each documentation test counts together with the paragraph that introduces it.
fn tests_in(path: &str, source: &str) -> String {
    if path.ends_with("/tests.rs") {
        return source.into();
    }
    let (source, unit_tests) = source.split_once("#[cfg(test)]\nmod tests {").unwrap_or((source, ""));
    let (mut tests, mut paragraph) = (unit_tests.to_string(), String::new());
    let mut block = Block::None;
    let mut paragraph_has_ended = false;
    for line in source.lines() {
        let line = line.trim_start();
        let Some(doc) = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")) else {
            paragraph.clear();
            block = Block::None;
            continue;
        };
        if let Some(kind) = doc.trim_start().strip_prefix("```") {
            block = block.next(kind);
            if block == Block::Test {
                tests += &paragraph;
            }
            paragraph.clear();
        } else if block == Block::Test {
            tests += &format!("{doc}\n");
        } else if doc.trim().is_empty() {
            paragraph_has_ended = true;
        } else if block == Block::None {
            if std::mem::take(&mut paragraph_has_ended) {
                paragraph.clear();
            }
            paragraph += &format!("{doc}\n");
        }
    }
    tests
}

/// The kind of code block that a line of a documentation comment is in.
#[derive(Clone, Copy, PartialEq)]
enum Block {
    None,
    Text,
    Test,
}

impl Block {
    /// The state after a line that begins a block of this kind, or ends a block.
    fn next(self, kind: &str) -> Block {
        const NOT_RUN: [&str; 6] = ["text", "ignore", "no_run", "sh", "toml", "console"];
        match self {
            Block::None if NOT_RUN.iter().any(|word| kind.contains(word)) => Block::Text,
            Block::None => Block::Test,
            Block::Text | Block::Test => Block::None,
        }
    }
}

/// A contract of two behaviours, the second with a case.
const SOUND: &str = r#"
### <a id="s1"></a>S1: One

* **OpenSSL:** Does.
* **C drop-in:** Same, as [S2](#s2).
* **Rust API:** No promise. No.

### <a id="s2"></a>S2: Two

* **OpenSSL:** Does:
  * <a id="s2a"></a>S2a: so.
* **C drop-in:** Defined. Not.
* **Rust API:** Different. So.

## <a id="versions"></a>Versions
"#;

/// Files that cite [`SOUND`] as they should.
fn sound_files() -> Vec<File> {
    let files = [
        (
            "src/lib.rs",
            "/// [S2](crate::docs::openssl_behaviour#s2), [versions](openssl_behaviour#versions)",
        ),
        ("tests/two.rs", "/// S2a: so."),
        ("crates/capi/tests/c/same/two.c", "/* S1 to S2, S2a */"),
        ("README.md", "[S1](docs/openssl-behaviour.md#s1)"),
        ("crates/capi/README.md", "[S1](../../docs/openssl-behaviour.md#s1)"),
        (CONTRACT, SOUND),
    ];
    files
        .map(|(path, text)| File {
            path: path.into(),
            text: text.into(),
        })
        .into()
}

#[test]
fn a_sound_contract_has_no_problems() {
    assert_eq!(problems(SOUND, &sound_files()), [""; 0]);
}

/// The check finds each kind of fault in the contract itself.
#[test]
fn a_broken_contract_is_found() {
    let cases = [
        ("id=\"s2\"", "id=\"s3\"", "the anchor s3 is not that of its number"),
        ("<a id=\"s2\"></a>", "", "a behaviour without an anchor: ### S2: Two"),
        ("id=\"versions\"", "id=\"s1\"", "the anchor s1 is there twice"),
        ("S2a: so", "S2b: so", "the anchor s2a is not that of its number"),
        ("\"s2a\"></a>S2a", "\"s1a\"></a>S1a", "S1a stands below S2"),
        ("\"s2\"></a>S2:", "\"s4\"></a>S4:", "S2 is missing before S4"),
        (
            "Defined. Not",
            "Perhaps. Not",
            "the row \"C drop-in\" of S2 begins with none of",
        ),
        (
            "Same, as",
            "Samely as",
            "the row \"C drop-in\" of S1 begins with none of",
        ),
        (
            "* **Rust API:** Different. So.\n",
            "",
            "S2 has the rows [\"OpenSSL\", \"C drop-in\"]",
        ),
        (
            "* **Rust API:** No promise. No.",
            "* **Both:** Same.",
            "S1 has the rows [\"OpenSSL\", \"C drop-in\", \"Both\"]",
        ),
        ("**Rust API:** No", "**Rust:** No", "S1 has a row \"Rust\""),
        ("[S2](#s2)", "[S2](#s20)", "links to #s20, which"),
    ];
    for (part, broken, expected) in cases {
        let contract = SOUND.replacen(part, broken, 1);
        assert_ne!(contract, SOUND, "{part}");
        let mut files = sound_files();
        files.last_mut().unwrap().text = contract.clone();
        let problems = problems(&contract, &files);
        assert!(
            problems.iter().any(|problem| problem.contains(expected)),
            "{broken}: {problems:?}"
        );
    }
}

/// The check finds each kind of fault in the citations.
#[test]
fn a_broken_citation_is_found() {
    let cases = [
        ("src/lib.rs", "/// As in S3.", "src/lib.rs cites S3, which"),
        ("tests/two.rs", "/// S2a, S2b", "tests/two.rs cites S2b, which"),
        ("README.md", "S1 to S9", "README.md cites S9, which"),
        (
            "README.md",
            "[S1](docs/openssl-behaviour.md#s9)",
            "README.md links to #s9, which",
        ),
        (
            "README.md",
            "[S1](docs/openssl-behaviour.md#s2)",
            "README.md links S1 to #s2",
        ),
        (
            "src/lib.rs",
            "[so](crate::docs::openssl_behaviour#s2b)",
            "src/lib.rs links to #s2b, which",
        ),
        (
            "src/lib.rs",
            "[S1](crate::docs::openssl_behaviour#s1) [S2]: crate::docs::openssl_behaviour#s1",
            "src/lib.rs links S2 to #s1",
        ),
        (
            "crates/capi/README.md",
            "[S1](../docs/openssl-behaviour.md#s1)",
            "crates/capi/README.md links to ../docs/openssl-behaviour.md, where",
        ),
        (
            "tests/two.rs",
            "/// S2, but no case",
            "S2a promises something of the Rust API",
        ),
        ("tests/two.rs", "", "S2 promises something of the Rust API"),
        (
            "crates/capi/tests/c/same/two.c",
            "/* S2a */",
            "S1 promises something of the C drop-in",
        ),
    ];
    for (path, text, expected) in cases {
        let mut files = sound_files();
        files.iter_mut().find(|file| file.path == path).unwrap().text = text.into();
        let problems = problems(SOUND, &files);
        assert!(
            problems.iter().any(|problem| problem.starts_with(expected)),
            "{text}: {problems:?}"
        );
    }
}

/// A row "Both" is about the C drop-in and the Rust API.
#[test]
fn a_row_for_both_promises_for_both() {
    let row = |verdict: &str| {
        let text = format!("### <a id=\"s1\"></a>S1: One\n* **OpenSSL:** Does.\n* **Both:** {verdict}\n");
        problems(&text, &[]).len()
    };
    assert_eq!((row("Same."), row("No promise. It is libssl's.")), (2, 0));
}

/// The reader finds numbers, and takes nothing else for a number.
#[test]
fn only_numbers_are_read_as_citations() {
    let read = |text: &str| citations(text).into_iter().collect::<Vec<_>>();
    assert_eq!(
        read("/// S37a: as S16, or (S13 and S15)."),
        ["S13", "S15", "S16", "S37", "S37a"]
    );
    assert_eq!(read("S52 to S54, S60"), ["S52", "S53", "S54", "S60"]);
    assert_eq!(
        read("TLS12 and 4S5, SHA256, S_1, S1_2, S and Some, S1234, S+1, S1ab"),
        [""; 0]
    );
}

/// A citation in a source file counts in a test, and not in other documentation.
#[test]
fn tests_are_told_from_documentation() {
    let source = r#"
//! S1
//!
//! ```text
//! S2
//! ```

/// S3
///
/// S4:
///
/// ```compile_fail
/// // S5
/// ```
///
/// S6
/// ```no_run
/// S7
/// ```
fn f() {} // S8
/// S9
#[cfg(test)]
fn g() {} // S10

#[cfg(test)]
mod tests {
    // S11
}
"#;
    let read = |path| citations(&tests_in(path, source)).into_iter().collect::<Vec<_>>();
    assert_eq!(read("src/pool/mod.rs"), ["S11", "S4", "S5"]);
    assert_eq!(read("src/pool/tests.rs").len(), 11);
}
