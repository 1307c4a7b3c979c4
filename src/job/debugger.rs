//! Where a debugger finds jobs: the numbers that `gdb/asyncjob.py` reads in a process or in a core file.
//!
//! The compiler chooses the layout of most structs, so the program carries it. The script finds [`LAYOUT`] by its first
//! bytes, and needs no symbols. It reads the numbers in the order in which they stand here.

use std::mem::offset_of;
use std::sync::atomic::AtomicPtr;

use super::control_block::{ControlBlock, TypedBlock};
use crate::{stack, wait_ctx};

/// What the script looks for.
#[repr(C)]
struct Layout {
    /// The number in it goes up when the numbers below change.
    magic: [u8; 16],
    slabs: &'static AtomicPtr<stack::Slab>,
    stack: [usize; stack::LAYOUT.len()],
    wait_ctx: [usize; wait_ctx::LAYOUT.len()],
    job: [usize; 6],
}

static LAYOUT: Layout = Layout {
    magic: *b"asyncjob layout1",
    slabs: stack::SLABS,
    stack: stack::LAYOUT,
    wait_ctx: wait_ctx::LAYOUT,
    job: [
        size_of::<TypedBlock<()>>(),
        offset_of!(TypedBlock<()>, coroutine),
        offset_of!(ControlBlock, id),
        offset_of!(ControlBlock, ctx),
        offset_of!(ControlBlock, parent),
        offset_of!(ControlBlock, stack),
    ],
};

/// Keeps [`LAYOUT`] in the program, whatever the linker thinks of it.
pub(super) fn keep_layout() {
    std::hint::black_box(&LAYOUT);
}
