//! Promise: tasks wait for a job of a pool at its limit in the order in which they came, and each comes to its turn.
//!
//! Every test runs on a thread of its own, so each begins with a pool that was not set up.

mod by_hand;

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

use asyncjob::pool::{self, Available, PoolConfig, available, init_thread};
use asyncjob::waiting::{await_future, await_or_block};
use asyncjob::{Job, WaitCtx, pause_job, start_job};
use asyncjob_testing::Watchdog;
use by_hand::{finished, paused, stacks};

fn pausing() {
    let _ = pause_job();
}

/// The only job that the pool of this thread may have. It is not the first: the pool has kept a stack before.
fn the_only_job() -> Job<()> {
    init_thread(PoolConfig::new().limit(1)).unwrap();
    finished(start_job(&WaitCtx::new(), || ()).unwrap());
    paused(pausing)
}

/// A task that waits for a job, and counts its wakes.
struct Task {
    wakes: Arc<Wakes>,
    waiting: Pin<Box<Available>>,
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Task {
    fn new() -> Self {
        Task {
            wakes: Arc::default(),
            waiting: Box::pin(available()),
        }
    }

    fn in_line() -> Self {
        let mut task = Task::new();
        assert!(!task.is_ready());
        task
    }

    fn is_ready(&mut self) -> bool {
        let waker = Waker::from(Arc::clone(&self.wakes));
        self.waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
    }

    fn wakes(&self) -> usize {
        self.wakes.0.load(SeqCst)
    }
}

/// A waker that runs a closure when it is woken or dropped.
struct Calls<F: Fn(&str) + Send + Sync + 'static>(F);

impl<F: Fn(&str) + Send + Sync + 'static> Wake for Calls<F> {
    fn wake(self: Arc<Self>) {
        (self.0)("woken");
    }
}

impl<F: Fn(&str) + Send + Sync + 'static> Drop for Calls<F> {
    fn drop(&mut self) {
        (self.0)("dropped");
    }
}

fn poll_with(waiting: Pin<&mut Available>, f: impl Fn(&str) + Send + Sync + 'static) -> Poll<()> {
    waiting.poll(&mut Context::from_waker(&Waker::from(Arc::new(Calls(f)))))
}

#[test]
fn below_the_limit_it_is_ready_at_once() {
    init_thread(PoolConfig::new().limit(1)).unwrap();
    let mut task = Task::new();
    assert!(task.is_ready() && task.is_ready(), "as long as nothing is started");
    let job = paused(pausing);
    assert!(!task.is_ready());
    drop(job);
    assert_eq!((task.wakes(), task.is_ready()), (1, true));
}

#[test]
fn each_end_of_a_job_wakes_the_first_in_line() {
    init_thread(PoolConfig::new().limit(2)).unwrap();
    let jobs = [paused(pausing), paused(pausing)];
    let tasks = [(); 3].map(|()| Task::in_line());
    let wakes = || tasks.each_ref().map(Task::wakes);
    let [one, two] = jobs;
    finished(one.resume());
    assert_eq!(wakes(), [1, 0, 0]);
    finished(two.resume());
    assert_eq!(wakes(), [1, 1, 0]);
}

#[test]
fn a_task_that_finds_the_stack_taken_is_first_again() {
    let job = the_only_job();
    let (mut first, second) = (Task::in_line(), Task::in_line());
    drop(job);
    let job = paused(pausing); // takes what `first` was told of
    assert!(!first.is_ready());
    drop(job);
    assert_eq!((first.wakes(), second.wakes()), (2, 0));
    assert!(first.is_ready());
}

#[test]
fn a_newcomer_does_not_overtake_those_in_line() {
    init_thread(PoolConfig::new().limit(2)).unwrap();
    let jobs = [paused(pausing), paused(pausing)];
    let (mut first, mut second) = (Task::in_line(), Task::in_line());
    let [one, _two] = jobs;
    drop(one);
    let mut newcomer = Task::new();
    assert!(!newcomer.is_ready(), "`second` is in line before it");
    assert!(first.is_ready());
    let _job = paused(pausing);
    assert!(!second.is_ready() && !newcomer.is_ready());
}

#[test]
fn a_higher_limit_wakes_all_and_a_cleanup_too() {
    let job = the_only_job();
    let mut tasks = [(); 3].map(|()| Task::in_line());
    init_thread(PoolConfig::new().limit(3)).unwrap();
    assert_eq!(tasks.each_ref().map(Task::wakes), [1; 3]);
    assert!(tasks[0].is_ready() && tasks[1].is_ready());
    let _started = [paused(pausing), paused(pausing)];
    assert!(!tasks[2].is_ready(), "the limit is three");
    pool::cleanup_thread().unwrap();
    assert_eq!((tasks[2].wakes(), tasks[2].is_ready()), (2, true));
    drop(job);
}

