//! Options of the linker for the shared object.

fn main() {
    // The object contains the destructor of a pthread key, so the loader must never unload it.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // Programs preload this object. Those that are linked with the library have another, which the Makefile links
    // (libasyncjob.so.0).
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libasyncjob-preload.so");
    println!("cargo:rerun-if-changed=build.rs");
}
