//! The inbox of a scheduler, and the waker of a job.

use std::sync::Arc;
use std::task::Waker;

use loom::model::Builder;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use super::wake::{Inbox, JobWaker, TaskId};

const JOB: TaskId = TaskId { index: 0, serial: 0 };

/// What a scheduler does with one job: takes wakes, resumes the job, and sleeps when there is nothing to do. Ends when
/// the job says that it has seen all.
fn run(inbox: &Inbox, waker: &JobWaker, mut job: impl FnMut() -> bool) {
    let mut woken = Vec::new();
    loop {
        if inbox.has_messages() {
            drop(inbox.take(&mut woken));
            for id in woken.drain(..) {
                assert_eq!(id, JOB);
                waker.start_resume();
                if job() {
                    return;
                }
            }
        }
        if inbox.park() {
            inbox.clear_notifier(); // sleeps until there is a notification
            inbox.unpark();
        }
    }
}

fn model(threads: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(threads);
}

/// A wake is seen, and what was done before it, whenever it comes: two threads announce something each.
#[test]
fn no_wake_is_slept_on() {
    model(|| {
        let inbox = Arc::new(Inbox::new().unwrap());
        let job = Arc::new(JobWaker::new(inbox.clone()));
        assert!(!job.set_task(JOB));
        let done = loom::sync::Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let others = [0, 1].map(|at| {
            let (done, waker) = (done.clone(), Waker::from(job.clone()));
            thread::spawn(move || {
                done[at].store(true, Ordering::Relaxed); // the wake makes it visible
                waker.wake();
            })
        });
        run(&inbox, &job, || done.iter().all(|done| done.load(Ordering::Relaxed)));
        for other in others {
            other.join().unwrap();
        }
    });
}

/// A wake that comes while the job pauses for the first time is either posted or seen by the scheduler, and not both.
#[test]
fn a_wake_beside_the_first_pause_is_one_wake() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::new().unwrap());
        let job = Arc::new(JobWaker::new(inbox.clone()));
        let done = loom::sync::Arc::new(AtomicBool::new(false));
        let other = {
            let (done, waker) = (done.clone(), Waker::from(job.clone()));
            thread::spawn(move || {
                done.store(true, Ordering::Relaxed); // the wake makes it visible
                waker.wake();
            })
        };
        let is_woken = job.set_task(JOB);
        if is_woken {
            assert!(done.load(Ordering::Relaxed));
        }
        other.join().unwrap();
        let mut woken = Vec::new();
        drop(inbox.take(&mut woken));
        assert_eq!(woken, if is_woken { vec![] } else { vec![JOB] });
    });
}

/// The scheduler hears of a request to cancel that comes at the same time as a wake.
#[test]
fn a_cancel_beside_a_wake_is_not_lost() {
    model(|| {
        let inbox = Arc::new(Inbox::new().unwrap());
        let job = Arc::new(JobWaker::new(inbox.clone()));
        assert!(!job.set_task(JOB));
        let wakes = {
            let waker = Waker::from(job.clone());
            thread::spawn(move || waker.wake())
        };
        let cancels = {
            let inbox = inbox.clone();
            thread::spawn(move || inbox.post_cancel(JOB))
        };
        let mut woken = Vec::new();
        loop {
            if inbox.has_messages() {
                drop(inbox.take(&mut woken));
                woken.clear();
            }
            if inbox.has_cancelled() {
                assert_eq!(inbox.take_cancelled(), [JOB]);
                break;
            }
            if inbox.park() {
                inbox.clear_notifier();
                inbox.unpark();
            }
        }
        wakes.join().unwrap();
        cancels.join().unwrap();
    });
}

/// Two threads wake a job each. One wake may find the other one in the place of the first, and both are seen.
#[test]
fn two_wakes_at_once_are_both_seen() {
    model(|| {
        let inbox = Arc::new(Inbox::new().unwrap());
        let jobs = [0, 1].map(|_| Arc::new(JobWaker::new(inbox.clone())));
        let others = [0, 1].map(|index| {
            assert!(!jobs[index as usize].set_task(TaskId { index, serial: 0 }));
            let waker = Waker::from(jobs[index as usize].clone());
            thread::spawn(move || waker.wake())
        });
        let (mut woken, mut resumed) = (Vec::new(), [0, 0]);
        while resumed != [1, 1] {
            if inbox.has_messages() {
                drop(inbox.take(&mut woken));
                for id in woken.drain(..) {
                    let at = id.index as usize;
                    assert!(jobs[at].is_woken(), "the wake is about this pause");
                    jobs[at].start_resume();
                    assert!(!jobs[at].is_woken());
                    resumed[at] += 1;
                }
            } else if inbox.park() {
                inbox.clear_notifier(); // sleeps until there is a notification
                inbox.unpark();
            }
        }
        for other in others {
            other.join().unwrap();
        }
    });
}
