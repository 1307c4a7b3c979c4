//! Boost.Context, where Boost was installed when this program was built. Its loops are in `shim/boost_context.cpp`.

#[cfg(boost)]
pub(crate) use here::{life, open, switch};

#[cfg(not(boost))]
pub(crate) use missing::{life, open, switch};

#[cfg(boost)]
mod here {
    use std::ffi::c_void;
    use std::time::Instant;

    use crate::measure::Candidate;
    use crate::peer::{Absent, Depth};
    use crate::peers::bare::STACK;

    unsafe extern "C" {
        fn bench_boost_switch(memory: *mut c_void, size: usize, n: u64, job: u32, caller: u32);
        fn bench_boost_empty(memory: *mut c_void, size: usize, n: u64);
        safe fn bench_boost_version() -> u32;
    }

    /// The name of this peer, with its version.
    pub(crate) fn open() -> Result<String, Absent> {
        let version = bench_boost_version();
        Ok(format!("Boost.Context {}.{}", version / 100_000, version / 100 % 1000))
    }

    pub(crate) fn switch(name: &str, depth: Depth) -> Candidate {
        let mut stack = vec![0u8; STACK];
        Candidate::new(name, move |n| {
            let memory = stack.as_mut_ptr().cast();
            let clock = Instant::now();
            // SAFETY: the shim runs its job on this memory, and does not use the memory after it returns.
            unsafe { bench_boost_switch(memory, STACK, n, depth.job, depth.caller) };
            clock.elapsed()
        })
    }

    pub(crate) fn life(name: &str) -> Candidate {
        let mut stack = vec![0u8; STACK];
        Candidate::new(name, move |n| {
            let memory = stack.as_mut_ptr().cast();
            let clock = Instant::now();
            // SAFETY: the shim runs its jobs on this memory, and does not use the memory after it returns.
            unsafe { bench_boost_empty(memory, STACK, n) };
            clock.elapsed()
        })
    }
}

#[cfg(not(boost))]
mod missing {
    use crate::measure::Candidate;
    use crate::peer::{Absent, Depth};

    pub(crate) fn open() -> Result<String, Absent> {
        Err(Absent::new(
            "built without Boost; apt-get install libboost-context-dev, and build again",
        ))
    }

    pub(crate) fn switch(_: &str, _: Depth) -> Candidate {
        unreachable!("the peer is absent")
    }

    pub(crate) fn life(_: &str) -> Candidate {
        unreachable!("the peer is absent")
    }
}
