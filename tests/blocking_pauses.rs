//! Promise: a `BlockPause` guard stops the pauses of its own job and of no other job, for as long as the guard lives.
//! Code of a job that runs on another stack than the job's own does not pause either.

mod by_hand;

use std::cell::RefCell;
use std::rc::Rc;

use asyncjob::{BlockPause, PauseError, WaitCtx, WaitKey, block_pause, pause_job};
use by_hand::{finished, paused, paused_with, run, still_paused};

/// S40: a blocked pause does nothing, returns an error, and leaves the changes of the wait fds unsettled.
#[test]
fn a_blocked_pause_does_nothing() {
    let ctx = WaitCtx::new();
    let inside = ctx.clone();
    let job = paused_with(&ctx, move || {
        let (reader, _writer) = std::io::pipe().unwrap();
        inside.add_wait_fd(WaitKey::unique(), reader);
        let guard = block_pause();
        assert_eq!(pause_job(), Err(PauseError::Blocked));
        assert_eq!(inside.changes().added.len(), 1);
        drop(guard);
        pause_job().unwrap();
        inside.changes().added.len()
    });
    assert_eq!(ctx.changes().added.len(), 1);
    assert_eq!(finished(job.resume()), 0);
}

/// S43: guards nest, and may be dropped in any order.
#[test]
fn guards_nest() {
    let job = paused(|| {
        let (first, second, third) = (block_pause(), block_pause(), block_pause());
        let mut pauses = vec![pause_job()];
        drop(first);
        pauses.push(pause_job());
        drop(third);
        pauses.push(pause_job());
        drop(second);
        pause_job().unwrap();
        pauses
    });
    assert_eq!(finished(job.resume()), [Err(PauseError::Blocked); 3]);
}

/// S43: a guard that is made outside a job does nothing, neither there nor in a job that starts while it lives.
#[test]
fn a_guard_outside_a_job_does_nothing() {
    let guard = block_pause();
    assert_eq!(pause_job(), Err(PauseError::NotInJob));
    let job = paused(pause_job);
    assert_eq!(finished(job.resume()), Ok(()));
    let job = paused(move || {
        drop(guard); // made outside, so it changes nothing inside
        let _mine = block_pause();
        let before = pause_job();
        drop(_mine);
        pause_job().unwrap();
        before
    });
    assert_eq!(finished(job.resume()), Err(PauseError::Blocked));
}

/// S44, fixed: a job that forgets its guard and ends blocks no later job, not even one on the same stack.
#[test]
fn a_forgotten_guard_ends_with_its_job() {
    run(|| std::mem::forget(block_pause()));
    let job = paused(pause_job);
    assert_eq!(finished(job.resume()), Ok(()));
}

/// S44, fixed: a guard that leaves its job does nothing any more, even if it is dropped in another job that runs on the
/// same stack and has a guard of its own.
#[test]
fn a_guard_that_leaves_its_job_does_nothing() {
    let guard: BlockPause = run(block_pause);
    let job = paused(move || {
        let mine = block_pause();
        drop(guard);
        assert_eq!(
            pause_job(),
            Err(PauseError::Blocked),
            "the guard of another job does not end this job's block"
        );
        drop(mine);
        pause_job().unwrap()
    });
    finished(job.resume());

    let guard = run(block_pause);
    drop(guard); // outside every job
    let mut slot = Some(run(block_pause));
    std::thread::scope(|_| slot.take());
    assert_eq!(finished(paused(pause_job).resume()), Ok(()));
}

/// S43 for each job: an inner job can pause while its outer job has a guard, and the guard still blocks the outer job
/// afterwards.
#[test]
fn the_guard_of_an_outer_job_does_not_block_the_inner_one() {
    let pauses = run(|| {
        let _guard = block_pause();
        let inner = paused(pause_job);
        (pause_job(), finished(inner.resume()), pause_job())
    });
    assert_eq!(pauses, (Err(PauseError::Blocked), Ok(()), Err(PauseError::Blocked)));
}

/// S43: a guard of an inner job blocks only the inner job.
#[test]
fn the_guard_of_an_inner_job_does_not_block_the_outer_one() {
    let kept_guard: Rc<RefCell<Option<BlockPause>>> = Rc::default();
    let inside = kept_guard.clone();
    let outer = paused(move || {
        run(move || {
            *inside.borrow_mut() = Some(block_pause());
            assert_eq!(pause_job(), Err(PauseError::Blocked));
        });
        pause_job().unwrap()
    });
    assert!(kept_guard.borrow().is_some());
    finished(outer.resume());
}

/// A guard of the outer job may be dropped inside the inner one. The outer job can pause then.
#[test]
fn a_guard_may_be_dropped_in_an_inner_job() {
    let job = paused(|| {
        let guard = block_pause();
        run(move || drop(guard));
        pause_job().unwrap()
    });
    finished(job.resume());
}

/// A panic drops the guard, as it drops any other value.
#[test]
fn a_panic_drops_the_guard() {
    let job = paused(|| {
        let _ = std::panic::catch_unwind(|| {
            let _guard = block_pause();
            std::panic::resume_unwind(Box::new("a failure under the guard"));
        });
        pause_job().unwrap()
    });
    finished(job.resume());
}

/// Ten thousand guards in a hundred rounds, with a pause between the rounds.
#[test]
fn many_guards_leave_nothing_behind() {
    let mut job = paused(|| {
        for _ in 0..100 {
            let guards: Vec<_> = (0..100).map(|_| block_pause()).collect();
            assert_eq!(pause_job(), Err(PauseError::Blocked));
            drop(guards);
            pause_job().unwrap();
        }
    });
    for _ in 1..100 {
        job = still_paused(job.resume());
    }
    finished(job.resume());
}

/// A pause on a stack that the job has changed to does nothing, and the error says why. The library waits by blocking
/// the thread there. Back on its own stack the job pauses.
#[test]
fn code_on_another_stack_does_not_pause() {
    let _watchdog = asyncjob_testing::Watchdog::new();
    let mut other = corosensei::stack::DefaultStack::new(256 << 10).unwrap();
    let job = paused(move || {
        pause_job().unwrap();
        let there = corosensei::on_stack(&mut other, || {
            let refused = pause_job();
            asyncjob::time::sleep(std::time::Duration::from_millis(1)).unwrap();
            let awaited = asyncjob::waiting::await_future(std::future::pending::<()>());
            // A job that is started there has a stack of its own, and pauses.
            let inner = finished(paused(pause_job).resume());
            (refused, awaited.unwrap_err().to_string(), inner)
        });
        pause_job().unwrap();
        there
    });
    let job = still_paused(job.resume());
    let (refused, awaited, inner) = finished(job.resume());
    assert_eq!((refused, inner), (Err(PauseError::OffStack), Ok(())));
    assert!(awaited.contains("cannot pause"), "{awaited}");
}

/// A cancelled job that tries to pause on another stack for ever is not quarantined from there: its pauses fail until
/// it goes on.
#[test]
fn a_cancelled_job_does_not_leave_from_another_stack() {
    let mut other = corosensei::stack::DefaultStack::new(256 << 10).unwrap();
    let job = paused(move || {
        let _ = pause_job();
        corosensei::on_stack(&mut other, || {
            (0..2000).filter(|_| pause_job() == Err(PauseError::Cancelled)).count()
        })
    });
    assert_eq!(job.cancel(), Ok(2000));
}
