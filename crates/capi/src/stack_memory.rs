//! The memory of job stacks: `ASYNC_set_mem_functions`, of OpenSSL 3.2 and later.
//!
//! Until a program brings its own, stacks come from the library's slabs, with guards. A program may ask for the functions in
//! force nevertheless and gets a pair that works: malloc and free. Set again, that pair stands for the slabs.

use std::ffi::{c_int, c_void};
use std::ptr;

use parking_lot::Mutex;

use crate::boundary::guarded;

/// Gives memory for a stack of at least `*size` bytes and writes its size there, or gives NULL.
pub type ASYNC_stack_alloc_fn = Option<unsafe extern "C" fn(size: *mut usize) -> *mut c_void>;
/// Takes it back; the address may be NULL.
pub type ASYNC_stack_free_fn = Option<unsafe extern "C" fn(addr: *mut c_void)>;

type Allocate = unsafe extern "C" fn(*mut usize) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);

static IN_FORCE: Mutex<(Allocate, Free)> = Mutex::new((default_allocate, default_free));

/// `ASYNC_set_mem_functions(3)`: 1, or 0 once a stack has been asked for (S67, S68). NULL keeps the function in force.
///
/// # Safety
///
/// `alloc_fn` is asked for 32768 bytes and gives memory that is nobody else's until it comes to `free_fn`; both may be called from
/// any thread. There is no guard below such a stack.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_set_mem_functions(
    alloc_fn: ASYNC_stack_alloc_fn,
    free_fn: ASYNC_stack_free_fn,
) -> c_int {
    guarded(0, || {
        let mut in_force = IN_FORCE.lock();
        let (allocate, free) = (alloc_fn.unwrap_or(in_force.0), free_fn.unwrap_or(in_force.1));
        let ours =
            ptr::fn_addr_eq(allocate, default_allocate as Allocate) && ptr::fn_addr_eq(free, default_free as Free);
        // SAFETY: the caller's promise.
        let set = unsafe { asyncjob::stack::set_stack_memory((!ours).then_some((allocate, free))) };
        if set.is_ok() {
            *in_force = (allocate, free);
        }
        c_int::from(set.is_ok())
    })
}

/// `ASYNC_get_mem_functions(3)`: the functions in force, never NULL.
///
/// # Safety
///
/// Both are NULL or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ASYNC_get_mem_functions(
    alloc_fn: *mut ASYNC_stack_alloc_fn,
    free_fn: *mut ASYNC_stack_free_fn,
) {
    let (allocate, free) = *IN_FORCE.lock();
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
    // SAFETY: the caller passes a size.
    let size = unsafe { size.read() };
    // SAFETY: any size.
    unsafe { libc::malloc(size) }
}

unsafe extern "C" fn default_free(memory: *mut c_void) {
    // SAFETY: NULL, or from `default_allocate`.
    unsafe { libc::free(memory) };
}
