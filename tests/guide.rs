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

#[test]
fn an_error_of_misuse_ends_with_the_address_of_the_page_that_helps() {
    use asyncjob::job_future::JobError;
    use asyncjob::offload::OffloadError;
    use asyncjob::pool::PoolError;
    use asyncjob::scheduler::JoinError;
    use asyncjob::waiting::AwaitError;
    use asyncjob::{PauseError, Quarantined, SpawnErrorKind, StartErrorKind};

    let no_stack = || std::io::Error::from(std::io::ErrorKind::OutOfMemory);
    let errors: [(Box<dyn std::error::Error>, &str); 24] = [
        (Box::new(PauseError::NotInJob), "jobs"),
        (Box::new(PauseError::Blocked), "across-a-pause"),
        (Box::new(PauseError::Panicking), "across-a-pause"),
        (Box::new(PauseError::OffStack), "across-a-pause"),
        (Box::new(AwaitError::NotInJob), "jobs"),
        (Box::new(AwaitError::CannotPause), "across-a-pause"),
        (Box::new(OffloadError::NotInJob), "jobs"),
        (Box::new(OffloadError::CannotPause), "across-a-pause"),
        (Box::new(OffloadError::Forked), "fork"),
        (Box::new(StartErrorKind::NoJobs { limit: 1 }), "bound"),
        (Box::new(StartErrorKind::NoStack(no_stack())), "bound"),
        (Box::new(JoinError::NoStack(no_stack())), "bound"),
        (Box::new(JobError::Unwatched), "tokio"),
        (Box::new(SpawnErrorKind::Full { max_jobs: 1 }), "bound"),
        (Box::new(SpawnErrorKind::NoScheduler), "jobs"),
        (Box::new(SpawnErrorKind::Forked), "fork"),
        (Box::new(SpawnErrorKind::ShuttingDown), "cancel"),
        (Box::new(SpawnErrorKind::WaitCtxInUse), "from-c"),
        (Box::new(JobError::WaitCtxInUse), "from-c"),
        (Box::new(OffloadError::ShutDown), "bound"),
        (Box::new(JoinError::NoWaker(no_stack())), "bound"),
        (
            Box::new(PoolError::PrecreateAboveLimit { precreate: 2, limit: 1 }),
            "bound",
        ),
        (Box::new(PoolError::GuardOutOfRange { guard: 0 }), "stack-size"),
        (Box::new(Quarantined), "cancel"),
    ];
    for (error, page) in errors {
        let (text, end) = (error.to_string(), format!(" [{}]", address(page)));
        assert!(text.ends_with(&end), "{text:?} does not end with {end:?}");
        // What `unwrap` prints, and a `main` that returns an error.
        let (debug, source) = (format!("{error:?}"), error.source());
        let (variant, rest) = debug.split_once(": ").expect("the variant, then the sentence");
        assert!(variant.chars().all(char::is_alphabetic), "{debug}");
        let source = source.map(|source| format!(": {source:?}")).unwrap_or_default();
        assert_eq!(rest, text + &source);
    }
    assert!(format!("{:?}", PauseError::NotInJob).starts_with("NotInJob: pause_job was called outside"));
}

/// The sentence of a panic.
fn panics_with<T>(f: impl FnOnce() -> T) -> String {
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
    let payload = panic.err().expect("it panics");
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.unwrap_or_else(|| *payload.downcast::<String>().expect("a sentence"))
}

#[test]
fn so_do_the_sentences_of_panics_and_of_settings_that_cannot_be() {
    use asyncjob::offload::Offload;
    use asyncjob::scheduler::Workers;
    use asyncjob::{Step, WaitCtx, block_pause, start_job};

    let broadcast = || {
        let workers = Workers::new(1).unwrap();
        let _no_pause = block_pause();
        panics_with(|| workers.broadcast(|_| ()))
    };
    let Ok(Step::Finished(broadcast)) = start_job(&WaitCtx::new(), broadcast) else {
        panic!("it cannot pause")
    };
    let no_threads = Offload::builder().threads(0).build().unwrap_err().to_string();
    for (text, page) in [(broadcast, "across-a-pause"), (no_threads, "bound")] {
        let end = format!(" [{}]", address(page));
        assert!(text.ends_with(&end), "{text:?} does not end with {end:?}");
    }
    #[cfg(feature = "insight")]
    assert!(
        asyncjob::insight::Timeline::from_chrome_json("{}")
            .unwrap_err()
            .to_string()
            .ends_with(&format!(" [{}]", address("timeline")))
    );
}
