//! The line of tasks that wait for capacity.
//!
//! The queue and the owner of the units rely on `SeqCst`: one of the two sees what the other did. loom takes `SeqCst`
//! for `AcqRel`, except in fences, so the owner has fences here where the order matters.

use loom::model::Builder;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering, fence};
use loom::thread;

use crate::stand_ins::block_on;
use crate::sync::{WaitQueue, Waiter};

/// Units of something, and those that wait for one.
struct Units {
    free: AtomicUsize,
    queue: WaitQueue,
}

impl Units {
    fn new(free: usize) -> Arc<Self> {
        Arc::new(Units {
            free: AtomicUsize::new(free),
            queue: WaitQueue::new(),
        })
    }

    fn has_capacity(&self) -> bool {
        fence(Ordering::SeqCst); // after the waiter has lined up
        self.free.load(Ordering::SeqCst) > 0
    }

    fn try_take(&self) -> bool {
        let less = |free: usize| free.checked_sub(1);
        self.free.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
    }

    /// Waits for a unit and takes it. A task whose unit another one took waits again.
    fn take(&self) {
        let mut waiter = Waiter::new();
        loop {
            block_on(|task| self.queue.poll(&mut waiter, task, || self.has_capacity()));
            if self.try_take() {
                break;
            }
        }
        self.queue.withdraw(&mut waiter, || self.has_capacity());
    }

    fn give_back(&self) {
        self.free.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst); // before the queue looks for waiters
        self.queue.notify_one();
    }
}

/// loom fails a model in which every thread sleeps.
fn model(preemptions: usize, threads: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(threads);
}

#[test]
fn one_unit_passes_through_two_tasks() {
    model(3, || {
        let units = Units::new(1);
        let other = {
            let units = units.clone();
            thread::spawn(move || {
                units.take();
                units.give_back();
            })
        };
        units.take();
        units.give_back();
        other.join().unwrap();
        assert!(!units.queue.has_waiters());
    });
}

#[test]
fn a_task_that_leaves_passes_its_notification_on() {
    model(2, || {
        let units = Units::new(0);
        let waits = {
            let units = units.clone();
            thread::spawn(move || units.take())
        };
        let gives = {
            let units = units.clone();
            thread::spawn(move || units.give_back())
        };
        // Lines up once, and leaves whatever it was told.
        let mut waiter = Waiter::new();
        let waker = std::task::Waker::noop();
        let _ = units
            .queue
            .poll(&mut waiter, &mut std::task::Context::from_waker(waker), || {
                units.has_capacity()
            });
        units.queue.withdraw(&mut waiter, || units.has_capacity());
        gives.join().unwrap();
        waits.join().unwrap();
    });
}
