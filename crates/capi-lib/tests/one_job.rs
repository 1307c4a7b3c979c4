//! Promise: a job is one job, whichever language started it. C code in a job of Rust code pauses that job and uses its
//! wait ctx, and Rust code in a job of a C program sees the ctx of the program.

#![allow(unsafe_code, reason = "calls the C interface as C code does")]

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::io::{Write, pipe};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use asyncjob::job_future::JobFuture;
use asyncjob::scheduler::Scheduler;
use asyncjob::waiting::await_or_block;
use asyncjob::{
    Job, JobBuilder, PauseError, Status, Step, WaitCtx, WaitFdOptions, WaitKey, Wants, block_pause, current_job,
    pause_job, start_job,
};
use asyncjob_capi::forgotten_jobs;
use asyncjob_capi::job::*;
use asyncjob_capi::wait_ctx::*;
use asyncjob_testing::Watchdog;

static KEY: u8 = 0;

fn key() -> *const c_void {
    (&raw const KEY).cast()
}

/// The wait ctx of this job, as an engine asks for it.
fn ctx_of_engine() -> *mut ASYNC_WAIT_CTX {
    ASYNC_get_wait_ctx(ASYNC_get_current_job())
}

unsafe extern "C" fn close(_: *mut ASYNC_WAIT_CTX, _: *const c_void, fd: c_int, calls: *mut c_void) {
    // SAFETY: the fd was taken out of its owner for the ctx.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    // SAFETY: each test passes NULL, or a counter that outlives the ctx.
    if let Some(calls) = unsafe { calls.cast::<AtomicUsize>().as_ref() } {
        calls.fetch_add(1, Ordering::Relaxed);
    }
}

fn set_fd(ctx: *mut ASYNC_WAIT_CTX, fd: impl IntoRawFd, calls: *const AtomicUsize) -> c_int {
    let fd = fd.into_raw_fd();
    // SAFETY: `close` may be called with these values once, by the ctx.
    unsafe { ASYNC_WAIT_CTX_set_wait_fd(ctx, key(), fd, calls.cast_mut().cast(), Some(close)) }
}

fn fd_of(ctx: *mut ASYNC_WAIT_CTX) -> Option<c_int> {
    let mut fd = -2;
    // SAFETY: the output is valid.
    let found = unsafe { ASYNC_WAIT_CTX_get_fd(ctx, key(), &mut fd, ptr::null_mut()) };
    (found == 1).then_some(fd)
}

fn all_fds(ctx: *mut ASYNC_WAIT_CTX) -> Option<Vec<c_int>> {
    let (mut fds, mut count) = ([0; 8], 0);
    // SAFETY: no test has more fds.
    let live = unsafe { ASYNC_WAIT_CTX_get_all_fds(ctx, fds.as_mut_ptr(), &mut count) };
    (live == 1).then(|| fds[..count].to_vec())
}

type Callback = unsafe extern "C" fn(*mut c_void) -> c_int;

fn callback_of(ctx: *mut ASYNC_WAIT_CTX) -> Option<(Callback, *mut c_void)> {
    let (mut function, mut argument) = (None, ptr::null_mut());
    // SAFETY: the outputs are valid.
    let set = unsafe { ASYNC_WAIT_CTX_get_callback(ctx, &mut function, &mut argument) };
    (set == 1).then(|| (function.unwrap(), argument))
}

/// An engine in C: hands a number to a thread, waits for its answer through an fd, and returns the answer.
fn engine_with_fd(number: u32) -> Option<u32> {
    let ctx = ctx_of_engine();
    let (reader, mut writer) = pipe().unwrap();
    let answered = reader.as_raw_fd();
    let device = thread::spawn(move || {
        thread::sleep(Duration::from_millis(1));
        writer.write_all(&[1]).unwrap();
        number * 2
    });
    assert_eq!(set_fd(ctx, reader, ptr::null()), 1);
    assert_eq!(fd_of(ctx), Some(answered));
    let mut paused = 1;
    while paused == 1 && !device.is_finished() {
        paused = ASYNC_pause_job();
    }
    let cleared = ASYNC_WAIT_CTX_clear_fd(ctx, key());
    // SAFETY: the fd was taken out of the ctx, which had it from this function.
    drop(unsafe { OwnedFd::from_raw_fd(answered) });
    (paused == 1 && cleared == 1).then(|| device.join().unwrap())
}

