//! Promise: a `BlockPause` guard stops the pauses of its job, of no other job, and for no longer than it lives.

mod by_hand;

use std::cell::RefCell;
use std::rc::Rc;

use asyncjob::{BlockPause, PauseError, WaitCtx, WaitKey, block_pause, pause_job};
use by_hand::{finished, paused, paused_with, run, still_paused};

/// S40: blocked, a pause does nothing, says so, and does not settle the changes of the fds.
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

/// S43: outside a job a guard does nothing, neither there nor to a job that starts under it.
#[test]
fn a_guard_outside_a_job_does_nothing() {
    let guard = block_pause();
    assert_eq!(pause_job(), Err(PauseError::NotInJob));
    let job = paused(pause_job);
    assert_eq!(finished(job.resume()), Ok(()));
    let job = paused(move || {
        drop(guard); // made outside: it lifts nothing inside
        let _mine = block_pause();
        let before = pause_job();
        drop(_mine);
        pause_job().unwrap();
        before
    });
    assert_eq!(finished(job.resume()), Err(PauseError::Blocked));
}

/// S44, fixed: a job that ends under a guard that it forgot leaves nothing behind: not for the next job, not on the
/// same stack.
#[test]
fn a_forgotten_guard_ends_with_its_job() {
    run(|| std::mem::forget(block_pause()));
    let job = paused(pause_job);
    assert_eq!(finished(job.resume()), Ok(()));
}

/// S44, fixed: a guard that was carried out of its job does nothing any more, even if it is dropped in another job that
/// runs on the same stack and has a guard of its own.
#[test]
fn a_guard_carried_out_of_its_job() {
    let guard: BlockPause = run(block_pause);
    let job = paused(move || {
        let mine = block_pause();
        drop(guard);
        assert_eq!(
            pause_job(),
            Err(PauseError::Blocked),
            "the other job's guard must not lift mine"
        );
        drop(mine);
        pause_job().unwrap()
    });
    finished(job.resume());

    let guard = run(block_pause);
    drop(guard); // outside any job
    let mut slot = Some(run(block_pause));
    std::thread::scope(|_| slot.take());
    assert_eq!(finished(paused(pause_job).resume()), Ok(()));
}

/// S43, per job: a guard of an outer job does not keep an inner job from pausing, and lives on through that.
#[test]
fn the_guard_of_an_outer_job_leaves_the_inner_one_alone() {
    let pauses = run(|| {
        let _guard = block_pause();
        let inner = paused(pause_job);
        (pause_job(), finished(inner.resume()), pause_job())
    });
    assert_eq!(pauses, (Err(PauseError::Blocked), Ok(()), Err(PauseError::Blocked)));
}

/// S43: a guard of an inner job blocks the inner job only.
#[test]
fn the_guard_of_an_inner_job_leaves_the_outer_one_alone() {
    let place: Rc<RefCell<Option<BlockPause>>> = Rc::default();
    let inside = place.clone();
    let outer = paused(move || {
        run(move || {
            *inside.borrow_mut() = Some(block_pause());
            assert_eq!(pause_job(), Err(PauseError::Blocked));
        });
        pause_job().unwrap()
    });
    assert!(place.borrow().is_some());
    finished(outer.resume());
}

/// A guard of the outer job may be dropped inside the inner one, and then the outer one can pause.
#[test]
fn a_guard_dropped_in_an_inner_job() {
    let job = paused(|| {
        let guard = block_pause();
        run(move || drop(guard));
        pause_job().unwrap()
    });
    finished(job.resume());
}

/// A panic drops the guard like anything else.
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

/// Ten thousand guards, and pauses between them.
#[test]
fn many_guards_one_after_the_other() {
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
