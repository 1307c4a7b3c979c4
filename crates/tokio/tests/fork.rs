//! Promise: a child of `fork(2)` that drops an inherited job takes nothing from the runtime of its parent, and
//! inherited workers refuse.

use std::future::{Future, poll_fn};
use std::io::{Read, Write, pipe};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::channel;
use std::task::Poll;

use asyncjob::{WaitKey, current_job, pause_job};
use asyncjob_testing::{Watchdog, run_alone};
use asyncjob_tokio::{JoinError, Workers};

/// Runs this in a child, which must end without a panic.
#[allow(unsafe_code, reason = "forks, and ends the child")]
fn in_a_child(f: impl FnOnce()) {
    // SAFETY: what the child does needs nothing of the other threads of the parent.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let ended = catch_unwind(AssertUnwindSafe(f));
        // SAFETY: the call takes no pointers, and nothing of the parent's runs in the child after it.
        unsafe { libc::_exit(i32::from(ended.is_err())) };
    }
    let mut status = 0;
    // SAFETY: the status may be written to during the call.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!((waited, status), (child, 0));
}

#[test]
fn workers_of_the_parent_refuse_in_a_child() {
    run_alone("workers_in_a_child");
}

#[test]
#[ignore = "run by workers_of_the_parent_refuse_in_a_child, in a process of its own"]
fn workers_in_a_child() {
    let _watchdog = Watchdog::new();
    let workers = Workers::new(2).unwrap();
    let handle = workers.handle();
    let (release, is_released) = channel();
    let earlier = handle.spawn(move || is_released.recv());
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let mut parents = Some((workers, earlier));
    in_a_child(|| {
        let (workers, earlier) = parents.take().unwrap();
        let later = handle.spawn(|| 1);
        let task = handle.spawn_task(|| async { 1 });
        runtime().block_on(async {
            let error = later.await.unwrap_err();
            assert!(matches!(error, JoinError::Forked), "{error}");
            assert!(error.to_string().contains("make a new one in the child"), "{error}");
            assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::Unsupported);
            assert!(matches!(task.await, Err(JoinError::Forked)));
            assert!(matches!(earlier.await, Err(JoinError::Forked)));
        });
        drop(workers);
        let own = Workers::new(1).unwrap();
        assert_eq!(runtime().block_on(own.handle().spawn(|| 2)).unwrap(), 2);
    });
    let (_workers, earlier) = parents.unwrap();
    release.send(()).unwrap();
    assert_eq!(runtime().block_on(earlier).unwrap(), Ok(()));
}

#[test]
fn a_job_that_is_dropped_in_a_child() {
    run_alone("drop_in_a_child");
}

#[test]
#[ignore = "run by a_job_that_is_dropped_in_a_child, in a process of its own"]
fn drop_in_a_child() {
    let _watchdog = Watchdog::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (mut reader, mut writer) = pipe().unwrap();
        let mut job = Some(asyncjob_tokio::job(move || {
            let ctx = current_job().unwrap().wait_ctx().clone();
            ctx.add_wait_fd(WaitKey::unique(), reader.try_clone().unwrap());
            pause_job().ok()?;
            reader.read(&mut [0]).ok()
        }));
        let mut pinned = job.as_mut().unwrap();
        let first = poll_fn(|task| Poll::Ready(std::pin::Pin::new(&mut pinned).poll(task))).await;
        assert!(first.is_pending());
        in_a_child(|| drop(job.take()));
        writer.write_all(b"x").unwrap();
        assert_eq!(job.take().unwrap().await.unwrap(), Some(1), "the byte was not noticed");
    });
}
