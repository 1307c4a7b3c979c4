//! The queue of submissions, which all workers share.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;

use loom::model::Builder;
use loom::sync::atomic::Ordering;
use loom::thread;

use super::join::{Jobs, JoinState};
use super::named::job::{JobBuilder, SendClosure};
use super::submit::{Submission, WorkerGroup};
use super::wake::Inbox;

fn group(workers: usize) -> loom::sync::Arc<WorkerGroup> {
    let inboxes = (0..workers).map(|_| Arc::new(Inbox::new().unwrap()));
    loom::sync::Arc::new(WorkerGroup::new(inboxes.collect(), 2))
}

/// What `Handle::spawn` does.
fn spawn(group: &WorkerGroup, jobs: &loom::sync::Arc<Jobs>) {
    let builder = JobBuilder::<()>(PhantomData);
    if group.admit(|| builder.claim_ctx()).is_err() {
        jobs.failed.fetch_add(1, Ordering::Relaxed);
        return;
    }
    group.submit(Submission {
        main: SendClosure(JoinState(jobs.clone())),
        name: None,
        stack_size: None,
        hooks: None,
        ctx: None,
    });
}

/// What a worker does: takes its share and runs it, and sleeps when there is nothing. Ends when so many jobs have run,
/// and wakes the other workers then.
fn work(group: &WorkerGroup, number: usize, jobs: &Jobs, until: usize) {
    let inbox = &group.inboxes[number];
    let mut pending = VecDeque::new();
    loop {
        if group.has_submissions() {
            group.take_share(&mut pending);
        }
        for _job in pending.drain(..) {
            jobs.run.fetch_add(1, Ordering::AcqRel);
            group.ended();
        }
        if jobs.run.load(Ordering::Acquire) == until {
            break;
        }
        if inbox.park() && !group.has_submissions() {
            inbox.clear_notifier(); // sleeps until there is a notification
        }
        inbox.unpark();
    }
    let others = group.inboxes.iter().enumerate().filter(|(other, _)| *other != number);
    others.for_each(|(_, inbox)| inbox.notify());
}

fn model(threads: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(threads);
}

/// Two threads spawn a job each. loom fails a model in which every thread sleeps.
#[test]
fn no_worker_sleeps_on_a_job() {
    model(|| {
        let (group, jobs) = (group(1), loom::sync::Arc::new(Jobs::default()));
        let others = [1, 2].map(|_| {
            let (group, jobs) = (group.clone(), jobs.clone());
            thread::spawn(move || spawn(&group, &jobs))
        });
        work(&group, 0, &jobs, 2);
        for other in others {
            other.join().unwrap();
        }
        assert_eq!((group.live(), jobs.failed.load(Ordering::Relaxed)), (0, 0));
        assert!(!group.has_submissions());
    });
}

/// One thread spawns for two workers, of which either may sleep.
#[test]
fn one_of_two_workers_takes_each_job() {
    model(|| {
        let (group, jobs) = (group(2), loom::sync::Arc::new(Jobs::default()));
        let workers = [0, 1].map(|number| {
            let (group, jobs) = (group.clone(), jobs.clone());
            thread::spawn(move || work(&group, number, &jobs, 1))
        });
        spawn(&group, &jobs);
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!((group.live(), jobs.failed.load(Ordering::Relaxed)), (0, 0));
        assert!(!group.has_submissions());
    });
}

/// The last scheduler goes while another thread spawns. The job is refused, taken, or told that nothing runs it.
#[test]
fn no_job_is_lost_when_the_last_scheduler_goes() {
    model(|| {
        let (group, jobs) = (group(1), loom::sync::Arc::new(Jobs::default()));
        let other = {
            let (group, jobs) = (group.clone(), jobs.clone());
            thread::spawn(move || spawn(&group, &jobs))
        };
        // What the drop of a scheduler does.
        let mut pending = VecDeque::new();
        group.close_one();
        group.take_all(&mut pending);
        let taken = pending.drain(..).map(|_| group.ended()).count();
        other.join().unwrap();
        assert_eq!(taken + jobs.failed.load(Ordering::Relaxed), 1);
        assert_eq!(group.live(), 0);
    });
}

/// Two threads spawn while the last scheduler goes, and each may take the other's job out of the queue to refuse it. A
/// job has its answer when its spawn has returned and the scheduler is gone: a join is not told that it waits for ever.
#[test]
fn a_job_has_its_answer_when_the_last_scheduler_is_gone() {
    model(|| {
        let group = group(1);
        let spawners = [(); 2].map(|()| {
            let (group, jobs) = (group.clone(), loom::sync::Arc::new(Jobs::default()));
            let of_spawner = jobs.clone();
            (thread::spawn(move || spawn(&group, &of_spawner)), jobs)
        });
        let mut pending = VecDeque::new();
        group.close_one();
        group.take_all(&mut pending);
        for job in pending.drain(..) {
            job.main.0.0.run.fetch_add(1, Ordering::Relaxed);
            group.ended();
        }
        for (spawner, jobs) in spawners {
            spawner.join().unwrap();
            let (run, failed) = (jobs.run.load(Ordering::Relaxed), jobs.failed.load(Ordering::Relaxed));
            assert_eq!(run + failed, 1);
        }
    });
}
