//! Exports the C functions from the tests, as a program does.

fn main() {
    let functions = ["ASYNC_*", "OPENSSL_thread_stop", "OSSL_LIB_CTX_set0_default"];
    let arguments = functions.map(|function| format!(",--export-dynamic-symbol={function}"));
    println!("cargo::rustc-link-arg-tests=-Wl{}", arguments.concat());
    println!("cargo::rerun-if-changed=build.rs");
}
