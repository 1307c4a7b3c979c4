//! The slots of the wait ctxs of C programs: where a ctx is while the program has it, and before and after that.
//!
//! ```text
//!   process    CTXS: 64 slots a chunk, never freed (crate::handle)
//!              FREE: without a ctx of the program, for any thread
//!              HELD: freed by the program, and a job or Rust code still has the ctx
//!                |                     ^
//!                | take_shared         | return_all, at the end of the thread; give, when the thread has enough
//!                v                     |
//!   thread     KeptSlots: for the next `ASYNC_WAIT_CTX_new` of this thread (last in, first out)
//! ```
//!
//! A slot has its ctx for ever. The ctx is new while the slot is free.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use asyncjob::{WaitCtx, c_interface};

use crate::fork::Shared;
use crate::handle::{CHUNK, InSlot, Line, Slot, Table};

/// What a slot for a wait ctx holds.
#[derive(Default)]
pub(crate) struct CtxRecord {
    /// The ctx of every handle that this slot ever has, one after the other.
    pub(crate) ctx: WaitCtx,
    /// A call of `ASYNC_WAIT_CTX_free` is at the cleanups, and will free the ctx.
    pub(crate) is_being_freed: LockedFlag,
    /// The program has the ctx: the slot is not free.
    pub(crate) is_given_out: LockedFlag,
    /// The handle of the job that was started last with the ctx.
    pub(crate) last_job: AtomicUsize,
}

impl InSlot for CtxRecord {
    type Alignment = Line;
}

/// A flag that is used only under the lock of the ctx. The lock orders its uses.
#[derive(Default)]
pub(crate) struct LockedFlag(AtomicBool);

impl LockedFlag {
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn swap_under_lock(&self, new: bool) -> bool {
        let old = self.0.load(Ordering::Relaxed);
        self.0.store(new, Ordering::Relaxed);
        old
    }
}

pub(crate) type CtxSlot = &'static Slot<CtxRecord>;

pub(crate) static CTXS: Table<CtxRecord> = Table::new();
/// The slots without a ctx of the program, for any thread.
static FREE: Shared<Vec<CtxSlot>> = Shared::new(Vec::new());
/// The slots whose ctx the program has freed, and which a job or Rust code still has.
static HELD: Shared<Held> = Shared::new(Held {
    slots: Vec::new(),
    look_at: CHUNK,
});

struct Held {
    slots: Vec<CtxSlot>,
    /// How many there are when they are next looked at. A look at all of them pays for as many frees.
    look_at: usize,
}

/// What is attached to a ctx of a C program: the slot in which it stays.
pub(crate) struct OfProgram(pub(crate) CtxSlot);

/// A free slot that no thread keeps. `None` when the process has 16 million.
#[cold]
pub(crate) fn take_shared() -> Option<CtxSlot> {
    let free = FREE.lock().pop();
    free.or_else(|| {
        let chunk = &CTXS.grow()?.slots;
        for slot in chunk {
            *slot.value().ctx.lock().attachment() = Some(Box::new(OfProgram(slot)));
            slot.value().ctx.give_up();
        }
        let (first, others) = chunk.split_first()?;
        FREE.lock().extend(others);
        Some(first)
    })
}

/// Whether a job or Rust code has the ctx of this slot, which the program has freed.
#[inline]
pub(crate) fn is_in_use(slot: CtxSlot) -> bool {
    let ctx = &slot.value().ctx;
    ctx.is_shared() || c_interface::runs_with(ctx)
}

/// Gives a free slot to all threads.
#[cold]
pub(crate) fn share(slot: CtxSlot) {
    slot.value().ctx.give_up();
    FREE.lock().push(slot);
}

/// Keeps a slot until nobody has its ctx any more, and looks for others that nobody has.
#[cold]
pub(crate) fn hold(slot: CtxSlot) {
    slot.value().ctx.give_up();
    let mut held = HELD.lock();
    held.slots.push(slot);
    if held.slots.len() < held.look_at {
        return;
    }
    let let_go: Vec<_> = held
        .slots
        .extract_if(.., |slot| !slot.value().ctx.is_shared())
        .collect();
    held.look_at = (2 * held.slots.len()).max(CHUNK);
    drop(held);
    for slot in &let_go {
        slot.value().ctx.lock().reset(); // who had it may have changed it
        slot.value().ctx.give_up();
    }
    FREE.lock().extend(let_go);
}

/// A thread keeps at most this many free slots for itself.
const KEPT: usize = 2 * CHUNK;

/// The free slots that a thread keeps.
pub(crate) struct KeptSlots(RefCell<Vec<CtxSlot>>);

impl KeptSlots {
    pub(crate) const fn new() -> Self {
        KeptSlots(RefCell::new(Vec::new()))
    }

    #[inline]
    pub(crate) fn pop(&self) -> Option<CtxSlot> {
        self.0.borrow_mut().pop()
    }

    /// Keeps the slot, if there is room. Returns whether there is.
    #[inline]
    pub(crate) fn push(&self, slot: CtxSlot) -> bool {
        let mut kept = self.0.borrow_mut();
        // A vector at its capacity is the bound: `push` would have to check for it anyway.
        let has_room = kept.len() < kept.capacity();
        if has_room {
            kept.push(slot);
        }
        has_room
    }

    /// Makes room, if the thread has kept no slot before. Returns whether it has made any.
    pub(crate) fn make_room(&self) -> bool {
        let mut kept = self.0.borrow_mut();
        let is_first = kept.capacity() == 0;
        if is_first {
            kept.reserve_exact(KEPT);
        }
        is_first
    }

    /// Gives all slots to other threads.
    pub(crate) fn return_all(&self) {
        let kept = self.0.take();
        kept.iter().for_each(|slot| slot.value().ctx.give_up());
        FREE.lock().extend(kept);
    }
}
