//! The closures that wait for a thread, and what the threads do.
//!
//! ```text
//!                  push                              next_task
//!   run, try_run  ------>  [t][t][t] | [t][t][t][t]  --------->  a thread runs it  --->  oneshot  --->  the caller
//!                           queued   |  for capacity
//!                         <---------->
//!                        queue_capacity
//! ```
//!
//! There is one line, in the order of the calls. The first `queue_capacity` closures in it are *queued*; those behind
//! them *wait for capacity*. When a closure leaves the line, the next one moves up by itself.
//!
//! # Why the closure waits, and not its job
//!
//! A job that finds the queue full could keep its closure, wait for a place, and be told when a place is free. The
//! place would then depend on the job. Its thread may be busy, or blocked by another job that waits for the same queue,
//! or the job may be quarantined and never run again. Until the job comes, no other closure can have the place.
//!
//! The closure has no such dependency: the threads of the pool take it from the line whatever its job does. The job is
//! also resumed once, with the value, instead of twice.
//!
//! The line is bounded all the same. A call of `run` adds one closure and waits until the closure has left, so the line
//! holds at most one closure for each job and each blocked thread. `queue_capacity` is the bound for the calls that can
//! be refused.
//!
//! | a closure | leaves by | its caller gets |
//! |---|---|---|
//! | in the line | a thread takes it | the value or the panic, when the closure has run |
//! | in the line | `withdraw`: its caller was interrupted | nothing, the caller is gone; the closure is dropped there |
//! | in the line | `close`: the pool is shut down | `ShutDown` |
//! | running | it returns or panics | the value or the panic; dropped by the thread if the caller is gone |

use std::cell::Cell;
use std::collections::BTreeMap;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::thread;

use parking_lot::{Condvar, Mutex};

use super::OffloadStats;
use crate::sync::{Receiver, contain, oneshot};
use crate::sys::Process;

/// A closure with the way back for its value. Dropping it unrun closes the way back.
type Task = Box<dyn FnOnce(&ClosureQueue) + Send>;

/// What the handles and the threads of a pool share.
pub(super) struct ClosureQueue {
    line: Mutex<Line>,
    /// A task was pushed, or the line was closed.
    work: Condvar,
    queue_capacity: usize,
    /// The process whose threads work here.
    process: Process,
}

struct Line {
    /// By number, in the order of the calls.
    tasks: BTreeMap<u64, Task>,
    next_number: u64,
    running: usize,
    finished: u64,
    closed: bool,
}

/// What a closure does when the queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Waits,
    IsRefused,
}

/// Why a closure is not in the line.
pub(super) enum Refusal<F> {
    Full(F),
    Closed,
}

/// A closure in the line, or on a thread, as its caller sees it.
pub(super) struct QueuedClosure<T> {
    pub(super) number: u64,
    pub(super) value: Receiver<thread::Result<T>>,
}

thread_local! {
    /// The pool whose thread this is, by address.
    static POOL_OF_THREAD: Cell<*const ClosureQueue> = const { Cell::new(ptr::null()) };
}

impl ClosureQueue {
    pub(super) fn new(queue_capacity: usize, process: Process) -> Self {
        ClosureQueue {
            line: Mutex::new(Line {
                tasks: BTreeMap::new(),
                next_number: 0,
                running: 0,
                finished: 0,
                closed: false,
            }),
            work: Condvar::new(),
            queue_capacity,
            process,
        }
    }

    /// Whether this is a child of the process whose threads work here. A thread may have held the lock of the line when
    /// it was forked.
    pub(super) fn is_inherited(&self) -> bool {
        self.process.is_inherited()
    }

    /// A thread's life.
    pub(super) fn work(&self) {
        POOL_OF_THREAD.set(self);
        while let Some(task) = self.next_task() {
            // The panic of a closure is caught in the task. This is for the drop of a value whose caller is gone.
            contain(|| task(self));
        }
    }

    /// Whether the calling thread is one of those that [`work`](Self::work) here.
    pub(super) fn is_of_this_thread(&self) -> bool {
        ptr::eq(POOL_OF_THREAD.get(), self)
    }

    fn next_task(&self) -> Option<Task> {
        let mut line = self.line.lock();
        loop {
            if let Some((_, task)) = line.tasks.pop_first() {
                line.running += 1;
                return Some(task);
            }
            if line.closed {
                return None;
            }
            self.work.wait(&mut line);
        }
    }

    /// Puts `f` at the end of the line.
    pub(super) fn push<T, F>(&self, f: F, admission: Admission) -> Result<QueuedClosure<T>, Refusal<F>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let mut line = self.line.lock();
        if line.closed {
            drop(line); // before `f`
            return Err(Refusal::Closed);
        }
        if admission == Admission::IsRefused && line.tasks.len() >= self.queue_capacity {
            return Err(Refusal::Full(f));
        }
        let (sender, value) = oneshot();
        let task: Task = Box::new(move |shared| {
            let result = catch_unwind(AssertUnwindSafe(f));
            shared.count_finished(); // before the caller has the value
            sender.send(result);
        });
        line.next_number += 1;
        let number = line.next_number;
        line.tasks.insert(number, task);
        drop(line);
        self.work.notify_one();
        Ok(QueuedClosure { number, value })
    }

    fn count_finished(&self) {
        let mut line = self.line.lock();
        line.running -= 1;
        line.finished += 1;
    }

    /// The caller of a closure does not wait any more: a closure that has not begun is dropped.
    pub(super) fn withdraw(&self, number: u64) {
        if self.is_inherited() {
            return;
        }
        let task = self.line.lock().tasks.remove(&number);
        drop(task); // after the lock: it drops what the user's closure owns
    }

    pub(super) fn close(&self) {
        let mut line = self.line.lock();
        line.closed = true;
        let tasks = mem::take(&mut line.tasks);
        drop(line);
        self.work.notify_all();
        for task in tasks.into_values() {
            contain(|| drop(task));
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.line.lock().closed
    }

    pub(super) fn stats(&self) -> OffloadStats {
        let line = self.line.lock();
        let queued = line.tasks.len().min(self.queue_capacity);
        OffloadStats {
            queued,
            waiting_for_capacity: line.tasks.len() - queued,
            running: line.running,
            finished: line.finished,
        }
    }
}
