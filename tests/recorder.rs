//! Promise: a recorder counts and measures the jobs that have its hook, under every driver, names those that keep their
//! thread, and its timeline says which job ran when on which thread.

use std::cell::Cell;
use std::collections::{BTreeSet, HashSet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
#[cfg(not(asyncjob_portable))]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use asyncjob::insight::{HogKind, JobNumbers, Panel, Recorder, Timeline, Times, WakeCause, draw};
use asyncjob::io::Pausing;
use asyncjob::scheduler::{Scheduler, Workers};
use asyncjob::time::{sleep, yield_now};
use asyncjob::waiting::{WaitSpec, WakeSource, await_or_block, pause_until};
use asyncjob::{JobBuilder, PauseError, Status, Step, WaitCtx, WaitKey, current_job, pause_job};
use asyncjob_testing::Watchdog;

/// Jobs started, jobs ended, runs, pauses.
fn counts(numbers: &JobNumbers) -> [u64; 4] {
    [numbers.started, numbers.ended, numbers.runs.count, numbers.pauses.count]
}

#[test]
fn each_driver_and_each_end_is_counted() {
    let _watchdog = Watchdog::new();
    let recorder = Recorder::builder().build();
    let hooked = |name: &'static str| JobBuilder::new().hooks(recorder.job(name));
    let pauses_twice = || (0..2).for_each(|_| pause_job().unwrap());

    let scheduler = Scheduler::new().unwrap();
    hooked("scheduled").spawn_on(&scheduler, pauses_twice).unwrap().detach();
    scheduler.run().unwrap();
    await_or_block(hooked("future").future(pauses_twice)).unwrap().unwrap();
    let by_hand = || match hooked("by hand").start(pause_job).unwrap() {
        Step::Paused(job) => job,
        Step::Finished(_) => panic!("it pauses"),
    };
    assert!(matches!(by_hand().resume(), Step::Finished(Ok(()))));
    drop(by_hand());
    by_hand().quarantine();
    let paused = by_hand();
    drop(hooked("never started"));

    let numbers = recorder.numbers();
    let by_name: Vec<_> = numbers
        .by_name
        .iter()
        .map(|(name, one)| (name.as_str(), counts(one)))
        .collect();
    let expected = [
        ("by hand", [4, 3, 6, 2]),
        ("future", [1, 1, 3, 2]),
        ("never started", [0, 0, 0, 0]),
        ("scheduled", [1, 1, 3, 2]),
    ];
    assert_eq!(by_name, expected);
    assert_eq!(counts(&numbers.all), [6, 5, 12, 6]);
    let ends = |one: &JobNumbers| (one.cancelled, one.quarantined, one.never_started);
    assert_eq!(ends(&numbers.all), (1, 1, 1));
    assert_eq!(
        numbers.by_name.iter().map(|(_, one)| ends(one)).collect::<Vec<_>>(),
        [(1, 1, 0), (0, 0, 0), (0, 0, 1), (0, 0, 0)]
    );
    for (_, one) in &numbers.by_name {
        for times in [one.runs, one.pauses, one.delays] {
            let ordered = times.median <= times.p99 && times.p99 <= times.max && times.sum <= times.max * 10;
            assert!(ordered && times.within.is_sorted(), "{one:?}");
            assert_eq!(
                times.within[Times::BOUNDS.len() - 1],
                times.count,
                "none takes ten seconds"
            );
        }
    }
    drop(paused);
    assert_eq!(recorder.numbers().all.ended, 6);
}

/// A worker's numbers are there when the worker is gone, and threads do not disturb each other's.
#[test]
fn many_threads_are_added_up() {
    let _watchdog = Watchdog::new();
    let recorder = Recorder::builder().timeline(10_000).build();
    let workers = Workers::builder().threads(3).thread_name("adds").build().unwrap();
    let submit = |n: usize| {
        let job = JobBuilder::new().hooks(recorder.job(if n.is_multiple_of(2) { "even" } else { "odd" }));
        job.submit_to(&workers.handle(), move || (0..n % 3).for_each(|_| pause_job().unwrap()))
            .unwrap()
    };
    let jobs: Vec<_> = (0..3000).map(submit).collect();
    jobs.into_iter().for_each(|job| job.join().unwrap());
    drop(workers);
    let numbers = recorder.numbers();
    assert_eq!(counts(&numbers.all), [3000, 3000, 6000, 3000]);
    assert_eq!(numbers.by_name.len(), 2);
    let timeline = recorder.timeline();
    assert_eq!(
        timeline.tracks.iter().map(|track| track.runs.len()).sum::<usize>(),
        6000
    );
    for track in &timeline.tracks {
        assert!(track.thread.starts_with("adds-"), "{}", track.thread);
        let overlap = track
            .runs
            .windows(2)
            .find(|pair| pair[0].from + pair[0].ran > pair[1].from);
        assert!(overlap.is_none(), "a thread runs one job at a time: {overlap:?}");
    }
}

/// Waits for a callback, as code whose engine will call back.
fn wait_for_a_callback() -> Result<(), PauseError> {
    current_job().unwrap().wait_ctx().set_status(Status::Ok);
    pause_job()
}

/// The host does something else for a while, when a job could run: that is a delay, whatever woke the job.
#[test]
fn the_time_from_ready_to_running_is_measured() {
    let _watchdog = Watchdog::new();
    let recorder = Recorder::builder().build();
    let scheduler = Scheduler::new().unwrap();
    let hooked = |name: &'static str| JobBuilder::new().hooks(recorder.job(name));
    let turn = || while scheduler.turn(Some(Duration::ZERO)).unwrap().ready != 0 {};
    let elsewhere = Duration::from_millis(30);
    let (ctx, (reader, mut writer)) = (WaitCtx::new(), std::io::pipe().unwrap());
    let job = hooked("callback").wait_ctx(&ctx);
    let callback = job.spawn_on(&scheduler, || wait_for_a_callback().unwrap()).unwrap();
    let deadline = hooked("deadline").spawn_on(&scheduler, || sleep(Duration::from_millis(1)).unwrap());
    let its_turn = hooked("its turn").spawn_on(&scheduler, || yield_now().unwrap());
    let fd = hooked("fd").spawn_on(&scheduler, move || {
        let ctx = current_job().unwrap().wait_ctx().clone();
        ctx.add_wait_fd(WaitKey::unique(), reader);
        pause_job().unwrap();
    });
    let jobs = [callback, deadline.unwrap(), its_turn.unwrap(), fd.unwrap()];
    scheduler.turn(Some(Duration::ZERO)).unwrap();
    ctx.callback().unwrap().wake();
    writer.write_all(b"x").unwrap();
    thread::sleep(elsewhere);
    turn();
    jobs.into_iter().for_each(|job| scheduler.run_until(job).unwrap());
    let numbers = recorder.numbers();
    for (name, one) in &numbers.by_name {
        assert_eq!(one.delays.count, 2, "{name}: the start and the resume: {one:?}");
        let keys: Vec<_> = one
            .pauses_by_key
            .iter()
            .map(|(key, times)| (key, times.count))
            .collect();
        assert_eq!(keys, [(name, 1)]);
        let least = match name.as_str() {
            "fd" => Duration::ZERO, // the scheduler learns of it when it asks the kernel
            "its turn" => one.pauses.max,
            _ => elsewhere - Duration::from_millis(2),
        };
        assert!(one.delays.max >= least, "{name}: {one:?}");
    }
    assert_eq!(numbers.by_name.len(), 4);

    // Under another runtime a callback counts. A driver that is not ours tells nothing.
    let runtime = thread::spawn({
        let (recorder, ctx) = (recorder.clone(), ctx.clone());
        move || {
            let job = JobBuilder::new().hooks(recorder.job("future")).wait_ctx(&ctx);
            await_or_block(job.future(|| wait_for_a_callback().unwrap()))
                .unwrap()
                .unwrap();
        }
    });
    let of = |name: &str| {
        let numbers = recorder.numbers();
        let found = numbers.by_name.into_iter().find(|(found, _)| found == name);
        found.map_or_else(JobNumbers::default, |(_, one)| one)
    };
    while of("future").runs.count == 0 {
        thread::yield_now();
    }
    ctx.callback().unwrap().wake();
    runtime.join().unwrap();
    assert_eq!(of("future").delays.count, 2);
    let Step::Paused(job) = hooked("by hand").start(pause_job).unwrap() else {
        panic!()
    };
    let _ended = job.resume();
    assert_eq!(of("by hand").delays.count, 1, "the start");
}

#[test]
fn pauses_are_told_apart_by_keys_with_names() {
    let _watchdog = Watchdog::new();
    let keys = [WaitKey::unique(), WaitKey::unique(), WaitKey::unique()];
    let builder = Recorder::builder().key(keys[0], "token").key(keys[1], "remote signer");
    let recorder = builder.build();
    let waits = move || {
        let ctx = current_job().unwrap().wait_ctx().clone();
        for key in keys {
            ctx.add_wait_fd(key, std::io::pipe().unwrap().0);
            pause_job().unwrap();
            assert!(ctx.clear_fd(key).is_some());
        }
        pause_job().unwrap();
    };
    let mut step = JobBuilder::new().hooks(recorder.job("signs")).start(waits).unwrap();
    while let Step::Paused(job) = step {
        step = job.resume();
    }
    let numbers = recorder.numbers();
    let by_key = numbers.by_name[0].1.pauses_by_key.iter();
    let by_key: Vec<_> = by_key.map(|(key, times)| (key.as_str(), times.count)).collect();
    let expected = [("fd", 1), ("nothing: it polls", 1), ("remote signer", 1), ("token", 1)];
    assert_eq!(by_key, expected);
}

#[test]
fn the_stack_of_a_job_is_measured_where_that_is_asked_for() {
    let _watchdog = Watchdog::new();
    let deep = || {
        std::hint::black_box([1u8; 50_000]);
    };
    for (builder, is_measured) in [(Recorder::builder(), false), (Recorder::builder().high_water(), true)] {
        let recorder = builder.build();
        let step = JobBuilder::new().hooks(recorder.job("deep")).start(deep);
        assert!(matches!(step, Ok(Step::Finished(()))));
        let found = recorder.numbers().all.high_water;
        assert_eq!(found >= 50_000, is_measured, "{found}");
    }
}

/// What a scheduler does is read from another thread: its queues, what it has counted, and for how long it is in a turn
/// that does not end.
#[test]
fn the_numbers_of_a_scheduler_are_there_while_it_hangs() {
    let _watchdog = Watchdog::new();
    let recorder = Recorder::builder().build();
    let workers = Workers::builder()
        .threads(1)
        .thread_name("numbers")
        .max_jobs(4)
        .build()
        .unwrap();
    let scheduler = || {
        let numbers = recorder.numbers();
        let text = numbers.to_string();
        let found = numbers.schedulers.into_iter().find(|one| one.thread == "numbers-0");
        found.inspect(|_| assert!(text.contains("numbers-0") && text.contains("in memory"), "{text}"))
    };
    let handle = workers.handle();
    let paused = handle.spawn(|| wait_for_a_callback().is_err()).unwrap();
    while scheduler().is_none_or(|one| one.queues.paused == 0) {
        thread::yield_now();
    }
    let (hangs, is_hung) = std::sync::mpsc::channel();
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    let hog = handle.spawn(move || {
        hangs.send(()).unwrap();
        may_go_on.recv().unwrap();
    });
    is_hung.recv().unwrap();
    let submitted = handle.spawn(|| ()).unwrap();
    let last = handle.spawn(|| ()).unwrap();
    assert!((0..3).all(|_| handle.spawn(|| ()).is_err()), "the scheduler is full");
    let hung = scheduler().unwrap();
    assert!(hung.in_turn.is_some_and(|time| !time.is_zero()), "{hung:?}");
    assert_eq!(
        (hung.queues.paused, hung.queues.unstarted, hung.queues.ready),
        (1, 1, 0),
        "{hung:?}"
    );
    go_on.send(()).unwrap();
    [hog.unwrap(), submitted, last]
        .into_iter()
        .for_each(|job| job.join().unwrap());
    paused.request_cancel();
    assert!(paused.join().is_err());
    // The last turn may still end.
    let rests = loop {
        let one = scheduler().unwrap();
        if one.in_turn.is_none() && one.stats.ended == 4 {
            break one;
        }
        thread::yield_now();
    };
    let stats = rests.stats;
    assert_eq!((stats.cancelled, stats.quarantined, stats.refused), (1, 0, 3));
    assert_eq!((rests.queues.paused, rests.pool.unwrap().in_use), (0, 0));
    assert!(
        rests.turns.count >= 2 && rests.turns.sum >= rests.turns.max,
        "{rests:?}"
    );
    let stats = workers.broadcast(|scheduler| scheduler.stats()).unwrap()[0];
    assert_eq!((stats.ended, stats.refused), (4, 3));
}

#[cfg(not(asyncjob_portable))]
#[inline(never)]
fn computes_until(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
}

/// The frames are there on the processor for which they can be found.
fn has_frame(backtrace: &[String], name: &str) -> bool {
    backtrace.iter().any(|frame| frame.contains(name))
}

/// The job is named while it runs, with what it runs, and not again when it pauses.
#[cfg(not(asyncjob_portable))]
#[test]
fn a_job_that_runs_for_ever_is_named_with_a_backtrace() {
    let _watchdog = Watchdog::new();
    let (reports, reported) = std::sync::mpsc::channel();
    let report = move |hog: &asyncjob::insight::Hog<'_>| {
        let text = hog.to_string();
        let seen = (hog.name.to_owned(), hog.kind, hog.backtrace.to_vec(), text);
        reports.send(seen).unwrap();
    };
    let builder = Recorder::builder().hog(Duration::from_millis(5), report);
    let recorder = builder.interrupt_by(signal_hook::consts::SIGPROF).unwrap().build();
    let workers = Workers::builder().threads(1).thread_name("hogged").build().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let job = JobBuilder::new().hooks(recorder.job("parser"));
    let job = job.submit_to(&workers.handle(), move || {
        computes_until(&stopped);
        pause_job().unwrap();
    });
    let (name, kind, backtrace, text) = reported.recv().unwrap();
    assert_eq!((name.as_str(), kind), ("parser", HogKind::Runs));
    assert!(has_frame(&backtrace, "computes_until"), "{text}");
    assert!(
        !backtrace.iter().any(|frame| frame.contains("Scheduler")),
        "frames of others: {text}"
    );
    assert!(
        text.starts_with("a job named parser on hogged-0") && text.contains("goes on"),
        "{text}"
    );
    stop.store(true, Ordering::Relaxed);
    job.unwrap().join().unwrap();
    assert_eq!(recorder.numbers().all.hogs, 1);
    drop(workers);
    drop(recorder);
    assert!(
        reported.recv().is_err(),
        "the thread of the recorder is gone, and the job was named once"
    );
    assert!(Recorder::builder().interrupt_by(signal_hook::consts::SIGKILL).is_err());
    let flag = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGUSR1, flag).unwrap();
    let taken = Recorder::builder().interrupt_by(signal_hook::consts::SIGUSR1);
    assert_eq!(taken.unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
}

