//! Promise: each page of the guide is found from the README, from its own table and from the front page of the
//! documentation, begins with a question, and its programs are compiled.

use std::fs;
use std::path::Path;

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn each_page_is_found_asks_a_question_and_is_tested() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guide");
    let (readme, table, front) = (file("README.md"), file("docs/guide/README.md"), file("src/lib.rs"));
    let tested = [
        &front,
        &file("crates/tokio/src/lib.rs"),
        &file("crates/rustls/src/lib.rs"),
        &file("crates/openssl/src/lib.rs"),
    ];
    let mut pages = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name == "README.md" {
            continue;
        }
        pages += 1;
        let text = file(&format!("docs/guide/{name}"));
        let title = text.lines().next().unwrap();
        let question = title.strip_prefix("# ").expect("a page begins with its title");
        assert!(question.ends_with('?'), "{name}: {question}");
        for (where_from, link) in [
            (&readme, format!("(docs/guide/{name})")),
            (&table, format!("({name})")),
            (&front, format!("/docs/guide/{name}\n")),
        ] {
            assert!(where_from.contains(&link), "{name} is not found by {link}");
        }
        if text.contains("```rust\n") || text.contains("```rust,no_run\n") {
            let included = format!("docs/guide/{name}\")]");
            assert!(
                tested.iter().any(|crate_root| crate_root.contains(&included)),
                "{name}: not compiled"
            );
        }
    }
    assert!(pages >= 14, "{pages}");
}

/// The lines that rustdoc hides, which begin with `# `, are visible where a page is read as Markdown. A reader who
/// copies such a program gets one that does not compile.
#[test]
fn a_program_is_shown_as_it_is_compiled() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = fs::read_dir(root.join("docs/guide"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let readmes = fs::read_dir(root.join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap().path().join("README.md"));
    let (mut looked_at, mut hidden) = (0, Vec::new());
    for page in pages.chain(readmes).chain([root.join("README.md")]) {
        let Ok(text) = fs::read_to_string(&page) else {
            continue; // a crate without a README
        };
        let mut language = None;
        for line in text.lines() {
            if let Some(fence) = line.strip_prefix("```") {
                language = if language.is_none() { Some(fence) } else { None };
            } else if language.is_some_and(|name| name.starts_with("rust")) {
                looked_at += 1;
                if line == "#" || line.starts_with("# ") {
                    hidden.push(format!("{}: {line}", page.display()));
                }
            }
        }
    }
    assert!(looked_at > 500, "{looked_at}");
    assert_eq!(hidden, Vec::<String>::new());
}

/// The words of each part of a page, from one heading to the next, with the words of the heading. Code counts.
fn parts(text: &str) -> Vec<(String, usize)> {
    let (mut parts, mut in_code) = (Vec::new(), false);
    for line in text.lines() {
        in_code ^= line.starts_with("```");
        if !in_code && line.starts_with('#') {
            parts.push((line.to_owned(), 0));
        }
        if let Some((_, words)) = parts.last_mut() {
            *words += line.split_whitespace().count();
        }
    }
    parts
}

#[test]
fn an_answer_is_found_within_two_minutes() {
    // 200 words a minute: the beginning of the README, half of the index, and one part of a page.
    let readme = file("README.md");
    let (beginning, _) = readme.split_once("](#the-guide)").expect("a link to the guide");
    assert!(beginning.split_whitespace().count() <= 120, "the link comes late");
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guide");
    for entry in fs::read_dir(directory).unwrap() {
        let page = entry.unwrap().file_name().into_string().unwrap();
        if page == "README.md" {
            continue;
        }
        let text = file(&format!("docs/guide/{page}"));
        for (heading, words) in parts(&text) {
            assert!(words <= 300, "{page}: {heading}: {words} words: divide it");
        }
    }
}

/// The address of a page, as the front page of the documentation has it.
fn address(page: &str) -> String {
    let front = file("src/lib.rs");
    let end = format!("/docs/guide/{page}.md");
    let line = front.lines().find(|line| line.ends_with(&end));
    let line = line.unwrap_or_else(|| panic!("the front page has no link to {page}.md"));
    line.rsplit(' ').next().unwrap().to_owned()
}

#[test]
fn each_page_that_an_error_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<_> = fs::read_dir(root.join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.push(root.to_owned());
    let mut named = 0;
    while let Some(folder) = folders.pop() {
        let inside = folder.join("src");
        let folder = if inside.is_dir() { inside } else { folder };
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                for call in fs::read_to_string(&path).unwrap().split("guide_page!(\"").skip(1) {
                    let page = call.split('"').next().unwrap();
                    assert!(
                        root.join(format!("docs/guide/{page}.md")).is_file(),
                        "{}: {page}",
                        path.display()
                    );
                    named += 1;
                }
            }
        }
    }
    assert!(named >= 20, "{named}");
}

