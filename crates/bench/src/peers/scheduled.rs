//! asyncjob under its scheduler: spawned, joined, and woken in every way.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use asyncjob::scheduler::Scheduler;
use asyncjob::{Status, WaitCtx, WaitKey, current_job, pause_job};

use super::kernel::{Kind, Pair, drain, notify, per_wake, rounds};
use super::latency::{Exchange, Load};
use crate::depth::pause_for_ever;
use crate::measure::Candidate;
use crate::parts::memory;
use crate::peer::Absent;

/// Spawn to join of an empty job, while `live` others are paused.
pub(crate) fn spawn_join(name: &str, live: usize) -> Candidate {
    let scheduler = scheduler();
    for _ in 0..live {
        let job = scheduler.spawn(|| {
            wait_ctx().set_status(Status::Ok); // the callback is never called
            while pause_job().is_ok() {}
        });
        job.unwrap_or_else(|e| panic!("{e}")).detach();
    }
    run_until_idle(&scheduler);
    Candidate::new(name, move |n| {
        let clock = Instant::now();
        for _ in 0..n {
            let job = scheduler.spawn(|| ()).unwrap_or_else(|e| panic!("{e}"));
            scheduler.run_until(job).expect("it does not panic");
        }
        clock.elapsed()
    })
}

/// Spawn to join of empty jobs, so many at once. Measures the share of one job.
pub(crate) fn spawn_many(name: &str, batch: usize) -> Candidate {
    let scheduler = scheduler();
    Candidate::new(name, move |n| {
        let mut jobs = Vec::with_capacity(batch);
        let clock = Instant::now();
        for _ in 0..rounds(n, batch) {
            let spawned = (0..batch).map(|_| scheduler.spawn(|| ()).unwrap_or_else(|e| panic!("{e}")));
            jobs.extend(spawned);
            for job in jobs.drain(..) {
                scheduler.run_until(job).expect("it does not panic");
            }
        }
        per_wake(clock.elapsed(), n, batch)
    })
}

/// A batch of jobs that wait for their callbacks, which another job on the same thread calls. Measures the share of one
/// wake.
pub(crate) fn callbacks(name: &str, batch: usize) -> Candidate {
    let scheduler = scheduler();
    let wakers: Rc<RefCell<Vec<Waker>>> = Rc::default();
    let woken = Rc::new(Cell::new(0u64));
    for _ in 0..batch {
        let (wakers, woken) = (Rc::clone(&wakers), Rc::clone(&woken));
        spawn(&scheduler, move || {
            let ctx = wait_ctx();
            ctx.set_status(Status::Ok);
            wakers
                .borrow_mut()
                .push(ctx.callback().expect("the scheduler has set one"));
            while pause_job().is_ok() {
                woken.set(woken.get() + 1);
            }
        });
    }
    run_until_idle(&scheduler);
    let wakers = Rc::new(wakers.take());
    Candidate::new(name, move |n| {
        let (rounds_to_do, wakers) = (rounds(n, batch), Rc::clone(&wakers));
        let goal = woken.get() + rounds_to_do * batch as u64;
        let took = run_job(&scheduler, move || {
            wait_ctx().set_status(Status::Eagain); // so this job runs again when the jobs that it woke have run
            let clock = Instant::now();
            for _ in 0..rounds_to_do {
                wakers.iter().for_each(Waker::wake_by_ref);
                let _ = pause_job();
            }
            per_wake(clock.elapsed(), n, batch)
        });
        assert_eq!(woken.get(), goal, "each wake resumes its job");
        took
    })
}

