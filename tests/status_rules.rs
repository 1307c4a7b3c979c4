//! Promise: one table says what a driver does after a pause, from the status, the wait fds and the deadline of the wait
//! ctx. The table is the same for every driver (S29, S66).

mod by_hand;

use std::time::{Duration, Instant};

use asyncjob::{Status, WaitCtx, WaitFdOptions, WaitKey, Wants};
use by_hand::number;

const EVERY: [Status; 5] = [
    Status::Unsupported,
    Status::Err,
    Status::Ok,
    Status::Eagain,
    Status::Other(17),
];

/// The whole table: five statuses, each with and without wait fds and a deadline.
#[test]
fn the_table_covers_every_status() {
    let later = Some(Instant::now() + Duration::from_secs(3600));
    let rows = EVERY.map(|status| {
        let with = |fds, deadline| Wants::of(status, fds, deadline);
        [
            with(false, None),
            with(true, None),
            with(false, later),
            with(true, later),
        ]
    });
    use Wants::{Again, Callback, Cancel, Poll, Watch};
    let expected = [
        [Poll, Watch, Watch, Watch],
        [Cancel; 4],
        [Callback, Watch, Watch, Watch],
        [Again; 4],
        [Poll, Watch, Watch, Watch],
    ];
    assert_eq!(rows, expected);
}

/// A ctx applies the table to the wait fds that count. An entry that is added only for when it is armed counts only
/// while it is armed.
#[test]
fn a_ctx_counts_only_the_entry_that_is_armed() {
    let ctx = WaitCtx::new();
    let (reader, _writer) = std::io::pipe().unwrap();
    let key = WaitKey::unique();
    ctx.add_wait_fd_with(key, reader, WaitFdOptions::new().only_when_armed());
    for (armed, expected) in [
        (None, Wants::Callback),
        (Some(key), Wants::Watch),
        (None, Wants::Callback),
    ] {
        ctx.set_status(Status::Ok);
        ctx.arm(armed);
        assert_eq!(ctx.wants(), expected);
    }
    ctx.clear_fd(key);
    ctx.set_deadline(Some(Instant::now()));
    assert_eq!(ctx.wants(), Wants::Watch);
    by_hand::add_number(&ctx, number(WaitKey::unique(), -1), ());
    ctx.set_deadline(None);
    assert_eq!(
        ctx.wants(),
        Wants::Watch,
        "the ctx does not check whether an fd can be polled"
    );
}

/// The first polls come at once. After that the interval doubles up to a limit.
#[test]
fn the_interval_between_polls_grows_to_a_limit() {
    let intervals: Vec<_> = (0..40).map(Wants::poll_interval).collect();
    assert_eq!(intervals[..4], [None; 4]);
    assert_eq!(intervals[4], Some(Duration::from_micros(20)));
    assert_eq!(intervals[5], Some(Duration::from_micros(40)));
    assert!(intervals.is_sorted());
    assert_eq!(intervals[39], Some(Duration::from_millis(10)));
    assert_eq!(Wants::poll_interval(u32::MAX), Some(Duration::from_millis(10)));
}
