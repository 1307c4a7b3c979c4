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
