//! Promise: a thread may exit with idle stacks, with jobs in its thread-locals, and may start jobs while it exits.
//!
//! Rust destroys thread-locals in the reverse order of their first use, so a local that is touched before the first job
//! is destroyed after the pool was emptied, and one touched later before.

mod by_hand;

use std::cell::RefCell;
use std::sync::mpsc;
use std::thread;

use asyncjob::pool::{self, PoolConfig, cleanup_thread, init_thread};
use asyncjob::{Job, current_job_id, pause_job};
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

/// Touches the local, so that its destructor is registered now.
fn register() {
    HELD.with(|held| held.replace(None));
    AT_EXIT.with(|at_exit| at_exit.replace(None));
}

fn report_to(sender: &mpsc::Sender<String>) -> Job<()> {
    let sender = sender.clone();
    paused(move || {
        let outcome = pause_job();
        sender
            .send(format!("{outcome:?}, {:?} in use", pool::stats().in_use))
            .unwrap();
    })
}

/// S51: a job in a thread-local ends through its own code when the thread exits, before or after the pool is closed.
#[test]
fn a_job_in_a_thread_local() {
    let _watchdog = Watchdog::new();
    for before_the_pool in [true, false] {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            if before_the_pool {
                register();
            }
            run(|| ());
            HELD.set(Some(report_to(&sender)));
        })
        .join()
        .unwrap();
        assert_eq!(receiver.try_recv().unwrap(), "Err(Cancelled), 1 in use");
        assert!(receiver.recv().is_err(), "and its closure was dropped");
    }
}

/// S51: the pool of a thread that exits can be used to its very end: set up, cleaned up, with jobs started and
/// finished.
#[test]
fn jobs_started_while_the_thread_exits() {
    let _watchdog = Watchdog::new();
    for before_the_pool in [true, false] {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            if before_the_pool {
                register();
            }
            run(|| ());
            AT_EXIT.set(Some(OnDrop(Box::new(move || {
                let sum = run(|| run(|| 1) + 1);
                init_thread(PoolConfig::new().precreate(3)).unwrap();
                drop(report_to(&sender));
                cleanup_thread().unwrap();
                let stats = pool::stats();
                sender
                    .send(format!("{sum} {} {} {:?}", stats.idle, stats.in_use, current_job_id()))
                    .unwrap();
            }))));
        })
        .join()
        .unwrap();
        let events: Vec<_> = receiver.iter().collect();
        assert_eq!(
            events,
            ["Err(Cancelled), 1 in use", "2 0 0 None"],
            "local first: {before_the_pool}"
        );
    }
}

/// A thread that exits while jobs of it are held in a list drops them all.
#[test]
fn many_jobs_in_thread_locals() {
    let _watchdog = Watchdog::new();
    thread_local!(static JOBS: RefCell<Vec<Job<()>>> = const { RefCell::new(Vec::new()) });
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        JOBS.with_borrow_mut(|jobs| jobs.extend((0..100).map(|_| report_to(&sender))));
    })
    .join()
    .unwrap();
    assert_eq!(receiver.iter().count(), 100);
}

/// The stacks of a thread that exits are there for the next one, not lost: a thousand threads, and the memory of few.
#[test]
fn threads_come_and_go() {
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

/// S35 is documented, not prevented: after a fork a paused job goes on in the child, and independently in the parent.
#[test]
fn a_paused_job_goes_on_in_a_forked_child() {
    let _watchdog = Watchdog::new();
    let job = paused(|| {
        let _ = pause_job();
        std::hint::black_box(17)
    });
    #[allow(unsafe_code, reason = "std cannot fork")]
    // SAFETY: the child calls no lock that another thread could hold: it resumes the job, compares, and exits.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let exit = match job.resume() {
            asyncjob::Step::Finished(17) => 0,
            _ => 1,
        };
        #[allow(unsafe_code, reason = "leaves without destructors, as a forked child must")]
        // SAFETY: ends the process.
        unsafe {
            libc::_exit(exit)
        }
    }
    let mut status = 0;
    #[allow(unsafe_code, reason = "std knows nothing of this child")]
    // SAFETY: the status is a valid place for the result.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!((waited, status), (child, 0));
    assert_eq!(by_hand::finished(job.resume()), 17);
}
