//! With the feature `tracing`, what a job logs is in the spans of that job, and what other tasks log is not.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::rc::Rc;

use asyncjob::waiting::await_future;
use asyncjob_testing::Watchdog;
use asyncjob_tokio::spawn_local;
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tracing::instrument::Instrument;
use tracing::{Subscriber, info_span};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Registry, layer};

/// A layer that does nothing. The registry below it knows the spans.
struct Nothing;

impl<S: Subscriber + for<'a> LookupSpan<'a>> layer::Layer<S> for Nothing {}

/// The name of the innermost span that is entered, if there is one.
fn current() -> Option<&'static str> {
    tracing::Span::current().metadata().map(|metadata| metadata.name())
}

fn with_registry(test: impl Future<Output = ()>) {
    let _watchdog = Watchdog::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    tracing::subscriber::with_default(Registry::default().with(Nothing), || {
        LocalSet::new().block_on(&runtime, test);
        assert_eq!(current(), None, "nothing is left entered");
    });
}

#[test]
fn the_spans_of_interleaved_jobs_do_not_mix() {
    with_registry(async {
        let go_on = Rc::new([Notify::new(), Notify::new()]);
        let seen = Rc::new(RefCell::new(Vec::new()));
        let jobs = [0, 1].map(|at| {
            let (go_on, seen) = (Rc::clone(&go_on), Rc::clone(&seen));
            spawn_local(move || {
                let span = if at == 0 {
                    info_span!("first")
                } else {
                    info_span!("second")
                };
                let outer = span.enter();
                let inner = info_span!("inner").entered();
                await_future(go_on[at].notified()).unwrap();
                seen.borrow_mut().push(current());
                drop(inner);
                seen.borrow_mut().push(current());
                await_future(tokio::task::yield_now()).unwrap();
                seen.borrow_mut().push(current());
                drop(outer);
                seen.borrow_mut().push(current());
            })
        });
        tokio::task::yield_now().await;
        assert_eq!(
            current(),
            None,
            "both jobs are paused within their spans, and this task is in no span"
        );
        for (at, job) in jobs.into_iter().enumerate() {
            go_on[at].notify_one(); // the first job first, though the second was the last to pause
            job.await.unwrap().unwrap();
            assert_eq!(current(), None);
        }
        let (first, second) = (Some("first"), Some("second"));
        let inner = Some("inner");
        assert_eq!(*seen.borrow(), [inner, first, first, None, inner, second, second, None]);
    });
}

#[test]
fn a_job_is_in_the_span_of_the_task_around_it() {
    with_registry(async {
        let request = info_span!("request");
        let job = asyncjob_tokio::job(|| {
            let before = current();
            await_future(tokio::task::yield_now()).unwrap();
            let span = info_span!("signature").entered();
            await_future(tokio::task::yield_now()).unwrap();
            let within = current();
            drop(span);
            (before, within, current())
        });
        let seen = job.instrument(request).await.unwrap();
        assert_eq!(seen, (Some("request"), Some("signature"), Some("request")));
    });
}

#[test]
fn a_job_may_enter_the_span_of_the_task_around_it() {
    with_registry(async {
        let request = info_span!("request");
        let again = request.clone();
        let job = asyncjob_tokio::job(move || {
            let span = again.enter();
            await_future(tokio::task::yield_now()).unwrap();
            drop(span);
            current()
        });
        assert_eq!(job.instrument(request).await.unwrap(), Some("request"));
    });
}

#[test]
fn a_job_that_pauses_leaves_the_spans_of_its_resumer_as_they_were() {
    with_registry(async {
        let job = asyncjob_tokio::job(|| {
            let _span = info_span!("signature").entered();
            await_future(tokio::task::yield_now()).unwrap();
        });
        let mut job = std::pin::pin!(job);
        let request = info_span!("request");
        let poll = poll_fn(|task| {
            let _outer = info_span!("connection").entered();
            let _inner = request.enter();
            let polled = job.as_mut().poll(task);
            assert_eq!(current(), Some("request"));
            polled
        });
        poll.await.unwrap();
    });
}
