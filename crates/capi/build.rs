//! Options of the linker for the shared object.

fn main() {
    // The object contains the destructor of a pthread key, so the loader must never unload it.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // The name that the loader is asked for by programs that were linked with the object.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libasyncjob.so");
    println!("cargo:rerun-if-changed=build.rs");
}
