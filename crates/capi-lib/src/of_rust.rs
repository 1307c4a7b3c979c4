//! The wait ctxs of Rust code, as C code sees them.
//!
//! ```text
//!   ASYNC_WAIT_CTX *  --->  slot (crate::handle)  --- weakly --->  asyncjob::WaitCtx of Rust code
//!                              ^                                       |
//!                              '----- ends with the ctx ---------------'  its attachment: Name
//! ```
//!
//! C code in a job of Rust code asks for the wait ctx of its job. The ctx gets a handle then, once in its life, and the
//! handle becomes stale when Rust code drops the ctx. A call of C code keeps the ctx until it returns. This way takes
//! two locks, where a ctx of a C program is read without one.

use asyncjob::{WaitCtx, WeakWaitCtx};

use crate::fork::Shared;
use crate::handle::{Handle, InSlot, Line, Slot, Table};

/// What a slot for a ctx of Rust code holds.
#[derive(Default)]
pub(crate) struct Record(parking_lot::Mutex<Option<WeakWaitCtx>>);

impl InSlot for Record {
    type Alignment = Line;
}

static CTXS: Table<Record> = Table::new();
/// The slots without a ctx.
static FREE: Shared<Vec<&'static Slot<Record>>> = Shared::new(Vec::new());

/// The handle of a ctx. It is attached to the ctx, and dropped with it.
pub(crate) struct Name(&'static Slot<Record>);

impl Name {
    /// A handle for a ctx that has none. `None` when the process has 16 million.
    pub(crate) fn new(ctx: WeakWaitCtx) -> Option<Self> {
        let free = FREE.lock().pop();
        let slot = free.or_else(|| {
            let (first, others) = CTXS.grow()?.slots.split_first()?;
            FREE.lock().extend(others);
            Some(first)
        })?;
        *slot.value().0.lock() = Some(ctx);
        slot.begin();
        Some(Name(slot))
    }

    pub(crate) fn handle(&self) -> Handle<Record> {
        self.0.handle()
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let name = self.0.value().0.lock().take();
        self.0.end();
        drop(name);
        FREE.lock().push(self.0);
    }
}

/// The ctx that the handle names, if Rust code still has it.
pub(crate) fn find(handle: Handle<Record>) -> Option<WaitCtx> {
    let slot = CTXS.live(handle)?;
    let weak = slot.value().0.lock();
    // The slot may have got another ctx after the lookup.
    (slot.handle() == handle).then(|| weak.as_ref()?.upgrade())?
}
