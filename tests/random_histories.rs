//! Promise: no history of calls loses a value, a stack, a wake or a result.
//!
//! `fuzz/README.md` says how to look longer, with a fuzzer.

mod histories;

use std::path::Path;
use std::{env, fs};

use asyncjob_testing::Watchdog;
use proptest::prelude::*;

/// How many histories are tried, unless `PROPTEST_CASES` says so.
fn config(cases: u32) -> ProptestConfig {
    let cases = env::var("PROPTEST_CASES").map_or(Ok(cases), |text| text.parse());
    ProptestConfig {
        cases: cases.expect("PROPTEST_CASES is a number"),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(3000))]

    #[test]
    fn no_history_of_jobs_loses_anything(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        histories::jobs::run(&bytes);
    }
}

proptest! {
    #![proptest_config(config(1000))]

    #[test]
    fn no_history_of_a_scheduler_loses_anything(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _watchdog = Watchdog::new();
        histories::scheduler::run(&bytes);
    }
}

/// What a fuzzer has found that reaches code which the others do not reach.
#[test]
fn no_history_of_the_corpus_loses_anything() {
    let _watchdog = Watchdog::new();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (target, run) in [
        ("jobs", histories::jobs::run as fn(&[u8])),
        ("scheduler", histories::scheduler::run),
    ] {
        let files = fs::read_dir(corpus.join(target)).expect("the corpus is there");
        let histories: Vec<_> = files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
        assert!(histories.len() > 50, "{} histories of {target}", histories.len());
        histories.iter().for_each(|bytes| run(bytes));
    }
}
