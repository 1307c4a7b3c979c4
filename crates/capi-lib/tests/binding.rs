//! Promise: `check` says whether OpenSSL reaches the functions of this library, and what to do if it does not.

#![allow(unsafe_code, reason = "loads libcrypto")]

use std::env;
use std::path::PathBuf;
use std::process::Command;

use asyncjob_capi::{NotBound, check};
use asyncjob_testing::tools::{LIBCRYPTO, missing};

/// The tests are linked with the line of the documentation.
#[test]
fn a_program_that_exports_the_functions_binds_libcrypto() {
    assert_eq!(check(), Err(NotBound::NoLibcrypto), "it is not loaded yet");
    if missing(&[LIBCRYPTO]) {
        return;
    }
    // SAFETY: the constructors of libcrypto have no conditions.
    let handle = unsafe { libc::dlopen(c"libcrypto.so.3".as_ptr(), libc::RTLD_LAZY | libc::RTLD_GLOBAL) };
    assert!(!handle.is_null());
    assert_eq!(check(), Ok(()));
}

#[test]
fn a_program_that_exports_nothing_is_told_how() {
    let test = env::current_exe().unwrap();
    let program: PathBuf = test.ancestors().nth(2).unwrap().join("examples/unexported");
    let said = |library: &str| {
        let output = Command::new(&program)
            .env("LD_PRELOAD", library)
            .output()
            .expect("the example was built");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let alone = said("");
    assert!(
        alone.contains("does not call ASYNC_") && alone.contains("build script"),
        "{alone}"
    );
    if !missing(&[LIBCRYPTO]) {
        let beside_stock = said("libcrypto.so.3");
        assert!(
            beside_stock.contains("but that of ") && beside_stock.contains("libcrypto.so.3"),
            "{beside_stock}"
        );
    }
}
