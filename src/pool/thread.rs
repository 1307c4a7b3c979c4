//! The pool of one thread.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem::ManuallyDrop;
use std::ptr;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{PoolConfig, PoolStats};
use crate::stack::depot::{Depot, Surplus, decay_surplus, has_surplus, leave_after, newest, release_surplus};
use crate::stack::{self, IdleMarks, Spec, Stack, StackSize, overflow};
use crate::sync::{WaitQueue, Waiter};
use crate::sys::clock_tick;
#[cfg(asyncjob_tlsdesc)]
use crate::sys::{free_boxed, with_boxed};

/// Why [`take`] has no stack.
pub(crate) enum NoStack {
    Limit(usize),
    Memory(io::Error),
}

/// A stack for a job, of the size asked for or of the pool's.
#[inline]
pub(crate) fn take(size: Option<StackSize>) -> Result<Stack, NoStack> {
    THREAD.with_in_line(|pool| {
        if size.is_none()
            && let Some(stack) = pool.idle.borrow_mut().pop()
        {
            return Ok(stack);
        }
        pool.take_new(size)
    })
}

/// An idle stack of the pool's own size, if there is one for which no task waits. A task that comes now finds
/// [`available`](super::available) ready then.
#[inline(always)] // the start of a future, which has nothing else to do first
pub(crate) fn take_available() -> Option<Stack> {
    THREAD.with_in_line(|pool| {
        if pool.queue.has_waiters() {
            return None;
        }
        pool.idle.borrow_mut().pop()
    })
}

/// The stack of a job that has ended.
#[inline]
pub(crate) fn give(stack: Stack) {
    // Three conditions and a store, so that it is inlined into the switch: as a call it would cost as much as the rest.
    THREAD.with_in_line(|pool| {
        if ptr::eq(stack.depot(), pool.direct.get())
            && let Ok(mut idle) = pool.idle.try_borrow_mut()
            // A vector at its capacity is the bound: `push` would have to check for it anyway.
            && idle.len() < idle.capacity()
        {
            return idle.push(stack);
        }
        pool.give_slowly(stack);
    });
}

/// The stack of a job that will not run again: it stays in use, and counted, for the life of the process.
pub(crate) fn quarantine(stack: Stack) {
    stack.quarantine();
}

/// A job of this thread does not count for the limit any more, although it keeps its stack.
#[cold]
pub(crate) fn uncount() {
    THREAD.with(|pool| {
        pool.total.set(pool.total.get() - 1);
        if pool.queue.has_waiters() {
            pool.queue.notify_one(); // no borrow is held: a waker may run anything
        }
        pool.choose_way_back();
    });
}

/// The job counts again, perhaps above the limit. Its stack is then freed when it comes back.
#[cold]
pub(crate) fn count_again() {
    THREAD.with(|pool| {
        pool.total.set(pool.total.get() + 1);
        pool.choose_way_back();
    });
}

/// Says whether a scheduler runs the jobs of this thread, and so gives the memory of surplus stacks back. Returns what
/// was said before.
pub(crate) fn set_in_turn(in_turn: bool) -> bool {
    THREAD.with(|pool| pool.in_turn.replace(in_turn))
}

/// Whether the pool has a stack for another job, or may make one.
pub(crate) fn has_capacity() -> bool {
    THREAD.with(Pool::has_capacity)
}

/// The pool of one thread. It needs no drop of its own, so that reaching it is one address computation: [`AtExit`]
/// empties it. In a shared object it is on the heap (`sys::with_boxed`).
///
/// The fields that [`take`] and [`give`] read are in the first cache line.
#[repr(C, align(64))]
pub(super) struct Pool {
    idle: ManuallyDrop<RefCell<Vec<Stack>>>,
    /// `depot`, if its stacks are pushed as they come back. Null if they are to be wiped first, are above the limit,
    /// or are waited for, and while there is a surplus to be given back.
    direct: Cell<*const Depot>,
    /// The stacks that were made and not destroyed.
    total: Cell<usize>,
    limit: Cell<usize>,
    /// Where the stacks in `idle` come from, once there was one.
    depot: Cell<Option<&'static Depot>>,
    /// The capacity that `idle` may grow to.
    max_idle: Cell<usize>,
    spec: Cell<Spec>,
    /// The thread has an [`AtExit`] and an alternate signal stack.
    prepared: Cell<bool>,
    /// The thread is exiting and has emptied the pool: nothing may be put in any more.
    closed: Cell<bool>,
    /// The tasks that wait for a stack.
    queue: ManuallyDrop<WaitQueue>,
    /// A turn of a scheduler is in progress, which sees to the memory of stacks that the depot has no use for.
    in_turn: Cell<bool>,
    /// When this pool looks at the memory of such stacks, by the kernel's clock: [`NEVER`] if it has left none.
    surplus_at: Cell<u64>,
    /// Which idle stacks have not been used since when.
    marks: Cell<IdleMarks>,
    /// How many idle stacks stay, however long they are not used: those that were to be made in advance.
    precreated: Cell<usize>,
}

