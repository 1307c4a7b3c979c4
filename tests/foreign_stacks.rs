//! Promise: jobs run on memory of the program's own allocator, if the program sets it before the first stack is made
//! (`ASYNC_set_mem_functions(3)`, S67 to S69).
//!
//! This file has one test, because the allocator of stacks belongs to the process.

#![allow(unsafe_code, reason = "an allocator for a library that calls C's")]

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use asyncjob::pool::{PoolConfig, cleanup_thread, init_thread};
use asyncjob::stack::{SetStackMemoryError, set_stack_memory};
use asyncjob::{StartErrorKind, Step, WaitCtx, pause_job, start_job};

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static FREED: AtomicUsize = AtomicUsize::new(0);
static REFUSE: AtomicBool = AtomicBool::new(false);

unsafe extern "C" fn allocate(size: *mut usize) -> *mut c_void {
    // SAFETY: the library passes a pointer to a live size.
    let asked = unsafe { &mut *size };
    assert_eq!(*asked, 32 << 10);
    if REFUSE.load(Relaxed) {
        return std::ptr::null_mut();
    }
    *asked = 100_001; // more than was asked for, and not a round number
    ALLOCATED.fetch_add(1, Relaxed);
    // SAFETY: malloc has no precondition.
    unsafe { libc::malloc(*asked) }
}

unsafe extern "C" fn free(memory: *mut c_void) {
    FREED.fetch_add(1, Relaxed);
    // SAFETY: the memory came from `allocate`, and is freed once.
    unsafe { libc::free(memory) };
}

#[test]
fn jobs_run_on_the_programs_own_memory_and_return_it() {
    // SAFETY: the functions are malloc and free, and no job below uses 100,000 bytes of stack.
    let set = || unsafe { set_stack_memory(Some((allocate, free))) };
    assert_eq!(set(), Ok(()));
    assert_eq!(set(), Ok(()), "no stack was made yet");

    let ctx = WaitCtx::new();
    init_thread(PoolConfig::new().precreate(2).limit(3)).unwrap();
    assert_eq!(ALLOCATED.load(Relaxed), 2);
    assert_eq!(set(), Err(SetStackMemoryError));
    let text = SetStackMemoryError.to_string();
    assert!(text.ends_with("/docs/guide/from-c.md]"), "{text}");

    let deep = || {
        let page = [1u8; 40_000]; // more than the 32 KiB that were asked for: the job uses all memory that was given
        pause_job().unwrap();
        std::hint::black_box(&page)
            .iter()
            .map(|&byte| usize::from(byte))
            .sum::<usize>()
    };
    let mut jobs = Vec::new();
    for _ in 0..3 {
        match start_job(&ctx, deep) {
            Ok(Step::Paused(job)) => jobs.push(job),
            other => panic!("{other:?}"),
        }
    }
    let refused = start_job(&ctx, deep).unwrap_err();
    assert!(matches!(refused.kind(), StartErrorKind::NoJobs { limit: 3 }));
    assert_eq!((ALLOCATED.load(Relaxed), FREED.load(Relaxed)), (3, 0));
    for job in jobs {
        assert!(matches!(job.resume(), Step::Finished(40_000)));
    }
    assert!(
        asyncjob::stack::stats().iter().all(|stats| stats.stacks == 0),
        "no slab was touched"
    );
    cleanup_thread().unwrap();
    assert_eq!((ALLOCATED.load(Relaxed), FREED.load(Relaxed)), (3, 3));

    REFUSE.store(true, Relaxed);
    let refused = start_job(&ctx, deep).unwrap_err();
    assert!(matches!(refused.kind(), StartErrorKind::NoStack(_)));
}
