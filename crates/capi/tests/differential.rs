//! Promise: no sequence of calls tells this library from the installed libcrypto. Every return value, every output, the
//! order of every list and every call of a cleanup is the same.
//!
//! ```text
//!   proptest  --->  a sequence: the calls of the thread, and for each job a script of its calls
//!                      |                          |
//!                      v                          v
//!                  libasyncjob.so           libcrypto.so.3        two tables of function pointers
//!                      |                          |
//!                      v                          v
//!                    trace          ==          trace
//! ```
//!
//! | compared | numbers |
//! |---|---|
//! | results, outputs and errors of each call | S1, S2, S4, S8, S25, S41, S46 |
//! | the pool: limits, stacks made in advance, exhaustion | S11, S12, S13, S16 |
//! | the arguments of a job: copied, aligned, none | S22, S23 |
//! | in which order a job and its caller run, and with which wait ctx | S24, S27, S29, S30 |
//! | pauses outside a job and while blocked | S40, S43 |
//! | wait fds: lists, changes, cleanups | S42, S52 to S60, S62 |
//! | callback and status | S63, S65 |
//!
//! A sequence stays within what OpenSSL defines. Where OpenSSL crashes, leaks or corrupts memory there is nothing to
//! compare, and `fixes` has programs for these cases. The interpreter keeps records of its own and skips such a step on
//! both sides: it does not free a wait ctx under a job, sets up a pool only before the first job of the pool, unblocks
//! a job before the job ends, and does not pause a job without a wait ctx.
//!
//! A test run compares 1,000 sequences. CI compares 100,000: `ASYNCJOB_SEQUENCES=100000 cargo test --release -p
//! asyncjob-capi --test differential`. Write 10000000 for ten million.

#![allow(unsafe_code, reason = "calls two C libraries, which run jobs on their own stacks")]

mod support;

use std::cell::{Cell, RefCell};
use std::env;
use std::ffi::{c_int, c_ulong, c_void};
use std::ops::Range;
use std::path::Path;
use std::ptr;

use asyncjob_testing::tools::{LIBCRYPTO, missing};
use libloading::Library;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[test]
fn no_sequence_of_calls_tells_us_from_openssl() {
    if missing(&[LIBCRYPTO]) {
        return;
    }
    let libcrypto = Path::new("libcrypto.so.3");
    let theirs = Api::open(libcrypto, libcrypto);
    let ours = Api::open(&support::shared_object(), libcrypto);
    let sequences = env::var("ASYNCJOB_SEQUENCES").map_or(1_000, |n| n.parse().expect("a number"));
    let config = Config {
        cases: sequences,
        failure_persistence: None,
        ..Config::default()
    };
    let steps = Cell::new(0);
    let result = TestRunner::new(config).run(&vec(outside(), 1..24), |sequence| {
        let (ours, theirs) = (run(&ours, &sequence), run(&theirs, &sequence));
        steps.set(steps.get() + theirs.len());
        prop_assert_eq!(ours, theirs);
        Ok(())
    });
    println!("{sequences} sequences, {} results compared", steps.get());
    result.unwrap_or_else(|difference| panic!("{difference}"));
    assert!(steps.get() > 10 * sequences as usize, "the sequences contain calls");
}

/// A call outside any job.
#[derive(Clone, Debug)]
enum Outside {
    InitThread {
        max: u8,
        precreate: u8,
    },
    CleanupThread,
    Start {
        ctx: Option<u8>,
        arguments: Arguments,
        script: Vec<Inside>,
    },
    Resume(u8),
    WaitCtxOfJob(u8),
    Thread(OfThread),
    Ctx(u8, OfCtx),
    NullCtx(OfCtx),
    NewCtx,
    FreeCtx(u8),
}

/// A call in a job.
#[derive(Clone, Debug)]
enum Inside {
    Thread(OfThread),
    OwnCtx(OfCtx),
    Ctx(u8, OfCtx),
    NewCtx,
    FreeCtx(u8),
}

#[derive(Clone, Debug)]
enum OfThread {
    Pause,
    Block,
    Unblock,
    CurrentJob,
    IsCapable,
}

