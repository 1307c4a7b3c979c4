//! Random histories of the C interface, each read from bytes and compared with a model. They use live handles, stale
//! ones, live ones with a bit changed, those that a place will have next, and numbers.
//!
//! `forged_handles.rs` runs them with the shared object on every `cargo test`. `fuzz/` links the functions, and lets a
//! fuzzer look for bytes that lead to new code.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::ptr;
use std::thread;

pub(crate) type Handle = *mut c_void;
pub(crate) type Function = unsafe extern "C" fn(*mut c_void) -> c_int;

const ERR: c_int = 0;
const PAUSE: c_int = 2;
const FINISH: c_int = 3;
/// An output that no call writes.
const UNTOUCHED: c_int = -77;
const KEYS: usize = 3;
/// The number of a job whose ctx is none.
const NO_CTX: usize = usize::MAX;

/// Passes the functions of the interface to a macro: the name of a field, the name of the function, its type.
macro_rules! functions {
    ($macro:ident) => {
        $macro! {
            start_job = ASYNC_start_job:
                fn(*mut Handle, Handle, *mut c_int, Option<Function>, *mut c_void, usize) -> c_int;
            pause_job = ASYNC_pause_job: fn() -> c_int;
            current_job = ASYNC_get_current_job: fn() -> Handle;
            wait_ctx = ASYNC_get_wait_ctx: fn(Handle) -> Handle;
            new_ctx = ASYNC_WAIT_CTX_new: fn() -> Handle;
            free_ctx = ASYNC_WAIT_CTX_free: fn(Handle) -> ();
            set_fd = ASYNC_WAIT_CTX_set_wait_fd:
                fn(Handle, *const c_void, c_int, *mut c_void, *const c_void) -> c_int;
            get_fd = ASYNC_WAIT_CTX_get_fd: fn(Handle, *const c_void, *mut c_int, *mut *mut c_void) -> c_int;
            all_fds = ASYNC_WAIT_CTX_get_all_fds: fn(Handle, *mut c_int, *mut usize) -> c_int;
            clear_fd = ASYNC_WAIT_CTX_clear_fd: fn(Handle, *const c_void) -> c_int;
            set_status = ASYNC_WAIT_CTX_set_status: fn(Handle, c_int) -> c_int;
            get_status = ASYNC_WAIT_CTX_get_status: fn(Handle) -> c_int;
        }
    };
}
pub(crate) use functions;

macro_rules! api {
    ($($field:ident = $symbol:ident: fn($($argument:ty),*) -> $result:ty;)*) => {
        /// The functions of the interface.
        #[derive(Clone, Copy)]
        pub(crate) struct Api {
            $(pub(crate) $field: unsafe extern "C" fn($($argument),*) -> $result,)*
        }
    };
}

functions!(api);

/// A wait ctx of the program.
struct Ctx {
    handle: Handle,
    is_live: bool,
    /// The keys and fds, oldest first.
    fds: Vec<(usize, c_int)>,
    status: c_int,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Paused,
    Ended,
}

/// A job of the program.
struct Job {
    handle: Handle,
    ctx: usize,
    state: State,
}

struct World {
    api: Api,
    script: Vec<u8>,
    at: Cell<usize>,
    ctxs: RefCell<Vec<Ctx>>,
    jobs: RefCell<Vec<Job>>,
}

thread_local! {
    /// The history that the functions of the jobs belong to.
    static WORLD: Cell<*const World> = const { Cell::new(ptr::null()) };
}

fn key(number: usize) -> *const c_void {
    ptr::without_provenance(100 + number)
}

/// The function of every job. Its argument is its number.
unsafe extern "C" fn body(argument: *mut c_void) -> c_int {
    // SAFETY: the history lives until all jobs have ended.
    let world = unsafe { &*WORLD.get() };
    // SAFETY: the argument of each job is a number.
    let number = unsafe { *argument.cast::<usize>() };
    if number == NO_CTX {
        return 5;
    }
    // SAFETY: the function may be called anywhere.
    world.jobs.borrow_mut()[number].handle = unsafe { (world.api.current_job)() };
    world.act(Some(number));
    world.jobs.borrow_mut()[number].state = State::Ended;
    number as c_int
}

