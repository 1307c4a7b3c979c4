//! Promise: a job that overflows its stack hits a guard and is reported by name, on every kind of thread (S70, fixed).
//! The process dies by the same signal as without the report. Every other fault goes to the previous handler.
//!
//! Each case runs in a process of its own: this test program again, with only [`child`].

#![allow(
    unsafe_code,
    reason = "the cases are faults: null pointers, unprobed frames, signal handlers, raw threads"
)]

use std::arch::asm;
use std::ffi::{c_int, c_void};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use asyncjob::pool::{PoolConfig, init_thread};
use asyncjob::scheduler::Scheduler;
use asyncjob::stack::{StackSize, install_overflow_handler};
use asyncjob::{JobBuilder, Step, WaitCtx, pause_job};

/// Runs a case in a child process. Returns the child's output and its standard error as text.
fn run(case: &str) -> (Output, String) {
    let output = Command::new(std::env::current_exe().expect("this program has a path"))
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env("OVERFLOW_CASE", case)
        .output()
        .expect("this program runs again");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, stderr)
}

/// Asserts that the report names the job by id and name, with the size of its stack and the high-water mark of its
/// peer, and that the process died by SIGSEGV.
fn assert_reported(case: &str) {
    let (output, stderr) = run(case);
    let line = stderr
        .lines()
        .find(|line| line.starts_with("asyncjob: job"))
        .unwrap_or_default();
    assert!(
        line.contains("\"signer\" has overflowed its stack of 16384 bytes"),
        "{case}: {stderr}"
    );
    let mark = line
        .split_once("have used at most ")
        .and_then(|(_, rest)| rest.split(' ').next()?.parse::<usize>().ok());
    assert!(
        matches!(mark, Some(8192 | 12288 | 16384)),
        "the peer has used 5000 bytes and some call frames: {case}: {stderr}"
    );
    let id = stderr
        .lines()
        .find_map(|line| line.strip_prefix("id of the signer: #"))
        .unwrap_or("?");
    assert!(line.starts_with(&format!("asyncjob: job {id} ")), "{case}: {stderr}");
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{case}: {stderr}");
}

#[test]
fn recursion_in_rust_is_reported() {
    assert_reported("rust");
}

#[test]
fn recursion_through_c_frames_is_reported() {
    assert_reported("c frames");
}

#[test]
fn a_call_frame_that_skips_fifty_thousand_bytes_is_reported() {
    assert_reported("unprobed frame");
}

#[test]
fn an_overflow_on_a_thread_made_by_c_is_reported() {
    assert_reported("c thread");
}

#[test]
fn an_overflow_on_a_thread_that_ran_jobs_before_the_installation_is_reported() {
    assert_reported("installed late");
}

#[test]
fn without_the_call_no_signal_handler_is_installed() {
    let (output, stderr) = run("not installed");
    assert!(
        stderr.contains("no overflow handler") && !stderr.contains("asyncjob:"),
        "{stderr}"
    );
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{stderr}");
}

/// A scheduler installs the handler unless its builder disables it.
#[test]
fn the_builder_of_a_scheduler_decides_about_the_handler() {
    let (_, stderr) = run("scheduler");
    assert!(stderr.contains("asyncjob: job"), "{stderr}");
    let (output, stderr) = run("scheduler without a handler");
    assert!(
        stderr.contains("the scheduler runs") && !stderr.contains("asyncjob:"),
        "{stderr}"
    );
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{stderr}");
}

#[test]
fn another_fault_goes_to_the_previous_handler() {
    let (output, stderr) = run("previous handler");
    assert!(
        stderr.contains("the previous handler, with SIGUSR1 blocked"),
        "{stderr}"
    );
    assert!(!stderr.contains("asyncjob:"), "{stderr}");
    assert_eq!(output.status.code(), Some(42), "{stderr}");
}

#[test]
fn std_still_reports_the_overflow_of_a_thread() {
    let (output, stderr) = run("thread overflow");
    assert!(
        stderr.contains("has overflowed its stack") && !stderr.contains("asyncjob:"),
        "{stderr}"
    );
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{stderr}");
}