#[derive(Clone, Debug)]
enum OfCtx {
    SetFd { key: u8, fd: i8, custom: u8, cleanup: bool },
    GetFd(u8),
    ClearFd(u8),
    AllFds { list: bool },
    ChangedFds { added: bool, removed: bool },
    SetCallback(Option<u8>),
    GetCallback,
    SetStatus(i32),
    GetStatus,
}

#[derive(Clone, Debug)]
enum Arguments {
    Null { size: u8 },
    Bytes(Vec<u8>),
}

fn outside() -> impl Strategy<Value = Outside> {
    let script = vec(inside(), 0..10);
    let start = (proptest::option::weighted(0.95, 0..4u8), arguments(), script);
    prop_oneof![
        6 => start.prop_map(|(ctx, arguments, script)| Outside::Start { ctx, arguments, script }),
        8 => any::<u8>().prop_map(Outside::Resume),
        1 => any::<u8>().prop_map(Outside::WaitCtxOfJob),
        2 => of_thread().prop_map(Outside::Thread),
        5 => (0..4u8, of_ctx()).prop_map(|(ctx, call)| Outside::Ctx(ctx, call)),
        1 => of_ctx().prop_map(Outside::NullCtx),
        3 => Just(Outside::NewCtx),
        1 => (0..4u8).prop_map(Outside::FreeCtx),
        1 => (0..4u8, 0..4u8).prop_map(|(max, precreate)| Outside::InitThread { max, precreate }),
        1 => Just(Outside::CleanupThread),
    ]
}

fn inside() -> impl Strategy<Value = Inside> {
    prop_oneof![
        8 => of_thread().prop_map(Inside::Thread),
        8 => of_ctx().prop_map(Inside::OwnCtx),
        2 => (0..4u8, of_ctx()).prop_map(|(ctx, call)| Inside::Ctx(ctx, call)),
        1 => Just(Inside::NewCtx),
        1 => (0..4u8).prop_map(Inside::FreeCtx),
    ]
}

fn of_thread() -> impl Strategy<Value = OfThread> {
    prop_oneof![
        6 => Just(OfThread::Pause),
        1 => Just(OfThread::Block),
        1 => Just(OfThread::Unblock),
        1 => Just(OfThread::CurrentJob),
        1 => Just(OfThread::IsCapable),
    ]
}

fn of_ctx() -> impl Strategy<Value = OfCtx> {
    let set = (0..4u8, -1..4i8, any::<u8>(), any::<bool>());
    prop_oneof![
        5 => set.prop_map(|(key, fd, custom, cleanup)| OfCtx::SetFd { key, fd, custom, cleanup }),
        2 => (0..4u8).prop_map(OfCtx::GetFd),
        3 => (0..4u8).prop_map(OfCtx::ClearFd),
        2 => any::<bool>().prop_map(|list| OfCtx::AllFds { list }),
        3 => any::<(bool, bool)>().prop_map(|(added, removed)| OfCtx::ChangedFds { added, removed }),
        1 => any::<Option<u8>>().prop_map(OfCtx::SetCallback),
        1 => Just(OfCtx::GetCallback),
        1 => prop_oneof![0..5i32, any::<i32>()].prop_map(OfCtx::SetStatus),
        1 => Just(OfCtx::GetStatus),
    ]
}

fn arguments() -> impl Strategy<Value = Arguments> {
    prop_oneof![
        any::<u8>().prop_map(|size| Arguments::Null { size }),
        vec(any::<u8>(), 0..4).prop_map(Arguments::Bytes),
        vec(any::<u8>(), 4..1200).prop_map(Arguments::Bytes),
    ]
}

/// The result of one call. The numbers are what the call returned and wrote. An output that it did not write is
/// [`UNTOUCHED`].
#[derive(Clone, Debug, PartialEq, Eq)]
struct CallResult {
    call: &'static str,
    numbers: Vec<i64>,
}

const UNTOUCHED: i64 = -77;

/// An opaque pointer. Those of the two libraries are never compared with each other.
type Handle = *mut c_void;
type Function = unsafe extern "C" fn(*mut c_void) -> c_int;
type Cleanup = unsafe extern "C" fn(Handle, *const c_void, c_int, *mut c_void);

