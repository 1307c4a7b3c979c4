//! Promise: the manual pages are current, and have no mistake that groff reports. The page of the functions says what
//! the header says.

mod support;

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use asyncjob_testing::tools::{GROFF, missing};
use support::source;

#[test]
fn the_page_of_the_functions_is_made_from_the_header() {
    let made = page(&fs::read_to_string(source("include/asyncjob.h")).unwrap());
    let path = source("man/asyncjob.3");
    if std::env::var_os("ASYNCJOB_WRITE_HEADER").is_some() {
        fs::write(&path, &made).unwrap();
    }
    assert!(
        made == fs::read_to_string(&path).unwrap(),
        "not current. To write it: ASYNCJOB_WRITE_HEADER=1 cargo test -p asyncjob-capi --test manual_pages\n{made}"
    );
}

#[test]
fn groff_has_no_warning() {
    if missing(&[GROFF]) {
        return;
    }
    for page in ["man/asyncjob.3", "man/asyncjob.7"] {
        let mut groff = Command::new("groff");
        groff
            .args(["-man", "-Tutf8", "-ww", "-rCHECKSTYLE=3"])
            .arg(source(page));
        let output = groff.output().expect("groff starts");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{page}");
        assert!(output.status.success() && output.stdout.len() > 1000, "{page}");
    }
}

/// What the header says before a declaration, and the declaration.
fn declarations(header: &str) -> Vec<(&str, &str)> {
    let blocks = header.split("\n/**\n").skip(1);
    blocks
        .map(|block| {
            let (comment, rest) = block.split_once(" */\n").expect("a comment that ends");
            (comment, rest.split("\n\n").next().expect("a declaration"))
        })
        .collect()
}

fn page(header: &str) -> String {
    let declarations = declarations(header);
    let functions = |wanted: bool| {
        let all = declarations.iter();
        all.filter(move |(_, declaration)| {
            wanted != (declaration.starts_with('#') || declaration.starts_with("typedef"))
        })
    };
    let mut page = String::from(
        r#".\" A test makes this page from include/asyncjob.h: do not edit it.
.TH asyncjob 3 "" asyncjob
.SH NAME
asyncjob \- OpenSSL's ASYNC_JOB without OpenSSL: its functions, types and constants
.SH SYNOPSIS
.nf
.B #include <asyncjob.h>
.PP
cc program.c $(pkg-config --cflags --libs asyncjob)
.PP
"#,
    );
    for (_, declaration) in functions(true) {
        writeln!(page, "{}", escaped(declaration)).unwrap();
    }
    page.push_str(".fi\n.SH DESCRIPTION\n");
    page.push_str(
        "These are the functions of OpenSSL's header\n.IR <openssl/async.h> ,\nwith the same types and numbers.\n\
         A number such as S42 names a behaviour of OpenSSL, which the contract of asyncjob describes.\n\
         See\n.BR asyncjob (7).\n",
    );
    for (comment, declaration) in functions(true) {
        let name = declaration.split('(').next().unwrap();
        let name = name.rsplit([' ', '*']).next().unwrap();
        writeln!(page, ".SS {name}").unwrap();
        prose(comment, ".PP", &mut page);
    }
    page.push_str(".SH TYPES AND CONSTANTS\n");
    for (comment, declaration) in functions(false) {
        writeln!(page, ".TP\n.B {}", escaped(&declaration.replace('\n', " "))).unwrap();
        prose(comment, ".IP", &mut page);
    }
    page.push_str(".SH SEE ALSO\n.BR asyncjob (7),\n.BR poll (2),\n.BR epoll (7)\n");
    page
}

/// The paragraphs of a comment of the header, with the macro that begins one. What stands in backquotes is bold.
fn prose(comment: &str, paragraph: &str, page: &mut String) {
    for line in comment.lines() {
        let line = line.strip_prefix(" *").expect("a line of a comment").trim();
        match line {
            "" => writeln!(page, "{paragraph}").unwrap(),
            "# Safety" => page.push_str("The caller must keep these rules:\n"),
            _ => {
                let parts = line.split('`').enumerate();
                let bold = parts.map(|(i, part)| match i % 2 {
                    0 => escaped(part),
                    _ => format!("\\fB{}\\fR", escaped(part)),
                });
                writeln!(page, "{}", bold.collect::<String>()).unwrap();
            }
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}
