//! Refuses a target that the library does not support, in one sentence. A `compile_error!` in the library would stand
//! among dozens of errors about system calls and registers that the target does not have.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let of_target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if let Some(sentence) = refusal(&of_target("OS"), &of_target("ARCH"), &of_target("POINTER_WIDTH")) {
        println!("cargo::error={sentence}");
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
    if os != "linux" {
        return Some(format!(
            "asyncjob does not support {os} yet: waiting, guards and overflow reports use system calls of Linux. \
             Build for Linux, for example in a container"
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
