//! tokio: what most programs would use instead of a job. Such a program has to be asynchronous in all its layers.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{self, LocalSet};

use super::kernel::{Kind, Pair, drain, notify, per_wake, rounds};
use super::latency::{Exchange, Load};
use crate::measure::Candidate;
use crate::parts::memory;
use crate::peer::Absent;

/// A current-thread runtime with everything enabled.
pub(crate) fn current_thread() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime needs an epoll fd and an eventfd")
}

/// `yield_now` of the only task that is ready.
pub(crate) fn switch(name: &str) -> Candidate {
    let runtime = current_thread();
    Candidate::new(name, move |n| {
        runtime.block_on(async {
            task::spawn(async move {
                let clock = Instant::now();
                for _ in 0..n {
                    task::yield_now().await;
                }
                clock.elapsed()
            })
            .await
            .expect("it does not panic")
        })
    })
}

/// Spawn to join of an empty task, on the same thread, one after another.
pub(crate) fn spawn(name: &str) -> Candidate {
    spawn_many(name, 1)
}

/// As [`spawn`], with so many tasks at once. Measures the share of one task.
pub(crate) fn spawn_many(name: &str, batch: usize) -> Candidate {
    let runtime = current_thread();
    Candidate::new(name, move |n| {
        runtime.block_on(async {
            let mut tasks = Vec::with_capacity(batch);
            let clock = Instant::now();
            for _ in 0..rounds(n, batch) {
                tasks.extend((0..batch).map(|_| task::spawn(async {})));
                for task in tasks.drain(..) {
                    task.await.expect("it does not panic");
                }
            }
            per_wake(clock.elapsed(), n, batch)
        })
    })
}

/// Spawn to join of an empty closure on tokio's blocking pool. The thread has been started, and runs on the same
/// processor.
pub(crate) fn spawn_blocking(name: &str) -> Candidate {
    let runtime = current_thread();
    Candidate::new(name, move |n| runtime.block_on(blocking(n)))
}

async fn blocking(n: u64) -> Duration {
    let clock = Instant::now();
    for _ in 0..n {
        task::spawn_blocking(|| ()).await.expect("it does not panic");
    }
    clock.elapsed()
}

/// A batch of tasks that wait for their wakers, which another task on the same thread calls. Measures the share of one
/// wake.
pub(crate) fn wakers(name: &str, batch: usize) -> Candidate {
    let (runtime, local) = (current_thread(), LocalSet::new());
    let wakers: Rc<RefCell<Vec<Waker>>> = Rc::default();
    for _ in 0..batch {
        let wakers = Rc::clone(&wakers);
        local.spawn_local(poll_fn(move |cx| {
            let mut wakers = wakers.borrow_mut();
            if wakers.len() < wakers.capacity().max(batch) && !wakers.iter().any(|w| w.will_wake(cx.waker())) {
                wakers.push(cx.waker().clone());
            }
            Poll::<()>::Pending
        }));
    }
    Candidate::new(name, move |n| {
        let wakers = Rc::clone(&wakers);
        local.block_on(&runtime, async move {
            again().await; // every task has left its waker now
            let wakers = wakers.borrow().clone();
            let clock = Instant::now();
            for _ in 0..rounds(n, batch) {
                wakers.iter().for_each(Waker::wake_by_ref);
                again().await;
            }
            per_wake(clock.elapsed(), n, batch)
        })
    })
}

/// Tasks that wait, and one that wakes them in this order: `batch` of them, then lets these run, and so on. Returns the
/// nanoseconds and the bytes of one of them.
pub(crate) fn woken_at_random(order: &[u32], batch: usize, sweeps: u64) -> Result<[f64; 2], Absent> {
    let (runtime, local) = (current_thread(), LocalSet::new());
    let wakers: Rc<RefCell<Vec<Waker>>> = Rc::new(RefCell::new(Vec::with_capacity(order.len())));
    let woken = Rc::new(Cell::new(0u64));
    let before = memory::resident_with_page_tables();
    for _ in order {
        let (wakers, woken) = (Rc::clone(&wakers), Rc::clone(&woken));
        let mut is_first = true;
        local.spawn_local(poll_fn(move |cx| {
            match std::mem::take(&mut is_first) {
                true => wakers.borrow_mut().push(cx.waker().clone()),
                false => woken.set(woken.get() + 1),
            }
            Poll::<()>::Pending
        }));
    }
    local.block_on(&runtime, async {
        while wakers.borrow().len() < order.len() {
            again().await;
        }
    });
    let wakers = wakers.take();
    let gained = memory::resident_with_page_tables().saturating_sub(before + size_of_val(&*wakers));
    let sweep = async || {
        for batch in order.chunks(batch) {
            let goal = woken.get() + batch.len() as u64;
            batch.iter().for_each(|&at| wakers[at as usize].wake_by_ref());
            while woken.get() < goal {
                again().await;
            }
        }
    };
    let wake = memory::time_of_one(order.len(), sweeps, |sweeps| {
        local.block_on(&runtime, async {
            for _ in 0..sweeps {
                sweep().await;
            }
        });
    });
    std::mem::forget(local);
    Ok([wake, gained as f64 / order.len() as f64])
}

/// Lets the tasks that are ready run. Unlike `yield_now`, it does not ask the driver for events.
async fn again() {
    let mut yielded = false;
    poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A batch of tasks that wait for their fds, which another task makes readable. Measures the share of one wake.
pub(crate) fn fds(name: &str, kind: Kind, batch: usize) -> Candidate {
    let (runtime, local) = (current_thread(), LocalSet::new());
    let woken = Rc::new(Cell::new(0u64));
    let mut writers = Vec::new();
    for _ in 0..batch {
        let (write, read) = Pair::new(kind).split();
        writers.push(write);
        let woken = Rc::clone(&woken);
        local.spawn_local(async move {
            // SAFETY: a `File` keeps its fd open and gives the same one at every call.
            let reader = unsafe { AsyncFd::register(read) }.expect("epoll takes it");
            loop {
                let mut ready = reader.readable().await.expect("the runtime is there");
                drain(reader.get_ref());
                ready.clear_ready();
                woken.set(woken.get() + 1);
            }
        });
    }
    Candidate::new(name, move |n| {
        let (woken, writers) = (Rc::clone(&woken), &writers);
        local.block_on(&runtime, async move {
            again().await; // every task has registered its fd now
            let clock = Instant::now();
            for _ in 0..rounds(n, batch) {
                let goal = woken.get() + batch as u64;
                writers.iter().for_each(notify);
                while woken.get() < goal {
                    task::yield_now().await; // asks the driver for events
                }
            }
            per_wake(clock.elapsed(), n, batch)
        })
    })
}

/// A task that an engine on another processor wakes by its waker, again and again.
pub(crate) fn woken_from_another_core(exchange: &Arc<Exchange>, load: Load) {
    let runtime = current_thread();
    let waiter = Arc::clone(exchange);
    let task = runtime.spawn(async move {
        poll_fn(|cx| {
            waiter.open(cx.waker().clone());
            Poll::Ready(())
        })
        .await;
        while waiter.arm() {
            poll_fn(|_| if waiter.woken() { Poll::Ready(()) } else { Poll::Pending }).await;
        }
    });
    if load == Load::Busy {
        let exchange = Arc::clone(exchange);
        drop(runtime.spawn(async move {
            while !exchange.is_closed() {
                again().await;
            }
        }));
    }
    runtime.block_on(task).expect("it does not panic");
}
