//! Promise: a wait ctx reports its fds, and their changes since the last resume, as OpenSSL's wait ctx does (S42, S52
//! to S62).
//!
//! Each rule has a test with its number here. `tests/wait_ctx_model.rs` checks the same rules with random histories.

mod by_hand;

use std::io::{PipeReader, pipe};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::mpsc;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use asyncjob::{Interest, Step, WaitCtx, WaitFd, WaitFdOptions, WaitKey, WaitValue, current_job, pause_job, waker_fn};
use asyncjob_testing::Watchdog;
use by_hand::{add_number, finished, number, paused_with, still_paused};

fn set(ctx: &WaitCtx, key: WaitKey, fd: RawFd) {
    add_number(ctx, number(key, fd), fd);
}

fn numbers(fds: &[WaitFd]) -> Vec<RawFd> {
    fds.iter().map(|fd| fd.fd).collect()
}

/// (added, removed)
fn changes(ctx: &WaitCtx) -> (Vec<RawFd>, Vec<RawFd>) {
    let changes = ctx.changes();
    (numbers(&changes.added), numbers(&changes.removed))
}

fn keys<const N: usize>() -> [WaitKey; N] {
    std::array::from_fn(|_| WaitKey::unique())
}

/// The value that `set` added.
fn value(cleared: Option<WaitValue>) -> Option<RawFd> {
    cleared.map(|value| value.downcast().unwrap())
}

/// A value that reports its name when it is dropped.
struct Named(&'static str, PipeReader, mpsc::Sender<&'static str>);

impl AsFd for Named {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.1.as_fd()
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.2.send(self.0).unwrap();
    }
}

/// S42: the resume settles the changes, before the job runs. The pause, the start and the end do not.
#[test]
fn changes_are_settled_by_the_resume() {
    let ctx = WaitCtx::new();
    let [before, first, second] = keys();
    set(&ctx, before, 1);
    let inside = ctx.clone();
    let job = paused_with(&ctx, move || {
        assert_eq!(
            changes(&inside),
            (vec![1], vec![]),
            "a start does not settle the changes"
        );
        set(&inside, first, 2);
        pause_job().unwrap();
        let at_resume = changes(&inside);
        set(&inside, second, 3);
        inside.clear_fd(first);
        at_resume
    });
    assert_eq!(
        changes(&ctx),
        (vec![2, 1], vec![]),
        "a pause does not settle the changes"
    );
    assert_eq!(finished(job.resume()), (vec![], vec![]));
    assert_eq!(changes(&ctx), (vec![3], vec![2]), "the end does not settle the changes");
}

/// S52: the ctx checks neither keys nor fds. A key may be used twice, and an fd may be any number.
#[test]
fn keys_and_fds_are_not_checked() {
    let ctx = WaitCtx::new();
    let null = WaitKey::from_ptr(std::ptr::null::<u8>());
    set(&ctx, null, -1);
    set(&ctx, null, RawFd::MAX);
    set(&ctx, null, 5);
    set(&ctx, null, 5);
    assert_eq!(numbers(&ctx.fds()), [5, 5, RawFd::MAX, -1]);
}

/// S53: a key finds its newest entry that was not cleared. Keys are compared by address.
#[test]
fn a_key_finds_its_newest_entry() {
    let ctx = WaitCtx::new();
    let (one, other) = (0u8, 0u8);
    let (key, other) = (WaitKey::from_ptr(&raw const one), WaitKey::from_ptr(&raw const other));
    assert_eq!(ctx.fd(key), None);
    set(&ctx, key, 3);
    set(&ctx, other, 4);
    set(&ctx, key, 5);
    assert_eq!((ctx.fd(key), ctx.fd(other)), (Some(5), Some(4)));
    assert_eq!(value(ctx.clear_fd(key)), Some(5));
    assert_eq!(ctx.fd(key), Some(3));
    assert_eq!(ctx.fd(WaitKey::unique()), None);
}

/// S54: the fds are listed newest first.
#[test]
fn fds_are_newest_first() {
    let ctx = WaitCtx::new();
    assert!(ctx.fds().is_empty());
    let keys: [WaitKey; 4] = keys();
    for (fd, key) in keys.into_iter().enumerate() {
        set(&ctx, key, fd as RawFd);
    }
    assert_eq!(numbers(&ctx.fds()), [3, 2, 1, 0]);
    ctx.clear_fd(keys[2]);
    assert_eq!(numbers(&ctx.fds()), [3, 1, 0]);
}

