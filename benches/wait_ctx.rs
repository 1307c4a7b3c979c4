//! Benchmarks of the wait ctx: each call alone, and all calls that an engine makes for one operation.
//!
//! ```text
//!   cargo bench -p asyncjob-bench --bench wait_ctx            # measures times
//!   cargo bench -p asyncjob-bench --bench wait_ctx -- --test  # runs each benchmark once
//! ```
//!
//! No fd is opened or closed, and no driver reads the ctx. `cargo run --release -p asyncjob-bench -- --part wake`
//! measures a wake through an fd, beside tokio and the kernel. `cargo bench -p asyncjob-capi` measures the C calls of
//! OpenSSL and of the drop-in.

use std::hint::black_box;
use std::io::{PipeReader, pipe};

use asyncjob::{Job, Step, WaitCtx, WaitKey, current_job, pause_job, start_job, waker_fn};
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};

criterion_group!(benches, calls, operation);
criterion_main!(benches);

/// An fd that stays open as long as the process. Adding it to a ctx and clearing it closes nothing.
fn fd() -> &'static PipeReader {
    let ends = Box::leak(Box::new(pipe().expect("two fds are left")));
    &ends.0
}

/// Measures each call on a ctx with one wait fd and a callback.
fn calls(c: &mut Criterion) {
    let mut group = c.benchmark_group("wait ctx");
    let (ctx, key, fd) = (WaitCtx::new(), WaitKey::unique(), fd());
    ctx.add_wait_fd(key, fd);
    ctx.set_callback(Some(waker_fn(|| ())));
    group.bench_function("fd", |b| b.iter(|| ctx.fd(black_box(key))));
    group.bench_function("fds", |b| b.iter(|| ctx.fds()));
    group.bench_function("changes", |b| b.iter(|| ctx.changes()));
    group.bench_function("callback", |b| b.iter(|| ctx.callback()));
    group.bench_function("set and clear", |b| {
        let ctx = WaitCtx::new();
        b.iter(|| {
            ctx.add_wait_fd(black_box(key), fd);
            ctx.clear_fd(key)
        });
    });
    group.bench_function("new and drop", |b| b.iter(WaitCtx::new));
    group.bench_function("clone and drop", |b| b.iter(|| ctx.clone()));
    group.finish();
}

/// Measures one operation of an engine in a job, from its start to its end, with one pause and one resume. The floor is
/// the pause alone.
fn operation(c: &mut Criterion) {
    let mut group = c.benchmark_group("operation of a job");
    in_job(&mut group, "a pause, the floor", || pause_job().is_ok());
    let (key, fd) = (WaitKey::unique(), fd());
    in_job(&mut group, "looks for its fd, adds it, pauses, clears it", move || {
        let ctx = current_job().expect("this is a job").wait_ctx().clone();
        if ctx.fd(key).is_none() {
            ctx.add_wait_fd(key, fd);
        }
        let continues = pause_job().is_ok();
        drop(ctx.clear_fd(key));
        continues
    });
    group.finish();
}

/// Measures a job that performs `operation` again and again, until its pause fails because the job is cancelled.
fn in_job(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, operation: impl Fn() -> bool + Copy + 'static) {
    group.bench_function(name, |b| {
        let step = start_job(&WaitCtx::new(), move || while operation() {});
        let mut job = paused(step.expect("the pool has no limit"));
        b.iter(|| job = job.take().and_then(|job| paused(job.resume())));
        assert!(job.is_some(), "the job pauses until it is cancelled");
    });
}

fn paused(step: Step<()>) -> Option<Job<()>> {
    match step {
        Step::Paused(job) => Some(job),
        Step::Finished(()) => None,
    }
}