#[test]
fn a_job_that_kept_its_thread_is_named_once() {
    let _watchdog = Watchdog::new();
    let (reports, reported) = std::sync::mpsc::channel();
    // Each run takes longer than nothing.
    let all = Recorder::builder().hog(Duration::ZERO, move |hog| {
        let seen = (
            hog.name.to_owned(),
            hog.kind,
            has_frame(hog.backtrace, "pauses_three_times"),
        );
        reports.send(seen).unwrap();
        panic!("a report that panics ends nothing");
    });
    let all = all.build();
    let called = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&called);
    let none = Recorder::builder().hog(Duration::from_secs(10_000), move |_| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let none = none.build();
    #[inline(never)]
    fn pauses_three_times() -> usize {
        (0..3).filter(|_| pause_job().is_ok()).count()
    }
    for name in ["first", "second"] {
        let builder = JobBuilder::new().hooks((all.job(name), none.job(name)));
        let mut step = builder.start(pauses_three_times).unwrap();
        while let Step::Paused(job) = step {
            step = job.resume();
        }
        assert!(matches!(step, Step::Finished(3)));
    }
    let ended = JobBuilder::new().hooks(all.job("ends")).start(|| ());
    assert!(matches!(ended, Ok(Step::Finished(()))));
    let seen: Vec<_> = (0..3).map(|_| reported.recv().unwrap()).collect();
    let expected = [("first", true), ("second", true), ("ends", false)];
    assert_eq!(seen, expected.map(|(name, has)| (name.to_owned(), HogKind::Ran, has)));
    assert_eq!(called.load(Ordering::Relaxed), 0);
    assert_eq!((all.numbers().all.hogs, none.numbers().all.hogs), (3, 0));
    drop(all);
    assert!(reported.recv().is_err(), "each was named once");
}

