//! What an engine and its application do with a wait ctx: each call alone, and all of one operation. In C, in OpenSSL's
//! libcrypto or in our drop-in, and in Rust.

use std::ffi::{c_int, c_void};
use std::hint::black_box;
use std::io::{PipeReader, pipe};
use std::ptr;
use std::time::Instant;

use asyncjob::{Status, Step, WaitCtx, WaitKey, current_job, pause_job, start_job, waker_fn};

use super::libcrypto::Found;
use crate::measure::Candidate;
use crate::peer::Absent;

/// A call of the wait ctx, or two that belong together.
#[derive(Clone, Copy)]
pub(crate) enum Call {
    GetFd,
    GetAllFds,
    GetCallback,
    SetAndClear,
    NewAndFree,
}

/// How an engine tells its application that an operation is done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// By a wait fd that it sets for its first operation.
    StableFd,
    /// By the callback.
    Callback,
    /// By a wait fd that it sets and clears for each operation.
    FdOfEach,
    /// By a wait fd, and the application makes a ctx for each operation.
    CtxOfEach,
}

type Ctx = *mut c_void;
type Callback = unsafe extern "C" fn(*mut c_void) -> c_int;
type Cleanup = unsafe extern "C" fn(Ctx, *const c_void, c_int, *mut c_void);
type Body = unsafe extern "C" fn(*mut c_void) -> c_int;

/// The functions of one library.
#[derive(Clone, Copy)]
struct Functions {
    start: unsafe extern "C" fn(*mut *mut c_void, Ctx, *mut c_int, Body, *mut c_void, usize) -> c_int,
    pause: unsafe extern "C" fn() -> c_int,
    current: unsafe extern "C" fn() -> *mut c_void,
    ctx_of: unsafe extern "C" fn(*mut c_void) -> Ctx,
    new: unsafe extern "C" fn() -> Ctx,
    free: unsafe extern "C" fn(Ctx),
    set_fd: unsafe extern "C" fn(Ctx, *const c_void, c_int, *mut c_void, Cleanup) -> c_int,
    clear_fd: unsafe extern "C" fn(Ctx, *const c_void) -> c_int,
    get_fd: unsafe extern "C" fn(Ctx, *const c_void, *mut c_int, *mut *mut c_void) -> c_int,
    get_all_fds: unsafe extern "C" fn(Ctx, *mut c_int, *mut usize) -> c_int,
    get_changed_fds: unsafe extern "C" fn(Ctx, *mut c_int, *mut usize, *mut c_int, *mut usize) -> c_int,
    set_callback: unsafe extern "C" fn(Ctx, Callback, *mut c_void) -> c_int,
    get_callback: unsafe extern "C" fn(Ctx, *mut Option<Callback>, *mut *mut c_void) -> c_int,
    set_status: unsafe extern "C" fn(Ctx, c_int) -> c_int,
}

const PAUSE: c_int = 2;
const FINISH: c_int = 3;
const STATUS_OK: c_int = 2;

/// The fd of an engine that is never waited for, so it need not be open.
const FD: c_int = 5;
static KEY: u8 = 0;

fn key() -> *const c_void {
    (&raw const KEY).cast()
}

unsafe extern "C" fn cleanup(_: Ctx, _: *const c_void, _: c_int, _: *mut c_void) {}

unsafe extern "C" fn callback(_: *mut c_void) -> c_int {
    1
}

impl Functions {
    fn new(found: &Found) -> Result<Self, Absent> {
        Ok(Functions {
            start: found.function(c"ASYNC_start_job")?,
            pause: found.function(c"ASYNC_pause_job")?,
            current: found.function(c"ASYNC_get_current_job")?,
            ctx_of: found.function(c"ASYNC_get_wait_ctx")?,
            new: found.function(c"ASYNC_WAIT_CTX_new")?,
            free: found.function(c"ASYNC_WAIT_CTX_free")?,
            set_fd: found.function(c"ASYNC_WAIT_CTX_set_wait_fd")?,
            clear_fd: found.function(c"ASYNC_WAIT_CTX_clear_fd")?,
            get_fd: found.function(c"ASYNC_WAIT_CTX_get_fd")?,
            get_all_fds: found.function(c"ASYNC_WAIT_CTX_get_all_fds")?,
            get_changed_fds: found.function(c"ASYNC_WAIT_CTX_get_changed_fds")?,
            set_callback: found.function(c"ASYNC_WAIT_CTX_set_callback")?,
            get_callback: found.function(c"ASYNC_WAIT_CTX_get_callback")?,
            set_status: found.function(c"ASYNC_WAIT_CTX_set_status")?,
        })
    }