/// S55: changes are listed newest first, and reading them changes nothing.
#[test]
fn reading_the_changes_does_not_settle_them() {
    let ctx = WaitCtx::new();
    let keys: [WaitKey; 3] = keys();
    keys.iter().for_each(|&key| set(&ctx, key, 7));
    let job = paused_with(&ctx, || pause_job().unwrap());
    finished(job.resume());
    set(&ctx, WaitKey::unique(), 8);
    set(&ctx, WaitKey::unique(), 9);
    keys.iter().for_each(|&key| drop(ctx.clear_fd(key)));
    assert_eq!(changes(&ctx), (vec![9, 8], vec![7, 7, 7]));
    assert_eq!(ctx.changes(), ctx.changes());
    assert_eq!(
        ctx.changes().removed.iter().map(|fd| fd.key).collect::<Vec<_>>(),
        [keys[2], keys[1], keys[0]]
    );
}

/// S56 and S62: an fd that was added since the last resume is not reported after a clear. Its value comes back instead
/// of being dropped.
#[test]
fn an_fd_added_and_cleared_in_one_phase_is_not_reported() {
    let ctx = WaitCtx::new();
    let key = WaitKey::unique();
    set(&ctx, key, 3);
    assert_eq!(value(ctx.clear_fd(key)), Some(3));
    assert_eq!((ctx.fds(), changes(&ctx)), (vec![], (vec![], vec![])));
    assert!(ctx.clear_fd(key).is_none(), "S56: the key is unknown");
}

/// S56: an fd that was added before the last resume is reported as removed, once. Its value comes back too.
#[test]
fn a_cleared_fd_is_reported_as_removed_once() {
    let ctx = WaitCtx::new();
    let key = WaitKey::unique();
    let inside = ctx.clone();
    let job = paused_with(&ctx, move || {
        set(&inside, key, 3);
        pause_job().unwrap();
        let cleared = value(inside.clear_fd(key));
        assert!(inside.clear_fd(key).is_none(), "the key has no entry any more");
        pause_job().unwrap();
        cleared
    });
    let job = still_paused(job.resume());
    assert_eq!((ctx.fds(), changes(&ctx)), (vec![], (vec![], vec![3])));
    assert_eq!(finished(job.resume()), Some(3));
    assert_eq!(changes(&ctx), (vec![], vec![]), "S58: the resume settled the removal");
}

/// S57: a key that is cleared and added again in one phase is reported as removed and as added. So is a number that was
/// closed and reopened.
#[test]
fn a_number_may_be_removed_and_added_in_one_phase() {
    let ctx = WaitCtx::new();
    let [key, other] = keys();
    set(&ctx, key, 3);
    set(&ctx, other, 4);
    let job = paused_with(&ctx, || pause_job().unwrap());
    finished(job.resume());
    ctx.clear_fd(key);
    set(&ctx, key, 3);
    assert_eq!(changes(&ctx), (vec![3], vec![3]));
    ctx.clear_fd(other);
    set(&ctx, WaitKey::unique(), 4); // the same number under another key
    assert_eq!(changes(&ctx), (vec![4, 3], vec![4, 3]));
    assert_eq!(numbers(&ctx.fds()), [4, 3]);
}

/// S58: a removal is reported until the next resume of a job with this ctx. A resume with another ctx does not settle
/// it.
#[test]
fn removals_last_until_a_resume_with_this_ctx() {
    let (ctx, elsewhere) = (WaitCtx::new(), WaitCtx::new());
    let key = WaitKey::unique();
    set(&ctx, key, 3);
    let other = paused_with(&elsewhere, || pause_job().unwrap());
    let job = paused_with(&ctx, || {
        pause_job().unwrap();
        pause_job().unwrap();
    });
    let job = still_paused(job.resume());
    ctx.clear_fd(key);
    finished(other.resume());
    assert_eq!(changes(&ctx), (vec![], vec![3]));
    finished(job.resume());
    assert_eq!(changes(&ctx), (vec![], vec![]));
}

