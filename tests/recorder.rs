//! Promise: a recorder counts and measures the jobs that have its hook, under every driver, and its timeline says which
//! job ran when on which thread.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use asyncjob::insight::{Numbers, Recorder};
use asyncjob::scheduler::{Scheduler, Workers};
use asyncjob::waiting::await_or_block;
use asyncjob::{JobBuilder, Step, pause_job};
use asyncjob_testing::Watchdog;

/// Jobs started, jobs ended, runs, pauses.
fn counts(numbers: &Numbers) -> [u64; 4] {
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
        ("scheduled", [1, 1, 3, 2]),
    ];
    assert_eq!(by_name, expected);
    assert_eq!(counts(&numbers), [6, 5, 12, 6]);
    for (_, one) in &numbers.by_name {
        let times = [one.runs, one.pauses];
        assert!(
            times
                .iter()
                .all(|times| times.median <= times.p99 && times.p99 <= times.max),
            "{one:?}"
        );
    }
    let table = numbers.to_string();
    assert_eq!(
        (table.lines().count(), table.contains("scheduled")),
        (5, true),
        "{table}"
    );
    drop(paused);
    assert_eq!(recorder.numbers().ended, 6);
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
    assert_eq!(counts(&numbers), [3000, 3000, 6000, 3000]);
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

#[test]
fn a_job_that_keeps_its_thread_is_named_once() {
    let _watchdog = Watchdog::new();
    let named = Arc::new(Mutex::new(Vec::new()));
    let names = Arc::clone(&named);
    // Each run takes longer than nothing.
    let all = Recorder::builder().hog(Duration::ZERO, move |hog| {
        names.lock().unwrap().push(hog.name.to_string());
        panic!("a report that panics does not cancel the job");
    });
    let all = all.build();
    let called = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&called);
    let none = Recorder::builder().hog(Duration::from_secs(10_000), move |_| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let none = none.build();
    for name in ["first", "second"] {
        let builder = JobBuilder::new().hooks((all.job(name), none.job(name)));
        let step = builder.start(|| {
            (0..3)
                .map(|_| pause_job())
                .collect::<Result<Vec<_>, _>>()
                .map(|all| all.len())
        });
        let mut step = step.unwrap();
        while let Step::Paused(job) = step {
            step = job.resume();
        }
        assert!(matches!(step, Step::Finished(Ok(3))));
    }
    assert_eq!(*named.lock().unwrap(), ["first", "second"]);
    assert_eq!(called.load(Ordering::Relaxed), 0);
}

#[test]
fn a_timeline_keeps_the_newest_runs_and_is_a_file_and_a_drawing() {
    let _watchdog = Watchdog::new();
    let recorder = Recorder::builder().timeline(5).build();
    let record = recorder.clone();
    let runs = move || {
        for _ in 0..4 {
            let step = JobBuilder::new().hooks(record.job("a<b")).start(pause_job).unwrap();
            let Step::Paused(job) = step else { panic!("it pauses") };
            let _ended = job.resume();
        }
    };
    thread::Builder::new()
        .name("runs & rests".into())
        .spawn(runs)
        .unwrap()
        .join()
        .unwrap();
    let timeline = recorder.timeline();
    let kept: Vec<_> = timeline.tracks[0].runs.iter().map(|run| run.job).collect();
    assert_eq!(kept, [2, 3, 3, 4, 4], "the five newest of eight");

    let json: serde_json::Value = serde_json::from_str(&timeline.to_chrome_json()).unwrap();
    let events = json["traceEvents"].as_array().unwrap();
    let of = |phase: &'static str| events.iter().filter(move |event| event["ph"] == phase);
    assert_eq!(["M", "X", "b", "e"].map(|phase| of(phase).count()), [1, 5, 5, 5]);
    assert_eq!(of("M").next().unwrap()["args"]["name"], "runs & rests");
    assert!(of("X").all(|run| run["name"] == "a<b" && run["ts"].is_f64() && run["dur"].as_f64() > Some(0.0)));
    let jobs: HashSet<_> = of("b").map(|event| event["id"].as_u64().unwrap()).collect();
    assert_eq!(jobs, HashSet::from([2, 3, 4]));

    let svg = timeline.to_svg();
    assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n"), "{svg}");
    assert_eq!(svg.matches("<rect").count(), 1 + 5, "the key, and the runs: {svg}");
    assert!(
        svg.contains("runs &amp; rests") && svg.contains("a&lt;b #2") && !svg.contains("a<b"),
        "{svg}"
    );
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    let empty = Recorder::builder().build().timeline();
    assert!(empty.to_svg().ends_with("</svg>\n") && !empty.to_svg().contains("NaN"));
}