/// An engine in C that is woken through the callback.
fn engine_with_callback(number: u32) -> Option<u32> {
    struct Portable((Callback, *mut c_void));
    // SAFETY: any thread may call the callback.
    unsafe impl Send for Portable {}

    let ctx = ctx_of_engine();
    let callback = Portable(callback_of(ctx)?);
    assert_eq!(ASYNC_WAIT_CTX_set_status(ctx, ASYNC_STATUS_OK), 1);
    let answer = Arc::new(AtomicUsize::new(0));
    let device = thread::spawn({
        let answer = Arc::clone(&answer);
        move || {
            let callback = callback;
            thread::sleep(Duration::from_millis(1));
            let Portable((function, argument)) = callback;
            answer.store(number as usize * 3 + 1, Ordering::Release);
            // SAFETY: the ctx gave it for this.
            assert_eq!(unsafe { function(argument) }, 1, "the driver lives");
        }
    });
    let mut paused = 1;
    while paused == 1 && answer.load(Ordering::Acquire) == 0 {
        paused = ASYNC_pause_job();
    }
    ASYNC_WAIT_CTX_set_status(ctx, ASYNC_STATUS_UNSUPPORTED);
    device.join().unwrap();
    (paused == 1).then(|| answer.load(Ordering::Acquire) as u32 - 1)
}

#[test]
fn an_engine_in_a_job_of_the_scheduler_is_woken_by_fd_and_by_callback() {
    let _watchdog = Watchdog::new();
    let scheduler = Scheduler::new().unwrap();
    let jobs: Vec<_> = (0..20)
        .map(|number| {
            let engine = if number % 2 == 0 {
                engine_with_fd
            } else {
                engine_with_callback
            };
            scheduler.spawn(move || engine(number)).unwrap()
        })
        .collect();
    scheduler.run().unwrap();
    for (number, job) in (0..).zip(jobs) {
        assert_eq!(job.join().unwrap(), Some(number * if number % 2 == 0 { 2 } else { 3 }));
    }
}

#[test]
fn an_engine_in_a_job_future_is_woken_by_its_callback() {
    let _watchdog = Watchdog::new();
    let job = JobFuture::new(|| engine_with_callback(14));
    assert_eq!(await_or_block(job).unwrap().unwrap(), Some(42));
}

/// S46: the current job is the one of Rust code.
#[test]
fn what_an_engine_sets_is_what_a_driver_of_rust_code_sees() {
    let ctx = WaitCtx::new();
    let step = start_job(&ctx, || {
        let job = ASYNC_get_current_job();
        assert!(!job.is_null());
        assert_eq!(ASYNC_get_current_job(), job, "a job has one handle");
        let ctx = ASYNC_get_wait_ctx(job);
        assert!(!ctx.is_null());
        let elsewhere = job.addr();
        let seen = thread::spawn(move || ASYNC_get_wait_ctx(ptr::without_provenance_mut(elsewhere)).addr());
        assert_eq!(seen.join().unwrap(), ctx.addr(), "any thread may ask");
        assert_eq!(callback_of(ctx), None, "this driver sets none");
        let fd = pipe().unwrap().0;
        let number = fd.as_raw_fd();
        assert_eq!(set_fd(ctx, fd, ptr::null()), 1);
        assert_eq!(ASYNC_WAIT_CTX_set_status(ctx, ASYNC_STATUS_EAGAIN), 1);
        assert_eq!(ASYNC_pause_job(), 1);
        assert_eq!(ASYNC_get_current_job(), job);
        assert_eq!(ASYNC_WAIT_CTX_set_status(ctx, ASYNC_STATUS_OK), 1);
        assert_eq!(ASYNC_pause_job(), 1);
        (job.addr(), number)
    });
    let Ok(Step::Paused(job)) = step else {
        panic!("it pauses")
    };
    assert_eq!(
        (ctx.wants(), ctx.status(), ctx.fds().len()),
        (Wants::Again, Status::Eagain, 1)
    );
    assert_eq!((ctx.changes().added.len(), ctx.changes().removed.len()), (1, 0));
    let Step::Paused(job) = job.resume() else {
        panic!("it pauses again")
    };
    assert_eq!((ctx.wants(), ctx.changes().added.len()), (Wants::Watch, 0));
    let Step::Finished((handle, fd)) = job.resume() else {
        panic!("it ends")
    };
    assert_eq!(ctx.fds()[0].fd, fd);
    assert_eq!(
        ASYNC_get_wait_ctx(ptr::without_provenance_mut(handle)),
        ptr::null_mut(),
        "the handle is stale"
    );
}

