//! Promise: a wait ctx reports its fds, and what changed since the last resume, as OpenSSL's does (S42, S52 to S62).
//!
//! `tests/wait_ctx_model.rs` checks the same with random histories; here each rule has a test with its number.

mod by_hand;

use std::any::Any;
use std::io::{PipeReader, pipe};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::mpsc;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use asyncjob::{Interest, Step, WaitCtx, WaitFd, WaitFdOptions, WaitKey, current_job, pause_job, waker_fn};
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

/// The value that `set` put in.
fn value(cleared: Option<Box<dyn Any + Send>>) -> Option<RawFd> {
    cleared.map(|value| *value.downcast().unwrap())
}

/// Says its name when it is dropped.
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

/// S42: the changes are reset by the resume, inside the job: not by the pause, the start, or the end.
#[test]
fn changes_are_settled_by_the_resume() {
    let ctx = WaitCtx::new();
    let [before, first, second] = keys();
    set(&ctx, before, 1);
    let inside = ctx.clone();
    let job = paused_with(&ctx, move || {
        assert_eq!(changes(&inside), (vec![1], vec![]), "a start settles nothing");
        set(&inside, first, 2);
        pause_job().unwrap();
        let at_resume = changes(&inside);
        set(&inside, second, 3);
        inside.clear_fd(first);
        at_resume
    });
    assert_eq!(changes(&ctx), (vec![2, 1], vec![]), "nor does a pause");
    assert_eq!(finished(job.resume()), (vec![], vec![]));
    assert_eq!(changes(&ctx), (vec![3], vec![2]), "nor does the end");
}

/// S52: keys are not unique, fds are not checked, and any number goes.
#[test]
fn nothing_is_checked() {
    let ctx = WaitCtx::new();
    let null = WaitKey::from_ptr(std::ptr::null::<u8>());
    set(&ctx, null, -1);
    set(&ctx, null, RawFd::MAX);
    set(&ctx, null, 5);
    set(&ctx, null, 5);
    assert_eq!(numbers(&ctx.fds()), [5, 5, RawFd::MAX, -1]);
}

