//! What waits for a thread, who waits for a place in the queue, and what the threads do.
//!
//! ```text
//!   enter: room? ---- yes ---->  tasks [t][t][t]  ---- next_task ---->  a thread runs it
//!            | no                    ^
//!            v                       | comes back for it
//!         waiting [w][w]  -- grant: a place has become free -->  granted
//!
//!   withdraw: the job is gone; its entry leaves wherever it is, and a place that it had goes to the next
//! ```

use std::collections::VecDeque;
use std::error::Error;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::thread;

use parking_lot::{Condvar, Mutex};

use super::error::OffloadError;
use super::run_future::{Place, Promise, Slot, Stage};
use super::state::{Seat, State};

pub(super) type Make<S> = Box<dyn Fn() -> Result<S, Box<dyn Error + Send + Sync>> + Send + Sync>;
pub(super) type Task<S> = Box<dyn FnOnce(&mut Seat<S>, &Shared<S>) + Send>;

pub(super) struct Shared<S> {
    /// Names the pool in the inline states of threads.
    pub(super) id: u64,
    pub(super) make: Make<S>,
    pub(super) queue: Mutex<Queue<S>>,
    /// A task was queued, or the queue closed.
    pub(super) work: Condvar,
}

/// What waits for what. `tasks.len() + granted.len() <= places`, and nobody is in `waiting` while there is room.
pub(super) struct Queue<S> {
    pub(super) places: usize,
    pub(super) tasks: VecDeque<(u64, Task<S>)>,
    /// Jobs that wait for a place, in order.
    pub(super) waiting: VecDeque<(u64, Waker)>,
    /// Those of them that were given one and have not come back for it yet.
    pub(super) granted: Vec<u64>,
    pub(super) next_id: u64,
    pub(super) running: usize,
    pub(super) finished: u64,
    pub(super) closed: bool,
}

pub(super) enum Refusal<F> {
    Full(F),
    Closed,
}

impl<S: 'static> Shared<S> {
    pub(super) fn new(places: usize, make: Make<S>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Shared {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            make,
            queue: Mutex::new(Queue {
                places,
                tasks: VecDeque::new(),
                waiting: VecDeque::new(),
                granted: Vec::new(),
                next_id: 0,
                running: 0,
                finished: 0,
                closed: false,
            }),
            work: Condvar::new(),
        }
    }

    /// A thread's life.
    pub(super) fn work(&self) {
        let mut seat = Seat { state: None };
        while let Some(task) = self.next_task() {
            contain(|| task(&mut seat, self));
        }
        contain(|| drop(seat));
    }

    fn next_task(&self) -> Option<Task<S>> {
        let mut queue = self.queue.lock();
        loop {
            if let Some((_, task)) = queue.tasks.pop_front() {
                queue.running += 1;
                let next = queue.grant();
                drop(queue);
                next.into_iter().for_each(Waker::wake);
                return Some(task);
            }
            if queue.closed {
                return None;
            }
            self.work.wait(&mut queue);
        }
    }

    /// Queues `f` if there is room, or a place was given to `id`; else waits for one.
    pub(super) fn enter<T, F>(&self, id: Option<u64>, f: F, waker: &Waker) -> Result<Stage<T, F>, OffloadError>
    where
        F: FnOnce(&mut State<S>) -> T + Send + 'static,
        T: Send + 'static,
    {
        let mut queue = self.queue.lock();
        let granted = id.is_some_and(|id| queue.take_grant(id));
        if queue.closed {
            return Err(OffloadError::ShutDown);
        }
        if granted || (id.is_none() && queue.is_open_to_new()) {
            let place = queue.push(f);
            drop(queue);
            self.work.notify_one();
            return Ok(Stage::Queued(place));
        }
        let id = id.unwrap_or_else(|| queue.next_id());
        queue.wait_for_room(id, waker);
        Ok(Stage::ForRoom(id, f))
    }
}

impl<S> Shared<S> {
    fn count_finished(&self) {
        let mut queue = self.queue.lock();
        queue.running -= 1;
        queue.finished += 1;
    }

    /// A job that was in the queue waits no longer.
    pub(super) fn withdraw(&self, id: u64) {
        let mut queue = self.queue.lock();
        let unrun = queue.remove(id);
        let next = queue.grant();
        drop(queue);
        next.into_iter().for_each(Waker::wake);
        drop(unrun); // drops what the user's closure owns
    }

    pub(super) fn close(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        let unrun = mem::take(&mut queue.tasks);
        let waiting = mem::take(&mut queue.waiting);
        drop(queue);
        self.work.notify_all();
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
        drop(unrun); // each breaks its promise
    }
}

impl<S> Queue<S> {
    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn has_room(&self) -> bool {
        self.tasks.len() + self.granted.len() < self.places
    }

    /// Nobody would be overtaken.
    fn is_open_to_new(&self) -> bool {
        self.waiting.is_empty() && self.has_room()
    }

    /// A place may have become free: gives it to who waits longest. The waker is to be woken after the lock is released.
    #[must_use]
    fn grant(&mut self) -> Option<Waker> {
        if !self.has_room() {
            return None;
        }
        let (id, waker) = self.waiting.pop_front()?;
        self.granted.push(id);
        Some(waker)
    }

    /// Whether the job that waits under `id` was given a place, which it has then taken.
    fn take_grant(&mut self, id: u64) -> bool {
        let at = self.granted.iter().position(|&granted| granted == id);
        at.map(|at| self.granted.swap_remove(at)).is_some()
    }

    fn wait_for_room(&mut self, id: u64, waker: &Waker) {
        match self.waiting.iter_mut().find(|(waiting, _)| *waiting == id) {
            Some((_, old)) => old.clone_from(waker),
            None => self.waiting.push_back((id, waker.clone())),
        }
    }

    /// Forgets `id`, wherever it is; the closure comes out if it was queued.
    fn remove(&mut self, id: u64) -> Option<Task<S>> {
        self.waiting.retain(|(waiting, _)| *waiting != id);
        self.take_grant(id);
        let at = self.tasks.iter().position(|(queued, _)| *queued == id)?;
        self.tasks.remove(at).map(|(_, task)| task)
    }
}

impl<S: 'static> Queue<S> {
    /// Queues `f`, unless somebody would be overtaken.
    pub(super) fn push_if_room<T, F>(&mut self, f: F) -> Result<Place<T>, Refusal<F>>
    where
        F: FnOnce(&mut State<S>) -> T + Send + 'static,
        T: Send + 'static,
    {
        if self.closed {
            return Err(Refusal::Closed);
        }
        if !self.is_open_to_new() {
            return Err(Refusal::Full(f));
        }
        Ok(self.push(f))
    }

    fn push<T, F>(&mut self, f: F) -> Place<T>
    where
        F: FnOnce(&mut State<S>) -> T + Send + 'static,
        T: Send + 'static,
    {
        let id = self.next_id();
        let slot = Arc::new(Mutex::new(Slot {
            result: None,
            waker: None,
        }));
        let promise = Promise(Arc::clone(&slot));
        let task: Task<S> = Box::new(move |seat, shared| {
            let result = seat.serve(&shared.make, f);
            shared.count_finished(); // first, so that whoever has the result finds it counted
            promise.settle(result);
        });
        self.tasks.push_back((id, task));
        Place { id, slot }
    }
}

/// Runs what belongs to the user and must not end the thread: the drop of a state or of a result that nobody waits for, a
/// driver's callback. The panic hook has reported a panic by then.
fn contain(f: impl FnOnce()) {
    let _: thread::Result<()> = catch_unwind(AssertUnwindSafe(f));
}
