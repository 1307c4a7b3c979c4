//! Jobs as seen by `insight`: the frames of a paused one, and the one that runs on a thread that does not answer.

use std::mem::offset_of;
use std::ops::Range;
use std::ptr;

use super::Job;
use super::control_block::{ControlBlock, FramesReport};
use super::current::CURRENT;
use crate::stack::depot::Depot;
use crate::stack::{Spec, StackHeader, StackSize};

impl<T> Job<T> {
    /// The return addresses of the frames of this job, the innermost first. There are none when there is no memory for
    /// a stack to walk them on, and when the job's own stack is nearly full: see [`backtrace`](Self::backtrace).
    ///
    /// # Panics
    ///
    /// As [`backtrace`](Self::backtrace).
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

/// The id and the name of the job that runs on the thread whose [`address_of_current`] is `current`. `read` reads
/// memory, and fails where there is none.
///
/// The thread goes on meanwhile, so the answer may be about a job that has ended, or about none: the caller asks twice.
pub(crate) fn read_running(
    current: usize,
    read: &impl Fn(usize, &mut [u8]) -> Option<()>,
) -> Option<(u64, Option<String>)> {
    let word = |at: usize| {
        let mut bytes = [0; size_of::<usize>()];
        read(at, &mut bytes)?;
        Some(usize::from_ne_bytes(bytes))
    };
    let control = word(current).filter(|at| *at != 0)?;
    let id = word(control + offset_of!(ControlBlock, id))?;
    let header = word(control + offset_of!(ControlBlock, stack))?;
    let [name, len] = StackHeader::NAME_AT.map(|at| word(header + at));
    let mut bytes = vec![0; len?.min(256)];
    let name = (!bytes.is_empty()).then(|| read(name?, &mut bytes)).flatten();
    Some((id as u64, name.map(|()| String::from_utf8_lossy(&bytes).into_owned())))
}
