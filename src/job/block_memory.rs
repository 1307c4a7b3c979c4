//! The memory of the blocks of spawned jobs. A thread keeps what it has freed for the next ones.
//!
//! The heap has a short list of free memory for each size and thread, of seven entries in glibc. When a thousand jobs
//! are spawned before the first of them has ended, most blocks take its long way. Here a thread keeps up to
//! [`MOST_FREE`] of one size, last in, first out, so that the next block is in the cache. What a burst has left goes
//! back to the heap when the idle stacks are looked at: see [`decay`].
//!
//! A block may be freed on another thread than the one that made it. That thread keeps it then.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ptr::{self, NonNull};

/// What is kept. A larger block, of a job whose closure or result is large, goes to the heap.
const KEPT: Layout = match Layout::from_size_align(256, 16) {
    Ok(layout) => layout,
    Err(_) => panic!("a power of two"),
};

/// How many a thread keeps: 4 MiB.
const MOST_FREE: usize = 16 * 1024;
/// How many it keeps for long: 256 KiB.
const FREE_FOR_LONG: usize = 1024;

/// A use after free is found by tools that know the heap, so they get every block from there.
const KEEPS: bool = !cfg!(any(miri, asyncjob_loom, feature = "sanitizer"));

/// The free memory of one thread. It needs no drop of its own, so that reaching it is one address computation.
struct FreeBlocks {
    /// The one that was freed last. Each holds the address of the one before.
    last: Cell<*mut FreeBlock>,
    /// How many more may be kept. 0 before the first one is freed, and when the thread exits.
    room: Cell<usize>,
    is_prepared: Cell<bool>,
}

/// What free memory holds.
struct FreeBlock {
    next: *mut FreeBlock,
}

thread_local! {
    static FREE: FreeBlocks = const {
        FreeBlocks {
            last: Cell::new(ptr::null_mut()),
            room: Cell::new(0),
            is_prepared: Cell::new(false),
        }
    };
    static AT_EXIT: AtExit = const { AtExit };
}

/// Gives the free memory of an exiting thread back.
struct AtExit;

impl Drop for AtExit {
    fn drop(&mut self) {
        FREE.with(|free| {
            free.room.set(0);
            while let Some(block) = free.pop() {
                // SAFETY: what is kept is memory of this layout from the heap, and nothing else knows of it.
                unsafe { dealloc(block.as_ptr(), KEPT) };
            }
            free.room.set(0);
        });
    }
}

impl FreeBlocks {
    #[inline]
    fn pop(&self) -> Option<NonNull<u8>> {
        let block = NonNull::new(self.last.get())?;
        // SAFETY: the list holds free memory with a `FreeBlock` in it, which this thread alone uses.
        self.last.set(unsafe { block.read() }.next);
        self.room.set(self.room.get() + 1);
        Some(block.cast())
    }

    /// Keeps this memory, if there is room.
    #[inline]
    fn push(&self, memory: NonNull<u8>) -> bool {
        let Some(room) = self.room.get().checked_sub(1) else {
            return self.prepare() && self.push(memory);
        };
        let block = memory.cast::<FreeBlock>();
        // SAFETY: the memory is that of a block that is gone, and large enough.
        unsafe {
            block.write(FreeBlock { next: self.last.get() });
        }
        self.last.set(block.as_ptr());
        self.room.set(room);
        true
    }

    /// From the first free block on, this thread has something to free when it exits. Returns whether there is room.
    #[cold]
    fn prepare(&self) -> bool {
        let may_keep = !self.is_prepared.replace(true) && AT_EXIT.try_with(|_| ()).is_ok();
        if may_keep {
            self.room.set(MOST_FREE);
        }
        may_keep
    }
}

/// Whether a block of this layout is kept.
const fn is_kept(layout: Layout) -> bool {
    KEEPS && layout.size() <= KEPT.size() && layout.align() <= KEPT.align()
}

