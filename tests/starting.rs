//! Promise: a job runs at once, pauses, is resumed, and returns its value, whatever the size, the alignment or the type
//! of the closure and the value.

mod by_hand;

use std::cell::Cell;
use std::collections::HashSet;
use std::rc::Rc;
use std::thread;

use asyncjob::job_future::JobFuture;
use asyncjob::scheduler::Scheduler;
use asyncjob::stack::StackSize;
use asyncjob::waiting::await_or_block;
use asyncjob::{
    Job, JobBuilder, JobId, PauseError, Step, WaitCtx, current_job, current_job_id, is_capable, pause_job, start_job,
};
use asyncjob_testing::Watchdog;
use by_hand::{Log, finished, in_use, paused, run};

/// S8: `is_capable` is true on every system on which this crate compiles.
#[test]
fn the_system_is_capable() {
    assert!(is_capable());
}

/// S24 and S30: a job runs at once up to its first pause, and continues from there at each resume.
#[test]
fn a_job_runs_at_once_and_continues_at_each_resume() {
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

/// S22 and S23: the closure owns its data, which may be of any type or none. No copy is left behind.
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

/// S25: a step has a value only when the job has ended.
#[test]
fn a_value_comes_with_the_end_only() {
    let job = paused(|| {
        pause_job().unwrap();
        String::from("signature")
    });
    let step = job.resume();
    assert!(matches!(&step, Step::Finished(value) if value == "signature"));
}

/// S26: the `Job` outside and the current job inside are the same job.
#[test]
fn the_job_outside_is_the_current_job_inside() {
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

/// S27 and S31: the wait ctx is bound at the start, for all phases. The job releases it at its end.
#[test]
fn the_ctx_is_bound_at_the_start() {
    struct ReportsDrop(Rc<Cell<bool>>);
    impl Drop for ReportsDrop {
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
    drop(ctx); // the job still owns it
    finished(job.resume());

    let dropped = Rc::new(Cell::new(false));
    let waker = asyncjob::waker_fn({
        let sent = std::sync::Mutex::new(SendBox(ReportsDrop(dropped.clone())));
        move || drop(sent.lock())
    });
    let ctx = WaitCtx::new();
    ctx.set_callback(Some(waker));
    let Ok(Step::Paused(job)) = start_job(&ctx, || pause_job().unwrap()) else {
        panic!()
    };
    drop(ctx);
    assert!(!dropped.get(), "the paused job owns it");
    finished(job.resume());
    assert!(dropped.get(), "the job was the last owner");
}

/// Makes a value `Send` for the test above, which uses one thread only.
#[allow(dead_code, reason = "held for its drop")]
struct SendBox<T>(T);
#[allow(
    unsafe_code,
    reason = "a value that reports its drop within one thread, where a `Send` one is asked for"
)]
// SAFETY: one test uses this type, on one thread.
unsafe impl<T> Send for SendBox<T> {}

/// S28: every job has a wait ctx. A job need not use it, and one ctx may serve one job after the other.
#[test]
fn one_ctx_may_serve_one_job_after_the_other() {
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

/// S29: a job may pause without a wait fd. Its driver decides when to resume it.
#[test]
fn a_job_may_pause_with_nothing_to_wait_for() {
    let job = paused(|| pause_job().unwrap());
    assert!(job.wait_ctx().fds().is_empty());
    finished(job.resume());
}

/// S40: a pause outside a job does nothing and returns an error.
#[test]
fn a_pause_outside_a_job_does_nothing() {
    assert_eq!(pause_job(), Err(PauseError::NotInJob));
}

/// S41: a job pauses a thousand times, and each pause succeeds.
#[test]
fn a_pause_succeeds_after_each_resume() {
    let mut job = paused(|| (0..1000).filter(|_| pause_job() == Ok(())).count());
    for _ in 1..1000 {
        let Step::Paused(next) = job.resume() else { panic!() };
        job = next;
    }
    assert_eq!(finished(job.resume()), 1000);
}

/// S46: there is no current job outside a job: not before, between or after jobs, and not on another thread.
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

/// An id is never 0, and no two jobs of the process have the same id, on any thread.
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

/// Closures of sizes around the limits: corosensei moves up to 1024 bytes to the stack, and this crate up to 4096.
#[test]
fn a_closure_may_have_any_size() {
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

/// A value of any size comes back complete.
#[test]
fn a_value_may_have_any_size() {
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

/// Over-aligned closures and values are aligned, inside the job and outside.
#[test]
fn over_aligned_closures_and_values_are_aligned() {
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

/// A closure that does not fit onto the stack of its job stays on the heap, whichever call starts the job. So does one
/// that fits once, but not as often as a build without optimization copies it.
#[test]
fn a_closure_may_be_larger_than_the_stack() {
    fn closure<const BYTES: usize>() -> impl FnOnce() -> u8 + Send + 'static {
        let mut carried = [0u8; BYTES];
        carried[9] = 7;
        move || std::hint::black_box(&carried)[9]
    }
    fn each<const BYTES: usize>() {
        assert_eq!(run(closure::<BYTES>()), 7);
        let scheduler = Scheduler::new().unwrap();
        let here = scheduler.spawn(closure::<BYTES>()).unwrap();
        let named = JobBuilder::new()
            .name("large")
            .spawn_on(&scheduler, closure::<BYTES>())
            .unwrap();
        let elsewhere = scheduler.handle().spawn(closure::<BYTES>()).unwrap();
        for job in [here, named, elsewhere] {
            assert_eq!(scheduler.run_until(job).unwrap(), 7);
        }
        let future = JobFuture::new(closure::<BYTES>());
        assert_eq!(await_or_block(future).unwrap().unwrap(), 7);
        drop(scheduler.spawn(closure::<BYTES>()).unwrap());
        drop(JobFuture::new(closure::<BYTES>()));
    }
    // The closures are copied a few times on the way to the heap, by a build without optimization.
    let all = || {
        each::<4096>();
        each::<4097>();
        each::<{ 60 << 10 }>();
        each::<{ 90 << 10 }>();
        each::<{ 260 << 10 }>();
    };
    thread::Builder::new()
        .stack_size(16 << 20)
        .spawn(all)
        .unwrap()
        .join()
        .unwrap();
}

/// A closure may have the size 0 and a large alignment.
#[test]
fn a_closure_of_size_zero_is_aligned() {
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

/// A zero-sized value is dropped exactly once.
#[test]
fn a_zero_sized_value_is_dropped_once() {
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
    assert_eq!(
        DROPS.get(),
        2,
        "the value of a job that was dropped while it was paused"
    );
}

/// A job need not return: its type may have no value.
#[test]
fn a_job_need_not_return() {
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

/// Jobs own jobs, ten deep, and each is resumed by the job that owns it.
#[test]
fn a_job_may_own_a_job() {
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

/// A `Job` is one pointer wide, so that a scheduler can keep a million of them.
#[test]
fn a_job_is_one_pointer() {
    assert_eq!(size_of::<Job<[u8; 100]>>(), size_of::<usize>());
    assert_eq!(size_of::<Option<Job<()>>>(), size_of::<usize>());
}

/// A job can use all of the stack size that its builder was given.
#[test]
fn a_job_can_use_the_stack_size_of_its_builder() {
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
