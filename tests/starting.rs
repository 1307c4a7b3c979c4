//! Promise: a job runs at once, pauses, is resumed, and hands out what it returns: whatever its size, alignment or
//! kind.

mod by_hand;

use std::cell::Cell;
use std::collections::HashSet;
use std::rc::Rc;

use asyncjob::stack::StackSize;
use asyncjob::{
    Job, JobBuilder, JobId, PauseError, Step, WaitCtx, current_job, current_job_id, is_capable, pause_job, start_job,
};
use asyncjob_testing::Watchdog;
use by_hand::{Log, finished, in_use, paused, run};

/// S8: jobs work wherever this crate compiles.
#[test]
fn the_system_is_capable() {
    assert!(is_capable());
}

/// S24 and S30: the job runs at once, up to its first pause, and goes on from there at each resume.
#[test]
fn a_job_runs_at_once_and_goes_on_at_each_resume() {
    let log = Log::default();
    let inside = log.clone();
    let job = paused(move || {
        inside.say("first phase");
        assert_eq!(pause_job(), Ok(()));
        inside.say("second phase");
        assert_eq!(pause_job(), Ok(()));
        inside.say("third phase");
    });
    assert_eq!(log.take(), ["first phase"]);
    let Step::Paused(job) = job.resume() else { panic!() };
    assert_eq!(log.take(), ["second phase"]);
    finished(job.resume());
    assert_eq!(log.take(), ["third phase"]);
}

/// S22 and S23: the closure owns what it needs, whatever that is, including nothing; no copy of it is left behind.
#[test]
fn the_closure_owns_its_data() {
    let data = Rc::new(());
    let inside = data.clone();
    let job = paused(move || {
        pause_job().unwrap();
        Rc::strong_count(&inside)
    });
    assert_eq!(Rc::strong_count(&data), 2);
    assert_eq!(finished(job.resume()), 2);
    assert_eq!(Rc::strong_count(&data), 1);
    run(|| ());
}

/// S25: a value comes with the end and with nothing else.
#[test]
fn a_value_comes_with_the_end_only() {
    let job = paused(|| {
        pause_job().unwrap();
        String::from("signature")
    });
    let step = job.resume();
    assert!(matches!(&step, Step::Finished(value) if value == "signature"));
}

/// S26: the handle outside and the current job inside are the same job.
#[test]
fn the_handle_is_the_current_job() {
    let seen = Rc::new(Cell::new(None));
    let inside = seen.clone();
    let job = paused(move || {
        let current = current_job().unwrap();
        assert_eq!(current_job_id(), Some(current.id()));
        inside.set(Some(current.id()));
        pause_job().unwrap();
        current_job_id()
    });
    let id = job.id();
    assert_eq!(seen.get(), Some(id));
    assert_eq!(finished(job.resume()), Some(id));
}

/// S27 and S31: the ctx is bound at the start, for all phases; the job's hold on it ends with the job.
#[test]
fn the_ctx_is_bound_at_the_start() {
    struct Told(Rc<Cell<bool>>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    let ctx = WaitCtx::new();
    let inside = ctx.clone();
    let Ok(Step::Paused(job)) = start_job(&ctx, move || {
        assert!(current_job().unwrap().wait_ctx().ptr_eq(&inside));
        pause_job().unwrap();
        assert!(current_job().unwrap().wait_ctx().ptr_eq(&inside));
    }) else {
        panic!()
    };
    assert!(job.wait_ctx().ptr_eq(&ctx));
    drop(ctx); // the job holds it
    finished(job.resume());

    let dropped = Rc::new(Cell::new(false));
    let waker = asyncjob::waker_fn({
        let sent = std::sync::Mutex::new(SendBox(Told(dropped.clone())));
        move || drop(sent.lock())
    });
    let ctx = WaitCtx::new();
    ctx.set_callback(Some(waker));
    let Ok(Step::Paused(job)) = start_job(&ctx, || pause_job().unwrap()) else {
        panic!()
    };
    drop(ctx);
    assert!(!dropped.get(), "the paused job holds it");
    finished(job.resume());
    assert!(dropped.get(), "the last holder was the job");
}

/// The test above stays on one thread.
#[allow(dead_code, reason = "held for its drop")]
struct SendBox<T>(T);
#[allow(
    unsafe_code,
    reason = "a value that reports its drop within one thread, where a `Send` one is asked for"
)]
// SAFETY: used by one test on one thread.
unsafe impl<T> Send for SendBox<T> {}