    /// # Safety
    ///
    /// `ctx` must be a ctx of this library that is not freed, with a callback and an fd under [`key`].
    unsafe fn call(&self, call: Call, ctx: Ctx) {
        let (mut fd, mut fds, mut count) = (0, [0; 4], 0);
        let (mut data, mut function) = (ptr::null_mut(), None);
        // SAFETY: the caller's promise. The outputs are of the types that the headers of OpenSSL give.
        let ok = unsafe {
            match call {
                Call::GetFd => (self.get_fd)(ctx, key(), &mut fd, &mut data),
                Call::GetAllFds => (self.get_all_fds)(ctx, fds.as_mut_ptr(), &mut count),
                Call::GetCallback => (self.get_callback)(ctx, &mut function, &mut data),
                Call::SetAndClear => {
                    (self.set_fd)(ctx, key(), FD, ptr::null_mut(), cleanup) & (self.clear_fd)(ctx, key())
                }
                Call::NewAndFree => {
                    (self.free)((self.new)());
                    1
                }
            }
        };
        assert_eq!(ok, 1);
    }

    /// What an application does for one operation, but for the kernel's part.
    ///
    /// # Safety
    ///
    /// `ctx` must be a ctx of this library that is not freed.
    unsafe fn operation(&self, engine: Body, ctx: Ctx) {
        let (mut job, mut ret) = (ptr::null_mut(), 0);
        let (mut fds, mut removed) = ([0; 4], [0; 4]);
        let (mut count, mut added_count, mut removed_count) = (0, 0, 0);
        let mut args = *self;
        let (args, size) = ((&raw mut args).cast(), size_of::<Functions>());
        let no_list = ptr::null_mut();
        // SAFETY: the caller's promise. `args` is of that size, and no list is longer than four.
        let ended = unsafe {
            assert_eq!((self.start)(&mut job, ctx, &mut ret, engine, args, size), PAUSE);
            (self.get_changed_fds)(ctx, no_list, &mut added_count, no_list, &mut removed_count);
            if added_count + removed_count > 0 {
                let (added, removed) = (fds.as_mut_ptr(), removed.as_mut_ptr());
                (self.get_changed_fds)(ctx, added, &mut added_count, removed, &mut removed_count);
            }
            (self.get_all_fds)(ctx, no_list, &mut count);
            if count > 0 {
                (self.get_all_fds)(ctx, fds.as_mut_ptr(), &mut count);
            }
            (self.start)(&mut job, ctx, &mut ret, engine, ptr::null_mut(), 0)
        };
        assert_eq!((ended, ret), (FINISH, 7));
        black_box((fds, removed));
    }
}

/// An engine that looks for a callback, and then for its fd, which it sets if there is none.
unsafe extern "C" fn engine(args: *mut c_void) -> c_int {
    // SAFETY: `operation` passed the functions, copied for this job.
    let functions = unsafe { ptr::read(args.cast::<Functions>()) };
    let (mut fd, mut data, mut function) = (0, ptr::null_mut(), None);
    // SAFETY: this is a job of the library of these functions, which was started with a ctx.
    unsafe {
        let ctx = (functions.ctx_of)((functions.current)());
        if (functions.get_callback)(ctx, &mut function, &mut data) == 1 {
            (functions.set_status)(ctx, STATUS_OK);
        } else if (functions.get_fd)(ctx, key(), &mut fd, &mut data) == 0 {
            (functions.set_fd)(ctx, key(), FD, ptr::null_mut(), cleanup);
        }
        (functions.pause)();
    }
    7
}

/// An engine that sets its fd and clears it.
unsafe extern "C" fn engine_that_clears(args: *mut c_void) -> c_int {
    // SAFETY: `operation` passed the functions, copied for this job.
    let functions = unsafe { ptr::read(args.cast::<Functions>()) };
    // SAFETY: this is a job of the library of these functions, which was started with a ctx.
    unsafe {
        let ctx = (functions.ctx_of)((functions.current)());
        (functions.set_fd)(ctx, key(), FD, ptr::null_mut(), cleanup);
        (functions.pause)();
        (functions.clear_fd)(ctx, key());
    }
    7
}