/// S59: an fd that was added before the end of a job is still reported as added during later jobs, until one of them
/// pauses and is resumed.
#[test]
fn additions_before_the_end_stay_reported() {
    let ctx = WaitCtx::new();
    let run = |f: fn()| asyncjob::start_job(&ctx, f).unwrap();
    let inside = ctx.clone();
    let step = asyncjob::start_job(&ctx, move || set(&inside, WaitKey::unique(), 3)).unwrap();
    finished(step);
    assert_eq!(changes(&ctx).0, [3]);
    finished(run(|| ()));
    assert_eq!(changes(&ctx).0, [3], "a job that does not pause settles nothing");
    let job = still_paused(run(|| {
        let _ = pause_job();
    }));
    assert_eq!(changes(&ctx).0, [3], "a job that pauses has not been resumed yet");
    finished(job.resume());
    assert_eq!((changes(&ctx).0, numbers(&ctx.fds())), (vec![], vec![3]));
}

/// S60: the last handle of a ctx drops its values, the newest first. Values that were cleared belong to the caller.
#[test]
fn values_are_dropped_newest_first() {
    let (sender, dropped) = mpsc::channel();
    let value = |name| Named(name, pipe().unwrap().0, sender.clone());
    let ctx = WaitCtx::new();
    let [a, b, c, d] = keys();
    ctx.add_wait_fd(a, value("oldest"));
    ctx.add_wait_fd(b, value("removed"));
    let job = paused_with(&ctx, || pause_job().unwrap());
    finished(job.resume());
    ctx.add_wait_fd(c, value("added and cleared"));
    ctx.add_wait_fd(d, value("newest"));
    let cleared = [ctx.clear_fd(b), ctx.clear_fd(c)];
    assert_eq!(dropped.try_iter().count(), 0, "a clear drops no value");
    let handle = ctx.clone();
    drop(ctx);
    assert_eq!(dropped.try_iter().count(), 0, "another handle exists");
    drop(handle);
    assert_eq!(dropped.try_iter().collect::<Vec<_>>(), ["newest", "oldest"]);
    drop(cleared);
    assert_eq!(dropped.try_iter().count(), 2);
}

/// S60: the ctx holds no lock while it runs a destructor of the user. So a destructor may use the ctx.
#[test]
fn a_destructor_may_use_the_ctx() {
    struct UsesTheCtx(WaitCtx, PipeReader, mpsc::Sender<usize>);
    impl AsFd for UsesTheCtx {
        fn as_fd(&self) -> BorrowedFd<'_> {
            assert!(self.0.fds().len() < 100); // called by `add_wait_fd`, which holds no lock either
            self.1.as_fd()
        }
    }
    impl Drop for UsesTheCtx {
        fn drop(&mut self) {
            self.0.clear_fd(WaitKey::unique());
            self.0.set_callback(None);
            set(&self.0, WaitKey::unique(), 9);
            self.2.send(self.0.fds().len()).unwrap();
        }
    }
    let (sender, lengths) = mpsc::channel();
    let ctx = WaitCtx::new();
    let key = WaitKey::unique();
    ctx.add_wait_fd(key, UsesTheCtx(ctx.clone(), pipe().unwrap().0, sender.clone()));
    drop(ctx.clear_fd(key));
    assert_eq!(lengths.try_recv(), Ok(1));

    // The same holds for a callback that is replaced or removed.
    for replace in [None, Some(waker_fn(|| ()))] {
        let at_drop = Mutex::new(UsesTheCtx(ctx.clone(), pipe().unwrap().0, sender.clone()));
        ctx.set_callback(Some(waker_fn(move || drop(at_drop.lock()))));
        ctx.set_callback(replace);
        assert!(lengths.try_recv().is_ok());
    }
}

/// S60: if the destructor of a value panics, the other values are dropped too, and the panic continues.
#[test]
fn a_destructor_that_panics_does_not_stop_the_others() {
    struct Panics(PipeReader);
    impl AsFd for Panics {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
    impl Drop for Panics {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new("cleanup"));
        }
    }
    let (sender, dropped) = mpsc::channel();
    let ctx = WaitCtx::new();
    ctx.add_wait_fd(WaitKey::unique(), Named("older", pipe().unwrap().0, sender));
    ctx.add_wait_fd(WaitKey::unique(), Panics(pipe().unwrap().0));
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(ctx)));
    assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"cleanup"));
    assert_eq!(dropped.try_iter().collect::<Vec<_>>(), ["older"]);
}

