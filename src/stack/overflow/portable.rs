//! What a signal handler gets from other Unix systems. Everything here runs in a signal handler, but for
//! [`signal_frame_size`].
//!
//! On Linux `--cfg asyncjob_portable` chooses this file, so that tests can run it.

use std::ffi::{c_int, c_void};
pub(super) use std::sync::atomic::AtomicUsize as AtomicThreadId;

/// Whether the code of a `siginfo_t` is that of a fault. The codes of faults are small numbers. A signal that a process
/// has sent has `SI_USER`, which is 0x10001 on FreeBSD and macOS, or a code that is not positive.
pub(super) fn is_fault(code: c_int) -> bool {
    (1..0x1_0000).contains(&code)
}

/// A number of this thread, which is not 0.
pub(super) fn thread_id() -> usize {
    // SAFETY: the call returns a handle and does nothing else.
    unsafe { libc::pthread_self() as usize }
}

/// The name of this thread is not known: the calls that tell it may lock.
pub(super) fn thread_name() -> [u8; 1] {
    *b"?"
}

/// The stack pointer at the fault.
///
/// # Safety
///
/// `context` must be what the kernel has handed to a handler with SA_SIGINFO.
pub(super) unsafe fn stack_pointer(context: *mut c_void) -> usize {
    // SAFETY: the caller's promise.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    #[cfg(target_vendor = "apple")]
    // SAFETY: the kernel has set the pointer to registers that are valid for as long as the context is.
    let registers = unsafe { &(*context.uc_mcontext).__ss };
    #[cfg(all(target_vendor = "apple", target_arch = "x86_64"))]
    return registers.__rsp as usize;
    #[cfg(all(target_vendor = "apple", target_arch = "aarch64"))]
    return registers.__sp as usize;
    #[cfg(all(target_os = "freebsd", target_arch = "x86_64"))]
    return context.uc_mcontext.mc_rsp as usize;
    #[cfg(all(target_os = "freebsd", target_arch = "aarch64"))]
    return context.uc_mcontext.mc_gpregs.gp_sp as usize;
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    return context.uc_mcontext.gregs[libc::REG_RSP as usize] as usize;
    #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
    return context.uc_mcontext.sp as usize;
}

/// The bytes that the kernel writes to the stack of a signal handler, at most.
pub(super) fn signal_frame_size() -> usize {
    libc::SIGSTKSZ
}
