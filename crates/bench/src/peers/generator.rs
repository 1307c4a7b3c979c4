//! The `generator` crate, which has its own assembly and keeps its data in each stack.

use generator::{Generator, Gn, LocalGenerator};

use crate::depth::pause_often;
use crate::peer::{Absent, Peer};

/// The size of each stack in words of `usize`, as `generator` counts.
const STACK: usize = super::bare::STACK / size_of::<usize>();

/// generator. It keeps no stacks. A program reuses a stack by initialising the coroutine again, as `empty` does.
pub(crate) struct Gen {
    reused: Generator<'static, (), ()>,
}

impl Default for Gen {
    fn default() -> Self {
        Gen {
            reused: Gn::new_scoped_opt(STACK, |_| ()),
        }
    }
}

impl Peer for Gen {
    type Job = LocalGenerator<'static, (), ()>;

    fn start<const FRAMES: u32>(&mut self, pauses: u64) -> Result<Self::Job, Absent> {
        let mut job = Gn::new_scoped_opt_local(STACK, move |mut scope| {
            pause_often::<FRAMES>(pauses, || {
                scope.yield_with(());
            });
        });
        job.resume();
        Ok(job)
    }

    #[inline(always)]
    fn resume(&mut self, job: &mut Self::Job) -> bool {
        job.resume();
        !job.is_done()
    }

    #[inline(always)]
    fn empty(&mut self) {
        if !self.reused.is_done() {
            self.reused.resume(); // the one that `default` made
        }
        self.reused.init_code(|| ());
        self.reused.resume();
    }
}