/// One call in a library with the C interface.
pub(crate) fn call(name: &str, found: &Found, call: Call) -> Result<Candidate, Absent> {
    let (functions, library) = (Functions::new(found)?, found.clone());
    Ok(Candidate::new(name, move |n| {
        let _open = &library;
        // SAFETY: the ctx is of this library and freed at the end. The cleanup and the callback may be called at any
        // time.
        unsafe {
            let ctx = (functions.new)();
            if !matches!(call, Call::SetAndClear) {
                (functions.set_fd)(ctx, key(), FD, ptr::null_mut(), cleanup);
            }
            (functions.set_callback)(ctx, callback, ptr::null_mut());
            let clock = Instant::now();
            for _ in 0..n {
                functions.call(call, ctx);
            }
            let took = clock.elapsed();
            (functions.free)(ctx);
            took
        }
    }))
}

/// An operation of an engine under a library with the C interface.
pub(crate) fn operation(name: &str, found: &Found, told: Told) -> Result<Candidate, Absent> {
    let (functions, library) = (Functions::new(found)?, found.clone());
    let engine = match told {
        Told::FdOfEach => engine_that_clears,
        _ => engine,
    };
    Ok(Candidate::new(name, move |n| {
        let _open = &library;
        // SAFETY: the ctxs are of this library, and freed after their last job has ended.
        unsafe {
            let ctx = (functions.new)();
            if told == Told::Callback {
                (functions.set_callback)(ctx, callback, ptr::null_mut());
            }
            let clock = Instant::now();
            for _ in 0..n {
                if told == Told::CtxOfEach {
                    let ctx = (functions.new)();
                    functions.operation(engine, ctx);
                    (functions.free)(ctx);
                } else {
                    functions.operation(engine, ctx);
                }
            }
            let took = clock.elapsed();
            (functions.free)(ctx);
            took
        }
    }))
}

/// An fd that stays open as long as the process. Adding it to a ctx and clearing it closes nothing.
fn fd() -> &'static PipeReader {
    let ends = Box::leak(Box::new(pipe().expect("two fds are left")));
    &ends.0
}

/// As [`call`], in Rust.
pub(crate) fn call_in_rust(name: &str, call: Call) -> Candidate {
    let (fd, key) = (fd(), WaitKey::unique());
    Candidate::new(name, move |n| {
        let ctx = WaitCtx::new();
        if !matches!(call, Call::SetAndClear) {
            ctx.add_wait_fd(key, fd);
        }
        ctx.set_callback(Some(waker_fn(|| ())));
        let clock = Instant::now();
        for _ in 0..n {
            match call {
                Call::GetFd => assert!(ctx.fd(black_box(key)).is_some()),
                Call::GetAllFds => assert_eq!(ctx.fds().len(), 1),
                Call::GetCallback => assert!(ctx.callback().is_some()),
                Call::SetAndClear => {
                    ctx.add_wait_fd(black_box(key), fd);
                    assert!(ctx.clear_fd(key).is_some());
                }
                Call::NewAndFree => drop(black_box(WaitCtx::new())),
            }
        }
        clock.elapsed()
    })
}

/// As [`operation`], in Rust.
pub(crate) fn operation_in_rust(name: &str, told: Told) -> Candidate {
    let (fd, key) = (fd(), WaitKey::unique());
    let engine = move || {
        let job = current_job().expect("this is a job");
        let ctx = job.wait_ctx();
        if told == Told::FdOfEach {
            ctx.add_wait_fd(key, fd);
        } else if ctx.callback().is_some() {
            ctx.set_status(Status::Ok);
        } else if ctx.fd(key).is_none() {
            ctx.add_wait_fd(key, fd);
        }
        pause_job().expect("the job is resumed");
        if told == Told::FdOfEach {
            drop(ctx.clear_fd(key));
        }
        7
    };
    let operation = move |ctx: &WaitCtx| {
        let Ok(Step::Paused(job)) = start_job(ctx, engine) else {
            panic!("the job pauses");
        };
        black_box((ctx.changes(), ctx.fds()));
        assert!(matches!(job.resume(), Step::Finished(7)));
    };
    Candidate::new(name, move |n| {
        let ctx = WaitCtx::new();
        if told == Told::Callback {
            ctx.set_callback(Some(waker_fn(|| ())));
        }
        let clock = Instant::now();
        for _ in 0..n {
            match told {
                Told::CtxOfEach => operation(&WaitCtx::new()),
                _ => operation(&ctx),
            }
        }
        clock.elapsed()
    })
}