impl World {
    fn next(&self) -> Option<u8> {
        let byte = self.script.get(self.at.get()).copied();
        self.at.set(self.at.get() + 1);
        byte
    }

    fn below(&self, limit: usize) -> usize {
        usize::from(self.next().unwrap_or(0)) % limit
    }

    /// A handle: one of those that this history had, one of them with a bit changed, or a number.
    ///
    /// A handle is an index of 24 bits and a generation: one of these numbers is the handle that the place of an ended
    /// object will have next.
    fn handle(&self, had: &[Handle]) -> Handle {
        let form = self.below(16);
        let one = had.get(self.below(had.len().max(1))).copied().unwrap_or_default();
        match form {
            0 => ptr::null_mut(),
            1 => ptr::without_provenance_mut(one.addr() ^ 1 << self.below(64)),
            2 => ptr::without_provenance_mut(one.addr().wrapping_add(self.below(3) << 24)),
            3 => {
                let bytes = std::array::from_fn(|_| self.next().unwrap_or(0));
                ptr::without_provenance_mut(usize::from_ne_bytes(bytes) | 1 << 63)
            }
            4 => ptr::without_provenance_mut(self.below(256)),
            _ => one,
        }
    }

    fn any_ctx(&self) -> (Handle, Option<usize>) {
        let had: Vec<_> = self.ctxs.borrow().iter().map(|ctx| ctx.handle).collect();
        let handle = self.handle(&had);
        let ctxs = self.ctxs.borrow();
        (handle, ctxs.iter().position(|ctx| ctx.is_live && ctx.handle == handle))
    }

    fn any_job(&self) -> (Handle, Option<usize>) {
        let had: Vec<_> = self.jobs.borrow().iter().map(|job| job.handle).collect();
        let handle = self.handle(&had);
        let jobs = self.jobs.borrow();
        let alive = |job: &Job| job.state != State::Ended && job.handle == handle;
        (handle, jobs.iter().position(alive))
    }

    /// Performs acts until the script ends, or until the job does, if this is one.
    fn act(&self, me: Option<usize>) {
        while let Some(act) = self.next() {
            match act % 16 {
                0 | 1 => self.start(),
                2..=4 => self.resume(),
                5 | 6 if me.is_some() => self.pause(me),
                7 if me.is_some() => return,
                8 => self.new_ctx(),
                9 => self.free_ctx(),
                10 => self.ask_elsewhere(),
                11 => self.ask_for_ctx(),
                12 => self.set_status(),
                _ => self.change_fds(),
            }
            self.compare(me);
        }
    }

    fn start(&self) {
        let (handle, ctx) = self.any_ctx();
        let Some(ctx) = ctx else {
            return self.start_without(handle);
        };
        let mut number = self.jobs.borrow().len();
        if number >= 40 {
            return;
        }
        self.jobs.borrow_mut().push(Job {
            handle: ptr::null_mut(),
            ctx,
            state: State::Running,
        });
        let (mut job, mut ret) = (ptr::null_mut(), UNTOUCHED);
        let argument = ptr::from_mut(&mut number).cast();
        // SAFETY: the pointers lead to variables that outlive the call, and the function may be called with a copy of
        // the number.
        let result =
            unsafe { (self.api.start_job)(&mut job, handle, &mut ret, Some(body), argument, size_of::<usize>()) };
        self.ran(number, result, job, ret);
    }

    /// A start with a ctx that is none: the job runs, and has no ctx.
    fn start_without(&self, ctx: Handle) {
        let (mut job, mut ret, mut number) = (ptr::null_mut(), UNTOUCHED, NO_CTX);
        let argument = ptr::from_mut(&mut number).cast();
        // SAFETY: as above.
        let result = unsafe { (self.api.start_job)(&mut job, ctx, &mut ret, Some(body), argument, size_of::<usize>()) };
        assert_eq!(
            (result, job, ret),
            (FINISH, ptr::null_mut(), 5),
            "a start with ctx {ctx:?}"
        );
    }