#[test]
fn a_null_pointer_in_a_job_is_not_called_an_overflow() {
    let (output, stderr) = run("null pointer");
    assert!(!stderr.contains("asyncjob:"), "{stderr}");
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{stderr}");
}

#[test]
fn a_stray_pointer_into_a_guard_is_not_called_an_overflow() {
    let (output, stderr) = run("stray pointer");
    assert!(
        stderr.contains("asyncjob: something other than its job touched the guard"),
        "{stderr}"
    );
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{stderr}");
}

#[test]
#[ignore = "not a test: the other tests run it in a process of its own"]
fn child() {
    forbid_core();
    let case = std::env::var("OVERFLOW_CASE").expect("run by the other tests");
    match case.as_str() {
        "rust" => overflow_after_install(|| recurse(1)),
        "c frames" => overflow_after_install(recurse_through_c),
        "unprobed frame" => overflow_after_install(skip_far),
        "c thread" => on_a_c_thread(),
        "installed late" => {
            finish_a_job();
            overflow_after_install(|| recurse(1));
        }
        "not installed" => {
            eprintln!("no overflow handler");
            forget_handlers();
            overflow(|| recurse(1));
        }
        "scheduler" | "scheduler without a handler" => {
            forget_handlers();
            let builder = Scheduler::builder().overflow_handler(case == "scheduler");
            let scheduler = builder.build().unwrap();
            eprintln!("the scheduler runs");
            scheduler.spawn(|| recurse(1)).unwrap().detach();
            scheduler.run().unwrap();
        }
        "previous handler" => {
            install_previous();
            overflow_after_install(null);
        }
        "thread overflow" => {
            install_overflow_handler().unwrap();
            finish_a_job();
            recurse(1);
        }
        "null pointer" => overflow_after_install(null),
        "stray pointer" => {
            install_overflow_handler().unwrap();
            let stack = address_in_a_job();
            // SAFETY: this write is the fault that the test is about. The address is 20 KiB below the top of a stack of
            // 16 KiB.
            unsafe { ((stack - (20 << 10)) as *mut u8).write_volatile(1) };
        }
        other => panic!("no such case: {other}"),
    }
}

fn overflow_after_install(how: fn()) {
    install_overflow_handler().unwrap();
    overflow(how);
}

/// Starts a peer that uses two pages and pauses, then the signer, which overflows.
fn overflow(how: fn()) {
    init_thread(PoolConfig::new().stack_size(StackSize::MIN)).unwrap();
    let ctx = WaitCtx::new();
    let peer = JobBuilder::new().name("peer").wait_ctx(&ctx).start(|| {
        std::hint::black_box([1u8; 5000]);
        pause_job().is_ok()
    });
    let signer = JobBuilder::new()
        .name(String::from("signer"))
        .wait_ctx(&ctx)
        .start(move || {
            eprintln!("id of the signer: {}", asyncjob::current_job_id().unwrap());
            how();
        });
    panic!("the child survived: {} {}", peer.is_ok(), signer.is_ok());
}

fn finish_a_job() {
    init_thread(PoolConfig::new().stack_size(StackSize::MIN)).unwrap();
    let step = asyncjob::start_job(&WaitCtx::new(), || 1);
    assert!(matches!(step, Ok(Step::Finished(1))));
}

fn address_in_a_job() -> usize {
    init_thread(PoolConfig::new().stack_size(StackSize::MIN)).unwrap();
    let step = asyncjob::start_job(&WaitCtx::new(), || {
        let here = 0u8;
        std::hint::black_box(&raw const here) as usize
    });
    let Ok(Step::Finished(address)) = step else {
        panic!("a plain job finishes")
    };
    address
}

#[allow(unconditional_recursion, reason = "an overflow is what is tested")]
#[inline(never)]
fn recurse(depth: u64) {
    let frame = std::hint::black_box([depth; 16]);
    recurse(frame[3] + 1);
    std::hint::black_box(frame);
}