thread_local! {
    #[cfg(not(asyncjob_tlsdesc))]
    static LOCAL: Pool = const { Pool::new() };
    static AT_EXIT: AtExit = const { AtExit };
}

/// The pool of this thread.
pub(super) struct ThreadPool;

pub(super) const THREAD: ThreadPool = ThreadPool;

impl ThreadPool {
    #[inline(always)]
    pub(super) fn with<R>(&self, f: impl FnOnce(&Pool) -> R) -> R {
        #[cfg(not(asyncjob_tlsdesc))]
        return LOCAL.with(f);
        // SAFETY: this is the one call with this word. The pool of a thread is freed only when nothing uses it any more
        // (`forget_thread`).
        #[cfg(asyncjob_tlsdesc)]
        return unsafe { with_boxed(|words| &words.pool, Pool::new, f) };
    }

    /// As [`with`](Self::with), for the start and the end of a job, which are inlined into code of the user.
    ///
    /// Of `LocalKey::with` only the address is asked for. With all of `f` in it, it would mostly be a call there, which
    /// looks for the address by a pointer to a function.
    #[inline(always)]
    fn with_in_line<R>(&self, f: impl FnOnce(&Pool) -> R) -> R {
        #[cfg(not(asyncjob_tlsdesc))]
        let pool = LOCAL.with(ptr::from_ref);
        // SAFETY: the pool has no drop, so it exists as long as its thread, which is this one.
        #[cfg(not(asyncjob_tlsdesc))]
        return f(unsafe { &*pool });
        #[cfg(asyncjob_tlsdesc)]
        self.with(f)
    }
}

/// Frees the pool of this thread, if it is on the heap, as in a shared object. If the thread uses its pool later, it
/// has a new one, which keeps no stack.
///
/// # Safety
///
/// The code of this thread that uses the pool now must never run again.
pub(crate) unsafe fn forget_thread() {
    // SAFETY: passed on.
    #[cfg(asyncjob_tlsdesc)]
    unsafe {
        free_boxed(|words| &words.pool, Pool::close);
    }
}

/// Empties the pool of an exiting thread.
struct AtExit;

impl Drop for AtExit {
    fn drop(&mut self) {
        THREAD.with(Pool::close);
    }
}

impl Pool {
    const fn new() -> Pool {
        Pool {
            idle: ManuallyDrop::new(RefCell::new(Vec::new())),
            total: Cell::new(0),
            limit: Cell::new(usize::MAX),
            max_idle: Cell::new(PoolConfig::DEFAULT.max_idle),
            spec: Cell::new(Spec::new(StackSize::DEFAULT)),
            depot: Cell::new(None),
            direct: Cell::new(ptr::null()),
            prepared: Cell::new(false),
            closed: Cell::new(false),
            queue: ManuallyDrop::new(WaitQueue::new()),
            in_turn: Cell::new(false),
            surplus_at: Cell::new(NEVER),
            marks: Cell::new(IdleMarks::NONE),
            precreated: Cell::new(0),
        }
    }

    pub(super) fn configure(&self, config: &PoolConfig) {
        if config.spec() != self.spec.replace(config.spec()) {
            self.drop_idle();
            self.depot.set(None);
        }
        self.limit.set(config.limit.unwrap_or(usize::MAX));
        self.max_idle.set(config.max_idle.max(config.precreate));
        if self.idle.borrow().len() > self.max_idle.get() {
            self.drop_idle();
        }
        self.idle.borrow_mut().shrink_to(self.max_idle.get());
        self.keep_lowered_limit();
        self.precreate(config.precreate);
        self.precreated.set(config.precreate);
        self.queue.notify_all(); // the limit may be higher
        self.choose_way_back();
    }

    pub(super) fn stats(&self) -> PoolStats {
        let idle = self.idle.borrow().len();
        PoolStats {
            idle,
            in_use: self.total.get() - idle,
            limit: Some(self.limit.get()).filter(|&limit| limit != usize::MAX),
        }
    }