/// An error that the caller can act on leads to the page that says how. The others are here with the reason.
#[test]
fn each_error_ends_with_the_address_of_the_page_that_helps_or_is_here_with_a_reason() {
    use asyncjob::job_future::JobError;
    use asyncjob::offload::{OffloadError, TryRunError};
    use asyncjob::pool::PoolError;
    use asyncjob::scheduler::JoinError;
    use asyncjob::stack::SetStackMemoryError;
    use asyncjob::waiting::AwaitError;
    use asyncjob::{Cancelled, Interrupted, Panic, PauseError, Quarantined, SpawnErrorKind, StartErrorKind};
    use asyncjob_testing::error_pages::{check_errors, leads_nowhere, leads_to};

    const ASKED: &str = "the program has asked for it: a cancel, a deadline";
    const PANIC: &str = "the program's own panic";
    const SOURCE: &str = "its source says what";
    let system = || std::io::Error::from(std::io::ErrorKind::OutOfMemory);
    let panic = || Panic::from(Box::new("a panic") as Box<dyn std::any::Any + Send>);
    let cases = [
        leads_nowhere(ASKED, Cancelled),
        leads_nowhere(ASKED, Interrupted::Cancelled),
        leads_nowhere(ASKED, Interrupted::TimedOut),
        leads_nowhere(ASKED, PauseError::Cancelled),
        leads_to("jobs", PauseError::NotInJob),
        leads_to("across-a-pause", PauseError::Blocked),
        leads_to("across-a-pause", PauseError::Panicking),
        leads_to("across-a-pause", PauseError::OffStack),
        leads_to("cancel", Quarantined),
        leads_to("jobs", AwaitError::NotInJob),
        leads_to("across-a-pause", AwaitError::CannotPause),
        leads_nowhere(ASKED, AwaitError::Interrupted(Interrupted::TimedOut)),
        leads_to("bound", AwaitError::NoWaker(system())),
        leads_to("bound", StartErrorKind::NoJobs { limit: 1 }),
        leads_to("bound", StartErrorKind::NoStack(system())),
        leads_to("bound", SpawnErrorKind::Full { max_jobs: 1 }),
        leads_to("cancel", SpawnErrorKind::ShuttingDown),
        leads_to("from-c", SpawnErrorKind::WaitCtxInUse),
        leads_to("jobs", SpawnErrorKind::NoScheduler),
        leads_to("fork", SpawnErrorKind::Forked),
        leads_to("from-c", SetStackMemoryError),
        leads_to("bound", PoolError::PrecreateAboveLimit { precreate: 2, limit: 1 }),
        leads_to("stack-size", PoolError::GuardOutOfRange { guard: 0 }),
        leads_nowhere("the sentence says all that there is to do", PoolError::InsideJob),
        leads_nowhere(PANIC, JoinError::Panicked(panic())),
        leads_nowhere(ASKED, JoinError::Cancelled),
        leads_nowhere("the engine's documentation helps", JoinError::EngineFailed),
        leads_to("cancel", JoinError::Quarantined),
        leads_to("bound", JoinError::NoStack(system())),
        leads_nowhere(ASKED, JoinError::Interrupted(Interrupted::TimedOut)),
        leads_to("bound", JoinError::NoWaker(system())),
        leads_nowhere(SOURCE, JoinError::Scheduler(system())),
        leads_to("bound", JobError::NoStack(system())),
        leads_nowhere("the engine's documentation helps", JobError::EngineFailed),
        leads_to("tokio", JobError::Unwatched),
        leads_to("from-c", JobError::WaitCtxInUse),
        leads_to("bound", JobError::Await(AwaitError::NoWaker(system()))), // as the error in it
        leads_nowhere(PANIC, OffloadError::Panicked(panic())),
        leads_to("jobs", OffloadError::NotInJob),
        leads_to("across-a-pause", OffloadError::CannotPause),
        leads_nowhere(ASKED, OffloadError::Interrupted(Interrupted::TimedOut)),
        leads_to("bound", OffloadError::ShutDown),
        leads_to("fork", OffloadError::Forked),
        leads_to("bound", OffloadError::NoWaker(system())),
        full(),
        leads_to("jobs", TryRunError::<()>::Failed(OffloadError::NotInJob)), // as the error in it
    ];
    check_errors(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &cases);
    assert!(
        PauseError::NotInJob
            .to_string()
            .ends_with(&format!(" [{}]", address("jobs"))),
        "the address is that of the front page"
    );
}

