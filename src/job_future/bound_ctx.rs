//! The wait ctx of a future, and the forwarder that is its callback.
//!
//! Most futures are given no wait ctx, and nobody but the job itself looks at the one that they make. Such a ctx and
//! its forwarder stay with the thread when the future is dropped, and the next future has them. That saves two
//! allocations for each future, and the locks and the exchanges that it takes to set a callback and to take it away.
//!
//! ```text
//!   new() --> bound ---- end(), and somebody else may see the ctx ----> unbound: another driver may have the ctx
//!     ^         |  '---- let_go() ------------------------------------>    |
//!     |         | drop                                                     | drop
//!     |         v                                                          v
//!     '--- spare, if as good as new                                     the ctx and the forwarder go
//! ```

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::Arc;

use super::forwarder::ForwardingWaker;
use crate::wait_ctx::WaitCtx;

/// A wait ctx whose callback is a forwarder.
pub(super) struct BoundCtx {
    pair: ManuallyDrop<Pair>,
    state: Cell<State>,
}

/// A wait ctx and its callback.
pub(super) struct Pair {
    pub(super) ctx: WaitCtx,
    pub(super) forwarder: Arc<ForwardingWaker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The ctx is claimed, its callback is the forwarder, and the user has not given it.
    Own,
    /// As `Own`, but the user has given the ctx.
    Given,
    /// The ctx belongs to another job, or the future has let go of it.
    Unbound,
}

thread_local! {
    /// What the next futures of this thread use, last in, first out. All of it is claimed and as good as new.
    static SPARE: RefCell<Vec<Pair>> = const { RefCell::new(Vec::new()) };
}

/// How many a thread keeps, which is as many as it keeps wait ctxs.
const MOST_SPARE: usize = 16;

impl BoundCtx {
    /// Binds the ctx that the user has given, unless another driver has it, or one that nobody else has.
    #[inline]
    pub(super) fn new(given: Option<WaitCtx>) -> Self {
        match given {
            None => Self::with(Pair::own(), State::Own),
            Some(ctx) => Self::of(ctx),
        }
    }

    fn of(ctx: WaitCtx) -> Self {
        let state = if ctx.begin_claim() {
            State::Given
        } else {
            State::Unbound
        };
        let forwarder = Arc::new(ForwardingWaker::new());
        let bound = Self::with(Pair { ctx, forwarder }, state);
        if bound.is_bound() {
            // The callback before this one may be the user's, and its drop may panic. Then the drop of `bound` ends the
            // claim.
            bound.ctx.set_callback_of(Arc::clone(&bound.forwarder));
        }
        bound
    }

    #[inline]
    fn with(pair: Pair, state: State) -> Self {
        BoundCtx {
            pair: ManuallyDrop::new(pair),
            state: Cell::new(state),
        }
    }

    /// Whether the job of this future may use the ctx.
    pub(super) fn is_bound(&self) -> bool {
        self.state.get() != State::Unbound
    }

    /// The job has ended: lets go of the ctx if somebody else can see it.
    #[inline]
    pub(super) fn end(&self) {
        if self.state.get() != State::Own || !self.pair.ctx.is_sole() {
            self.let_go();
        }
    }

    /// Lets go of the ctx, so that another driver can have it. The job has ended.
    pub(super) fn let_go(&self) {
        if self.state.replace(State::Unbound) != State::Unbound {
            self.pair.ctx.end_claim();
        }
    }
}

impl Deref for BoundCtx {
    type Target = Pair;

    #[inline]
    fn deref(&self) -> &Pair {
        &self.pair
    }
}

impl Drop for BoundCtx {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the pair is not used after this.
        let pair = unsafe { ManuallyDrop::take(&mut self.pair) };
        match self.state.get() {
            State::Own => pair.keep_or_drop(),
            State::Given => pair.ctx.end_claim(),
            State::Unbound => {}
        }
    }
}

impl Pair {
    /// A ctx that nobody else has.
    fn own() -> Self {
        let spare = SPARE.try_with(|spare| spare.borrow_mut().pop());
        spare.ok().flatten().unwrap_or_else(Self::make)
    }

    #[cold]
    fn make() -> Self {
        let ctx = WaitCtx::new_claimed();
        let forwarder = Arc::new(ForwardingWaker::new());
        ctx.set_callback_of(Arc::clone(&forwarder));
        Pair { ctx, forwarder }
    }

    /// Keeps the pair for the next future if it can be made as good as new.
    fn keep_or_drop(mut self) {
        if self.renew() {
            // A thread that exits has no list any more.
            let _ = SPARE.try_with(|spare| {
                let mut spare = spare.borrow_mut();
                if spare.len() < MOST_SPARE {
                    spare.push(self);
                } else {
                    drop(spare);
                    drop(self);
                }
            });
        } else {
            self.ctx.end_claim();
        }
    }

    /// Returns `false` if somebody else has a handle to one of the two, or if the ctx has had wait fds or another
    /// callback. A dump may have a handle to the forwarder, which would ask the next job for the last one.
    #[inline]
    fn renew(&mut self) -> bool {
        if !self.ctx.renew_claimed(&self.forwarder) {
            return false;
        }
        self.forwarder.renew();
        true
    }
}
