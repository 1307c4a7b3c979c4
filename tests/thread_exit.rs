//! Promise: a thread may exit with idle stacks and with jobs in its thread-locals, and may start jobs while it exits.
//!
//! Rust destroys thread-locals in the reverse order of their first use. So a thread-local that is used before the first
//! job is destroyed after the pool. One that is used later is destroyed before the pool.

mod by_hand;

use std::cell::RefCell;
use std::sync::mpsc;
use std::thread;

use asyncjob::pool::{self, PoolConfig, cleanup_thread, init_thread};
use asyncjob::{Job, PauseError, current_job_id, no_pause, pause_job};
use asyncjob_testing::Watchdog;
use by_hand::{paused, run};

thread_local! {
    static HELD: RefCell<Option<Job<()>>> = const { RefCell::new(None) };
    static AT_EXIT: RefCell<Option<OnDrop>> = const { RefCell::new(None) };
}

struct OnDrop(Box<dyn FnMut()>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Uses the thread-locals, so that their destructors are registered now.
fn register() {
    HELD.with(|held| held.replace(None));
    AT_EXIT.with(|at_exit| at_exit.replace(None));
}

/// Runs `before` in a thread that calls `at_exit` while it exits. The thread-locals are used before that, or after.
fn exits(uses_locals_first: bool, before: impl FnOnce() + Send + 'static, at_exit: impl FnMut() + Send + 'static) {
    let thread = thread::spawn(move || {
        if uses_locals_first {
            register();
        }
        before();
        AT_EXIT.set(Some(OnDrop(Box::new(at_exit))));
    });
    thread.join().unwrap();
}

fn job_that_reports_to(sender: &mpsc::Sender<String>) -> Job<()> {
    let sender = sender.clone();
    paused(move || {
        let pause = pause_job();
        sender
            .send(format!("{pause:?}, {:?} in use", pool::stats().in_use))
            .unwrap();
    })
}

/// S51: a job in a thread-local ends through its own code when its thread exits, before or after the pool is closed.
#[test]
fn a_job_in_a_thread_local_ends_when_its_thread_exits() {
    let _watchdog = Watchdog::new();
    for before_the_pool in [true, false] {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            if before_the_pool {
                register();
            }
            run(|| ());
            HELD.set(Some(job_that_reports_to(&sender)));
        })
        .join()
        .unwrap();
        assert_eq!(
            receiver.try_recv().unwrap(),
            "Err(Cancelled: the job was cancelled: return from it), 1 in use"
        );
        assert!(receiver.recv().is_err(), "the closure was dropped");
    }
}

/// S51: a thread can use its pool until the end of its exit. It can set the pool up, start and finish jobs, and clean
/// the pool up.
#[test]
fn jobs_may_start_while_the_thread_exits() {
    let _watchdog = Watchdog::new();
    for before_the_pool in [true, false] {
        let (sender, receiver) = mpsc::channel();
        let at_exit = move || {
            let sum = run(|| run(|| 1) + 1);
            init_thread(PoolConfig::new().precreate(3)).unwrap();
            drop(job_that_reports_to(&sender));
            cleanup_thread().unwrap();
            let stats = pool::stats();
            sender
                .send(format!("{sum} {} {} {:?}", stats.idle, stats.in_use, current_job_id()))
                .unwrap();
        };
        exits(before_the_pool, || run(|| ()), at_exit);
        let events: Vec<_> = receiver.iter().collect();
        assert_eq!(
            events,
            [
                "Err(Cancelled: the job was cancelled: return from it), 1 in use",
                "2 0 0 None"
            ],
            "the thread-local is used before the pool: {before_the_pool}"
        );
    }
}

/// A job of a thread that exits may forbid its pauses. The list of what is held, for reports, is gone by then if the
/// thread has used it after the thread-local.
#[test]
fn a_job_may_forbid_pauses_while_the_thread_exits() {
    let _watchdog = Watchdog::new();
    for before_the_list in [true, false] {
        let (sender, receiver) = mpsc::channel();
        let forbidden = || {
            let _held = no_pause("the table");
            pause_job()
        };
        let at_exit = move || {
            sender.send((run(forbidden), run(|| drop(no_pause("again"))))).unwrap();
        };
        exits(before_the_list, || run(|| drop(no_pause("the table"))), at_exit);
        let seen: Vec<_> = receiver.iter().collect();
        assert_eq!(seen, [(Err(PauseError::Blocked), ())], "{before_the_list}");
    }
}

/// A thread that exits drops all of its jobs that are in a list.
#[test]
fn many_jobs_in_a_thread_local_end_when_their_thread_exits() {
    let _watchdog = Watchdog::new();
    thread_local!(static JOBS: RefCell<Vec<Job<()>>> = const { RefCell::new(Vec::new()) });
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        JOBS.with_borrow_mut(|jobs| jobs.extend((0..100).map(|_| job_that_reports_to(&sender))));
    })
    .join()
    .unwrap();
    assert_eq!(receiver.iter().count(), 100);
}

/// The next thread uses the stacks of a thread that has exited. A thousand threads take the memory of a few.
#[test]
fn a_thread_that_exits_leaves_its_stacks_to_the_next() {
    let _watchdog = Watchdog::new();
    let mapped = || {
        let maps = std::fs::read_to_string("/proc/self/statm").unwrap();
        maps.split(' ').next().unwrap().parse::<usize>().unwrap() * 4096
    };
    let round = || {
        thread::spawn(|| {
            init_thread(PoolConfig::new().precreate(8)).unwrap();
            run(|| run(|| ()));
        })
        .join()
        .unwrap();
    };
    (0..50).for_each(|_| round());
    let before = mapped();
    (0..1000).for_each(|_| round());
    let grown = mapped().saturating_sub(before);
    assert!(
        grown < 256 << 20,
        "1000 threads with 8 stacks each left {} MB mapped",
        grown >> 20
    );
}

/// S35 is documented and not prevented. After a fork a paused job can be resumed in the child, and independently in the
/// parent.
#[test]
fn a_paused_job_can_be_resumed_in_a_forked_child() {
    let _watchdog = Watchdog::new();
    let job = paused(|| {
        let _ = pause_job();
        std::hint::black_box(17)
    });
    #[allow(unsafe_code, reason = "std cannot fork")]
    // SAFETY: the child takes no lock that another thread could hold. It resumes the job, compares its value, and
    // exits.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let exit = match job.resume() {
            asyncjob::Step::Finished(17) => 0,
            _ => 1,
        };
        #[allow(unsafe_code, reason = "leaves without destructors, as a forked child must")]
        // SAFETY: the call ends the process.
        unsafe {
            libc::_exit(exit)
        }
    }
    let mut status = 0;
    #[allow(unsafe_code, reason = "std cannot wait for a child that it did not start")]
    // SAFETY: the pointer to the status is valid.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!((waited, status), (child, 0));
    assert_eq!(by_hand::finished(job.resume()), 17);
}