#[test]
fn a_ctx_has_one_handle_and_its_cleanups_are_called_when_rust_drops_it() {
    let calls = AtomicUsize::new(0);
    let ctx = WaitCtx::new();
    let handles: Vec<_> = (0..2)
        .map(|_| {
            let counted = (&raw const calls).addr();
            let step = start_job(&ctx, move || {
                let ctx = ctx_of_engine();
                assert_eq!(set_fd(ctx, pipe().unwrap().0, ptr::without_provenance(counted)), 1);
                ctx.addr()
            });
            let Ok(Step::Finished(handle)) = step else {
                panic!("it does not pause")
            };
            ptr::without_provenance_mut::<ASYNC_WAIT_CTX>(handle)
        })
        .collect();
    assert_eq!(handles[0], handles[1], "the ctx outlives its jobs");
    let fd = ctx.fds()[0].fd;
    assert_eq!(ASYNC_WAIT_CTX_clear_fd(handles[0], key()), 1);
    // SAFETY: the fd was taken out of the ctx.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    // SAFETY: the cleanups may be called. A ctx of Rust code is not freed by C code, so none is.
    unsafe { ASYNC_WAIT_CTX_free(handles[0]) };
    assert_eq!(
        (calls.load(Ordering::Relaxed), ctx.fds().len()),
        (0, 1),
        "neither a clear nor a free calls a cleanup"
    );
    drop(ctx);
    assert_eq!(calls.load(Ordering::Relaxed), 1, "of the fd that was left");
    assert_eq!(
        (fd_of(handles[0]), all_fds(handles[0])),
        (None, None),
        "the handle is stale"
    );
    assert_eq!(ASYNC_WAIT_CTX_set_status(handles[0], 1), 0);
    let other = WaitCtx::new();
    let Ok(Step::Finished(next)) = start_job(&other, || ctx_of_engine().addr()) else {
        panic!()
    };
    assert_ne!(next, handles[0].addr(), "a handle does not come again");
}

#[test]
fn a_late_wake_of_a_job_of_rust_code_finds_nobody() {
    let late = Cell::new(None);
    let scheduler = Scheduler::new().unwrap();
    let job = scheduler
        .spawn(|| callback_of(ctx_of_engine()).map(|(function, argument)| (function, argument.addr())))
        .unwrap();
    late.set(scheduler.run_until(job).unwrap());
    drop(scheduler);
    let (function, argument) = late.get().expect("the scheduler has set a callback");
    // SAFETY: an engine may keep the callback for as long as it likes.
    assert_eq!(unsafe { function(ptr::without_provenance_mut(argument)) }, 0);
}

/// S41: OpenSSL has no cancelled jobs.
#[test]
fn a_job_of_rust_code_that_is_cancelled_gives_its_engine_a_0() {
    let step = start_job(&WaitCtx::new(), || {
        assert!(!ASYNC_get_current_job().is_null());
        [ASYNC_pause_job(), ASYNC_pause_job(), ASYNC_pause_job()]
    });
    let Ok(Step::Paused(job)) = step else {
        panic!("it pauses")
    };
    let Step::Paused(job) = job.resume() else {
        panic!("it pauses")
    };
    assert_eq!(job.cancel(), Ok([1, 0, 0]));
}

