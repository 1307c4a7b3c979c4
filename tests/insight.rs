//! Promise: `insight::dump` shows every job of every driver of the process, from any thread, with its own frames. A
//! thread that does not answer is named with its job, and nothing waits longer than the limit.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use asyncjob::insight::{DriverDump, DriverKind, Dump, JobDump, dump, on_signal};
use asyncjob::scheduler::{JobState, Scheduler, Workers};
use asyncjob::waiting::await_or_block;
use asyncjob::{Job, JobBuilder, PauseError, Status, Step, WaitCtx, WaitKey, current_job, pause_job, start_job};
use asyncjob_testing::Watchdog;

/// A limit that is not reached unless something is wrong.
const LONG: Duration = Duration::from_secs(30);

/// The dump is one of the whole process, so the tests take turns.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[inline(never)]
fn wait_for_a_callback() -> Result<(), PauseError> {
    current_job().unwrap().wait_ctx().set_status(Status::Ok);
    std::hint::black_box(pause_job())
}

fn driver<'a>(dump: &'a Dump, thread: &str) -> &'a DriverDump {
    let found = dump.drivers.iter().find(|driver| driver.thread == thread);
    found.unwrap_or_else(|| panic!("no driver on {thread}: {dump}"))
}

/// Dumps until every job of the thread is paused.
fn dump_with(thread: &str, jobs: usize) -> Dump {
    loop {
        let dump = dump(LONG);
        let found = dump.drivers.iter().find(|driver| driver.thread == thread);
        if found.is_some_and(|driver| driver.answered && driver.jobs.len() == jobs) {
            return dump;
        }
        thread::yield_now();
    }
}

#[test]
fn a_parked_job_is_shown_with_what_it_waits_for() {
    let (_watchdog, _alone) = (Watchdog::new(), alone());
    let workers = Workers::builder().threads(1).thread_name("shown").build().unwrap();
    let (ctx, (read, _write)) = (WaitCtx::new(), std::io::pipe().unwrap());
    ctx.add_wait_fd(WaitKey::from_ptr(&_write), read);
    let builder = JobBuilder::new().name("signer").wait_ctx(&ctx);
    let job = builder.submit_to(&workers.handle(), wait_for_a_callback).unwrap();
    let dump = dump_with("shown-0", 1);
    let found = &driver(&dump, "shown-0").jobs[0];
    let expected = (Some("signer"), JobState::Paused, Status::Ok, 1);
    let info = &found.info;
    assert_eq!(
        (info.name.as_deref(), info.state, info.status, info.fds.len()),
        expected
    );
    assert!(found.fd_kinds[0].starts_with("pipe:["), "{dump}");
    assert!((4096..info.stack_size).contains(&info.high_water), "{info:?}");
    let stack = &dump.stacks[found.stack.unwrap()];
    let has = |name: &str| stack.iter().any(|frame| frame.contains(name));
    assert!(has("wait_for_a_callback"), "{stack:#?}");
    assert!(
        !has("dump") && !has("work::") && !has("Scheduler"),
        "frames of others: {stack:#?}"
    );
    let json: serde_json::Value = serde_json::from_str(&dump.to_json()).unwrap();
    let drivers = json["drivers"].as_array().unwrap();
    let one = drivers.iter().find(|driver| driver["thread"] == "shown-0").unwrap();
    assert_eq!(
        (one["jobs"][0]["name"].as_str(), one["jobs"][0]["id"].as_u64()),
        (Some("signer"), Some(info.id.get()))
    );
    drop(job);
}

#[inline(never)]
fn at_the_device() -> Result<(), PauseError> {
    let asked = wait_for_a_callback();
    std::hint::black_box(asked) // no tail call
}

