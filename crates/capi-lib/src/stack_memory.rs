//! The memory of job stacks: `ASYNC_set_mem_functions`, of OpenSSL 3.2 and later.
//!
//! Stacks come from the slabs of `asyncjob`, with guards, until a program sets functions of its own. A program that
//! asks for the functions before that gets a pair that works: malloc and free. A program that sets this pair gets the
//! slabs.

use std::ffi::{c_int, c_void};
use std::ptr;

use crate::boundary::guarded;
use crate::fork::Shared;

/// Allocates a stack of at least `*size` bytes and writes its size to `*size`. Returns NULL if there is no memory.
pub type ASYNC_stack_alloc_fn = Option<unsafe extern "C" fn(size: *mut usize) -> *mut c_void>;
/// Frees such a stack. `addr` may be NULL.
pub type ASYNC_stack_free_fn = Option<unsafe extern "C" fn(addr: *mut c_void)>;

type Allocate = unsafe extern "C" fn(*mut usize) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);

/// The functions that `ASYNC_get_mem_functions` gives.
static CURRENT: Shared<(Allocate, Free)> = Shared::new((default_allocate, default_free));

/// `ASYNC_set_mem_functions(3)`: sets the functions that allocate and free stacks. NULL leaves a function as it is.
/// Returns 1, or 0 once this process has asked for a stack. See S67, S68, S69.
///
/// # Safety
///
/// `alloc_fn` and `free_fn` must be NULL or functions that any thread may call. `alloc_fn` is asked for 32768 bytes.
/// The program must not use the memory that `alloc_fn` returns until `free_fn` is called with it. There is no guard
/// below such a stack, so the program must not let a job use more than `alloc_fn` gave.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_set_mem_functions(
    alloc_fn: ASYNC_stack_alloc_fn,
    free_fn: ASYNC_stack_free_fn,
) -> c_int {
    guarded(0, || {
        // Not held during the call below, which takes another lock: a thread that forks takes both.
        let current = *CURRENT.lock();
        let (allocate, free) = (alloc_fn.unwrap_or(current.0), free_fn.unwrap_or(current.1));
        let are_defaults =
            ptr::fn_addr_eq(allocate, default_allocate as Allocate) && ptr::fn_addr_eq(free, default_free as Free);
        // SAFETY: the caller's promise, now or at an earlier call. The default functions keep it too.
        let set = unsafe { asyncjob::stack::set_stack_memory((!are_defaults).then_some((allocate, free))) };
        if set.is_ok() {
            *CURRENT.lock() = (allocate, free);
        }
        c_int::from(set.is_ok())
    })
}

/// `ASYNC_get_mem_functions(3)`: writes the functions that allocate and free stacks, which are never NULL.
///
/// # Safety
///
/// `alloc_fn` and `free_fn` must be NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_get_mem_functions(
    alloc_fn: *mut ASYNC_stack_alloc_fn,
    free_fn: *mut ASYNC_stack_free_fn,
) {
    let (allocate, free) = *CURRENT.lock();
    if !alloc_fn.is_null() {
        // SAFETY: the caller's promise.
        unsafe { alloc_fn.write(Some(allocate)) };
    }
    if !free_fn.is_null() {
        // SAFETY: the caller's promise.
        unsafe { free_fn.write(Some(free)) };
    }
}

unsafe extern "C" fn default_allocate(size: *mut usize) -> *mut c_void {
    // SAFETY: the caller passes a pointer to a size.
    let size = unsafe { size.read() };
    // SAFETY: malloc takes any size.
    unsafe { libc::malloc(size) }
}

unsafe extern "C" fn default_free(memory: *mut c_void) {
    // SAFETY: the caller passes NULL or what `default_allocate` returned.
    unsafe { libc::free(memory) };
}