/// Recurses through C: `qsort` calls the comparison function, which calls `qsort`.
fn recurse_through_c() {
    extern "C" fn compare(_: *const c_void, _: *const c_void) -> c_int {
        recurse_through_c();
        0
    }
    let mut numbers = [2u8, 1];
    // SAFETY: two elements of one byte each.
    unsafe { libc::qsort(numbers.as_mut_ptr().cast(), 2, 1, Some(compare)) };
    std::hint::black_box(numbers);
}

/// Does what C without stack probes does with a large array: moves the stack pointer, and writes at the far end only.
fn skip_far() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: this write is the fault that the test is about.
    unsafe {
        asm!("sub rsp, 50000", "mov byte ptr [rsp], 1", "add rsp, 50000");
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: this write is the fault that the test is about.
    unsafe {
        asm!("sub sp, sp, #12, lsl #12", "strb wzr, [sp]", "add sp, sp, #12, lsl #12");
    }
}

/// Where a field of what a null pointer points to lies. A write to null itself, std's own checks refuse in Rust 1.88.
const FIELD_OF_NULL: usize = 16;

fn null() {
    // SAFETY: this write is the fault that the test is about.
    unsafe { std::hint::black_box(std::ptr::without_provenance_mut::<u8>(FIELD_OF_NULL)).write_volatile(1) };
}

fn on_a_c_thread() {
    extern "C" fn main(_: *mut c_void) -> *mut c_void {
        let mut none = libc::stack_t {
            ss_sp: std::ptr::null_mut(),
            ss_flags: 0,
            ss_size: 0,
        };
        // SAFETY: the call only reads the state.
        unsafe { libc::sigaltstack(std::ptr::null(), &mut none) };
        assert_ne!(
            none.ss_flags & libc::SS_DISABLE,
            0,
            "a thread of C has no alternate stack"
        );
        overflow_after_install(|| recurse(1));
        std::ptr::null_mut()
    }
    // SAFETY: it is a number or a pointer, for which all zero is valid; the call writes it.
    let mut thread: libc::pthread_t = unsafe { std::mem::zeroed() };
    // SAFETY: the function has the signature of a thread's main, and uses no argument.
    unsafe { libc::pthread_create(&mut thread, std::ptr::null(), main, std::ptr::null_mut()) };
    // SAFETY: the thread was just made, and is joined once.
    unsafe { libc::pthread_join(thread, std::ptr::null_mut()) };
}

/// Disables the core dump of this process, which dies on purpose.
fn forbid_core() {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the struct is valid.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) };
}

/// Restores the default action of SIGSEGV, as in a C program. In a Rust program, std has installed a handler.
fn forget_handlers() {
    // SAFETY: all zeros are a valid value: the default action.
    let default: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: the struct is valid.
    unsafe { libc::sigaction(libc::SIGSEGV, &default, std::ptr::null_mut()) };
}

fn install_previous() {
    extern "C" fn previous(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
        // SAFETY: all zeros are a valid set.
        let mut mask: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: the call only reads the state.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut mask) };
        // SAFETY: the call above filled the set.
        let blocked = unsafe { libc::sigismember(&mask, libc::SIGUSR1) } == 1;
        // SAFETY: the kernel passes a valid pointer.
        let info = unsafe { &*info };
        // SAFETY: the signal is a fault, which has an address.
        let address = unsafe { info.si_addr() } as usize;
        if blocked && address == FIELD_OF_NULL {
            eprintln!("the previous handler, with SIGUSR1 blocked");
        }
        // SAFETY: the call ends the process.
        unsafe { libc::_exit(42) };
    }
    // SAFETY: all zeros are a valid value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = previous as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the set is valid.
    unsafe { libc::sigaddset(&mut action.sa_mask, libc::SIGUSR1) };
    // SAFETY: the handler has the signature that SA_SIGINFO requires.
    unsafe { libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut()) };
}
