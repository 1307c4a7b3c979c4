//! With the feature `tracing`, what a job logs is in the spans of that job, and what other tasks log is not.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use asyncjob::hooks::Spans;
use asyncjob::waiting::await_future;
use asyncjob::{Job, JobBuilder, Step, pause_job};
use asyncjob_testing::Watchdog;
use asyncjob_tokio::spawn_local;
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tracing::dispatcher::with_default;
use tracing::instrument::Instrument;
use tracing::{Dispatch, Subscriber, info_span};
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

/// Counts its events.
#[derive(Clone, Default)]
struct Events(Arc<AtomicUsize>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> layer::Layer<S> for Events {
    fn on_event(&self, _: &tracing::Event<'_>, _: layer::Context<'_, S>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Events {
    fn subscriber(&self) -> impl Subscriber + Send + Sync + use<> {
        Registry::default().with(self.clone())
    }

    /// The number of events since the last call.
    fn take(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// Two jobs set a default of their own, within spans of the default around them, and pause in turns. Each goes on with
/// its own, and no other code ever sees one of these. The guard of one of them is dropped while the other is paused.
#[test]
fn a_default_that_a_job_has_set_travels_with_it() {
    let outer = Events::default();
    let _watchdog = Watchdog::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let test = async {
        let own = [Events::default(), Events::default()];
        let turns = Rc::new([Notify::new(), Notify::new()]);
        let jobs = [0, 1].map(|at| {
            let (events, turns) = (own[at].clone(), Rc::clone(&turns));
            spawn_local(move || {
                let around = info_span!("around").entered();
                let guard = tracing::subscriber::set_default(events.subscriber());
                let span = info_span!("within").entered();
                for _ in 0..2 {
                    tracing::info!("to the own one");
                    await_future(turns[at].notified()).unwrap();
                    assert_eq!(current(), Some("within"));
                }
                tracing::info!("to the own one");
                drop((span, guard));
                assert_eq!(current(), Some("around"));
                tracing::info!("to the outer one");
                await_future(tokio::task::yield_now()).unwrap();
                assert_eq!(current(), Some("around"));
                tracing::info!("to the outer one");
                drop(around);
                assert_eq!(current(), None);
            })
        });
        tokio::task::yield_now().await;
        for turn in [0, 1, 1, 0] {
            assert_eq!(current(), None);
            tracing::info!("to the outer one");
            let before = own.each_ref().map(|own| own.0.load(Ordering::Relaxed));
            turns[turn].notify_one();
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            let mut expected = before;
            expected[turn] += 1;
            assert_eq!(own.each_ref().map(|own| own.0.load(Ordering::Relaxed)), expected);
        }
        for job in jobs {
            job.await.unwrap().unwrap();
        }
        assert_eq!(own.each_ref().map(Events::take), [3, 3]);
        tracing::info!("to the outer one");
    };
    tracing::subscriber::with_default(outer.subscriber(), || LocalSet::new().block_on(&runtime, test));
    assert_eq!(outer.take(), 4 + 1 + 4);
    tracing::info!("to no one");
    assert_eq!(outer.take(), 0);
}

/// As above, where the code around the jobs has set no default: with and without a global one, each in its own process.
#[test]
fn a_default_that_a_job_has_set_is_not_that_of_the_thread() {
    for global in ["none", "before", "later", "inside"] {
        let test = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture", "with_a_global_default"])
            .env("GLOBAL_DEFAULT", global)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&test.stdout);
        assert!(
            text.contains("1 passed"),
            "{global}: {text}\n{}",
            String::from_utf8_lossy(&test.stderr)
        );
    }
}

#[test]
#[ignore = "run by a_default_that_a_job_has_set_is_not_that_of_the_thread"]
fn with_a_global_default() {
    let case = std::env::var("GLOBAL_DEFAULT").unwrap();
    let (global, own) = (Events::default(), Events::default());
    let set_global = || tracing::subscriber::set_global_default(global.subscriber()).unwrap();
    if case == "before" {
        set_global();
    }
    // A job without a default of its own, which is in no span of anything yet.
    let inside = (case == "inside").then(|| global.clone());
    let plain = paused(JobBuilder::new().hooks(Spans::default()).start(|| {
        if let Some(global) = inside {
            tracing::subscriber::set_global_default(global.subscriber()).unwrap();
        }
        let span = info_span!("plain").entered();
        pause_job().unwrap();
        tracing::info!("to the global one");
        let seen = current();
        drop(span);
        (seen, current())
    }));
    let events = own.clone();
    let job = paused(JobBuilder::new().hooks(Spans::default()).start(move || {
        let guard = tracing::subscriber::set_default(events.subscriber());
        let span = info_span!("within").entered();
        pause_job().unwrap();
        tracing::info!("to the own one");
        let seen = current();
        drop((span, guard));
        (seen, current())
    }));
    assert_eq!(current(), None);
    tracing::info!("to the global one");
    assert_eq!(own.take(), 0);
    let has_global = case == "before" || case == "inside";
    assert_eq!(global.take(), usize::from(has_global));
    assert_eq!(finished(job.resume()), (Some("within"), None));
    assert_eq!(own.take(), 1);
    if case == "later" {
        set_global();
        tracing::info!("to the global one");
        assert_eq!(global.take(), 1);
    }
    assert_eq!(finished(plain.resume()), (has_global.then_some("plain"), None));
    assert_eq!(global.take(), usize::from(case != "none"));
    tracing::info!("to the global one");
    assert_eq!((own.take(), global.take()), (0, usize::from(case != "none")));
}

fn paused<T>(step: Result<Step<T>, impl Sized>) -> Job<T> {
    match step {
        Ok(Step::Paused(job)) => job,
        _ => panic!("the job pauses"),
    }
}

fn finished<T>(step: Step<T>) -> T {
    match step {
        Step::Finished(value) => value,
        Step::Paused(_) => panic!("the job ends"),
    }
}

/// The default around a job travels with it, too: the job goes on with it wherever it is resumed.
#[test]
fn a_job_goes_on_with_the_default_with_which_it_has_paused() {
    let resumers = [Events::default(), Events::default()];
    let subscribers = resumers.each_ref().map(|events| Dispatch::new(events.subscriber()));
    let started = with_default(&subscribers[0], || {
        JobBuilder::new().hooks(Spans::default()).start(|| {
            let span = info_span!("of the first one").entered();
            for _ in 0..2 {
                pause_job().unwrap();
                tracing::info!("to the first one");
                assert_eq!(current(), Some("of the first one"));
            }
            drop(span);
        })
    });
    let job = paused(started);
    let job = with_default(&subscribers[1], || {
        let around = info_span!("of the second one").entered();
        let job = paused(Ok::<_, ()>(job.resume()));
        assert_eq!(current(), Some("of the second one"));
        drop(around);
        assert_eq!(current(), None);
        job
    });
    assert_eq!(resumers.each_ref().map(Events::take), [1, 0]);
    finished(job.resume());
    assert_eq!(resumers.each_ref().map(Events::take), [1, 0]);
    tracing::info!("to no one");
    with_default(&subscribers[0], || assert_eq!(current(), None));
    assert_eq!(resumers.each_ref().map(Events::take), [0, 0]);
}

/// A quarantined job leaves the thread with the default that it had.
#[test]
fn a_job_that_is_given_up_keeps_its_default() {
    let own = Events::default();
    let events = own.clone();
    let job = paused(JobBuilder::new().hooks(Spans::default()).start(move || {
        let _guard = tracing::subscriber::set_default(events.subscriber());
        pause_job()
    }));
    job.quarantine();
    tracing::info!("to no one");
    assert_eq!(own.take(), 0);
}
