//! Promise: a future of a job makes one heap allocation under tokio, too: for what it is given. What looks after wait
//! fds and deadlines is made for a job that has some.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::pin::pin;
use std::task::{Context, Waker};

use asyncjob_tokio::{in_job, job};

thread_local!(static ALLOCATIONS: Cell<usize> = const { Cell::new(0) });

struct Counting;

#[allow(unsafe_code, reason = "the only way to count allocations")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of this method, which is that of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of this method, which is that of the system's allocator.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static GLOBAL: Counting = Counting;

#[test]
#[cfg_attr(feature = "tracing", ignore = "the spans of each job are on the heap there")]
fn a_future_of_a_job_allocates_once() {
    let number = std::hint::black_box(7);
    let polled = |future: &mut dyn FnMut(&mut Context<'_>) -> bool| {
        let before = ALLOCATIONS.get();
        assert!(future(&mut Context::from_waker(Waker::noop())));
        ALLOCATIONS.get() - before
    };
    let closure = || polled(&mut |task| pin!(job(move || number)).poll(task).is_ready());
    let future = || polled(&mut |task| pin!(in_job(async move { number })).poll(task).is_ready());
    assert!(closure() > 1, "the first job makes a stack");
    assert_eq!((closure(), future()), (1, 1));
}
