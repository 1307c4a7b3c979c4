//! The memory of a stack: one guarded mapping each, for now.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

/// How large a stack is: 16 KiB to 8 MiB, in powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackSize(u32);

impl StackSize {
    /// The smallest: 16 KiB.
    pub const MIN: StackSize = StackSize(16 << 10);
    /// The largest: 8 MiB.
    pub const MAX: StackSize = StackSize(8 << 20);

    /// The smallest size that has at least `bytes` bytes.
    ///
    /// # Panics
    ///
    /// When `bytes` is more than 8 MiB.
    pub const fn at_least(bytes: usize) -> StackSize {
        assert!(bytes <= 8 << 20, "a stack has at most 8 MiB");
        if bytes <= 16 << 10 {
            return Self::MIN;
        }
        StackSize(bytes.next_power_of_two() as u32)
    }

    /// In bytes.
    pub const fn bytes(self) -> usize {
        self.0 as usize
    }
}

impl StackSize {
    /// What a job gets when nobody says anything.
    pub const DEFAULT: StackSize = StackSize(256 << 10);
}

impl Default for StackSize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What the overflow report knows of the job on a stack. It lies in the slot itself, above the job's header.
#[repr(C, align(64))]
pub(crate) struct Plate {
    size: StackSize,
    id: AtomicU64,
    name: AtomicPtr<u8>,
    name_len: AtomicUsize,
}

impl Plate {
    #[inline]
    pub(crate) fn set_id(&self, id: u64) {
        self.id.store(id, Ordering::Relaxed);
    }

    pub(crate) fn set_name(&self, name: &str) {
        self.name.store(name.as_ptr().cast_mut(), Ordering::Relaxed);
        self.name_len.store(name.len(), Ordering::Relaxed);
    }

    pub(crate) fn clear_name(&self) {
        self.name_len.store(0, Ordering::Relaxed);
    }
}

const GUARD: usize = 64 << 10;

/// One pointer, so that it moves in a register: a pair with a small second half is stored in parts and loaded whole, and
/// each such load waits for the stores (11 ns a start, measured).
pub(crate) struct Stack {
    top: NonNull<u8>,
}

// SAFETY: the handle owns the mapping alone, and a mapping belongs to no thread.
unsafe impl Send for Stack {}

impl Stack {
    pub(crate) fn new(size: StackSize) -> io::Result<Stack> {
        let len = size.bytes() + GUARD;
        // SAFETY: an anonymous mapping at an address of the system's choice touches no memory of ours.
        let low = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if low == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the range is the lower end of the mapping just made.
        let guarded = unsafe { libc::mprotect(low, GUARD, libc::PROT_NONE) };
        let error = io::Error::last_os_error();
        // SAFETY: one past the end of the mapping is in range of it.
        let end = unsafe { low.cast::<u8>().add(len) };
        // SAFETY: within the mapping, whose end is aligned to a page and so to a plate.
        let top = unsafe { end.sub(size_of::<Plate>()) };
        let stack = Stack {
            top: NonNull::new(top).ok_or(io::ErrorKind::OutOfMemory)?,
        };
        // SAFETY: a plate fits between `top` and the end of the mapping; zeroed memory is a valid one but for its size.
        unsafe { (*stack.top.cast::<Plate>().as_ptr()).size = size };
        if guarded != 0 {
            return Err(error);
        }
        Ok(stack)
    }

    /// One past the highest byte that the job may use, aligned to 64 bytes.
    #[inline]
    pub(crate) fn top(&self) -> NonNull<u8> {
        self.top
    }

    #[inline]
    pub(crate) fn plate(&self) -> &Plate {
        // SAFETY: a plate lies above `top` for as long as the stack exists; zeroed memory is a valid one.
        unsafe { self.top.cast::<Plate>().as_ref() }
    }

    #[inline]
    pub(crate) fn limit(&self) -> NonNull<u8> {
        let below = self.size().bytes() + GUARD - size_of::<Plate>();
        // SAFETY: the mapping begins that far below `top`.
        unsafe { self.top.byte_sub(below) }
    }

    #[inline]
    pub(crate) fn size(&self) -> StackSize {
        self.plate().size
    }

    /// Keeps the memory mapped for ever and out of use.
    pub(crate) fn quarantine(self) {
        QUARANTINED.fetch_add(1, Ordering::Relaxed);
        std::mem::forget(self);
    }
}

static QUARANTINED: AtomicUsize = AtomicUsize::new(0);

/// How many stacks of this process are kept out of reuse because somebody may still write to them.
pub fn quarantined() -> usize {
    QUARANTINED.load(Ordering::Relaxed)
}

impl Drop for Stack {
    fn drop(&mut self) {
        let len = self.size().bytes() + GUARD;
        // SAFETY: the handle owns the mapping, and whoever drops it has left the stack.
        unsafe { libc::munmap(self.limit().as_ptr().cast(), len) };
    }
}
