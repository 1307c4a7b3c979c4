//! The slots of jobs: what is known of each job outside its stack.
//!
//! ```text
//!   process    JOBS: 64 slots a chunk, never freed (crate::handle)
//!              SPARE: chunks of threads that have ended
//!                |                     ^
//!                | add_chunk           | return_chunks
//!                v                     |
//!   thread     ThreadSlots: chunks; free -> slot -> slot -> ...   (no job; last in, first out)
//! ```
//!
//! A thread borrows slots from the process, a chunk at a time, and returns them when it ends. The thread that has
//! borrowed a slot is the owner of the slot.
//!
//! | part of a slot | may be used by | reached through |
//! |---|---|---|
//! | the generation, `owner`, `wait_ctx` | any thread: they are atomics | [`wait_ctx_of`], [`ThreadSlots::find`] |
//! | [`OwnerCells`] | the owner only | a [`JobSlot`], which no other thread can have |

use std::cell::{Cell, RefCell};
use std::ffi::c_int;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, offset_of};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use asyncjob::{Job, WaitCtx, c_interface};

use crate::fork::Shared;
use crate::handle::{ASYNC_WAIT_CTX, CHUNK, Handle, Slot, Table};
use crate::travelling::Travelling;

static JOBS: Table<Record> = Table::new();
/// The chunks that no thread has borrowed.
static SPARE: Shared<Vec<JobChunk>> = Shared::new(Vec::new());

/// The wait ctx that the job with this handle was started with; NULL if the handle is stale. Any thread may ask.
pub(crate) fn wait_ctx_of(handle: Handle<Record>) -> *mut ASYNC_WAIT_CTX {
    let Some(slot) = JOBS.live(handle) else {
        return ptr::null_mut();
    };
    let ctx = slot.value().wait_ctx.load(Ordering::Acquire);
    // The handle is compared again: the job may have ended meanwhile, and then the ctx may be that of the next job.
    if slot.handle() == handle { ctx } else { ptr::null_mut() }
}

/// How many jobs are set aside.
static SET_ASIDE: AtomicUsize = AtomicUsize::new(0);

/// How many paused jobs of this process have lost their wait ctx: the program has freed it, as `SSL_free` does, and has
/// not resumed the job.
///
/// C programs cannot free such a job, and mostly forget it. It keeps the pages of its stack that are in use, until its
/// thread ends. It does not count for the limit of `ASYNC_init_thread`.
pub fn forgotten_jobs() -> usize {
    SET_ASIDE.load(Ordering::Relaxed)
}

/// What a slot holds. What a resume uses is in the first cache line.
#[repr(C)]
pub(crate) struct Record {
    /// [`ThreadSlots::id`] of the owner; [`NO_THREAD`] while the chunk is in [`SPARE`].
    owner: AtomicUsize,
    wait_ctx: AtomicPtr<ASYNC_WAIT_CTX>,
    cells: OwnerCells,
}

/// The part of a record that only the owner of the slot uses.
#[repr(C)]
pub(crate) struct OwnerCells {
    /// The job while it is paused. A `Job` that is dropped is cancelled, which C programs do not know: hence
    /// `ManuallyDrop`.
    pub(crate) paused: Cell<Option<ManuallyDrop<Job<c_int>>>>,
    /// What of its wait ctx a resume of the job reads, for a look ahead.
    near: Cell<*const u8>,
    /// The job is one of Rust code, which C code cannot resume ([`crate::job`]).
    pub(crate) is_rust: Cell<bool>,
    /// The job has not paused yet.
    is_new: Cell<bool>,
    /// The wait ctx of the job, if it is one of a C program. The job is counted in it from its first pause on.
    ctx: Cell<Option<&'static WaitCtx>>,
    /// The wait ctx of the job until its first pause, if it is another one.
    other_ctx: Cell<Option<WaitCtx>>,
    /// What travels with the job, while it is paused.
    pub(crate) travelling: Cell<Travelling>,
    /// The job while it is paused, if the program has freed its wait ctx meanwhile. Such a job is mostly forgotten by
    /// its program, as by `SSL_free` (S88). It gives back what it can do without ([`ThreadSlots::set_aside`]).
    pub(crate) set_aside: Cell<Option<ManuallyDrop<Job<c_int>>>>,
    /// The free slot below this one.
    next_free: Cell<Option<JobSlot>>,
}

const _: () = assert!(
    size_of::<usize>() + offset_of!(Record, cells) + offset_of!(OwnerCells, other_ctx) <= 64,
    "behind the handle, in one cache line with it"
);

// SAFETY: the atomics may be shared. The cells are reached through a `JobSlot` only, which is neither `Send` nor `Sync`
// and which only `ThreadSlots` of the owner makes. A chunk changes its owner under the lock of `SPARE`, after
// `ThreadSlots::return_chunks`, whose caller promises that no `JobSlot` of the former owner is used any more.
unsafe impl Sync for Record {}

