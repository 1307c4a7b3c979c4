//! Promise: a child of `fork(2)` that drops an inherited job takes nothing from the runtime of its parent.

use std::future::{Future, poll_fn};
use std::io::{Read, Write, pipe};
use std::task::Poll;

use asyncjob::{WaitKey, current_job, pause_job};
use asyncjob_testing::{Watchdog, run_alone};

#[test]
fn a_job_that_is_dropped_in_a_child() {
    run_alone("drop_in_a_child");
}

#[test]
#[ignore = "run by a_job_that_is_dropped_in_a_child, in a process of its own"]
#[allow(unsafe_code, reason = "forks, and ends the child")]
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
        // SAFETY: the process has one thread that runs code of ours.
        let child = unsafe { libc::fork() };
        if child == 0 {
            drop(job.take());
            // SAFETY: the call takes no pointers, and nothing of the parent's runs in the child after it.
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // SAFETY: the status may be written to during the call.
        let waited = unsafe { libc::waitpid(child, &mut status, 0) };
        assert_eq!((waited, status), (child, 0));
        writer.write_all(b"x").unwrap();
        assert_eq!(job.take().unwrap().await.unwrap(), Some(1), "the byte was not noticed");
    });
}
