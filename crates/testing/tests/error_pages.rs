//! Promise: the check of error texts fails for a text without its page, for a page that is not expected, for a variant
//! without a case, and for a `Debug` without the sentence.

use std::error::Error;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::thread;

use asyncjob_testing::error_pages::{ErrorCase, check_errors, leads_nowhere, leads_to};

const SOURCE: &str = "
pub enum Broken {
    /// A comment.
    Early { at: u32 },
    Late(String),
}

impl std::error::Error for Broken {}
impl From<Broken> for std::io::Error {}
";

enum Broken {
    Early,
    Late,
    Mute,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Broken::Early | Broken::Mute => "too early [https://example.org/docs/guide/jobs.md]",
            Broken::Late => "too late",
        })
    }
}

impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Early => write!(f, "Early: {self}"),
            Broken::Late => f.write_str("Late"),
            Broken::Mute => f.write_str("Early"),
        }
    }
}

impl Error for Broken {}

/// Whether the check passes for a crate of one file.
fn passes(name: &str, cases: &[ErrorCase]) -> bool {
    let sources = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&sources).unwrap();
    fs::write(sources.join("lib.rs"), SOURCE).unwrap();
    thread::scope(|scope| scope.spawn(|| check_errors(&sources, cases)).join().is_ok())
}

#[test]
fn each_variant_needs_a_case_that_is_true() {
    let early = || leads_to("jobs", Broken::Early);
    let late = || leads_nowhere("nothing helps", Broken::Late);
    assert!(passes("all", &[early(), late()]));
    assert!(!passes("one-missing", &[early()]));
    assert!(!passes("another-page", &[leads_to("bound", Broken::Early), late()]));
    assert!(!passes("no-page", &[early(), leads_to("bound", Broken::Late)]));
    assert!(!passes(
        "a-page-all-the-same",
        &[leads_nowhere("", Broken::Early), late()]
    ));
    assert!(!passes("no-sentence", &[leads_to("jobs", Broken::Mute), late()]));
}
