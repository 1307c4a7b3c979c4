//! Promise: a job may start and resume other jobs, and each job pauses to its last resumer (S37, fixed).
//!
//! OpenSSL does not define nesting, and the result depends on the hidden state of the running fibre. Each of the four
//! cases of S37 has a test here. In each the outer job continues unharmed.

mod by_hand;

use std::cell::RefCell;
use std::rc::Rc;

use asyncjob::{Job, Step, WaitCtx, current_job_id, pause_job, start_job};
use by_hand::{Log, finished, in_use, paused, run, still_paused};

/// S37a: a job in its first phase, on a stack that was never used, starts another job.
#[test]
fn a_new_job_starts_another() {
    let result = run(|| {
        let me = current_job_id();
        let inner = run(current_job_id);
        assert_ne!(inner, me);
        assert_eq!(current_job_id(), me, "the inner job is no longer current");
        (inner.is_some(), me.is_some())
    });
    assert_eq!(result, (true, true));
    assert_eq!(current_job_id(), None);
    assert_eq!(in_use(), 0);
}

/// S37b: a job on a stack that was used before starts another job, on a stack that was used before.
#[test]
fn a_job_on_a_recycled_stack_starts_another() {
    run(|| run(|| ())); // two used stacks
    let value = run(|| run(|| 41) + 1);
    assert_eq!(value, 42, "the inner closure ran, and its value came back");
    assert_eq!(in_use(), 0);
}

/// S37c: a job that was resumed starts another job.
#[test]
fn a_resumed_job_starts_another() {
    let job = paused(|| {
        pause_job().unwrap();
        let me = current_job_id();
        let inner = run(|| 7);
        assert_eq!(current_job_id(), me);
        pause_job().unwrap(); // the outer job can still pause
        inner
    });
    let job = still_paused(job.resume());
    assert_eq!(finished(job.resume()), 7);
}

/// S37d: a job resumes a job that was started outside of it.
#[test]
fn a_job_resumes_one_started_outside() {
    let log = Log::default();
    let said = log.clone();
    let other = paused(move || {
        pause_job().unwrap();
        said.say("inner, second phase");
        pause_job().unwrap();
        said.say("inner, third phase");
        "inner"
    });
    let said = log.clone();
    let outer = paused(move || {
        let me = current_job_id();
        let other = still_paused(other.resume());
        said.say("back in the outer job");
        assert_eq!(current_job_id(), me);
        pause_job().unwrap();
        (finished(other.resume()), "outer")
    });
    assert_eq!(log.take(), ["inner, second phase", "back in the outer job"]);
    assert_eq!(finished(outer.resume()), ("inner", "outer"));
    assert_eq!(log.take(), ["inner, third phase"]);
    assert_eq!(current_job_id(), None);
}

/// A pause of an inner job returns to the outer job, not to the thread.
#[test]
fn an_inner_pause_returns_to_the_outer_job() {
    let inner_pause = run(|| {
        let me = current_job_id();
        let inner = paused(pause_job);
        assert_eq!(current_job_id(), me);
        finished(inner.resume())
    });
    assert_eq!(inner_pause, Ok(()));
}

/// A job that was started in a job may leave that job. The thread resumes it, and then another job does. Each time the
/// job pauses to its last resumer.
#[test]
fn a_job_may_outlive_the_job_that_started_it() {
    let kept_job: Rc<RefCell<Option<Job<u32>>>> = Rc::default();
    let inside = kept_job.clone();
    run(move || {
        let inner = paused(|| {
            let mut resumed = 0;
            while resumed < 3 {
                pause_job().unwrap();
                resumed += 1;
            }
            resumed
        });
        *inside.borrow_mut() = Some(inner);
    });
    let inner = kept_job.take().unwrap();
    let inner = still_paused(inner.resume()); // by the thread
    assert_eq!(current_job_id(), None);
    let inner = run(move || still_paused(inner.resume())); // by another job
    assert_eq!(current_job_id(), None);
    assert_eq!(finished(inner.resume()), 3);
}

/// Two outer jobs that run in turn, each with an inner job, do not mix up their inner jobs.
#[test]
fn interleaved_outer_jobs_keep_their_inner_jobs() {
    fn outer(inner: Job<u32>) -> Job<u32> {
        paused(move || {
            let mut inner = inner;
            loop {
                match inner.resume() {
                    Step::Finished(value) => return value,
                    Step::Paused(again) => inner = again,
                }
                pause_job().unwrap();
            }
        })
    }
    fn counting(to: u32) -> Job<u32> {
        paused(move || {
            for _ in 0..to {
                pause_job().unwrap();
            }
            to
        })
    }
    let (mut a, mut b) = (outer(counting(5)), outer(counting(5)));
    for _ in 0..3 {
        a = still_paused(a.resume());
        b = still_paused(b.resume());
    }
    assert_eq!((finished(a.resume()), finished(b.resume())), (5, 5));
    assert_eq!(in_use(), 0);
}

/// A hundred jobs are nested. Each is current while it runs, on the way down and on the way up.
#[test]
fn jobs_nest_a_hundred_deep() {
    fn deeper(depth: u32) -> u32 {
        let me = current_job_id();
        let below = if depth == 0 { 0 } else { run(move || deeper(depth - 1)) };
        assert_eq!(current_job_id(), me);
        below + 1
    }
    assert_eq!(deeper(100), 101);
    assert_eq!(current_job_id(), None);
    assert_eq!(in_use(), 0);
}

/// An inner job has a ctx of its own.
#[test]
fn an_inner_job_has_its_own_ctx() {
    let ctx = WaitCtx::new();
    let bound = ctx.clone();
    let step = start_job(&ctx, move || {
        let inner = WaitCtx::new();
        let inner_bound = inner.clone();
        let step = start_job(&inner, move || {
            asyncjob::current_job().unwrap().wait_ctx().ptr_eq(&inner_bound)
        });
        (
            finished(step.unwrap()),
            asyncjob::current_job().unwrap().wait_ctx().ptr_eq(&bound),
        )
    });
    assert_eq!(finished(step.unwrap()), (true, true));
}
