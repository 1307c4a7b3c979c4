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
use std::ptr;
use std::sync::Arc;
use std::task::{Context, RawWakerVTable, Waker};

use super::forwarder::ForwardingWaker;
use crate::wait_ctx::WaitCtx;

/// A wait ctx whose callback is a forwarder. The drop first takes the task away from the forwarder.
pub(super) struct BoundCtx {
    pair: ManuallyDrop<Pair>,
    state: Cell<State>,
    pub(super) last: LastTask,
}

/// The task that polled last, which the forwarder has, too.
pub(super) struct LastTask {
    /// What the waker consists of. It lies here, so that a poll without work follows no pointer for it.
    data: *const (),
    vtable: *const RawWakerVTable,
    /// Keeps the waker, so that no other one has the same data.
    _waker: Option<Arc<Waker>>,
}

impl LastTask {
    pub(super) const NONE: Self = LastTask {
        data: ptr::null(),
        vtable: ptr::null(),
        _waker: None,
    };

    pub(super) fn new(waker: Arc<Waker>) -> Self {
        LastTask {
            data: waker.data(),
            vtable: waker.vtable(),
            _waker: Some(waker),
        }
    }

    pub(super) fn is_some(&self) -> bool {
        !self.vtable.is_null()
    }

    /// Whether it is this one, as [`Waker::will_wake`] says.
    #[inline]
    pub(super) fn is(&self, task: &Context<'_>) -> bool {
        let waker = task.waker();
        self.data == waker.data() && ptr::eq(self.vtable, waker.vtable())
    }
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
    /// What the next futures of this thread use, last in, first out.
    static SPARE: Spare = const { Spare::new() };
}

/// How many a thread keeps, which is as many as it keeps wait ctxs.
const MOST_SPARE: usize = 16;

impl BoundCtx {
    /// Binds the ctx that the user has given, unless another driver has it, or one that nobody else has.
    #[inline]
    pub(super) fn new(given: Option<WaitCtx>) -> Self {
        match given {
            None => Self::own(),
            Some(ctx) => Self::of(ctx),
        }
    }

    /// Binds a ctx that nobody else has.
    #[inline]
    pub(super) fn own() -> Self {
        Self::with(Pair::own(), State::Own)
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
            last: LastTask::NONE,
        }
    }

    /// Whether the job of this future may use the ctx.
    pub(super) fn is_bound(&self) -> bool {
        self.state.get() != State::Unbound
    }

    /// There is no task to wake any more.
    #[inline]
    pub(super) fn clear_task(&mut self) {
        if self.last.is_some() {
            self.clear_set_task();
        }
    }

    #[cold]
    fn clear_set_task(&mut self) {
        self.forwarder.clear_task();
        self.last = LastTask::NONE;
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
    fn drop(&mut self) {
        self.clear_task();
        if self.state.get() == State::Own && self.pair.renew() {
            // SAFETY: the pair is not used after this, unless the thread exits and the closure is not called.
            let kept = SPARE.try_with(|spare| spare.give(unsafe { ManuallyDrop::take(&mut self.pair) }));
            if kept.is_ok() {
                return;
            }
        }
        self.drop_pair();
    }
}

impl BoundCtx {
    /// Drops a pair that no other future can use.
    #[cold]
    fn drop_pair(&mut self) {
        // SAFETY: the caller is the drop, and returns after this.
        let pair = unsafe { ManuallyDrop::take(&mut self.pair) };
        if self.is_bound() {
            pair.ctx.end_claim();
        }
    }
}

impl Pair {
    /// A ctx that nobody else has.
    fn own() -> Self {
        match SPARE.try_with(|spare| spare.newest.take()) {
            Ok(Some(pair)) => pair,
            _ => Self::older_or_new(),
        }
    }

    #[cold]
    #[inline(never)] // so that the usual way has no register to save
    fn older_or_new() -> Self {
        if let Ok(Some(pair)) = SPARE.try_with(|spare| spare.older.borrow_mut().pop()) {
            return pair;
        }
        let ctx = WaitCtx::new_claimed();
        let forwarder = Arc::new(ForwardingWaker::new());
        ctx.set_callback_of(Arc::clone(&forwarder));
        Pair { ctx, forwarder }
    }

    /// Makes the pair as good as new.
    ///
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

/// The pairs that no future has. All of them are claimed and as good as new.
struct Spare {
    /// The one that came last. A thread that makes a future after the other has no more than this one.
    newest: Cell<Option<Pair>>,
    older: RefCell<Vec<Pair>>,
}

impl Spare {
    const fn new() -> Self {
        Spare {
            newest: Cell::new(None),
            older: RefCell::new(Vec::new()),
        }
    }

    #[inline]
    fn give(&self, pair: Pair) {
        if let Some(older) = self.newest.replace(Some(pair)) {
            self.give_older(older);
        }
    }

    #[inline(never)]
    fn give_older(&self, pair: Pair) {
        let mut older = self.older.borrow_mut();
        if older.len() < MOST_SPARE - 1 {
            older.push(pair);
        } else {
            drop(older);
            drop(pair);
        }
    }
}
