//! Promise: `?` carries every error into a `Box<dyn Error + Send + Sync>` and into an `io::Error`, even if the refused
//! closure is not `Send`. The closure comes back by a method. No error prints what its source prints.

use std::error::Error;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::thread;

use asyncjob::pool::{PoolConfig, init_thread};
use asyncjob::scheduler::{Scheduler, Workers};
use asyncjob::{
    Interrupted, JobBuilder, PauseError, SpawnErrorKind, StartErrorKind, Step, WaitCtx, current_job, pause_job,
    start_job,
};
use asyncjob_testing::Watchdog;

type Anything = Box<dyn Error + Send + Sync>;

/// Fills the pool of this thread for as long as the returned job lives.
fn full_pool() -> asyncjob::Job<Result<(), PauseError>> {
    init_thread(PoolConfig::new().limit(1)).unwrap();
    match start_job(&WaitCtx::new(), pause_job).unwrap() {
        Step::Paused(job) => job,
        Step::Finished(_) => panic!("the job pauses"),
    }
}

/// The closure holds an `Rc`, so it is not `Send`. The error is `Send`.
#[test]
fn a_refused_start_is_an_error_that_composes() {
    fn start(value: &Rc<u32>) -> Result<u32, Anything> {
        let inside = Rc::clone(value);
        match start_job(&WaitCtx::new(), move || *inside)? {
            Step::Finished(value) => Ok(value),
            Step::Paused(_) => unreachable!(),
        }
    }
    let _job = full_pool();
    let value = Rc::new(7);
    let error = start(&value).unwrap_err();
    assert!(
        error.to_string().contains("all 1 jobs of this thread's pool"),
        "{error}"
    );
    drop(error);
    assert_eq!(Rc::strong_count(&value), 1, "the closure was dropped with the error");
}

#[test]
fn a_refused_spawn_is_an_error_that_composes() {
    fn spawn(scheduler: &Scheduler, value: &Rc<u32>) -> io::Result<()> {
        let inside = Rc::clone(value);
        scheduler.spawn(move || *inside)?.detach();
        Ok(())
    }
    let scheduler = Scheduler::builder().max_jobs(0).build().unwrap();
    let value = Rc::new(7);
    let error = spawn(&scheduler, &value).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    let kind = error.get_ref().unwrap().downcast_ref::<SpawnErrorKind>();
    assert_eq!(kind, Some(&SpawnErrorKind::Full { max_jobs: 0 }));
    assert_eq!(Rc::strong_count(&value), 1);
}

/// The builder and the closure come back from each way to start a job. The same call succeeds when there is capacity.
#[test]
fn nothing_is_lost_on_an_error() {
    let _watchdog = Watchdog::new();
    let named = || JobBuilder::new().name("signer");
    let name = || current_job().unwrap().name().map(str::to_owned);
    let expected = Some("signer".to_owned());

    let job = full_pool();
    let refused = named().start(name).unwrap_err();
    assert!(matches!(refused.kind(), StartErrorKind::NoJobs { limit: 1 }));
    drop(job);
    let (builder, closure) = refused.into_parts();
    let Step::Finished(seen) = builder.start(closure).unwrap() else {
        panic!()
    };
    assert_eq!(seen, expected);

    let scheduler = Scheduler::builder().max_jobs(1).build().unwrap();
    let first = scheduler.spawn(|| ()).unwrap();
    let here = named().spawn_on(&scheduler, name).unwrap_err();
    let elsewhere = named().submit_to(&scheduler.handle(), name).unwrap_err();
    scheduler.run_until(first).unwrap();
    let (builder, closure) = here.into_parts();
    let job = builder.spawn_on(&scheduler, closure).unwrap();
    assert_eq!(scheduler.run_until(job).unwrap(), expected);
    let (builder, closure) = elsewhere.into_parts();
    let job = builder.submit_to(&scheduler.handle(), closure).unwrap();
    assert_eq!(scheduler.run_until(job).unwrap(), expected);
}

