//! Pages for the operator: every job of the server, where it is and what it waits for.
//!
//! They tell of all clients, so only a client on the same machine gets them.

use std::net::TcpStream;

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

/// The page at this path. The dump is made on another thread while this job pauses: its own scheduler has to answer.
#[cfg(feature = "insight")]
pub(crate) fn page(path: &str) -> (&'static str, String) {
    use std::sync::LazyLock;
    use std::time::Duration;

    use asyncjob::insight::{Dump, dump};
    use asyncjob::offload::Offload;

    static DUMPS: LazyLock<std::io::Result<Offload>> =
        LazyLock::new(|| Offload::builder().threads(1).name("dump").build());

    let print: fn(&Dump) -> String = match path {
        "/debug/jobs" => ToString::to_string,
        "/debug/jobs.json" => Dump::to_json,
        _ => {
            return (
                "404 Not Found",
                "The pages are /debug/jobs and /debug/jobs.json.\n".to_owned(),
            );
        }
    };
    let made = DUMPS
        .as_ref()
        .map(|dumps| dumps.run(move || print(&dump(Duration::from_secs(1)))));
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