/// S28: a `&WaitCtx` is always there; one that nobody uses costs nothing and a job may leave it alone.
#[test]
fn one_ctx_serves_job_after_job() {
    let ctx = WaitCtx::new();
    for round in 0..3 {
        let Ok(Step::Paused(job)) = start_job(&ctx, move || {
            pause_job().unwrap();
            round
        }) else {
            panic!()
        };
        assert_eq!(finished(job.resume()), round);
    }
}

/// S29: a job may pause without a wait fd; its holder decides when to resume it.
#[test]
fn a_job_may_pause_with_nothing_to_wait_for() {
    let job = paused(|| pause_job().unwrap());
    assert!(job.wait_ctx().fds().is_empty());
    finished(job.resume());
}

/// S40: outside a job a pause does nothing, and fails.
#[test]
fn a_pause_outside_a_job_does_nothing() {
    assert_eq!(pause_job(), Err(PauseError::NotInJob));
}

/// S41: a thousand pauses, each successful.
#[test]
fn a_pause_succeeds_after_each_resume() {
    let mut job = paused(|| (0..1000).filter(|_| pause_job() == Ok(())).count());
    for _ in 1..1000 {
        let Step::Paused(next) = job.resume() else { panic!() };
        job = next;
    }
    assert_eq!(finished(job.resume()), 1000);
}

/// S46: outside a job there is no current job: before, between, after, and on another thread.
#[test]
fn no_current_job_outside() {
    let _watchdog = Watchdog::new();
    assert!(current_job().is_none());
    assert_eq!(current_job_id(), None);
    let job = paused(|| pause_job().unwrap());
    assert!(current_job().is_none());
    std::thread::spawn(|| assert!(current_job().is_none())).join().unwrap();
    finished(job.resume());
    assert!(current_job().is_none());
}

/// Names and ids: an id is never 0 and never given twice, on any thread.
#[test]
fn ids_are_unique_in_the_process() {
    let _watchdog = Watchdog::new();
    let ids = |count: usize| -> Vec<JobId> { (0..count).map(|_| run(|| current_job_id().unwrap())).collect() };
    let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(move || ids(3000))).collect();
    let mut all = ids(3000);
    for thread in threads {
        all.extend(thread.join().unwrap());
    }
    assert!(all.iter().all(|id| id.get() != 0));
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 15_000);
    assert_eq!(all[0].to_string(), format!("#{}", all[0].get()));
}

#[test]
fn a_name_is_seen_on_both_sides() {
    let named = JobBuilder::new().name(String::from("connection 7"));
    assert!(format!("{named:?}").contains("connection 7"));
    let Ok(Step::Paused(job)) = named.start(|| {
        pause_job().unwrap();
        current_job().unwrap().name().map(String::from)
    }) else {
        panic!()
    };
    assert_eq!(job.name(), Some("connection 7"));
    assert!(format!("{job:?}").contains("connection 7"));
    assert_eq!(finished(job.resume()).as_deref(), Some("connection 7"));

    let next = paused(|| pause_job().unwrap()); // on the same stack
    assert_eq!(next.name(), None);
    finished(next.resume());
}

/// Closures of every size around those that mattered: corosensei moves up to 1024 bytes, we move up to 4096.
#[test]
fn closures_of_any_size() {
    fn moved<const N: usize>() {
        let data = [7u8; N];
        let job = paused(move || {
            pause_job().unwrap();
            data.iter().map(|&byte| usize::from(byte)).sum::<usize>()
        });
        assert_eq!(finished(job.resume()), 7 * N);
    }
    moved::<0>();
    moved::<959>();
    moved::<960>();
    moved::<961>();
    moved::<1016>();
    moved::<1017>();
    moved::<1024>();
    moved::<1025>();
    moved::<65_536>();
}

