//! What of a thread travels with its jobs: the default library context and the C++ exceptions that are being handled.
//!
//! ```text
//!   resumer's   --- start, resume -->   the job's: at its start the default of its resumer and no exception,
//!               <-- pause, finish ---   at each resume what it was when the job paused
//! ```
//!
//! | a thread | a switch |
//! |---|---|
//! | has never had a default of its own, and the process has no C++ runtime | asks one flag |
//! | of any other kind | exchanges both ([`crate::library_context`], [`crate::exceptions`]) |
//!
//! The flag is never cleared. While it is not set, nothing of the thread differs from [`Travelling::NOTHING`], and
//! neither does what its slots keep for paused jobs.

use std::cell::Cell;
use std::mem;
use std::ptr;

use crate::exceptions::{State, ThreadExceptions};
use crate::libcrypto::LibCtx;
use crate::library_context::ThreadDefault;

/// What belongs to a job that is paused, or to the resumer of a job that runs.
#[derive(Clone, Copy)]
pub(crate) struct Travelling {
    default_ctx: LibCtx,
    exceptions: State,
}

impl Travelling {
    /// No default was set, and no exception is handled.
    pub(crate) const NOTHING: Travelling = Travelling {
        default_ctx: ptr::null_mut(),
        exceptions: State::NONE,
    };
}

/// What one thread has now.
pub(crate) struct ThreadTravelling {
    default_ctx: ThreadDefault,
    exceptions: ThreadExceptions,
    has_any: Cell<bool>,
}

impl ThreadTravelling {
    pub(crate) const fn new() -> Self {
        ThreadTravelling {
            default_ctx: ThreadDefault::new(),
            exceptions: ThreadExceptions::new(),
            has_any: Cell::new(false),
        }
    }

    /// The program sets the default of this thread, or reads it if `ctx` is NULL.
    pub(crate) fn note_default(&self, ctx: LibCtx) {
        self.default_ctx.note(ctx);
        self.look();
    }

    /// Finds out what libcrypto and the C++ runtime have for this thread. Called when the thread borrows slots.
    #[cold]
    pub(crate) fn search(&self) {
        self.default_ctx.check();
        self.exceptions.search();
        self.look();
    }

    fn look(&self) {
        let has_any = self.default_ctx.is_set() || self.exceptions.are_known();
        self.has_any.set(self.has_any.get() || has_any);
    }

    /// Whether a switch has anything to exchange.
    #[inline]
    pub(crate) fn has_any(&self) -> bool {
        self.has_any.get()
    }

    /// A job starts: it has the default of its resumer, and handles no exception. Returns what is the resumer's.
    #[cold]
    #[inline(never)]
    pub(crate) fn start(&self) -> Travelling {
        Travelling {
            default_ctx: self.default_ctx.at_start(),
            exceptions: self.exceptions.exchange(State::NONE),
        }
    }

    /// Gives the thread what is in `away`, and puts there what the thread had.
    ///
    /// # Safety
    ///
    /// `away` must come from [`start`](Self::start), from this function, or be [`NOTHING`](Travelling::NOTHING), and
    /// the program must not have freed its library context.
    #[cold]
    #[inline(never)]
    pub(crate) unsafe fn exchange(&self, away: &mut Travelling) {
        let Travelling {
            default_ctx,
            exceptions,
        } = mem::replace(away, Travelling::NOTHING);
        *away = Travelling {
            // SAFETY: passed on.
            default_ctx: unsafe { self.default_ctx.exchange(default_ctx) },
            exceptions: self.exceptions.exchange(exceptions),
        };
    }
}