/// A job that waits in a loop for what nothing announces is named. Jobs that wait for something, and a job that gives
/// way because it always has something to do, are not.
#[test]
fn a_job_that_polls_without_an_event_is_named_once() {
    let _watchdog = Watchdog::new();
    let (reports, reported) = std::sync::mpsc::channel();
    let builder = Recorder::builder().busy_poll(Duration::from_millis(1), move |hog| {
        let seen = (hog.name.to_owned(), hog.kind, has_frame(hog.backtrace, "polls_until"));
        reports.send((seen, hog.to_string())).unwrap();
    });
    let recorder = builder.build();
    let scheduler = Scheduler::new().unwrap();
    let (is_named, named) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));

    #[inline(never)]
    fn polls_until(enough: impl Fn() -> bool) {
        while !enough() {
            pause_job().unwrap();
        }
    }
    let hooked = |name: &'static str| JobBuilder::new().hooks(recorder.job(name));
    for name in ["polls", "tries again"] {
        let (count, named) = (Rc::clone(&is_named), Rc::clone(&named));
        let job = hooked(name).spawn_on(&scheduler, move || {
            if name == "tries again" {
                current_job().unwrap().wait_ctx().set_status(Status::Eagain);
            }
            count.set(count.get() + 1);
            polls_until(|| named.get() == 2);
        });
        job.unwrap().detach();
    }
    let (reader, mut writer) = UnixStream::pair().unwrap();
    let mut reader = Pausing::new(reader).unwrap();
    let enough = Rc::clone(&named);
    let reads = hooked("reads").spawn_on(&scheduler, move || {
        while enough.get() < 2 {
            writer.write_all(b"x").unwrap();
            reader.read_exact(&mut [0]).unwrap(); // what it reads is there
        }
    });
    reads.unwrap().detach();
    let enough = Rc::clone(&named);
    let sleeps = hooked("sleeps").spawn_on(&scheduler, move || {
        while enough.get() < 2 {
            sleep(Duration::from_micros(10)).unwrap();
        }
    });
    sleeps.unwrap().detach();
    let mut seen = Vec::new();
    while scheduler.live_jobs() != 0 {
        scheduler.turn(Some(Duration::from_millis(1))).unwrap();
        if let Ok((one, text)) = reported.try_recv() {
            assert!(text.contains("it should say what it waits for"), "{text}");
            seen.push(one);
            named.set(seen.len());
        }
    }
    drop(recorder);
    seen.extend(reported.iter().map(|(one, _)| one));
    seen.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = ["polls", "tries again"].map(|name| (name.to_owned(), HogKind::Polls, true));
    assert_eq!(seen, expected);
}

