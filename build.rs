//! Refuses a target that the library does not support, in one sentence. A `compile_error!` in the library would stand
//! among dozens of errors about system calls and registers that the target does not have.
//!
//! Also sets `asyncjob_portable` where the system calls of Linux are missing. With
//! `RUSTFLAGS="--cfg asyncjob_portable"` it is set on Linux, too, so that tests can run what is used elsewhere. And
//! sets `asyncjob_tlsdesc` for the feature `tlsdesc`, where `src/sys/thread_words.rs` has assembly for it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(asyncjob_portable)");
    let of_target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if let Some(sentence) = refusal(&of_target("OS"), &of_target("ARCH"), &of_target("POINTER_WIDTH")) {
        println!("cargo::error={sentence}");
    }
    println!("cargo::rustc-check-cfg=cfg(asyncjob_tlsdesc)");
    let has_feature = std::env::var_os("CARGO_FEATURE_TLSDESC").is_some();
    if has_feature && (of_target("OS"), of_target("ARCH")) == ("linux".into(), "x86_64".into()) {
        println!("cargo::rustc-cfg=asyncjob_tlsdesc");
    }
    if of_target("OS") != "linux" {
        println!("cargo::rustc-cfg=asyncjob_portable");
    }
}

/// Why there is no library for this target, and what to do instead.
pub(crate) fn refusal(os: &str, arch: &str, pointer_width: &str) -> Option<String> {
    if os == "windows" {
        return Some(
            "asyncjob does not support Windows: a job waits for file descriptors, as OpenSSL's ASYNC_JOB does on Unix, \
             and Windows can poll none. Build for Linux, for example in WSL 2"
                .into(),
        );
    }
    if !["linux", "macos", "freebsd"].contains(&os) {
        return Some(format!(
            "asyncjob does not support {os} yet: it knows the system calls of Linux, and for development those of \
             macOS and FreeBSD. Build for Linux, for example in a container"
        ));
    }
    if pointer_width != "64" {
        return Some(format!(
            "asyncjob does not support {pointer_width}-bit targets such as {arch}: slabs of stacks and handles of C \
             programs need a 64-bit address space"
        ));
    }
    if !["x86_64", "aarch64"].contains(&arch) {
        return Some(format!(
            "asyncjob does not support {arch} yet: it is tested on x86_64 and aarch64, and its overflow reports read \
             the registers of these processors only"
        ));
    }
    None
}
