//! The floor: a bare corosensei coroutine on a stack that is used again and again.

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult};

use crate::depth::pause_often;
use crate::peer::{Absent, Peer};

/// Bytes of each stack: what our jobs get by default.
pub(crate) const STACK: usize = 64 * 1024;

/// corosensei, and the stacks that it is not using.
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
