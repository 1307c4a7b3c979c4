//! A switch and a life, beside their floor: bare corosensei on a stack that is used again and again.
//!
//! ```text
//!   cargo bench --bench switch            # times
//!   cargo bench --bench switch -- --test  # each once
//! ```
//!
//! Read ratios, not nanoseconds. `cargo run --release -p asyncjob-bench` interleaves the same candidates with every
//! peer.

use std::hint::black_box;

use asyncjob::{JobBuilder, Step, WaitCtx, pause_job, start_job};
use corosensei::Coroutine;
use corosensei::stack::DefaultStack;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};

/// Bytes of the floor's stacks. More than is ever touched here, so that it makes no difference.
const STACK: usize = 64 * 1024;

criterion_group!(benches, switch, life);
criterion_main!(benches);

/// Pause and resume of one job.
fn switch(c: &mut Criterion) {
    let mut group = c.benchmark_group("switch");
    group.bench_function("corosensei, the floor", |b| {
        let mut job: Coroutine<(), (), ()> = Coroutine::with_stack(stack(), |yielder, ()| {
            loop {
                yielder.suspend(());
            }
        });
        b.iter(|| job.resume(()));
        job.force_unwind();
    });
    paused(&mut group, "asyncjob", || pause_job().is_ok());
    paused(&mut group, "asyncjob, pause not inlined", pause_out_of_line);
    group.finish();
}

/// A job that pauses in a loop with `pause` until it is cancelled.
fn paused(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, pause: impl Fn() -> bool + Copy + 'static) {
    group.bench_function(name, |b| {
        let step = start_job(&WaitCtx::new(), move || while pause() {});
        let mut job = paused_job(step.expect("the pool has no limit"));
        b.iter(|| job = job.take().and_then(|job| paused_job(job.resume())));
        assert!(job.is_some(), "it pauses until it is cancelled");
    });
}

#[inline(always)]
fn paused_job(step: Step<()>) -> Option<asyncjob::Job<()>> {
    match step {
        Step::Paused(job) => Some(job),
        Step::Finished(()) => None,
    }
}

#[inline(never)]
fn pause_out_of_line() -> bool {
    pause_job().is_ok()
}

/// Start to end of an empty job.
fn life(c: &mut Criterion) {
    let mut group = c.benchmark_group("life");
    group.bench_function("corosensei, the floor", |b| {
        let mut reused = Some(stack());
        b.iter(|| {
            let stack = reused.take().expect("it was put back");
            let mut job: Coroutine<(), (), u32> = Coroutine::with_stack(stack, |_, ()| black_box(7));
            job.resume(());
            reused = Some(job.into_stack());
        });
    });
    let ctx = WaitCtx::new();
    group.bench_function("asyncjob", |b| b.iter(|| start_job(&ctx, || black_box(7)).is_ok()));
    group.bench_function("asyncjob, JobBuilder", |b| {
        b.iter(|| {
            JobBuilder::new()
                .name("bench")
                .wait_ctx(&ctx)
                .start(|| black_box(7))
                .is_ok()
        });
    });
    group.finish();
}

fn stack() -> DefaultStack {
    DefaultStack::new(STACK).expect("the system has memory for one stack")
}