/// S53: by key, the newest that was not cleared; keys are compared by address.
#[test]
fn the_newest_of_a_key_counts() {
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

/// S54: all fds, the last one added first.
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

/// S55: changes are newest first, and reading them consumes nothing.
#[test]
fn reading_changes_consumes_nothing() {
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

/// S56 and S62: an fd added since the last resume leaves without a trace when it is cleared, and its value comes back
/// instead of being cleaned up.
#[test]
fn add_and_clear_in_one_phase() {
    let ctx = WaitCtx::new();
    let key = WaitKey::unique();
    set(&ctx, key, 3);
    assert_eq!(value(ctx.clear_fd(key)), Some(3));
    assert_eq!((ctx.fds(), changes(&ctx)), (vec![], (vec![], vec![])));
    assert!(ctx.clear_fd(key).is_none(), "S56: an unknown key");
}

/// S56: an older one is reported as removed, once, and its value comes back too.
#[test]
fn clear_of_a_settled_fd() {
    let ctx = WaitCtx::new();
    let key = WaitKey::unique();
    let inside = ctx.clone();
    let job = paused_with(&ctx, move || {
        set(&inside, key, 3);
        pause_job().unwrap();
        let cleared = value(inside.clear_fd(key));
        assert!(inside.clear_fd(key).is_none(), "it is gone for this key");
        pause_job().unwrap();
        cleared
    });
    let job = still_paused(job.resume());
    assert_eq!((ctx.fds(), changes(&ctx)), (vec![], (vec![], vec![3])));
    assert_eq!(finished(job.resume()), Some(3));
    assert_eq!(changes(&ctx), (vec![], vec![]), "S58: the resume took it away");
}

/// S57: cleared and set again in one phase, a key is both removed and added; so is a number that was closed and
/// reopened.
#[test]
fn the_same_number_removed_and_added() {
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

/// S58: removed entries go at the next resume of a job bound to this ctx, and at no other's.
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

/// S59: what was added before the end stays added through later jobs, until one of them pauses and is resumed.
#[test]
fn additions_before_the_end_stay_reported() {
    let ctx = WaitCtx::new();
    let run = |f: fn()| asyncjob::start_job(&ctx, f).unwrap();
    let inside = ctx.clone();
    let step = asyncjob::start_job(&ctx, move || set(&inside, WaitKey::unique(), 3)).unwrap();
    finished(step);
    assert_eq!(changes(&ctx).0, [3]);
    finished(run(|| ()));
    assert_eq!(changes(&ctx).0, [3], "a job that does not pause");
    let job = still_paused(run(|| {
        let _ = pause_job();
    }));
    assert_eq!(changes(&ctx).0, [3], "a job that pauses");
    finished(job.resume());
    assert_eq!((changes(&ctx).0, numbers(&ctx.fds())), (vec![], vec![3]));
}

/// S60: the values are dropped with the last handle, the newest first; those that were cleared are not the ctx's any
/// more.
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
    ctx.add_wait_fd(c, value("fresh, cleared"));
    ctx.add_wait_fd(d, value("newest"));
    let cleared = [ctx.clear_fd(b), ctx.clear_fd(c)];
    assert_eq!(dropped.try_iter().count(), 0, "no cleanup at a clear");
    let handle = ctx.clone();
    drop(ctx);
    assert_eq!(dropped.try_iter().count(), 0, "a handle is left");
    drop(handle);
    assert_eq!(dropped.try_iter().collect::<Vec<_>>(), ["newest", "oldest"]);
    drop(cleared);
    assert_eq!(dropped.try_iter().count(), 2);
}

/// S60: no lock is held while a destructor of the user's runs: one that uses its own ctx, from a clear, gets through.
#[test]
fn a_destructor_may_use_the_ctx() {
    struct UsesTheCtx(WaitCtx, PipeReader, mpsc::Sender<usize>);
    impl AsFd for UsesTheCtx {
        fn as_fd(&self) -> BorrowedFd<'_> {
            assert!(self.0.fds().len() < 100); // called by set_wait_fd: no lock either
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

    // The same as a callback: replaced, removed, and dropped by the last reader.
    for replace in [None, Some(waker_fn(|| ()))] {
        let at_drop = Mutex::new(UsesTheCtx(ctx.clone(), pipe().unwrap().0, sender.clone()));
        ctx.set_callback(Some(waker_fn(move || drop(at_drop.lock()))));
        ctx.set_callback(replace);
        assert!(lengths.try_recv().is_ok());
    }
}

/// S60: a value whose destructor clears another key, as QAT's cleanup reads the callback: of a ctx that is gone.
#[test]
fn a_destructor_panics_and_the_others_run() {
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

/// S61, fixed: a ctx that its session drops while a job is paused lives as long as the job does.
#[test]
fn a_ctx_dropped_under_its_job() {
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

/// S47: an engine's thread uses the ctx while the job's thread does: every entry that either made is there, once.
#[test]
fn used_from_other_threads() {
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

/// The version moves with every change of the fds, and with nothing else.
#[test]
fn the_version_moves_with_the_fds() {
    let ctx = WaitCtx::new();
    let key = WaitKey::unique();
    let mut before = ctx.version();
    let mut moved = |what: &str, expected: bool, act: &dyn Fn()| {
        act();
        assert_eq!(ctx.version() != before, expected, "{what}");
        before = ctx.version();
    };
    moved("set", true, &|| set(&ctx, key, 3));
    moved("interest", true, &|| assert!(ctx.set_interest(key, Interest::Both)));
    moved("the same interest", false, &|| {
        assert!(ctx.set_interest(key, Interest::Both))
    });
    moved("clear", true, &|| drop(ctx.clear_fd(key)));
    moved("clear of nothing", false, &|| drop(ctx.clear_fd(key)));
    moved("status and callback", false, &|| {
        ctx.set_status(asyncjob::Status::Ok);
        ctx.set_callback(None);
        ctx.set_deadline(None);
        let _ = (ctx.fds(), ctx.changes());
    });
}

/// An interest that changes is a removal and an addition; within the phase of the addition it is part of it.
#[test]
fn a_changed_interest_is_reported() {
    let ctx = WaitCtx::new();
    let key = WaitKey::unique();
    assert!(!ctx.set_interest(key, Interest::Writable), "nothing there");
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

/// An on-call fd counts while it is armed, and only then; arming says what was armed before.
#[test]
fn an_on_call_fd_counts_while_armed() {
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
    assert_eq!(numbers(&ctx.changes().added), [5, 4, 3], "registered all the while");
}

/// A value is lent for a call, with the ctx usable meanwhile, and is back afterwards: also when the call panics.
#[test]
fn a_value_is_lent_for_a_call() {
    let ctx = WaitCtx::new();
    let key = WaitKey::unique();
    assert_eq!(ctx.with_value(key, |_: &mut RawFd| ()), None);
    set(&ctx, key, 3);
    assert_eq!(ctx.with_value(key, |_: &mut String| ()), None, "another type");
    let doubled = ctx.with_value(key, |value: &mut RawFd| {
        assert_eq!(ctx.fd(key), Some(3));
        assert_eq!(ctx.with_value(key, |_: &mut RawFd| ()), None, "lent already");
        *value *= 2;
        *value
    });
    assert_eq!(
        (doubled, ctx.copied_value::<RawFd>(key).map(|(_, value)| value)),
        (Some(6), Some(6))
    );
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        ctx.with_value(key, |_: &mut RawFd| std::panic::resume_unwind(Box::new("in the call")))
    }));
    assert!(caught.is_err());
    assert_eq!(value(ctx.clear_fd(key)), Some(6), "it is still there after a panic");
}

/// A value cleared while it is lent is dropped when it comes back, and not put under another fd of the same key.
#[test]
fn a_value_cleared_while_it_is_lent() {
    let _watchdog = Watchdog::new();
    let ctx = WaitCtx::new();
    let key = WaitKey::unique();
    set(&ctx, key, 3);
    set(&ctx, key, 4);
    let (lent, taken) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let other = {
        let (ctx, lent, taken) = (ctx.clone(), lent.clone(), taken.clone());
        thread::spawn(move || {
            lent.wait();
            ctx.with_value(key, |value: &mut RawFd| {
                taken.wait();
                lent.wait();
                *value
            })
        })
    };
    ctx.with_value(key, |newest: &mut RawFd| {
        assert_eq!(*newest, 4);
        assert!(ctx.clear_fd(key).is_none(), "its value is lent");
        lent.wait();
        taken.wait(); // the other thread has the older value now, whose entry is without one
    });
    lent.wait();
    assert_eq!(other.join().unwrap(), Some(3));
    assert_eq!((numbers(&ctx.fds()), value(ctx.clear_fd(key))), (vec![3], Some(3)));
}

/// Copies of the values of one type, newest first, with their fds: what the C interface calls cleanups for.
#[test]
fn copies_of_values() {
    let ctx = WaitCtx::new();
    let [a, b, c] = keys();
    set(&ctx, a, 3);
    add_number(&ctx, number(b, 4), "of another type");
    set(&ctx, c, 5);
    let copies = ctx.copied_values::<RawFd>();
    assert_eq!(copies, [(number(c, 5), 5), (number(a, 3), 3)]);
}

/// A key from an address is that address; a unique key is no address and no other key.
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

/// `set_wait_fd` takes the number from the value and keeps the value, and with it the fd, open.
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
    assert!(writer.write_all(b"x").is_err(), "the reader went with the ctx");
}

/// A step is a pause with a ctx in it: what a driver reads after each one.
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