macro_rules! api {
    ($($field:ident = $symbol:literal: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions of one library. It is never closed.
        struct Api {
            $($field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            next_error: unsafe extern "C" fn() -> c_ulong,
        }

        impl Api {
            fn open(path: &Path, libcrypto: &Path) -> Self {
                // SAFETY: both libraries may be initialised on this thread.
                let library = unsafe { Library::new(path) }.expect("installed");
                let library = Box::leak(Box::new(library));
                // SAFETY: as above.
                let queue = unsafe { Library::new(libcrypto) }.expect("installed");
                let queue = Box::leak(Box::new(queue));
                Api {
                    // SAFETY: the public function of that name has this type.
                    $($field: *unsafe { library.get($symbol) }.expect("a public function"),)*
                    // SAFETY: as above.
                    next_error: *unsafe { queue.get(b"ERR_get_error") }.expect("a public function"),
                }
            }
        }
    };
}

api! {
    is_capable = b"ASYNC_is_capable": fn() -> c_int;
    init_thread = b"ASYNC_init_thread": fn(usize, usize) -> c_int;
    cleanup_thread = b"ASYNC_cleanup_thread": fn();
    start_job = b"ASYNC_start_job": fn(*mut Handle, Handle, *mut c_int, Option<Function>, *mut c_void, usize) -> c_int;
    pause_job = b"ASYNC_pause_job": fn() -> c_int;
    current_job = b"ASYNC_get_current_job": fn() -> Handle;
    wait_ctx = b"ASYNC_get_wait_ctx": fn(Handle) -> Handle;
    block_pause = b"ASYNC_block_pause": fn();
    unblock_pause = b"ASYNC_unblock_pause": fn();
    new_ctx = b"ASYNC_WAIT_CTX_new": fn() -> Handle;
    free_ctx = b"ASYNC_WAIT_CTX_free": fn(Handle);
    set_fd = b"ASYNC_WAIT_CTX_set_wait_fd": fn(Handle, *const c_void, c_int, *mut c_void, Option<Cleanup>) -> c_int;
    get_fd = b"ASYNC_WAIT_CTX_get_fd": fn(Handle, *const c_void, *mut c_int, *mut *mut c_void) -> c_int;
    all_fds = b"ASYNC_WAIT_CTX_get_all_fds": fn(Handle, *mut c_int, *mut usize) -> c_int;
    changed_fds = b"ASYNC_WAIT_CTX_get_changed_fds":
        fn(Handle, *mut c_int, *mut usize, *mut c_int, *mut usize) -> c_int;
    clear_fd = b"ASYNC_WAIT_CTX_clear_fd": fn(Handle, *const c_void) -> c_int;
    set_callback = b"ASYNC_WAIT_CTX_set_callback": fn(Handle, Option<Function>, *mut c_void) -> c_int;
    get_callback = b"ASYNC_WAIT_CTX_get_callback": fn(Handle, *mut Option<Function>, *mut *mut c_void) -> c_int;
    set_status = b"ASYNC_WAIT_CTX_set_status": fn(Handle, c_int) -> c_int;
    get_status = b"ASYNC_WAIT_CTX_get_status": fn(Handle) -> c_int;
}

/// What the interpreter knows of a job.
struct Job {
    handle: Handle,
    ctx: Option<usize>,
    script: Vec<Inside>,
    arguments: Vec<u8>,
    has_ended: bool,
}

/// One run of a sequence on one library.
struct Run<'a> {
    api: &'a Api,
    trace: RefCell<Vec<CallResult>>,
    jobs: RefCell<Vec<Job>>,
    /// NULL for the ones that were freed.
    ctxs: RefCell<Vec<Handle>>,
    /// The number of the job that is about to start.
    starting: Cell<usize>,
    has_pool: Cell<bool>,
}

thread_local! {
    /// The run that the functions belong to which the libraries call back.
    static RUN: Cell<*const Run<'static>> = const { Cell::new(ptr::null()) };
}

fn run(api: &Api, sequence: &[Outside]) -> Vec<CallResult> {
    let run = Run {
        api,
        trace: RefCell::default(),
        jobs: RefCell::default(),
        ctxs: RefCell::default(),
        starting: Cell::new(0),
        has_pool: Cell::new(false),
    };
    RUN.set(ptr::from_ref(&run).cast());
    run.new_ctx();
    sequence.iter().for_each(|call| run.outside(call));
    run.end();
    run.trace.into_inner()
}

/// A job's function.
unsafe extern "C" fn body(arguments: *mut c_void) -> c_int {
    // SAFETY: `run` set the pointer, and its target lives until every job has ended.
    let run = unsafe { &*RUN.get() };
    run.inside(run.starting.get(), arguments)
}

unsafe extern "C" fn cleanup(ctx: Handle, key: *const c_void, fd: c_int, custom: *mut c_void) {
    // SAFETY: as above.
    let run = unsafe { &*RUN.get() };
    run.record("cleanup", [key.addr() as i64, i64::from(fd), custom.addr() as i64]);
    run.of_ctx(ctx, &OfCtx::GetCallback); // the ctx can be read, as a QAT engine expects
    run.of_ctx(ctx, &OfCtx::GetStatus);
}

unsafe extern "C" fn callback(_: *mut c_void) -> c_int {
    1
}

fn pointer<T>(number: impl Into<usize>) -> *mut T {
    ptr::without_provenance_mut(number.into())
}

impl Run<'_> {
    fn record<const N: usize>(&self, call: &'static str, numbers: [i64; N]) {
        self.record_list(call, numbers.to_vec());
    }

    fn record_list(&self, call: &'static str, mut numbers: Vec<i64>) {
        // SAFETY: removes an error from the queue of this thread. No preconditions.
        let error = unsafe { (self.api.next_error)() };
        numbers.push(error as i64);
        self.trace.borrow_mut().push(CallResult { call, numbers });
    }

    fn outside(&self, call: &Outside) {
        match call {
            Outside::InitThread { max, precreate } => self.init_thread((*max).into(), (*precreate).into()),
            Outside::CleanupThread => self.cleanup_thread(),
            Outside::Start { ctx, arguments, script } => self.start(*ctx, arguments, script),
            Outside::Resume(job) => self.resume(*job),
            Outside::WaitCtxOfJob(job) => self.wait_ctx_of_job(*job),
            Outside::Thread(call) => self.of_thread(call, ptr::null_mut()),
            Outside::Ctx(ctx, call) => self.of_ctx_number(*ctx, call),
            Outside::NullCtx(OfCtx::SetCallback(argument)) => {
                self.of_ctx(ptr::null_mut(), &OfCtx::SetCallback(*argument));
            }
            Outside::NullCtx(_) => {} // OpenSSL crashes: see `fixes/null_wait_ctx.c`
            Outside::NewCtx => self.new_ctx(),
            Outside::FreeCtx(ctx) => self.free_ctx(*ctx),
        }
    }

    /// A job runs its script and returns its own number.
    fn inside(&self, number: usize, arguments: *mut c_void) -> c_int {
        self.record("arguments", [i64::from(self.are_copied(number, arguments))]);
        // SAFETY: no preconditions.
        let me = unsafe { (self.api.current_job)() };
        let ctx = self.jobs.borrow()[number].ctx;
        let mut blocks = 0;
        for step in 0.. {
            let Some(call) = self.jobs.borrow()[number].script.get(step).cloned() else {
                break;
            };
            match call {
                Inside::Thread(OfThread::Pause) if ctx.is_none() && blocks == 0 => {}
                Inside::Thread(call) => {
                    match call {
                        OfThread::Block => blocks += 1,
                        OfThread::Unblock => blocks = i32::max(0, blocks - 1),
                        _ => {}
                    }
                    self.of_thread(&call, me);
                }
                Inside::OwnCtx(call) => {
                    // SAFETY: a running job.
                    let own = unsafe { (self.api.wait_ctx)(me) };
                    self.record("own ctx", [i64::from(own == self.ctx_handle(ctx))]);
                    if !own.is_null() {
                        self.of_ctx(own, &call);
                    }
                }
                Inside::Ctx(ctx, call) => self.of_ctx_number(ctx, &call),
                Inside::NewCtx => self.new_ctx(),
                Inside::FreeCtx(ctx) => self.free_ctx(ctx),
            }
        }
        (0..blocks).for_each(|_| self.of_thread(&OfThread::Unblock, me));
        self.record(
            "copy kept",
            [i64::from(self.copy(number, arguments).iter().all(|&byte| byte == 0))],
        );
        number as c_int + 100
    }

    /// Checks the arguments of the job and overwrites them: they are a copy of its own.
    fn are_copied(&self, number: usize, arguments: *mut c_void) -> bool {
        let expected = self.jobs.borrow()[number].arguments.clone();
        let copy = self.copy(number, arguments);
        let same =
            copy == expected && arguments.is_null() == expected.is_empty() && arguments.addr().is_multiple_of(16);
        copy.fill(0);
        same
    }

    #[allow(clippy::mut_from_ref, reason = "the bytes belong to the job")]
    fn copy(&self, number: usize, arguments: *mut c_void) -> &mut [u8] {
        let len = self.jobs.borrow()[number].arguments.len();
        if arguments.is_null() {
            return &mut [];
        }
        // SAFETY: the library made a copy of this length, which lives until the job ends. No other reference to it
        // exists.
        unsafe { std::slice::from_raw_parts_mut(arguments.cast::<u8>(), len) }
    }

    fn init_thread(&self, max: usize, precreate: usize) {
        if self.has_pool.get() {
            return; // OpenSSL leaks the first pool: see `fixes/second_init.c`
        }
        // SAFETY: no preconditions.
        let result = unsafe { (self.api.init_thread)(max, precreate) };
        self.has_pool.set(result == 1);
        self.record("init_thread", [result.into()]);
    }

    fn cleanup_thread(&self) {
        if self.jobs.borrow().iter().any(|job| !job.has_ended) {
            return; // OpenSSL leaks: see `fixes/cleanup_with_paused.c`
        }
        // SAFETY: no preconditions.
        unsafe { (self.api.cleanup_thread)() };
        self.has_pool.set(false);
        self.record("cleanup_thread", []);
    }

    fn start(&self, ctx: Option<u8>, arguments: &Arguments, script: &[Inside]) {
        let ctx = ctx.and_then(|ctx| self.a_ctx(ctx));
        let (mut bytes, size) = match arguments {
            Arguments::Null { size } => (None, usize::from(*size)),
            Arguments::Bytes(bytes) => (Some(bytes.clone()), bytes.len()),
        };
        let number = self.jobs.borrow().len();
        self.jobs.borrow_mut().push(Job {
            handle: ptr::null_mut(),
            ctx,
            script: script.to_vec(),
            arguments: bytes.clone().unwrap_or_default(),
            has_ended: false,
        });
        self.starting.set(number);
        self.has_pool.set(true);
        let arguments = bytes.as_mut().map_or(ptr::null_mut(), |bytes| bytes.as_mut_ptr());
        self.step(
            "start",
            number,
            self.ctx_handle(ctx),
            Some(body),
            arguments.cast(),
            size,
        );
    }

    fn resume(&self, number: u8) {
        if let Some(number) = self.a_paused_job(number) {
            // These arguments differ from those of the start, and are ignored (S27).
            self.step("resume", number, ptr::null_mut(), None, ptr::null_mut(), 3);
        }
    }

    fn step(
        &self,
        call: &'static str,
        number: usize,
        ctx: Handle,
        function: Option<Function>,
        arguments: *mut c_void,
        size: usize,
    ) {
        let before = self.jobs.borrow()[number].handle;
        let (mut handle, mut ret) = (before, UNTOUCHED as c_int);
        // SAFETY: the outputs are alive, the arguments have this length, and the job runs on this thread.
        let result = unsafe { (self.api.start_job)(&mut handle, ctx, &mut ret, function, arguments, size) };
        let ended = result != ASYNC_PAUSE;
        self.record(
            call,
            [
                result.into(),
                ret.into(),
                i64::from(handle.is_null()),
                i64::from(before.is_null() || handle == before || ended),
            ],
        );
        let mut jobs = self.jobs.borrow_mut();
        jobs[number].has_ended = ended;
        jobs[number].handle = if ended { ptr::null_mut() } else { handle };
    }

    fn wait_ctx_of_job(&self, number: u8) {
        let Some(number) = self.a_paused_job(number) else {
            return;
        };
        let (handle, ctx) = {
            let jobs = self.jobs.borrow();
            (jobs[number].handle, jobs[number].ctx)
        };
        // SAFETY: a paused job.
        let found = unsafe { (self.api.wait_ctx)(handle) };
        self.record("wait_ctx", [i64::from(found == self.ctx_handle(ctx))]);
    }

    fn of_thread(&self, call: &OfThread, me: Handle) {
        match call {
            OfThread::Pause => {
                // SAFETY: no preconditions.
                let result = unsafe { (self.api.pause_job)() };
                self.record("pause", [result.into()]);
            }
            OfThread::Block => {
                // SAFETY: no preconditions.
                unsafe { (self.api.block_pause)() };
            }
            OfThread::Unblock => {
                // SAFETY: no preconditions.
                unsafe { (self.api.unblock_pause)() };
            }
            OfThread::CurrentJob => {
                // SAFETY: no preconditions.
                let current = unsafe { (self.api.current_job)() };
                self.record("current_job", [i64::from(current == me), i64::from(current.is_null())]);
            }
            OfThread::IsCapable => {
                // SAFETY: no preconditions.
                let capable = unsafe { (self.api.is_capable)() };
                self.record("is_capable", [capable.into()]);
            }
        }
    }

    fn of_ctx_number(&self, number: u8, call: &OfCtx) {
        if let Some(number) = self.a_ctx(number) {
            self.of_ctx(self.ctxs.borrow()[number], call);
        }
    }

    fn of_ctx(&self, ctx: Handle, call: &OfCtx) {
        match *call {
            OfCtx::SetFd {
                key,
                fd,
                custom,
                cleanup: has_cleanup,
            } => {
                let cleanup = has_cleanup.then_some(cleanup as Cleanup);
                // SAFETY: a live ctx. The cleanup may be called with any values.
                let result =
                    unsafe { (self.api.set_fd)(ctx, pointer::<c_void>(key), fd.into(), pointer(custom), cleanup) };
                self.record("set_fd", [result.into()]);
            }
            OfCtx::GetFd(key) => {
                let (mut fd, mut custom) = (UNTOUCHED as c_int, pointer(77usize));
                // SAFETY: a live ctx and outputs.
                let result = unsafe { (self.api.get_fd)(ctx, pointer::<c_void>(key), &mut fd, &mut custom) };
                self.record("get_fd", [result.into(), fd.into(), custom.addr() as i64]);
            }
            OfCtx::ClearFd(key) => {
                // SAFETY: a live ctx.
                let result = unsafe { (self.api.clear_fd)(ctx, pointer::<c_void>(key)) };
                self.record("clear_fd", [result.into()]);
            }
            OfCtx::AllFds { list } => self.all_fds(ctx, list),
            OfCtx::ChangedFds { added, removed } => self.changed_fds(ctx, added, removed),
            OfCtx::SetCallback(argument) => {
                let function = argument.map(|_| callback as Function);
                // SAFETY: NULL or a live ctx.
                let result = unsafe { (self.api.set_callback)(ctx, function, pointer(argument.unwrap_or(9))) };
                self.record("set_callback", [result.into()]);
            }
            OfCtx::GetCallback => {
                let (mut function, mut argument) = (None::<Function>, pointer(77usize));
                // SAFETY: a live ctx and outputs.
                let result = unsafe { (self.api.get_callback)(ctx, &mut function, &mut argument) };
                let is_ours = function.is_some_and(|function| ptr::fn_addr_eq(function, callback as Function));
                self.record(
                    "get_callback",
                    [result.into(), i64::from(is_ours), argument.addr() as i64],
                );
            }
            OfCtx::SetStatus(status) => {
                // SAFETY: a live ctx.
                let result = unsafe { (self.api.set_status)(ctx, status) };
                self.record("set_status", [result.into()]);
            }
            OfCtx::GetStatus => {
                // SAFETY: a live ctx.
                let status = unsafe { (self.api.get_status)(ctx) };
                self.record("get_status", [status.into()]);
            }
        }
    }

    fn all_fds(&self, ctx: Handle, list: bool) {
        let mut count = 77;
        // SAFETY: a live ctx, and no list.
        let result = unsafe { (self.api.all_fds)(ctx, ptr::null_mut(), &mut count) };
        self.record("all_fds", [result.into(), count as i64]);
        if list {
            let mut fds = vec![UNTOUCHED as c_int; count + 2];
            // SAFETY: a live ctx, and room for its wait fds.
            let result = unsafe { (self.api.all_fds)(ctx, fds.as_mut_ptr(), &mut count) };
            self.record_list("all_fds list", numbers(&[result, count as c_int], &fds));
        }
    }

    fn changed_fds(&self, ctx: Handle, added: bool, removed: bool) {
        let (mut adds, mut removals) = (77, 77);
        let null = ptr::null_mut();
        // SAFETY: a live ctx, and no lists.
        let result = unsafe { (self.api.changed_fds)(ctx, null, &mut adds, null, &mut removals) };
        self.record("changed_fds", [result.into(), adds as i64, removals as i64]);
        let mut fds = [
            vec![UNTOUCHED as c_int; adds + 2],
            vec![UNTOUCHED as c_int; removals + 2],
        ];
        let [add, removal] = &mut fds;
        let add = if added { add.as_mut_ptr() } else { null };
        let removal = if removed { removal.as_mut_ptr() } else { null };
        // SAFETY: a live ctx, and room for its changes.
        let result = unsafe { (self.api.changed_fds)(ctx, add, &mut adds, removal, &mut removals) };
        self.record_list(
            "changed_fds lists",
            numbers(&[result, adds as c_int, removals as c_int], &fds.concat()),
        );
    }

    fn new_ctx(&self) {
        // SAFETY: no preconditions.
        let ctx = unsafe { (self.api.new_ctx)() };
        self.record("new_ctx", [i64::from(ctx.is_null())]);
        self.ctxs.borrow_mut().push(ctx);
    }

    fn free_ctx(&self, number: u8) {
        let Some(number) = self.a_ctx(number) else { return };
        if self
            .jobs
            .borrow()
            .iter()
            .any(|job| !job.has_ended && job.ctx == Some(number))
        {
            return; // OpenSSL keeps a dangling pointer: see `fixes/ctx_freed_under_job.c`
        }
        let ctx = std::mem::replace(&mut self.ctxs.borrow_mut()[number], ptr::null_mut());
        // SAFETY: a live ctx that no job uses.
        unsafe { (self.api.free_ctx)(ctx) };
        self.record("free_ctx", []);
    }

    /// Finishes and frees everything, as a program would.
    fn end(&self) {
        while self.a_paused_job(0).is_some() {
            self.resume(0);
        }
        while self.a_ctx(0).is_some() {
            self.free_ctx(0);
        }
        // SAFETY: NULL is allowed.
        unsafe { (self.api.free_ctx)(ptr::null_mut()) };
        self.cleanup_thread();
    }

    /// One of the ctxs that are alive: the `number`-th, modulo how many there are.
    fn a_ctx(&self, number: u8) -> Option<usize> {
        let ctxs = self.ctxs.borrow();
        pick(number, 0..ctxs.len(), |i| !ctxs[i].is_null())
    }

    /// One of the jobs that are paused, in the same way.
    fn a_paused_job(&self, number: u8) -> Option<usize> {
        let jobs = self.jobs.borrow();
        pick(number, 0..jobs.len(), |i| !jobs[i].handle.is_null())
    }

    fn ctx_handle(&self, number: Option<usize>) -> Handle {
        number.map_or(ptr::null_mut(), |number| self.ctxs.borrow()[number])
    }
}

const ASYNC_PAUSE: c_int = 2;

fn pick(number: u8, all: Range<usize>, wanted: impl Fn(usize) -> bool) -> Option<usize> {
    let wanted: Vec<_> = all.filter(|&i| wanted(i)).collect();
    (!wanted.is_empty()).then(|| wanted[usize::from(number) % wanted.len()])
}

fn numbers(first: &[c_int], then: &[c_int]) -> Vec<i64> {
    first.iter().chain(then).map(|&n| n.into()).collect()
}