/// Results of any size come back whole.
#[test]
fn results_of_any_size() {
    fn returned<const N: usize>() {
        let back = run(|| {
            let mut data = [0u8; N];
            data.iter_mut().enumerate().for_each(|(at, byte)| *byte = at as u8);
            data
        });
        assert!(back.iter().enumerate().all(|(at, &byte)| byte == at as u8));
    }
    returned::<0>();
    returned::<1>();
    returned::<7>();
    returned::<8>();
    returned::<9>();
    returned::<4096>();
    returned::<10_000>();
}

/// Over-aligned closures and results lie where their alignment says, on both sides.
#[test]
fn over_aligned_closures_and_results() {
    macro_rules! aligned {
        ($($align:literal),*) => {$({
            #[derive(Clone, Copy)]
            #[repr(align($align))]
            struct Aligned(u8);
            let value = Aligned(42);
            let job = paused(move || {
                let inside = value;
                let at = std::hint::black_box(&raw const inside) as usize;
                pause_job().unwrap();
                (at % $align, std::hint::black_box(inside))
            });
            let (offset, back) = finished(job.resume());
            assert_eq!((offset, back.0), (0, 42), "alignment {}", $align);
            assert_eq!(std::hint::black_box(&raw const back) as usize % $align, 0);
        })*};
    }
    aligned!(16, 32, 64, 128, 256, 512, 1024, 2048, 4096);
}

/// A closure of no size but a large alignment is no smaller than its alignment once it is captured with anything else.
#[test]
fn a_closure_that_is_only_alignment() {
    #[derive(Clone, Copy)]
    #[repr(align(4096))]
    struct OnlyAlignment;
    let value = OnlyAlignment;
    let f = move || {
        let inside = value;
        std::hint::black_box(&raw const inside) as usize % 4096
    };
    assert_eq!((size_of_val(&f), align_of_val(&f)), (0, 4096));
    assert_eq!(run(f), 0);
}

/// Zero-sized results, with a drop that is counted: once.
#[test]
fn a_zero_sized_result_is_dropped_once() {
    thread_local!(static DROPS: Cell<u32> = const { Cell::new(0) });
    struct Unit;
    impl Drop for Unit {
        fn drop(&mut self) {
            DROPS.set(DROPS.get() + 1);
        }
    }
    let job = paused(|| {
        pause_job().unwrap();
        Unit
    });
    let unit = finished(job.resume());
    assert_eq!(DROPS.get(), 0);
    drop(unit);
    assert_eq!(DROPS.get(), 1);
    drop(paused(|| {
        let _ = pause_job();
        Unit
    }));
    assert_eq!(DROPS.get(), 2, "the result of a job dropped in its pause");
}

/// A job may never return.
#[test]
fn a_job_that_never_returns() {
    let mut job: Job<std::convert::Infallible> = paused(|| {
        loop {
            if pause_job().is_err() {
                std::panic::resume_unwind(Box::new("the only way out"));
            }
        }
    });
    for _ in 0..10 {
        let Step::Paused(next) = job.resume();
        job = next;
    }
    drop(job);
}

/// A job that holds a job, to a depth of ten, each resumed from the one around it.
#[test]
fn a_job_that_holds_a_job() {
    fn nest(depth: u32) -> Job<u32> {
        paused(move || {
            let inner = (depth > 0).then(|| nest(depth - 1));
            pause_job().unwrap();
            1 + inner.map_or(0, |job| finished(job.resume()))
        })
    }
    assert_eq!(finished(nest(10).resume()), 11);
    drop(nest(10));
    assert_eq!(in_use(), 0);
}

/// A handle is one pointer wide, so that a scheduler can keep a million of them.
#[test]
fn a_job_is_one_pointer() {
    assert_eq!(size_of::<Job<[u8; 100]>>(), size_of::<usize>());
    assert_eq!(size_of::<Option<Job<()>>>(), size_of::<usize>());
}

/// A stack of one's own size is that large.
#[test]
fn a_job_can_use_the_stack_it_asked_for() {
    fn use_up(bytes: usize) -> u8 {
        let page = std::hint::black_box([1u8; 4096]);
        if bytes <= 4096 {
            page[0]
        } else {
            use_up(bytes - 4096) | page[bytes % 4096]
        }
    }
    let deep = JobBuilder::new().stack_size(StackSize::at_least(4 << 20));
    let used = finished(deep.start(|| use_up(1 << 20)).unwrap());
    assert_eq!(used, 1);
}
