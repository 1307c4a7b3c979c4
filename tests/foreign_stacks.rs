//! Jobs run on the program's own memory, if it says so in time (`ASYNC_set_mem_functions(3)`, S67 to S69).
//!
//! One test in a process of its own: the source of stacks belongs to the process.

#![allow(unsafe_code, reason = "an allocator for a library that calls C's")]

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use asyncjob::pool::{PoolConfig, cleanup_thread, init_thread};
use asyncjob::stack::{SetStackMemoryError, set_stack_memory};
use asyncjob::{StartErrorKind, Step, WaitCtx, pause_job, start_job};

static GIVEN: AtomicUsize = AtomicUsize::new(0);
static TAKEN_BACK: AtomicUsize = AtomicUsize::new(0);
static REFUSES: AtomicBool = AtomicBool::new(false);

unsafe extern "C" fn allocate(size: *mut usize) -> *mut c_void {
    // SAFETY: the library passes a live size.
    let asked = unsafe { &mut *size };
    assert_eq!(*asked, 32 << 10);
    if REFUSES.load(Relaxed) {
        return std::ptr::null_mut();
    }
    *asked = 100_001; // more than was asked for, and not a round number
    GIVEN.fetch_add(1, Relaxed);
    // SAFETY: not zero bytes.
    unsafe { libc::malloc(*asked) }
}

unsafe extern "C" fn free(memory: *mut c_void) {
    TAKEN_BACK.fetch_add(1, Relaxed);
    // SAFETY: it came from `allocate`.
    unsafe { libc::free(memory) };
}

#[test]
fn the_programs_own_memory_carries_jobs_and_comes_back() {
    // SAFETY: malloc and free, and no job below uses 100,000 bytes.
    let set = || unsafe { set_stack_memory(Some((allocate, free))) };
    assert_eq!(set(), Ok(()));
    assert_eq!(set(), Ok(()), "no stack was asked for yet");

    let ctx = WaitCtx::new();
    init_thread(PoolConfig::new().precreate(2).limit(3)).unwrap();
    assert_eq!(GIVEN.load(Relaxed), 2);
    assert_eq!(set(), Err(SetStackMemoryError));

    let deep = || {
        let page = [1u8; 40_000]; // more than 32 KiB: all that was given is used
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
    assert_eq!((GIVEN.load(Relaxed), TAKEN_BACK.load(Relaxed)), (3, 0));
    for job in jobs {
        assert!(matches!(job.resume(), Step::Finished(40_000)));
    }
    assert!(
        asyncjob::stack::stats().iter().all(|stats| stats.stacks == 0),
        "no slab was touched"
    );
    cleanup_thread().unwrap();
    assert_eq!((GIVEN.load(Relaxed), TAKEN_BACK.load(Relaxed)), (3, 3));

    REFUSES.store(true, Relaxed);
    let refused = start_job(&ctx, deep).unwrap_err();
    assert!(matches!(refused.kind(), StartErrorKind::NoStack(_)));
}
