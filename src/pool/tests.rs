//! Which way a stack comes back: the short one, which looks at nothing, or the long one.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};

use super::thread::THREAD;
use super::{Available, PoolConfig, available, init_thread};
use crate::stack::StackSize;
use crate::{Job, Step, WaitCtx, pause_job, start_job};

fn paused() -> Job<()> {
    match start_job(&WaitCtx::new(), || {
        let _ = pause_job();
    }) {
        Ok(Step::Paused(job)) => job,
        _ => panic!("it pauses"),
    }
}

fn is_short() -> bool {
    THREAD.with(|pool| pool.gives_directly())
}

fn polled_is_ready(waiting: &mut Available) -> bool {
    Pin::new(waiting)
        .poll(&mut Context::from_waker(Waker::noop()))
        .is_ready()
}

/// Every test runs on a thread of its own, whose pool was not set up.
#[test]
fn a_stack_comes_back_the_long_way_while_a_task_waits_and_no_longer() {
    init_thread(PoolConfig::new().limit(1)).unwrap();
    let job = paused();
    assert!(is_short());
    let mut waiting = available();
    assert!(!polled_is_ready(&mut waiting));
    assert!(!is_short());
    drop(waiting);
    assert!(is_short(), "the task has left");

    let mut waiting = available();
    assert!(!polled_is_ready(&mut waiting));
    drop(job);
    assert!(is_short(), "the task was told, and the line is empty");
    assert!(polled_is_ready(&mut waiting));
    assert!(is_short());

    let _job = paused();
    assert!(!polled_is_ready(&mut waiting));
    init_thread(PoolConfig::new().limit(2)).unwrap();
    assert!(is_short(), "all were told");
}

#[test]
fn a_stack_comes_back_the_long_way_above_a_lowered_limit() {
    let jobs = [paused(), paused()];
    init_thread(PoolConfig::new().limit(1)).unwrap();
    assert!(!is_short());
    drop(jobs);
    assert!(is_short());
    let _other_size = init_thread(PoolConfig::new().stack_size(StackSize::MIN));
    assert!(!is_short(), "there is no stack of this size yet");
    drop(paused());
    assert!(is_short());
}