#[test]
fn a_timeline_keeps_the_newest_runs() {
    let _watchdog = Watchdog::new();
    let recorder = Recorder::builder().timeline(5).build();
    let record = recorder.clone();
    let runs = move || {
        (0..4)
            .map(|_| {
                let step = JobBuilder::new().hooks(record.job("job")).start(pause_job).unwrap();
                let Step::Paused(mut job) = step else {
                    panic!("it pauses")
                };
                let _ = job.backtrace(); // is no run
                let id = job.id().get();
                assert!(matches!(job.resume(), Step::Finished(Ok(()))));
                id
            })
            .collect::<Vec<_>>()
    };
    let ids = thread::Builder::new().name("runs".into()).spawn(runs).unwrap();
    let ids = ids.join().unwrap();
    let timeline = recorder.timeline();
    let kept: Vec<_> = timeline.tracks[0]
        .runs
        .iter()
        .map(|run| (run.job, run.pause.is_some()))
        .collect();
    let newest = [
        (ids[1], false),
        (ids[2], true),
        (ids[2], false),
        (ids[3], true),
        (ids[3], false),
    ];
    assert_eq!(kept, newest, "the five newest of eight");
    assert_eq!(timeline.tracks[0].thread, "runs");
}

/// Runs a job for each thing that a job can wait for, and one that does not wait.
fn one_of_each_kind(recorder: &Recorder) {
    let scheduler = Scheduler::new().unwrap();
    let spawn = |name: &'static str, f: Box<dyn FnOnce()>| {
        JobBuilder::new()
            .hooks(recorder.job(name))
            .spawn_on(&scheduler, f)
            .unwrap()
    };
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    let (send, waker) = std::sync::mpsc::channel::<Waker>();
    let engine = thread::Builder::new().name("engine <1>".into());
    let engine = engine.spawn(move || waker.recv().unwrap().wake()).unwrap();
    spawn(
        "callback",
        Box::new(move || {
            let wake = WakeSource::new().unwrap();
            send.send(wake.waker().clone()).unwrap();
            let mut polls = 0;
            pause_until(WaitSpec::woken_by(&wake), || {
                polls += 1;
                (polls == 2).then_some(())
            })
            .unwrap();
            engine.join().unwrap();
        }),
    )
    .detach();
    spawn(
        "fd",
        Box::new(move || {
            let key = WaitKey::unique();
            let ctx = current_job().unwrap().wait_ctx().clone();
            ctx.add_wait_fd(key, reader.try_clone().unwrap());
            pause_job().unwrap();
            reader.read_exact(&mut [0]).unwrap();
            ctx.clear_fd(key);
        }),
    )
    .detach();
    spawn("deadline", Box::new(|| sleep(Duration::from_millis(2)).unwrap())).detach();
    spawn("retry", Box::new(|| pause_job().unwrap())).detach();
    spawn("fd's peer", Box::new(move || writer.write_all(&[1]).unwrap())).detach();
    let cancelled = spawn(
        "cancelled",
        Box::new(|| {
            current_job().unwrap().wait_ctx().set_status(Status::Ok);
            assert!(pause_job().is_err());
        }),
    );
    scheduler.turn(Some(Duration::ZERO)).unwrap();
    cancelled.request_cancel();
    scheduler.run().unwrap();
}

