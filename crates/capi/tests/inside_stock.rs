//! Promise: a job of the Rust library does not pause from inside an `ASYNC_JOB` of OpenSSL's own, whose stack is
//! another one. The pause is refused with a sentence, and both kinds of job go on.
//!
//! ```text
//!   thread  --->  Rust job  --->  ASYNC_start_job of libcrypto  --->  asyncjob::pause_job: refused
//!      ^             |   ^                                      --->  ASYNC_pause_job: back to the Rust job
//!      '-------------'   '------------------------------------------------'
//!        pauses here, too
//! ```
//!
//! If such a pause switched, the Rust job would be resumed in the middle of a stack that libcrypto believes to be
//! running. Two of them in turn ended in a segmentation fault.

#![allow(unsafe_code, reason = "calls libcrypto, which runs jobs on stacks of its own")]

use std::ffi::{c_int, c_void};
use std::path::Path;
use std::ptr;
use std::time::Duration;

use asyncjob::{Job, PauseError, Step, WaitCtx, pause_job, start_job};
use asyncjob_testing::tools::{LIBCRYPTO, missing};
use libloading::Library;

type StartJob = unsafe extern "C" fn(
    *mut *mut c_void,
    *mut c_void,
    *mut c_int,
    unsafe extern "C" fn(*mut c_void) -> c_int,
    *mut c_void,
    usize,
) -> c_int;

const ASYNC_PAUSE: c_int = 2;
const ASYNC_FINISH: c_int = 3;

/// The functions of the installed libcrypto. The library is never closed, because it keeps thread-locals.
#[derive(Clone, Copy)]
struct Stock {
    start_job: StartJob,
    pause_job: unsafe extern "C" fn() -> c_int,
    new_ctx: unsafe extern "C" fn() -> *mut c_void,
    free_ctx: unsafe extern "C" fn(*mut c_void),
}

impl Stock {
    fn open() -> Self {
        // SAFETY: the constructors of libcrypto have no conditions.
        let library = unsafe { Library::new(Path::new("libcrypto.so.3")) }.expect("the installed libcrypto");
        let library = Box::leak(Box::new(library));
        // SAFETY: the types of these functions are those of <openssl/async.h>.
        let start_job = *unsafe { library.get(b"ASYNC_start_job\0") }.unwrap();
        // SAFETY: as above.
        let pause_job = *unsafe { library.get(b"ASYNC_pause_job\0") }.unwrap();
        // SAFETY: as above.
        let new_ctx = *unsafe { library.get(b"ASYNC_WAIT_CTX_new\0") }.unwrap();
        // SAFETY: as above.
        let free_ctx = *unsafe { library.get(b"ASYNC_WAIT_CTX_free\0") }.unwrap();
        Stock {
            start_job,
            pause_job,
            new_ctx,
            free_ctx,
        }
    }
}

/// What the code inside one `ASYNC_JOB` saw.
struct Seen {
    pause: unsafe extern "C" fn() -> c_int,
    refused: Vec<Result<(), PauseError>>,
    slept: usize,
}

/// The function of the `ASYNC_JOB`: tries to pause the Rust job, and pauses its own, twice.
unsafe extern "C" fn pauses_both(argument: *mut c_void) -> c_int {
    // SAFETY: libcrypto copied one pointer, to a `Seen` that outlives the job.
    let seen = unsafe { *argument.cast::<*mut Seen>() };
    // SAFETY: as above. Nothing else uses it while this job exists.
    let seen = unsafe { &mut *seen };
    for _ in 0..2 {
        seen.refused.push(pause_job());
        // What can wait in another way blocks the thread.
        seen.slept += usize::from(asyncjob::time::sleep(Duration::from_millis(1)).is_ok());
        // SAFETY: this code runs in a job of libcrypto, which may pause.
        unsafe { (seen.pause)() };
    }
    seen.refused.push(pause_job());
    7
}

/// Runs two jobs of libcrypto in turn, and pauses between them on the stack of the Rust job.
fn two_in_turn(stock: Stock) -> Vec<Seen> {
    // Raw from here to the end of the jobs, which write to them between the calls of this function.
    let seen = [(); 2].map(|()| {
        Box::into_raw(Box::new(Seen {
            pause: stock.pause_job,
            refused: Vec::new(),
            slept: 0,
        }))
    });
    // SAFETY: no conditions.
    let ctxs = [(); 2].map(|()| unsafe { (stock.new_ctx)() });
    let mut jobs = [ptr::null_mut(); 2];
    for expected in [ASYNC_PAUSE, ASYNC_PAUSE, ASYNC_FINISH] {
        for ((job, ctx), seen) in jobs.iter_mut().zip(ctxs).zip(seen) {
            let mut result = 0;
            let mut argument = seen;
            let argument = (&raw mut argument).cast();
            // SAFETY: the pointers are valid during the call, and libcrypto copies the argument. The job was started on
            // this thread.
            let step =
                unsafe { (stock.start_job)(job, ctx, &mut result, pauses_both, argument, size_of::<*mut Seen>()) };
            assert_eq!(step, expected);
            assert_eq!(result, if step == ASYNC_FINISH { 7 } else { 0 });
            assert_eq!(pause_job(), Ok(()), "on its own stack the job pauses");
        }
    }
    for ctx in ctxs {
        // SAFETY: the jobs with this ctx have ended.
        unsafe { (stock.free_ctx)(ctx) };
    }
    // SAFETY: they came from `Box::into_raw`, and the jobs that used them have ended.
    seen.map(|seen| *unsafe { Box::from_raw(seen) }).into()
}

#[test]
fn a_pause_inside_a_job_of_libcrypto_is_refused() {
    if missing(&[LIBCRYPTO]) {
        return;
    }
    let _watchdog = asyncjob_testing::Watchdog::new();
    let stock = Stock::open();
    let mut jobs: Vec<Job<_>> = (0..2)
        .map(|_| match start_job(&WaitCtx::new(), move || two_in_turn(stock)) {
            Ok(Step::Paused(job)) => job,
            _ => panic!("the job pauses first"),
        })
        .collect();
    let (mut finished, mut resumes) = (Vec::new(), 0);
    while !jobs.is_empty() {
        let turn = std::mem::take(&mut jobs);
        for job in turn {
            resumes += 1;
            match job.resume() {
                Step::Paused(job) => jobs.push(job),
                Step::Finished(seen) => finished.extend(seen),
            }
        }
    }
    assert_eq!(
        (finished.len(), resumes),
        (4, 12),
        "each Rust job has paused after each call of ASYNC_start_job"
    );
    for seen in finished {
        assert_eq!(seen.refused, [Err(PauseError::OffStack); 3]);
        assert_eq!(seen.slept, 2);
    }
    let sentence = PauseError::OffStack.to_string();
    assert!(sentence.contains("in an ASYNC_JOB that libcrypto runs"), "{sentence}");
}
