//! The server's counters, and its `/stats` page with one `name value` a line.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that grows and shrinks, and its highest value.
#[derive(Default)]
pub(crate) struct Gauge {
    now: AtomicU64,
    peak: AtomicU64,
}

impl Gauge {
    pub(crate) fn up(&self) {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.peak.fetch_max(now, Ordering::Relaxed);
    }

    pub(crate) fn down(&self) {
        self.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All counters of the server.
pub(crate) struct Counters {
    /// Connections that were accepted.
    pub(crate) accepted: Counter,
    /// Connections that are open.
    pub(crate) live: Gauge,
    /// Handshakes that succeeded, failed, or took too long.
    pub(crate) handshakes: Counter,
    pub(crate) handshakes_failed: Counter,
    pub(crate) handshakes_timed_out: Counter,
    /// Requests that were answered, and how many of them were malformed.
    pub(crate) requests: Counter,
    pub(crate) bad_requests: Counter,
    /// Connections that ended with an error or a timeout after their handshake.
    pub(crate) broken: Counter,
    /// Signatures that were made, and signatures that failed.
    pub(crate) signatures: Counter,
    pub(crate) signatures_failed: Counter,
    /// How often the accept job waited for a free fd, and for a free job.
    pub(crate) waits_for_fd: Counter,
    pub(crate) waits_for_job: Counter,
    /// `/proc/self/status`, opened once, so that the page can be made when no fd is free.
    memory: Option<File>,
}

impl Counters {
    pub(crate) fn new() -> Self {
        Counters {
            accepted: Counter::default(),
            live: Gauge::default(),
            handshakes: Counter::default(),
            handshakes_failed: Counter::default(),
            handshakes_timed_out: Counter::default(),
            requests: Counter::default(),
            bad_requests: Counter::default(),
            broken: Counter::default(),
            signatures: Counter::default(),
            signatures_failed: Counter::default(),
            waits_for_fd: Counter::default(),
            waits_for_job: Counter::default(),
            memory: File::open("/proc/self/status").ok(),
        }
    }

    /// Memory in use, in KiB: `VmRSS` of `/proc/self/status`.
    fn resident_kib(&self) -> Option<u64> {
        let mut buffer = [0; 4096];
        let length = self.memory.as_ref()?.read_at(&mut buffer, 0).ok()?;
        let text = std::str::from_utf8(&buffer[..length]).ok()?;
        let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "accepted {}", self.accepted.get())?;
        writeln!(f, "live {}", self.live.now.load(Ordering::Relaxed))?;
        writeln!(f, "peak_live {}", self.live.peak.load(Ordering::Relaxed))?;
        writeln!(f, "handshakes {}", self.handshakes.get())?;
        writeln!(f, "handshakes_failed {}", self.handshakes_failed.get())?;
        writeln!(f, "handshakes_timed_out {}", self.handshakes_timed_out.get())?;
        writeln!(f, "requests {}", self.requests.get())?;
        writeln!(f, "bad_requests {}", self.bad_requests.get())?;
        writeln!(f, "broken {}", self.broken.get())?;
        writeln!(f, "signatures {}", self.signatures.get())?;
        writeln!(f, "signatures_failed {}", self.signatures_failed.get())?;
        writeln!(f, "waits_for_fd {}", self.waits_for_fd.get())?;
        writeln!(f, "waits_for_job {}", self.waits_for_job.get())?;
        if let Some(kib) = self.resident_kib() {
            writeln!(f, "resident_kib {kib}")?;
        }
        Ok(())
    }
}