/// The words for a pause, without numbers.
fn without_numbers(text: &str) -> String {
    text.replace(|c: char| c.is_ascii_digit(), "")
}

#[test]
fn each_pause_has_its_reason_and_each_wake_its_cause() {
    let _watchdog = Watchdog::new();
    let recorder = Recorder::builder().timeline(100).build();
    one_of_each_kind(&recorder);
    let timeline = recorder.timeline();
    let runs = || timeline.tracks.iter().flat_map(|track| &track.runs);
    let mut woken: Vec<_> = runs()
        .filter_map(|run| Some((run.name.as_ref(), run.wake.as_ref()?)))
        .collect();
    woken.sort_by_key(|(name, _)| *name);
    let of_fd = runs().find(|run| run.name == "fd").unwrap().pause.as_ref().unwrap();
    let (waited, kind) = &of_fd.fds[0];
    assert!(kind.starts_with("pipe:["), "{kind}");
    let expected = [
        ("callback", WakeCause::Callback),
        ("cancelled", WakeCause::Cancel),
        ("deadline", WakeCause::Deadline),
        ("fd", WakeCause::Fd(waited.fd)),
        ("retry", WakeCause::Retry),
    ];
    let causes: Vec<_> = woken.iter().map(|(name, wake)| (*name, wake.cause)).collect();
    assert_eq!(causes, expected);

    let pauses: Vec<_> = runs()
        .filter_map(|run| Some((run.name.as_ref(), without_numbers(&run.pause.as_ref()?.to_string()))))
        .collect();
    let said = |name| {
        let found = pauses.iter().filter(|(candidate, _)| *candidate == name);
        found.map(|(_, text)| text.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(said("callback"), ["a callback"]);
    assert_eq!(said("cancelled"), ["a callback"]);
    assert_eq!(said("fd"), ["fd  (pipe:[], Readable)"]);
    assert!(said("deadline")[0].starts_with("a deadline in ."), "{pauses:?}");
    assert_eq!(said("retry"), ["nothing that it has named: it is polled"]);
    assert_eq!(said("fd's peer"), [""; 0], "it has not paused");

    // The engine ran no job, and has a track for its wake. Each wake lies between the pause and the run.
    let names: Vec<_> = timeline.tracks.iter().map(|track| track.thread.as_str()).collect();
    assert_eq!(names[1..], ["engine <1>"]);
    for run in runs() {
        let Some(wake) = &run.wake else { continue };
        assert_eq!(wake.track, usize::from(run.name == "callback"), "{run:?}");
        assert!(wake.at <= run.from && run.from + run.ran <= timeline.taken, "{run:?}");
        let before = runs()
            .find(|before| before.job == run.job && before.from < run.from)
            .unwrap();
        // The engine may call back before the job has paused.
        assert!(
            run.name == "callback" || before.from + before.ran <= wake.at,
            "{before:?} {run:?}"
        );
    }
}

/// The same of a job in a future, which is resumed by a callback, by a watch, and without an event.
#[test]
fn the_wakes_of_a_future_have_their_causes() {
    let _watchdog = Watchdog::new();
    let recorder = Recorder::builder().timeline(100).build();
    let job = JobBuilder::new().hooks(recorder.job("future")).future(|| {
        pause_job().unwrap();
        let ctx = current_job().unwrap().wait_ctx().clone();
        for _ in 0..2 {
            ctx.add_wait_fd(WaitKey::unique(), std::io::pipe().unwrap().0);
            pause_job().unwrap();
        }
        sleep(Duration::from_millis(1)).unwrap();
        let wake = WakeSource::new().unwrap();
        let mut polls = 0;
        let ready = || {
            polls += 1;
            wake.waker().wake_by_ref();
            (polls == 2).then_some(())
        };
        pause_until(WaitSpec::woken_by(&wake), ready).unwrap();
    });
    // A watch that spins.
    let watched = job.watch(|ctx, task| match ctx.deadline() {
        Some(at) if Instant::now() >= at => Poll::Ready(()),
        Some(_) => {
            task.waker().wake_by_ref();
            Poll::Pending
        }
        None => Poll::Ready(()),
    });
    await_or_block(watched).unwrap().unwrap();
    let without_watch = JobBuilder::new().hooks(recorder.job("future")).future(pause_job);
    await_or_block(without_watch).unwrap().unwrap().unwrap();
    let timeline = recorder.timeline();
    let wakes = timeline.tracks[0].runs.iter().filter_map(|run| run.wake.as_ref());
    let causes: Vec<_> = wakes.map(|wake| wake.cause).collect();
    let fd = timeline.tracks[0].runs[1].pause.as_ref().unwrap().fds[0].0.fd;
    let (retry, deadline) = (WakeCause::Retry, WakeCause::Deadline);
    let of_watch = [retry, WakeCause::Fd(fd), WakeCause::Watch, deadline];
    assert_eq!(causes, [&of_watch[..], &[WakeCause::Callback, retry]].concat());
}

/// What Perfetto and `chrome://tracing` read: each kind of event has the fields that it needs, spans of one track are
/// nested, and the names are as they were.
#[test]
fn the_file_of_a_timeline_is_a_trace() {
    let _watchdog = Watchdog::new();
    let recorder = Recorder::builder().timeline(100).build();
    one_of_each_kind(&recorder);
    let paused = JobBuilder::new()
        .hooks(recorder.job("a \"b\" <c>"))
        .start(pause_job)
        .unwrap();
    let timeline = recorder.timeline();
    drop(paused);
    let text = timeline.to_chrome_json();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let events = json["traceEvents"].as_array().unwrap();
    let of = |phase: &'static str| events.iter().filter(move |event| event["ph"] == phase);
    let phases: BTreeSet<_> = events.iter().map(|event| event["ph"].as_str().unwrap()).collect();
    assert_eq!(phases, BTreeSet::from(["M", "X", "b", "e"]));
    let runs: usize = timeline.tracks.iter().map(|track| track.runs.len()).sum();
    let wakes = timeline
        .tracks
        .iter()
        .flat_map(|track| &track.runs)
        .filter(|run| run.wake.is_some());

    let metadata: Vec<_> = of("M")
        .map(|event| (event["name"].as_str().unwrap(), &event["args"]["name"]))
        .collect();
    assert_eq!(metadata.len(), 1 + timeline.tracks.len());
    assert!(metadata[0].0 == "process_name" && metadata[0].1.as_str().unwrap().starts_with("recorder"));
    assert!(metadata[1..].iter().all(|(kind, _)| *kind == "thread_name"));
    assert_eq!(metadata[2].1, "engine <1>");
    for event in events {
        assert!(event["pid"] == 1 && event["tid"].as_u64() > Some(1), "{event}");
        assert!(event["ph"] == "M" || event["ts"].as_f64() > Some(0.0), "{event}");
    }

    // The arrow of each wake leads to one run, which begins after it.
    let category = |category: &'static str| of("X").filter(move |event| event["cat"] == category);
    assert_eq!(
        (category("run").count(), category("wake").count()),
        (runs, wakes.count())
    );
    for wake in category("wake") {
        let ends: Vec<_> = category("run")
            .filter(|run| run["bind_id"] == wake["bind_id"])
            .collect();
        assert_eq!(
            (ends.len(), &wake["flow_out"], &wake["dur"]),
            (1, &true.into(), &0.into()),
            "{wake}"
        );
        assert!(ends[0]["flow_in"] == true && ends[0]["ts"].as_f64() >= wake["ts"].as_f64());
        assert!(wake["bind_id"].as_str().unwrap().starts_with("0x"), "{wake}");
    }
    for run in category("run") {
        assert_eq!(run["flow_in"].is_null(), run["args"]["woken_by"].is_null(), "{run}");
        assert!(run["dur"].as_f64() > Some(0.0), "{run}");
    }

    // What a job does is nested in what it is, and one follows the other.
    for id in of("b").map(|event| &event["id"]).collect::<HashSet<_>>() {
        let mut open: Vec<&serde_json::Value> = Vec::new();
        let mut last = 0.0;
        for event in events
            .iter()
            .filter(|event| event["cat"] == "job" && event["id"] == *id)
        {
            assert!(event["ts"].as_f64() >= Some(last), "{event}");
            last = event["ts"].as_f64().unwrap();
            if event["ph"] == "b" {
                assert!(open.len() < 2, "{event}");
                open.push(event);
            } else {
                assert_eq!(open.pop().unwrap()["name"], event["name"]);
            }
        }
        assert!(open.is_empty());
    }
    let waits = of("b").filter(|event| event["name"].as_str().unwrap().starts_with("waits for "));
    let unfinished: Vec<_> = waits.filter(|event| event["args"]["until"].is_string()).collect();
    assert_eq!(unfinished.len(), 1, "the job that is still paused");

    assert_eq!(Timeline::from_chrome_json(&text).unwrap(), timeline);
    for bad in [
        "",
        "{}",
        "[1]",
        &text.replace("\"job\":", "\"jib\":"),
        &text.replace("thread_name", "name"),
    ] {
        assert!(Timeline::from_chrome_json(bad).is_err());
    }
}

#[test]
fn the_drawing_of_a_timeline_is_an_svg() {
    let _watchdog = Watchdog::new();
    let recorder = Recorder::builder().timeline(100).build();
    one_of_each_kind(&recorder);
    let timeline = recorder.timeline();
    let (from, to) = (Duration::ZERO, timeline.taken);
    let panel = |title| Panel {
        title,
        timeline: &timeline,
        from,
        to,
    };
    let svg = draw(&[panel("a & b"), panel("again")]);
    assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n"), "{svg}");
    assert!(
        svg.contains("a &amp; b") && svg.contains("prefers-color-scheme:dark"),
        "{svg}"
    );
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    for class in ["ready", "call", "fd", "time"] {
        // In the key, and in each panel.
        assert!(
            svg.matches(&format!("class=\"{class}\"")).count() >= 3,
            "{class}: {svg}"
        );
    }
    // "fd's peer" starts when the others have paused, and ends at once. "retry" may have ended by then.
    let rows = |name| svg.matches(&format!("font-size=\"9\">{name} #")).count();
    assert_eq!(["callback", "fd", "deadline"].map(rows), [2; 3], "{svg}");
    assert_eq!(svg.matches(">jobs run ").count(), 2, "{svg}");

    let later = Panel {
        from: to,
        to: to + Duration::from_secs(1),
        ..panel("later")
    };
    assert!(!draw(&[later]).contains("font-size=\"9\""), "no job is there then");
    let empty = Recorder::builder().build().timeline();
    for svg in [draw(&[]), empty.to_svg(), timeline.to_svg()] {
        assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN"), "{svg}");
    }
}

/// A job has the highest row in which no other one is. A row with one job has its name.
#[test]
fn jobs_of_different_times_share_a_row() {
    let recorder = Recorder::builder().timeline(100).build();
    let start = |name: &'static str| match JobBuilder::new().hooks(recorder.job(name)).start(pause_job).unwrap() {
        Step::Paused(job) => job,
        Step::Finished(_) => panic!("it pauses"),
    };
    let (long, short) = (start("long"), start("first"));
    assert!(matches!(short.resume(), Step::Finished(Ok(()))));
    let (_long, third) = (long, start("second"));
    let lonely = start("beside");
    let svg = recorder.timeline().to_svg();
    let rows = svg
        .split("font-size=\"9\">")
        .skip(1)
        .map(|row| row.split([' ', '<']).next().unwrap());
    assert_eq!(rows.collect::<Vec<_>>(), ["long", "2", "beside"], "{svg}");
    drop((third, lonely));
}

/// The run that is too long may be the last one of a poll, too.
#[test]
fn a_job_that_computes_and_polls_is_named_for_both() {
    let _watchdog = Watchdog::new();
    let (send, reported) = std::sync::mpsc::channel();
    let also = send.clone();
    let recorder = Recorder::builder()
        .hog(Duration::from_millis(500), move |hog| send.send(hog.kind).unwrap())
        .busy_poll(Duration::from_millis(500), move |hog| also.send(hog.kind).unwrap())
        .build();
    let step = JobBuilder::new().hooks(recorder.job("both")).start(|| {
        (0..99).for_each(|_| pause_job().unwrap());
        thread::sleep(Duration::from_millis(500)); // computes, and then pauses for the hundredth time
        pause_job().unwrap();
    });
    let Ok(Step::Paused(mut job)) = step else {
        panic!("it pauses")
    };
    while let Step::Paused(again) = job.resume() {
        job = again;
    }
    let kinds = [reported.recv().unwrap(), reported.recv().unwrap()];
    assert!(
        kinds.contains(&HogKind::Ran) && kinds.contains(&HogKind::Polls),
        "{kinds:?}"
    );
    assert_eq!(recorder.numbers().all.hogs, 2);
}
