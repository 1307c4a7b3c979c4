//! Promise: a program that has OpenSSL linked statically learns that its engines and providers cannot pause, from its
//! linker or from `check`.

use std::env;
use std::process::{Command, Output};

use asyncjob_testing::tools::{CC, OPENSSL_HEADERS, STATIC_LIBCRYPTO, missing};

/// Builds a program with `libcrypto.a`, from which it uses functions, and with these arguments for its linker.
fn build(linker_arguments: &str) -> Output {
    Command::new(env!("CARGO"))
        .args(["rustc", "--quiet", "--example", "unexported", "--target-dir"])
        .arg(env!("CARGO_TARGET_TMPDIR"))
        .args(["--", "-Clink-arg=-Wl,-u,EVP_PKEY_sign", "-Clink-arg=-l:libcrypto.a"])
        .arg(format!("-Clink-arg=-Wl,--export-dynamic{linker_arguments}"))
        .args(["-Clink-arg=-ldl", "-Clink-arg=-lpthread"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs")
}

#[test]
fn static_openssl_is_refused_by_the_linker_or_by_check() {
    if missing(&[CC, OPENSSL_HEADERS, STATIC_LIBCRYPTO]) {
        return;
    }
    // `libcrypto.a` has the 24 functions, too, and the objects with them are needed by others.
    let refused = build("");
    let said = String::from_utf8_lossy(&refused.stderr);
    let is_duplicate = said.contains("duplicate symbol") || said.contains("multiple definition");
    assert!(
        !refused.status.success() && is_duplicate && said.contains("ASYNC_"),
        "{said}"
    );

    // A program whose linker is told to go on.
    let built = build(",--allow-multiple-definition");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let program = format!("{}/debug/examples/unexported", env!("CARGO_TARGET_TMPDIR"));
    let output = Command::new(program).output().expect("the program was built");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success()
            && said.contains("linked statically into the object of asyncjob_capi")
            && said.contains("OPENSSL_STATIC=0"),
        "{said}"
    );
}