impl Default for Record {
    fn default() -> Self {
        Record {
            owner: AtomicUsize::new(NO_THREAD),
            wait_ctx: AtomicPtr::new(ptr::null_mut()),
            cells: OwnerCells {
                paused: Cell::new(None),
                set_aside: Cell::new(None),
                travelling: Cell::new(Travelling::NOTHING),
                is_rust: Cell::new(false),
                near: Cell::new(ptr::null()),
                is_new: Cell::new(false),
                ctx: Cell::new(None),
                other_ctx: Cell::new(None),
                next_free: Cell::new(None),
            },
        }
    }
}

impl OwnerCells {
    #[cold]
    fn keep_other_ctx(&self, job: &Job<c_int>) {
        c_interface::own_ctx(job);
        drop(self.other_ctx.take());
    }

    #[inline]
    fn job_ended(&self) {
        let was_counted = !self.is_new.replace(false);
        match self.ctx.take() {
            Some(ctx) if was_counted => ctx.lock().remove_job(),
            Some(_) => {}
            None => self.forget_other_ctx(),
        }
    }

    #[cold]
    fn forget_other_ctx(&self) {
        drop(self.other_ctx.take());
    }
}

/// A slot, in the hands of its owner. It can be copied, and cannot leave the thread.
#[derive(Clone, Copy)]
pub(crate) struct JobSlot {
    slot: &'static Slot<Record>,
    _not_send: PhantomData<*const ()>,
}

impl JobSlot {
    /// # Safety
    ///
    /// The calling thread must be the owner of the slot.
    #[inline]
    unsafe fn new(slot: &'static Slot<Record>) -> Self {
        JobSlot {
            slot,
            _not_send: PhantomData,
        }
    }

    /// The handle of the job that the slot has now.
    #[inline]
    pub(crate) fn handle(self) -> Handle<Record> {
        self.slot.handle()
    }

    #[inline]
    pub(crate) fn cells(self) -> &'static OwnerCells {
        &self.slot.value().cells
    }

    /// Prepares the slot for a job that starts with this wait ctx.
    #[inline]
    pub(crate) fn begin(self, ctx: *mut ASYNC_WAIT_CTX) {
        // After the generation of the job before: a thread that reads this ctx must not take the handle of that job for
        // good.
        self.slot.value().wait_ctx.store(ctx, Ordering::Release);
        self.slot.begin();
    }

    /// The job starts with this wait ctx of a C program.
    #[inline]
    pub(crate) fn starts_with(self, ctx: &'static WaitCtx) {
        self.cells().is_new.set(true);
        self.cells().ctx.set(Some(ctx));
        self.cells().near.set(c_interface::read_by_resume(ctx));
    }

    /// The job starts with another wait ctx.
    #[cold]
    pub(crate) fn starts_with_other(self, ctx: WaitCtx) {
        self.cells().is_new.set(true);
        self.cells().near.set(c_interface::read_by_resume(&ctx));
        self.cells().other_ctx.set(Some(ctx));
    }

    /// The job, if it is paused. If it is one of `many`, what its resume will read is asked for, all at once: nothing
    /// of it may be in the caches, and the resume would wait for one line after the other.
    #[inline]
    pub(crate) fn take_paused(self, many: bool) -> Option<ManuallyDrop<Job<c_int>>> {
        let job = self.cells().paused.take()?;
        if many {
            c_interface::fetch(&job, self.cells().near.get());
        }
        Some(job)
    }

    /// The job has paused. At its first pause it is counted in its wait ctx.
    #[inline]
    pub(crate) fn job_paused(self, job: &Job<c_int>) {
        if !self.cells().is_new.get() {
            return;
        }
        self.cells().is_new.set(false);
        match self.cells().ctx.get() {
            Some(ctx) => ctx.lock().add_job(),
            None => self.cells().keep_other_ctx(job),
        }
    }

    /// The job has ended, or has not started.
    #[inline]
    pub(crate) fn job_ended(self) {
        self.cells().job_ended();
    }

    /// The job, if it is paused and set aside. It is not any more then.
    #[cold]
    pub(crate) fn take_back(self) -> Option<ManuallyDrop<Job<c_int>>> {
        let job = self.cells().set_aside.take()?;
        SET_ASIDE.fetch_sub(1, Ordering::Relaxed);
        c_interface::take_back(&job);
        Some(job)
    }

    /// The job has ended: its handle becomes stale.
    #[inline]
    pub(crate) fn end(self) {
        self.slot.end();
    }
}

/// The slots that one thread has borrowed.
///
/// The slots of a `ThreadSlots` that is dropped without [`return_chunks`](Self::return_chunks) stay out of use.
pub(crate) struct ThreadSlots {
    /// A number that no other `ThreadSlots` ever has, or [`NOT_NUMBERED`] before the first chunk.
    ///
    /// An address would not do: what a later thread has may come to lie at the same one.
    id: Cell<usize>,
    /// There are more slots than the caches hold jobs.
    has_many: Cell<bool>,
    free: Cell<Option<JobSlot>>,
    chunks: RefCell<Vec<JobChunk>>,
}