/// S61, fixed: a ctx that its session drops while a job is paused lives as long as the job.
#[test]
fn a_paused_job_keeps_its_ctx_alive() {
    let ctx = WaitCtx::new();
    let (sender, dropped) = mpsc::channel();
    ctx.add_wait_fd(WaitKey::unique(), Named("value", pipe().unwrap().0, sender));
    let job = paused_with(&ctx, || {
        pause_job().unwrap();
        current_job().unwrap().wait_ctx().fds().len()
    });
    let engine = ctx.clone();
    drop(ctx);
    assert_eq!(engine.callback().map(drop), None);
    drop(engine);
    assert_eq!(finished(job.resume()), 1);
    assert_eq!(dropped.try_iter().collect::<Vec<_>>(), ["value"]);
}

/// S47: threads of an engine use the ctx at the same time as the thread of the job. Every entry that one of them adds
/// is there exactly once.
#[test]
fn a_ctx_may_be_used_by_many_threads() {
    let _watchdog = Watchdog::new();
    const EACH: RawFd = 2000;
    let ctx = WaitCtx::new();
    let start = Arc::new(Barrier::new(3));
    let threads = [10_000, 20_000].map(|first| {
        let (ctx, start) = (ctx.clone(), start.clone());
        thread::spawn(move || {
            start.wait();
            for fd in first..first + EACH {
                let key = WaitKey::unique();
                set(&ctx, key, fd);
                assert_eq!(ctx.fd(key), Some(fd));
                if fd % 2 == 1 {
                    assert_eq!(value(ctx.clear_fd(key)), Some(fd));
                }
                ctx.set_callback(Some(waker_fn(|| ())));
                let _ = (ctx.callback(), ctx.status(), ctx.deadline());
            }
        })
    });
    start.wait();
    let mut job = paused_with(&ctx, || while pause_job().is_ok() {});
    for _ in 0..EACH {
        job = still_paused(job.resume());
        let _ = (ctx.fds(), ctx.changes(), ctx.version());
    }
    for thread in threads {
        thread.join().unwrap();
    }
    let mut left = numbers(&ctx.fds());
    left.sort_unstable();
    let expected: Vec<_> = [10_000, 20_000]
        .iter()
        .flat_map(|&first| (first..first + EACH).step_by(2))
        .collect();
    assert_eq!(left, expected);
    let job = still_paused(job.resume());
    assert_eq!(changes(&ctx), (vec![], vec![]));
    drop(job);
}

/// The version changes with every change of the fds, and with nothing else.
#[test]
fn the_version_changes_with_the_fds() {
    let ctx = WaitCtx::new();
    let key = WaitKey::unique();
    let mut before = ctx.version();
    let mut check = |what: &str, expected: bool, act: &dyn Fn()| {
        act();
        assert_eq!(ctx.version() != before, expected, "{what}");
        before = ctx.version();
    };
    check("set", true, &|| set(&ctx, key, 3));
    check("interest", true, &|| assert!(ctx.set_interest(key, Interest::Both)));
    check("the same interest", false, &|| {
        assert!(ctx.set_interest(key, Interest::Both))
    });
    check("clear", true, &|| drop(ctx.clear_fd(key)));
    check("clear of nothing", false, &|| drop(ctx.clear_fd(key)));
    check("status and callback", false, &|| {
        ctx.set_status(asyncjob::Status::Ok);
        ctx.set_callback(None);
        ctx.set_deadline(None);
        let _ = (ctx.fds(), ctx.changes());
    });
}

/// A changed interest is reported as a removal and an addition. In the phase in which the fd was added, it is reported
/// as part of the addition.
#[test]
fn a_changed_interest_is_reported() {
    let ctx = WaitCtx::new();
    let key = WaitKey::unique();
    assert!(!ctx.set_interest(key, Interest::Writable), "there is no entry");
    set(&ctx, key, 3);
    assert!(ctx.set_interest(key, Interest::Writable));
    let with = |interest| WaitFd::new(key, 3, WaitFdOptions::new().interest(interest));
    let (writable, both) = (with(Interest::Writable), with(Interest::Both));
    assert_eq!((ctx.changes().added, ctx.changes().removed), (vec![writable], vec![]));
    ctx.settle();
    assert!(ctx.set_interest(key, Interest::Both));
    assert!(ctx.set_interest(key, Interest::Readable));
    assert!(ctx.set_interest(key, Interest::Both));
    assert_eq!(
        (ctx.changes().added, ctx.changes().removed),
        (vec![both], vec![writable])
    );
    assert_eq!(ctx.fds(), [both]);
    assert_eq!(value(ctx.clear_fd(key)), Some(3));
    assert_eq!((ctx.changes().added, ctx.changes().removed), (vec![], vec![writable]));
    assert!(Interest::Both.is_readable() && Interest::Both.is_writable());
    assert!(!Interest::Writable.is_readable() && !Interest::Readable.is_writable());
}

