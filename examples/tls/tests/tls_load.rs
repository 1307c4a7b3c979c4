//! Promise: the load generator measures both servers and explains its errors, and what it records can be drawn.

#[path = "../../../tests/programs/mod.rs"]
mod programs;

use programs::{output, run};

#[test]
fn tls_load_compares_both_modes() {
    let args = ["--handshakes", "60", "--concurrency", "10", "--sign-latency", "1"];
    let output = output("tls_load", &args);
    let rows: Vec<Vec<&str>> = output
        .lines()
        .filter(|line| line.starts_with("| inline") || line.starts_with("| offload"))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let counts: Vec<_> = rows.iter().map(|row| (row[1], row[2], row[4])).collect();
    assert_eq!(counts, [("inline", "60", "0"), ("offload", "60", "0")], "{output}");
    assert!(output.contains("inline to offload: "), "{output}");
}

/// The load leaves a timeline of each server, which another program draws.
#[cfg(feature = "insight")]
#[test]
fn a_timeline_is_recorded_and_drawn() {
    let folder = std::env::temp_dir().join(format!("asyncjob-timelines-{}", std::process::id()));
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let load = [
        "--handshakes",
        "20",
        "--concurrency",
        "5",
        "--key",
        "ecdsa",
        "--sign-latency",
        "1",
    ];
    output("tls_load", &[&load[..], &["--timelines", &path("")]].concat());
    let (inline, offload) = (path("inline.json"), path("offload.json"));
    let svg = output("timeline", &["--length", "20", &inline, &offload]);
    assert!(
        svg.starts_with("<svg") && svg.contains(">inline<") && svg.contains(">offload<"),
        "{svg}"
    );
    // Only a job whose key signs elsewhere pauses for it. One more makes the page of the timeline elsewhere.
    let waits = |file: &str| {
        std::fs::read_to_string(file)
            .unwrap()
            .matches("\"waits for a callback")
            .count()
    };
    let counts = [&inline, &offload].map(|file| waits(file));
    assert!(counts[0] < 10 && counts[1] > 20 * 2, "{counts:?}");

    std::fs::write(&inline, "{}").unwrap();
    let refused = run("timeline", &[&inline]);
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(
        stderr.starts_with("timeline: ") && stderr.contains("inline.json: the file is not one"),
        "{stderr}"
    );
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn tls_load_explains_its_errors() {
    let no_server = ["--target", "127.0.0.1:1", "--handshakes", "1"];
    let refused = run("tls_load", &no_server);
    assert!(!refused.status.success());
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(
        stderr.contains("the unrelated connection failed: Connection refused"),
        "{stderr}"
    );
    let misspelt = run("tls_load", &["--target", "localhost"]);
    let stderr = String::from_utf8_lossy(&misspelt.stderr);
    assert!(stderr.contains("localhost is not an address with a port"), "{stderr}");
}
