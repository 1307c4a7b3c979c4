//! Pages for the operator: every job of the server, where it is and what it waits for.
//!
//! They tell of all clients, so only a client on the same machine gets them.

use std::net::TcpStream;

use asyncjob::JobBuilder;
use asyncjob::io::Pausing;

/// Whether the client is on this machine.
pub(crate) fn is_allowed(socket: &Pausing<TcpStream>) -> bool {
    let peer = socket.get_ref().peer_addr();
    peer.is_ok_and(|peer| peer.ip().to_canonical().is_loopback())
}

/// Attaches the address of the client to the job of its connection, for as long as the value exists.
#[cfg(feature = "insight")]
pub(crate) fn peer(socket: &Pausing<TcpStream>) -> Option<asyncjob::insight::Tag> {
    let peer = socket.get_ref().peer_addr().ok()?;
    Some(asyncjob::insight::tag("peer", peer))
}

#[cfg(not(feature = "insight"))]
pub(crate) fn peer(_socket: &Pausing<TcpStream>) -> Option<()> {
    None
}

/// Measures how long connections run, are paused and wait for their thread, and keeps the last 10,000 runs of each
/// thread. A handshake that signs on the serving thread, with `--mode inline`, is a hog.
#[cfg(feature = "insight")]
static RECORDER: std::sync::LazyLock<asyncjob::insight::Recorder> = std::sync::LazyLock::new(|| {
    let threshold = std::time::Duration::from_millis(100);
    let recorder = asyncjob::insight::Recorder::builder().timeline(10_000).high_water();
    let recorder = recorder.hog(threshold, |hog| eprintln!("{hog}"));
    #[cfg(target_os = "linux")]
    let recorder = recorder
        .interrupt_by(signal_hook::consts::SIGPROF)
        .expect("this program has no handler for SIGPROF");
    recorder.build()
});

/// Describes the job of a connection.
#[cfg(feature = "insight")]
pub(crate) fn job() -> JobBuilder<'static, asyncjob::insight::Recorded> {
    JobBuilder::new().hooks(RECORDER.job("connection"))
}

#[cfg(not(feature = "insight"))]
pub(crate) fn job() -> JobBuilder<'static> {
    JobBuilder::new()
}

/// The page at this path. It is made on another thread while this job pauses: a large timeline takes long, and for a
/// dump this job's own scheduler has to answer.
#[cfg(feature = "insight")]
pub(crate) fn page(path: &str) -> (&'static str, String) {
    use std::sync::LazyLock;
    use std::time::Duration;

    use asyncjob::insight::dump;
    use asyncjob::offload::Offload;

    const WITHIN: Duration = Duration::from_secs(1);
    static PAGES: LazyLock<std::io::Result<Offload>> =
        LazyLock::new(|| Offload::builder().threads(1).name("pages").build());

    let print: fn() -> String = match path {
        "/debug/jobs" => || dump(WITHIN).to_string(),
        "/debug/jobs.json" => || dump(WITHIN).to_json(),
        "/debug/numbers" => || RECORDER.numbers().to_string(),
        "/debug/timeline.json" => || RECORDER.timeline().to_chrome_json(),
        "/debug/timeline.svg" => || RECORDER.timeline().to_svg(),
        _ => {
            let pages = "The pages are /debug/jobs, jobs.json, numbers, timeline.json and timeline.svg.\n";
            return ("404 Not Found", pages.to_owned());
        }
    };
    let made = PAGES.as_ref().map(|pages| pages.run(print));
    match made {
        Ok(Ok(page)) => ("200 OK", page),
        Ok(Err(problem)) => ("503 Service Unavailable", format!("{problem}\n")),
        Err(problem) => ("503 Service Unavailable", format!("{problem}\n")),
    }
}

#[cfg(not(feature = "insight"))]
pub(crate) fn page(_path: &str) -> (&'static str, String) {
    let hint = "Build the server with --features insight to see its jobs.\n";
    ("404 Not Found", hint.to_owned())
}