/// An fd that is added only for when it is armed counts only while it is armed. `arm` returns what was armed before.
#[test]
fn an_fd_only_when_armed_counts_while_it_is_armed() {
    let ctx = WaitCtx::new();
    let [always, only_when_armed, other] = keys();
    set(&ctx, always, 3);
    for (key, fd) in [(only_when_armed, 4), (other, 5)] {
        add_number(&ctx, WaitFd::new(key, fd, WaitFdOptions::new().only_when_armed()), ());
    }
    assert_eq!(numbers(&ctx.fds()), [3]);
    assert_eq!(ctx.arm(Some(only_when_armed)), None);
    assert_eq!(numbers(&ctx.fds()), [4, 3]);
    assert_eq!(ctx.arm(Some(other)), Some(only_when_armed));
    assert_eq!(numbers(&ctx.fds()), [5, 3]);
    assert_eq!(ctx.arm(None), Some(other));
    assert_eq!(numbers(&ctx.fds()), [3]);
    assert_eq!(numbers(&ctx.changes().added), [5, 4, 3], "all of them are registered");
}

/// `with_value` borrows a value for a call. The ctx can be used meanwhile, and the value is back afterwards, also if
/// the call panics.
#[test]
fn a_value_is_borrowed_for_a_call() {
    let ctx = WaitCtx::new();
    let key = WaitKey::unique();
    assert_eq!(ctx.with_value(key, |_: &mut RawFd| ()), None);
    set(&ctx, key, 3);
    assert_eq!(ctx.with_value(key, |_: &mut String| ()), None, "another type");
    let doubled = ctx.with_value(key, |value: &mut RawFd| {
        assert_eq!(ctx.fd(key), Some(3));
        assert_eq!(
            ctx.with_value(key, |_: &mut RawFd| ()),
            None,
            "the value is already borrowed"
        );
        *value *= 2;
        *value
    });
    assert_eq!(
        (doubled, ctx.with_value(key, |value: &mut RawFd| *value)),
        (Some(6), Some(6))
    );
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        ctx.with_value(key, |_: &mut RawFd| std::panic::resume_unwind(Box::new("in the call")))
    }));
    assert!(caught.is_err());
    assert_eq!(
        value(ctx.clear_fd(key)),
        Some(6),
        "the value is still there after a panic"
    );
}

/// A value that is cleared while it is borrowed is dropped when the call ends. It is not stored under another fd of the
/// same key.
#[test]
fn a_value_cleared_while_it_is_borrowed_is_dropped() {
    let _watchdog = Watchdog::new();
    let ctx = WaitCtx::new();
    let key = WaitKey::unique();
    set(&ctx, key, 3);
    set(&ctx, key, 4);
    let (borrowed, other_borrowed) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let other = {
        let (ctx, borrowed, other_borrowed) = (ctx.clone(), borrowed.clone(), other_borrowed.clone());
        thread::spawn(move || {
            borrowed.wait();
            ctx.with_value(key, |value: &mut RawFd| {
                other_borrowed.wait();
                borrowed.wait();
                *value
            })
        })
    };
    ctx.with_value(key, |newest: &mut RawFd| {
        assert_eq!(*newest, 4);
        assert!(ctx.clear_fd(key).is_none(), "its value is borrowed");
        borrowed.wait();
        other_borrowed.wait(); // the other thread has borrowed the older value now
    });
    borrowed.wait();
    assert_eq!(other.join().unwrap(), Some(3));
    assert_eq!((numbers(&ctx.fds()), value(ctx.clear_fd(key))), (vec![3], Some(3)));
}