/// Where the memory of a block comes from, and goes to: the layout that it has in the heap, or none if it is kept.
#[derive(Clone, Copy)]
pub(super) struct Source(Option<Layout>);

/// Memory for a block of this layout.
#[inline]
pub(super) fn allocate(layout: Layout) -> (NonNull<u8>, Source) {
    debug_assert_ne!(layout.size(), 0);
    let source = Source((!is_kept(layout)).then_some(layout));
    let kept = is_kept(layout).then(|| FREE.with(FreeBlocks::pop)).flatten();
    (kept.unwrap_or_else(|| allocate_in_heap(source)), source)
}

#[inline(never)]
fn allocate_in_heap(source: Source) -> NonNull<u8> {
    let layout = source.0.unwrap_or(KEPT);
    // SAFETY: a block is not empty.
    NonNull::new(unsafe { alloc(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
}

/// Frees the memory of a block.
///
/// # Safety
///
/// It must come from [`allocate`], with this source, and must not be used after this call.
#[inline]
pub(super) unsafe fn free(memory: NonNull<u8>, source: Source) {
    let has_gone = source.0.is_none() && FREE.with(|free| free.push(memory));
    if !has_gone {
        // SAFETY: the caller's promise: it has this layout from the heap, or that of all memory that is kept.
        unsafe { dealloc(memory.as_ptr(), source.0.unwrap_or(KEPT)) };
    }
}

/// Gives what this thread keeps above [`FREE_FOR_LONG`] back to the heap. That takes a millisecond at most.
pub(crate) fn decay() {
    FREE.with(|free| {
        while free.room.get() < MOST_FREE - FREE_FOR_LONG
            && let Some(block) = free.pop()
        {
            // SAFETY: what is kept is memory of this layout from the heap, and nothing else knows of it.
            unsafe { dealloc(block.as_ptr(), KEPT) };
        }
    });
}

#[cfg(all(test, not(asyncjob_loom)))]
mod tests {
    use super::*;

    fn kept() -> usize {
        FREE.with(|free| {
            let mut block = free.last.get();
            let mut kept = 0;
            while let Some(this) = NonNull::new(block) {
                // SAFETY: as in `pop`.
                block = unsafe { this.read() }.next;
                kept += 1;
            }
            kept
        })
    }

    #[test]
    fn the_block_that_was_freed_last_is_used_next() {
        let small = Layout::new::<[u64; 10]>();
        let blocks = [(); 3].map(|()| allocate(small));
        for (block, source) in blocks {
            // SAFETY: it came from `allocate`.
            unsafe { free(block, source) };
        }
        if KEEPS {
            let (block, source) = allocate(Layout::new::<[u64; 30]>());
            assert_eq!(block, blocks[2].0);
            // SAFETY: as above; the layout is kept, too.
            unsafe { free(block, source) };
            assert_eq!(kept(), 3);
        }
    }

    /// A thread keeps a bounded number, also of those that other threads have made, and nothing of large ones.
    #[test]
    fn a_thread_keeps_a_bounded_number() {
        let (small, large) = (Layout::new::<u64>(), Layout::new::<[u64; 33]>());
        let address = |(block, source): (NonNull<u8>, Source)| (block.as_ptr() as usize, source);
        let blocks: Vec<(usize, Source)> = (0..MOST_FREE + 10).map(|_| address(allocate(small))).collect();
        let (large_block, of_large) = address(allocate(large));
        let elsewhere = std::thread::spawn(move || {
            // SAFETY: they came from `allocate`, and only this thread uses them now.
            unsafe { free(NonNull::new(large_block as *mut u8).unwrap(), of_large) };
            assert_eq!(kept(), 0);
            for (block, source) in blocks {
                // SAFETY: as above.
                unsafe { free(NonNull::new(block as *mut u8).unwrap(), source) };
            }
            assert_eq!(kept(), if KEEPS { MOST_FREE } else { 0 });
            decay();
            assert_eq!(kept(), if KEEPS { FREE_FOR_LONG } else { 0 });
        });
        elsewhere.join().unwrap();
    }
}