    /// Compares how a call ended that ran a job.
    fn ran(&self, number: usize, result: c_int, handle: Handle, ret: c_int) {
        let mut jobs = self.jobs.borrow_mut();
        let job = &mut jobs[number];
        match result {
            PAUSE => {
                assert_eq!((job.state, job.handle, ret), (State::Running, handle, UNTOUCHED));
                job.state = State::Paused;
            }
            FINISH => assert_eq!(
                (job.state, handle, ret),
                (State::Ended, ptr::null_mut(), number as c_int)
            ),
            _ => panic!("job {number} gave {result}"),
        }
    }

    fn resume(&self) {
        let (handle, found) = self.any_job();
        if handle.is_null() {
            return;
        }
        let (mut job, mut ret) = (handle, UNTOUCHED);
        // A job goes on without its ctx if the program has freed that.
        let may_run = found.filter(|number| self.jobs.borrow()[*number].state == State::Paused);
        if let Some(number) = may_run {
            self.jobs.borrow_mut()[number].state = State::Running;
        }
        // SAFETY: the pointers lead to variables that outlive the call. A job that pauses may go on.
        let result = unsafe { (self.api.start_job)(&mut job, ptr::null_mut(), &mut ret, None, ptr::null_mut(), 0) };
        match may_run {
            Some(number) => self.ran(number, result, job, ret),
            None => {
                assert_eq!((result, ret), (ERR, UNTOUCHED), "resumed {handle:?}");
                if found.is_none() {
                    assert_eq!(job, ptr::null_mut(), "a stale handle is taken away");
                }
            }
        }
    }

    fn pause(&self, me: Option<usize>) {
        // SAFETY: the job may be resumed.
        assert_eq!(unsafe { (self.api.pause_job)() }, 1);
        assert_eq!(me.map(|me| self.jobs.borrow()[me].state), Some(State::Running));
    }

    fn new_ctx(&self) {
        if self.ctxs.borrow().len() >= 30 {
            return;
        }
        // SAFETY: the function may be called anywhere.
        let handle = unsafe { (self.api.new_ctx)() };
        assert!(!handle.is_null());
        let mut ctxs = self.ctxs.borrow_mut();
        assert!(
            ctxs.iter().all(|ctx| ctx.handle != handle),
            "a handle is given out once"
        );
        ctxs.push(Ctx {
            handle,
            is_live: true,
            fds: Vec::new(),
            status: 0,
        });
    }

    fn free_ctx(&self) {
        let (handle, found) = self.any_ctx();
        // SAFETY: no ctx has a cleanup.
        unsafe { (self.api.free_ctx)(handle) };
        if let Some(found) = found {
            self.ctxs.borrow_mut()[found].is_live = false;
        }
    }

    /// Another thread may neither resume a job nor free what it guesses; it may use live ctxs.
    fn ask_elsewhere(&self) {
        let (api, (job, _)) = (self.api, self.any_job());
        if job.is_null() {
            return;
        }
        let job = job.addr();
        let resumed = thread::scope(|scope| {
            let thread = scope.spawn(move || {
                let (mut job, mut ret) = (ptr::without_provenance_mut(job), UNTOUCHED);
                // SAFETY: the pointers lead to variables that outlive the call; the call fails.
                unsafe { (api.start_job)(&mut job, ptr::null_mut(), &mut ret, None, ptr::null_mut(), 0) }
            });
            thread.join().unwrap()
        });
        assert_eq!(resumed, ERR);
    }

    fn ask_for_ctx(&self) {
        let (handle, found) = self.any_job();
        // SAFETY: the function may be called with any value.
        let ctx = unsafe { (self.api.wait_ctx)(handle) };
        let expected = found.and_then(|number| {
            let ctx = &self.ctxs.borrow()[self.jobs.borrow()[number].ctx];
            ctx.is_live.then_some(ctx.handle)
        });
        assert_eq!(ctx, expected.unwrap_or_default(), "the ctx of {handle:?}");
    }

    fn set_status(&self) {
        let ((handle, found), status) = (self.any_ctx(), self.below(4) as c_int);
        // SAFETY: the function may be called with any value.
        let result = unsafe { (self.api.set_status)(handle, status) };
        assert_eq!(result, c_int::from(found.is_some()), "the status of {handle:?}");
        if let Some(found) = found {
            self.ctxs.borrow_mut()[found].status = status;
        }
    }

