//! `makecontext` and `swapcontext` of the C library, with two system calls for the signal mask in each round trip.

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr;

use crate::depth::pause_often;
use crate::peer::{Absent, Peer};

/// ucontext, and the contexts that are not in use, with their stacks.
#[derive(Default)]
#[expect(clippy::vec_box, reason = "a context must not move: see `Context`")]
pub(crate) struct Ucontext {
    idle: Vec<Box<Context>>,
}

/// Both sides of the switch. It is boxed, because glibc's `ucontext_t` has pointers into itself.
pub(crate) struct Context {
    inside: libc::ucontext_t,
    outside: libc::ucontext_t,
    stack: Vec<u8>,
    pauses: u64,
}

impl Ucontext {
    fn prepare(&mut self, body: extern "C" fn(c_int, c_int), pauses: u64) -> Box<Context> {
        let mut context = self.idle.pop().unwrap_or_else(Context::new);
        context.pauses = pauses;
        context.inside.uc_stack.ss_sp = context.stack.as_mut_ptr().cast();
        context.inside.uc_stack.ss_size = context.stack.len();
        context.inside.uc_link = &raw mut context.outside;
        let at = ptr::from_mut(&mut *context).expose_provenance();
        // SAFETY: makecontext passes the arguments as ints, as they are declared. Its C prototype does not show them.
        let body = unsafe { std::mem::transmute::<extern "C" fn(c_int, c_int), extern "C" fn()>(body) };
        // SAFETY: `inside` was filled by getcontext, its stack lives as long as it, and two int arguments are passed.
        unsafe { libc::makecontext(&mut context.inside, body, 2, (at >> 32) as c_int, at as c_int) };
        context
    }
}

impl Context {
    fn new() -> Box<Self> {
        // SAFETY: plain C structs, for which zero is a valid value.
        let contexts: [libc::ucontext_t; 2] = unsafe { MaybeUninit::zeroed().assume_init() };
        let [inside, outside] = contexts;
        let mut context = Box::new(Context {
            inside,
            outside,
            stack: vec![0; super::bare::STACK],
            pauses: 0,
        });
        // In the box, which does not move: glibc stores a pointer to the floating-point state, which is in the struct.
        // SAFETY: the pointer is to writable memory of the right type.
        unsafe { libc::getcontext(&mut context.inside) };
        context
    }

    #[inline(always)]
    fn enter(&mut self) {
        // SAFETY: `inside` is a context that is ready to run on its own stack, `outside` is not in use.
        unsafe { libc::swapcontext(&mut self.outside, &self.inside) };
    }
}

impl Peer for Ucontext {
    type Job = Box<Context>;

    fn start<const FRAMES: u32>(&mut self, pauses: u64) -> Result<Self::Job, Absent> {
        let mut job = self.prepare(body::<FRAMES>, pauses);
        job.enter();
        Ok(job)
    }

    #[inline(always)]
    fn resume(&mut self, job: &mut Self::Job) -> bool {
        job.enter();
        true
    }

    fn finish(&mut self, job: Self::Job) {
        self.idle.push(job);
    }

    fn empty(&mut self) {
        let mut job = self.prepare(nothing, 0);
        job.enter();
        self.idle.push(job);
    }
}

extern "C" fn nothing(_high: c_int, _low: c_int) {}

extern "C" fn body<const FRAMES: u32>(high: c_int, low: c_int) {
    let at = ((high as u32 as usize) << 32) | low as u32 as usize;
    let context: *mut Context = ptr::with_exposed_provenance_mut(at);
    // SAFETY: `prepare` passed the address of a context that outlives its job.
    let pauses = unsafe { (*context).pauses };
    pause_often::<FRAMES>(pauses, || {
        // SAFETY: the context outlives its job, and only one side of the switch touches it at a time.
        let inside = unsafe { &raw mut (*context).inside };
        // SAFETY: the context outlives its job, and only one side of the switch touches it at a time.
        let outside = unsafe { &raw const (*context).outside };
        // SAFETY: `outside` was filled by the `swapcontext` that entered this job.
        unsafe { libc::swapcontext(inside, outside) };
    });
}
