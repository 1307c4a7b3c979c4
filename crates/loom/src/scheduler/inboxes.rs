//! The inbox of a scheduler, and the waker of a job.

use std::sync::Arc;
use std::task::Waker;

use loom::model::Builder;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;

use super::wake::{Inbox, JobWaker, TaskId};

const JOB: TaskId = TaskId { index: 0, serial: 0 };

/// What a scheduler does with one job: takes wakes, resumes the job, and sleeps when there is nothing to do. Ends when
/// the job says that it has seen all.
fn run(inbox: &Inbox, waker: &JobWaker, mut job: impl FnMut() -> bool) {
    let (mut woken, mut is_marked) = (Vec::new(), false);
    loop {
        if inbox.has_messages() {
            let first = inbox.take_first();
            is_marked |= first.is_some();
            drop(inbox.take(&mut woken));
            for id in first.into_iter().chain(woken.drain(..)) {
                assert_eq!(id, JOB);
                let is_woken = waker.start_resume(inbox) | std::mem::take(&mut is_marked);
                if is_woken && job() {
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
        let job = Arc::new(JobWaker::new(inbox.clone(), false));
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
        let job = Arc::new(JobWaker::new(inbox.clone(), false));
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
        woken.extend(inbox.take_first());
        assert_eq!(woken, if is_woken { vec![] } else { vec![JOB] });
    });
}

/// The scheduler hears of a request to cancel that comes at the same time as a wake.
#[test]
fn a_cancel_beside_a_wake_is_not_lost() {
    model(|| {
        let inbox = Arc::new(Inbox::new().unwrap());
        let job = Arc::new(JobWaker::new(inbox.clone(), false));
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
                inbox.take_first();
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
        let jobs = [0, 1].map(|_| Arc::new(JobWaker::new(inbox.clone(), false)));
        let others = [0, 1].map(|index| {
            assert!(!jobs[index as usize].set_task(TaskId { index, serial: 0 }));
            let waker = Waker::from(jobs[index as usize].clone());
            thread::spawn(move || waker.wake())
        });
        let (mut woken, mut resumed) = (Vec::new(), [0, 0]);
        while resumed != [1, 1] {
            if inbox.has_messages() {
                let first = inbox.take_first();
                drop(inbox.take(&mut woken));
                for id in first.into_iter().chain(woken.drain(..)) {
                    let at = id.index as usize;
                    let is_woken = jobs[at].start_resume(&inbox);
                    assert!(is_woken || first == Some(id), "the wake is about this pause");
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

/// A thread wakes the job twice, and says so between the two. The job is resumed for the second wake, too, unless it
/// was resumed after that one: then nothing is left of it.
#[test]
fn a_second_wake_of_the_same_job_is_one_more_resume_at_most() {
    model(|| {
        let inbox = Arc::new(Inbox::new().unwrap());
        let job = Arc::new(JobWaker::new(inbox.clone(), false));
        assert!(!job.set_task(JOB));
        let wakes = loom::sync::Arc::new(AtomicUsize::new(0));
        let other = {
            let (wakes, waker) = (wakes.clone(), Waker::from(job.clone()));
            thread::spawn(move || {
                for wake in 1..=2 {
                    wakes.store(wake, Ordering::Relaxed); // the wake makes it visible
                    waker.wake_by_ref();
                }
            })
        };
        let mut resumes = 0;
        run(&inbox, &job, || {
            resumes += 1;
            wakes.load(Ordering::Relaxed) == 2
        });
        other.join().unwrap();
        assert!(resumes <= 2);
    });
}
