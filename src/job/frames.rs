//! Jobs as seen by `insight`: the frames of a paused one, the one that runs on a thread that does not answer, and those
//! that no driver tells of.

use std::mem::offset_of;
use std::ops::Range;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::control_block::{ControlBlock, FramesReport, TypedBlock};
use super::current::CURRENT;
use super::{Job, JobId};
use crate::stack::depot::Depot;
use crate::stack::{Place, Spec, StackHeader, StackSize, places};
use crate::wait_ctx::Waits;

/// The lock of the walks: see [`walking`].
static WALKS: Mutex<()> = Mutex::new(());

/// Held while a thread walks a stack or names a frame, in libraries that have locks of their own.
pub(crate) type Walking = MutexGuard<'static, ()>;

/// Lets this thread use `backtrace`. Who holds this while the process forks knows that no other thread is in there, so
/// that the child can use it, too.
pub(crate) fn walking() -> Walking {
    WALKS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Job<T> {
    /// The return addresses of the frames of this job, the innermost first. There are none when there is no memory for
    /// a stack to walk them on, and when the job's own stack is nearly full: see [`backtrace`](Self::backtrace).
    pub(crate) fn frames(&mut self) -> Vec<usize> {
        let Ok(stack) = Depot::of(Spec::new(StackSize::DEFAULT)).take() else {
            return Vec::new();
        };
        let mut report = FramesReport::new(stack);
        report.frames = Some(Vec::new());
        self.report_frames(report).frames.unwrap_or_default()
    }
}

/// Adds a frame if it is one of the job. Returns whether to go on: below the frames of the job are those of its driver.
pub(super) fn add(frames: &mut Vec<usize>, frame: &backtrace::Frame, own_stack: &Range<usize>) -> bool {
    let is_own = own_stack.contains(&frame.sp().addr());
    if is_own {
        frames.push(frame.ip().addr());
    }
    is_own || frames.is_empty()
}

/// Where this thread keeps the job that runs, for [`read_running`].
pub(crate) fn address_of_current() -> usize {
    CURRENT.with(|current| ptr::from_ref(current).addr())
}

/// Where the frames of the job begin that runs on the thread whose [`address_of_current`] is `current`: the end of its
/// stack. `None` if no job runs there.
pub(crate) fn end_of_frames(current: usize, read: &impl ReadMemory) -> Option<usize> {
    let control = word(read, current).filter(|at| *at != 0)?;
    Some(control - CALLER_BYTES)
}

/// The id and the name of the job that runs on the thread whose [`address_of_current`] is `current`. `read` reads
/// memory, and fails where there is none.
///
/// The thread goes on meanwhile, so the answer may be about a job that has ended, or about none: the caller asks twice.
pub(crate) fn read_running(current: usize, read: &impl ReadMemory) -> Option<(u64, Option<String>)> {
    let control = word(read, current).filter(|at| *at != 0)?;
    let id = word(read, control + offset_of!(ControlBlock, id))?;
    let header = word(read, control + offset_of!(ControlBlock, stack))?;
    Some((id as u64, name(read, header)))
}

/// Copies memory that other code may change or unmap meanwhile. `None` if it is gone.
pub(crate) trait ReadMemory: Fn(usize, &mut [u8]) -> Option<()> {}
impl<F: Fn(usize, &mut [u8]) -> Option<()>> ReadMemory for F {}

fn word(read: &impl ReadMemory, at: usize) -> Option<usize> {
    let mut bytes = [0; size_of::<usize>()];
    read(at, &mut bytes)?;
    Some(usize::from_ne_bytes(bytes))
}

/// The name in the header of a stack.
fn name(read: &impl ReadMemory, header: usize) -> Option<String> {
    let [name, len] = StackHeader::NAME_AT.map(|at| word(read, header + at));
    let mut bytes = vec![0; len?.min(256)];
    let name = (!bytes.is_empty()).then(|| read(name?, &mut bytes)).flatten();
    name.map(|()| String::from_utf8_lossy(&bytes).into_owned())
}

/// A paused job, as a thread sees it that has nothing to do with it.
pub(crate) struct Sighting {
    pub(crate) id: JobId,
    /// The stack pointer with which the job is suspended.
    pub(crate) pointer: usize,
    place: Place,
}

/// What there is to say of such a job.
pub(crate) struct Sight {
    pub(crate) name: Option<String>,
    pub(crate) waits: Waits,
    pub(crate) high_water: usize,
    pub(crate) stack_size: usize,
    /// A copy of what lies from the stack pointer to [`CALLER_BYTES`] below the control block: the frames.
    pub(crate) stack: Vec<u8>,
}

/// All jobs of the process that are paused, on whatever thread, whatever drives them. Nothing is asked, and nothing
/// waits for their threads. A job that runs or ends meanwhile may be missing, or be there.
///
/// Jobs on foreign stacks are missing.
pub(crate) fn paused_jobs(read: &impl ReadMemory) -> Vec<Sighting> {
    let sighting = |place: Place| {
        let (id, pointer) = suspended(place.header, place.limit(), read)?;
        Some(Sighting { id, pointer, place })
    };
    places().into_iter().filter_map(sighting).collect()
}

/// What corosensei keeps above the frames of a job: the stack pointer of the code that resumed the job last, and the
/// first function. Without them a walk of the frames ends there.
const CALLER_BYTES: usize = 16;

impl Sighting {
    /// Looks at the job more closely. `None` if the job has gone on meanwhile.
    pub(crate) fn look(&self, read: &impl ReadMemory) -> Option<Sight> {
        let header = self.place.header;
        let control = header - size_of::<TypedBlock<()>>();
        let stack = copy(self.pointer, control, read)?;
        let ctx = word(read, control + offset_of!(ControlBlock, ctx))?;
        let sight = Sight {
            name: name(read, header),
            waits: Waits::read(ctx, read)?,
            high_water: self.place.high_water(),
            stack_size: control - self.place.limit(),
            stack,
        };
        let is_same = suspended(header, self.place.limit(), read) == Some((self.id, self.pointer));
        is_same.then_some(sight)
    }
}

/// The stack pointer of the paused job whose stack has its header and its limit there, and a copy of its frames. `None`
/// if no job is paused there.
pub(super) fn copy_of_stack(header: usize, limit: usize, read: &impl ReadMemory) -> Option<(usize, Vec<u8>)> {
    let (_, pointer) = suspended(header, limit, read)?;
    Some((pointer, copy(pointer, header - size_of::<TypedBlock<()>>(), read)?))
}

/// A copy of what lies from the stack pointer of a job to [`CALLER_BYTES`] below its control block.
fn copy(pointer: usize, control: usize, read: &impl ReadMemory) -> Option<Vec<u8>> {
    let mut stack = vec![0; (control - CALLER_BYTES).checked_sub(pointer)?];
    read(pointer, &mut stack)?;
    Some(stack)
}

/// The id of the job on a stack and the stack pointer with which it is suspended. `None` if no job is suspended there.
///
/// corosensei says nothing of where in a coroutine the pointer lies. Two words of a suspended coroutine are addresses
/// on its stack: the pointer of its start, and below it that of now. While it runs and after its end there is only the
/// first.
fn suspended(header: usize, limit: usize, read: &impl ReadMemory) -> Option<(JobId, usize)> {
    const WORD: usize = size_of::<usize>();
    const BLOCK: usize = size_of::<TypedBlock<()>>();
    const COROUTINE: usize = offset_of!(TypedBlock<()>, coroutine);
    let control = header - BLOCK;
    // The header lies right above the control block, so that one call of the kernel copies both.
    let mut bytes = [0; BLOCK + size_of::<StackHeader>()];
    read(control, &mut bytes)?;
    let word_at = |at: usize| usize::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
    let id = JobId::from_outside(word_at(BLOCK + StackHeader::ID_AT) as u64)?;
    let on_stack = limit + 1..control;
    let mut pointers = (COROUTINE..BLOCK)
        .step_by(WORD)
        .map(word_at)
        .filter(|word| on_stack.contains(word));
    match (pointers.next(), pointers.next(), pointers.next()) {
        (Some(one), Some(other), None) if one != other => Some((id, one.min(other))),
        _ => None,
    }
}