/// What lies around the code of the job depends on how it is driven, looked at and compiled.
#[test]
fn a_stack_is_the_code_of_the_job_and_the_function_in_which_it_waits() {
    let (_watchdog, _alone) = (Watchdog::new(), alone());
    let workers = Workers::builder().threads(1).thread_name("own").build().unwrap();
    let job = workers.handle().spawn(at_the_device).unwrap();
    let Ok(Step::Paused(by_hand)) = JobBuilder::new().name("own, by hand").start(at_the_device) else {
        panic!("the job waits")
    };
    let dump = dump_with("own-0", 1);
    let found = &driver(&dump, "own-0").jobs[0];
    let stack = &dump.stacks[found.stack.unwrap()];
    let functions: Vec<_> = stack
        .iter()
        .map(|frame| frame.split(" at ").next().unwrap().rsplit("::").next().unwrap())
        .collect();
    assert_eq!(
        functions,
        ["pause_job", "wait_for_a_callback", "at_the_device"],
        "{stack:#?}"
    );
    let [other] = unknown(&dump, "own, by hand")[..] else {
        panic!("{dump}")
    };
    assert_eq!(other.stack, found.stack, "{dump}");
    drop((by_hand, job));
}

#[test]
fn ten_thousand_parked_jobs_have_one_stack() {
    let (_watchdog, _alone) = (Watchdog::new(), alone());
    let workers = Workers::builder().threads(1).thread_name("many").build().unwrap();
    let spawn = |_| workers.handle().spawn(wait_for_a_callback).unwrap();
    let jobs: Vec<_> = (0..10_000).map(spawn).collect();
    let dump = dump_with("many-0", jobs.len());
    let stacks: std::collections::HashSet<_> = driver(&dump, "many-0").jobs.iter().map(|job| job.stack).collect();
    assert_eq!(stacks.len(), 1, "{:#?}", dump.stacks);
    println!("10,000 parked jobs: {:?}", dump.took);
    // The jobs go on as if nothing had looked at them.
    jobs.iter().for_each(|job| job.request_cancel());
    assert!(jobs.into_iter().all(|job| job.join().is_err()));
}

#[test]
fn a_worker_in_a_loop_is_named() {
    let (_watchdog, _alone) = (Watchdog::new(), alone());
    let workers = Workers::builder().threads(1).thread_name("loops").build().unwrap();
    let (stop, (started, is_started)) = (Arc::new(AtomicBool::new(false)), channel());
    let stopped = Arc::clone(&stop);
    let hog = move || {
        started.send(asyncjob::current_job_id().unwrap()).unwrap();
        while !stopped.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    };
    let job = JobBuilder::new().name("hog").submit_to(&workers.handle(), hog).unwrap();
    let id = is_started.recv().unwrap();
    let found = dump(Duration::from_millis(50));
    let silent = driver(&found, "loops-0");
    assert!(!silent.answered, "{found}");
    assert_eq!(silent.running, Some((id.get(), Some("hog".to_string()))));
    assert!(found.to_string().contains("(hog) keeps the thread"), "{found}");
    stop.store(true, Ordering::Relaxed);
    job.join().unwrap();
    assert!(driver(&dump(LONG), "loops-0").answered);
}

#[test]
fn a_job_future_is_shown_and_not_resumed() {
    let (_watchdog, _alone) = (Watchdog::new(), alone());
    let ctx = WaitCtx::new();
    let inside = ctx.clone();
    let resumes = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&resumes);
    let runtime = thread::Builder::new().name("runtime".to_string());
    let runtime = runtime.spawn(move || {
        let job = JobBuilder::new().name("handshake").wait_ctx(&inside).future(move || {
            wait_for_a_callback().unwrap();
            count.fetch_add(1, Ordering::SeqCst);
        });
        await_or_block(job).unwrap().unwrap();
    });
    for _ in 0..3 {
        let found = dump_with("runtime", 1);
        let futures = driver(&found, "runtime");
        let job = &futures.jobs[0];
        assert_eq!(
            (futures.kind, job.info.name.as_deref()),
            (DriverKind::Futures, Some("handshake"))
        );
        assert!(
            found.stacks[job.stack.unwrap()]
                .iter()
                .any(|frame| frame.contains("wait_for_a_callback"))
        );
        assert_eq!(resumes.load(Ordering::SeqCst), 0);
    }
    ctx.callback().unwrap().wake();
    runtime.unwrap().join().unwrap();
    assert!(
        dump(LONG).drivers.iter().all(|driver| driver.thread != "runtime"),
        "its thread is gone"
    );
}

