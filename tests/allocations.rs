//! Promise: a job on a cached stack makes no heap allocation, neither at its start nor at a pause, a resume or its end
//! (S71). Neither does a job of a scheduler, once its thread has run one, nor a wait fd, nor a waker of the callback. A
//! `JobFuture` makes one.
//!
//! These tests have a file of their own, because they count in the global allocator. They count for each thread,
//! because the test harness has threads of its own.

mod by_hand;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use asyncjob::job_future::JobFuture;
use asyncjob::scheduler::Scheduler;
use asyncjob::stack::StackSize;
use asyncjob::{
    JobBuilder, PauseError, Step, WaitCtx, WaitKey, block_pause, current_job_id, in_job, pause_job, start_job, waker_fn,
};
use asyncjob_testing::{Counting, allocations};
use by_hand::{finished, paused_with, run};

#[global_allocator]
static GLOBAL: Counting = Counting;

/// Under a sanitizer the block of each spawned job comes from the heap, so that it sees a use after the end.
const BLOCK: usize = cfg!(feature = "sanitizer") as usize;

#[test]
fn the_counter_sees_an_allocation() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
    assert_eq!(allocations(|| ()), 0);
}

#[test]
fn a_start_and_an_end_do_not_allocate() {
    let ctx = WaitCtx::new();
    let data = [3u8; 512];
    let cost = || {
        allocations(|| {
            for round in 0..1000u32 {
                let Ok(Step::Finished(sum)) = start_job(&ctx, move || round + u32::from(data[9])) else {
                    panic!()
                };
                assert_eq!(sum, round + 3);
            }
        })
    };
    assert!(cost() > 0, "the first start makes a stack");
    assert_eq!(cost(), 0);
}

#[test]
fn a_pause_and_a_resume_do_not_allocate() {
    let ctx = WaitCtx::new();
    let work = || {
        let mut job = paused_with(&ctx, || {
            while pause_job().is_ok() {
                let _guard = block_pause();
                assert_eq!(pause_job(), Err(PauseError::Blocked));
                assert!(current_job_id().is_some());
            }
        });
        for _ in 0..1000 {
            let Step::Paused(next) = job.resume() else { panic!() };
            job = next;
        }
        assert_eq!(job.cancel(), Ok(()));
    };
    assert!(allocations(work) > 0, "the first start makes a stack");
    assert_eq!(allocations(work), 0);
}

#[test]
fn nested_jobs_do_not_allocate() {
    let work = || {
        for _ in 0..100 {
            assert_eq!(run_nested(5), 6);
        }
    };
    fn run_nested(depth: u32) -> u32 {
        thread_local!(static CTX: WaitCtx = WaitCtx::new());
        let ctx = CTX.with(WaitCtx::clone);
        let step = start_job(&ctx, move || if depth == 0 { 1 } else { run_nested(depth - 1) + 1 });
        finished(step.unwrap())
    }
    assert!(allocations(work) > 0);
    assert_eq!(allocations(work), 0);
}

/// A closure of up to a page is moved to the job's stack. A larger one is moved to the heap, because the job needs its
/// stack for calls.
#[test]
fn only_a_closure_larger_than_a_page_allocates() {
    let ctx = WaitCtx::new();
    run(|| ());
    fn cost<const SIZE: usize>(ctx: &WaitCtx) -> usize {
        let large = [1u8; SIZE];
        let start = || start_job(ctx, move || std::hint::black_box(large)[7]);
        allocations(|| assert_eq!(finished(start().unwrap()), 1))
    }
    assert_eq!(cost::<4096>(&ctx), 0);
    assert_eq!(cost::<20_000>(&ctx), 1);

    let larger_than_its_stack = [1u8; 20_000];
    let small = JobBuilder::new().stack_size(StackSize::MIN);
    let step = small
        .wait_ctx(&ctx)
        .start(move || larger_than_its_stack.iter().filter(|&&byte| byte == 1).count());
    assert_eq!(finished(step.unwrap()), 20_000);
}

