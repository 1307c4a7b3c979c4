//! Stacks from somebody else's memory, as `ASYNC_set_mem_functions(3)` of OpenSSL 3.2 allows (S67 to S69).
//!
//! ```text
//!   | stack ........................................ | Header | StackHeader | 0 to 63 bytes |
//!   what `allocate` gave (= limit)                            top
//! ```
//!
//! There is no guard, no slab and no depot behind such a stack: it is asked for when a pool has none, and given back when
//! a pool does not want it.

use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;

use parking_lot::Mutex;

use super::StackSize;
use super::header::StackHeader;

/// Gets memory of at least the size behind the pointer, and writes there how much it is; null if there is none.
pub type AllocateStack = unsafe extern "C" fn(size: *mut usize) -> *mut c_void;
/// Takes it back. May be called with null.
pub type FreeStack = unsafe extern "C" fn(memory: *mut c_void);

/// What is asked for, as by OpenSSL (S69).
const SIZE: usize = 32 << 10;

static SOURCE: Mutex<Source> = Mutex::new(Source {
    functions: None,
    is_fixed: false,
});

struct Source {
    functions: Option<(AllocateStack, FreeStack)>,
    /// A stack has been asked for, so some may exist: no more changes (S68).
    is_fixed: bool,
}

/// Stacks have been made already: [`set_stack_memory`] comes too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetStackMemoryError;

impl std::fmt::Display for SetStackMemoryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the source of stacks is set once, before the first job or pool of the process asks for one")
    }
}

impl std::error::Error for SetStackMemoryError {}

/// Takes the stacks of this process from these functions, or from slabs again (`ASYNC_set_mem_functions(3)`).
///
/// 32 KiB are asked for, whatever [`PoolConfig`](crate::PoolConfig) says, and whatever comes is used if it is at least
/// 16 KiB. [`SecretPolicy`](super::SecretPolicy), the depot and [`stats`](super::stats) do not know these stacks.
///
/// # Errors
///
/// [`SetStackMemoryError`] once a stack has been asked for, successfully or not (S68).
///
/// # Safety
///
/// `allocate` gives memory that nobody else uses until it comes to `free`; both may be called from any thread. The caller
/// promises that no job uses more than it gave: **there is no guard**, and what lies below a stack is overwritten.
pub unsafe fn set_stack_memory(functions: Option<(AllocateStack, FreeStack)>) -> Result<(), SetStackMemoryError> {
    let mut source = SOURCE.lock();
    if source.is_fixed {
        return Err(SetStackMemoryError);
    }
    source.functions = functions;
    Ok(())
}

/// The functions in force, and from now on for ever: a stack is asked for.
pub(super) fn functions() -> Option<(AllocateStack, FreeStack)> {
    let mut source = SOURCE.lock();
    source.is_fixed = true;
    source.functions
}

/// Asks for the memory of a stack: where it begins, and where its plate goes.
///
/// # Safety
///
/// `allocate` and `free` must be the pair that [`functions`] returns.
pub(super) unsafe fn allocate(
    allocate: AllocateStack,
    free: FreeStack,
) -> io::Result<(NonNull<u8>, NonNull<StackHeader>)> {
    let mut size = SIZE;
    // SAFETY: the promise that `set_stack_memory` was given for this pair.
    let memory = unsafe { allocate(&mut size) }.cast::<u8>();
    let Some(start) = NonNull::new(memory) else {
        return Err(io::Error::new(
            io::ErrorKind::OutOfMemory,
            "the program's own stack allocator (ASYNC_set_mem_functions) gave nothing",
        ));
    };
    if size < StackSize::MIN.bytes() {
        // SAFETY: it came from `allocate`.
        unsafe { free(memory.cast()) };
        return Err(io::Error::other(format!(
            "the program's own stack allocator gave {size} bytes: a stack needs {}",
            StackSize::MIN.bytes()
        )));
    }
    let header = (start.as_ptr() as usize + size - size_of::<StackHeader>()) & !(align_of::<StackHeader>() - 1);
    // SAFETY: within the memory, as it is larger than a plate and its alignment.
    let header = unsafe { start.byte_add(header - start.as_ptr() as usize) };
    Ok((start, header.cast()))
}

/// Gives the memory of a stack back.
///
/// # Safety
///
/// `start` must have come from [`allocate`]. The caller must not use the memory after this call.
pub(super) unsafe fn free(start: NonNull<u8>) {
    let functions = SOURCE.lock().functions;
    if let Some((_, free)) = functions {
        // SAFETY: `allocate` gave it, of the same pair: it is fixed once there is a stack. Nobody uses it any more.
        unsafe { free(start.as_ptr().cast()) };
    }
}