/// The job that asks runs; the others are paused, and their frames are there.
#[test]
fn a_job_may_ask_about_its_own_scheduler() {
    let (_watchdog, _alone) = (Watchdog::new(), alone());
    let scheduler = Scheduler::new().unwrap();
    let _parked = scheduler.spawn(wait_for_a_callback).unwrap();
    let own = thread::current().name().unwrap().to_string();
    let asks = scheduler.spawn(move || {
        let found = dump(LONG);
        let jobs = &driver(&found, &own).jobs;
        let mut seen: Vec<_> = jobs
            .iter()
            .map(|job| (job.info.state == JobState::Running, job.stack.is_some()))
            .collect();
        seen.sort_unstable();
        (driver(&found, &own).answered, seen)
    });
    let seen = scheduler.run_until(asks.unwrap()).unwrap();
    assert_eq!(seen, (true, vec![(false, true), (true, false)]));
}

#[test]
fn jobs_come_and_go_during_a_dump() {
    let (_watchdog, _alone) = (Watchdog::new(), alone());
    let workers = Arc::new(Workers::builder().threads(3).thread_name("busy").build().unwrap());
    let starter = Arc::clone(&workers);
    let starts = thread::spawn(move || {
        let spawn = |n: usize| {
            let pauses = move || (0..n % 5).for_each(|_| pause_job().unwrap());
            starter.handle().spawn(pauses).unwrap()
        };
        let jobs: Vec<_> = (0..10_000).map(spawn).collect();
        jobs.into_iter().for_each(|job| job.join().unwrap());
    });
    let mut dumps = 0;
    while !starts.is_finished() || dumps == 0 {
        let found = dump(LONG);
        let busy = found.drivers.iter().filter(|driver| driver.thread.starts_with("busy-"));
        assert_eq!(busy.filter(|driver| driver.answered).count(), 3, "{found}");
        dumps += 1;
    }
    starts.join().unwrap();
    println!("{dumps} dumps");
}

/// The time in a pause counts from that pause, under a scheduler and as a future.
#[test]
fn the_time_in_a_pause_is_that_since_the_pause() {
    let (_watchdog, _alone) = (Watchdog::new(), alone());
    let began = Instant::now();
    let workers = Workers::builder().threads(1).thread_name("since").build().unwrap();
    let ctx = WaitCtx::new();
    let inside = ctx.clone();
    let of_future = thread::Builder::new().name("since, a future".to_string());
    let of_future = of_future.spawn(move || {
        let job = JobBuilder::new().wait_ctx(&inside).future(wait_for_a_callback);
        await_or_block(job).unwrap().unwrap().unwrap();
    });
    let job = workers.handle().spawn(wait_for_a_callback).unwrap();
    let in_pause = || {
        ["since-0", "since, a future"].map(|thread| {
            let dump = dump_with(thread, 1);
            driver(&dump, thread).jobs[0].info.in_state
        })
    };
    in_pause(); // both are paused from here on
    let looked = Instant::now();
    let more = Duration::from_millis(200);
    while looked.elapsed() < more {
        thread::yield_now();
    }
    let coarse = Duration::from_millis(20); // the clock ticks every few milliseconds
    for then in in_pause() {
        let most = began.elapsed() + coarse;
        assert!((more - coarse..=most).contains(&then), "{then:?} of {most:?}");
    }
    ctx.callback().unwrap().wake();
    of_future.unwrap().join().unwrap();
    drop(job);
}

/// A turn may take long, because a job in it does. Only the time after the pause is that of the pause.
#[test]
fn the_time_in_a_pause_begins_with_the_pause() {
    let (_watchdog, _alone) = (Watchdog::new(), alone());
    let scheduler = Scheduler::new().unwrap();
    let runs_first = |after: Duration| {
        let (paused, has_paused) = channel();
        let job = scheduler.spawn(move || {
            thread::sleep(after); // in the job, as one that computes
            paused.send(Instant::now()).unwrap();
            wait_for_a_callback()
        });
        (job.unwrap(), has_paused)
    };
    let jobs = [runs_first(Duration::from_secs(1)), runs_first(Duration::ZERO)];
    scheduler.turn(Some(Duration::ZERO)).unwrap();
    let list = scheduler.jobs();
    for (info, (_, has_paused)) in list.iter().zip(&jobs) {
        let coarse = Duration::from_millis(20); // the clock ticks every few milliseconds
        let paused = has_paused.recv().unwrap().elapsed();
        assert!(info.in_state <= paused + coarse, "{:?}, {paused:?}", info.in_state);
    }
    assert_eq!(list.len(), 2);
}