/// A spawned job shares one block with its handle, of memory that an ended job has left. Everything else is used again,
/// too: the stack, the wait ctx, its waker.
#[test]
fn a_spawn_does_not_allocate() {
    let scheduler = Scheduler::new().unwrap();
    let run = || {
        let one_at_a_time = |n| scheduler.run_until(scheduler.spawn(move || n).unwrap()).unwrap();
        assert_eq!((0..100u32).map(one_at_a_time).sum::<u32>(), 4950);
    };
    assert!(allocations(run) > 100 * BLOCK + 1, "the first job makes a stack");
    assert_eq!(allocations(run), 100 * BLOCK);

    let at_once = || {
        let jobs: Vec<_> = (0..1000).map(|n| scheduler.spawn(move || n).unwrap()).collect();
        let sum: u32 = jobs.into_iter().map(|job| scheduler.run_until(job).unwrap()).sum();
        assert_eq!(sum, 499_500);
    };
    at_once();
    assert_eq!(allocations(at_once), 1 + 1000 * BLOCK, "the list of the handles");

    let paused = || {
        let job = scheduler.spawn(|| pause_job().is_ok());
        assert!(scheduler.run_until(job.unwrap()).unwrap());
    };
    (0..2).for_each(|_| paused()); // both lists of the queue have memory then
    assert_eq!(allocations(paused), BLOCK);
    let large = [1u8; 300];
    let run_large = || {
        let job = scheduler.spawn(move || large.iter().map(|&byte| u32::from(byte)).sum::<u32>());
        assert_eq!(scheduler.run_until(job.unwrap()).unwrap(), 300);
    };
    assert_eq!(allocations(run_large), 1, "of another size");
}

/// A future needs memory for what it is given: a closure, or a future. It uses what the last one of its thread has
/// left.
#[test]
#[cfg_attr(feature = "tracing", ignore = "the spans of each job are on the heap there")]
fn a_future_of_a_job_allocates_once() {
    fn run<F: Future>(future: F) -> F::Output {
        let Poll::Ready(output) = pin!(future).poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("it does not wait")
        };
        output
    }
    let closure = || {
        let number = std::hint::black_box(7);
        assert_eq!(run(JobFuture::new(move || number)).unwrap(), 7);
    };
    let future = || assert_eq!(run(in_job(async { std::hint::black_box(7) })).unwrap(), 7);
    assert!(allocations(closure) > 1, "the first job makes a stack");
    assert_eq!(allocations(closure), 1);
    assert_eq!(allocations(future), 1);
    assert_eq!(allocations(future), 0, "the next one has the memory");
}

/// Hooks cost one allocation, a static name none, and a wait ctx none when another one has gone.
#[test]
fn hooks_allocate_once() {
    let ctx = WaitCtx::new();
    run(|| ());
    struct State(#[allow(dead_code, reason = "gives it a size")] u32);
    impl asyncjob::hooks::SwitchHooks for State {
        fn enter(&mut self) {}
        fn leave(&mut self) {}
    }
    let named = || {
        JobBuilder::new()
            .name("static")
            .hooks(State(1))
            .wait_ctx(&ctx)
            .start(|| ())
    };
    assert_eq!(allocations(|| drop(named())), 1);
    drop(WaitCtx::new());
    assert_eq!(allocations(|| drop(WaitCtx::new())), 0, "the thread keeps it");
}

/// The first two wait fds have their places in the ctx, and a value of a word or less needs no box. A callback is one
/// block, however many wakers there are.
#[test]
fn a_wait_fd_and_a_waker_do_not_allocate() {
    let (ctx, keys) = (WaitCtx::new(), [WaitKey::unique(), WaitKey::unique()]);
    let (reader, _writer) = std::io::pipe().unwrap();
    let fds = [Arc::new(reader.try_clone().unwrap()), Arc::new(reader)];
    let waker = waker_fn(|| ());
    assert_eq!(allocations(|| ctx.set_callback(Some(waker))), 1);
    let uses = || {
        for (key, fd) in keys.into_iter().zip(&fds) {
            ctx.add_wait_fd(key, Arc::clone(fd));
        }
        ctx.settle();
        let wakers = [ctx.callback(), ctx.callback()];
        assert!(wakers.iter().all(Option::is_some));
        for key in keys {
            assert!(ctx.clear_fd(key).unwrap().is::<Arc<std::io::PipeReader>>());
        }
        ctx.settle();
    };
    assert_eq!(allocations(uses), 0);
}
