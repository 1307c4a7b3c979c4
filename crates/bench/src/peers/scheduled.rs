//! asyncjob under its scheduler: spawned, joined, and woken in every way.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use asyncjob::scheduler::Scheduler;
use asyncjob::{Status, WaitCtx, WaitKey, current_job, pause_job};

use super::kernel::{Bell, Kind, per_wake, ring, rounds, silence};
use super::latency::{Line, Load};
use crate::measure::Candidate;

/// Spawn to join of an empty job, while `live` others are paused.
pub(crate) fn spawn_join(name: &str, live: usize) -> Candidate {
    let scheduler = scheduler();
    for _ in 0..live {
        let job = scheduler.spawn(|| {
            wait_ctx().set_status(Status::Ok); // a callback that nobody calls
            while pause_job().is_ok() {}
        });
        job.unwrap_or_else(|e| panic!("{e}")).detach();
    }
    settle(&scheduler);
    Candidate::new(name, move |n| {
        let clock = Instant::now();
        for _ in 0..n {
            let job = scheduler.spawn(|| ()).unwrap_or_else(|e| panic!("{e}"));
            scheduler.run_until(job).expect("it does not panic");
        }
        clock.elapsed()
    })
}

/// A batch of jobs that wait for their callbacks, called by another job on the same thread: for each wake.
pub(crate) fn callbacks(name: &str, batch: usize) -> Candidate {
    let scheduler = scheduler();
    let wakers: Rc<RefCell<Vec<Waker>>> = Rc::default();
    for _ in 0..batch {
        let wakers = Rc::clone(&wakers);
        spawn(&scheduler, move || {
            let ctx = wait_ctx();
            ctx.set_status(Status::Ok);
            wakers
                .borrow_mut()
                .push(ctx.callback().expect("the scheduler has set one"));
            while pause_job().is_ok() {}
        });
    }
    settle(&scheduler);
    let wakers = Rc::new(wakers.take());
    Candidate::new(name, move |n| {
        let (rounds_to_do, wakers) = (rounds(n, batch), Rc::clone(&wakers));
        run_job(&scheduler, move || {
            wait_ctx().set_status(Status::Eagain); // after each batch: when those that it woke have run
            let clock = Instant::now();
            for _ in 0..rounds_to_do {
                wakers.iter().for_each(Waker::wake_by_ref);
                let _ = pause_job();
            }
            per_wake(clock.elapsed(), n, batch)
        })
    })
}

/// A batch of jobs that wait for their fds, which the loop around the scheduler makes readable: for each wake.
pub(crate) fn fds(name: &str, kind: Kind, batch: usize) -> Candidate {
    let scheduler = scheduler();
    let mut writers = Vec::new();
    let woken = Rc::new(Cell::new(0u64));
    for _ in 0..batch {
        let (write, read) = Bell::new(kind).split();
        writers.push(write);
        let woken = Rc::clone(&woken);
        spawn(&scheduler, move || {
            let reader = Arc::new(read);
            wait_ctx().add_wait_fd(WaitKey::unique(), Arc::clone(&reader));
            while pause_job().is_ok() {
                silence(&reader);
                woken.set(woken.get() + 1);
            }
        });
    }
    settle(&scheduler);
    Candidate::new(name, move |n| {
        let clock = Instant::now();
        for _ in 0..rounds(n, batch) {
            let goal = woken.get() + batch as u64;
            writers.iter().for_each(ring);
            while woken.get() < goal {
                scheduler.turn(None).expect("epoll works");
            }
        }
        per_wake(clock.elapsed(), n, batch)
    })
}

/// A job that another thread wakes by its callback, over and over: it says when it is ready for it, and when it runs.
pub(crate) fn woken_from_afar(line: &Arc<Line>, load: Load) {
    let scheduler = scheduler();
    let sleeper = {
        let line = Arc::clone(line);
        move || {
            let ctx = wait_ctx();
            ctx.set_status(Status::Ok);
            line.open(ctx.callback().expect("the scheduler has set one"));
            while line.arm() {
                while !line.woken() {
                    let _ = pause_job();
                }
            }
        }
    };
    spawn(&scheduler, sleeper);
    if load == Load::Busy {
        let line = Arc::clone(line);
        spawn(&scheduler, move || {
            wait_ctx().set_status(Status::Eagain);
            while !line.is_closed() {
                let _ = pause_job();
            }
        });
    }
    scheduler.run().expect("epoll works");
}

fn scheduler() -> Scheduler {
    Scheduler::new().expect("a scheduler needs an epoll fd and an eventfd")
}

/// Lets every job run until it has nothing to do.
fn settle(scheduler: &Scheduler) {
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
