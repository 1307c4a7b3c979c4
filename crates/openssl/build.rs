//! Exports the functions of `asyncjob_capi` from the tests and the example, as a program does.

fn main() {
    let functions = ["ASYNC_*", "OPENSSL_thread_stop", "OSSL_LIB_CTX_set0_default"];
    let arguments = functions.map(|function| format!(",--export-dynamic-symbol={function}"));
    for kind in ["tests", "examples"] {
        println!("cargo::rustc-link-arg-{kind}=-Wl{}", arguments.concat());
    }
    println!("cargo::rerun-if-changed=build.rs");
}
