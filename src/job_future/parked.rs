//! The futures of a thread as one driver, for `insight`.
//!
//! ```text
//!   dump(), any thread               the thread of the futures
//!     for each forwarder:
//!       leaves its request there
//!       wakes the task  --------->   the runtime polls the future, which takes the request and answers for its job
//! ```
//!
//! The wake is not one of the job's: the forwarder's `CALLED` stays as it is, so the job is not resumed for it.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use slab::Slab;

use super::forwarder::ForwardingWaker;
use crate::insight::{Asked, DriverKind, Registration, Request};
use crate::job::{Job, JobState};
use crate::sync::contain;
use crate::sys::clock_tick;

/// The requests that a future has not answered yet. `None` when the job has ended: an engine may keep the forwarder for
/// longer, and nothing would answer there.
pub(super) struct Requests(Mutex<Option<Vec<Request>>>);

impl Default for Requests {
    fn default() -> Self {
        Requests(Mutex::new(Some(Vec::new())))
    }
}

impl Requests {
    pub(super) fn put(&self, request: Request) {
        if let Some(list) = &mut *self.0.lock() {
            list.push(request);
        }
    }

    pub(super) fn take(&self) -> Vec<Request> {
        self.0.lock().as_mut().map_or_else(Vec::new, std::mem::take)
    }

    /// The forwarder is that of another job.
    pub(super) fn open(&self) {
        let requests = self.0.lock().replace(Vec::new());
        drop(requests);
    }

    fn close(&self) {
        let requests = self.0.lock().take();
        drop(requests);
    }
}

/// The futures of one thread whose jobs have started.
type Forwarders = Arc<Mutex<Slab<Arc<ForwardingWaker>>>>;

thread_local! {
    static FUTURES: RefCell<Option<(Forwarders, Registration)>> = const { RefCell::new(None) };
}

/// The place of a future among those of its thread.
#[derive(Default)]
pub(super) struct Parked {
    place: Option<(Forwarders, usize)>,
    /// The kernel's clock when the job paused last.
    since: u64,
}

impl Parked {
    /// The future is polled while its job is paused.
    pub(super) fn answer<T>(&mut self, forwarder: &ForwardingWaker, job: &mut Job<T>) {
        for request in forwarder.take_asked() {
            let in_state = Duration::from_nanos(clock_tick().saturating_sub(self.since));
            let info = job.info(JobState::Paused, in_state);
            let frames = job.frames();
            let _ = request.send(vec![Asked { info, frames }]);
        }
    }

    /// The job has paused.
    pub(super) fn paused(&mut self) {
        self.since = clock_tick();
    }

    /// The job has ended. The requests that it has not answered are dropped.
    pub(super) fn end(&mut self) {
        let Some((forwarders, key)) = self.place.take() else {
            return;
        };
        let forwarder = forwarders.lock().try_remove(key);
        if let Some(forwarder) = forwarder {
            forwarder.asked.close();
        }
    }

    /// The job is about to start: takes a place. A thread that exits has no driver any more.
    pub(super) fn start(&mut self, forwarder: &Arc<ForwardingWaker>) {
        let place = FUTURES.try_with(|futures| {
            let mut futures = futures.borrow_mut();
            let (forwarders, _) = futures.get_or_insert_with(register);
            let key = forwarders.lock().insert(Arc::clone(forwarder));
            (Arc::clone(forwarders), key)
        });
        self.end();
        self.place = place.ok();
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.end();
    }
}

/// Registers the futures of this thread as a driver.
fn register() -> (Forwarders, Registration) {
    let forwarders = Forwarders::default();
    let asked = Arc::clone(&forwarders);
    let ask = move |request: Request| {
        let futures: Vec<_> = asked
            .lock()
            .iter()
            .map(|(_, forwarder)| Arc::clone(forwarder))
            .collect();
        for forwarder in futures {
            forwarder.ask(request.clone());
            contain(|| forwarder.wake_task()); // the waker is code of the user
        }
    };
    (forwarders, Registration::new(DriverKind::Futures, ask, None))
}

#[cfg(test)]
mod tests {
    use std::cell::OnceCell;
    use std::future::Future;
    use std::pin::pin;
    use std::rc::Rc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc::channel;
    use std::task::{Context, Poll, Wake, Waker};

    use super::*;
    use crate::job::pause_job;
    use crate::job_future::JobFuture;
    use crate::wait_ctx::Status;

    #[derive(Default)]
    struct Task(AtomicU32);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// There is no task to wake while the job runs for the first time.
    #[test]
    fn a_request_that_comes_before_the_first_pause_is_answered() {
        let waker = Waker::from(Arc::new(Task::default()));
        let ended = pin!(JobFuture::new(|| ())).poll(&mut Context::from_waker(&waker));
        assert!(ended.is_ready()); // leaves its forwarder behind
        let forwarder = Rc::<OnceCell<Arc<ForwardingWaker>>>::default();
        let (request, answers) = channel();
        let job = JobFuture::new({
            let forwarder = Rc::clone(&forwarder);
            move || {
                let forwarder = forwarder.get().expect("it is set below");
                forwarder.ask(request.clone());
                forwarder.wake_task();
                pause_job().is_ok()
            }
        });
        assert!(forwarder.set(Arc::clone(&job.bound.forwarder)).is_ok());
        job.wait_ctx().set_status(Status::Ok);
        let (mut job, task) = (pin!(job), Arc::new(Task::default()));
        let waker = Waker::from(Arc::clone(&task));
        assert!(job.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        assert_eq!(task.0.load(Ordering::Relaxed), 1, "for the request");
        assert!(answers.try_recv().is_err());
        assert!(job.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let answer = answers.try_recv().expect("the poll answers");
        assert_eq!(answer.len(), 1);
        job.wait_ctx().callback().expect("the future has set it").wake();
        assert!(matches!(
            job.as_mut().poll(&mut Context::from_waker(&waker)),
            Poll::Ready(Ok(true))
        ));
    }
}
