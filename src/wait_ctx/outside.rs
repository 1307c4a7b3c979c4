//! A wait ctx as a thread sees it that holds no handle to it: `insight`, which looks at the jobs of other threads.
//!
//! The ctx may be freed meanwhile, so the kernel copies its memory. What such a copy says counts only if the job is
//! still there afterwards, which the caller finds out.

use std::mem::offset_of;
use std::time::{Duration, Instant};

use super::published::Published;
use super::{Inner, NO_DEADLINE, Status, VALUE_AT, View, WaitFd, WaitKey, epoch};

/// What a job waits for.
pub(crate) struct Waits {
    pub(crate) fds: Vec<WaitFd>,
    pub(crate) status: Status,
    pub(crate) deadline: Option<Instant>,
}

impl Waits {
    /// What the wait ctx says whose handle is this word. Of more than two fds it has the two oldest.
    pub(crate) fn read(handle: usize, read: &impl Fn(usize, &mut [u8]) -> Option<()>) -> Option<Waits> {
        let inner = handle + VALUE_AT;
        let word = |at: usize| {
            let mut bytes = [0; size_of::<u64>()];
            read(inner + at, &mut bytes).map(|()| u64::from_ne_bytes(bytes))
        };
        let mut status = [0; size_of::<i32>()];
        read(inner + offset_of!(Inner, status), &mut status)?;
        let armed = word(offset_of!(Inner, armed))? as usize;
        let armed = (armed != 0).then_some(WaitKey(armed));
        let deadline = word(offset_of!(Inner, deadline))?;
        let records = View::read_outside(inner + offset_of!(Inner, view), read)?;
        let live = records.iter().filter(|record| !record.is_removed());
        Some(Waits {
            fds: live.map(|record| record.fd()).filter(|fd| fd.counts(armed)).collect(),
            status: Status::from_raw(i32::from_ne_bytes(status)),
            deadline: (deadline != NO_DEADLINE)
                .then(|| epoch().checked_add(Duration::from_nanos(deadline)))
                .flatten(),
        })
    }
}

impl<const N: usize> Published<N> {
    /// The words at this address, which lie in memory that `read` copies.
    pub(super) fn read_outside(at: usize, read: &impl Fn(usize, &mut [u8]) -> Option<()>) -> Option<[u64; N]> {
        let number = |at| {
            let mut bytes = [0; size_of::<u64>()];
            read(at, &mut bytes).map(|()| u64::from_ne_bytes(bytes))
        };
        let sequence = at + offset_of!(Self, sequence);
        let before = number(sequence).filter(|before| before.is_multiple_of(2))?;
        let mut words = [0; N];
        for (place, word) in words.iter_mut().enumerate() {
            *word = number(at + offset_of!(Self, words) + place * size_of::<u64>())?;
        }
        (number(sequence)? == before).then_some(words)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::wait_ctx::{WaitCtx, WaitFdOptions};

    #[test]
    fn a_copy_says_what_the_ctx_says() {
        let ctx = WaitCtx::new();
        let handle = ctx.inner.as_ptr().addr() - VALUE_AT;
        let keys = [WaitKey::unique(), WaitKey::unique()];
        ctx.add_wait_fd(keys[0], std::io::pipe().unwrap().0);
        ctx.add_wait_fd_with(
            keys[1],
            std::io::pipe().unwrap().0,
            WaitFdOptions::new().only_when_armed(),
        );
        ctx.set_status(Status::Eagain);
        ctx.set_deadline(Some(Instant::now() + Duration::from_secs(7)));
        let memory = std::fs::File::open("/proc/self/mem").unwrap();
        let read = |at: usize, bytes: &mut [u8]| memory.read_exact_at(bytes, at as u64).ok();
        for armed in [None, Some(keys[1])] {
            ctx.arm(armed);
            let seen = Waits::read(handle, &read).unwrap();
            assert_eq!(
                (seen.fds, seen.status, seen.deadline),
                (ctx.fds(), ctx.status(), ctx.deadline())
            );
        }
        assert!(Waits::read(8, &read).is_none(), "no memory is there");
    }
}
