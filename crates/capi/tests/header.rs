//! Promise: the header is current and agrees with the header of OpenSSL.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use asyncjob_testing::tools::{CC, CXX, missing};
use support::{C_WITH_OPENSSL, On, compile, printed, source};

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

#[test]
fn the_header_is_c89_and_cpp98() {
    if missing(&[CC, CXX]) {
        return;
    }
    let twice = "#include <asyncjob.h>\n#include <asyncjob.h>\n";
    for (compiler, standard, suffix) in [("cc", "-std=c89", "c"), ("c++", "-std=c++98", "cc")] {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join("header_alone")
            .with_extension(suffix);
        fs::write(&program, twice).unwrap();
        let mut command = Command::new(compiler);
        command.args([
            standard,
            "-pedantic-errors",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-fsyntax-only",
            "-I",
        ]);
        printed({
            command.arg(source("include")).arg(program);
            command
        });
    }
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