#[test]
fn c_code_does_not_resume_a_job_of_rust_code() {
    let handle = Cell::new(0);
    let step = start_job(&WaitCtx::new(), || {
        let job = ASYNC_get_current_job();
        assert_eq!(resume(job).0, ASYNC_ERR, "it runs");
        HANDLE.set(job.addr());
        ASYNC_pause_job()
    });
    let Ok(Step::Paused(job)) = step else {
        panic!("it pauses")
    };
    handle.set(HANDLE.get());
    assert_eq!(
        resume(ptr::without_provenance_mut(handle.get())),
        (ASYNC_ERR, handle.get()),
        "it belongs to Rust code"
    );
    assert_eq!(job.cancel(), Ok(0));
    assert_eq!(
        resume(ptr::without_provenance_mut(handle.get())),
        (ASYNC_ERR, 0),
        "it has ended"
    );
}

thread_local! {
    static HANDLE: Cell<usize> = const { Cell::new(0) };
}

fn resume(job: *mut ASYNC_JOB) -> (c_int, usize) {
    let (mut job, mut ret) = (job, 0);
    // SAFETY: the pointers are valid, and no function is needed for a job that exists.
    let result = unsafe { ASYNC_start_job(&mut job, ptr::null_mut(), &mut ret, None, ptr::null_mut(), 0) };
    (result, job.addr())
}

/// A job of a C program, whose function runs a closure of this test.
struct CJob {
    job: *mut ASYNC_JOB,
    ctx: *mut ASYNC_WAIT_CTX,
}

impl CJob {
    fn new(ctx: *mut ASYNC_WAIT_CTX) -> Self {
        CJob {
            job: ptr::null_mut(),
            ctx,
        }
    }

