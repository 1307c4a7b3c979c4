//! What the linker has to be told about the shared object.

fn main() {
    // It holds the destructor of a pthread key and stacks that may be written to: never unload it.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // The name that programs linked with it ask the loader for.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libasyncjob.so");
    println!("cargo:rerun-if-changed=build.rs");
}
