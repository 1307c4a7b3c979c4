//! Compiles the Boost.Context shim where Boost is installed. Without it, the program reports that the peer is absent.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=shim/boost_context.cpp");
    println!("cargo::rerun-if-env-changed=ASYNCJOB_BENCH_NO_BOOST");
    println!("cargo::rustc-check-cfg=cfg(boost)");
    println!("cargo::rustc-env=ASYNCJOB_BENCH_RUSTC={}", compiler());
    let headers = ["/usr/include", "/usr/local/include"];
    let installed = headers
        .iter()
        .any(|dir| Path::new(dir).join("boost/context/fiber.hpp").exists());
    if installed && std::env::var_os("ASYNCJOB_BENCH_NO_BOOST").is_none() && compile().is_ok() {
        println!("cargo::rustc-link-lib=boost_context");
        println!("cargo::rustc-cfg=boost");
    }
}

/// Compiles the shim with optimisation in every profile: a slow shim would make a slow peer.
fn compile() -> Result<(), cc::Error> {
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .file("shim/boost_context.cpp")
        .try_compile("boost_shim")
}

/// The version of the compiler of the Rust peers, for the report.
fn compiler() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output();
    output
        .map(|out| String::from_utf8_lossy(&out.stdout).trim().to_string())
        .unwrap_or_else(|_| "unknown".into())
}