    /// Starts the job with `f`, or resumes it.
    fn run(&mut self, f: impl FnOnce() -> c_int) -> (c_int, c_int) {
        unsafe extern "C" fn call(argument: *mut c_void) -> c_int {
            // SAFETY: the argument is a copy of a pointer to a closure, which lives until the job has taken it.
            let f = unsafe { *argument.cast::<*mut Option<Box<dyn FnOnce() -> c_int>>>() };
            // SAFETY: as above.
            let f = unsafe { (*f).take() };
            f.unwrap()()
        }
        let f: Box<dyn FnOnce() -> c_int + '_> = Box::new(f);
        // SAFETY: every closure of these tests has ended before the values that it borrows.
        let f = unsafe { std::mem::transmute::<Box<dyn FnOnce() -> c_int + '_>, Box<dyn FnOnce() -> c_int>>(f) };
        let (mut f, mut ret) = (Some(f), -1);
        let mut at = &raw mut f;
        let argument = (&raw mut at).cast();
        // SAFETY: the pointers are valid, and the job takes the closure before it first pauses.
        let result = unsafe {
            ASYNC_start_job(
                &mut self.job,
                self.ctx,
                &mut ret,
                Some(call),
                argument,
                size_of_val(&at),
            )
        };
        (result, ret)
    }

    fn resume(&mut self) -> (c_int, c_int) {
        self.run(|| unreachable!("the job has a function"))
    }
}

fn free(ctx: *mut ASYNC_WAIT_CTX) {
    // SAFETY: every cleanup of these tests is callable.
    unsafe { ASYNC_WAIT_CTX_free(ctx) };
}

#[test]
fn rust_code_in_a_job_of_a_c_program_sees_the_ctx_of_the_program() {
    let ctx = ASYNC_WAIT_CTX_new();
    assert_eq!(set_fd(ctx, pipe().unwrap().0, ptr::null()), 1);
    let rust_key = WaitKey::unique();
    let mut job = CJob::new(ctx);
    let paused = job.run(|| {
        let seen = current_job().unwrap().wait_ctx().clone();
        assert_eq!(Some(seen.fds()[0].fd), fd_of(ctx));
        seen.add_wait_fd(rust_key, pipe().unwrap().0);
        // This job does not wait for it now, so the program need not.
        seen.add_wait_fd_with(
            WaitKey::unique(),
            pipe().unwrap().0,
            WaitFdOptions::new().only_when_armed(),
        );
        seen.set_status(Status::Other(9));
        assert_eq!(pause_job(), Ok(()));
        assert!(seen.clear_fd(rust_key).is_some());
        pause_job().map_or(0, |()| 7)
    });
    assert_eq!(paused, (ASYNC_PAUSE, -1));
    assert_eq!((all_fds(ctx).unwrap().len(), ASYNC_WAIT_CTX_get_status(ctx)), (2, 9));
    assert_eq!(changed(ctx), (3, 0));
    assert_eq!(job.resume().0, ASYNC_PAUSE);
    assert_eq!((all_fds(ctx).unwrap().len(), changed(ctx)), (1, (0, 1)));
    assert_eq!(job.resume(), (ASYNC_FINISH, 7));
    free(ctx);
}

fn changed(ctx: *mut ASYNC_WAIT_CTX) -> (usize, usize) {
    let (mut added, mut removed) = (0, 0);
    // SAFETY: the outputs are valid.
    let live =
        unsafe { ASYNC_WAIT_CTX_get_changed_fds(ctx, ptr::null_mut(), &mut added, ptr::null_mut(), &mut removed) };
    assert_eq!(live, 1);
    (added, removed)
}

/// Rust code that waits for another thread, in a job of a C program, is woken through the program's callback or an fd.
#[test]
fn rust_code_that_waits_in_a_job_of_a_c_program_wakes_the_program() {
    unsafe extern "C" fn count(calls: *mut c_void) -> c_int {
        // SAFETY: the counter outlives the ctx.
        unsafe { &*calls.cast::<AtomicUsize>() }.fetch_add(1, Ordering::SeqCst);
        1
    }
    let _watchdog = Watchdog::new();
    for with_callback in [true, false] {
        let calls = AtomicUsize::new(0);
        let ctx = ASYNC_WAIT_CTX_new();
        if with_callback {
            let argument = (&raw const calls).cast_mut().cast();
            // SAFETY: any thread may call it, until the end of this round.
            let set = unsafe { ASYNC_WAIT_CTX_set_callback(ctx, Some(count), argument) };
            assert_eq!(set, 1);
        }
        let mut job = CJob::new(ctx);
        let offload = asyncjob::offload::Offload::new(1).unwrap();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let paused = job.run(|| offload.run(move || wait.recv().map_or(0, |()| 5)).unwrap());
        assert_eq!(paused.0, ASYNC_PAUSE);
        let expected = if with_callback {
            (ASYNC_STATUS_OK, 0)
        } else {
            (ASYNC_STATUS_UNSUPPORTED, 1)
        };
        assert_eq!((ASYNC_WAIT_CTX_get_status(ctx), all_fds(ctx).unwrap().len()), expected);
        go.send(()).unwrap();
        let mut step = (ASYNC_PAUSE, 0);
        while step.0 == ASYNC_PAUSE {
            if with_callback {
                while calls.swap(0, Ordering::SeqCst) == 0 {
                    thread::yield_now();
                }
            } else {
                let mut fd = libc::pollfd {
                    fd: all_fds(ctx).unwrap()[0],
                    events: libc::POLLIN,
                    revents: 0,
                };
                // SAFETY: one descriptor, for as long as it takes.
                assert_eq!(unsafe { libc::poll(&mut fd, 1, -1) }, 1);
            }
            step = job.resume();
        }
        assert_eq!(step, (ASYNC_FINISH, 5));
        assert_eq!(
            ASYNC_WAIT_CTX_get_status(ctx),
            ASYNC_STATUS_UNSUPPORTED,
            "the wait has put it back"
        );
        assert_eq!(all_fds(ctx), Some(Vec::new()));
        free(ctx);
    }
}

#[test]
fn jobs_of_both_languages_nest_both_ways() {
    let outer_ctx = ASYNC_WAIT_CTX_new();
    let mut outer = CJob::new(outer_ctx);
    let trace = RefCell::new(Vec::new());
    let log = |text: &'static str| trace.borrow_mut().push(text);
    let log_at = (&raw const trace).addr();
    let paused = outer.run(|| {
        let of_outer = ASYNC_get_current_job();
        let step = start_job(&WaitCtx::new(), move || {
            // SAFETY: the trace outlives all jobs.
            let trace = unsafe { &*ptr::with_exposed_provenance::<RefCell<Vec<&'static str>>>(log_at) };
            let of_rust = ASYNC_get_current_job();
            assert_ne!(of_rust, of_outer);
            assert_ne!(ASYNC_get_wait_ctx(of_rust), ASYNC_get_wait_ctx(of_outer));
            let ctx = ASYNC_WAIT_CTX_new();
            let mut inner = CJob::new(ctx);
            let paused = inner.run(|| {
                let of_inner = ASYNC_get_current_job();
                assert!(of_inner != of_rust && of_inner != of_outer);
                assert_eq!(ASYNC_get_wait_ctx(of_inner), ctx);
                trace.borrow_mut().push("inner pauses");
                assert_eq!(ASYNC_pause_job(), 1);
                assert_eq!(ASYNC_get_current_job(), of_inner);
                3
            });
            assert_eq!(paused.0, ASYNC_PAUSE);
            assert_eq!(ASYNC_get_current_job(), of_rust);
            trace.borrow_mut().push("rust pauses");
            assert_eq!(ASYNC_pause_job(), 1);
            assert_eq!(ASYNC_get_current_job(), of_rust);
            let ended = inner.resume();
            free(ctx);
            ended
        });
        let Ok(Step::Paused(rust)) = step else {
            panic!("it pauses")
        };
        assert_eq!(ASYNC_get_current_job(), of_outer);
        log("outer pauses");
        assert_eq!(ASYNC_pause_job(), 1);
        assert_eq!(ASYNC_get_current_job(), of_outer);
        let Step::Finished(ended) = rust.resume() else {
            panic!("it ends")
        };
        assert_eq!(ended, (ASYNC_FINISH, 3));
        4
    });
    assert_eq!(paused.0, ASYNC_PAUSE);
    assert_eq!(ASYNC_get_current_job(), ptr::null_mut());
    assert_eq!(outer.resume(), (ASYNC_FINISH, 4));
    assert_eq!(*trace.borrow(), ["inner pauses", "rust pauses", "outer pauses"]);
    free(outer_ctx);
}

/// A ctx that the program frees under a paused job belongs to no later session, for Rust code neither.
#[test]
fn a_freed_ctx_is_not_given_to_the_next_session_while_a_job_has_it() {
    let freed = ASYNC_WAIT_CTX_new();
    let mut job = CJob::new(freed);
    let paused = job.run(|| {
        ASYNC_pause_job();
        let seen = current_job().unwrap().wait_ctx().clone();
        assert_eq!((seen.fds(), seen.status()), (Vec::new(), Status::Unsupported));
        assert_eq!(ctx_of_engine(), ptr::null_mut(), "the job has no ctx");
        seen.set_status(Status::Err);
        0
    });
    assert_eq!(paused.0, ASYNC_PAUSE);
    assert_eq!(forgotten_jobs(), 0);
    free(freed);
    assert_eq!(forgotten_jobs(), 1);
    let later: Vec<_> = (0..300).map(|_| ASYNC_WAIT_CTX_new()).collect();
    for ctx in &later {
        assert_eq!(set_fd(*ctx, pipe_fd(), ptr::null()), 1);
        assert_eq!(ASYNC_WAIT_CTX_set_status(*ctx, 3), 1);
    }
    assert_eq!(job.resume(), (ASYNC_FINISH, 0));
    assert_eq!(forgotten_jobs(), 0);
    for ctx in later {
        assert_eq!(ASYNC_WAIT_CTX_get_status(ctx), 3);
        free(ctx);
    }

    // Its thread ends: the job can never be resumed, and is not counted any more.
    let thread = thread::spawn(|| {
        let ctx = ASYNC_WAIT_CTX_new();
        assert_eq!(CJob::new(ctx).run(|| ASYNC_pause_job()).0, ASYNC_PAUSE);
        free(ctx);
        forgotten_jobs()
    });
    assert_eq!((thread.join().unwrap(), forgotten_jobs()), (1, 0));
}

/// The same for a job that frees its own ctx before it has paused.
#[test]
fn a_job_that_frees_its_own_ctx_does_not_get_the_next_one() {
    let own = ASYNC_WAIT_CTX_new();
    let ended = CJob::new(own).run(|| {
        free(own);
        let next = ASYNC_WAIT_CTX_new();
        assert_eq!(set_fd(next, pipe_fd(), ptr::null()), 1);
        let seen = current_job().unwrap().wait_ctx().fds().len();
        free(next);
        seen as c_int
    });
    assert_eq!(ended, (ASYNC_FINISH, 0));
}

fn pipe_fd() -> OwnedFd {
    pipe().unwrap().0.into()
}

#[test]
fn a_job_without_a_ctx_has_one_for_rust_code() {
    let ended = CJob::new(ptr::null_mut()).run(|| {
        let seen = current_job().unwrap().wait_ctx().clone();
        seen.add_wait_fd(WaitKey::unique(), pipe().unwrap().0);
        let ended = CJob::new(ptr::null_mut()).run(|| {
            let seen = current_job().unwrap().wait_ctx().fds().len();
            seen as c_int
        });
        assert_eq!(ended, (ASYNC_FINISH, 0), "each job has its own");
        c_int::from(!ctx_of_engine().is_null())
    });
    assert_eq!(ended, (ASYNC_FINISH, 0));
}

/// S43, S44: the blocks of C code and the guards of Rust code each count for themselves.
#[test]
fn c_code_blocks_the_pauses_of_a_job_of_rust_code() {
    let step = start_job(&WaitCtx::new(), || {
        let guard = block_pause();
        ASYNC_unblock_pause();
        assert_eq!(
            pause_job(),
            Err(PauseError::Blocked),
            "C code does not take a guard of Rust code back"
        );
        ASYNC_block_pause();
        ASYNC_block_pause();
        drop(guard);
        assert_eq!(pause_job(), Err(PauseError::Blocked));
        ASYNC_unblock_pause();
        assert_eq!(ASYNC_pause_job(), 1, "as OpenSSL, it does nothing");
        ASYNC_unblock_pause();
        ASYNC_pause_job()
    });
    let Ok(Step::Paused(job)) = step else {
        panic!("it pauses at last")
    };
    let Step::Finished(1) = job.resume() else {
        panic!("it ends")
    };
}

/// A job that a thread-local owns ends while its thread does.
#[test]
fn a_job_may_end_while_its_thread_exits() {
    struct AtExit(RefCell<Option<Job<c_int>>>);
    impl Drop for AtExit {
        fn drop(&mut self) {
            self.0.take(); // cancels the job
        }
    }
    thread_local!(static LEFT: AtExit = const { AtExit(RefCell::new(None)) });

    for round in 0..3 {
        let ended = thread::spawn(move || {
            if round == 1 {
                LEFT.with(|_| ()); // before the thread has slots, so its destructor runs after that of the slots' user
            }
            let step = JobBuilder::new().start(|| {
                assert!(!ASYNC_get_current_job().is_null());
                ASYNC_pause_job()
            });
            let Ok(Step::Paused(job)) = step else {
                panic!("it pauses")
            };
            LEFT.with(|left| left.0.replace(Some(job)));
        });
        ended.join().unwrap();
    }
    // The slots of the threads serve others.
    let Ok(Step::Finished(handle)) = start_job(&WaitCtx::new(), || ASYNC_get_current_job().addr()) else {
        panic!()
    };
    assert_ne!(handle, 0);
}
