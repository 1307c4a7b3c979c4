//! Promise: an error goes where errors go, whatever was refused: `?` carries it into a `Box<dyn Error + Send + Sync>`
//! and into an `io::Error`, and what it was given comes back. What an error gives as its source, it does not print
//! itself.

use std::error::Error;
use std::io;
use std::rc::Rc;
use std::thread;

use asyncjob::pool::{PoolConfig, init_thread};
use asyncjob::scheduler::Scheduler;
use asyncjob::{
    Interrupted, JobBuilder, PauseError, SpawnErrorKind, StartErrorKind, Step, WaitCtx, current_job, pause_job,
    start_job,
};
use asyncjob_testing::Watchdog;

type Anything = Box<dyn Error + Send + Sync>;

/// A thread whose pool is full, for the life of `job`.
fn full_pool() -> asyncjob::Job<Result<(), PauseError>> {
    init_thread(PoolConfig::new().limit(1)).unwrap();
    match start_job(&WaitCtx::new(), pause_job).unwrap() {
        Step::Paused(job) => job,
        Step::Finished(_) => panic!("it pauses"),
    }
}

/// The closure holds an `Rc`, so it is not `Send`; the error is.
#[test]
fn a_refused_start_composes() {
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
    assert_eq!(Rc::strong_count(&value), 1, "the closure went with the error");
}

#[test]
fn a_refused_spawn_composes() {
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

/// Builder and closure come back from each way to start a job, and the same call succeeds when there is room.
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

/// An error that is sent to another thread leaves its closure behind.
#[test]
fn an_error_may_travel_without_its_closure() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::builder().max_jobs(0).build().unwrap();
    let value = Rc::new(7);
    let inside = Rc::clone(&value);
    let refused = scheduler.spawn(move || *inside).unwrap_err();
    thread::spawn(move || drop(refused)).join().unwrap();
    assert_eq!(Rc::strong_count(&value), 2, "another thread may not drop an Rc");
    drop(scheduler.spawn(|| ()).unwrap_err());
    assert_eq!(Rc::strong_count(&value), 1, "its own thread does, at its next refusal");
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

/// The source of an error is printed by the code that walks the chain, and so not by the error.
#[test]
fn no_error_prints_its_source() {
    let system = || io::Error::other("the system's words");
    let scheduler = Scheduler::new().unwrap();
    let errors: [Anything; 4] = [
        Box::new(StartErrorKind::NoStack(system())),
        Box::new(asyncjob::waiting::AwaitError::NoWaker(system())),
        Box::new(asyncjob::job_future::JobError::NoStack(system())),
        Box::new(asyncjob::scheduler::JoinError::Scheduler(system())),
    ];
    drop(scheduler);
    for error in errors {
        assert_eq!(error.source().unwrap().to_string(), "the system's words", "{error:?}");
        assert!(!error.to_string().contains("the system's words"), "{error}");
    }
}

/// Both reasons to cut a wait short, as an `io::Error`: a timeout has the kind that callers look for, and a cancel
/// never has the kind that std retries.
#[test]
fn an_interrupted_wait_as_an_io_error() {
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
