//! What a signal handler gets from Linux. Everything here runs in a signal handler, but for [`signal_frame_size`].

use std::ffi::{c_int, c_void};
pub(super) use std::sync::atomic::AtomicI32 as AtomicThreadId;

/// Whether the code of a `siginfo_t` is that of a fault: a signal that a process has sent has a code that is not
/// positive.
pub(super) fn is_fault(code: c_int) -> bool {
    code > 0
}

/// The number of this thread, which is not 0.
pub(super) fn thread_id() -> i32 {
    // SAFETY: the call returns a number and does nothing else.
    unsafe { libc::gettid() }
}

/// The name of this thread, as the kernel knows it.
pub(super) fn thread_name() -> [u8; 16] {
    let mut name = [0; 16];
    // SAFETY: PR_GET_NAME writes at most 16 bytes, with a 0 at the end.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name
}

/// The stack pointer at the fault.
///
/// # Safety
///
/// `context` must be what the kernel has handed to a handler with SA_SIGINFO.
pub(super) unsafe fn stack_pointer(context: *mut c_void) -> usize {
    // SAFETY: the caller's promise.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    #[cfg(target_arch = "x86_64")]
    return context.uc_mcontext.gregs[libc::REG_RSP as usize] as usize;
    #[cfg(target_arch = "aarch64")]
    return context.uc_mcontext.sp as usize;
}

/// The bytes that the kernel writes to the stack of a signal handler. The number depends on the vector registers.
pub(super) fn signal_frame_size() -> usize {
    // SAFETY: the call reads a constant of the process.
    unsafe { libc::getauxval(AT_MINSIGSTKSZ) as usize }
}

/// The entry of `getauxval(3)` with the size of the frame that the kernel writes. From `linux/auxvec.h`.
const AT_MINSIGSTKSZ: libc::c_ulong = 51;
