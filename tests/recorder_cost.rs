//! A switch of a job that is recorded takes so many instructions and no more, and one of a job that is not takes none
//! for it: counted by callgrind, so that a busy machine changes nothing.

use std::process::Command;

use asyncjob::insight::Recorder;
use asyncjob::{Job, JobBuilder, Step, pause_job};
use asyncjob_testing::tools::{VALGRIND, missing};

/// The environment variable of a run under callgrind: the kind of the job, and how often it is resumed.
const RUN: &str = "ASYNCJOB_TEST_RESUMES";

/// What is counted, and the most instructions of one pause and resume in an optimised build.
///
/// | kind | counted | of which callgrind sees no |
/// |---|---:|---|
/// | plain | 74 | |
/// | numbers | 475 | two readings of the clock: it takes them for system calls |
/// | timeline | 713 | the same |
const MOST: [(&str, u64); 3] = [("plain", 110), ("numbers", 550), ("timeline", 820)];

#[test]
fn a_recorded_switch_takes_no_more_instructions() {
    if missing(&[VALGRIND]) {
        return;
    }
    for (kind, most) in MOST {
        let each = (instructions(kind, 3000) - instructions(kind, 1000)) / 2000;
        println!("{kind}: {each} instructions");
        assert!(
            cfg!(debug_assertions) || each <= most,
            "{kind}: {each} instructions, at most {most}"
        );
        assert!(each > 0);
    }
}

/// The instructions of a process whose job is resumed so often.
fn instructions(kind: &str, resumes: u32) -> u64 {
    let this = std::env::current_exe().unwrap();
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(this)
        .args(["--exact", "is_resumed_so_often", "--ignored", "--test-threads=1"])
        .env(RUN, format!("{kind} {resumes}"))
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}");
    let collected = printed.lines().find_map(|line| line.split_once("Collected : "));
    collected.expect("callgrind counts").1.trim().parse().unwrap()
}

#[test]
#[ignore = "the other test runs this under callgrind"]
fn is_resumed_so_often() {
    let run = std::env::var(RUN).unwrap();
    let (kind, resumes) = run.split_once(' ').unwrap();
    let kept = if kind == "timeline" { 100 } else { 0 };
    let recorder = Recorder::builder().timeline(kept).build();
    let step = match kind {
        "plain" => JobBuilder::new().start(pauses as fn()).unwrap(),
        _ => JobBuilder::new()
            .hooks(recorder.job("job"))
            .start(pauses as fn())
            .unwrap(),
    };
    let mut job = paused(step);
    for _ in 0..resumes.parse().unwrap() {
        job = paused(job.resume());
    }
    drop(job);
}

fn pauses() {
    while pause_job().is_ok() {}
}

fn paused(step: Step<()>) -> Job<()> {
    match step {
        Step::Paused(job) => job,
        Step::Finished(()) => panic!("the job pauses for ever"),
    }
}