    fn change_fds(&self) {
        let (handle, found) = self.any_ctx();
        let number = self.below(KEYS);
        let mut ctxs = self.ctxs.borrow_mut();
        if self.below(3) > 0 {
            let fd = 1000 + self.below(100) as c_int;
            // SAFETY: the function may be called with any value; there is no cleanup.
            let result = unsafe { (self.api.set_fd)(handle, key(number), fd, ptr::null_mut(), ptr::null()) };
            assert_eq!(result, c_int::from(found.is_some()));
            if let Some(found) = found {
                ctxs[found].fds.push((number, fd));
            }
        } else {
            // SAFETY: as above.
            let result = unsafe { (self.api.clear_fd)(handle, key(number)) };
            let newest = found.and_then(|found| ctxs[found].fds.iter().rposition(|(key, _)| *key == number));
            assert_eq!(result, c_int::from(newest.is_some()));
            if let (Some(found), Some(newest)) = (found, newest) {
                ctxs[found].fds.remove(newest);
            }
        }
    }

    /// Every live ctx holds what the model says, and no other handle leads to one.
    fn compare(&self, me: Option<usize>) {
        // SAFETY: the function may be called anywhere.
        let current = unsafe { (self.api.current_job)() };
        assert_eq!(current, me.map_or(ptr::null_mut(), |me| self.jobs.borrow()[me].handle));
        for ctx in self.ctxs.borrow().iter() {
            let (mut count, mut fds) = (0, [UNTOUCHED; 256]);
            // SAFETY: there is room for the fds of a history.
            let result = unsafe { (self.api.all_fds)(ctx.handle, fds.as_mut_ptr(), &mut count) };
            assert_eq!(result, c_int::from(ctx.is_live));
            if !ctx.is_live {
                assert_eq!(fds[0], UNTOUCHED);
                continue;
            }
            let expected: Vec<_> = ctx.fds.iter().rev().map(|(_, fd)| *fd).collect();
            assert_eq!(fds[..count], expected);
            for number in 0..KEYS {
                let (mut fd, mut custom) = (UNTOUCHED, ptr::null_mut());
                // SAFETY: the pointers lead to variables that outlive the call.
                let result = unsafe { (self.api.get_fd)(ctx.handle, key(number), &mut fd, &mut custom) };
                let newest = ctx.fds.iter().rfind(|(key, _)| *key == number);
                assert_eq!((result, fd), newest.map_or((0, UNTOUCHED), |(_, fd)| (1, *fd)));
            }
            // SAFETY: the function may be called with any value.
            assert_eq!(unsafe { (self.api.get_status)(ctx.handle) }, ctx.status);
        }
    }

    /// Lets all jobs end: the script is at its end, so each returns when it is resumed.
    fn end(&self) {
        let count = self.jobs.borrow().len();
        for number in 0..count {
            let (handle, state) = {
                let job = &self.jobs.borrow()[number];
                (job.handle, job.state)
            };
            if state != State::Paused {
                continue;
            }
            self.jobs.borrow_mut()[number].state = State::Running;
            let (mut job, mut ret) = (handle, UNTOUCHED);
            // SAFETY: as in `resume`.
            let result = unsafe { (self.api.start_job)(&mut job, ptr::null_mut(), &mut ret, None, ptr::null_mut(), 0) };
            assert_eq!(result, FINISH);
            self.ran(number, result, job, ret);
        }
        for ctx in self.ctxs.borrow().iter().filter(|ctx| ctx.is_live) {
            // SAFETY: no ctx has a cleanup.
            unsafe { (self.api.free_ctx)(ctx.handle) };
        }
    }
}

/// Runs the history of these bytes.
pub(crate) fn run(api: Api, bytes: &[u8]) {
    let world = World {
        api,
        script: bytes.to_vec(),
        at: Cell::new(0),
        ctxs: RefCell::default(),
        jobs: RefCell::default(),
    };
    WORLD.set(&raw const world);
    world.new_ctx();
    world.act(None);
    world.end();
}
