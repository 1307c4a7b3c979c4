//! Promise: the header is current and agrees with the header of OpenSSL, and the library exports what it declares.

mod support;

use std::fs;
use std::process::Command;

use asyncjob_testing::tools::{NM, missing};
use support::{C_WITH_OPENSSL, On, compile, printed, shared_object, source};

#[test]
fn the_header_is_made_from_these_sources() {
    let config = cbindgen::Config::from_file(source("cbindgen.toml")).expect("a valid configuration");
    let bindings = cbindgen::Builder::new()
        .with_crate(source("../capi-lib"))
        .with_config(config)
        .generate()
        .expect("these sources");
    let mut made = Vec::new();
    bindings.write(&mut made);
    let made = String::from_utf8(made).unwrap();
    let path = source("include/asyncjob.h");
    if std::env::var_os("ASYNCJOB_WRITE_HEADER").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap();
    assert!(
        made == kept,
        "not current. To write it: ASYNCJOB_WRITE_HEADER=1 cargo test -p asyncjob-capi --test header\n{made}"
    );
}

/// The functions of OpenSSL 3.2 and later; 3.0 lacks the last two.
const FUNCTIONS: [&str; 22] = [
    "ASYNC_WAIT_CTX_clear_fd",
    "ASYNC_WAIT_CTX_free",
    "ASYNC_WAIT_CTX_get_all_fds",
    "ASYNC_WAIT_CTX_get_callback",
    "ASYNC_WAIT_CTX_get_changed_fds",
    "ASYNC_WAIT_CTX_get_fd",
    "ASYNC_WAIT_CTX_get_status",
    "ASYNC_WAIT_CTX_new",
    "ASYNC_WAIT_CTX_set_callback",
    "ASYNC_WAIT_CTX_set_status",
    "ASYNC_WAIT_CTX_set_wait_fd",
    "ASYNC_block_pause",
    "ASYNC_cleanup_thread",
    "ASYNC_get_current_job",
    "ASYNC_get_wait_ctx",
    "ASYNC_init_thread",
    "ASYNC_is_capable",
    "ASYNC_pause_job",
    "ASYNC_start_job",
    "ASYNC_unblock_pause",
    "ASYNC_get_mem_functions",
    "ASYNC_set_mem_functions",
];

/// S6: without versions, which `nm` would show behind the names.
#[test]
fn all_functions_are_exported_and_nothing_else() {
    if missing(&[NM]) {
        return;
    }
    let mut nm = Command::new("nm");
    nm.args(["--dynamic", "--defined-only", "--format=just-symbols"])
        .arg(shared_object());
    let listing = printed(nm);
    let mut exported: Vec<_> = listing.lines().collect();
    let mut expected = FUNCTIONS.to_vec();
    expected.extend(["OPENSSL_thread_stop", "OSSL_LIB_CTX_set0_default"]); // the two that are interposed
    exported.sort_unstable();
    expected.sort_unstable();
    assert_eq!(exported, expected);
    let header = fs::read_to_string(source("include/asyncjob.h")).unwrap();
    let missing = FUNCTIONS.iter().find(|name| !header.contains(&format!("{name}(")));
    assert_eq!(missing, None);
}

#[test]
fn the_header_agrees_with_the_one_of_openssl() {
    if missing(C_WITH_OPENSSL) {
        return;
    }
    // The program does not compile if a type or a number differs.
    let include = format!("-I{}", source("include").display());
    let program = compile("tests/c/both_headers.c", &[&include, "-lcrypto"]);
    assert_eq!(printed(On::Ours.command(program)), "agreed\n");
}
