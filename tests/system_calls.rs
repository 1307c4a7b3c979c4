//! Promise: the fast paths make no more system calls than this table says. strace counts them. (S73 counts those of
//! OpenSSL.)
//!
//! | operation | system calls |
//! |---|---|
//! | start, pause, resume and end of a job on a cached stack | none |
//! | the end of a job in a crowd, and its start if another crowd has just ended | none |
//! | a callback to a busy scheduler, from any thread | none; where jobs wait for fds, one `epoll_wait` for a batch |
//! | a sleep | one wait that ends at its time, where others do nothing |
//! | a wait on an fd that stays registered | no `epoll_ctl`; one `epoll_wait` for all jobs that are ready together |
//!
//! Each workload is a test of this file. It runs alone under strace, twice, the second time with 2,000 more rounds. The
//! difference of the counts is what those rounds cost. The calls of the process and of the test harness cancel out.

use std::collections::BTreeMap;
use std::env;
use std::io::{Read, Write, pipe};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use asyncjob::scheduler::Scheduler;
use asyncjob::time::sleep;
use asyncjob::{Status, Step, WaitCtx, WaitKey, current_job, pause_job, start_job};
use asyncjob_testing::Watchdog;
use asyncjob_testing::tools::{STRACE, missing};

const ROUNDS: &str = "ASYNCJOB_ROUNDS";
const FEW: usize = 1000;
const MORE: usize = 2000;

/// The number of calls of a kind that may come by chance: to grow the heap, at a tick of the clock.
const CHANCE: usize = 20;

fn rounds() -> usize {
    env::var(ROUNDS)
        .expect("run by the test of the same name")
        .parse()
        .unwrap()
}

/// The number of system calls by name, of one run of a workload.
fn trace(workload: &str, rounds: usize) -> BTreeMap<String, usize> {
    let counts = env::temp_dir().join(format!("asyncjob-{workload}-{rounds}-{}", std::process::id()));
    let run = Command::new("strace")
        .args(["-f", "-c", "-o"])
        .arg(&counts)
        .arg(env::current_exe().unwrap())
        .args(["--exact", "--ignored", workload])
        .env(ROUNDS, rounds.to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let table = std::fs::read_to_string(&counts).unwrap();
    std::fs::remove_file(&counts).unwrap();
    let calls = parse(&table);
    assert!(calls.contains_key("execve"), "not a table of strace: {table}");
    calls
}

/// Reads lines such as ` 12.50    0.000123           4        31         2 futex`.
fn parse(table: &str) -> BTreeMap<String, usize> {
    let line = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (name, count) = (fields.last()?, fields.get(3)?.parse().ok()?);
        (fields.len() >= 5 && *name != "total").then(|| (name.to_string(), count))
    };
    table.lines().filter_map(line).collect()
}

/// The system calls of `MORE` rounds, without those that may come by chance.
fn cost(workload: &str) -> BTreeMap<String, usize> {
    difference(trace(workload, FEW), trace(workload, FEW + MORE))
}

/// How many more calls there were, without those that may come by chance.
fn difference(few: BTreeMap<String, usize>, more: BTreeMap<String, usize>) -> BTreeMap<String, usize> {
    let difference = more.into_iter().map(|(name, count)| {
        let before = few.get(&name).copied().unwrap_or_default();
        (name, count.saturating_sub(before))
    });
    difference.filter(|(_, count)| *count > CHANCE).collect()
}

/// Asserts that there are no other system calls than `allowed`, and of each no more than its number.
#[track_caller]
fn expect_at_most(cost: BTreeMap<String, usize>, allowed: &[(&str, usize)]) {
    for (name, count) in &cost {
        let most = allowed.iter().find(|(one, _)| one == name).map_or(0, |(_, most)| *most);
        assert!(
            *count <= most,
            "{count} calls of {name} in {MORE} rounds, at most {most} expected: {cost:?}"
        );
    }
}

#[test]
fn a_job_on_a_cached_stack_makes_no_system_call() {
    if missing(&[STRACE]) {
        return;
    }
    let cost = cost("jobs_on_a_cached_stack");
    expect_at_most(cost, &[]);
}

#[test]
#[ignore = "run under strace by a_job_on_a_cached_stack_makes_no_system_call"]
fn jobs_on_a_cached_stack() {
    let ctx = WaitCtx::new();
    for _ in 0..rounds() {
        let Ok(Step::Paused(job)) = start_job(&ctx, || pause_job().unwrap()) else {
            panic!()
        };
        let Step::Finished(_) = job.resume() else { panic!() };
    }
}

