//! Promise: the hooks of a job are called in pairs, around every switch into the job and out of it, and at no other
//! time.
//!
//! Each step asserts all counters. S75 to S77: thread state that is not saved is shared between a job and its resumer.
//! The hooks are the place to save it.

mod by_hand;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use asyncjob::hooks::{HookedJob, SwitchHooks};
use asyncjob::{Job, JobBuilder, PauseError, Status, Step, block_pause, current_job_id, pause_job};
use by_hand::{Log, finished, in_use, paused, run, still_paused};

/// Counts how often each hook was called: (enter, leave).
#[derive(Clone, Default)]
struct Calls(Rc<Cell<(u32, u32)>>);

impl Calls {
    #[track_caller]
    fn expect(&self, enters: u32, leaves: u32) {
        assert_eq!(self.0.get(), (enters, leaves), "(enter, leave)");
    }
}

impl SwitchHooks for Calls {
    fn enter(&mut self) {
        let (enters, leaves) = self.0.get();
        assert_eq!(enters, leaves, "entered while inside");
        self.0.set((enters + 1, leaves));
    }

    fn leave(&mut self) {
        let (enters, leaves) = self.0.get();
        assert_eq!(enters, leaves + 1, "left while outside");
        self.0.set((enters, leaves + 1));
    }
}

fn start<T: 'static>(calls: &Calls, f: impl FnOnce() -> T + 'static) -> Step<T> {
    JobBuilder::new().hooks(calls.clone()).start(f).unwrap()
}

#[test]
fn hooks_run_around_start_pause_resume_and_end() {
    let calls = Calls::default();
    let inside = calls.clone();
    let step = start(&calls, move || {
        inside.expect(1, 0);
        pause_job().unwrap();
        inside.expect(2, 1);
        pause_job().unwrap();
        inside.expect(3, 2);
    });
    calls.expect(1, 1);
    let job = still_paused(step);
    calls.expect(1, 1);
    let job = still_paused(job.resume());
    calls.expect(2, 2);
    finished(job.resume());
    calls.expect(3, 3);
}

#[test]
fn hooks_do_not_run_at_a_pause_that_does_not_switch() {
    let calls = Calls::default();
    let inside = calls.clone();
    finished(start(&calls, move || {
        let _guard = block_pause();
        assert_eq!(pause_job(), Err(PauseError::Blocked));
        inside.expect(1, 0);
    }));
    calls.expect(1, 1);
}

#[test]
fn hooks_run_around_cancel_and_drop() {
    for cancel in [|job: Job<()>| assert!(job.cancel().is_ok()), drop::<Job<()>>] {
        let calls = Calls::default();
        let job = still_paused(start(&calls, || {
            assert!(pause_job().is_err());
            assert!(pause_job().is_err()); // does not switch
        }));
        calls.expect(1, 1);
        cancel(job);
        calls.expect(2, 2);
    }
}

#[test]
fn hooks_run_around_forced_unwinding_and_not_at_quarantine() {
    let calls = Calls::default();
    still_paused(start(&calls, || {
        let _ = pause_job();
    }))
    .force_unwind();
    calls.expect(2, 2);

    let calls = Calls::default();
    still_paused(start(&calls, || {
        let _ = pause_job();
    }))
    .quarantine();
    calls.expect(1, 1);
}

#[test]
fn hooks_run_around_a_panic() {
    let calls = Calls::default();
    let started = catch_unwind(AssertUnwindSafe(|| {
        start(&calls, || resume_unwind(Box::new("first phase")))
    }));
    assert!(started.is_err());
    calls.expect(1, 1);

    let calls = Calls::default();
    let job = still_paused(start(&calls, || {
        pause_job().unwrap();
        resume_unwind(Box::new("second phase"))
    }));
    assert!(catch_unwind(AssertUnwindSafe(|| job.resume())).is_err());
    calls.expect(2, 2);
}

#[test]
fn hooks_do_not_run_when_a_paused_job_is_looked_at() {
    let calls = Calls::default();
    let mut job = still_paused(start(&calls, || pause_job().unwrap()));
    let _ = job.backtrace();
    let _ = job.trim();
    calls.expect(1, 1);
    finished(job.resume());
    calls.expect(2, 2);
}

/// Panics in the calls of `enter` with these numbers.
struct PanicsInEnter {
    at: &'static [u32],
    entered: u32,
}

impl SwitchHooks for PanicsInEnter {
    fn enter(&mut self) {
        self.entered += 1;
        if self.at.contains(&self.entered) {
            resume_unwind(Box::new("in enter"));
        }
    }
    fn leave(&mut self) {}
}

