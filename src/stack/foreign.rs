//! Foreign stacks: stacks in memory that the program provides, as `ASYNC_set_mem_functions(3)` of OpenSSL 3.2 allows
//! (S67 to S69).
//!
//! ```text
//!   | stack ........................................ | TypedBlock | StackHeader | 0 to 63 bytes |
//!   what `allocate` gave (= limit)                                top
//! ```
//!
//! Such a stack has no guard and no slab, and no depot caches it. It is allocated when a pool has no stack, and freed
//! when a pool gives it to its depot.

use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard};

use super::StackSize;
use super::fork::lock;
use super::header::StackHeader;

/// Returns memory of at least `*size` bytes, and writes its size to `*size`. Returns null when there is no memory.
pub type AllocateStack = unsafe extern "C" fn(size: *mut usize) -> *mut c_void;
/// Frees what an [`AllocateStack`] has returned. It may be called with null.
pub type FreeStack = unsafe extern "C" fn(memory: *mut c_void);

/// How many bytes an [`AllocateStack`] is asked for, as by OpenSSL (S69).
const ASKED_SIZE: usize = 32 << 10;

static SOURCE: Mutex<Source> = Mutex::new(Source {
    functions: None,
    is_fixed: false,
});

pub(super) struct Source {
    functions: Option<(AllocateStack, FreeStack)>,
    /// A stack has been asked for, so stacks may exist and the functions may not change any more (S68).
    is_fixed: bool,
}

/// The functions were not set, because a stack has been asked for already: see [`set_stack_memory`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SetStackMemoryError;

impl std::fmt::Display for SetStackMemoryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(concat!(
            "the memory functions of stacks cannot change after a job or a pool has asked for a stack: call \
             set_stack_memory first of all",
            guide_page!("from-c")
        ))
    }
}

impl std::fmt::Debug for SetStackMemoryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SetStackMemoryError: {self}")
    }
}

impl std::error::Error for SetStackMemoryError {}

/// Takes the stacks of this process from these functions, or for `None` from slabs (`ASYNC_set_mem_functions(3)`).
///
/// The library asks for 32 KiB, whatever the [`PoolConfig`](crate::pool::PoolConfig) says. It uses all that it gets, if
/// that is at least 16 KiB. A [`SecretPolicy`](super::SecretPolicy) has no effect on these stacks, and
/// [`stats`](super::stats) does not count them.
///
/// # Errors
///
/// [`SetStackMemoryError`] after a stack has been asked for, successfully or not
/// ([S68](crate::docs::openssl_behaviour#s68)).
///
/// # Safety
///
/// `allocate` must return memory that nothing else uses until `free` gets it. The library calls both functions from any
/// thread. The caller must make sure that no job uses more stack than `allocate` returned: **there is no guard**, and a
/// deeper job overwrites what lies below its stack.
pub unsafe fn set_stack_memory(functions: Option<(AllocateStack, FreeStack)>) -> Result<(), SetStackMemoryError> {
    let mut source = lock(&SOURCE);
    if source.is_fixed {
        return Err(SetStackMemoryError);
    }
    source.functions = functions;
    Ok(())
}

/// The functions for the stack that the caller asks for. They cannot change any more after this call.
pub(super) fn functions() -> Option<(AllocateStack, FreeStack)> {
    let mut source = lock(&SOURCE);
    source.is_fixed = true;
    source.functions
}

/// The lock of this file: see [`super::fork`].
pub(super) type Held = MutexGuard<'static, Source>;

pub(super) fn hold() -> Held {
    lock(&SOURCE)
}

/// Allocates the memory of a stack. Returns its start and the address for its header.
///
/// # Safety
///
/// `allocate` and `free` must be the pair that [`functions`] returns.
pub(super) unsafe fn allocate(
    allocate: AllocateStack,
    free: FreeStack,
) -> io::Result<(NonNull<u8>, NonNull<StackHeader>)> {
    let mut size = ASKED_SIZE;
    // SAFETY: the promise that `set_stack_memory` was given for this pair.
    let memory = unsafe { allocate(&mut size) }.cast::<u8>();
    let Some(start) = NonNull::new(memory) else {
        return Err(io::Error::new(
            io::ErrorKind::OutOfMemory,
            "the program's own stack allocator (ASYNC_set_mem_functions) gave nothing",
        ));
    };
    if size < StackSize::MIN.bytes() {
        // SAFETY: the memory came from `allocate`, and nothing uses it.
        unsafe { free(memory.cast()) };
        return Err(io::Error::other(format!(
            "the program's own stack allocator gave {size} bytes: a stack needs {}",
            StackSize::MIN.bytes()
        )));
    }
    let header = (start.as_ptr() as usize + size - size_of::<StackHeader>()) & !(align_of::<StackHeader>() - 1);
    // SAFETY: the address is within the memory, which is larger than a header and its alignment together.
    let header = unsafe { start.byte_add(header - start.as_ptr() as usize) };
    Ok((start, header.cast()))
}

/// Frees the memory of a stack.
///
/// # Safety
///
/// `start` must have come from [`allocate`]. The caller must not use the memory after this call.
pub(super) unsafe fn free(start: NonNull<u8>) {
    let functions = lock(&SOURCE).functions;
    if let Some((_, free)) = functions {
        // SAFETY: the memory came from `allocate` of the same pair, as the pair cannot change after the first stack.
        // The caller does not use the memory any more.
        unsafe { free(start.as_ptr().cast()) };
    }
}