    /// A limit below what there is: idle stacks are freed now, and stacks that come back are freed as they come (S15).
    fn keep_lowered_limit(&self) {
        let mut idle = self.idle.borrow_mut();
        let leaving = self.total.get().saturating_sub(self.limit.get()).min(idle.len());
        self.total.set(self.total.get() - leaving);
        if let Some(depot) = self.depot.get() {
            depot.give_all(idle.drain(..leaving), Surplus::Now);
        }
        self.choose_way_back();
    }

    /// Whether a stack that comes back is pushed without a further look at it.
    fn choose_way_back(&self) {
        let nothing_else_to_do =
            !self.closed.get() && !self.queue.has_waiters() && self.total.get() <= self.limit.get();
        let nothing_else_to_do = nothing_else_to_do && self.surplus_at.get() == NEVER;
        let direct = self
            .depot
            .get()
            .filter(|depot| nothing_else_to_do && !depot.spec().wipes());
        self.direct.set(direct.map_or(ptr::null(), ptr::from_ref));
    }

    #[cfg(test)]
    pub(super) fn gives_directly(&self) -> bool {
        !self.direct.get().is_null()
    }

    fn precreate(&self, stacks: usize) {
        let mut made = Vec::new();
        while self.idle.borrow().len() + made.len() < stacks {
            match self.take_new(None) {
                Ok(stack) => made.push(stack),
                Err(_) => break, // S14
            }
        }
        made.into_iter().for_each(give);
    }

    #[cold]
    fn take_new(&self, size: Option<StackSize>) -> Result<Stack, NoStack> {
        let own = size.is_none_or(|size| size == self.spec.get().size);
        if let Some(stack) = own.then(|| self.idle.borrow_mut().pop()).flatten() {
            return Ok(stack);
        }
        let limit = self.limit.get();
        if self.total.get() >= limit && !self.discard_idle_for(size) {
            return Err(NoStack::Limit(limit));
        }
        self.prepare_thread();
        let take = || {
            if own {
                self.own_depot().take()
            } else {
                self.take_other(size.unwrap_or_default())
            }
        };
        let stack = take().or_else(|refusal| if self.release_idle() { take() } else { Err(refusal) });
        let stack = stack.map_err(NoStack::Memory)?;
        self.total.set(self.total.get() + 1);
        Ok(stack)
    }

    /// From the first stack on, this thread has something to free when it exits, and an overflow to survive until it is
    /// reported. A thread whose locals are being destroyed already has closed its pool, and frees stacks at once.
    fn prepare_thread(&self) {
        if !self.prepared.replace(true) {
            if AT_EXIT.try_with(|_| ()).is_err() {
                self.closed.set(true); // of the pool before: this one was made after it was freed
                self.choose_way_back();
            }
            overflow::arm_thread();
        }
    }

    fn take_other(&self, size: StackSize) -> io::Result<Stack> {
        let spec = Spec {
            size,
            ..self.spec.get()
        };
        Depot::of(spec).take()
    }

