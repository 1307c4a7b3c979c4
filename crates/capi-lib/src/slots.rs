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
//! | part of a job's record | may be used by | reached through |
//! |---|---|---|
//! | the generation, `owner`, `wait_ctx` | any thread: they are atomics | [`wait_ctx_of`], [`ThreadSlots::find`] |
//! | the cells | the owner only | a [`JobSlot`], which no other thread can have |
//!
//! The slot has what a resume and a pause use, in 32 bytes ([`Record`]). The rest is apart ([`Rest`]): at random among
//! very many jobs the slot of a job is in no cache, and the job's stack cannot be asked for before the slot has come.

use std::cell::{Cell, RefCell};
use std::ffi::c_int;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use asyncjob::{Job, WaitCtx, c_interface};

use crate::fork::Shared;
use crate::handle::{ASYNC_WAIT_CTX, Chunk, HalfLine, Handle, InSlot, Slot, Table};
use crate::travelling::Travelling;

static JOBS: Table<Record, Rest> = Table::new();
/// The chunks that no thread has borrowed.
static SPARE: Shared<Vec<JobChunk>> = Shared::new(Vec::new());

/// The wait ctx that the job with this handle was started with; NULL if the handle is stale. Any thread may ask.
pub(crate) fn wait_ctx_of(handle: Handle<Record>) -> *mut ASYNC_WAIT_CTX {
    let Some((slot, rest)) = JOBS.live_with_more(handle) else {
        return ptr::null_mut();
    };
    let ctx = rest.wait_ctx.load(Ordering::Acquire);
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

/// What a slot holds: what a resume and a pause use.
#[repr(C)]
pub(crate) struct Record {
    /// [`ThreadSlots::id`] of the owner; [`NO_THREAD`] while the chunk is in [`SPARE`].
    owner: AtomicUsize,
    /// The job while it is paused. A `Job` that is dropped is cancelled, which C programs do not know: hence
    /// `ManuallyDrop`.
    paused: Cell<Option<ManuallyDrop<Job<c_int>>>>,
    /// What of its wait ctx a resume of the job reads, for a look ahead.
    near: Cell<*const u8>,
}

impl InSlot for Record {
    type Alignment = HalfLine; // the slots of a chunk have one owner
}

const _: () = assert!(size_of::<Slot<Record>>() == 32);

/// What else is kept of a job. A start uses what comes first.
#[repr(C)]
pub(crate) struct Rest {
    wait_ctx: AtomicPtr<ASYNC_WAIT_CTX>,
    /// The wait ctx of the job, if it is one of a C program. The job is counted in it from its first pause on.
    ctx: Cell<Option<&'static WaitCtx>>,
    /// The free slot below this one.
    next_free: Cell<Option<JobSlot>>,
    /// The job is one of Rust code, which C code cannot resume ([`crate::job`]).
    is_rust: Cell<bool>,
    /// The job has not paused yet.
    is_new: Cell<bool>,
    /// The wait ctx of the job until its first pause, if it is another one.
    other_ctx: Cell<Option<WaitCtx>>,
    /// What travels with the job, while it is paused.
    travelling: Cell<Travelling>,
    /// The job while it is paused, if the program has freed its wait ctx meanwhile. Such a job is mostly forgotten by
    /// its program, as by `SSL_free` (S88). It gives back what it can do without ([`ThreadSlots::set_aside`]).
    set_aside: Cell<Option<ManuallyDrop<Job<c_int>>>>,
}

// SAFETY: the atomics may be shared. The cells are reached through a `JobSlot` only, which is neither `Send` nor `Sync`
// and which only `ThreadSlots` of the owner makes. A chunk changes its owner under the lock of `SPARE`, after
// `ThreadSlots::return_chunks`, whose caller promises that no `JobSlot` of the former owner is used any more.
unsafe impl Sync for Record {}

// SAFETY: as above.
unsafe impl Sync for Rest {}

impl Default for Record {
    fn default() -> Self {
        Record {
            owner: AtomicUsize::new(NO_THREAD),
            paused: Cell::new(None),
            near: Cell::new(ptr::null()),
        }
    }
}

impl Default for Rest {
    fn default() -> Self {
        Rest {
            wait_ctx: AtomicPtr::new(ptr::null_mut()),
            ctx: Cell::new(None),
            next_free: Cell::new(None),
            is_rust: Cell::new(false),
            is_new: Cell::new(false),
            other_ctx: Cell::new(None),
            travelling: Cell::new(Travelling::NOTHING),
            set_aside: Cell::new(None),
        }
    }
}

impl Rest {
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
    rest: &'static Rest,
    _not_send: PhantomData<*const ()>,
}

impl JobSlot {
    /// # Safety
    ///
    /// The calling thread must be the owner of the slot. `rest` must be that of the slot.
    #[inline]
    unsafe fn new(slot: &'static Slot<Record>, rest: &'static Rest) -> Self {
        JobSlot {
            slot,
            rest,
            _not_send: PhantomData,
        }
    }

    /// The handle of the job that the slot has now.
    #[inline]
    pub(crate) fn handle(self) -> Handle<Record> {
        self.slot.handle()
    }

    /// Whether the job is one of Rust code, which C code cannot resume.
    #[inline]
    pub(crate) fn is_rust(self) -> &'static Cell<bool> {
        &self.rest.is_rust
    }

    /// What travels with the job, while it is paused.
    #[inline]
    pub(crate) fn travelling(self) -> &'static Cell<Travelling> {
        &self.rest.travelling
    }

    /// Prepares the slot for a job that starts with this wait ctx.
    #[inline]
    pub(crate) fn begin(self, ctx: *mut ASYNC_WAIT_CTX) {
        // After the generation of the job before: a thread that reads this ctx must not take the handle of that job for
        // good.
        self.rest.wait_ctx.store(ctx, Ordering::Release);
        self.slot.begin();
    }

    /// The job starts with this wait ctx of a C program.
    #[inline]
    pub(crate) fn starts_with(self, ctx: &'static WaitCtx) {
        self.rest.is_new.set(true);
        self.rest.ctx.set(Some(ctx));
        self.slot.value().near.set(c_interface::read_by_resume(ctx));
    }

    /// The job starts with another wait ctx.
    #[cold]
    pub(crate) fn starts_with_other(self, ctx: WaitCtx) {
        self.rest.is_new.set(true);
        self.slot.value().near.set(c_interface::read_by_resume(&ctx));
        self.rest.other_ctx.set(Some(ctx));
    }

    /// The job, if it is paused. If it is one of `many`, what its resume will read is asked for, all at once: nothing
    /// of it may be in the caches, and the resume would wait for one line after the other.
    #[inline]
    pub(crate) fn take_paused(self, many: bool) -> Option<ManuallyDrop<Job<c_int>>> {
        let record = self.slot.value();
        let job = record.paused.take()?;
        if many {
            c_interface::fetch(&job, record.near.get());
        }
        Some(job)
    }

    /// The job has paused for the first time. It is counted in its wait ctx from now on.
    #[inline]
    pub(crate) fn first_paused(self, job: &Job<c_int>) {
        self.rest.is_new.set(false);
        match self.rest.ctx.get() {
            Some(ctx) => ctx.lock().add_job(),
            None => self.rest.keep_other_ctx(job),
        }
    }

    /// Keeps the job until it is resumed.
    #[inline]
    pub(crate) fn keep(self, job: Job<c_int>) {
        self.slot.value().paused.set(Some(ManuallyDrop::new(job)));
    }

    /// The job has ended, or has not started.
    #[inline]
    pub(crate) fn job_ended(self) {
        self.rest.job_ended();
    }

    /// The job, if it is paused and set aside. It is not any more then.
    #[cold]
    pub(crate) fn take_back(self) -> Option<ManuallyDrop<Job<c_int>>> {
        let job = self.rest.set_aside.take()?;
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
type JobChunk = &'static Chunk<Record, Rest>;

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
        let Some((slot, rest)) = JOBS.live_with_more(handle) else {
            return Found::Nothing;
        };
        if slot.value().owner.load(Ordering::Relaxed) != self.id.get() {
            return Found::OnOtherThread;
        }
        // SAFETY: only `add_chunk` of this very object wrote this number there, and it cannot change threads.
        Found::Own(unsafe { JobSlot::new(slot, rest) })
    }

    /// The program has freed this wait ctx. If this job of this thread is paused and was started with it, the job
    /// gives back its place in the limit of the pool and the memory below its stack pointer.
    #[cold]
    pub(crate) fn set_aside(&self, handle: Handle<Record>, ctx: *mut ASYNC_WAIT_CTX) {
        let Found::Own(slot) = self.find(handle) else { return };
        if slot.rest.wait_ctx.load(Ordering::Relaxed) != ctx {
            return;
        }
        if let Some(mut job) = slot.slot.value().paused.take() {
            c_interface::set_aside(&mut job);
            slot.rest.set_aside.set(Some(job));
            SET_ASIDE.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A free slot, if there is one.
    #[inline]
    pub(crate) fn pop(&self) -> Option<JobSlot> {
        let slot = self.free.get()?;
        self.free.set(slot.rest.next_free.get());
        Some(slot)
    }

    /// The slot has no job any more.
    #[inline]
    pub(crate) fn push(&self, slot: JobSlot) {
        slot.rest.next_free.set(self.free.replace(Some(slot)));
    }

    /// Borrows 64 slots more. `None` when the process has 16 million jobs.
    pub(crate) fn add_chunk(&self) -> Option<()> {
        let chunk = borrow_chunk()?;
        if self.id.get() == NOT_NUMBERED {
            static LAST: AtomicUsize = AtomicUsize::new(NO_THREAD);
            self.id.set(LAST.fetch_add(1, Ordering::Relaxed) + 1);
        }
        for (slot, rest) in chunk.slots.iter().zip(&chunk.more).rev() {
            slot.value().owner.store(self.id.get(), Ordering::Relaxed);
            // SAFETY: this thread has just borrowed it.
            self.push(unsafe { JobSlot::new(slot, rest) });
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
    for (slot, rest) in chunk.slots.iter().zip(&chunk.more) {
        let record = slot.value();
        let forgotten = rest.set_aside.take();
        if forgotten.is_some() {
            SET_ASIDE.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(job) = record.paused.take().or(forgotten) {
            slot.end();
            ManuallyDrop::into_inner(job).quarantine();
        }
        rest.job_ended(); // after the quarantine, and also of a job that the thread has left by `pthread_exit`
        if rest.is_rust.take() {
            slot.end(); // the job belongs to Rust code, which may still end it
        }
        rest.travelling.set(Travelling::NOTHING);
        record.owner.store(NO_THREAD, Ordering::Relaxed);
    }
    SPARE.lock().push(chunk);
}
