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
        link("boost_context");
        link("stdc++");
        println!("cargo::rustc-cfg=boost");
    }
}

/// Links a library of C++, statically where that is installed: in a process with a C++ runtime our C ABI exchanges the
/// exceptions that are being handled at each switch. Most programs that use OpenSSL have no such runtime.
fn link(name: &str) {
    let print = format!("-print-file-name=lib{name}.a");
    let output = cc::Build::new()
        .cpp(true)
        .get_compiler()
        .to_command()
        .arg(print)
        .output();
    let path = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_string());
    // The compiler prints the name alone for a file that is not there.
    match path.as_ref().map(|path| Path::new(path).parent()) {
        Ok(Some(directory)) if directory.is_absolute() => {
            println!("cargo::rustc-link-search=native={}", directory.display());
            println!("cargo::rustc-link-lib=static:-bundle={name}");
        }
        _ => println!("cargo::rustc-link-lib={name}"),
    }
}

/// Compiles the shim with optimisation in every profile: a slow shim would make a slow peer.
fn compile() -> Result<(), cc::Error> {
    cc::Build::new()
        .cpp(true)
        .cpp_link_stdlib(None) // see `link`
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
