//! The state of C++ exceptions travels with the job.
//!
//! ```text
//!   resumer's state   --- start, resume -->   the job's state: none at its start,
//!                     <-- pause, finish ---   at each resume what it was when the job paused
//! ```
//!
//! The C++ runtime keeps, for each thread, the exceptions that are being handled. A job that pauses in a `catch` leaves
//! its exception there. Without an exchange another job's `throw;` throws that exception, and the first job's handler
//! ends with the exception of the other. OpenSSL's jobs do that.
//!
//! The runtime is searched for when a thread borrows slots: `libstdc++` and `libc++abi` both give the state by the
//! function of the Itanium C++ ABI. A thread that found none pays nothing ([`crate::travelling`]). A runtime that is
//! linked into the program and not exported, or loaded after the search, is not found.

use std::cell::Cell;
use std::ffi::{c_uint, c_void};
use std::ptr::{self, NonNull};

/// `__cxa_eh_globals` of the Itanium C++ ABI: the exceptions that are being handled, innermost first, and the number of
/// those that were thrown and not yet caught.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct State {
    caught: *mut c_void,
    uncaught: c_uint,
}

impl State {
    /// The state of code that handles no exception.
    pub(crate) const NONE: State = State {
        caught: ptr::null_mut(),
        uncaught: 0,
    };
}

/// Where the C++ runtime keeps the state of one thread, if there is such a runtime.
pub(crate) struct ThreadExceptions(Cell<Option<NonNull<State>>>);

impl ThreadExceptions {
    pub(crate) const fn new() -> Self {
        ThreadExceptions(Cell::new(None))
    }

    /// Searches for the C++ runtime, on the thread that this value belongs to.
    #[cold]
    pub(crate) fn search(&self) {
        // SAFETY: looks a name up.
        let function = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__cxa_get_globals".as_ptr()) };
        // SAFETY: NULL, or the function of that name, which has this type in the Itanium C++ ABI.
        let function = unsafe { std::mem::transmute::<*mut c_void, Option<extern "C" fn() -> *mut State>>(function) };
        self.0.set(function.and_then(|function| NonNull::new(function())));
    }

    /// Whether there is a C++ runtime.
    #[inline]
    pub(crate) fn are_known(&self) -> bool {
        self.0.get().is_some()
    }

    /// Makes `state` that of this thread. Returns the state of before.
    #[inline]
    pub(crate) fn exchange(&self, state: State) -> State {
        match self.0.get() {
            // SAFETY: the runtime's own place for this thread, which lives as long as the thread. Only this thread uses
            // it, and not during this call.
            Some(place) => unsafe { place.replace(state) },
            None => State::NONE,
        }
    }
}
