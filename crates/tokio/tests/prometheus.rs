//! Promise: what a recorder has counted is what Prometheus scrapes.

#[path = "../examples/prometheus.rs"]
#[allow(dead_code, reason = "the program's `main` is not called")]
mod example;

use std::collections::HashMap;
use std::time::Duration;

use asyncjob::insight::{Recorder, Times};
use asyncjob_testing::Watchdog;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

/// The value of each series, by its name and its labels as they stand in the page.
fn series(page: &str) -> HashMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[test]
fn a_scrape_has_the_numbers_of_the_recorder() {
    let _watchdog = Watchdog::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let exporter = PrometheusBuilder::new().install_recorder().unwrap();
    let recorder = Recorder::builder().build();
    let page = LocalSet::new().block_on(&runtime, async {
        example::work(recorder.clone(), 3).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let scrape = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").await.unwrap();
            let mut page = String::new();
            stream.read_to_string(&mut page).await.unwrap();
            page
        };
        tokio::select! {
            page = scrape => page,
            served = example::serve(listener, &recorder, &exporter) => panic!("{served:?}"),
        }
    });
    let (head, body) = page.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    let series = series(body);
    let of = |name: &str| *series.get(name).unwrap_or_else(|| panic!("no {name} in\n{body}"));
    assert_eq!(of("asyncjob_jobs_started_total{job=\"signature\"}"), 3.0);
    assert_eq!(of("asyncjob_jobs_ended_total{job=\"digest\"}"), 3.0);
    assert_eq!(of("asyncjob_jobs_cancelled_total{job=\"digest\"}"), 0.0);

    // Each signature has paused once, for 5 ms or more.
    let paused = "job=\"signature\",waits_for=\"deadline\"";
    let buckets: Vec<f64> = Times::BOUNDS
        .iter()
        .map(|bound| {
            of(&format!(
                "asyncjob_pause_seconds_bucket{{{paused},le=\"{}\"}}",
                bound.as_secs_f64()
            ))
        })
        .collect();
    assert!(buckets.is_sorted(), "{buckets:?}");
    let at = |bound: Duration| buckets[Times::BOUNDS.iter().position(|at| *at == bound).unwrap()];
    assert_eq!(at(Duration::from_millis(3)), 0.0);
    assert_eq!(at(Duration::from_secs(10)), 3.0);
    assert_eq!(
        of(&format!("asyncjob_pause_seconds_bucket{{{paused},le=\"+Inf\"}}")),
        3.0
    );
    assert_eq!(of(&format!("asyncjob_pause_seconds_count{{{paused}}}")), 3.0);
    assert!(of(&format!("asyncjob_pause_seconds_sum{{{paused}}}")) >= 0.015);
    assert!(
        series
            .keys()
            .any(|name| name.starts_with("asyncjob_stack_resident_bytes{size=")),
        "{body}"
    );
}
