//! Turns on `asyncjob_loom` for this crate only: its atomics are those of loom.
fn main() {
    println!("cargo::rustc-cfg=asyncjob_loom");
    println!("cargo::rerun-if-changed=build.rs");
}