/// With more chunks than this a thread has many jobs. A resume touches twelve lines or more, so a thousand jobs fill
/// the cache of a core. To ask for the lines costs 3 ns where they are in the caches.
const MANY: usize = 8;

/// Two numbers that differ, so that a thread without slots owns none.
const NO_THREAD: usize = 0;
const NOT_NUMBERED: usize = usize::MAX;

/// Slots that are borrowed together.
type JobChunk = &'static [Slot<Record>; CHUNK];

/// What a handle leads to.
pub(crate) enum Found {
    /// A slot of this thread, in which the handle is alive.
    Own(JobSlot),
    /// The handle is alive on another thread.
    OnOtherThread,
    /// The handle is stale, or was never one.
    Nothing,
}

impl ThreadSlots {
    pub(crate) const fn new() -> Self {
        ThreadSlots {
            id: Cell::new(NOT_NUMBERED),
            has_many: Cell::new(false),
            free: Cell::new(None),
            chunks: RefCell::new(Vec::new()),
        }
    }

    #[inline]
    pub(crate) fn find(&self, handle: Handle<Record>) -> Found {
        let Some(slot) = JOBS.live(handle) else {
            return Found::Nothing;
        };
        if slot.value().owner.load(Ordering::Relaxed) != self.id.get() {
            return Found::OnOtherThread;
        }
        // SAFETY: only `add_chunk` of this very object wrote this number there, and it cannot change threads.
        Found::Own(unsafe { JobSlot::new(slot) })
    }

    /// The program has freed this wait ctx. If this job of this thread is paused and was started with it, the job
    /// gives back its place in the limit of the pool and the memory below its stack pointer.
    #[cold]
    pub(crate) fn set_aside(&self, handle: Handle<Record>, ctx: *mut ASYNC_WAIT_CTX) {
        let Found::Own(slot) = self.find(handle) else { return };
        if slot.slot.value().wait_ctx.load(Ordering::Relaxed) != ctx {
            return;
        }
        if let Some(mut job) = slot.cells().paused.take() {
            c_interface::set_aside(&mut job);
            slot.cells().set_aside.set(Some(job));
            SET_ASIDE.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A free slot, if there is one.
    #[inline]
    pub(crate) fn pop(&self) -> Option<JobSlot> {
        let slot = self.free.get()?;
        self.free.set(slot.cells().next_free.get());
        Some(slot)
    }

    /// The slot has no job any more.
    #[inline]
    pub(crate) fn push(&self, slot: JobSlot) {
        slot.cells().next_free.set(self.free.replace(Some(slot)));
    }

    /// Borrows 64 slots more. `None` when the process has 16 million jobs.
    pub(crate) fn add_chunk(&self) -> Option<()> {
        let chunk = borrow_chunk()?;
        if self.id.get() == NOT_NUMBERED {
            static LAST: AtomicUsize = AtomicUsize::new(NO_THREAD);
            self.id.set(LAST.fetch_add(1, Ordering::Relaxed) + 1);
        }
        for slot in chunk.iter().rev() {
            slot.value().owner.store(self.id.get(), Ordering::Relaxed);
            // SAFETY: this thread has just borrowed it.
            self.push(unsafe { JobSlot::new(slot) });
        }
        let mut chunks = self.chunks.borrow_mut();
        chunks.push(chunk);
        self.has_many.set(chunks.len() > MANY);
        Some(())
    }

    /// Whether the jobs of this thread may be too many for the caches.
    #[inline]
    pub(crate) fn has_many(&self) -> bool {
        self.has_many.get()
    }

    /// Returns all slots to the process. Jobs that are paused in them can never be resumed: their handles become stale,
    /// and their stacks are quarantined, because an engine may still write to them (S88).
    ///
    /// # Safety
    ///
    /// The calling thread must not use a [`JobSlot`] that it has now after this call.
    pub(crate) unsafe fn return_chunks(&self) {
        self.free.set(None);
        self.has_many.set(false);
        for chunk in self.chunks.take() {
            return_chunk(chunk);
        }
    }
}

fn borrow_chunk() -> Option<JobChunk> {
    let spare = SPARE.lock().pop();
    spare.or_else(|| JOBS.grow())
}

fn return_chunk(chunk: JobChunk) {
    for slot in chunk {
        let record = slot.value();
        let forgotten = record.cells.set_aside.take();
        if forgotten.is_some() {
            SET_ASIDE.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(job) = record.cells.paused.take().or(forgotten) {
            slot.end();
            ManuallyDrop::into_inner(job).quarantine();
        }
        record.cells.job_ended(); // after the quarantine, and also of a job that the thread has left by `pthread_exit`
        if record.cells.is_rust.take() {
            slot.end(); // the job belongs to Rust code, which may still end it
        }
        record.cells.travelling.set(Travelling::NOTHING);
        record.owner.store(NO_THREAD, Ordering::Relaxed);
    }
    SPARE.lock().push(chunk);
}
