//! Promise: a job can spawn on its scheduler without owning it. A scheduler that is dropped drops its jobs and
//! everything that they own.

mod by_hand;

use std::rc::Rc;
use std::time::Duration;

use asyncjob::scheduler::{self, JoinHandle, LocalHandle, Scheduler};
use asyncjob::time::yield_now;
use asyncjob::{JobBuilder, SpawnErrorKind, Status, WaitCtx, current_job, pause_job, start_job};
use asyncjob_testing::Watchdog;
use by_hand::Drops;

fn wait_for_ever() {
    current_job().unwrap().wait_ctx().set_status(Status::Ok);
    while pause_job().is_ok() {}
}

/// A server spawns a job for each connection, and its scheduler is dropped. Every value of every job is dropped.
#[test]
fn a_dropped_scheduler_leaks_nothing() {
    let _watchdog = Watchdog::new();
    let drops = Drops::default();
    let scheduler = Scheduler::new().unwrap();
    let values = drops.clone();
    let server = scheduler.spawn(move || {
        let _server = values.counted();
        for _ in 0..10 {
            let connection = values.counted();
            let serve = move || {
                let _connection = connection;
                wait_for_ever();
            };
            scheduler::spawn(serve).unwrap().detach();
        }
        wait_for_ever();
    });
    while scheduler.live_jobs() < 11 {
        scheduler.turn(Some(Duration::ZERO)).unwrap();
    }
    assert_eq!(drops.count(), 0);
    drop(scheduler);
    assert_eq!(drops.count(), 11);
    drop(server);
}

/// A spawn through the handle of a dropped scheduler is refused, and the closure comes back.
#[test]
fn a_local_handle_outlives_its_scheduler() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let handle = LocalHandle::from(&scheduler);
    let job = handle.spawn(|| 1).unwrap();
    assert_eq!((handle.live_jobs(), scheduler.run_until(job).unwrap()), (1, 1));
    drop(scheduler);
    let refused = handle.spawn(|| 2).unwrap_err();
    assert_eq!(refused.kind(), &SpawnErrorKind::ShuttingDown);
    assert_eq!((handle.live_jobs(), refused.into_closure()()), (0, 2));
}

/// Outside the jobs of a scheduler there is no current scheduler. A job that is driven by hand has none either.
#[test]
fn outside_a_schedulers_jobs_spawn_is_refused() {
    let _watchdog = Watchdog::new();
    let refused = scheduler::spawn(|| 3).unwrap_err();
    assert_eq!(refused.kind(), &SpawnErrorKind::NoScheduler);
    assert_eq!(refused.into_closure()(), 3);
    let by_hand = start_job(&WaitCtx::new(), || scheduler::current().is_none());
    assert!(by_hand::finished(by_hand.unwrap()));
}

/// A job runs a scheduler of its own. Each job spawns on its own scheduler, also after the inner scheduler has run.
#[test]
fn each_job_spawns_on_its_own_scheduler() {
    let _watchdog = Watchdog::new();
    let outer = Scheduler::new().unwrap();
    let job = outer.spawn(|| {
        let inner = Scheduler::builder().max_jobs(3).build().unwrap();
        let nested = inner.spawn(|| {
            scheduler::spawn(|| ()).unwrap().detach();
            yield_now().unwrap();
            scheduler::current().unwrap().live_jobs()
        });
        let seen = inner.run_until(nested.unwrap()).unwrap();
        (seen, scheduler::current().unwrap().live_jobs())
    });
    assert_eq!(outer.run_until(job.unwrap()).unwrap(), (1, 1));
}

/// The closure and the value of a job that is spawned inside a job need not be `Send`.
#[test]
fn a_job_spawned_inside_a_job_need_not_be_send() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let job = scheduler.spawn(|| {
        let shared = Rc::new(20);
        let inside = Rc::clone(&shared);
        let part: JoinHandle<Rc<i32>> = JobBuilder::new()
            .name("part")
            .spawn_on(scheduler::current().unwrap(), move || inside)
            .unwrap();
        *part.join().unwrap() + *shared + 2
    });
    assert_eq!(scheduler.run_until(job.unwrap()).unwrap(), 42);
}

/// A job of another scheduler on the same thread spawns a job while a host sleeps on the scheduler's fd. The fd becomes
/// readable.
#[test]
fn a_spawn_through_a_local_handle_wakes_the_host() {
    let _watchdog = Watchdog::new();
    let sleeping = Scheduler::new().unwrap();
    sleeping.turn(Some(Duration::ZERO)).unwrap();
    let handle = LocalHandle::from(&sleeping);
    let other = Scheduler::new().unwrap();
    let job = other.spawn(move || handle.spawn(|| ()).unwrap().detach());
    other.run_until(job.unwrap()).unwrap();
    let turn = sleeping.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!(turn.resumed, 1);
}