/// The jobs of the list that no driver has told of, by name.
fn unknown<'a>(dump: &'a Dump, name: &str) -> Vec<&'a JobDump> {
    let unknown = dump.drivers.iter().filter(|driver| driver.kind == DriverKind::Unknown);
    let jobs = unknown.flat_map(|driver| &driver.jobs);
    jobs.filter(|job| job.info.name.as_deref() == Some(name)).collect()
}

fn has_frame(dump: &Dump, job: &JobDump, name: &str) -> bool {
    let stack = job.stack.map(|stack| &dump.stacks[stack]);
    stack.is_some_and(|stack| stack.iter().any(|frame| frame.contains(name)))
}

/// The thread of the job sleeps in a call of its own, and takes no part.
#[test]
fn a_job_that_is_driven_by_hand_is_shown_until_it_ends() {
    let (_watchdog, _alone) = (Watchdog::new(), alone());
    let (ready, is_ready) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let hand = thread::spawn(move || {
        let ctx = WaitCtx::new();
        ctx.add_wait_fd(WaitKey::from_ptr(&ctx), std::io::pipe().unwrap().0);
        ctx.set_deadline(Some(std::time::Instant::now() + LONG));
        let steps = || {
            let _peer = asyncjob::insight::tag("peer", format_args!("10.0.0.{}", 7));
            wait_for_a_callback().unwrap();
            drop(_peer);
            pause_job().unwrap();
        };
        let mut step = JobBuilder::new().name("by hand").wait_ctx(&ctx).start(steps).unwrap();
        while let Step::Paused(job) = step {
            ready.send(Some(ctx.fds())).unwrap();
            may_go_on.recv().unwrap();
            step = job.resume();
        }
        ready.send(None).unwrap();
        may_go_on.recv().unwrap();
        let Ok(Step::Paused(lost)) = JobBuilder::new().name("by hand").start(pause_job) else {
            panic!()
        };
        lost.quarantine();
        ready.send(None).unwrap();
        may_go_on.recv().unwrap();
    });
    let fds = is_ready.recv().unwrap().unwrap();
    let found = dump(LONG);
    let [job] = unknown(&found, "by hand")[..] else {
        panic!("{found}")
    };
    assert_eq!((job.info.status, &job.info.fds), (Status::Ok, &fds), "{found}");
    assert_eq!(job.tags, [("peer".to_string(), "10.0.0.7".to_string())]);
    assert!(
        job.info.deadline.is_some() && job.fd_kinds[0].starts_with("pipe:["),
        "{found}"
    );
    assert!((4096..job.info.stack_size).contains(&job.info.high_water), "{found}");
    assert!(
        found
            .to_string()
            .contains(&format!("{} by hand peer=10.0.0.7, paused, waits for fd", job.info.id))
    );
    assert!(has_frame(&found, job, "wait_for_a_callback"), "{found}");
    let frames = &found.stacks[job.stack.unwrap()];
    assert!(
        frames.last().unwrap().contains(" at ") && frames.last().unwrap().contains(file!()),
        "frames of others: {found}"
    );
    go_on.send(()).unwrap();
    is_ready.recv().unwrap().unwrap();
    let found = dump(LONG);
    let [job] = unknown(&found, "by hand")[..] else {
        panic!("{found}")
    };
    assert!(
        job.tags.is_empty() && !has_frame(&found, job, "wait_for_a_callback"),
        "{found}"
    );
    for _ended_and_quarantined in 0..2 {
        go_on.send(()).unwrap();
        assert!(is_ready.recv().unwrap().is_none());
        let found = dump(LONG);
        assert!(unknown(&found, "by hand").is_empty(), "{found}");
    }
    go_on.send(()).unwrap();
    hand.join().unwrap();
}

