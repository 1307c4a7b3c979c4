//! A request to cancel a job, while the job starts and pauses.

use std::sync::Arc;

use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use super::cancel::Cancel;
use super::wake::{Inbox, TaskId};

const JOB: TaskId = TaskId { index: 0, serial: 0 };

/// Whenever the request comes, the job does not start, or is cancelled at its first pause, or gets a posted cancel.
/// What was done before the request is visible then.
#[test]
fn a_request_reaches_the_job_whenever_it_comes() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::new().unwrap());
        let cancel = Arc::new(Cancel::new());
        let said_before = loom::sync::Arc::new(AtomicBool::new(false));
        let handle = {
            let (cancel, said_before) = (cancel.clone(), said_before.clone());
            thread::spawn(move || {
                said_before.store(true, Ordering::Relaxed);
                cancel.request();
            })
        };
        let is_cancelled = cancel.is_requested() || cancel.first_pause(&inbox, JOB);
        if is_cancelled {
            assert!(said_before.load(Ordering::Relaxed));
        }
        handle.join().unwrap();
        let posted = inbox.has_cancelled();
        assert!(is_cancelled || posted, "the request is lost");
        if posted {
            assert_eq!(inbox.take_cancelled(), [JOB]);
        }
    });
}

/// Two handles' requests are one, and a job that ends meanwhile keeps nothing of the scheduler.
#[test]
fn requests_beside_the_end_of_the_job() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::new().unwrap());
        let cancel = Arc::new(Cancel::new());
        let handle = {
            let cancel = cancel.clone();
            thread::spawn(move || cancel.request())
        };
        let was_requested = cancel.first_pause(&inbox, JOB);
        cancel.end();
        cancel.request();
        handle.join().unwrap();
        let posted = if inbox.has_cancelled() {
            inbox.take_cancelled()
        } else {
            Vec::new()
        };
        assert!(posted.len() <= 1 && !(was_requested && posted.len() > 1));
        assert_eq!(Arc::strong_count(&inbox), 1);
    });
}
