//! With the feature `tracing`, what a job logs is in the spans of that job, and what other tasks log is not.

use std::cell::RefCell;
use std::fmt::Write;
use std::future::{Future, poll_fn};
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use asyncjob::hooks::Spans;
use asyncjob::scheduler::{Scheduler, Workers};
use asyncjob::time::sleep;
use asyncjob::waiting::await_future;
use asyncjob::{Job, JobBuilder, Step, pause_job};
use asyncjob_testing::Watchdog;
use asyncjob_tokio::spawn_local;
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tracing::dispatcher::with_default;
use tracing::field::{Field, Visit};
use tracing::instrument::Instrument;
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing::{Dispatch, Event, Subscriber, info_span};
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
        let job = Some("job");
        assert_eq!(*seen.borrow(), [inner, first, first, job, inner, second, second, job]);
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
        assert_eq!(seen, (Some("job"), Some("signature"), Some("job")));
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
        assert_eq!(job.instrument(request).await.unwrap(), Some("job"));
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

/// Counts its events, but for those of the waits of jobs.
#[derive(Clone, Default)]
struct Events(Arc<AtomicUsize>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> layer::Layer<S> for Events {
    fn on_event(&self, event: &Event<'_>, _: layer::Context<'_, S>) {
        let is_a_wait = event.metadata().target() == "asyncjob";
        self.0.fetch_add(usize::from(!is_a_wait), Ordering::Relaxed);
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
                assert_eq!(current(), Some("job"));
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
    let span = |has_global: bool| has_global.then_some("job");
    assert_eq!(finished(job.resume()), (Some("within"), span(has_global)));
    assert_eq!(own.take(), 1);
    if case == "later" {
        set_global();
        tracing::info!("to the global one");
        assert_eq!(global.take(), 1);
    }
    let ended = (has_global.then_some("plain"), span(case == "before"));
    assert_eq!(finished(plain.resume()), ended);
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

/// What happens in spans, as text: the spans that begin and end, with the span around them, and events.
#[derive(Clone, Default)]
struct Story(Arc<Mutex<Vec<String>>>);

impl Story {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    fn say(&self, text: String) {
        self.0.lock().unwrap().push(text);
    }

    fn subscriber(&self) -> impl Subscriber + Send + Sync + use<> {
        Registry::default().with(self.clone())
    }
}

/// The fields as text, without the times.
#[derive(Default)]
struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "message" => write!(self.0, " {value:?}").unwrap(),
            "id" | "ready_for" | "paused_for" => write!(self.0, " {}", field.name()).unwrap(),
            name => write!(self.0, " {name}={value:?}").unwrap(),
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> layer::Layer<S> for Story {
    fn on_new_span(&self, span: &Attributes<'_>, id: &Id, ctx: layer::Context<'_, S>) {
        let mut fields = Fields::default();
        span.record(&mut fields);
        let span = ctx.span(id).unwrap();
        let parent = span.parent().map_or("nothing", |parent| parent.name());
        self.say(format!("begins: {}{} in {parent}", span.name(), fields.0));
    }

    fn on_event(&self, event: &Event<'_>, ctx: layer::Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let spans = ctx.event_scope(event).into_iter().flatten();
        let spans: Vec<_> = spans.map(|span| span.name()).collect();
        self.say(format!("{} in {}", fields.0.trim(), spans.join(" in ")));
    }

    fn on_close(&self, id: Id, ctx: layer::Context<'_, S>) {
        self.say(format!("ends: {}", ctx.span(&id).unwrap().name()));
    }
}

/// A job that is spawned under a subscriber goes on with it wherever it runs and is resumed: its span is in the span of
/// its spawner, and its waits are events in its span.
#[test]
fn a_spawned_job_has_a_span_with_its_waits_and_the_subscriber_of_its_spawner() {
    let _watchdog = Watchdog::new();
    let (own, others) = (Story::default(), Story::default());
    let wait = || {
        tracing::info!("started");
        let _inner = info_span!("inner").entered();
        sleep(Duration::from_millis(1)).unwrap();
        tracing::info!("slept");
    };
    let expected = [
        "begins: request in nothing",
        "begins: job id name=\"waits\" in request",
        "started in job in request",
        "begins: inner in job",
        "paused waits_for=\"a deadline in TIME\" in inner in job in request",
        "resumed woken_by=\"a deadline\" ready_for paused_for in inner in job in request",
        "slept in inner in job in request",
        "ends: inner",
        "ends: job",
        "ends: request",
    ];
    let without_times = |story: Vec<String>| -> Vec<String> {
        let told = |line: String| match line.split_once("a deadline in ") {
            Some((before, after)) => {
                let (_, after) = after.split_once("\" in ").unwrap();
                format!("{before}a deadline in TIME\" in {after}")
            }
            None => line,
        };
        story.into_iter().map(told).collect()
    };
    let named = || JobBuilder::new().name("waits");

    let scheduler = Scheduler::new().unwrap();
    tracing::subscriber::with_default(own.subscriber(), || {
        let _request = info_span!("request").entered();
        named().spawn_on(&scheduler, wait).unwrap().detach();
    });
    for _ in 0..1000 {
        tracing::subscriber::with_default(others.subscriber(), || {
            let _turn = info_span!("turn").entered();
            scheduler.turn(Some(Duration::from_millis(100))).unwrap();
            tracing::info!("between two turns");
        });
        if scheduler.jobs().is_empty() && scheduler.stats().ended == 1 {
            break;
        }
    }
    let fit = |line: &String| ["begins: turn in nothing", "between two turns in turn", "ends: turn"].contains(&&**line);
    let seen = others.take();
    assert!(seen.len() >= 6 && seen.iter().all(fit), "{seen:?}");
    assert_eq!(without_times(own.take()), expected);

    // Hooks that the builder has, too, make no second span. A worker is another thread.
    let workers = Workers::builder().threads(1).build().unwrap();
    let job = tracing::subscriber::with_default(own.subscriber(), || {
        let _request = info_span!("request").entered();
        named()
            .hooks(Spans::default())
            .submit_to(&workers.handle(), wait)
            .unwrap()
    });
    job.join().unwrap();
    drop(workers);
    let mut expected = expected.map(str::to_owned);
    expected[5] = expected[5].replace("in inner ", ""); // which the inner hooks enter again
    assert_eq!(without_times(own.take()), expected);
}

/// The span of a future's job is in the span of the task that polls it first. Below the level TRACE it has no events.
#[test]
fn the_span_of_a_future_is_in_that_of_its_task() {
    let _watchdog = Watchdog::new();
    let story = Story::default();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for level in [LevelFilter::TRACE, LevelFilter::INFO] {
        let subscriber = story.subscriber().with(level);
        tracing::subscriber::with_default(subscriber, || {
            let job = asyncjob_tokio::job(|| await_future(tokio::task::yield_now()).unwrap());
            let task = job.instrument(info_span!("request"));
            LocalSet::new().block_on(&runtime, task).unwrap();
        });
        let waits = [
            "paused waits_for=\"a callback\" in job in request",
            "resumed woken_by=\"a callback\" ready_for paused_for in job in request",
        ];
        let begins = ["begins: request in nothing", "begins: job id in request"];
        let waits = if level == LevelFilter::TRACE { &waits[..] } else { &[] };
        assert_eq!(
            story.take(),
            [&begins, waits, &["ends: job", "ends: request"]].concat(),
            "{level}"
        );
    }
}
