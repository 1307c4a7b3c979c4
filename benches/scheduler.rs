//! Benchmarks of the scheduler: spawn to join, alone and beside many paused jobs, and a wake by callback.
//!
//! ```text
//!   cargo bench -p asyncjob-bench --bench scheduler            # measures times
//!   cargo bench -p asyncjob-bench --bench scheduler -- --test  # runs each benchmark once
//! ```
//!
//! The floor of a spawn is a job without a scheduler, started and ended. `cargo run --release -p asyncjob-bench --
//! --part wake` measures every way to wake a job, beside tokio and the kernel.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use asyncjob::scheduler::Scheduler;
use asyncjob::{Status, WaitCtx, current_job, pause_job, start_job};
use criterion::{Criterion, criterion_group, criterion_main};

criterion_group!(benches, spawn_join, wake);
criterion_main!(benches);

/// Measures from spawn to join of an empty job, with `live` jobs in the scheduler.
fn spawn_join(c: &mut Criterion) {
    let mut group = c.benchmark_group("spawn to join");
    let ctx = WaitCtx::new();
    group.bench_function("a job without a scheduler, the floor", |b| {
        b.iter(|| start_job(&ctx, || ()).is_ok())
    });
    for live in [1, 100, 10_000] {
        let scheduler = Scheduler::new().expect("an epoll fd and an eventfd are left");
        park(&scheduler, live - 1, &Rc::default());
        group.bench_function(format!("{live} live jobs"), |b| {
            b.iter(|| {
                let job = scheduler.spawn(|| ()).expect("there is no bound");
                scheduler.run_until(job).expect("the job does not panic");
            });
        });
    }
    group.finish();
}

/// Measures a wake by callback. One job wakes a batch of others, and each wake counts as its share of the batch.
fn wake(c: &mut Criterion) {
    const BATCH: u64 = 20;
    let scheduler = Scheduler::new().expect("an epoll fd and an eventfd are left");
    let wakers: Rc<RefCell<Vec<Waker>>> = Rc::default();
    park(&scheduler, BATCH as usize, &wakers);
    c.bench_function("wake by callback, one of a batch of 20", |b| {
        b.iter_custom(|wakes| {
            let (wakers, rounds) = (wakers.borrow().clone(), wakes.div_ceil(BATCH));
            let engine = scheduler.spawn(move || {
                set_status(Status::Eagain); // resumed again after the jobs of the batch have run
                let clock = Instant::now();
                for _ in 0..rounds {
                    wakers.iter().for_each(Waker::wake_by_ref);
                    let _ = pause_job();
                }
                clock.elapsed().mul_f64(wakes as f64 / (rounds * BATCH) as f64)
            });
            let engine = engine.expect("there is no bound");
            scheduler.run_until(engine).expect("the job does not panic")
        });
    });
}

/// Spawns jobs that wait for their callbacks until they are cancelled.
fn park(scheduler: &Scheduler, jobs: usize, wakers: &Rc<RefCell<Vec<Waker>>>) {
    for _ in 0..jobs {
        let wakers = Rc::clone(wakers);
        let job = scheduler.spawn(move || {
            set_status(Status::Ok);
            let ctx = current_job().expect("this is a job").wait_ctx().clone();
            wakers
                .borrow_mut()
                .push(ctx.callback().expect("the scheduler has set one"));
            while pause_job().is_ok() {}
        });
        job.expect("there is no bound").detach();
    }
    while scheduler.turn(Some(Duration::ZERO)).expect("epoll works").resumed > 0 {}
}

fn set_status(status: Status) {
    current_job().expect("this is a job").wait_ctx().set_status(status);
}