fn panics_in_enter(at: &'static [u32]) -> JobBuilder<'static, PanicsInEnter> {
    JobBuilder::new().hooks(PanicsInEnter { at, entered: 0 })
}

/// A hook that panics before the job has begun costs no stack, and the closure is dropped without being run.
#[test]
fn a_panic_in_the_first_enter_costs_no_stack() {
    let log = Log::default();
    let (kept, said) = (log.at_drop("closure dropped"), log.clone());
    let started = catch_unwind(AssertUnwindSafe(|| {
        panics_in_enter(&[1]).start(move || {
            let _kept = kept;
            said.say("runs");
        })
    }));
    assert_eq!(started.unwrap_err().downcast_ref(), Some(&"in enter"));
    assert_eq!(log.take(), ["closure dropped"]);
    assert_eq!((by_hand::in_use(), current_job_id()), (0, None));
}

/// A hook that panics at a resume: the job is cancelled, as if its handle was dropped, and ends through its own code.
#[test]
fn a_panic_in_enter_at_a_resume_cancels_the_job() {
    let log = Log::default();
    let said = log.clone();
    let started = panics_in_enter(&[2]).start(move || said.say(format!("{:?}", pause_job())));
    let job = still_paused(started.unwrap());
    let resumed = catch_unwind(AssertUnwindSafe(|| job.resume()));
    assert_eq!(resumed.unwrap_err().downcast_ref(), Some(&"in enter"));
    assert_eq!(log.take(), ["Err(Cancelled: the job was cancelled: return from it)"]);
    assert_eq!((by_hand::in_use(), current_job_id()), (0, None));
}

/// A hook that panics each time: the job cannot run its own code any more. Each end of it quarantines its stack, which
/// counts as in use.
#[test]
fn a_panic_in_every_enter_quarantines_the_job() {
    type Way = fn(Job<Result<(), PauseError>>);
    let ways: [(Way, bool); 4] = [
        (|job| drop(job.resume()), true),
        (|job| assert!(job.cancel().is_ok()), true),
        (Job::force_unwind, true),
        (drop, false),
    ];
    for (index, (end, panics)) in ways.into_iter().enumerate() {
        let job = still_paused(panics_in_enter(&[2, 3]).start(pause_job).unwrap());
        let before = asyncjob::stack::quarantined();
        let ended = catch_unwind(AssertUnwindSafe(|| end(job)));
        assert_eq!(ended.is_err(), panics, "way {index}");
        assert!(asyncjob::stack::quarantined() > before);
        assert_eq!((by_hand::in_use(), current_job_id()), (index + 1, None));
    }
}

/// If the second hook of a pair panics, the first one still puts back what it has replaced.
#[test]
fn a_panic_of_one_hook_of_a_pair_leaves_the_other() {
    let calls = Calls::default();
    let pair = (calls.clone(), PanicsInEnter { at: &[1], entered: 0 });
    assert!(catch_unwind(AssertUnwindSafe(|| JobBuilder::new().hooks(pair).start(|| ()))).is_err());
    calls.expect(1, 1);
}

/// What the job owned is dropped then, and its stack is back in the pool.
#[test]
fn a_panic_after_the_end_loses_neither_the_stack_nor_the_hooks() {
    struct PanicsAtTheEnd(u32, #[allow(dead_code, reason = "dropped with the hooks")] Rc<()>);
    impl SwitchHooks for PanicsAtTheEnd {
        fn enter(&mut self) {}
        fn leave(&mut self) {
            self.0 -= 1;
            if self.0 == 0 {
                resume_unwind(Box::new("after the end"));
            }
        }
    }
    for end in [
        |job: Job<Rc<()>>| drop(job.resume()),
        |job: Job<Rc<()>>| drop(job.cancel()),
        Job::force_unwind,
        drop::<Job<Rc<()>>>,
    ] {
        let (before, counted) = (in_use(), Rc::new(()));
        let (hooks, value) = (PanicsAtTheEnd(2, counted.clone()), counted.clone());
        let job = JobBuilder::new().hooks(hooks).start(move || {
            let _ = pause_job();
            value
        });
        let job = still_paused(job.unwrap());
        let _ = catch_unwind(AssertUnwindSafe(|| end(job)));
        assert_eq!(in_use(), before);
        assert_eq!(Rc::strong_count(&counted), 1);
    }
}

/// The job does not end when it is cancelled, and cancelling it again for each panic would never end either.
#[test]
fn a_job_that_pauses_on_while_its_hook_panics_is_quarantined() {
    struct PanicsFromTheSecond(u32);
    impl SwitchHooks for PanicsFromTheSecond {
        fn enter(&mut self) {}
        fn leave(&mut self) {
            self.0 += 1;
            if self.0 > 1 {
                resume_unwind(Box::new("each time"));
            }
        }
    }
    let before = in_use();
    let job = JobBuilder::new().hooks(PanicsFromTheSecond(0)).start(|| {
        loop {
            let _ = pause_job();
        }
    });
    let job: Job<()> = still_paused(job.unwrap());
    assert!(catch_unwind(AssertUnwindSafe(|| job.resume())).is_err());
    assert_eq!(in_use() - before, 1, "a quarantined stack stays in use");
}

/// A switch of an inner job calls only the inner job's hooks.
#[test]
fn each_job_has_its_own_hooks() {
    let (outer, inner) = (Calls::default(), Calls::default());
    let (saw_outer, inside) = (outer.clone(), inner.clone());
    finished(start(&outer, move || {
        let job = still_paused(start(&inside, || pause_job().unwrap()));
        inside.expect(1, 1);
        saw_outer.expect(1, 0);
        finished(job.resume());
        inside.expect(2, 2);
        saw_outer.expect(1, 0);
    }));
    outer.expect(1, 1);
    inner.expect(2, 2);
}

/// Both hooks run on the resumer's side. There the resumer is the current job, if it is a job.
#[test]
fn both_hooks_run_on_the_resumers_side() {
    struct LogsCurrentJob(Log);
    impl SwitchHooks for LogsCurrentJob {
        fn enter(&mut self) {
            self.0.say(format!("enter in {:?}", current_job_id()));
        }
        fn leave(&mut self) {
            self.0.say(format!("leave in {:?}", current_job_id()));
        }
    }
    let log = Log::default();
    let hooks = JobBuilder::new().hooks(LogsCurrentJob(log.clone()));
    let job = still_paused(hooks.start(|| pause_job().unwrap()).unwrap());
    assert_eq!(log.take(), ["enter in None", "leave in None"]);
    let outer = run(move || {
        finished(job.resume());
        current_job_id()
    });
    assert_eq!(
        log.take(),
        [format!("enter in {outer:?}"), format!("leave in {outer:?}")]
    );
}

/// The hooks live as long as the job and are dropped with it, once. A refused start drops them without a call.
#[test]
fn the_hooks_are_dropped_with_the_job() {
    struct LogsDrop(#[allow(dead_code, reason = "held for its drop")] by_hand::AtDrop);
    impl SwitchHooks for LogsDrop {
        fn enter(&mut self) {}
        fn leave(&mut self) {}
    }
    let log = Log::default();
    let hooks = JobBuilder::new().hooks(LogsDrop(log.at_drop("hooks dropped")));
    let job = still_paused(hooks.start(|| pause_job().unwrap()).unwrap());
    assert_eq!(log.take(), [""; 0]);
    finished(job.resume());
    assert_eq!(log.take(), ["hooks dropped"]);

    asyncjob::pool::init_thread(asyncjob::pool::PoolConfig::new().limit(0)).unwrap();
    let hooks = JobBuilder::new().hooks(LogsDrop(log.at_drop("hooks dropped")));
    assert!(hooks.start(|| ()).is_err());
    assert_eq!(log.take(), ["hooks dropped"]);
}

/// S76, S77: state that the hooks swap belongs to the job. Other state belongs to the thread.
#[test]
fn swapped_state_follows_the_job_and_other_state_does_not() {
    thread_local! {
        static SWAPPED: Cell<u32> = const { Cell::new(0) };
        static SHARED: Cell<u32> = const { Cell::new(0) };
    }
    struct Swap(u32);
    impl SwitchHooks for Swap {
        fn enter(&mut self) {
            self.0 = SWAPPED.replace(self.0);
        }
        fn leave(&mut self) {
            self.0 = SWAPPED.replace(self.0);
        }
    }
    let job = |own: u32| {
        let hooks = JobBuilder::new().hooks(Swap(own));
        let step = hooks.start(|| {
            let seen = (SWAPPED.get(), SHARED.get());
            SWAPPED.set(SWAPPED.get() + 100);
            SHARED.set(SHARED.get() + 1);
            pause_job().unwrap();
            (seen, (SWAPPED.get(), SHARED.get()))
        });
        still_paused(step.unwrap())
    };
    let (one, two) = (job(1), job(2));
    assert_eq!((SWAPPED.get(), SHARED.get()), (0, 2));
    assert_eq!(finished(two.resume()), ((2, 1), (102, 2)));
    assert_eq!(finished(one.resume()), ((1, 0), (101, 2)));
    assert_eq!(SWAPPED.get(), 0);
}

/// S74, fixed, and S75: the signal mask and errno belong to the thread. The first entry into a job overwrites neither.
#[test]
fn the_signal_mask_and_errno_belong_to_the_thread() {
    use std::io;
    #[allow(unsafe_code, reason = "std cannot block a signal")]
    fn block(signal: i32) -> bool {
        let mut set = std::mem::MaybeUninit::uninit();
        let mut before = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the pointer is valid for a signal set.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: the call above initialised the set.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
        // SAFETY: the set is valid, and the other pointer is valid for a set.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), before.as_mut_ptr()) };
        // SAFETY: the call above wrote the set.
        unsafe { libc::sigismember(before.as_ptr(), signal) == 1 }
    }
    asyncjob::pool::init_thread(asyncjob::pool::PoolConfig::new().precreate(4)).unwrap();
    assert!(!block(libc::SIGUSR1)); // after the stacks were made, as in S74
    let job = paused(|| {
        let was_blocked = block(libc::SIGUSR1);
        block(libc::SIGUSR2);
        assert!(std::fs::File::open("/does/not/exist").is_err()); // ENOENT
        pause_job().unwrap();
        was_blocked
    });
    assert_eq!(
        io::Error::last_os_error().raw_os_error(),
        Some(libc::ENOENT),
        "errno of the job is seen outside"
    );
    assert!(block(libc::SIGUSR1), "still blocked outside");
    assert!(block(libc::SIGUSR2), "what the job blocks is blocked in the thread");
    assert!(finished(job.resume()), "blocked inside too");
}

/// A hook is told of its job before the first enter, and at each pause what the job waits for, before the leave. Of a
/// pair, the second hook is the inner one.
#[test]
fn a_hook_is_told_of_the_start_and_of_each_pause() {
    struct Told(&'static str, Log);
    impl SwitchHooks for Told {
        fn enter(&mut self) {
            self.1.say(format!("{} enter", self.0));
        }
        fn leave(&mut self) {
            self.1.say(format!("{} leave", self.0));
        }
        fn starting(&mut self, job: HookedJob<'_>) {
            assert_eq!((job.name, job.wait_ctx.status()), (Some("told"), Status::Unsupported));
            self.1.say(format!("{} starting", self.0));
            self.1.say(format!("#{}", job.id));
        }
        fn pausing(&mut self, job: HookedJob<'_>) {
            assert_eq!(job.name, Some("told"));
            self.1.say(format!("{} pausing: {:?}", self.0, job.wait_ctx.status()));
        }
    }
    let log = Log::default();
    let hooks = (Told("outer", log.clone()), Told("inner", log.clone()));
    let job = JobBuilder::new().name("told").hooks(hooks).start(|| {
        asyncjob::current_job().unwrap().wait_ctx().set_status(Status::Ok);
        pause_job().unwrap();
    });
    let job = still_paused(job.unwrap());
    let id = format!("#{}", job.id().get());
    let entered = ["outer enter", "inner enter"];
    let started = [&["outer starting", &id, "inner starting", &id], &entered[..]].concat();
    let paused = ["inner pausing: Ok", "outer pausing: Ok", "inner leave", "outer leave"];
    assert_eq!(log.take(), [&started[..], &paused].concat());
    finished(job.resume());
    assert_eq!(log.take(), [&entered[..], &["inner leave", "outer leave"]].concat());
}

/// The state of the job goes away, and the job is cancelled, when a hook panics that is told of a pause.
#[test]
fn a_panic_in_pausing_leaves_and_cancels() {
    struct Panics(Calls);
    impl SwitchHooks for Panics {
        fn enter(&mut self) {
            self.0.enter();
        }
        fn leave(&mut self) {
            self.0.leave();
        }
        fn pausing(&mut self, _: HookedJob<'_>) {
            resume_unwind(Box::new("in pausing"));
        }
    }
    let (before, calls, log) = (in_use(), Calls::default(), Log::default());
    let (hooks, inside) = (Panics(calls.clone()), log.clone());
    let started = catch_unwind(AssertUnwindSafe(|| {
        JobBuilder::new()
            .hooks(hooks)
            .start(move || inside.say(format!("{:?}", pause_job())))
    }));
    assert!(started.is_err());
    assert_eq!(log.take(), ["Err(Cancelled: the job was cancelled: return from it)"]);
    calls.expect(2, 2);
    assert_eq!(in_use(), before);
}