/// The memory of a crowd goes back a second after its end, when other jobs end.
#[test]
fn the_end_of_a_crowd_makes_no_system_call() {
    if missing(&[STRACE]) {
        return;
    }
    let cost = cost("crowds_that_end");
    expect_at_most(cost, &[]);
}

#[test]
#[ignore = "run under strace by the_end_of_a_crowd_makes_no_system_call"]
fn crowds_that_end() {
    const CROWD: usize = 5000;
    let ctx = WaitCtx::new();
    let mut jobs = Vec::with_capacity(CROWD);
    for _ in 0..rounds() / 100 {
        jobs.extend((0..CROWD).map(|_| start_job(&ctx, || pause_job().unwrap())));
        for step in jobs.drain(..) {
            let Ok(Step::Paused(job)) = step else { panic!() };
            let Step::Finished(()) = job.resume() else { panic!() };
        }
    }
}

#[test]
fn a_callback_on_a_busy_scheduler_makes_no_system_call() {
    if missing(&[STRACE]) {
        return;
    }
    let cost = cost("callbacks_on_a_busy_scheduler");
    expect_at_most(cost, &[("epoll_wait", CHANCE)]);
}

#[test]
#[ignore = "run under strace by a_callback_on_a_busy_scheduler_makes_no_system_call"]
fn callbacks_on_a_busy_scheduler() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let ctx = WaitCtx::new();
    let rounds = rounds();
    let woken = asyncjob::JobBuilder::new()
        .wait_ctx(&ctx)
        .spawn_on(&scheduler, move || {
            current_job().unwrap().wait_ctx().set_status(Status::Ok);
            (0..rounds).for_each(|_| assert!(pause_job().is_ok()));
        });
    let woken = Rc::new(woken.unwrap());
    let watched = woken.clone();
    let busy = scheduler.spawn(move || {
        current_job().unwrap().wait_ctx().set_status(Status::Eagain);
        let mut calls = 0;
        while !watched.is_finished() {
            ctx.callback().unwrap().wake();
            calls += 1;
            pause_job().unwrap();
        }
        calls
    });
    let calls = scheduler.run_until(busy.unwrap()).unwrap();
    assert!(
        (rounds..=2 * rounds + 10).contains(&calls),
        "{calls} calls for {rounds} wakes"
    );
}

#[test]
fn a_spawn_that_nobody_sleeps_on_writes_no_eventfd() {
    if missing(&[STRACE]) {
        return;
    }
    let cost = cost("jobs_spawned_one_at_a_time");
    expect_at_most(cost, &[("epoll_wait", CHANCE)]);
}

#[test]
#[ignore = "run under strace by a_spawn_that_nobody_sleeps_on_writes_no_eventfd"]
fn jobs_spawned_one_at_a_time() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let handle = scheduler.handle();
    for round in 0..rounds() {
        let job = scheduler.spawn(move || round).unwrap();
        assert_eq!(scheduler.run_until(job).unwrap(), round);
        let job = handle.spawn(move || round).unwrap();
        assert_eq!(scheduler.run_until(job).unwrap(), round);
    }
}

#[test]
fn a_callback_from_a_thread_to_a_busy_scheduler_writes_no_eventfd() {
    if missing(&[STRACE]) {
        return;
    }
    let cost = cost("callbacks_from_a_thread");
    let count = |name: &str| cost.get(name).copied().unwrap_or_default();
    assert_eq!((count("write"), count("read")), (0, 0), "{cost:?}");
}

#[test]
#[ignore = "run under strace by a_callback_from_a_thread_to_a_busy_scheduler_writes_no_eventfd"]
fn callbacks_from_a_thread() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let ctx = WaitCtx::new();
    let done = Arc::new(AtomicBool::new(false));
    let woken = asyncjob::JobBuilder::new().wait_ctx(&ctx).spawn_on(&scheduler, || {
        current_job().unwrap().wait_ctx().set_status(Status::Ok);
        while pause_job().is_ok() {}
    });
    let stop = done.clone();
    let busy = scheduler.spawn(move || {
        current_job().unwrap().wait_ctx().set_status(Status::Eagain);
        while !stop.load(Ordering::Relaxed) {
            pause_job().unwrap();
        }
    });
    scheduler.turn(Some(Duration::ZERO)).unwrap();
    let (engine, rounds) = (ctx.callback().unwrap(), rounds());
    let engine = thread::spawn(move || {
        (0..rounds).for_each(|_| engine.wake_by_ref());
        done.store(true, Ordering::Relaxed);
    });
    scheduler.run_until(busy.unwrap()).unwrap();
    engine.join().unwrap();
    woken.unwrap().request_cancel();
}

