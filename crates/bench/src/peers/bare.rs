//! The floor: a bare corosensei coroutine on a stack that is used again and again.

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Instant;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult};

use super::kernel::{per_wake, rounds};
use crate::depth::pause_often;
use crate::measure::Candidate;
use crate::peer::{Absent, Peer};

/// Bytes of each stack. More than is ever touched here, so that it makes no difference.
pub(crate) const STACK: usize = 64 * 1024;

/// corosensei, and the stacks that are not in use.
#[derive(Default)]
pub(crate) struct Bare {
    idle: Vec<DefaultStack>,
}

impl Bare {
    fn stack(&mut self) -> Result<DefaultStack, Absent> {
        match self.idle.pop() {
            Some(stack) => Ok(stack),
            None => DefaultStack::new(STACK).map_err(|e| Absent::new(format!("no stack: {e}"))),
        }
    }
}

impl Peer for Bare {
    type Job = Coroutine<(), (), (), DefaultStack>;

    fn start<const FRAMES: u32>(&mut self, pauses: u64) -> Result<Self::Job, Absent> {
        let body = move |yielder: &corosensei::Yielder<(), ()>, ()| {
            pause_often::<FRAMES>(pauses, || yielder.suspend(()));
        };
        let mut job = Coroutine::with_stack(self.stack()?, body);
        job.resume(());
        Ok(job)
    }

    #[inline(always)]
    fn resume(&mut self, job: &mut Self::Job) -> bool {
        matches!(job.resume(()), CoroutineResult::Yield(()))
    }

    fn finish(&mut self, job: Self::Job) {
        self.idle.push(job.into_stack());
    }

    #[inline(always)]
    fn empty(&mut self) {
        let stack = self.stack().expect("one stack is there");
        let mut job: Self::Job = Coroutine::with_stack(stack, |_, ()| ());
        job.resume(());
        self.finish(job);
    }
}

/// A batch of coroutines that are put into a queue and run from it: the least that a wake of several jobs by their
/// callbacks can cost.
pub(crate) fn queue(name: &str, batch: usize) -> Candidate {
    let mut peer = Bare::default();
    let endless = || peer.start::<0>(u64::MAX).expect("a few stacks are there");
    let mut jobs: Vec<<Bare as Peer>::Job> = std::iter::repeat_with(endless).take(batch).collect();
    let mut ready = VecDeque::with_capacity(batch);
    Candidate::new(name, move |n| {
        let clock = Instant::now();
        for _ in 0..rounds(n, batch) {
            (0..batch).for_each(|at| ready.push_back(black_box(at)));
            while let Some(at) = ready.pop_front() {
                jobs[at].resume(());
            }
        }
        per_wake(clock.elapsed(), n, batch)
    })
}