/// More entries than are read without a lock are read as they are, and come back into the fast way when some are gone.
#[test]
fn any_number_of_entries_is_read() {
    let ctx = WaitCtx::new();
    let keys: Vec<_> = (0..5).map(|_| WaitKey::unique()).collect();
    for (number, key) in keys.iter().enumerate() {
        set(&ctx, *key, number as RawFd);
        assert_eq!(ctx.fds().len(), number + 1);
        assert_eq!(ctx.fd(keys[0]), Some(0));
        assert_eq!(ctx.fd(*key), Some(number as RawFd));
    }
    assert_eq!(numbers(&ctx.changes().added), [4, 3, 2, 1, 0]);
    for (number, key) in keys.iter().enumerate().rev() {
        assert_eq!(value(ctx.clear_fd(*key)), Some(number as RawFd));
        assert_eq!(ctx.fd(*key), None);
        assert_eq!(ctx.fds().len(), number);
    }
}

/// Threads that read while another thread writes see the fds of one moment: never one without the other.
#[test]
fn a_reader_sees_no_half_of_a_change() {
    let _watchdog = Watchdog::new();
    let ctx = WaitCtx::new();
    let [a, b, other] = keys();
    set(&ctx, a, 10);
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_eq!(ctx.fd(a), Some(10));
                    let fds = ctx.fds();
                    assert_eq!(fds.last().map(|fd| (fd.key, fd.fd)), Some((a, 10)));
                    for fd in &fds[..fds.len() - 1] {
                        assert!([(b, 20), (other, 30)].contains(&(fd.key, fd.fd)), "{fds:?}");
                    }
                }
            });
        }
        for _ in 0..20_000 {
            set(&ctx, b, 20);
            set(&ctx, other, 30); // the third: it is read under the lock
            ctx.clear_fd(b);
            ctx.clear_fd(other);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

/// A key that is made from an address compares as that address. A unique key is equal to no address and to no other
/// key.
#[test]
fn keys_are_addresses_or_unique() {
    let value = 7u32;
    assert_eq!(
        WaitKey::from_ptr(&value),
        WaitKey::from_ptr((&raw const value).cast::<u8>())
    );
    let unique: std::collections::HashSet<_> = (0..1000).map(|_| WaitKey::unique()).collect();
    assert_eq!(unique.len(), 1000);
    assert!(!unique.contains(&WaitKey::from_ptr(&value)));
}

/// `add_wait_fd` reads the number from the value and keeps the value, so the fd stays open.
#[test]
fn the_ctx_keeps_the_fd_open() {
    let (reader, mut writer) = pipe().unwrap();
    let ctx = WaitCtx::new();
    let key = WaitKey::unique();
    let number = reader.as_raw_fd();
    ctx.add_wait_fd(key, reader);
    assert_eq!(ctx.fd(key), Some(number));
    use std::io::Write;
    writer.write_all(b"x").unwrap();
    drop(ctx);
    assert!(writer.write_all(b"x").is_err(), "the reader was dropped with the ctx");
}

/// A driver reads the ctx of the paused job after each step.
#[test]
fn a_driver_reads_the_ctx_of_the_job() {
    let ctx = WaitCtx::new();
    let inside = ctx.clone();
    let Ok(Step::Paused(job)) = asyncjob::start_job(&ctx, move || {
        inside.add_wait_fd(WaitKey::unique(), pipe().unwrap().0);
        pause_job().unwrap();
    }) else {
        panic!()
    };
    assert_eq!(job.wait_ctx().fds(), ctx.fds());
    assert_eq!(ctx.fds().len(), 1);
    finished(job.resume());
}

/// The time that a change takes does not grow with the number of wait fds. If it did, this would take an hour.
#[test]
fn a_hundred_thousand_wait_fds_are_cleared_one_by_one() {
    const COUNT: usize = 100_000;
    let _watchdog = asyncjob_testing::Watchdog::new();
    for (settled, newest_first) in [(false, false), (false, true), (true, false), (true, true)] {
        let ctx = WaitCtx::new();
        let fd = Arc::new(std::fs::File::open("/dev/null").unwrap());
        let mut keys: Vec<_> = (0..COUNT).map(|_| WaitKey::unique()).collect();
        for key in &keys {
            ctx.add_wait_fd(*key, Arc::clone(&fd));
        }
        if settled {
            ctx.settle();
        }
        if newest_first {
            keys.reverse();
        }
        for key in &keys {
            assert!(ctx.fd(*key).is_some() && ctx.clear_fd(*key).is_some());
        }
        let removed = if settled { COUNT } else { 0 };
        assert_eq!((ctx.fds().len(), ctx.changes().removed.len()), (0, removed));
        assert_eq!(Arc::strong_count(&fd), 1);
    }
}