/// The number of jobs that become ready together.
const TOGETHER: usize = 16;

#[test]
fn waits_on_registered_fds_share_one_epoll_wait_and_make_no_epoll_ctl() {
    if missing(&[STRACE]) {
        return;
    }
    let cost = cost("waits_on_registered_fds");
    // The reads of the jobs, the writes of this test, and two waits a round: one finds all jobs ready, and one finds
    // none. Each second the timer of the idle memory is read, and set again: a slow machine takes many seconds.
    let own = MORE * TOGETHER;
    let waits = 2 * MORE + 2 * CHANCE;
    let seconds = cost.get("timerfd_settime").copied().unwrap_or_default();
    let reads = own + seconds + CHANCE;
    expect_at_most(
        cost,
        &[
            ("read", reads),
            ("write", own),
            ("epoll_wait", waits),
            ("timerfd_settime", MORE / 10),
        ],
    );
}

#[test]
#[ignore = "run under strace by waits_on_registered_fds_share_one_epoll_wait_and_make_no_epoll_ctl"]
fn waits_on_registered_fds() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let mut writers = Vec::new();
    let mut jobs = Vec::new();
    let rounds = rounds();
    for _ in 0..TOGETHER {
        let (mut reader, writer) = pipe().unwrap();
        let job = scheduler.spawn(move || {
            let registered = reader.try_clone().unwrap();
            current_job()
                .unwrap()
                .wait_ctx()
                .add_wait_fd(WaitKey::unique(), registered);
            for _ in 0..rounds {
                pause_job().unwrap();
                reader.read_exact(&mut [0]).unwrap();
            }
        });
        writers.push(writer);
        jobs.push(job.unwrap());
    }
    scheduler.turn(Some(Duration::ZERO)).unwrap();
    for round in 1..=rounds as u64 {
        writers.iter_mut().for_each(|writer| writer.write_all(b"x").unwrap());
        while scheduler.stats().resumes < (round + 1) * TOGETHER as u64 {
            scheduler.turn(None).unwrap();
        }
    }
    scheduler.run().unwrap();
    assert!(jobs.into_iter().all(|job| job.join().is_ok()));
}

/// On Linux 5.11 or later: `epoll_wait` would round each of these sleeps up to a millisecond.
#[test]
fn a_short_sleep_is_one_wait_with_an_exact_time_out() {
    if missing(&[STRACE]) {
        return;
    }
    let waits = |rounds| {
        let mut calls = trace("short_sleeps", rounds);
        let [exact, at_once] = ["epoll_pwait2", "epoll_wait"].map(|name| calls.remove(name).unwrap_or_default());
        // A time that has come before the wait begins, on a busy machine, needs no exact wait.
        assert!(
            exact >= rounds / 2,
            "{exact} exact waits and {at_once} others for {rounds} sleeps"
        );
        calls.insert("a wait".to_string(), exact + at_once);
        calls
    };
    let cost = difference(waits(FEW), waits(FEW + MORE));
    expect_at_most(cost, &[("a wait", MORE + 2 * CHANCE)]);
}

#[test]
#[ignore = "run under strace by a_short_sleep_is_one_wait_with_an_exact_time_out"]
fn short_sleeps() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let rounds = rounds();
    let job = scheduler.spawn(move || (0..rounds).for_each(|_| sleep(Duration::from_micros(20)).unwrap()));
    scheduler.run_until(job.unwrap()).unwrap();
}

/// The check can fail: it finds a call that is not allowed.
#[test]
fn a_call_that_is_not_allowed_is_found() {
    let table = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.000300           3       100         2 epoll_ctl
 40.00    0.000200           2        90           epoll_wait
------ ----------- ----------- --------- --------- ----------------
100.00    0.000500           2       190         2 total
";
    let calls = parse(table);
    assert_eq!(
        calls,
        BTreeMap::from([("epoll_ctl".into(), 100), ("epoll_wait".into(), 90)])
    );
    let found = std::panic::catch_unwind(|| expect_at_most(calls, &[("epoll_wait", 90)]));
    assert!(
        found
            .unwrap_err()
            .downcast_ref::<String>()
            .unwrap()
            .contains("100 calls of epoll_ctl")
    );
}