/// Jobs that wait for their callbacks, each so many frames deep, and one that wakes them in this order: `batch` of
/// them, then lets these run, and so on. Returns the nanoseconds and the bytes of one of them.
pub(crate) fn woken_at_random<const FRAMES: u32>(order: &[u32], batch: usize, sweeps: u64) -> Result<[f64; 2], Absent> {
    let scheduler = scheduler();
    let wakers: Rc<RefCell<Vec<Waker>>> = Rc::new(RefCell::new(Vec::with_capacity(order.len())));
    let woken = Rc::new(Cell::new(0u64));
    let before = memory::resident_with_page_tables();
    for _ in order {
        let (wakers, woken) = (Rc::clone(&wakers), Rc::clone(&woken));
        let body = move || {
            let ctx = wait_ctx();
            ctx.set_status(Status::Ok);
            let waker = ctx.callback().expect("the scheduler has set one");
            drop(ctx);
            wakers.borrow_mut().push(waker);
            pause_for_ever::<FRAMES>(|| {
                let _ = pause_job(); // these jobs are never cancelled
                woken.set(woken.get() + 1);
            });
        };
        let job = scheduler
            .spawn(body)
            .map_err(|refused| Absent::new(refused.to_string()))?;
        job.detach();
    }
    run_until_idle(&scheduler);
    let wakers = wakers.take();
    let gained = memory::resident_with_page_tables().saturating_sub(before + size_of_val(&*wakers));
    let live = order.len();
    let order = order.to_vec();
    let (wake, woken) = run_job(&scheduler, move || {
        wait_ctx().set_status(Status::Eagain); // so this job runs again when the jobs that it woke have run
        let wake = memory::time_of_one(live, sweeps, |sweeps| {
            for batch in (0..sweeps).flat_map(|_| order.chunks(batch)) {
                batch.iter().for_each(|&at| wakers[at as usize].wake_by_ref());
                let _ = pause_job();
            }
        });
        (wake, woken.get())
    });
    assert_eq!(woken, 3 * sweeps * live as u64, "each wake resumes its job");
    std::mem::forget(scheduler);
    Ok([wake, gained as f64 / live as f64])
}

/// A batch of jobs that wait for their fds, which the loop around the scheduler makes readable. Measures the share of
/// one wake.
pub(crate) fn fds(name: &str, kind: Kind, batch: usize) -> Candidate {
    let scheduler = scheduler();
    let mut writers = Vec::new();
    let woken = Rc::new(Cell::new(0u64));
    for _ in 0..batch {
        let (write, read) = Pair::new(kind).split();
        writers.push(write);
        let woken = Rc::clone(&woken);
        spawn(&scheduler, move || {
            let reader = Arc::new(read);
            wait_ctx().add_wait_fd(WaitKey::unique(), Arc::clone(&reader));
            while pause_job().is_ok() {
                drain(&reader);
                woken.set(woken.get() + 1);
            }
        });
    }
    run_until_idle(&scheduler);
    Candidate::new(name, move |n| {
        let clock = Instant::now();
        for _ in 0..rounds(n, batch) {
            let goal = woken.get() + batch as u64;
            writers.iter().for_each(notify);
            while woken.get() < goal {
                scheduler.turn(None).expect("epoll works");
            }
        }
        per_wake(clock.elapsed(), n, batch)
    })
}

/// A job that an engine on another processor wakes by its callback, again and again.
pub(crate) fn woken_from_another_core(exchange: &Arc<Exchange>, load: Load) {
    let scheduler = scheduler();
    let sleeper = {
        let exchange = Arc::clone(exchange);
        move || {
            let ctx = wait_ctx();
            ctx.set_status(Status::Ok);
            exchange.open(ctx.callback().expect("the scheduler has set one"));
            while exchange.arm() {
                while !exchange.woken() {
                    let _ = pause_job();
                }
            }
        }
    };
    spawn(&scheduler, sleeper);
    if load == Load::Busy {
        let exchange = Arc::clone(exchange);
        spawn(&scheduler, move || {
            wait_ctx().set_status(Status::Eagain);
            while !exchange.is_closed() {
                let _ = pause_job();
            }
        });
    }
    scheduler.run().expect("epoll works");
}

fn scheduler() -> Scheduler {
    Scheduler::new().expect("a scheduler needs an epoll fd and an eventfd")
}

/// Runs until every job waits.
fn run_until_idle(scheduler: &Scheduler) {
    while scheduler
        .turn(Some(std::time::Duration::ZERO))
        .expect("epoll works")
        .resumed
        > 0
    {}
}

fn spawn<T: 'static>(scheduler: &Scheduler, f: impl FnOnce() -> T + 'static) {
    scheduler.spawn(f).unwrap_or_else(|e| panic!("{e}")).detach();
}

fn run_job<T: 'static>(scheduler: &Scheduler, f: impl FnOnce() -> T + 'static) -> T {
    let job = scheduler.spawn(f).unwrap_or_else(|e| panic!("{e}"));
    scheduler.run_until(job).expect("it does not panic")
}

fn wait_ctx() -> WaitCtx {
    current_job().expect("this runs in a job").wait_ctx().clone()
}
