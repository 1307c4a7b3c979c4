//! Promise: a handle that the program made up, or that has ended or was freed, harms nothing: the call fails, and no
//! other job and no other wait ctx notices.
//!
//! Random histories use live handles, stale ones, live ones with a bit changed, and numbers. A model knows which
//! handles are live and what each wait ctx holds. After each act all live wait ctxs are compared with the model.
//! (OpenSSL crashes here, so `differential` leaves these calls out.)

#![allow(unsafe_code, reason = "calls a C library, which runs jobs on their own stacks")]

mod histories;
mod support;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{env, fs};

use histories::{Api, functions};
use libloading::Library;
use proptest::prelude::*;

/// One history at a time: the handles belong to the process, so one that a history makes up may be one of the other's.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The functions of the shared object, which is never closed.
fn open() -> Api {
    // SAFETY: the library may be initialised on this thread.
    let library = unsafe { Library::new(support::shared_object()) }.expect("it was built");
    let library = Box::leak(Box::new(library));
    macro_rules! get {
        ($($field:ident = $symbol:ident: $type:ty;)*) => {
            Api {
                // SAFETY: the public function of that name has this type.
                $($field: *unsafe { library.get(stringify!($symbol).as_bytes()) }.expect("a public function"),)*
            }
        };
    }
    functions!(get)
}

#[test]
fn no_handle_that_is_none_harms_anything() {
    let _alone = alone();
    let api = open();
    let histories = env::var("ASYNCJOB_SEQUENCES").map_or(1_000, |n| n.parse().expect("a number"));
    let config = ProptestConfig {
        cases: histories,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(bytes in prop::collection::vec(any::<u8>(), 0..300))| histories::run(api, &bytes));
}

/// What a fuzzer has found that reaches code which the others do not reach.
#[test]
fn no_history_of_the_corpus_harms_anything() {
    let _alone = alone();
    let api = open();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/handles");
    let histories: Vec<_> = fs::read_dir(corpus).expect("the corpus is there").collect();
    assert!(histories.len() > 50, "{} histories", histories.len());
    for history in histories {
        histories::run(api, &fs::read(history.unwrap().path()).unwrap());
    }
}