/// The error of a call that an `Offload` has no place for.
fn full() -> asyncjob_testing::error_pages::ErrorCase {
    use asyncjob::offload::Offload;
    use asyncjob::{Step, WaitCtx, start_job};
    use std::sync::{Arc, Mutex};

    let offload = Offload::builder().threads(1).queue_capacity(1).build().unwrap();
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock().unwrap();
    let mut paused = Vec::new();
    let refused = loop {
        let (offload, gate) = (offload.clone(), Arc::clone(&gate));
        let call = move || offload.try_run(move || drop(gate.lock()));
        match start_job(&WaitCtx::new(), call).unwrap() {
            Step::Paused(job) => paused.push(job), // the first two at most
            Step::Finished(result) => break result.unwrap_err(),
        }
    };
    drop(closed);
    asyncjob_testing::error_pages::leads_to("bound", refused)
}

/// The sentence of a panic.
fn panics_with<T>(f: impl FnOnce() -> T) -> String {
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
    let payload = panic.err().expect("it panics");
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.unwrap_or_else(|| *payload.downcast::<String>().expect("a sentence"))
}

/// What the scheduler says when one of its jobs runs it.
fn run_in_a_job() -> String {
    use asyncjob::scheduler::Scheduler;
    use std::rc::Rc;

    let scheduler = Rc::new(Scheduler::new().unwrap());
    let inside = Rc::clone(&scheduler);
    let job = scheduler.spawn(move || panics_with(|| inside.run())).unwrap();
    scheduler.run_until(job).unwrap()
}

#[test]
fn so_do_the_sentences_of_panics_and_of_settings_that_cannot_be() {
    use asyncjob::offload::Offload;
    use asyncjob::scheduler::{Scheduler, Workers};
    use asyncjob::waiting::{WaitSpec, WakeSource};
    use asyncjob::{Step, WaitCtx, block_pause, start_job};

    let broadcast = || {
        let workers = Workers::new(1).unwrap();
        let _no_pause = block_pause();
        panics_with(|| workers.broadcast(|_| ()))
    };
    let Ok(Step::Finished(broadcast)) = start_job(&WaitCtx::new(), broadcast) else {
        panic!("it cannot pause")
    };
    let scheduler = Scheduler::new().unwrap();
    let elsewhere = Scheduler::new().unwrap();
    let (job, other) = (scheduler.spawn(|| ()).unwrap(), elsewhere.spawn(|| ()).unwrap());
    let source = WakeSource::new().unwrap();
    let used_in_a_job = start_job(&WaitCtx::new(), move || panics_with(|| WaitSpec::woken_by(&source)));
    let Ok(Step::Finished(used_in_a_job)) = used_in_a_job else {
        panic!("it does not wait")
    };
    let sentences = [
        (broadcast, "across-a-pause"),
        (panics_with(|| job.join()), "jobs"),
        (panics_with(|| Scheduler::new().unwrap().run_until(other)), "jobs"),
        (run_in_a_job(), "jobs"),
        (used_in_a_job, "engine"),
        (Offload::builder().threads(0).build().unwrap_err().to_string(), "bound"),
        (Workers::builder().threads(0).build().unwrap_err().to_string(), "jobs"),
    ];
    for (text, page) in sentences {
        let end = format!(" [{}]", address(page));
        assert!(text.ends_with(&end), "{text:?} does not end with {end:?}");
    }
    #[cfg(feature = "insight")]
    so_do_those_of_insight();
}

#[cfg(feature = "insight")]
fn so_do_those_of_insight() {
    use asyncjob::insight::{Timeline, on_signal};

    const SIGKILL: i32 = 9; // which no program may handle
    let errors = [
        (Timeline::from_chrome_json("{}").unwrap_err(), "timeline"),
        (on_signal(SIGKILL, |_| ()).unwrap_err(), "hang"),
        #[cfg(all(target_os = "linux", not(asyncjob_portable)))]
        (
            asyncjob::insight::Recorder::builder()
                .interrupt_by(SIGKILL)
                .unwrap_err(),
            "numbers",
        ),
    ];
    for (error, page) in errors {
        let end = format!(" [{}]", address(page));
        assert!(error.to_string().ends_with(&end), "{error}");
    }
}
