//! The waker that a job sees, beside the polls of its task.

use std::sync::Arc;
use std::task::{Wake, Waker};

use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;

#[allow(
    dead_code,
    unexpected_cfgs,
    reason = "not all of it is run here, and nothing with the feature `insight`"
)]
#[path = "../../../src/job_future/forwarder.rs"]
mod forwarder;

use forwarder::ForwardingWaker;

/// Counts the wakes of a task.
struct Task(AtomicUsize);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// One poll of a task that has not polled last: resumes the job if its waker was called. Returns whether it resumed it.
fn poll(forwarder: &ForwardingWaker, task: &Waker) -> bool {
    drop(forwarder.set_task(task));
    poll_on(forwarder)
}

/// One poll of the task that polled last.
fn poll_again(forwarder: &ForwardingWaker) -> bool {
    !forwarder.waits_for_call() && poll_on(forwarder)
}

fn poll_on(forwarder: &ForwardingWaker) -> bool {
    let was_called = forwarder.was_called();
    if was_called {
        drop(forwarder.start_resume());
    }
    if !forwarder.was_called() {
        forwarder.wait_for_call();
    }
    was_called
}

/// A wake that comes around a poll, from a task that may have become another one, resumes the job in that poll, or
/// wakes the task that polled last. What was done before the wake is visible to the job.
#[test]
fn no_wake_is_lost_between_two_tasks() {
    loom::model(|| {
        let forwarder = Arc::new(ForwardingWaker::new());
        let (first, second) = (Arc::new(Task(AtomicUsize::new(0))), Arc::new(Task(AtomicUsize::new(0))));
        assert!(!poll(&forwarder, &Waker::from(first)));
        let done = loom::sync::Arc::new(AtomicBool::new(false));
        let other = {
            let (done, waker) = (done.clone(), Waker::from(forwarder.clone()));
            thread::spawn(move || {
                done.store(true, Ordering::Relaxed); // the wake makes it visible
                waker.wake();
            })
        };
        let resumed = poll(&forwarder, &Waker::from(second.clone()));
        if resumed {
            assert!(done.load(Ordering::Relaxed));
        }
        other.join().unwrap();
        let was_woken = second.0.load(Ordering::SeqCst) != 0;
        assert!(resumed || was_woken, "the task sleeps on the wake");
        if !resumed {
            assert!(poll_again(&forwarder), "the task is polled and does not see why");
            assert!(done.load(Ordering::Relaxed));
        }
    });
}

/// While the job runs for the first time, there is no task. A wake that comes then is seen after the task is there, or
/// finds the task.
#[test]
fn no_wake_is_lost_before_there_is_a_task() {
    loom::model(|| {
        let forwarder = Arc::new(ForwardingWaker::new());
        let task = Arc::new(Task(AtomicUsize::new(0)));
        let done = loom::sync::Arc::new(AtomicBool::new(false));
        let running = forwarder.start();
        let other = {
            let (done, waker) = (done.clone(), Waker::from(forwarder.clone()));
            thread::spawn(move || {
                done.store(true, Ordering::Relaxed);
                waker.wake();
            })
        };
        drop(running); // the first pause
        drop(forwarder.set_task(&Waker::from(task.clone())));
        let was_called = forwarder.was_called();
        if !was_called {
            forwarder.wait_for_call();
        }
        other.join().unwrap();
        assert!(
            was_called || task.0.load(Ordering::SeqCst) != 0,
            "the task sleeps on the wake"
        );
        assert!(poll_again(&forwarder) && done.load(Ordering::Relaxed));
    });
}

/// A wake that comes around a poll without a reason, which reads no more than two words, resumes the job in that poll,
/// or wakes the task. The poll that follows the wake resumes the job.
#[test]
fn a_poll_without_a_reason_hides_no_wake() {
    loom::model(|| {
        let forwarder = Arc::new(ForwardingWaker::new());
        let task = Arc::new(Task(AtomicUsize::new(0)));
        assert!(!poll(&forwarder, &Waker::from(task.clone())));
        assert!(!poll_again(&forwarder));
        let done = loom::sync::Arc::new(AtomicBool::new(false));
        let other = {
            let (done, waker) = (done.clone(), Waker::from(forwarder.clone()));
            thread::spawn(move || {
                done.store(true, Ordering::Relaxed);
                waker.wake();
            })
        };
        let resumed = poll_again(&forwarder);
        if resumed {
            assert!(done.load(Ordering::Relaxed));
        }
        if task.0.load(Ordering::SeqCst) != 0 && !resumed {
            assert!(
                poll_again(&forwarder),
                "the task is polled for the wake and does not see it"
            );
            assert!(done.load(Ordering::Relaxed));
            return other.join().unwrap();
        }
        other.join().unwrap();
        if !resumed {
            assert!(task.0.load(Ordering::SeqCst) != 0, "the task sleeps on the wake");
            assert!(poll_again(&forwarder) && done.load(Ordering::Relaxed));
        }
    });
}

/// Two wakes at once: each is acted on by the resume that follows it, or by another one.
#[test]
fn of_two_wakes_none_is_lost() {
    loom::model(|| {
        let forwarder = Arc::new(ForwardingWaker::new());
        let task = Arc::new(Task(AtomicUsize::new(0)));
        let waker = Waker::from(task.clone());
        assert!(!poll(&forwarder, &waker));
        let done = loom::sync::Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let others = [0, 1].map(|at| {
            let (done, waker) = (done.clone(), Waker::from(forwarder.clone()));
            thread::spawn(move || {
                done[at].store(true, Ordering::Relaxed);
                waker.wake();
            })
        });
        let polled = poll_again(&forwarder);
        for other in others {
            other.join().unwrap();
        }
        let seen = || done.iter().all(|done| done.load(Ordering::Relaxed));
        assert!(seen() || polled);
        // A last poll, for which the task was woken if the first one has not seen both.
        if !polled {
            assert!(task.0.load(Ordering::SeqCst) != 0 && poll_again(&forwarder));
        }
    });
}

/// The job runs and calls its own waker while another thread calls it, too. The poll sees that it was called, and what
/// was done before both.
#[test]
fn a_wake_of_the_job_itself_hides_none_of_another_thread() {
    loom::model(|| {
        let forwarder = Arc::new(ForwardingWaker::new());
        let task = Arc::new(Task(AtomicUsize::new(0)));
        let (waker, of_job) = (Waker::from(task.clone()), Waker::from(forwarder.clone()));
        let done = loom::sync::Arc::new(AtomicBool::new(false));
        let running = {
            drop(forwarder.set_task(&waker));
            forwarder.start()
        };
        let other = {
            let (done, of_job) = (done.clone(), of_job.clone());
            thread::spawn(move || {
                done.store(true, Ordering::Relaxed);
                of_job.wake();
            })
        };
        of_job.wake_by_ref();
        drop(running);
        assert!(poll(&forwarder, &waker), "the job has called its waker");
        let seen_first = done.load(Ordering::Relaxed);
        other.join().unwrap();
        let woken = task.0.load(Ordering::SeqCst) != 0;
        assert!(seen_first || woken, "the task sleeps on the wake of the other thread");
        if !seen_first {
            assert!(poll(&forwarder, &waker) && done.load(Ordering::Relaxed));
        }
    });
}