/// A job that keeps its thread does not hide what the other jobs of the thread wait for.
#[test]
fn the_parked_jobs_of_a_silent_worker_are_shown() {
    let (_watchdog, _alone) = (Watchdog::new(), alone());
    let workers = Workers::builder().threads(1).thread_name("silent").build().unwrap();
    let parked = JobBuilder::new()
        .name("parked")
        .submit_to(&workers.handle(), wait_for_a_callback)
        .unwrap();
    dump_with("silent-0", 1);
    let (stop, (started, is_started)) = (Arc::new(AtomicBool::new(false)), channel());
    let stopped = Arc::clone(&stop);
    let hog = workers.handle().spawn(move || {
        started.send(()).unwrap();
        while !stopped.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    });
    is_started.recv().unwrap();
    let found = dump(Duration::from_millis(50));
    assert!(!driver(&found, "silent-0").answered, "{found}");
    let [job] = unknown(&found, "parked")[..] else {
        panic!("{found}")
    };
    assert_eq!(job.info.status, Status::Ok);
    assert!(has_frame(&found, job, "wait_for_a_callback"), "{found}");
    stop.store(true, Ordering::Relaxed);
    hog.unwrap().join().unwrap();
    let found = dump_with("silent-0", 1);
    assert!(unknown(&found, "parked").is_empty(), "its driver tells of it: {found}");
    drop(parked);
}

/// Jobs run, pause and end on three threads without a driver, while another thread looks at their memory. One job of
/// each thread stays paused: each dump shows it. Of the others it shows those that it finds at one place at both looks.
#[test]
fn jobs_without_a_driver_come_and_go_during_a_dump() {
    let (_watchdog, _alone) = (Watchdog::new(), alone());
    let is_enough = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&is_enough);
    let (parked, all_parked) = channel();
    let hand = move || {
        let standing = JobBuilder::new().name("stands").start(pause_job);
        parked.send(()).unwrap();
        let mut paused = Vec::new();
        for n in 0.. {
            let pauses = move || (0..n % 5).for_each(|_| pause_job().unwrap());
            if let Step::Paused(job) = start_job(&WaitCtx::new(), pauses).unwrap() {
                paused.push(job);
            }
            while paused.len() > 50 || (stop.load(Ordering::Relaxed) && !paused.is_empty()) {
                let steps = paused.drain(..).map(Job::resume);
                let still = |step| match step {
                    Step::Paused(job) => Some(job),
                    Step::Finished(()) => None,
                };
                paused = steps.filter_map(still).collect();
            }
            if stop.load(Ordering::Relaxed) {
                drop(standing);
                return n;
            }
        }
        unreachable!()
    };
    let threads: Vec<_> = (0..3).map(|_| thread::spawn(hand.clone())).collect();
    (0..3).for_each(|_| all_parked.recv().unwrap());
    let mut seen = 0;
    for _ in 0..50 {
        let found = dump(LONG);
        let of_no_driver = found.drivers.iter().filter(|driver| driver.kind == DriverKind::Unknown);
        let jobs = of_no_driver.map(|driver| driver.jobs.len()).sum::<usize>();
        assert_eq!(unknown(&found, "stands").len(), 3, "{found}");
        seen += jobs - 3;
    }
    is_enough.store(true, Ordering::Relaxed);
    let started: i32 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    println!("{seen} of {started} jobs that come and go were seen");
}

#[test]
fn a_signal_asks_for_a_dump_until_the_guard_is_dropped() {
    let (_watchdog, _alone) = (Watchdog::new(), alone());
    let signal = rustix::process::Signal::USR2;
    let send = || rustix::process::kill_process(rustix::process::getpid(), signal).unwrap();
    let (ctx, (dumps, dumped)) = (WaitCtx::new(), channel());
    let Ok(Step::Paused(job)) = JobBuilder::new().name("asked for").wait_ctx(&ctx).start(pause_job) else {
        panic!()
    };
    let mut is_first = true;
    let guard = on_signal(signal.as_raw(), move |dump| {
        dumps.send(dump).unwrap();
        assert!(!std::mem::take(&mut is_first), "a report that panics ends nothing");
    });
    for _ in 0..2 {
        send();
        let found = dumped.recv().unwrap();
        assert_eq!(unknown(&found, "asked for").len(), 1, "{found}");
    }
    drop(guard.unwrap());
    send();
    assert!(dumped.recv().is_err(), "the thread is gone, and its sender with it");
    drop(job);
    assert!(on_signal(9, |_| ()).is_err(), "SIGKILL cannot be handled");
}
