//! Benchmarks of a switch, and of a job from its start to its end. The floor of both is bare corosensei on a stack that
//! is reused.
//!
//! ```text
//!   cargo bench -p asyncjob-bench --bench switch            # measures times
//!   cargo bench -p asyncjob-bench --bench switch -- --test  # runs each benchmark once
//! ```
//!
//! Compare ratios, not nanoseconds. `cargo run --release -p asyncjob-bench` interleaves the same candidates with every
//! peer in one run.

use std::hint::black_box;

use asyncjob::{JobBuilder, Step, WaitCtx, pause_job, start_job};
use corosensei::Coroutine;
use corosensei::stack::DefaultStack;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};

/// The size of the floor's stacks in bytes. The benchmarks touch less, so it makes no difference.
const STACK: usize = 64 * 1024;

criterion_group!(benches, switch, life);
criterion_main!(benches);

/// Measures a pause and a resume of one job.
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

/// Measures a job that pauses in a loop with `pause` until it is cancelled.
fn paused(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, pause: impl Fn() -> bool + Copy + 'static) {
    group.bench_function(name, |b| {
        let step = start_job(&WaitCtx::new(), move || while pause() {});
        let mut job = paused_job(step.expect("the pool has no limit"));
        b.iter(|| job = job.take().and_then(|job| paused_job(job.resume())));
        assert!(job.is_some(), "the job pauses until it is cancelled");
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

/// Measures an empty job from its start to its end.
fn life(c: &mut Criterion) {
    let mut group = c.benchmark_group("life");
    group.bench_function("corosensei, the floor", |b| {
        let mut reused = Some(stack());
        b.iter(|| {
            let stack = reused.take().expect("the stack was put back");
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