    fn own_depot(&self) -> &'static Depot {
        self.depot.get().unwrap_or_else(|| {
            let depot = Depot::of(self.spec.get());
            self.depot.set(Some(depot));
            self.choose_way_back();
            depot
        })
    }

    /// A stack of another kind, one that has to be wiped, one above the limit, one that a task waits for, or one that
    /// comes while the memory of others is to be given back.
    #[cold]
    fn give_slowly(&self, stack: Stack) {
        self.put_back(stack);
        if self.surplus_at.get() != NEVER {
            self.give_surplus_back();
        }
        if self.queue.has_waiters() {
            self.queue.notify_one(); // no borrow is held: a waker may run anything
            self.choose_way_back();
        }
    }

    fn put_back(&self, mut stack: Stack) {
        let own = self.depot.get().is_some_and(|depot| ptr::eq(depot, stack.depot()));
        if !own || self.closed.get() {
            return self.discard(stack);
        }
        stack.wipe();
        let above_limit = self.total.get() > self.limit.get();
        if !above_limit && self.make_space() {
            self.idle.borrow_mut().push(stack);
        } else {
            self.total.set(self.total.get() - 1);
            self.leave(std::iter::once(stack));
        }
        if above_limit {
            self.choose_way_back();
        }
    }

    /// Grows the pool up to its bound, then hands half of it to the depot: the stacks from the newest slabs, so that
    /// those empty when a burst is over.
    fn make_space(&self) -> bool {
        let mut idle = self.idle.borrow_mut();
        let max_idle = self.max_idle.get();
        if idle.len() >= max_idle {
            let leaving = idle.len().div_ceil(2);
            self.total.set(self.total.get() - leaving);
            self.leave(newest(&mut idle, leaving, Stack::order).into_iter());
        } else if idle.len() == idle.capacity() {
            let wanted = (2 * idle.len()).max(FIRST_CAPACITY).min(max_idle);
            let more = wanted - idle.len();
            idle.reserve_exact(more);
        }
        idle.len() < max_idle
    }

    /// Hands stacks on to the depot. If it has no use for them, their memory goes back later: in a turn of the
    /// scheduler that runs the jobs, or when the next jobs of this thread end.
    fn leave(&self, stacks: impl Iterator<Item = Stack>) {
        self.own_depot().give_all(stacks, Surplus::Later);
        if !self.in_turn.get() && self.surplus_at.get() == NEVER && has_surplus() {
            self.surplus_at.set(clock_tick().saturating_add(leave_after()));
            self.choose_way_back();
        }
    }

    /// Gives a bounded part of the surplus back if it is time.
    fn give_surplus_back(&self) {
        let now = clock_tick();
        if now < self.surplus_at.get() {
            return;
        }
        let again = decay_surplus(now).and_then(|again| now.checked_add(again.as_nanos() as u64));
        self.surplus_at.set(again.unwrap_or(NEVER));
        self.choose_way_back();
    }

    fn has_capacity(&self) -> bool {
        self.total.get() < self.limit.get() || !self.idle.borrow().is_empty()
    }

    #[inline]
    pub(super) fn poll_available(&self, waiter: &mut Waiter, task: &mut Context<'_>) -> Poll<()> {
        let polled = self.queue.poll(waiter, task, || self.has_capacity());
        if waiter.is_new() {
            return polled; // nothing has changed
        }
        self.choose_way_back();
        if polled.is_pending() {
            // With a limit of 0 this thread has no stack, but from now on it has something to free when it exits.
            let _ = AT_EXIT.try_with(|_| ());
        }
        polled
    }

    #[inline]
    pub(super) fn withdraw(&self, waiter: &mut Waiter) {
        if !waiter.is_new() {
            self.queue.withdraw(waiter, || self.has_capacity());
            self.choose_way_back();
        }
    }

    /// At the limit, a job of another size takes the place of an idle stack.
    fn discard_idle_for(&self, size: Option<StackSize>) -> bool {
        let idle = size.and_then(|_| self.idle.borrow_mut().pop());
        idle.map(|stack| self.discard(stack)).is_some()
    }

    #[cold]
    fn discard(&self, stack: Stack) {
        self.total.set(self.total.get() - 1);
        drop(stack);
    }

    /// Gives the memory of the stacks back that have been idle for the idle time. Returns how long it is until there
    /// may be more.
    pub(super) fn decay(&self, now: u64) -> Option<Duration> {
        let mut idle = self.idle.borrow_mut();
        let mut marks = self.marks.get();
        let (unused, again) = marks.take_unused(now, &mut idle, self.precreated.get());
        drop(idle);
        self.marks.set(marks);
        self.total.set(self.total.get() - unused.len());
        if let Some(depot) = self.depot.get() {
            depot.release_idle(unused.into_iter());
        }
        again
    }

    /// Gives the memory of all idle stacks back, those that threads share included: there is none for another stack.
    /// Returns whether there was an idle stack.
    #[cold]
    fn release_idle(&self) -> bool {
        let idle = self.idle.take();
        self.total.set(self.total.get() - idle.len());
        let has_any = !idle.is_empty();
        if let Some(depot) = self.depot.get() {
            depot.release_idle(idle.into_iter());
        }
        self.choose_way_back();
        stack::release_cached() || has_any
    }

    /// The thread exits: the pool keeps no stack from now on.
    fn close(&self) {
        self.closed.set(true);
        self.direct.set(ptr::null());
        self.drop_idle();
        self.queue.clear();
    }

    pub(super) fn drop_idle(&self) {
        let idle = self.idle.take();
        self.total.set(self.total.get() - idle.len());
        if let Some(depot) = self.depot.get() {
            depot.give_all(idle.into_iter(), Surplus::Now);
        }
        if self.surplus_at.replace(NEVER) != NEVER {
            let _ = release_surplus(); // no job may come to do it
            self.choose_way_back();
        }
    }
}

/// A time that the clock does not reach.
const NEVER: u64 = u64::MAX;

/// How many idle stacks a pool allocates space for at first.
const FIRST_CAPACITY: usize = 16;
