//! A wait in words, for `insight` and `tracing`.

use std::fmt;
use std::time::Duration;

use super::{Status, WaitFd, WakeCause};

/// What a job waits for, in words.
///
/// `fds` are the wait fds and what each of them is, if that is known, and `left` are the seconds until the deadline.
pub(crate) fn waits_for<'a>(
    fds: impl Iterator<Item = (&'a WaitFd, Option<&'a str>)>,
    status: Status,
    left: Option<f64>,
) -> String {
    let mut causes: Vec<String> = Vec::new();
    for (fd, kind) in fds {
        let kind = kind.map_or_else(String::new, |kind| {
            format!("{}, ", if kind.is_empty() { "closed" } else { kind })
        });
        let armed = if fd.only_when_armed { ", if armed" } else { "" };
        causes.push(format!("fd {} ({kind}{:?}{armed})", fd.fd, fd.interest));
    }
    match status {
        Status::Unsupported => {}
        Status::Ok => causes.push("a callback".to_string()),
        Status::Eagain => causes.push("another try".to_string()),
        Status::Err => causes.push("its end: the engine has failed".to_string()),
        Status::Other(raw) => causes.push(format!("a callback (status {raw})")),
    }
    if let Some(left) = left {
        let left = Duration::try_from_secs_f64(left);
        causes.push(left.map_or_else(
            |_| "a deadline that has passed".to_string(),
            |left| format!("a deadline in {left:.1?}"),
        ));
    }
    if causes.is_empty() {
        causes.push("nothing that it has named: it is polled".to_string());
    }
    causes.join(" or ")
}

/// In words: `fd 12`, `a callback`.
impl fmt::Display for WakeCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WakeCause::Callback => f.write_str("a callback"),
            WakeCause::Fd(fd) => write!(f, "fd {fd}"),
            WakeCause::Deadline => f.write_str("a deadline"),
            WakeCause::Watch => f.write_str("its watch"),
            WakeCause::Retry => f.write_str("another try"),
            WakeCause::Cancel => f.write_str("a cancel"),
        }
    }
}