/// A job that waits for a job, and is given up after it was told: the next in line hears of the next end.
#[test]
fn a_quarantined_job_keeps_nothing_from_those_behind_it() {
    init_thread(PoolConfig::new().limit(2)).unwrap();
    let other = paused(pausing);
    let in_line = paused(|| await_future(available()).is_ok());
    let mut next = Task::in_line();
    finished(other.resume());
    assert_eq!(next.wakes(), 0, "the job is told first");
    in_line.quarantine(); // its stack stays in use, and what it was told is with it
    let mut newcomer = Task::new();
    assert!(!newcomer.is_ready(), "it is behind `next`, which it wakes");
    assert_eq!(next.wakes(), 1);
    assert!(next.is_ready());
    assert_eq!(pool::stats().in_use, 1);
}

/// A thread that blocks until the pool has a stack keeps the tasks that come before it from being polled. It does not
/// wait for them.
#[test]
fn a_blocked_wait_does_not_wait_for_the_tasks_of_its_thread() {
    let _watchdog = Watchdog::new();
    init_thread(PoolConfig::new().limit(2)).unwrap();
    let jobs = [paused(pausing), paused(pausing)];
    let mut tasks = [Task::in_line(), Task::in_line()];
    let [one, _two] = jobs;
    drop(one);
    let mut newcomer = Task::new();
    assert!(!newcomer.is_ready(), "it comes after the second task");
    await_or_block(available()).unwrap();
    assert!(tasks[0].is_ready());
}

/// Wakers that start and end jobs, line up and leave, from within the pool's own bookkeeping.
#[test]
fn wakers_may_use_the_pool_when_they_are_woken_and_dropped() {
    let _watchdog = Watchdog::new();
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    fn use_the_pool(_: &str) {
        CALLS.fetch_add(1, SeqCst);
        assert!(pool::stats().in_use <= 1);
        let mut task = Task::new();
        if task.is_ready() {
            finished(start_job(&WaitCtx::new(), || ()).unwrap());
        }
    }
    let job = the_only_job();
    let mut waiting = pin!(available());
    assert!(poll_with(waiting.as_mut(), use_the_pool).is_pending());
    assert!(poll_with(waiting.as_mut(), use_the_pool).is_pending());
    assert!(CALLS.swap(0, SeqCst) > 0, "the first waker was replaced");
    drop(job);
    assert!(CALLS.swap(0, SeqCst) >= 2, "woken and dropped");
    let _job = paused(pausing);
    assert!(poll_with(waiting.as_mut(), use_the_pool).is_pending());
    init_thread(PoolConfig::new().limit(1)).unwrap();
    assert!(CALLS.load(SeqCst) >= 2, "woken and dropped");
}

#[test]
fn a_waker_that_panics_harms_neither_the_job_that_ends_nor_the_line() {
    let job = the_only_job();
    let mut waiting = pin!(available());
    let panicking = |event: &str| assert_ne!(event, "woken", "on purpose");
    assert!(poll_with(waiting.as_mut(), panicking).is_pending());
    let mut next = Task::in_line();
    finished(job.resume());
    assert_eq!((next.wakes(), next.is_ready(), stacks()), (1, true, (1, 0)));
}

/// Polls store one waker a task, and a task that leaves takes its waker along.
#[test]
fn memory_does_not_grow_with_polls() {
    let job = the_only_job();
    let wakes = Arc::<Wakes>::default();
    let waker = Waker::from(Arc::clone(&wakes));
    let mut task = Context::from_waker(&waker);
    let mut waiting = pin!(available());
    for _ in 0..10_000 {
        assert!(waiting.as_mut().poll(&mut task).is_pending());
        assert!(pin!(available()).poll(&mut task).is_pending());
    }
    assert_eq!(Arc::strong_count(&wakes), 3, "the two of this test, and one in line");
    drop(job);
    assert_eq!((wakes.0.load(SeqCst), Arc::strong_count(&wakes)), (1, 2));
}

/// A hundred thousand tasks line up, and leave newest first: a list that is searched would need minutes here.
#[test]
fn a_hundred_thousand_tasks_line_up_and_leave() {
    let _watchdog = Watchdog::new();
    let job = the_only_job();
    let mut tasks: Vec<_> = (0..100_000).map(|_| Box::pin(available())).collect();
    let mut context = Context::from_waker(Waker::noop());
    assert!(
        tasks
            .iter_mut()
            .all(|task| task.as_mut().poll(&mut context).is_pending())
    );
    while tasks.len() > 1 {
        tasks.pop();
    }
    drop(job);
    assert!(tasks[0].as_mut().poll(&mut context).is_ready());
}

/// A thread may end while tasks wait for its pool.
#[test]
fn a_thread_that_ends_drops_the_wakers_of_those_in_line() {
    let _watchdog = Watchdog::new();
    let wakes = Arc::<Wakes>::default();
    let waker = Waker::from(Arc::clone(&wakes));
    std::thread::spawn(move || {
        init_thread(PoolConfig::new().limit(0)).unwrap();
        let mut forgotten = Box::pin(available());
        assert!(forgotten.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        std::mem::forget(forgotten);
    })
    .join()
    .unwrap();
    assert_eq!(Arc::strong_count(&wakes), 1);
}