/// An error that is sent to another thread does not drop its closure there.
#[test]
fn an_error_may_move_to_another_thread_without_its_closure() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::builder().max_jobs(0).build().unwrap();
    let value = Rc::new(7);
    let inside = Rc::clone(&value);
    let refused = scheduler.spawn(move || *inside).unwrap_err();
    thread::spawn(move || drop(refused)).join().unwrap();
    assert_eq!(Rc::strong_count(&value), 2, "another thread may not drop an Rc");
    drop(scheduler.spawn(|| ()).unwrap_err());
    assert_eq!(
        Rc::strong_count(&value),
        1,
        "its own thread drops it at the next refusal"
    );
}

#[test]
fn a_panic_is_an_error_that_composes() {
    let _watchdog = Watchdog::new();
    fn join(scheduler: &Scheduler) -> Result<(), Anything> {
        let job = scheduler.spawn(|| -> () { std::panic::resume_unwind(Box::new("broken".to_owned())) })?;
        Ok(scheduler.run_until(job)?)
    }
    let error = join(&Scheduler::new().unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "the job panicked: broken");
}

/// The code that walks the chain of sources prints each source. So no error prints its own source.
#[test]
fn no_error_prints_its_source() {
    let system = || io::Error::other("the text of the system");
    let scheduler = Scheduler::new().unwrap();
    let errors: [Anything; 4] = [
        Box::new(StartErrorKind::NoStack(system())),
        Box::new(asyncjob::waiting::AwaitError::NoWaker(system())),
        Box::new(asyncjob::job_future::JobError::NoStack(system())),
        Box::new(asyncjob::scheduler::JoinError::Scheduler(system())),
    ];
    drop(scheduler);
    for error in errors {
        assert_eq!(
            error.source().unwrap().to_string(),
            "the text of the system",
            "{error:?}"
        );
        assert!(!error.to_string().contains("the text of the system"), "{error}");
    }
}

/// An interrupted wait as an `io::Error`: a timeout has the kind that callers look for, and a cancel never has the kind
/// that std retries.
#[test]
fn an_interrupted_wait_is_an_io_error_of_a_fitting_kind() {
    assert_eq!(io::Error::from(Interrupted::TimedOut).kind(), io::ErrorKind::TimedOut);
    let cancelled = [
        io::Error::from(Interrupted::Cancelled),
        io::Error::from(PauseError::Cancelled),
    ];
    for error in cancelled {
        assert_ne!(error.kind(), io::ErrorKind::Interrupted);
        assert!(error.get_ref().unwrap().is::<asyncjob::Cancelled>());
    }
}

#[test]
fn a_closure_that_a_handle_refused_comes_back_on_any_thread() {
    let workers = Workers::builder().threads(1).max_jobs(0).build().unwrap();
    let refused = workers.handle().spawn(|| 7).unwrap_err();
    let closure = thread::spawn(move || refused.into_closure()).join().unwrap();
    assert_eq!(closure(), 7);
    let refused = JobBuilder::new().name("signer").submit_to(&workers.handle(), || 8);
    let (builder, closure) = thread::spawn(move || refused.unwrap_err().into_parts()).join().unwrap();
    assert!(format!("{builder:?}").contains("signer"));
    assert_eq!(closure(), 8);
}

/// A `select!` in a loop does this by mistake. The text leads to the page that says how not to.
#[test]
fn a_poll_after_the_end_panics_with_the_page_that_helps() {
    let _watchdog = Watchdog::new();
    fn text_of_a_second_poll<F: Future + Unpin>(mut future: F) -> String {
        let mut task = Context::from_waker(Waker::noop());
        while Pin::new(&mut future).poll(&mut task).is_pending() {
            thread::yield_now();
        }
        let again = catch_unwind(AssertUnwindSafe(|| drop(Pin::new(&mut future).poll(&mut task))));
        *again.unwrap_err().downcast::<String>().unwrap()
    }
    let scheduler = Scheduler::new().unwrap();
    let job = scheduler.spawn(|| 1).unwrap();
    scheduler.run().unwrap();
    let text = text_of_a_second_poll(job);
    assert!(
        text.starts_with("a JoinHandle was used after it had given its result"),
        "{text}"
    );
    assert!(text.ends_with("/docs/guide/tokio.md]"), "{text}");
}
